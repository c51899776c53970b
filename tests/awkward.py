"""Pictures as they really come: every mode, cut, mislabelled, oversized, damaged, hostile; and what becomes of each.

Test folders are no packages, so tests load this file by the fixture `load_helper`.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image, ImageCms

IMAGES = {"short_side": 32, "snap": 32, "max_pixels": 50_000_000}
"""The `images` of a job that the outcomes are for."""

Files = dict[str, tuple[bytes, str]]
"""By name: the bytes, and "ok" or the error's code, or several of these where decoders may differ."""

MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "I;16",
    "I;16B",
    "F",
)
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "GIF": "gif", "BMP": "bmp", "PPM": "ppm"}
SUFFIXES |= {"JPEG2000": "jp2", "AVIF": "avif"}
WITHOUT_WHITE = {("I", "TIFF"), ("F", "TIFF"), ("F", "PPM")}

PHOTO = (
    Image.open(io.BytesIO((resources.files("skimage") / "data" / "chelsea.png").read_bytes()))
    .convert("RGB")
    .resize((60, 40))
)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# A grey ramp of 40 x 36 in arithmetic coding, which Pillow reads but doesn't write.
ARITHMETIC_JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300140e0f120f0d14121012171514181e32211e1c1c1e3d2c2e243249404c4b474"
    "04645505a736250556d5645466488656d777b8182814e608d978c7d96737e817cffc9000b080024002801011100ffcc000600101005ffda00"
    "08010100003f00ff00780bf22ae12ff772919745bd5f15768b4b7de955d5a9d6468edbbe31ec57ac5ee01280ffd9"
)


def awkward_files() -> Files:
    """All of them, by a name whose ending a source takes for an image's."""
    made: Files = {}
    for group in (_modes, _no_images, _cut, _sizes, _metadata, _profiles, _jpegs, _pngs, _tiffs, _others, _bombs):
        files = group()
        assert made.keys().isdisjoint(files)
        made |= files
    return made


def seed_files() -> dict[str, bytes]:
    """Small whole files of all nine formats, for a fuzzer to damage."""
    small = PHOTO.resize((24, 20))
    exif = _exif(_tag(0x0112, 3, 1, b"\0\6"))
    made = {
        f"{mode}.{kind}": data
        for mode in ("1", "L", "P", "RGB", "RGBA", "I;16")
        for kind in SUFFIXES
        if (data := _in_mode(small, mode, kind)) is not None
    }
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        made[f"turned.{kind}"] = encoded(small, kind, exif=exif, icc_profile=profile(b"RGB "))
    for kind in ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO"):
        made[f"animated.{kind}"] = animated(small, kind)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        made[f"{compression}.TIFF"] = encoded(small, "TIFF", compression=compression)
    made["progressive.JPEG"] = encoded(small, "JPEG", progressive=True, restart_marker_blocks=2)
    made["cmyk.JPEG"] = encoded(small.convert("CMYK"), "JPEG", icc_profile=profile(b"CMYK"))
    made["lossless.WEBP"] = encoded(small.convert("RGBA"), "WEBP", lossless=True)
    made["codestream.JPEG2000"] = encoded(small, "JPEG2000", no_jp2=True)
    made["plain.PPM"] = b"P3\n# plain\n2 2\n255\n" + b"0 127 255 " * 4
    return made | {"tiled.TIFF": tiled_tiff(), "arithmetic.JPEG": ARITHMETIC_JPEG, "interlaced.PNG": interlaced_png()}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)  # a copy: Pillow leaves the options in the image
    return buffer.getvalue()


def animated(image: Image.Image, kind: str) -> bytes:
    """The image and what it turns into, as frames or pages."""
    return encoded(image, kind, save_all=True, append_images=[image.rotate(30), image.rotate(60)])


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of unfiltered rows, each behind its zero; colour type and other chunks as given."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    every = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(chunk(*one) for one in every)


