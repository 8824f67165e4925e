"""`jobs/tune.py`: from a space to a voice that is registered, with real Ray and real MLflow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from s3_fixtures import names, put
from tracking_fixtures import make_store, settings_of, waiting
from tuning_fixtures import BATCH, LR, ROOT, SPACE, TuneJob, write_space

from dimts.commands import tune
from dimts.commands.sweep_config import load_sweep
from dimts.commands.tune import print_sweep
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.families.registry import get_family
from dimts.launch.start import start_run
from dimts.launch.stopping import request_stop
from dimts.storage.paths import StoragePath
from dimts.tracking.cursor import CURSOR
from dimts.tracking.event_log import EVENTS
from dimts.tracking.tracker import Tracker
from dimts.tuning.outcomes import outcome
from dimts.tuning.remote_sweep import SweepCopy
from dimts.tuning.report import front
from dimts.tuning.study import Ending, SweepStudy
from dimts.tuning.sweep import Plan, SweepTrials, run_sweep
from dimts.tuning.sweep_logger import SweepLogger

if TYPE_CHECKING:
    from conftest import BaseVoice
    from mlflow.entities import Run

pytest_plugins = ("s3_fixtures",)

FREEZE = "model.freeze_until_index"
ACCUMULATE = "training.accumulate"
Build = Callable[..., Plan]


@pytest.fixture
def planned(voice_file: Path, tmp_path: Path) -> Build:
    """``planned("training.max_steps=8", trials=3)``: a sweep of the tiny voice."""

    def build(*overrides: str, **sweep: Any) -> Plan:
        file = write_space(tmp_path, **sweep)
        where = f"run.storage={tmp_path}"
        return load_sweep([voice_file, file], [where, *overrides]).plan()

    return build


def study_of(plan: Plan) -> SweepStudy:
    return SweepStudy(plan.sweep, plan.folder)


def outcomes(plan: Plan) -> list[str]:
    return [outcome(trial) for trial in study_of(plan).trials]


def checkpoints(run_dir: Path) -> list[str]:
    return sorted(f.name for f in run_dir.glob("checkpoint_*"))


# Trials that go wrong


def test_trial_that_diverges_counts_against_its_settings_and_the_sweep_goes_on(
    planned: Build, ray_session: None
) -> None:
    wild = {**SPACE[LR], "high": 1e12}
    plan = planned(
        "training.max_bad_steps=2", trials=2, space={LR: wild},
        known_good=[{LR: 1e12}, {LR: 1e-2}],
    )  # fmt: skip
    result = run_sweep(plan)
    assert outcomes(plan) == ["diverged", "finished"]
    trial = study_of(plan).trials[0]
    assert trial.state.name == "PRUNED"
    assert "not finite" in trial.user_attrs["reason"]
    assert trial.user_attrs["step"] > 0
    assert trial.user_attrs["frames"] > 0
    assert result.best is not None
    assert result.best.number == 1


def at_odds(**more: Any) -> dict[str, Any]:
    """A space in which a batch of two cannot be cut into as many parts; each by itself can be."""
    batch = {"type": "categorical", "choices": [4, 2]}
    return {BATCH: batch, ACCUMULATE: {"type": "categorical", "choices": [4]}, **more}


def test_values_that_do_not_fit_together_fail_their_trial_alone(
    planned: Build, ray_session: None
) -> None:
    plan = planned(trials=2, space=at_odds(), known_good=[{BATCH: 2}, {BATCH: 4}])
    assert run_sweep(plan).is_complete
    assert outcomes(plan) == ["failed", "finished"]
    assert (
        "accumulate (4) must not exceed batch_size (2)"
        in (study_of(plan).trials[0].user_attrs["reason"])
    )


def test_first_trials_that_fail_alike_end_the_sweep_in_one_line(
    planned: Build, ray_session: None
) -> None:
    bad = [{LR: rate, BATCH: 2} for rate in (1e-2, 1e-3, 2e-3, 3e-3)]
    plan = planned(trials=6, space=at_odds(**{LR: SPACE[LR]}), known_good=bad)
    with pytest.raises(UserError, match=r"all for one reason: .*must not exceed") as error:
        run_sweep(plan)
    assert "\n" not in str(error.value)
    assert outcomes(plan) == ["failed"] * 3


# A space with few settings


@pytest.mark.integration
def test_two_settings_are_trained_once_each_and_the_sweep_ends(
    voice_file: Path, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    space = write_space(tmp_path, trials=6, parallel=0, space={BATCH: SPACE[BATCH]}, known_good=[])
    overrides = [
        f"run.storage={tmp_path}", "tracking.enabled=true", f"tracking.uri={store}",
        f"tracking.experiment={tmp_path.name}", f"tracking.artifacts={tmp_path}/artifacts",
    ]  # fmt: skip
    line = (
        "the space has 2 distinct settings, all were tried; sweep.trials={} would train them again"
    )
    code, out, err = TuneJob((voice_file, space), *overrides).result()
    assert code == 0, err
    said = out.splitlines()
    assert said[0] == "tiny-small: 2 trials"
    assert said[1].startswith("the space has 2 distinct settings, each of which is tried once")
    assert [word.split()[0] for word in said[2:4]] == ["1/2", "2/2"]
    assert line.format(6) in said
    assert "distortion / untrained" in out
    plan = load_sweep([voice_file, space], overrides).plan()
    trials = study_of(plan).trials
    assert outcomes(plan) == ["finished"] * 2
    assert sorted(trial.params[BATCH] for trial in trials) == [2, 4]

    configs = [part for config in (voice_file, space) for part in ("--config", str(config))]
    sets = [part for one in (*overrides, "sweep.trials=9") for part in ("--set", one)]
    monkeypatch.setattr(sys, "argv", ["tune.py", *configs, *sets])
    tune.main()
    out = capsys.readouterr().out
    assert line.format(9) in out.splitlines()
    assert "trials\n" not in out, "nothing was begun"
    assert study_of(plan).trials == trials
    runs = runs_of(plan)
    assert len(runs) == 3
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert line.format(9) in parent.data.tags["mlflow.note.content"]


# What the record has of trials


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a store; making its tables takes seconds."""
    return settings_of(make_store(tmp_path_factory.mktemp("store")), "small").uri


