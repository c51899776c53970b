"""Full single precision, whatever the process has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """fp32 matrix products and convolutions are computed in fp32 inside; the former settings are restored.

    cuDNN's convolutions use TF32 unless told otherwise, which moves an attribution map by a tenth of its L1 norm.
    The settings are the process's, not the thread's.
    """
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