def interlaced_png() -> bytes:
    """The photograph in the seven passes of Adam7 (PNG, second edition, 8.2)."""
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    pixels = np.asarray(PHOTO)
    rows = b"".join(b"\0" + row.tobytes() for y, dy, x, dx in passes for row in pixels[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", *PHOTO.size, 8, 2, 0, 0, 1)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


Tags = dict[int, int | tuple[int, ...]]


def tiff(entries: Tags, data: bytes = bytes(4096), following: int = 0) -> bytes:
    """A little-endian TIFF: pixel data at byte 8, then tags of 32-bit values, then the next directory's offset."""
    strips: Tags = {} if 322 in entries else {273: 8, 278: 64, 279: len(data)}
    tags: Tags = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 277: 1, **strips, **entries}
    directory = 8 + len(data)
    behind = directory + 6 + 12 * len(tags)
    table = lists = b""
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, tuple) else (value,)
        place = values[0] if len(values) == 1 else behind + len(lists)
        lists += struct.pack(f"<{len(values)}I", *values) if len(values) > 1 else b""
        table += struct.pack("<HHII", tag, 4, len(values), place)
    table = struct.pack("<H", len(tags)) + table + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", directory) + data + table + lists


def tiled_tiff() -> bytes:
    """64 x 64 grey in sixteen tiles of 16 x 16."""
    offsets = tuple(range(8, 8 + 4096, 256))
    return tiff({322: 16, 323: 16, 324: offsets, 325: (256,) * 16}, bytes(range(256)) * 16)


def profile(space: bytes) -> bytes:
    """An ICC profile of sRGB that says to be of another colour space."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data[:16] + space + data[20:]


def _tag(number: int, kind: int, count: int, value: bytes) -> bytes:
    """An entry of an EXIF directory: a value of at most four bytes, or its offset."""
    return struct.pack(">HHI", number, kind, count) + value.ljust(4, b"\0")


def _exif(*tags: bytes) -> bytes:
    """EXIF of one directory of tags."""
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(tags)) + b"".join(tags) + bytes(4)


def _in_mode(image: Image.Image, mode: str, kind: str) -> bytes | None:
    """The image in one of Pillow's modes; None where the format has no way to store that."""
    if mode.startswith("I;16"):
        values = np.asarray(image.convert("L")).astype(">u2" if mode == "I;16B" else "<u2") * 257
        image = Image.frombytes(mode, image.size, values.tobytes())
    elif mode == "LAB":
        image = Image.frombytes(mode, image.size, image.tobytes())
    else:
        image = image.convert("RGBA" if mode == "RGBa" else "P" if mode == "PA" else "RGB").convert(mode)
    try:
        return encoded(image, kind)
    except (OSError, ValueError):
        return None


def _modes() -> Files:
    return {
        f"mode {mode}.{suffix}": (data, "unsupported" if (mode, kind) in WITHOUT_WHITE else "ok")
        for mode in MODES
        for kind, suffix in SUFFIXES.items()
        if (data := _in_mode(PHOTO, mode, kind)) is not None
    }


def _no_images() -> Files:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("picture.png", encoded(PHOTO, "PNG"))
    page = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>Not Found</body></html>"
    return {
        "empty.jpg": (b"", "empty"),
        "one zero.png": (b"\0", "not_an_image"),
        "all zeros.jpg": (bytes(20_000), "not_an_image"),
        "all ones.jpg": (b"\xff" * 20_000, "not_an_image"),
        "an error page.jpg": (page, "not_an_image"),
        "a text.png": ("Ceci n'est pas une pipe. 這不是煙斗".encode(), "not_an_image"),
        "a zip.jpg": (archive.getvalue(), "not_an_image"),
        "a tiny png named.jpg": (encoded(PHOTO, "PNG"), "ok"),
        "a jpeg named.gif": (encoded(PHOTO, "JPEG"), "ok"),
        "a webp named.tif": (encoded(PHOTO, "WEBP"), "ok"),
        "a pdf.jpg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "unsupported"),
        "postscript.jpg": (encoded(PHOTO, "EPS"), "unsupported"),
        "an icon.png": (encoded(PHOTO, "ICO"), "unsupported"),
        "an svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
        "heif.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported"),
        "a video.avif": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "unsupported"),
        "targa.bmp": (encoded(PHOTO, "TGA"), "not_an_image"),
        "a shell script.jpg": (b"#!/bin/sh\ntouch /tmp/escaped\n", "not_an_image"),
        "a pickle.png": (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "not_an_image"),
    }


