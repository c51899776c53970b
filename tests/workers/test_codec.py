from __future__ import annotations

import importlib.resources
import struct
import tracemalloc
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from workers.codec import decode, encode_npy, encode_png, to_uint8
from workers.errors import ImageError
from workers.params import ImageParams

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # what it has to say about damaged metadata

DATA = importlib.resources.files("skimage") / "data"


def images(**options: Any) -> ImageParams:
    return ImageParams.model_validate(options)


WHOLE = images(short_side=4096, snap=1)
CODES = {"empty", "not_an_image", "unsupported", "truncated", "corrupt", "too_large", "too_small"}

CHELSEA = Image.open(BytesIO((DATA / "chelsea.png").read_bytes())).convert("RGB")
SMALL = CHELSEA.resize((90, 60))
TURN_BACK = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transposition from the shown to the stored raster


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refusal(data: bytes, params: ImageParams = WHOLE) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, params)
    assert caught.value.code in CODES
    assert "\n" not in str(caught.value)
    return caught.value


def pixels(image: Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray:
    return decode(encoded(image, kind, **options), WHOLE).pixels


def difference(a: Any, b: Any) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    every = (header, *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in every)


def tiff(width: int, height: int, bits: int, strip: bytes) -> bytes:
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 122), (277, 1), (278, height)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in (*tags, (279, len(strip))))
    return b"II*\0" + struct.pack("<IH", 8, len(tags) + 1) + entries + bytes(4) + strip


# Profiles, made by hand after ICC.1:2001-04 so that the expected colours can be worked out without the code under test.


def icc_profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    description = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = {b"desc": description, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": white, **tags}
    table, body, offset = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(">I4sI4s4s4s12x4s", offset + len(body), b"", 0x02400000, kind, space, connection, b"acsp")
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header + bytes(128 - len(header)) + table + body


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


# Adobe RGB (1998) and sRGB primaries, adapted to D50 (columns: red, green, blue).
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def adobe_rgb() -> bytes:
    columns = {b"rXYZ": ADOBE[:, 0], b"gXYZ": ADOBE[:, 1], b"bXYZ": ADOBE[:, 2]}
    xyz = {k: b"XYZ " + bytes(4) + struct.pack(">3i", *(round(x * 65536) for x in v)) for k, v in columns.items()}
    return icc_profile(b"mntr", b"RGB ", b"XYZ ", xyz | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(2.19921875)))


def srgb_encoded(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


def adobe_as_srgb(colour: tuple[int, int, int]) -> np.ndarray:
    return srgb_encoded(np.linalg.solve(SRGB, ADOBE @ (np.array(colour) / 255) ** 2.19921875))


def lab_as_srgb(lightness: float, a: float, b: float) -> np.ndarray:
    """From CIE Lab under D50, after CIE 15:2004, equations 8.3 to 8.9."""
    y = (lightness + 16) / 116
    roots = np.array([y + a / 500, y, y - b / 200])
    cubes = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29))
    return srgb_encoded(np.linalg.solve(SRGB, cubes * [0.9642, 1, 0.8249]))


def inks_profile() -> bytes:
    """A press on white paper whose cyan prints as the green Lab (60, -50, 30) and whose other inks do nothing."""
    ramp = bytes(range(256))
    corners = b"".join(bytes([round(60 * 2.55), 128 - 50, 128 + 30] if i & 8 else [255, 128, 128]) for i in range(16))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + corners + ramp * 3
    return icc_profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut, b"A2B1": lut})


