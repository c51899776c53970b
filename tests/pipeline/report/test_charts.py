"""The geometry of charts: everything inside the plot, axes at round numbers."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.charts import HEIGHT, Chart, histogram_chart, throughput_chart
from pipeline.report.distribution import Distribution
from pipeline.report.timeline import Throughput


def check(chart: Chart) -> None:
    assert 1 <= len(chart.x_ticks) <= 7 and 2 <= len(chart.y_ticks) <= 6
    for tick in (*chart.x_ticks, *chart.marks):
        assert -0.01 <= tick.at <= 100.01
    for bar in chart.bars:
        assert bar.left > -0.01 and bar.left + bar.width < 100.01
        assert bar.top > -0.01 and bar.top + bar.height == pytest.approx(HEIGHT)


@pytest.mark.parametrize("spread", [0.001, 0.3, 2, 9])
@pytest.mark.parametrize("count", [1, 50, 5_000])
def test_histograms(spread: float, count: int) -> None:
    distribution = Distribution(limit=1.0)
    distribution.add(np.random.default_rng(2).lognormal(0.1, spread, count))
    chart = histogram_chart(distribution)
    assert chart is not None
    check(chart)
    assert sum(int(outputs.replace(",", "")) for _, outputs in chart.table) == count


def test_bars_beyond_the_limit_are_told_apart() -> None:
    distribution = Distribution(limit=0.08)
    distribution.add(np.array([0.001, 0.0799, 0.0801]))  # in bins side by side
    chart = histogram_chart(distribution)
    assert chart is not None
    assert [bar.beyond for bar in chart.bars] == [False, False, True]
    assert [mark.text for mark in chart.marks] == ["tolerance 0.08"]


@pytest.mark.parametrize("interval", [0.5, 7, 333, 40_000, 2e6])
@pytest.mark.parametrize("scale", [1e-4, 0.02, 3, 5e4])
def test_rates(interval: float, scale: float) -> None:
    chart = throughput_chart(Throughput([scale, 0, 3 * scale], interval, [interval]))
    check(chart)
    assert chart.x_ticks[0].text.startswith("0 ") and len({tick.text for tick in chart.x_ticks}) == len(chart.x_ticks)
