"""Bar charts as plain geometry; the template draws it. Across in per cent of the width, so text never shrinks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from pipeline.progress.words import duration
from pipeline.report.distribution import Distribution
from pipeline.report.timeline import Throughput
from pipeline.report.words import count, counted, figure

HEIGHT = 168
"""Of the plot, in pixels."""

_STEPS = [factor * 10.0**exponent for exponent in range(-9, 13) for factor in (1, 2, 5)]


@dataclass(frozen=True)
class Bar:
    """`left` and `width` in per cent, `top` and `height` in pixels; `beyond` the limit or not."""

    left: float
    width: float
    top: float
    height: float
    title: str
    beyond: bool = False


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: per cent from the left, or pixels from the top."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """What is drawn. `marks` are vertical lines across the plot; `table` says the same in (interval, value)."""

    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Tick] = field(default_factory=list)
    table: list[tuple[str, str]] = field(default_factory=list)
    height: int = HEIGHT


def histogram_chart(distribution: Distribution) -> Chart | None:
    """The histogram of a measure, its limit marked; None if no output has the measure."""
    histogram = distribution.histogram()
    if histogram is None:
        return None
    across = _Across(histogram.edges[0], histogram.edges[-1], logarithmic=distribution.logarithmic)
    limit = distribution.limit
    top, y_ticks = _up(max(histogram.counts))
    bars, table = [], []
    for (low, high), outputs in zip(pairwise(histogram.edges), histogram.counts, strict=True):
        if outputs:
            where = f"{figure(low)} to {figure(high)}"
            tall = max(1.0, HEIGHT * outputs / top)
            left, right = across(low), across(high)
            beyond = limit is not None and low > limit * (1 - 1e-9)
            title = f"{where}: {counted(outputs, 'output')}"
            bars.append(Bar(left, right - left, HEIGHT - tall, tall, title, beyond))
            table.append((where, count(outputs)))
    inside = limit is not None and histogram.edges[0] < limit < histogram.edges[-1]
    marks = [Tick(across(limit), f"tolerance {limit:g}")] if limit is not None and inside else []
    return Chart(bars, across.ticks(), y_ticks, marks, table)


def throughput_chart(throughput: Throughput) -> Chart:
    """Outputs a second, or a minute where they are few, over the time of work."""
    slow = max(throughput.rates) < 1
    unit, rates = ("min", [60 * rate for rate in throughput.rates]) if slow else ("s", throughput.rates)
    top, y_ticks = _up(max(rates), fractions=True)
    width = 100 / len(rates)
    bars, table = [], []
    for number, rate in enumerate(rates):
        tall = HEIGHT * rate / top
        began, ended = number * throughput.interval, (number + 1) * throughput.interval
        where = f"{duration(began)} to {duration(ended)}"
        bars.append(Bar(number * width, width, HEIGHT - tall, tall, f"{where}: {figure(rate)}/{unit}"))
        table.append((where, f"{figure(rate)}/{unit}"))
    x_ticks = _time_ticks(throughput.total)
    marks = [Tick(100 * at / throughput.total, "") for at in throughput.breaks]
    y_ticks[-1] = Tick(y_ticks[-1].at, f"{y_ticks[-1].text}/{unit}")
    return Chart(bars, x_ticks, y_ticks, marks, table)


def _time_ticks(total: float) -> list[Tick]:
    """Round times from zero, in one unit for the whole axis."""
    units = (("s", 1, 180), ("min", 60, 3 * 3600), ("h", 3600, 3 * 86_400), ("days", 86_400, math.inf))
    unit, size = next((name, size) for name, size, most in units if total < most)
    step = next(s for s in _STEPS if total / size / s <= 6)
    return [Tick(100 * step * i * size / total, f"{step * i:g} {unit}") for i in range(int(total / size / step) + 1)]


@dataclass(frozen=True)
class _Across:
    """Places on the horizontal axis, in per cent."""

    low: float
    high: float
    logarithmic: bool

    def __call__(self, value: float) -> float:
        if self.logarithmic:
            return 100 * math.log(value / self.low) / math.log(self.high / self.low)
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[Tick]:
        """Round numbers, no more than five."""
        if not self.logarithmic:
            return [Tick(self(value), f"{value:g}") for value in (0, 0.25, 0.5, 0.75, 1)]
        if self.high < 8 * self.low:
            step = next(s for s in _STEPS if (self.high - self.low) / s <= 4)
            values = [step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
            return [Tick(self(value), figure(value)) for value in values]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for factors in ((1, 2, 5), (1, 3), (1,)):
            values = [f * 10.0**e for e in range(first, last + 1) for f in factors]
            shown = [v for v in values if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]
            if len(shown) <= 5:
                break
        else:
            shown = shown[:: math.ceil(len(shown) / 5)]
        return [Tick(self(value), figure(value, 2)) for value in shown]


def _up(highest: float, *, fractions: bool = False) -> tuple[float, list[Tick]]:
    """The value at the top of the plot, and ticks at round numbers from zero."""
    step = next(s for s in _STEPS if highest / s <= 4 and (fractions or s >= 1))
    top = step * max(1, math.ceil(highest / step * (1 - 1e-9)))
    values = [step * i for i in range(round(top / step) + 1)]
    return top, [Tick(HEIGHT - HEIGHT * value / top, _axis_figure(value)) for value in values]


def _axis_figure(value: float) -> str:
    return f"{value:g}" if value < 1e4 else count(round(value))