@pytest.fixture
def recorded_in(planned: Build, store: str, tmp_path: Path) -> Build:
    """Like `planned`, with a record, in an experiment of the test's own."""
    how = ["tracking.enabled=true", f"tracking.uri={store}"]
    how += [f"tracking.experiment={tmp_path.name}"]
    return lambda *overrides, **sweep: planned(*how, *overrides, **sweep)


def runs_of(plan: Plan) -> list[Run]:
    """All that its experiment has."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(plan.tracking.uri)
    experiment = client.get_experiment_by_name(plan.tracking.experiment)
    assert experiment
    return list(client.search_runs([experiment.experiment_id]))


def test_loss_of_a_trial_that_was_stopped_is_not_recorded_as_another_figure(
    recorded_in: Build,
) -> None:
    plan = recorded_in(objectives={"val/mcd": "minimize"})
    plan.folder.mkdir(parents=True)
    study = study_of(plan)
    assert study.next() is not None
    study.reported(0, 1, 0.5)
    study.end(0, Ending("stopped early", {"val/total_loss": 0.5}, 1, 1, 1.0))
    with SweepLogger(plan, study.study) as record:
        record.ended(study.trials[0])
        line = SweepTrials(plan, study, record, SweepCopy(plan.folder, plan.place))._line(0)
    assert "0.5000" not in line
    [run] = runs_of(plan)
    assert run.info.status == "KILLED"
    assert run.data.metrics == {}


def test_records_that_wait_in_object_storage_are_sent_when_the_sweep_has_ended(
    recorded_in: Build, bucket: StoragePath, tmp_path: Path
) -> None:
    plan = recorded_in(f"run.storage={bucket}")
    away = plan.tracking.model_copy(update={"uri": "http://127.0.0.1:1", "flush_timeout_s": 0})
    tracker = Tracker(away, tmp_path / "000")
    tracker.start("trial", {}, "")
    tracker.log_metrics({"val/total_loss": 0.5}, 3)
    tracker.finish("FINISHED")
    trial = put(tmp_path / "000", bucket / plan.place.name / "trials" / "000")
    (trial / "checkpoint_latest").write_bytes(b"checkpoint")
    plan.folder.mkdir(parents=True)
    study = study_of(plan)
    assert study.next() is not None
    for _ in range(2):  # the second time there is nothing to send
        with SweepLogger(plan, study.study) as record:
            record.conclude(None)
        runs = {run.info.run_name: run for run in runs_of(plan)}
        assert set(runs) == {"trial", plan.title}
        assert runs["trial"].data.metrics == {"val/total_loss": 0.5}
    for name in (EVENTS, CURSOR):
        (trial / name).download(tmp_path / "sent" / name)
    assert waiting(tmp_path / "sent") == []
    assert {"mlflow_run.json", "checkpoint_latest"} <= set(names(trial))


# Two objectives, two workers, part of a GPU


def test_what_goes_wrong_in_the_sweep_itself_ends_it_and_is_raised(planned: Build) -> None:
    plan = planned(trials=3)
    plan.folder.mkdir(parents=True)
    study = study_of(plan)
    with SweepLogger(plan, study.study) as record:
        trials = SweepTrials(plan, study, record, SweepCopy(plan.folder, plan.place))
        trials.on_validation(7, 1, 0.5)  # no such trial
        assert isinstance(trials.error, LookupError)
        assert trials.next() is None


@pytest.mark.parametrize(("told", "expected"), [(False, "failed"), (True, "running")])
def test_trial_that_dies_as_the_sweep_is_told_to_end_has_not_failed(
    told: bool, expected: str, planned: Build
) -> None:
    plan = planned(trials=3)
    plan.folder.mkdir(parents=True)
    study = study_of(plan)
    with SweepLogger(plan, study.study) as record:
        trials = SweepTrials(plan, study, record, SweepCopy(plan.folder, plan.place))
        assert trials.next() is not None
        if told:
            request_stop(plan.folder)
        trials.ended(0, "its process died")
    assert trials.error is None
    assert outcomes(plan) == [expected]


def test_two_objectives_have_a_front_and_a_limit(
    voice_file: Path, base: BaseVoice, tmp_path: Path, ray_session: None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    goals = {"val/mcd": "minimize", "forgetting/mcd_change": "minimize"}
    space = write_space(
        tmp_path, trials=3, parallel=0, objectives=goals, early_stopping=None,
        limits={"forgetting/mcd_change": -100.0},
        space={FREEZE: {"type": "categorical", "choices": [0, "n_base"]}, LR: SPACE[LR]},
        known_good=[{LR: 1e-4, FREEZE: "n_base"}],
    )  # fmt: skip
    overrides = [
        f"run.storage={tmp_path}", f"base.bundle={base.run_dir}",
        f"base.features=[{', '.join(map(str, base.features))}]",
    ]  # fmt: skip
    plan = load_sweep([voice_file, space], overrides).plan()
    result = run_sweep(plan)
    trials = study_of(plan).trials
    assert outcomes(plan) == ["finished"] * 3
    assert all(len(trial.values) == 2 for trial in trials)
    on_front = front(study_of(plan).study)
    for trial in on_front:
        others = [t.values for t in trials if t.number != trial.number]
        assert not any(all(a < b for a, b in zip(o, trial.values, strict=True)) for o in others)
    assert result.best is not None
    least = min(on_front, key=lambda trial: trial.values[1])
    assert result.best.number == least.number, "none keeps the limit: that which comes nearest"
    assert "forgetting/mcd_change" in result.metrics
    print_sweep(get_family("acoustic"), plan, result)
    assert "no trial keeps limits.forgetting/mcd_change=-100; " in capsys.readouterr().out
    kept = {trial.number for trial in on_front}
    for trial in trials:
        run_dir = plan.folder / "trials" / f"{trial.number:03d}"
        assert bool(checkpoints(run_dir)) == (trial.number in kept)


@pytest.mark.slow
def test_trials_of_two_workers_take_turns_on_two_cores(planned: Build, ray_session: None) -> None:
    import ray

    plan = planned(
        "ray.workers=2", "training.max_steps=60", trials=2, parallel=0,
        early_stopping={"min_trials": 2}, space={LR: SPACE[LR]},
        known_good=[{LR: 1e-2}, {LR: 1e-4}],
    )  # fmt: skip
    result = run_sweep(plan)
    assert result.is_complete
    assert outcomes(plan) == ["finished", "stopped early"]
    assert study_of(plan).trials[1].user_attrs["step"] < 60
    group = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])
    ray.get(group.ready(), timeout=60)  # all cores are free again
    ray.util.remove_placement_group(group)


@pytest.mark.slow
def test_workers_go_on_where_earlier_checkpoints_are_gone(
    voice_file: Path, tmp_path: Path, ray_session: None
) -> None:
    """Only the latest are kept, though Ray Train was told of them all."""
    how = [f"run.storage={tmp_path}", "ray.workers=1", "training.checkpoint_every=2"]
    how += ["training.keep_checkpoints=1"]
    config = load_config(VoiceConfig, [voice_file], how)
    assert start_run(config.launch(), config.ray)["step"] == 12
    assert not (config.run.run_dir / "checkpoint_epoch0_step2").exists()
    assert start_run(config.launch(), config.ray)["status"] == "finished"


SCHEDULED = """
import sys
import ray
from dimts.core.config import build_config
from dimts.core.errors import UserError
from dimts.launch.settings import RayConfig
from dimts.tuning.config import SweepConfig
from dimts.tuning.ray_tune import _resources, parallel_trials
ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
CASES = (
    (0.5, 0, 1), (0.25, 0, 1), (0.1, 0, 1), (0.1, 3, 1), (1, 0, 1), (0.25, 0, 2), (2, 0, 1)
)
for share, parallel, cpus in CASES:
    space = {"a": {"type": "int", "low": 1, "high": 2}}
    sweep = build_config(SweepConfig, {"name": "t", "space": space, "parallel": parallel,
                                       "gpus_per_trial": share, "cpus_per_trial": cpus})
    config = RayConfig(gpu=True)
    try:
        n = parallel_trials(sweep, config)
    except UserError as error:
        print("refused", error)
        continue
    needs = _resources(sweep, config)
    groups = [ray.util.placement_group([needs]) for _ in range(n)]
    ray.get([group.ready() for group in groups])
    print(share, n, needs)
    for group in groups:
        ray.util.remove_placement_group(group)
"""


@pytest.mark.slow
def test_trials_share_a_gpu_as_far_as_it_goes() -> None:
    """Ray counts GPUs whether they are there or not; nothing is computed here."""
    done = subprocess.run(
        [sys.executable, "-c", SCHEDULED], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "0.5 2 {'CPU': 1.0, 'GPU': 0.5}",
        "0.25 4 {'CPU': 1.0, 'GPU': 0.25}",
        "0.1 4 {'CPU': 1.0, 'GPU': 0.1}",
        "0.1 3 {'CPU': 1.0, 'GPU': 0.1}",
        "1 1 {'CPU': 1.0, 'GPU': 1.0}",
        "0.25 2 {'CPU': 2.0, 'GPU': 0.25}",
        "refused a trial needs 1 CPU and 2 GPU, the cluster has 4 and 1; lower "
        "sweep.cpus_per_trial, sweep.gpus_per_trial, ray.workers or ray.cpus_per_worker",
    ]