def _cut() -> Files:
    cuts: Files = {}
    for kind, suffix in SUFFIXES.items():
        data = encoded(PHOTO, kind)
        half = len(data) // 2
        unseen = kind in ("WEBP", "BMP", "TIFF")  # zeros are pixels there like any others
        cuts[f"cut to a byte.{suffix}"] = (data[:1], "not_an_image")
        cuts[f"cut in its header.{suffix}"] = (data[:20], "corrupt truncated")
        cuts[f"cut in the middle.{suffix}"] = (data[:half], "corrupt truncated")
        cuts[f"reserved and never filled.{suffix}"] = (
            data[:half] + bytes(half),
            "ok" if unseen else "corrupt truncated",
        )
        if kind not in ("GIF", "TIFF"):  # whose ends hold no pixels
            cuts[f"cut by ten bytes.{suffix}"] = (data[:-10], "corrupt truncated")
        cuts[f"with a tail.{suffix}"] = (data + b"and more, which is none of the picture", "ok")
    return cuts


def _sizes() -> Files:
    sizes = {"1x1": (1, 1), "1x2000": (1, 2000), "20000x1": (20_000, 1), "31x400": (31, 400)}
    made = {f"{name}.png": (encoded(Image.new("RGB", size), "PNG"), "too_small") for name, size in sizes.items()}
    made["1x1.gif"] = (encoded(Image.new("P", (1, 1)), "GIF"), "too_small")
    made["0x0.gif"] = (b"GIF89a" + bytes(7) + b";", "corrupt")
    made["0x5.png"] = (png(0, 5, 8, 0, bytes(5)), "corrupt")
    made["32x32.png"] = (encoded(PHOTO.crop((0, 0, 32, 32)), "PNG"), "ok")
    made["33x32.jpg"] = (encoded(PHOTO.crop((0, 0, 33, 32)), "JPEG"), "ok")
    made["20000x40.png"] = (encoded(Image.new("L", (20_000, 40)), "PNG"), "ok")
    made["40x20000.jpg"] = (encoded(Image.new("L", (40, 20_000)), "JPEG"), "ok")
    return made


