"""Gaussian smoothing as a matrix product. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gaussian_matrix(size: int, sigma: float) -> NDArray[np.float64]:
    """Convolution with a Gaussian of standard deviation `sigma` (in samples) as a matrix, size x size.

    Each row sums to 1, also at the border: there the mean is taken over the samples that exist.
    """
    position = np.arange(size)
    weights = np.exp(-0.5 * ((position[:, None] - position) / sigma) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)