# --- Orientation and geometry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
def test_every_exif_orientation_gives_the_same_picture(orientation, kind, options):
    stored = CHELSEA.transpose(Image.Transpose(TURN_BACK[orientation])) if orientation > 1 else CHELSEA
    exif = Image.Exif()
    exif[0x0112] = orientation
    params = images(short_side=100, snap=16)
    upright = decode(encoded(CHELSEA, "PNG"), params)
    turned = decode(encoded(stored, kind, exif=exif, **options), params)
    assert (turned.source_width, turned.source_height) == CHELSEA.size
    assert turned.frame == upright.frame == (96, 144)
    assert difference(turned.pixels, upright.pixels) <= 1  # the order of the two passes rounds differently
    a, b, c, d, e, f = turned.transform
    for x, y in ((0.5, 0.5), (143.5, 0.5), (0.5, 95.5), (143.5, 95.5)):
        column, row = np.reshape(upright.transform, (2, 3)) @ (x, y, 1)
        expected = CHELSEA.getpixel((int(column), int(row)))
        assert stored.getpixel((int(a * x + b * y + c), int(d * x + e * y + f))) == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_drafted_jpegs_of_every_orientation_land_where_the_transform_says(orientation):
    rows, columns = np.mgrid[0:777, 0:1003]  # a stored raster that says where each of its pixels is; no multiple of 8
    stored = Image.fromarray(np.stack([columns / 4, rows / 4, 0 * rows], -1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(stored, "JPEG", quality=98, subsampling=0, exif=exif), images(short_side=64, snap=32))
    y, x = np.mgrid[0 : decoded.frame[0], 0 : decoded.frame[1]] + 0.5
    a, b, c, d, e, f = decoded.transform
    expected = np.stack([a * x + b * y + c, d * x + e * y + f], -1)[1:-1, 1:-1]
    found = decoded.pixels[1:-1, 1:-1, :2] * 4.0 + 2
    assert np.abs(found - expected).max() < 8  # two grey levels, against 12 source pixels for an output pixel
    assert np.abs((found - expected).mean((0, 1))).max() < 1.5


def test_orientation_in_xmp_counts_and_damaged_exif_does_not():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    assert decode(encoded(SMALL, "WEBP", xmp=xmp), WHOLE).pixels.shape == (90, 60, 3)
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12"):
        assert decode(encoded(SMALL, "JPEG", exif=exif), WHOLE).pixels.shape == (60, 90, 3)


@pytest.mark.parametrize("name", ["rocket.jpg", "retina.jpg", "hubble_deep_field.jpg"])
def test_drafting_is_close_to_the_full_decode(name):
    data = (DATA / name).read_bytes()
    undrafted = encoded(Image.open(BytesIO(data)), "PNG", compress_level=1)
    for short_side in (64, 150, 256):
        params = images(short_side=short_side, snap=1)
        drafted, full = decode(data, params).pixels, decode(undrafted, params).pixels
        assert drafted.shape == full.shape and np.abs(drafted.astype(float) - full).mean() < 0.5


def test_a_real_photograph_is_resized_with_antialiasing():
    data = (DATA / "chelsea.png").read_bytes()
    decoded = decode(data, images(short_side=96, snap=32))
    assert decoded.frame == (96, 128) and (decoded.source_width, decoded.source_height) == CHELSEA.size
    reference = CHELSEA.resize((144, 96), Image.Resampling.LANCZOS).crop((8, 0, 136, 96))
    assert np.abs(decoded.pixels - np.asarray(reference, float)).mean() < 2
    checkered = np.indices((400, 400)).sum(0) % 2 * 255
    grey = decode(encoded(Image.fromarray(checkered.astype(np.uint8)), "PNG"), images(short_side=50, snap=1)).pixels
    assert difference(grey, 127) <= 3


def test_without_resizing_the_pixels_are_the_files_own():
    for kind, options in (("PNG", {}), ("TIFF", {}), ("BMP", {}), ("PPM", {}), ("WEBP", {"lossless": True})):
        assert (pixels(SMALL, kind, **options) == np.asarray(SMALL)).all()
    cropped = decode(encoded(SMALL, "PNG"), images(short_side=4096, snap=16))
    assert (cropped.pixels == np.asarray(SMALL)[6:54, 5:85]).all()
    assert cropped.transform == (1, 0, 5, 0, 1, 6)


# --- Colour -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [(200, 100, 50), (90, 140, 180), (128, 128, 128), (255, 255, 255), (0, 0, 0)])
def test_wide_gamut_is_converted_to_srgb(colour):
    image = Image.new("RGB", (40, 40), colour)
    for kind, options in (("PNG", {}), ("TIFF", {}), ("JPEG", {"quality": 100, "subsampling": 0})):
        tagged = pixels(image, kind, icc_profile=adobe_rgb(), **options)
        assert difference(tagged[20, 20], adobe_as_srgb(colour)) <= 3  # JPEG is one level off before the conversion
        assert difference(pixels(image, kind, **options)[20, 20], colour) <= 1
    if len(set(colour)) > 1:
        assert difference(adobe_as_srgb(colour), colour) > 5


def test_grey_pictures_take_grey_and_rgb_profiles():
    image = Image.new("L", (40, 40), 64)
    linear = icc_profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve(1.0)})
    assert difference(pixels(image, icc_profile=linear), srgb_encoded(np.array(64 / 255))) <= 1
    assert difference(pixels(image, icc_profile=adobe_rgb()), adobe_as_srgb((64, 64, 64))) <= 1
    assert difference(pixels(SMALL, icc_profile=linear), SMALL) == 0  # a grey profile says nothing about colours


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("JPEG", {"quality": 100})])
def test_cmyk_with_and_without_a_profile(kind, options):
    image = Image.new("CMYK", (48, 48), (255, 0, 0, 0))
    assert difference(pixels(image, kind, **options)[24, 24], (0, 255, 255)) <= 2
    tagged = pixels(image, kind, icc_profile=inks_profile(), **options)
    assert difference(tagged[24, 24], np.rint(lab_as_srgb(60, -50, 30))) <= 2
    paper = pixels(Image.new("CMYK", (48, 48), (0, 0, 0, 0)), kind, icc_profile=inks_profile(), **options)
    assert difference(paper, 255) <= 1