def _metadata() -> Files:
    upright = _tag(0x0112, 3, 1, b"\0\6")
    described = {
        "orientation 0": _exif(_tag(0x0112, 3, 1, b"\0\0")),
        "orientation 9": _exif(_tag(0x0112, 3, 1, b"\0\x09")),
        "orientation 65535": _exif(_tag(0x0112, 3, 1, b"\xff\xff")),
        "orientation in words": _exif(_tag(0x0112, 2, 4, b"six\0")),
        "two orientations": _exif(_tag(0x0112, 3, 2, b"\0\6\0\3")),
        "orientation of no kind": _exif(_tag(0x0112, 99, 1, b"\0\6")),
        "orientation over zero": _exif(_tag(0x0112, 5, 1, b"\0\0\0\x1a")) + bytes(8),
        "a tag of 4 GB": _exif(_tag(0x010E, 2, 0xFFFFFFFF, b"\0\0\0\x08"), upright),
        "no directory": b"Exif\0\0MM\0*",
        "a far directory": b"Exif\0\0MM\0*\xff\xff\xff\xff",
        "a cut directory": _exif(upright)[:-12],
        "a directory of 65535 tags": _exif(upright, upright).replace(b"\x08\0\2", b"\x08\xff\xff"),
        "a directory in itself": _exif(upright, _tag(0x8769, 4, 1, b"\0\0\0\x08"))[:-4] + b"\0\0\0\x08",
        "nonsense": b"Exif\0\0nonsense",
    }
    made: Files = {
        f"exif with {name}.{SUFFIXES[kind]}": (encoded(PHOTO, kind, exif=exif), "ok")
        for name, exif in described.items()
        for kind in ("JPEG", "PNG", "WEBP")
    }
    megabyte = b"." * 1_000_000
    made["exif of a megabyte.png"] = (encoded(PHOTO, "PNG", exif=b"Exif\0\0MM\0*" + megabyte), "ok")
    made["exif of a megabyte.webp"] = (encoded(PHOTO, "WEBP", exif=b"Exif\0\0MM\0*" + megabyte), "ok")
    made["xmp of a megabyte.webp"] = (encoded(PHOTO, "WEBP", xmp=megabyte), "ok")
    made["xmp of a megabyte.tif"] = (encoded(PHOTO, "TIFF", tiffinfo={700: megabyte}), "ok")
    made["xmp that is cut.jpg"] = (encoded(PHOTO, "JPEG", xmp=b'<x:xmpmeta tiff:Orientation="6'), "ok")
    made["a comment of a megabyte.gif"] = (encoded(PHOTO, "GIF", comment=megabyte), "ok")
    made["a comment of a megabyte.png"] = (_with_chunk(b"tEXt", b"Comment\0" + megabyte), "ok")
    made["a comment of a megabyte.jpg"] = (_with_segments(b"\xff\xfe", [megabyte[:65_000]] * 16), "ok")
    made["a comment of a megabyte.ppm"] = (b"P5\n#" + megabyte + b"\n40 40 255\n" + bytes(1600), "ok")
    return made


def _with_chunk(name: bytes, body: bytes) -> bytes:
    """The photograph as PNG with one more chunk behind its header."""
    data = encoded(PHOTO, "PNG")
    return data[:33] + chunk(name, body) + data[33:]


def _with_segments(marker: bytes, bodies: list[bytes]) -> bytes:
    """The photograph as JPEG with more segments behind its first marker."""
    data = encoded(PHOTO, "JPEG")
    return data[:2] + b"".join(marker + struct.pack(">H", len(body) + 2) + body for body in bodies) + data[2:]


def _profiles() -> Files:
    rgb = profile(b"RGB ")
    broken = {
        "random": np.random.default_rng(0).bytes(3000),
        "cut": rgb[:200],
        "grey": profile(b"GRAY"),
        "CMYK": profile(b"CMYK"),
        "unknown": profile(b"????"),
        "lying about its size": struct.pack(">I", 0xFFFFFFFF) + rgb[4:],
        "with far tags": rgb[:128] + b"\xff" * (len(rgb) - 128),
        "of a megabyte": rgb + bytes(1_000_000),
    }
    made: Files = {}
    for name, data in broken.items():
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
            made[f"profile {name}.{SUFFIXES[kind]}"] = (encoded(PHOTO, kind, icc_profile=data), "ok")
    for mode in ("L", "CMYK"):
        data = encoded(PHOTO.convert(mode), "JPEG", icc_profile=profile(b"LAB "))
        made[f"profile LAB on {mode}.jpg"] = (data, "ok")
    made["profile without its second part.jpg"] = (_with_segments(b"\xff\xe2", [b"ICC_PROFILE\0\1\2" + rgb]), "ok")
    made["profile that inflates badly.png"] = (_with_chunk(b"iCCP", b"x\0\0nonsense"), "ok")
    return made


