"""The event log as rates: pauses left out, torn lines passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.report.timeline import read_timeline, throughput
from workers.storage import LocalStore


def event(epoch: int, second: float, outputs: int | None = None) -> str:
    name = {"event": "committed", "outputs": outputs, "seconds": {"compute": 2.0}} if outputs else {"event": "started"}
    time = f"2026-01-05T{10 + int(second) // 3600:02d}:{int(second) % 3600 // 60:02d}:{second % 60:06.3f}+00:00"
    return json.dumps({"time": time, "epoch": epoch, **name})


def test_rates_are_over_the_time_of_work(tmp_path: Path) -> None:
    commits = [event(0, t, 10) for t in range(10, 101, 10)] + [event(1, 5000 + t, 40) for t in range(10, 101, 10)]
    lines = [event(0, 0), *commits[:10], '{"time": "2026-01', "[1]", "null", event(1, 5000), *commits[10:]]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    timeline = read_timeline(LocalStore(tmp_path))
    assert (timeline.work_seconds, timeline.outputs, timeline.rate) == (200, 500, 2.5)
    assert timeline.seconds == {"compute": 40.0} and timeline.events == {"started": 2, "committed": 20}
    found = throughput(timeline)
    assert found is not None and found.breaks == [100] and found.total == 200
    assert found.rates == pytest.approx([1.0] * 10 + [4.0] * 10)


def test_segments_of_an_object_store_are_joined(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "000000-000000.jsonl").write_text(event(0, 0))
    (tmp_path / "events" / "000000-000001.jsonl").write_text(event(0, 10, 5) + "\n" + event(0, 20, 5))
    assert read_timeline(LocalStore(tmp_path)).outputs == 10


def test_without_a_log_there_is_no_rate(tmp_path: Path) -> None:
    timeline = read_timeline(LocalStore(tmp_path))
    assert timeline.rate is None and throughput(timeline) is None
