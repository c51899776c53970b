"""Pictures from bytes and back: decoded as the photographer meant them, or refused with a code and a sentence.

Error codes of `decode`:
  empty         no bytes
  not_an_image  the signature of no image format
  unsupported   an image of a format or kind that isn't read (HEIF, camera raw, floating point, ...)
  truncated     some of the image data is missing
  corrupt       damaged in any other way
  too_large     more bytes or pixels than the job allows; found in the header, before decoding
  too_small     doesn't fill the frame
`to_uint8` has one more: not_finite.
"""

from __future__ import annotations

import logging
import struct
import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, TiffTags, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from workers.errors import ImageError
from workers.geometry import Affine, Geometry, oriented, plan_frame
from workers.params import ImageParams

Pixels = npt.NDArray[np.uint8]

# Decoders run on untrusted bytes: only these, and never EPS, which starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")

_UNREAD_SIGNATURES = {
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"8BPS": "Photoshop",
    b"<svg": "SVG",
    b"qoif": "QOI",
    b"\x00\x00\x01\x00": "ICO",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"FUJIFILM": "a camera raw file",
}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_ICC_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_CIELAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))

# What Pillow has to say of damaged metadata would stand in a terminal without the image that it is about.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())

_UNKNOWN_KINDS = ("unknown pixel mode", "unsupported", "not yet supported", "cannot handle", "unable to determine")

_DAMAGED = "fetch it again or leave it out"


@dataclass(frozen=True)
class Decoded:
    """A picture in its frame.

    `pixels` is H x W x 3 uint8, sRGB. `source_width` and `source_height` are the picture's size as it is shown, after
    the EXIF orientation. `transform` takes output pixel edges to those of the *stored* raster, before the orientation
    (see `Geometry.affine`).
    """

    pixels: Pixels
    source_width: int
    source_height: int
    transform: Affine

    @property
    def frame(self) -> tuple[int, int]:
        """(height, width) of the pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def decode(data: bytes, params: ImageParams) -> Decoded:
    """Decode an encoded image, whatever its name, into the frame that `params` asks for.

    The first frame of animations and the first page of documents; the EXIF orientation applied; ICC profiles converted
    to sRGB (relative colorimetric, black point compensated) and untagged colour taken for sRGB; then transparency over
    white. Resizing is antialiased and bicubic: Lanczos rings more, and a dream amplifies ringing.

    Raises ImageError with a code of the list above for everything that can be wrong with the bytes. MemoryError passes.
    Raises Pillow's process-wide limit of pixels to `params.max_pixels` where that is the larger.
    """
    try:
        return _decode(data, params)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything at all on hostile bytes
        raise _refusal(error, data, params) from error


def encode_png(pixels: Pixels) -> bytes:
    """PNG of H x W x 3 uint8 sRGB pixels; equal pixels give equal bytes."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)  # half the time of the default 6, 1 % larger
    return buffer.getvalue()


def encode_npy(array: npt.NDArray[np.generic]) -> bytes:
    """Array of any shape and plain dtype in numpy's .npy format (version 1.0, C order, never pickled)."""
    buffer = BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def to_uint8(values: npt.NDArray[np.floating]) -> Pixels:
    """Values in [0, 1] to the nearest of 0 ... 255; values outside are clipped. Raises ImageError `not_finite`."""
    if not np.isfinite(values).all():
        raise ImageError("not_finite", "The result holds values that are not finite numbers: try a smaller step")
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def _decode(data: bytes, params: ImageParams) -> Decoded:
    image = _open(data, params)
    orientation = _orientation(image)
    to_turn = orientation
    if image.format == "TIFF":
        image.load()  # Pillow turns TIFFs, and only these, while loading
        to_turn = 1
    width, height = oriented(image.size, to_turn)
    geometry = plan_frame(width, height, params)
    picture = _resize(image, geometry, to_turn)
    pixels = np.array(_over_white(picture, image.info.get("icc_profile")))
    return Decoded(pixels, width, height, geometry.affine(orientation))