def _jpegs() -> Files:
    plain = encoded(PHOTO, "JPEG")
    cmyk = encoded(PHOTO.convert("CMYK"), "JPEG")
    adobe = cmyk.index(b"Adobe") + 11
    entropy = plain.index(b"\xff\xda") + 40
    frame = plain.index(b"\xff\xc0")
    return {
        "arithmetic.jpg": (ARITHMETIC_JPEG, "ok"),
        "progressive.jpg": (encoded(PHOTO, "JPEG", progressive=True), "ok"),
        "restart markers.jpg": (encoded(PHOTO, "JPEG", restart_marker_blocks=1), "ok"),
        "subsampled.jpg": (encoded(PHOTO, "JPEG", subsampling="4:2:0", quality=1), "ok"),
        "ycck.jpg": (cmyk[:adobe] + b"\2" + cmyk[adobe + 1 :], "ok"),
        "inks without Adobe's mark.jpg": (cmyk.replace(b"Adobe", b"Abode"), "ok"),
        "mpo.jpg": (animated(PHOTO, "MPO"), "ok"),
        "damaged in the scan.jpg": (plain[:entropy] + bytes(64) + plain[entropy + 64 :], "ok"),
        "without tables.jpg": (plain.replace(b"\xff\xc4", b"\xff\xfe"), "ok"),
        "without an end.jpg": (plain[:-2], "truncated"),
        "of 12 bits.jpg": (plain[: frame + 4] + b"\x0c" + plain[frame + 5 :], "unsupported"),
        "of no height.jpg": (plain[: frame + 5] + b"\0\0" + plain[frame + 7 :], "corrupt"),
        "of seven channels.jpg": (plain[: frame + 9] + b"\7" + plain[frame + 10 :], "unsupported"),
        "lossless.jpg": (plain[:frame] + b"\xff\xc3" + plain[frame + 2 :], "corrupt"),
        "header alone.jpg": (b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xd9", "corrupt"),
    }


def _pngs() -> Files:
    ramp = bytes(range(40))
    half = struct.pack(">H", 7)
    plain = encoded(PHOTO, "PNG")
    data = plain.index(b"IDAT")
    body = zlib.decompress(b"".join(_idat(plain)))
    packed = zlib.compress(body)
    palette = (b"PLTE", bytes(range(48)))

    def built(*chunks: bytes) -> bytes:
        return PNG_SIGNATURE + plain[8:33] + b"".join(chunks)

    end = chunk(b"IEND", b"")
    return {
        "interlaced.png": (interlaced_png(), "ok"),
        "animated.png": (animated(PHOTO, "PNG"), "ok"),
        "16 bits a channel.png": (png(40, 40, 16, 2, (b"\0" + ramp * 6) * 40), "ok"),
        "16 bits and alpha.png": (png(40, 40, 16, 6, (b"\0" + ramp * 8) * 40), "ok"),
        "16 bits grey and alpha.png": (png(40, 40, 16, 4, (b"\0" + ramp * 4) * 40), "ok"),
        "one grey hidden at 1 bit.png": (png(40, 40, 1, 0, (b"\0" + ramp[:5]) * 40, (b"tRNS", b"\0\1")), "ok"),
        "one grey hidden at 2 bits.png": (png(40, 40, 2, 0, (b"\0" + ramp[:10]) * 40, (b"tRNS", b"\0\2")), "ok"),
        "one grey hidden at 4 bits.png": (png(40, 40, 4, 0, (b"\0" + ramp[:20]) * 40, (b"tRNS", half)), "ok"),
        "one grey hidden at 8 bits.png": (png(40, 40, 8, 0, (b"\0" + ramp) * 40, (b"tRNS", half)), "ok"),
        "one grey hidden at 16 bits.png": (png(40, 40, 16, 0, (b"\0" + ramp * 2) * 40, (b"tRNS", half)), "ok"),
        "one colour hidden.png": (png(40, 40, 8, 2, (b"\0" + ramp * 3) * 40, (b"tRNS", half * 3)), "ok"),
        "one colour hidden at 16 bits.png": (png(40, 40, 16, 2, (b"\0" + ramp * 6) * 40, (b"tRNS", half * 3)), "ok"),
        "hidden palette.png": (png(40, 40, 4, 3, (b"\0" + ramp[:20]) * 40, palette, (b"tRNS", b"\0\x80")), "ok"),
        "hidden in a palette without it.png": (png(40, 40, 8, 3, (b"\0" + ramp) * 40, (b"tRNS", b"\0")), "ok"),
        "hidden beside alpha.png": (png(40, 40, 8, 6, (b"\0" + ramp * 4) * 40, (b"tRNS", half * 3)), "ok"),
        "hidden by too few bytes.png": (png(40, 40, 8, 2, (b"\0" + ramp * 3) * 40, (b"tRNS", b"\0")), "truncated"),
        "indices beyond the palette.png": (png(40, 40, 8, 3, (b"\0" + b"\xff" * 40) * 40, palette), "ok"),
        "an empty palette.png": (png(40, 40, 8, 3, (b"\0" + ramp) * 40, (b"PLTE", b"")), "ok"),
        "3 bits.png": (png(40, 40, 3, 0, (b"\0" + ramp) * 40), "corrupt"),
        "colour type 5.png": (png(40, 40, 8, 5, (b"\0" + ramp) * 40), "corrupt"),
        "filter 9.png": (png(40, 40, 8, 0, (b"\x09" + ramp) * 40), "corrupt"),
        "rows missing.png": (png(40, 40, 8, 0, (b"\0" + ramp) * 20), "ok"),
        "rows too many.png": (png(40, 40, 8, 0, (b"\0" + ramp) * 80), "ok"),
        "a bad checksum of the header.png": (plain[:29] + b"\0\0\0\0" + plain[33:], "corrupt"),
        "a bad checksum of the data.png": (plain[:-16] + b"\0\0\0\0" + plain[-12:], "corrupt"),
        "a flipped bit.png": (plain[: data + 100] + bytes([plain[data + 100] ^ 1]) + plain[data + 101 :], "corrupt"),
        "without data.png": (built(end), "truncated"),
        "without an end.png": (plain[:-12], "truncated"),
        "data in single bytes.png": (built(*(chunk(b"IDAT", bytes([byte])) for byte in packed), end), "ok"),
        "two headers.png": (built(plain[8:33], chunk(b"IDAT", packed), end), "ok"),
        "a chunk of 4 GB.png": (built(b"\xff\xff\xff\xffIDAT" + packed), "truncated"),
        "an unknown vital chunk.png": (_with_chunk(b"ABCD", b"?"), "ok"),
        "an animation of no frames.png": (_with_chunk(b"acTL", bytes(8)), "ok"),
    }


def _idat(data: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            found.append(data[at + 8 : at + 8 + size])
        at += 12 + size
    return found


def _tiffs() -> Files:
    made: Files = {}
    kinds = {"RGB": ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "lzma", "zstd")}
    for mode, compressions in (kinds | {"1": ("group3", "group4", "tiff_ccitt")}).items():
        for compression in compressions:
            data = encoded(PHOTO.convert(mode), "TIFF", compression=compression)
            made[f"{compression}.tif"] = (data, "ok")
    predicted = encoded(PHOTO, "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    absurd: dict[str, tuple[Tags, str]] = {
        "of no width": ({256: 0}, "corrupt"),
        "of 65535 bits": ({258: 65535}, "unsupported"),
        "of no bits": ({258: 0}, "unsupported"),
        "of 12 bits": ({258: 12, 257: 40}, "ok"),
        "of 65535 samples": ({277: 65535}, "corrupt"),
        "of an unknown compression": ({259: 999}, "unsupported"),
        "of an unknown colour": ({262: 999}, "unsupported"),
        "of another compression": ({259: 5}, "corrupt"),
        "of white zeros": ({262: 0}, "ok"),
        "of signed values": ({339: 2}, "ok"),
        "of floating point": ({258: 32, 339: 3, 256: 32, 257: 32}, "unsupported"),
        "in separate planes": ({277: 3, 262: 2, 258: (8,) * 3, 284: 2, 273: (8,) * 3, 279: (4096,) * 3}, "ok"),
        "with strips of no rows": ({278: 0}, "truncated"),
        "with a far strip": ({273: 0xFFFFFFF0}, "truncated"),
        "with a strip of 4 GB": ({279: 0xFFFFFFFF}, "ok"),
        "with a short strip": ({279: 5}, "ok"),
        "with tiles of no width": ({322: 0, 323: 16, 324: 8, 325: 4096}, "truncated"),
        "with tiles of 4 GB": ({322: 0x7FFFFFF0, 323: 0x7FFFFFF0, 324: 8, 325: 4096}, "truncated"),
        "with too few tiles": ({322: 16, 323: 16, 324: (8, 264), 325: (256, 256)}, "truncated"),
    }
    made |= {f"tiff {name}.tif": (tiff(entries), outcome) for name, (entries, outcome) in absurd.items()}
    whole = tiff({})
    made["tiff whose directory follows itself.tif"] = (tiff({}, following=8 + 4096), "ok")
    made["tiff without a directory.tif"] = (b"II*\0" + struct.pack("<I", 0xFFFFFF00) + bytes(50), "corrupt")
    made["tiff of no tags.tif"] = (b"II*\0" + struct.pack("<IH", 8, 0) + bytes(50), "corrupt")
    made["tiff of 65535 tags.tif"] = (whole[: 8 + 4096] + b"\xff\xff" + whole[8 + 4098 :], "ok")
    made["tiled.tif"] = (tiled_tiff(), "ok")
    made["predicted.tif"] = (predicted, "ok")
    made["pages.tif"] = (animated(PHOTO, "TIFF"), "ok")
    made["big.tif"] = (encoded(PHOTO, "TIFF", big_tiff=True), "ok")
    made["a thumbnail.tif"] = (encoded(PHOTO, "TIFF", tiffinfo={254: 1}), "unsupported")
    made["a digital negative.tif"] = (encoded(PHOTO, "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "unsupported")
    return made


def _others() -> Files:
    bmp = encoded(PHOTO, "BMP")
    gif = encoded(PHOTO, "GIF")
    webp = encoded(PHOTO, "WEBP")
    runs = b"".join(bytes([40, level, 0, 0]) for level in range(40)) + b"\0\1"
    rle = b"BM" + struct.pack(
        "<IIIIiiHHIIiiII", 54 + 1024 + len(runs), 0, 54 + 1024, 40, 40, 40, 1, 8, 1, 0, 0, 0, 0, 0
    )
    return {
        "animated.gif": (animated(PHOTO, "GIF"), "ok"),
        "animated.webp": (animated(PHOTO, "WEBP"), "ok"),
        "animated.avif": (animated(PHOTO, "AVIF"), "ok"),
        "lossless.webp": (encoded(PHOTO, "WEBP", lossless=True), "ok"),
        "codestream.j2k": (encoded(PHOTO, "JPEG2000", no_jp2=True), "ok"),
        "tiled.jp2": (encoded(PHOTO, "JPEG2000", tile_size=(16, 16)), "ok"),
        "best.avif": (encoded(PHOTO, "AVIF", quality=100), "ok"),
        "bottom up.bmp": (bmp[:22] + struct.pack("<i", -40) + bmp[26:], "ok"),
        "run lengths.bmp": (rle + bytes(1024) + runs, "ok"),
        "bmp of a negative width.bmp": (bmp[:18] + struct.pack("<i", -60) + bmp[22:], "too_large"),
        "bmp with a far start.bmp": (bmp[:10] + b"\xff\xff\xff\x7f" + bmp[14:], "truncated"),
        "bmp of 7 bits.bmp": (bmp[:28] + b"\7" + bmp[29:], "unsupported"),
        "gif without colours.gif": (gif[:10] + b"\0" + gif[11:13] + gif[13 + 768 :], "ok"),
        "gif with a code size of 99.gif": (gif.replace(b"\x08", b"\x63"), "corrupt"),
        "plain text.ppm": (b"P3 40 40 255 " + b"7 " * 4800, "ok"),
        "plain bits.pbm": (b"P1 40 40 " + b"1 0 " * 800, "ok"),
        "of one level.pgm": (b"P5 40 40 1 " + b"\0\1" * 800, "ok"),
        "of 65535 levels.pgm": (b"P5 40 40 65535 " + bytes(3200), "ok"),
        "of no levels.pgm": (b"P5 40 40 0 " + bytes(1600), "corrupt"),
        "of too many levels.pgm": (b"P5 40 40 65536 " + bytes(3200), "corrupt"),
        "of minus forty.ppm": (b"P6 -40 40 255 " + bytes(4800), "corrupt"),
        "of many digits.ppm": (b"P6 " + b"9" * 5000 + b" 40 255 ", "corrupt"),
        "of words.ppm": (b"P6 forty forty 255 " + bytes(4800), "corrupt"),
        "values above the most.ppm": (b"P3 40 40 255 " + b"300 " * 4800, "corrupt"),
        "floating point.ppm": (b"Pf 40 40 -1.0 " + bytes(6400), "unsupported"),
        "any map.ppm": (b"P7\nWIDTH 40\nHEIGHT 40\nDEPTH 1\nMAXVAL 255\nTUPLTYPE GRAYSCALE\nENDHDR\n", "not_an_image"),
        "webp of a wrong length.webp": (webp[:4] + b"\xff\xff\xff\x7f" + webp[8:], "corrupt"),
    }


def _bombs() -> Files:
    side = 60_000
    jpeg = encoded(PHOTO, "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    jp2 = encoded(PHOTO, "JPEG2000", no_jp2=True)
    flood = zlib.compress(bytes(100_000_000), 9)
    canvas = (
        b"RIFF"
        + struct.pack("<I", 40)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (16_382).to_bytes(3, "little") * 2
    )
    rows = zlib.compressobj(9)
    bits = b"".join(rows.compress(bytes(2501 * 1000)) for _ in range(20)) + rows.flush()
    real = PNG_SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))
    return {
        "bomb.png": (png(side, side, 8, 2, bytes(1000)), "too_large"),
        "bomb that is real.png": (real + chunk(b"IDAT", bits) + chunk(b"IEND", b""), "too_large"),
        "nearly a bomb.png": (png(7000, 7000, 1, 0, bytes(876 * 7000)), "ok"),
        "bomb.gif": (
            b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x08" + bytes(99),
            "too_large",
        ),
        "bomb.tif": (tiff({256: side, 257: side, 278: side}), "too_large"),
        "bomb.jpg": (jpeg[:size] + struct.pack(">HH", side, side) + jpeg[size + 4 :], "too_large"),
        "bomb.webp": (canvas + bytes(18), "too_large"),
        "bomb.bmp": (
            b"BM" + struct.pack("<IIIIiiHHIIiiII", 999, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
            "too_large",
        ),
        "bomb.ppm": (b"P6 999999999 999999999 255 ", "too_large"),
        "bomb.j2k": (jp2.replace(struct.pack(">II", 60, 40), struct.pack(">II", side, side)), "too_large"),
        "bomb of text.png": (_with_chunk(b"zTXt", b"x\0\0" + flood), "corrupt"),
        "bomb of international text.png": (_with_chunk(b"iTXt", b"x\0\1\0\0\0" + flood), "corrupt"),
        "bomb of a profile.png": (_with_chunk(b"iCCP", b"x\0\0" + flood), "corrupt"),
        "bomb of data.png": (_with_chunk(b"IDAT", flood), "ok"),
    }
