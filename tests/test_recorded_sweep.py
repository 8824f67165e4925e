"""A sweep of four trials at a time with its record: what it leaves, and its command once more."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml
from tracking_fixtures import make_store
from tuning_fixtures import BATCH, LR, ROOT, told, write_space

from dimts.bundles.bundle import resolve_bundle
from dimts.commands.sweep_config import load_sweep
from dimts.core.errors import UserError
from dimts.core.lock import locked
from dimts.storage.pointer import read_pointer
from dimts.tracking.cursor import Cursor
from dimts.tuning.outcomes import outcome
from dimts.tuning.report import front
from dimts.tuning.study import SweepStudy
from dimts.tuning.sweep import Plan, run_sweep

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

pytestmark = pytest.mark.integration
TRIALS = 4
ON_FOUR_CORES = """
import logging, sys
import ray
from dimts.cli import run_job
from dimts.commands.tune import main
node = ray.init(
    address="local",
    num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
)
print("logs:", ray._private.worker._global_node.get_logs_dir_path())
run_job(main)
"""


class Recorded(NamedTuple):
    """A sweep that a process of its own has run.

    Attributes:
        configs, overrides: of its command.
        plan: the same.
        printed, err: what it said.
        logs: folder of what the trials' processes said.
    """

    configs: tuple[Path, Path]
    overrides: tuple[str, ...]
    plan: Plan
    printed: str
    err: str
    logs: Path

    @property
    def study(self) -> SweepStudy:
        return SweepStudy(self.plan.sweep, self.plan.folder)

    @property
    def client(self) -> MlflowClient:
        from mlflow.tracking import MlflowClient

        return MlflowClient(self.plan.tracking.uri)

    def runs(self) -> tuple[Run, list[Run]]:
        """The sweep's, and its trials' in their order."""
        experiment = self.client.get_experiment_by_name(self.plan.tracking.experiment)
        assert experiment is not None
        runs = self.client.search_runs([experiment.experiment_id])
        parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        children = [run for run in runs if run not in parents]
        assert len(parents) == 1
        return parents[0], sorted(children, key=lambda run: int(run.data.tags["dimts.trial"]))


@pytest.fixture(scope="module")
def recorded(voice_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = make_store(tmp_path_factory.mktemp("recorded"))
    space = write_space(folder, trials=TRIALS, parallel=0)
    overrides = (
        f"run.storage={folder}", "tracking.enabled=true",
        f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.artifacts={folder}/artifacts",
        "tracking.send_every_s=0.05", "training.max_steps=40",
    )  # fmt: skip
    command = [part for config in (voice_file, space) for part in ("--config", str(config))]
    command += [part for override in overrides for part in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-c", ON_FOUR_CORES, *command], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    logs, _, printed = done.stdout.partition("\n")
    plan = load_sweep([voice_file, space], overrides).plan()
    return Recorded(
        (voice_file, space), overrides, plan, printed, done.stderr, Path(logs.split()[1])
    )


def test_sweep_says_a_line_for_each_trial_and_what_it_found(recorded: Recorded) -> None:
    first, *lines = recorded.printed.splitlines()
    assert first == f"tiny-small: {TRIALS} trials"
    numbers = [f"{n}/{TRIALS}" for n in range(1, TRIALS + 1)]
    assert [line.split()[0] for line in lines[:TRIALS]] == numbers
    assert sorted(line.split()[1] for line in lines[:TRIALS]) == [f"{n:03d}" for n in range(TRIALS)]
    assert "distortion / untrained" in recorded.printed
    assert "registered as models:/tiny@candidate" in recorded.printed
    assert f"voice: {recorded.plan.folder / 'best'}\n" in recorded.printed
    assert recorded.err == ""


def test_trials_are_runs_below_the_sweeps(recorded: Recorded) -> None:
    parent, trials = recorded.runs()
    assert parent.info.run_name == "tiny-small"
    assert parent.info.status == "FINISHED"
    assert parent.data.params["sweep.trials"] == str(TRIALS)
    assert len(trials) == TRIALS
    study = recorded.study
    for run, trial in zip(trials, study.trials, strict=True):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["dimts.outcome"].startswith(outcome(trial))
        assert run.info.status == "FINISHED"
        assert run.info.run_name.startswith(f"small {trial.number:03d}: lr ")
        assert run.data.params[LR] == str(trial.params[LR])
        assert run.data.params[BATCH] == str(trial.params[BATCH])


def test_no_point_of_four_trials_at_once_is_missing(recorded: Recorded) -> None:
    _, trials = recorded.runs()
    for run, trial in zip(trials, recorded.study.trials, strict=True):
        run_dir = recorded.plan.folder / "trials" / f"{trial.number:03d}"
        events = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        written = {(k, e["step"]): v for e in events for k, v in e.get("values", {}).items()}
        kept = {
            (key, metric.step): metric.value
            for key in {key for key, _ in written}
            for metric in recorded.client.get_metric_history(run.info.run_id, key)
        }
        assert kept == written
        assert len(written) > 100
        assert Cursor(run_dir).n_waiting() == 0
    said = [f.read_text(errors="replace") for f in recorded.logs.rglob("*") if f.is_file()]
    assert len(said) > 4
    assert not [text for text in said if "database is locked" in text]


def test_table_and_plots_are_the_sweeps_artifacts(recorded: Recorded) -> None:
    parent, _ = recorded.runs()
    listed = {a.path for a in recorded.client.list_artifacts(parent.info.run_id)}
    assert {"trials.csv", "plots.html", "config.yaml"} <= listed
    page = (recorded.plan.folder / "plots.html").read_text(encoding="utf-8")
    assert "Timeline Plot" in page
    assert parent.data.metrics["best/val/total_loss"] == pytest.approx(
        front(recorded.study.study)[0].value
    )


def test_only_the_winner_keeps_its_checkpoints(recorded: Recorded) -> None:
    (winner,) = front(recorded.study.study)
    folder = recorded.plan.folder
    assert read_pointer(folder / "best") == f"trials/{winner.number:03d}"
    for trial in range(TRIALS):
        kept = [f.name for f in (folder / "trials" / f"{trial:03d}").glob("checkpoint_*")]
        assert ("checkpoint_best" in kept) == (trial == winner.number)
        assert bool(kept) == (trial == winner.number)


def test_winner_is_the_candidate_and_speaks(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dimts.commands.synthesize import main

    parent, _ = recorded.runs()
    version = recorded.client.get_model_version_by_alias("tiny", "candidate")
    assert float(version.tags["test/mcd"]) == pytest.approx(
        parent.data.metrics["test/mcd"], rel=1e-3
    )
    wav = tmp_path / "speech.wav"
    command = ["synthesize.py", "--model", "models:/tiny@candidate", "--text", "ሰላም ነው።"]
    command += ["--out", str(wav), "--tracking-uri", recorded.plan.tracking.uri]
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert wav.stat().st_size > 1000


def test_winners_settings_train_a_voice(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dimts.commands.train import main

    file = recorded.plan.folder / "best.yaml"
    (winner,) = front(recorded.study.study)
    command = ["train.py", "--config", str(recorded.configs[0]), "--config", str(file)]
    command += ["--set", "training.max_steps=2", "--set", f"run.storage={tmp_path}"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    settings = yaml.safe_load((tmp_path / "tiny" / "config.yaml").read_text())["training"]
    assert settings["optimizer"]["learning_rate"] == winner.params[LR]
    assert settings["batch_size"] == winner.params[BATCH]


def test_same_command_again_only_says_what_was_found(recorded: Recorded) -> None:
    before = told(recorded.study)
    winner = resolve_bundle(recorded.plan.folder / "best") / "model.safetensors"
    written = winner.stat().st_mtime_ns
    result = run_sweep(recorded.plan)
    assert result.is_complete
    assert result.best is not None
    assert result.metrics["test/mcd"] > 0
    assert told(recorded.study) == before
    assert winner.stat().st_mtime_ns == written
    assert len(recorded.runs()[1]) == TRIALS
    versions = recorded.client.search_model_versions("name = 'tiny'")
    assert len(versions) == 1


def test_other_space_is_another_sweep(recorded: Recorded, ray_session: None) -> None:
    """The refusal says how it may begin with what this one found."""
    overrides = [*recorded.overrides, "sweep.validations=2"]
    config = load_sweep(recorded.configs, overrides)
    with pytest.raises(UserError, match=r"was begun with sweep\.validations=4, not 2") as error:
        run_sweep(config.plan())
    assert "\n" not in str(error.value)
    words = shlex.split(str(error.value))
    given = [after for word, after in pairwise(words) if word == "--set"]
    assert len(given) == 2
    overrides += [*given, "sweep.known_good=[]", "sweep.trials=1", "tracking.enabled=false"]
    plan = load_sweep(recorded.configs, overrides).plan()
    assert plan.folder.name == "tiny-small-2"
    assert run_sweep(plan).is_complete
    (winner,) = front(recorded.study.study)
    (trial,) = SweepStudy(plan.sweep, plan.folder).trials
    assert trial.params == winner.params
    assert trial.user_attrs["step"] == winner.user_attrs["step"], "it is trained anew"
    assert resolve_bundle(plan.folder / "best" / "checkpoint_best").is_dir()


def test_sweep_that_runs_is_not_run_twice(recorded: Recorded) -> None:
    with (
        locked(recorded.plan.folder / "lock", ""),
        pytest.raises(UserError, match=rf"process {os.getpid()} runs this sweep"),
    ):
        run_sweep(recorded.plan)


def test_more_trials_go_on_from_those_that_there_are(recorded: Recorded, ray_session: None) -> None:
    """The last test of this sweep: it changes it."""
    before = told(recorded.study)[:-1]
    overrides = [*recorded.overrides, f"sweep.trials={TRIALS + 1}", "sweep.parallel=2"]
    plan = load_sweep(recorded.configs, overrides).plan()
    assert run_sweep(plan).is_complete
    after = told(recorded.study)[:-1]
    assert after[:TRIALS] == before
    assert len(after) == TRIALS + 1
    parent, trials = recorded.runs()
    assert len(trials) == TRIALS + 1
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