def test_lab_is_converted():
    for a, b in ((0, 0), (-40, 20), (30, -35)):
        colour = Image.frombytes("LAB", (40, 40), bytes([round(60 * 2.55), a % 256, b % 256]) * 1600)
        assert difference(pixels(colour, "TIFF")[20, 20], np.rint(lab_as_srgb(60, a, b))) <= 1


@pytest.mark.parametrize("damage", [b"nonsense", adobe_rgb()[:200], adobe_rgb()[:128] + bytes(400), b"\xff" * 5000])
def test_a_broken_profile_counts_as_none(damage):
    assert (pixels(SMALL, icc_profile=damage) == np.asarray(SMALL)).all()


def test_16_bit_grey_is_scaled_and_rounded():
    values = np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)
    expected = np.rint(values / 257)
    for kind, options in (("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {})):
        assert difference(pixels(Image.fromarray(values), kind, **options)[..., 1], expected) == 0
    big_endian = Image.frombytes("I;16B", (64, 64), values.astype(">u2").tobytes())
    assert difference(pixels(big_endian, "TIFF")[..., 0], expected) == 0
    inverted = pixels(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    assert difference(inverted[..., 0], 255 - expected) == 0
    twelve = tiff(4, 1, 12, bytes.fromhex("000101800fff"))
    assert difference(decode(twelve, WHOLE).pixels[0, :, 0], [0, 16, 128, 255]) == 0
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values[:, :, None].repeat(3, 2))
    assert difference(decode(png(64, 64, 16, 2, rows), WHOLE).pixels[..., 2], expected) <= 1


def test_1_bit_grey_and_palette():
    assert (pixels(SMALL.convert("1")) == np.asarray(SMALL.convert("1").convert("RGB"))).all()
    assert (pixels(SMALL.convert("L")) == np.asarray(SMALL.convert("L"))[..., None]).all()
    for palette in (SMALL.quantize(200), SMALL.quantize(13), SMALL.quantize(2)):
        for kind in ("PNG", "GIF", "TIFF", "BMP"):
            assert (pixels(palette, kind) == np.asarray(palette.convert("RGB"))).all()
    assert (pixels(SMALL.convert("YCbCr"), "TIFF") == np.asarray(SMALL.convert("YCbCr").convert("RGB"))).all()


def test_palettes_are_resized_as_colours():
    stripes = Image.fromarray(np.tile(np.repeat([[0, 1]], 1, 0), (200, 100)).astype(np.uint8), "P")
    stripes.putpalette([255, 0, 0, 0, 0, 255])
    purple = decode(encoded(stripes, "PNG"), images(short_side=20, snap=1)).pixels
    assert difference(purple[:, 2:-2], (127, 0, 127)) <= 3


@pytest.mark.parametrize("values", [np.zeros((40, 40), np.float32), np.zeros((40, 40), np.int32)])
def test_values_without_a_defined_white_are_refused(values):
    assert refusal(encoded(Image.fromarray(values), "TIFF")).code == "unsupported"


def test_a_tiff_of_floating_point_colours_is_refused_for_what_it_is():
    error = refusal((DATA / "multipage_rgb.tif").read_bytes())
    assert error.code == "unsupported" and "unknown pixel mode" in str(error)


# --- Transparency -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG2000", "AVIF"])
def test_alpha_lies_over_white(kind):
    image = Image.new("RGBA", (64, 64), (200, 0, 0, 128))
    image.paste((0, 255, 0, 0), (0, 0, 32, 64))  # hidden green
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    tolerance = 4 if kind == "AVIF" else 1
    seen = pixels(image, kind, **options)
    assert difference(seen[:, :28], 255) <= tolerance
    assert difference(seen[:, 36:], (227, 127, 127)) <= tolerance
    small = decode(encoded(image, "PNG"), images(short_side=17, snap=1)).pixels
    assert (small[..., 0] >= small[..., 1]).all()  # no green fringe


def test_colour_is_converted_before_it_is_laid_over_white():
    image = Image.new("RGBA", (40, 40), (200, 100, 50, 102))
    expected = 255 + (adobe_as_srgb((200, 100, 50)) - 255) * 0.4
    assert difference(pixels(image, icc_profile=adobe_rgb())[20, 20], np.rint(expected)) <= 1


def test_transparency_of_grey_palette_and_single_values():
    assert difference(pixels(Image.new("LA", (40, 40), (100, 51))), 224) <= 1
    two = Image.fromarray(np.repeat([[0] * 20 + [1] * 20], 40, 0).astype(np.uint8), "P")
    two.putpalette([0, 255, 0, 200, 0, 0])
    for kind in ("PNG", "GIF"):
        assert (pixels(two, kind, transparency=0)[0, [0, 39]] == [[255] * 3, [200, 0, 0]]).all()
    seen = pixels(two, transparency=bytes([0, 128]))
    assert difference(seen[0, [0, 39]], [[255] * 3, [227, 127, 127]]) <= 1
    red_hidden = pixels(SMALL.point([0] * 100 + [255] * 156 + ([0] * 100 + [255] * 156) * 2), transparency=(255, 0, 0))
    assert not (red_hidden == (255, 0, 0)).all(-1).any()
    assert (pixels(SMALL.convert("1"), transparency=0) == 255).all()


@pytest.mark.parametrize(
    ("depth", "colour", "row", "hidden", "expected"),
    [
        (2, 0, b"\x1b", struct.pack(">H", 1), [0, 255, 170, 255]),
        (4, 0, b"\x0f\x5a", struct.pack(">H", 5), [0, 255, 255, 170]),
        (8, 0, b"\x00\x07\x80\xff", struct.pack(">H", 7), [0, 255, 128, 255]),
        (16, 0, struct.pack(">4H", 0, 257, 32896, 65535), struct.pack(">H", 257), [0, 255, 128, 255]),
        (
            16,
            2,
            struct.pack(">12H", *[0] * 3, *[1000] * 3, *[32896] * 3, *[65535] * 3),
            struct.pack(">3H", *[1000] * 3),
            [0, 255, 128, 255],
        ),
    ],
)
def test_the_transparent_value_of_png_counts_in_the_files_bit_depth(depth, colour, row, hidden, expected):
    decoded = decode(png(4, 4, depth, colour, (b"\0" + row) * 4, (b"tRNS", hidden)), WHOLE)
    assert (decoded.pixels[..., 0] == expected).all()


# --- Animations and documents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO", "AVIF"])
def test_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (48, 48), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert difference(decode(data, WHOLE).pixels, (255, 0, 0)) <= 4


def test_a_real_document_and_animation():
    assert decode((DATA / "multipage.tif").read_bytes(), WHOLE).pixels.shape == (15, 10, 3)
    assert decode((DATA / "no_time_for_that_tiny.gif").read_bytes(), WHOLE).pixels.ndim == 3


# --- Refusals ---------------------------------------------------------------------------------------------------------

FRAMES = {"save_all": True, "append_images": [SMALL.rotate(30), SMALL.rotate(60)]}
FILES = {
    "jpeg": encoded(SMALL, "JPEG"),
    "progressive": encoded(SMALL, "JPEG", progressive=True, quality=90),
    "restarts": encoded(SMALL.convert("L"), "JPEG", restart_marker_blocks=4),
    "png": encoded(SMALL, "PNG"),
    "apng": encoded(SMALL, "PNG", **FRAMES),
    "webp": encoded(SMALL, "WEBP"),
    "webp_lossless": encoded(SMALL, "WEBP", lossless=True, **FRAMES),
    "gif": encoded(SMALL, "GIF", **FRAMES),
    "tiff": encoded(SMALL, "TIFF"),
    "tiff_lzw": encoded(SMALL, "TIFF", compression="tiff_lzw"),
    "bmp": encoded(SMALL, "BMP"),
    "ppm": encoded(SMALL, "PPM"),
    "jpeg2000": encoded(SMALL, "JPEG2000", irreversible=True, quality_mode="dB", quality_layers=[40]),
    "avif": encoded(SMALL, "AVIF"),
}
# What a file may lack: PNG the checksum of its empty last chunk, the others what follows the first picture.
MAY_LACK = {"png": 4, "apng": 4} | dict.fromkeys(("gif", "tiff", "tiff_lzw", "bmp"), 10**9)


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_refused_or_holds_its_whole_first_picture(name):
    data = FILES[name]
    whole = decode(data, WHOLE).pixels
    cuts = {*range(0, len(data), max(1, len(data) // 90)), *range(max(0, len(data) - 24), len(data))}
    for cut in cuts:
        try:
            decoded = decode(data[:cut], WHOLE)
        except ImageError as error:
            assert error.code in {"empty", "not_an_image", "truncated", "corrupt"}
            continue
        assert len(data) - cut <= MAY_LACK.get(name, 0), f"{name} accepted with {cut} of {len(data)} bytes"
        assert (decoded.pixels == whole).all()


def test_a_real_jpeg_without_its_tail_is_refused_in_draft_too():
    data = (DATA / "rocket.jpg").read_bytes()
    for cut in (1, 2, 3, 10, 100, 1000, len(data) // 3, len(data) // 2):
        for params in (WHOLE, images(short_side=32)):
            assert refusal(data[:-cut], params).code == "truncated"
            assert refusal(data[:-cut] + bytes(cut), params).code == "truncated"  # a download that reserved its space


def test_a_flipped_bit_in_a_png_is_found_by_its_checksums():
    data = bytearray(FILES["png"])
    data[len(data) // 2] ^= 1
    assert refusal(bytes(data)).code in ("corrupt", "truncated")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    st.floats(0, 1) | st.just(1.0),
    st.booleans(),
)
def test_damaged_files_end_in_a_picture_or_a_refusal(name, changes, kept, in_header):
    data = bytearray(FILES[name])
    for place, value in changes:
        data[int(place * ((200 if in_header else len(data)) - 1))] = value
    params = images(short_side=32, max_pixels=1_000_000)
    try:
        decoded = decode(bytes(data[: int(kept * len(data))]), params)
    except ImageError as error:
        assert error.code in CODES and str(error) and "\n" not in str(error)
    else:
        assert decoded.pixels.dtype == np.uint8 and decoded.pixels.shape == (*decoded.frame, 3)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"P6 ", b"BM"]),
)
def test_arbitrary_bytes_are_refused(data, signature):
    try:
        decode(signature + data, images(short_side=32, max_pixels=1_000_000))
    except ImageError as error:
        assert error.code in CODES


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"just some words that are no picture", "not_an_image"),
        (b"\xff\xd8\xff and then nothing that is a JPEG", "corrupt"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported"),
        (b"8BPS\0\1" + bytes(20), "unsupported"),
        (b"%PDF-1.7\n", "unsupported"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
    ],
)
def test_what_is_no_readable_image_says_so(data, code):
    assert refusal(data).code == code


def test_tga_and_eps_are_never_opened_by_pillows_other_decoders():
    assert refusal(encoded(SMALL, "TGA")).code == "not_an_image"
    assert refusal(encoded(SMALL, "EPS")).code == "unsupported"
    assert refusal(encoded(SMALL, "ICO")).code == "unsupported"


def test_the_thumbnail_of_a_camera_raw_file_is_not_taken_for_the_picture():
    assert refusal(encoded(SMALL, "TIFF", tiffinfo={254: 1})).code == "unsupported"


def test_too_small_and_too_many_bytes():
    assert refusal(FILES["png"], images(frame=(224, 224))).code == "too_small"
    assert refusal(FILES["png"], images(max_bytes=100)).code == "too_large"


def bombs() -> dict[str, bytes]:
    side = 30_000
    gif = (
        b"GIF89a"
        + struct.pack("<HH", side, side)
        + b"\x80\0\0"
        + bytes(6)
        + b","
        + struct.pack("<4H", 0, 0, side, side)
    )
    jpeg = FILES["jpeg"]
    size = jpeg.index(b"\xff\xc0") + 5
    webp = b"RIFF" + struct.pack("<I", 40) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
    webp += ((side - 1).to_bytes(3, "little")) * 2 + bytes(18)
    return {
        "png": png(side, side, 8, 2, bytes(1000)),
        "gif": gif + b"\0\x08" + bytes(100),
        "tiff": tiff(side, side, 8, bytes(9)),
        "jpeg": jpeg[:size] + struct.pack(">HH", side, side) + jpeg[size + 4 :],
        "webp": webp,
        "bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 999, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
        "ppm": b"P6 30000 30000 255 ",
    }


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_by_their_header(name):
    tracemalloc.start()
    error = refusal(bombs()[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.code == "too_large" and "images.max_pixels (200000000)" in str(error)
    assert peak < 5_000_000


def test_the_limit_is_the_jobs_and_not_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    fits = images(short_side=60, snap=1, max_pixels=90 * 60)
    for name in FILES:
        assert decode(FILES[name], fits).frame == (60, 90)
        assert refusal(FILES[name], images(max_pixels=90 * 60 - 1)).code == "too_large"


def test_huge_metadata_ends_in_a_picture_or_a_refusal():
    flood = zlib.compress(bytes(80_000_000), 9)
    assert refusal(png(4, 4, 8, 0, bytes(20), (b"iCCP", b"x\0\0" + flood))).code == "corrupt"
    assert refusal(png(4, 4, 8, 0, bytes(20), (b"zTXt", b"x\0\0" + flood))).code == "corrupt"
    plain = png(4, 4, 8, 0, bytes(20), (b"tEXt", b"x\0" + b"y" * 5_000_000), (b"eXIf", b"MM\0*" + b"\xff" * 900_000))
    assert decode(plain, WHOLE).pixels.shape == (4, 4, 3)
    long_comment = encoded(SMALL, "JPEG", comment=b"z" * 60_000, exif=b"Exif\0\0" + b"\xff" * 60_000)
    assert decode(long_comment, WHOLE).pixels.shape == (60, 90, 3)


# --- Encoding ---------------------------------------------------------------------------------------------------------


def test_png_and_npy_round_trip_and_are_deterministic():
    image = np.asarray(CHELSEA)
    assert encode_png(image) == encode_png(image.copy())
    assert (decode(encode_png(image), WHOLE).pixels == image).all()
    for array in (np.linspace(-1, 1, 60, dtype=np.float32).reshape(6, 10), np.arange(4.0)[::2], np.float64(3)):
        data = encode_npy(np.asarray(array))
        assert data == encode_npy(np.array(array))
        loaded = np.load(BytesIO(data), allow_pickle=False)
        assert loaded.dtype == array.dtype and loaded.shape == array.shape and (loaded == array).all()
    with pytest.raises(ValueError, match="allow_pickle"):
        encode_npy(np.array([{}], dtype=object))


@given(st.floats(0, 1))
def test_to_uint8_rounds_to_the_nearest_level(value):
    assert abs(int(to_uint8(np.array([value]))[0]) - value * 255) <= 0.5


def test_to_uint8_inverts_the_unit_range_clips_and_refuses_nan():
    levels = np.arange(256)
    assert (to_uint8((levels / 255).astype(np.float32)) == levels).all()
    assert (to_uint8(np.array([-0.2, 1.3])) == [0, 255]).all()
    with pytest.raises(ImageError) as caught:
        to_uint8(np.array([0.5, np.nan]))
    assert caught.value.code == "not_finite"


def test_orientation_reference_is_pillows():
    for orientation, method in TURN_BACK.items():
        stored = SMALL.transpose(Image.Transpose(method))
        stored.getexif()[0x0112] = orientation
        assert (np.asarray(ImageOps.exif_transpose(stored)) == np.asarray(SMALL)).all()
