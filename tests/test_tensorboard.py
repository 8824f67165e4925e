"""TensorBoard's curves beside the event log."""

from __future__ import annotations

import resource
import sys
import threading
from pathlib import Path

import pytest

from dimts.core.errors import UserError
from dimts.tracking.config import TrackingConfig
from dimts.tracking.tracker import Tracker

pytest_plugins = ("tracking_fixtures",)


def test_tensorboard_events_go_on_where_a_resumed_run_does(
    config: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

    from dimts.tracking.tensorboard import TensorboardWriter

    for steps in (range(1, 21), range(11, 31)):
        tracker = TensorboardWriter(tmp_path)
        for step in steps:
            tracker.log_metrics({"train/total_loss": 1 / step}, step)
        tracker.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/total_loss")] == list(range(1, 31))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'dimts\[tensorboard\]'"):
        Tracker(config.model_copy(update={"tensorboard": True}), tmp_path).start("run", {}, "")


def test_a_session_that_only_measures_leaves_tensorboard_s_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing import event_accumulator

    from dimts.tracking.tensorboard import TensorboardWriter

    trained = [({"parameters/trained": 9.0}, 0), ({"val/total_loss": 9.0}, 0)]
    trained += [({"train/total_loss": 1 / step}, step) for step in (10, 20)]
    measured = [({"forgetting/mcd": 5.0}, 0), ({"val/mcd": 4.0, "test/mcd": 4.0}, 20)]
    for points in (trained, trained + measured, measured):
        tracker = TensorboardWriter(tmp_path)
        for values, step in points:
            tracker.log_metrics(values, step)
        tracker.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    curves = {
        key: [event.step for event in events.Scalars(key)]
        for key in ("parameters/trained", "val/total_loss", "train/total_loss")
    }
    assert curves == {
        "parameters/trained": [0], "val/total_loss": [0], "train/total_loss": [10, 20],
    }  # fmt: skip


def test_full_disk_costs_tensorboard_points_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Files may not grow beyond 5000 bytes, then not at all, then as before; and not at the end."""
    from tensorboard.backend.event_processing import event_accumulator

    from dimts.tracking import tensorboard

    monkeypatch.setattr(tensorboard, "RETRY_S", 0.0)
    monkeypatch.setattr(threading, "excepthook", lambda failed: None)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = {2: 5000, 301: 0, 390: limit[0]}
    tracker = tensorboard.TensorboardWriter(tmp_path)
    other = tensorboard.TensorboardWriter(tmp_path / "other")
    try:
        for step in range(1, 401):
            if step in sizes:
                resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[step], limit[1]))
            tracker.log_metrics({"train/total_loss": 1 / step}, step)
        tracker.close()
        other.log_metrics({"train/total_loss": 1.0}, 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
        other.log_metrics({"train/total_loss": 1.0}, 2)
        other.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    told = [record.getMessage() for record in caplog.records]
    assert sum(f"{tmp_path}/tensorboard takes no more: File too large" in one for one in told) == 1
    assert sum(f"{tmp_path}/other/tensorboard takes no more" in one for one in told) == 1
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    steps = {event.step for event in events.Scalars("train/total_loss")}
    assert steps > {*range(1, 20), *range(391, 401)}
    assert not steps & {*range(320, 390)}
