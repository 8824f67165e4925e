"""Judges among held-out metrics, objectives of sweeps and reasons against a promotion.

The judges here are those that need no package: the tests of `test_judges.py` let the others hear.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dimts.bundles.bundle import resolve_bundle
from dimts.core.errors import UserError
from dimts.evaluation.judges.config import JudgesConfig
from dimts.evaluation.judges.judge import Judge
from dimts.evaluation.judges.metrics import JUDGED
from dimts.evaluation.judges.panel import load_judges
from dimts.families.acoustic import judged
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.family import FAMILY
from dimts.families.acoustic.judged import heard_metrics
from dimts.families.acoustic.settings import AcousticSettings
from dimts.features.feature_set import FeatureSet

CPU = torch.device("cpu")
DISTORTION = "judges={names: [distortion], sentences: 2, decides: wave_mcd}"


@pytest.fixture
def trained(settings: Callable[..., AcousticSettings]) -> AcousticSettings:
    """A tiny voice with the judge of distortion, after two steps."""
    from training_fixtures import run

    of_run = settings("judged", DISTORTION, "training.max_steps=2", "training.validate_every=2")
    run(of_run)
    return of_run


def test_held_out_metrics_have_the_recordings_own_beside(trained: AcousticSettings) -> None:
    bundle = resolve_bundle(trained.run_dir)
    metrics, _ = FAMILY.held_out(trained, bundle, CPU)
    assert metrics["test/recorded_wave_mcd"] == pytest.approx(0, abs=1e-3)
    assert 0 < metrics["test/copied_wave_mcd"] < metrics["test/wave_mcd"]
    found = FAMILY.measure(trained, bundle, ["val/wave_mcd"], {}, CPU)
    assert found.keys() == {"val/wave_mcd"}
    measured = FAMILY.for_promotion(trained, CPU)(bundle, "it", True)
    assert measured.decides and measured.decides.name == "wave_mcd"
    tests = open_data(trained).features[0].split("test")
    assert list(measured.ids) == tests.ids[:2]
    assert measured.values.mean() == pytest.approx(measured.metrics["wave_mcd"])


def test_recordings_that_are_gone_cost_no_voice(
    trained: AcousticSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = open_data(trained)
    there = data.features[0].manifest
    corpus = there.corpus.model_copy(update={"path": tmp_path / "gone"})
    gone = FeatureSet(data.features[0].folder, there.model_copy(update={"corpus": corpus}))
    bundle = resolve_bundle(trained.run_dir)
    assert heard_metrics(trained, data._replace(features=(gone,)), bundle, CPU) == {}
    assert "not judged: " in caplog.text and "cannot be read" in caplog.text


def test_judge_that_is_not_installed_is_told_before_training(
    trained: AcousticSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distillmos", None)
    judges = JudgesConfig(names=("naturalness",))
    with pytest.raises(UserError, match="pip install"):
        FAMILY.prepare_inputs(trained.model_copy(update={"judges": judges}))


def test_objective_without_its_judge_is_refused(
    settings: Callable[..., AcousticSettings],
) -> None:
    with pytest.raises(UserError, match=r"val/cer needs the judge recognition in judges\.names"):
        FAMILY.shared_inputs([settings("searched", DISTORTION)], ["val/cer"])
    FAMILY.shared_inputs([settings("searched", DISTORTION)], ["val/wave_mcd"])


@pytest.mark.parametrize(
    ("allowed", "ours", "theirs", "expected"),
    [
        ({"cer": 1.0}, {"cer": 5.0}, {"cer": 4.5}, None),
        ({"cer": 1.0}, {"cer": 6.0}, {"cer": 4.5}, "6.0, the champion's 4.5; at most 1 worse"),
        ({"cer": 1.0}, {"cer": 6.0, "recorded_cer": 2.0}, None, "the recordings' 2.0"),
        ({"naturalness": 0.1}, {"naturalness": 3.0}, {"naturalness": 3.05}, None),
        ({"naturalness": 0.1}, {"naturalness": 3.0}, {"naturalness": 3.2}, "is 3.00, the champ"),
        ({"naturalness": 0.1}, {"naturalness": 4.0}, {"naturalness": 3.2}, None),
        ({"naturalness": 0.1}, {"naturalness": np.nan}, {"naturalness": 3.2}, "is nan"),
        ({"naturalness": 0.1}, {}, {"naturalness": 3.2}, "not measured beside the champion's"),
        ({}, {"cer": 90.0}, {"cer": 1.0}, None),
    ],
)
def test_what_got_worse_is_held_against_a_candidate(
    allowed: dict[str, float],
    ours: dict[str, float],
    theirs: dict[str, float] | None,
    expected: str | None,
    settings: Callable[..., AcousticSettings],
) -> None:
    judges = JudgesConfig(names=("recognition", "naturalness"), not_worse=allowed)
    of_run: Any = settings("any").model_copy(update={"judges": judges})
    found = FAMILY.regressions(of_run, ours, theirs)
    assert len(found) == (0 if expected is None else 1)
    assert expected is None or expected in found[0]


def test_every_judged_metric_has_a_row_and_an_objective() -> None:
    names = [metric.name for metric in FAMILY.metrics]
    assert len(names) == len(set(names))
    for metric in JUDGED:
        assert {metric.name, f"recorded_{metric.name}", f"val/{metric.name}"} <= {*names}
        objective = next(m for m in FAMILY.metrics if m.name == f"val/{metric.name}")
        assert objective.direction == metric.direction
        assert objective.when == "measured"


def test_judge_chooses_the_best_checkpoint_and_ends_a_run(
    settings: Callable[..., AcousticSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    from training_fixtures import run

    loaded: list[JudgesConfig] = []

    def load(config: JudgesConfig, device: torch.device, threads: int) -> list[Judge]:
        loaded.append(config)
        return load_judges(config, device, threads)

    monkeypatch.setattr(judged, "load_judges", load)
    of_run = settings(
        "chosen", "judges={names: [distortion], sentences: 2, chooses: wave_mcd}",
        "training.max_steps=12", "training.validate_every=1", "training.patience=2",
    )  # fmt: skip
    listener, result = run(of_run)
    heard = {step: v["val/wave_mcd"] for step, v in listener.values.items() if "val/wave_mcd" in v}
    assert heard.keys() >= {0, 1, 2}
    assert len(loaded) == 1
    best = min((step for step in heard if step), key=lambda step: heard[step])
    assert result.best["val/wave_mcd"] == heard[best]
    assert result.status == "finished" or result.step == best + 2


def test_run_goes_on_with_a_judge_that_chooses(settings: Callable[..., AcousticSettings]) -> None:
    from training_fixtures import run

    two_more = ("training.max_steps=4", "training.validate_every=2")
    _, before = run(settings("later", *two_more), stop_after=2)
    assert before.best and "val/wave_mcd" not in before.best
    judges = "judges={names: [distortion], sentences: 2, chooses: wave_mcd}"
    _, result = run(settings("later", *two_more, judges))
    assert result.best.keys() >= {"val/wave_mcd"}


def test_poor_trials_are_stopped_by_the_judge_that_chooses(
    settings: Callable[..., AcousticSettings],
) -> None:
    assert FAMILY.selection(settings("loss")) == FAMILY.metrics[0]
    heard = settings("heard", "judges={names: [naturalness], chooses: naturalness}")
    assert FAMILY.selection(heard).name == "val/naturalness"
    assert FAMILY.selection(heard).direction == "maximize"