def _open(data: bytes, params: ImageParams) -> Image.Image:
    """The image with its header read and nothing decoded."""
    if not data:
        raise ImageError("empty", f"The file is empty: {_DAMAGED}")
    if len(data) > params.max_bytes:
        raise ImageError(
            "too_large", f"The file of {len(data)} bytes is larger than images.max_bytes ({params.max_bytes})"
        )
    # Pillow's own limit must not undercut the job's; it stays, as some decoders allocate while opening.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, params.max_pixels)
    _refuse_too_large(_webp_canvas(data), params)
    image = Image.open(BytesIO(data), formats=FORMATS)
    _refuse_too_large(image.size, params)
    if image.format in ("PNG", "TIFF"):
        _refuse_gaps(image)
    if image.format == "PNG":
        image.verify()  # decoding alone checks neither checksums nor that the end is there
        image = Image.open(BytesIO(data), formats=FORMATS)
        _scale_transparent_value(image)
    if isinstance(image, TiffImageFile):
        _refuse_raw(image)
    return image


def _refuse_too_large(size: tuple[int, int], params: ImageParams) -> None:
    if size[0] * size[1] > params.max_pixels:
        raise _too_many_pixels(f"picture of {size[0]} x {size[1]} pixels", params)


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """The canvas of an extended WebP, (0, 0) of anything else: its decoder allocates the canvas twice while opening."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < 30:
        return 0, 0
    return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")


def _too_many_pixels(what: str, params: ImageParams) -> ImageError:
    return ImageError("too_large", f"The {what} has more than images.max_pixels ({params.max_pixels})")


def _scale_transparent_value(image: Image.Image) -> None:
    """Bring PNG's transparent value to the 8 bits of the decoded pixels; Pillow leaves it in the file's bit depth."""
    value, raw_mode = image.info.get("transparency"), image.tile[0].args  # pyright: ignore[reportAttributeAccessIssue]
    if value is not None and raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = value * {"L;2": 85, "L;4": 17}[raw_mode]
    elif value is not None and raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


def _refuse_raw(image: TiffImageFile) -> None:
    """Camera raw files are TIFFs whose first picture is a thumbnail, or sensor data."""
    reduced = image.tag_v2.get(254, 0)
    if (isinstance(reduced, int) and reduced & 1) or 50706 in image.tag_v2:  # NewSubfileType, DNGVersion
        raise _unsupported("a camera raw file")


def _refuse_gaps(image: Image.Image) -> None:
    """Where a file lists no data for a part of the picture, Pillow leaves that part black."""
    boxes = (tile.extents or (0, 0, 0, 0) for tile in image.tile)  # pyright: ignore[reportAttributeAccessIssue]
    if sum((right - left) * (bottom - top) for left, top, right, bottom in boxes) < image.width * image.height:
        raise ImageError("truncated", f"The file has no data for some of the picture: {_DAMAGED}")


def _unsupported(what: str) -> ImageError:
    return ImageError("unsupported", f"The file is {what}, which isn't read: convert it to PNG, TIFF or JPEG")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1  # damaged metadata is no reason to refuse the picture
    return int(value) if value in _TURNS else 1


def _resize(image: Image.Image, geometry: Geometry, orientation: int) -> Image.Image:
    """Decode, resize, crop and turn upright: a picture of the frame's size in mode L, LA, RGB, RGBA, CMYK or LAB."""
    size = oriented(geometry.crop[2:], orientation)
    box = geometry.source_box(orientation)
    resized = oriented(geometry.resized, orientation)
    # JPEGs decode at 1/2, 1/4 or 1/8 by dropping high frequencies: at twice the size needed none of them matters.
    drafted = image.draft(None, (2 * resized[0], 2 * resized[1]))
    if drafted is not None:
        shrunk = drafted[1][2] / oriented(geometry.shown, orientation)[0]
        box = (box[0] * shrunk, box[1] * shrunk, box[2] * shrunk, box[3] * shrunk)
    whole = _continuous(image)
    box = (box[0], box[1], min(box[2], whole.width), min(box[3], whole.height))
    picture = whole.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=3.0)
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def _continuous(image: Image.Image) -> Image.Image:
    """The decoded image in an 8-bit mode whose values can be averaged, with an alpha channel where it has any."""
    image.load()
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ImageError(
            "unsupported", "The image's values have no defined white: convert it to 8 or 16 bits a channel"
        )
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("1", "L", "La", "LA") else "RGBA")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """16-bit grey (12 in some TIFFs) scaled to 8: Pillow's own conversion saturates."""
    values = np.asarray(image).astype(np.uint32)
    white, white_is_zero = 65535, False
    if isinstance(image, TiffImageFile):
        white = 2 ** image.tag_v2.get(258, (16,))[0] - 1  # BitsPerSample
        white_is_zero = image.tag_v2.get(262) == 0  # PhotometricInterpretation
    scaled = ((values * 255 + white // 2) // white).astype(np.uint8)
    grey = Image.fromarray(255 - scaled if white_is_zero else scaled)
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _over_white(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB in sRGB; transparency is blended after the conversion, so that white is sRGB's and hidden colour stays so."""
    if picture.mode not in ("LA", "RGBA"):
        return _to_srgb(picture, profile)
    white = Image.new("RGB", picture.size, "white")
    white.paste(_to_srgb(picture.convert(picture.mode[:-1]), profile), mask=picture.getchannel("A"))
    return white


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB from mode L, RGB, CMYK or LAB. A profile that is broken or of another colour model counts as none."""
    if picture.mode == "LAB":
        return _convert(picture, _CIELAB)
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            mode = _ICC_MODES.get(source.profile.xcolor_space.strip())  # pyright: ignore[reportAttributeAccessIssue]
            if mode == picture.mode or (mode, picture.mode) == ("RGB", "L"):
                return _convert(picture.convert(mode), source)
        except (OSError, ImageCms.PyCMSError):
            pass
    return picture.convert("RGB")


def _convert(picture: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        picture,
        source,
        _SRGB,
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # only in-place conversion returns None
    return converted


def _refusal(error: Exception, data: bytes, params: ImageParams) -> ImageError:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return _too_many_pixels("picture", params)
    if isinstance(error, UnidentifiedImageError):
        known = _unread_format(data)
        if known:
            return _unsupported(known)
        error = _header_error(data) or error
        if isinstance(error, UnidentifiedImageError):
            return ImageError(
                "not_an_image", "The file holds no image in a known format: leave it out of another run's source"
            )
    if data.startswith((b"II", b"MM")) and (compression := _unknown_compression(error)):
        return _unsupported(f"a TIFF of compression {compression}")
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if any(words in reason.lower() for words in _UNKNOWN_KINDS):
        return _unsupported(f"of a kind that the decoder doesn't know ({reason})")
    if isinstance(error, EOFError) or "truncated" in reason.lower():
        return ImageError("truncated", f"The file is cut off, some of its image data is missing ({reason}): {_DAMAGED}")
    return ImageError("corrupt", f"The file is damaged or incomplete ({reason}): {_DAMAGED}")


def _unread_format(data: bytes) -> str | None:
    if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis"):
        return "HEIF or video"
    return next((name for signature, name in _UNREAD_SIGNATURES.items() if data.startswith(signature)), None)


def _unknown_compression(error: Exception) -> int | None:
    """The compression of a TIFF that Pillow doesn't know: a key that it looks for in vain and that is no tag."""
    missing = error.__cause__.args[:1] if isinstance(error.__cause__, KeyError) else ()
    return next((key for key in missing if isinstance(key, int) and key not in TiffTags.TAGS_V2), None)


def _header_error(data: bytes) -> Exception | None:
    """What the decoder of a known signature has against the header; `Image.open` keeps it to itself."""
    for factory, accept in map(Image.OPEN.__getitem__, FORMATS):
        if accept is not None and accept(data[:16]):
            try:
                factory(BytesIO(data), "")
            except Exception as error:
                return error
    return None
