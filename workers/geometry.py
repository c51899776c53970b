"""Where each output pixel comes from: resizing, centre crop and EXIF orientation as one affine map. Sizes are exact."""

from __future__ import annotations

from dataclasses import dataclass

from workers.errors import ImageError
from workers.params import ImageParams

Affine = tuple[float, float, float, float, float, float]

# EXIF 2.3, tag 274: the shown picture is the stored raster with its axes swapped (first), or mirrored along the shown
# x or y axis (second, third), or both.
_ORIENTATIONS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes a frame: resized as a whole, then cropped. All lengths in pixels, as the picture is shown.

    `shown` (width, height) before and `resized` (width, height) after resizing; `crop` (left, top, width, height) is
    the part of the resized picture that is kept.
    """

    shown: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int, int, int]

    @property
    def frame(self) -> tuple[int, int]:
        """(height, width) of the output."""
        return self.crop[3], self.crop[2]

    def affine(self, orientation: int = 1) -> Affine:
        """(a, b, c, d, e, f) that takes output coordinates (x, y) to the stored raster: (ax + by + c, dx + ey + f).

        Coordinates are those of pixel edges: the output's corners are (0, 0) and (width, height), and the centre of
        its first pixel is (0.5, 0.5). `orientation` is the EXIF orientation, 1 to 8, of the stored raster.
        """
        swapped, mirrored_x, mirrored_y = _ORIENTATIONS[orientation]
        (scale_x, offset_x), (scale_y, offset_y) = (
            _axis(self.shown[i], self.resized[i], self.crop[i], mirrored)
            for i, mirrored in enumerate((mirrored_x, mirrored_y))
        )
        if swapped:
            return 0.0, scale_y, offset_y, scale_x, 0.0, offset_x
        return scale_x, 0.0, offset_x, 0.0, scale_y, offset_y

    def source_box(self, orientation: int = 1) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of the part of the stored raster that the output shows, in pixel edges."""
        a, b, c, d, e, f = self.affine(orientation)
        _, _, width, height = self.crop
        x0, x1 = sorted((c, a * width + b * height + c))
        y0, y1 = sorted((f, d * width + e * height + f))
        return x0, y0, x1, y1


def oriented(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) of the shown picture from that of the stored raster, or the other way round."""
    return (size[1], size[0]) if _ORIENTATIONS[orientation][0] else size


def plan_frame(width: int, height: int, params: ImageParams) -> Geometry:
    """Plan the frame of a picture that is shown with `width` x `height` pixels.

    `short_side` is the length of the shorter side after resizing; pictures that are smaller keep their size unless
    `enlarge`. Without it the picture is resized to just cover `frame`. Then `frame` is cut from the centre, or, without
    it, both sides are cropped about the centre to multiples of `snap`, so that mixed collections fall into few frames.

    Raises ImageError `too_small` when the picture doesn't fill the frame or one `snap`, and `too_large` when the
    frame would have more than `max_pixels`.
    """
    wanted = _covering(width, height, params)
    resized = wanted if params.enlarge or (wanted[0] <= width and wanted[1] <= height) else (width, height)
    kept = _kept(resized, params)
    if min(kept) < 1 or kept[0] > resized[0] or kept[1] > resized[1]:
        raise _too_small((width, height), wanted, resized, params)
    if kept[0] * kept[1] > params.max_pixels:
        raise ImageError(
            "too_large",
            f"The picture of {width} x {height} pixels would be processed at {kept[0]} x {kept[1]}, more than "
            f"images.max_pixels ({params.max_pixels}): crop it, or give images.frame",
        )
    left, top = (resized[0] - kept[0]) // 2, (resized[1] - kept[1]) // 2
    return Geometry((width, height), resized, (left, top, *kept))


def _axis(shown: int, resized: int, start: int, mirrored: bool) -> tuple[float, float]:
    """Scale and offset from an output coordinate to the shown picture's, counted from its far edge if mirrored."""
    scale, offset = shown / resized, start * shown / resized
    return (-scale, shown - offset) if mirrored else (scale, offset)


def _covering(width: int, height: int, params: ImageParams) -> tuple[int, int]:
    """The size to resize to: of the given short side or, without one, the smallest that covers the frame."""
    frame_height, frame_width = params.frame or (0, 0)
    if params.short_side is None:
        width_decides = frame_width * height >= frame_height * width
        length = frame_width if width_decides else frame_height
    else:
        width_decides, length = width <= height, params.short_side
    if width_decides:
        return length, _rounded(height * length, width)
    return _rounded(width * length, height), length


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _kept(resized: tuple[int, int], params: ImageParams) -> tuple[int, int]:
    if params.frame is not None:
        return params.frame[1], params.frame[0]
    return resized[0] // params.snap * params.snap, resized[1] // params.snap * params.snap


def _too_small(
    shown: tuple[int, int], wanted: tuple[int, int], resized: tuple[int, int], params: ImageParams
) -> ImageError:
    if params.frame is None:
        needed, key = (params.snap, params.snap), "images.snap"
    else:
        needed, key = (params.frame[1], params.frame[0]), "images.frame"
    enlarging_helps = resized != wanted and wanted[0] >= needed[0] and wanted[1] >= needed[1]
    mend = "set images.enlarge: true" if enlarging_helps else f"give a larger images.short_side or a smaller {key}"
    sizes = f"{shown[0]} x {shown[1]} pixels"
    if resized != shown:
        sizes += f" ({resized[0]} x {resized[1]} when resized)"
    return ImageError(
        "too_small", f"The picture of {sizes} doesn't fill the {needed[0]} x {needed[1]} that {key} asks for: {mend}"
    )


def picture_params(images: ImageParams, scale: float = 1.0) -> ImageParams:
    """How styles and guides are decoded: whole, at the short side of the job's images times `scale`."""
    side = max(16, round((images.short_side or min(images.frame or (256, 256))) * scale))
    return images.model_copy(update={"short_side": side, "frame": None, "snap": 1})
