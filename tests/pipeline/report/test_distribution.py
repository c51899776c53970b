"""Counting in one pass: quantiles and shares as numpy has them from all values at once."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.distribution import SHOWN_BINS, Distribution


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_quantiles_are_as_exact_as_the_bins(share: float) -> None:
    values = np.random.default_rng(0).lognormal(-3, 2, 50_000)
    distribution = Distribution()
    for part in np.array_split(values, 700):
        distribution.add(part)
    assert distribution.quantile(share) == pytest.approx(np.quantile(values, share), rel=0.04)
    assert distribution.highest == values.max()


def test_what_is_over_the_limit_zero_or_unknown_is_counted_apart() -> None:
    distribution = Distribution(limit=0.05)
    distribution.add(np.array([0.0, 0.04, 0.05, 0.06, np.nan, np.inf]))
    assert (distribution.count, distribution.zeros, distribution.beyond) == (5, 1, 2)
    histogram = distribution.histogram()
    assert histogram is not None and sum(histogram.counts) == 4


@pytest.mark.parametrize("spread", [1e-6, 0.01, 0.5, 3, 12])
def test_a_histogram_counts_every_value_in_few_enough_bars(spread: float) -> None:
    values = np.random.default_rng(1).lognormal(0, spread, 5_000)
    distribution = Distribution()
    distribution.add(values)
    histogram = distribution.histogram()
    assert histogram is not None
    assert sum(histogram.counts) == 5_000 and len(histogram.counts) <= SHOWN_BINS
    assert len(histogram.edges) == len(histogram.counts) + 1


def test_shares_have_bins_of_equal_width_from_0_to_1() -> None:
    distribution = Distribution(logarithmic=False)
    distribution.add(np.array([0.0, 0.5, 1.0]))
    histogram = distribution.histogram()
    assert histogram is not None
    assert histogram.edges[0] == 0 and histogram.edges[-1] == 1
    assert histogram.counts[0] == histogram.counts[-1] == 1


def test_nothing_known_has_no_quantile_and_no_histogram() -> None:
    distribution = Distribution()
    distribution.add(np.array([np.nan]))
    assert np.isnan(distribution.quantile(0.5)) and distribution.histogram() is None
