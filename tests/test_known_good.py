"""A sweep whose choices are others begins with the best settings of the one before it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from optuna.storages import RDBStorage
from s3_fixtures import put

from dimts.core.config import build_config
from dimts.core.errors import ConfigError, UserError
from dimts.tuning.config import SweepConfig
from dimts.tuning.known_good import known_good
from dimts.tuning.outcomes import is_known_good
from dimts.tuning.study import STUDY_FILE, Ending, SweepStudy

if TYPE_CHECKING:
    from dimts.launch.settings import Launch
    from dimts.storage.paths import StoragePath

pytest_plugins = ("s3_fixtures",)

LR = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
FREEZE = {"type": "categorical", "choices": [0, "n_base", [0, 1]]}
POINTS: list[dict[str, Any]] = [
    {"lr": 1e-4, "freeze": 0},
    {"lr": 1e-3, "freeze": [0, 1]},
    {"lr": 1e-2, "freeze": "n_base"},
    {"lr": 2e-2, "freeze": "n_base"},
    {"lr": 3e-2, "freeze": 0},
]
LOSSES = (3.0, 2.0, 1.0, None, 5.0)
"""What the trials reach; one is stopped early. From the best on: 2, 1, 0, 4."""


def config(**changes: Any) -> SweepConfig:
    settings: dict[str, Any] = {"name": "t", "trials": 5, "parallel": 1, "early_stopping": None}
    return build_config(SweepConfig, settings | {"space": {"lr": LR, "freeze": FREEZE}} | changes)


def launch(number: int, values: Mapping[str, Any]) -> Launch:
    """As a sweep checks a setting: this voice cannot have one of them."""
    if values.get("lr") == 1e-3:
        raise ConfigError("sweep.space: lr: does not go with this voice")
    return None  # type: ignore[return-value]  # nothing is launched here


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder of a sweep that has ended."""
    folder = tmp_path / "an old sweep"
    folder.mkdir()
    study = SweepStudy(config(name="old", known_good=POINTS), folder)
    for point, loss in zip(POINTS, LOSSES, strict=True):
        assignment = study.next()
        assert assignment is not None
        assert assignment.values == point
        reached = {} if loss is None else {"val/total_loss": loss}
        kind = "stopped early" if loss is None else "finished"
        study.end(assignment.number, Ending(kind, reached, 1, 1, 1.0))  # type: ignore[arg-type]
    return folder


def anywhere(number: int, values: Mapping[str, Any]) -> Launch:
    return None  # type: ignore[return-value]  # nothing is launched here


def test_best_settings_that_fit_come_best_first_and_the_others_are_told(
    old: Path, tmp_path: Path
) -> None:
    points, line = known_good(config(known_good_from=old), tmp_path, anywhere)
    assert points == [POINTS[2], POINTS[1], POINTS[0]]
    assert line == f"known good from {old}: trials 2, 1, 0"

    space = {"lr": LR, "freeze": {"type": "categorical", "choices": [0, 0.5, [0, 1]]}}
    fewer = config(known_good_from=old, known_good_best=2, space=space)
    points, line = known_good(fewer, tmp_path, launch)
    assert points == [POINTS[0], POINTS[4]]
    assert line == (
        f"known good from {old}: trials 0, 4; 2 do not fit this space: trial 2, for one "
        "(freeze: 'n_base' is none of [0, 0.5, [0, 1]])"
    )


def test_they_are_the_first_trials_and_stay_so_without_the_old_sweep(
    old: Path, tmp_path: Path
) -> None:
    """A sweep that is started again may find the folder gone, or its best another one."""
    folder = tmp_path / "new"
    folder.mkdir()
    space = {"lr": LR, "freeze": FREEZE, "batch": {"type": "categorical", "choices": [2, 4]}}
    own = [{"lr": 5e-3}, {"lr": 1e-2, "freeze": "n_base"}]
    changed = config(known_good_from=old, known_good_best=2, known_good=own, space=space)
    RDBStorage(f"sqlite:///{folder / STUDY_FILE}")  # killed before there was a study in it
    study = SweepStudy(changed, folder, known_good(changed, folder, anywhere)[0])
    first = study.next()
    assert first is not None
    assert first.values["lr"] == 5e-3
    shutil.rmtree(old)
    points, line = known_good(changed, folder, anywhere)
    assert points == [POINTS[2], POINTS[1]]
    assert line == ""
    study = SweepStudy(changed, folder)
    begun = [study.next() for _ in range(4)]
    assert begun[0] is not None
    assert begun[0].number == 0, "it was interrupted"
    for assignment, point in zip(begun[1:3], [POINTS[2], POINTS[1]], strict=True):
        assert assignment is not None
        assert assignment.values.items() >= point.items()
        assert assignment.values["batch"] in (2, 4), "what the old space did not have is drawn"
    assert [is_known_good(trial) for trial in study.trials] == [True] * 3 + [False]


def test_old_sweep_in_object_storage_is_read_and_not_changed(
    old: Path, bucket: StoragePath, tmp_path: Path
) -> None:
    place = put(old, bucket / "old")
    before = (place / STUDY_FILE).read_bytes()
    points, _ = known_good(config(known_good_from=str(place)), tmp_path, anywhere)
    assert points == [POINTS[2], POINTS[1], POINTS[0]]
    assert (place / STUDY_FILE).read_bytes() == before == (old / STUDY_FILE).read_bytes()
    with pytest.raises(UserError, match=r"bucket-\w+/none is no sweep's folder"):
        known_good(config(known_good_from=f"{bucket}/none"), tmp_path, anywhere)


def test_sweep_of_which_nothing_can_be_used_is_one_line(old: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / STUDY_FILE).write_text("no database, of course, but longer than nothing at all" * 9)
    SweepStudy(config(), empty / "..")
    (tmp_path / STUDY_FILE).rename(empty / STUDY_FILE)
    other = {"rate": LR}
    for place, changes, message in (
        (tmp_path / "none", {}, r"none is no sweep's folder: it has no study\.db"),
        (empty, {}, r"empty has no trial that can be tried here, as none ran to its end"),
        (broken, {}, r"broken: study\.db cannot be read"),
        (old, {"space": other}, r"4 do not fit this space: trial 2, .*lr is not in the space"),
    ):
        with pytest.raises(UserError, match=message) as error:
            known_good(config(known_good_from=place, **changes), folder, anywhere)
        assert "\n" not in str(error.value)
        assert list(folder.iterdir()) == [], "it leaves nothing behind"
