"""Images in other sizes, the same way for octaves, scales and styles."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """`images` (B x C x H x W) at `size` (height, width): bicubic, antialiased where it shrinks. It may overshoot."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True)
