"""`jobs/train.py`: bare and on Ray, stopped, killed, restarted, and its record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from tracking_fixtures import make_store

from data_prep.pipeline import prepare
from dimts.bundles.bundle import read_weights, resolve_bundle
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import build_config, load_config
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.extension.rows import TOKEN
from dimts.features.mel_extractor import MelExtractor
from dimts.launch.settings import Launch, RayConfig
from dimts.launch.start import start_run
from dimts.tracking.config import TrackingConfig
from dimts.training.checkpoint import BEST, LATEST
from dimts.tuning.config import SweepConfig

if TYPE_CHECKING:
    from conftest import BaseVoice

ROOT = Path(__file__).parents[1]
Voice = Callable[..., VoiceConfig]
CURVES = ("train/total_loss", "train/gradient_norm", "val/total_loss")


def weights(run_dir: Path) -> bytes:
    return (resolve_bundle(run_dir / LATEST) / "model.safetensors").read_bytes()


def curves(run_dir: Path) -> dict[tuple[str, int], float]:
    """(metric, step) -> value, from the run's record on disk."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [event for line in lines if "values" in (event := json.loads(line))]
    return {
        (key, event["step"]): event["values"][key]
        for event in events
        for key in CURVES
        if key in event["values"]
    }


class TrainJob:
    """`jobs/train.py` in a process of its own."""

    def __init__(self, voice_file: Path, *overrides: str) -> None:
        command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--config", str(voice_file)]
        command += [part for override in overrides for part in ("--set", override)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def signal_after_a_step(self, number: signal.Signals) -> tuple[int, str, str]:
        """Send a signal once the job has told of a step of training; how it ended.

        SIGINT goes to all processes of the job, as from Ctrl-C in a terminal.
        """
        assert self.process.stdout is not None
        told = ""
        for line in self.process.stdout:
            told += line
            if "frames/s" in line:
                break
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.result(told)

    def result(self, told: str = "") -> tuple[int, str, str]:
        out, err = self.process.communicate()
        return self.process.returncode, told + out, err


# In one process


@pytest.mark.integration
def test_run_goes_on_after_ctrl_c_term_and_kill(voice_file: Path, tmp_path: Path) -> None:
    """Each start of the same run ends otherwise; what comes out is what comes out undisturbed."""
    how = [
        "training.max_steps=200", "training.checkpoint_every=5", "training.validate_every=50",
        f"run.storage={tmp_path}",
    ]  # fmt: skip
    run_dir = tmp_path / "disturbed"
    for number in (signal.SIGINT, signal.SIGTERM):
        job = TrainJob(voice_file, *how, "run.name=disturbed")
        code, out, err = job.signal_after_a_step(number)
        assert code == 0, err
        assert "stopping after this step, with a checkpoint" in out
        assert "start it again to go on from the checkpoint" in out
        result = json.loads((run_dir / "result.json").read_text())
        assert result["status"] == "stopped"
        assert resolve_bundle(run_dir / LATEST).name.endswith(f"_step{result['step']}")
        assert (run_dir / "stop_requested").exists()

    (run_dir / "result.json").unlink()
    code, _, _ = TrainJob(voice_file, *how, "run.name=disturbed").signal_after_a_step(
        signal.SIGKILL
    )
    assert code == -signal.SIGKILL
    assert not (run_dir / "result.json").exists(), "it was over before it was killed"

    code, out, err = TrainJob(voice_file, *how, "run.name=disturbed").result()
    assert code == 0, err
    assert "finished at step 200" in out
    assert "distortion / untrained" in out

    undisturbed = load_config(VoiceConfig, [voice_file], [*how, "run.name=undisturbed"])
    start_run(undisturbed.launch(), undisturbed.ray)
    assert weights(run_dir) == weights(undisturbed.run.run_dir)
    before, after = curves(undisturbed.run.run_dir), curves(run_dir)
    assert before.items() <= after.items()


def test_run_begun_with_other_settings_is_not_gone_on_with(voice: Voice) -> None:
    config = voice("training.max_steps=2")
    start_run(config.launch(), config.ray)
    other = voice("training.max_steps=2", "training.batch_size=3")
    with pytest.raises(UserError, match=r"begun with training\.batch_size=4, not 3; .* run\.name"):
        start_run(other.launch(), other.ray)
    elsewhere = voice("training.max_steps=2", "training.threads=2", "tracking.experiment=x")
    assert start_run(elsewhere.launch(), elsewhere.ray)["status"] == "finished"


def test_figures_are_of_the_best_checkpoint(voice: Voice) -> None:
    config = voice("training.validate_every=4", "training.sample_every=6")
    result = start_run(config.launch(), config.ray)
    assert Path(result["best"]) == resolve_bundle(config.run.run_dir / BEST)
    for split in ("val", "test"):
        figures = {k: v for k, v in result["metrics"].items() if k.startswith(f"{split}/")}
        ratio = figures[f"{split}/mcd"] / figures[f"{split}/untrained_mcd"]
        assert figures[f"{split}/mcd_of_untrained"] == pytest.approx(ratio)
        assert 0 < figures[f"{split}/mcd"] < figures[f"{split}/untrained_mcd"]
        assert figures[f"{split}/utterances"] > 0
    samples = config.run.run_dir / "samples"
    names = sorted(f.name for f in samples.iterdir())
    assert names == [
        "samples.html",
        "step_000006",
        "step_000012",
    ]
    assert len(list((samples / "step_000012").glob("*.wav"))) == 2


def test_missing_features_are_one_line(voice_file: Path, tmp_path: Path) -> None:
    where = (f"run.storage={tmp_path}", f"prepare.features={tmp_path / 'none'}")
    code, out, err = TrainJob(voice_file, *where).result()
    assert code == 2
    assert out == ""
    assert err.startswith(f"error: {tmp_path / 'none'}: no such folder of features")
    assert len(err.splitlines()) == 1


# On Ray


class Group(NamedTuple):
    """A run of a number of workers, 0 for none of Ray's."""

    config: VoiceConfig
    result: dict[str, Any]

    @property
    def run_dir(self) -> Path:
        return self.config.run.run_dir


HOW = (
    "training.max_steps=8", "training.validate_every=4", "training.sample_every=8",
    "training.aligner.fixed_share=0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def groups(
    ray_session: None, voice_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Group]:
    """The same run without Ray, and by two workers with a record; tests/test_smoke.py has one."""
    folder = make_store(tmp_path_factory.mktemp("groups"))
    runs = {}
    for workers in (0, 2):
        overrides = [*HOW, f"ray.workers={workers}", f"run.name=w{workers}"]
        overrides += [f"run.storage={folder}", f"tracking.enabled={workers == 2}"]
        overrides += [f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        overrides += [f"tracking.artifacts={folder}/artifacts"]
        config = load_config(VoiceConfig, [voice_file], overrides)
        runs[workers] = Group(config, start_run(config.launch(), config.ray))
    return runs


def test_two_workers_learn_what_one_does(groups: dict[int, Group]) -> None:
    one, two = curves(groups[0].run_dir), curves(groups[2].run_dir)
    assert len(one) == 2 * 8 + 3
    assert two == pytest.approx(one, rel=1e-3)
    assert groups[2].result["status"] == "finished"
    assert groups[2].result["metrics"]["val/mcd"] == pytest.approx(
        groups[0].result["metrics"]["val/mcd"], rel=1e-2
    )


def test_workers_leave_one_set_of_checkpoints(groups: dict[int, Group]) -> None:
    for workers, group in groups.items():
        names = {f.name for f in group.run_dir.glob("checkpoint_*")}
        assert {LATEST, BEST, "checkpoint_epoch1_step8"} <= names, workers
        assert load_bundle(resolve_bundle(group.run_dir / BEST)).manifest.step in (4, 8)


def test_record_of_two_workers_is_one_run(groups: dict[int, Group]) -> None:
    from mlflow.tracking import MlflowClient

    group = groups[2]
    client = MlflowClient(group.config.tracking.uri)
    experiment = client.get_experiment_by_name(group.config.tracking.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1
    run = runs[0]
    assert run.info.status == "FINISHED"
    assert run.data.params["training.max_steps"] == "8"
    history = client.get_metric_history(run.info.run_id, "train/total_loss")
    recorded = {("train/total_loss", m.step): m.value for m in history}
    expected = curves(group.run_dir)
    assert recorded == {k: v for k, v in expected.items() if k[0] == "train/total_loss"}
    assert run.data.metrics["test/mcd"] == group.result["metrics"]["test/mcd"]
    folders = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert "samples" in folders
    samples = {
        Path(a.path).suffix for a in client.list_artifacts(run.info.run_id, "samples/step_000008")
    }
    assert samples == {".wav", ".png"}
    models = client.search_logged_models([experiment.experiment_id])
    assert len(models) == 1
    assert models[0].source_run_id == run.info.run_id


@pytest.mark.slow
def test_frozen_rows_keep_their_bits_with_two_workers(
    ray_session: None, adapted: Voice, base: BaseVoice
) -> None:
    """In rehearsal, where each batch but every second is of the very rows that are frozen."""
    how = [
        "base.rehearsal_share=0.5", "model.freeze_until_index=n_base",
        "training.max_steps=6", "training.validate_every=3", "training.optimizer.weight_decay=0.1",
        "training.optimizer.embedding_decay=0.1",
    ]  # fmt: skip
    results, ended = [], []
    for workers in (0, 2):
        config = adapted(*how, f"ray.workers={workers}", f"run.name=w{workers}")
        results.append(start_run(config.launch(), config.ray))
        ended.append(config.run.run_dir)
    before, after = (
        read_weights(resolve_bundle(run / BEST))[TOKEN] for run in (base.run_dir, ended[1])
    )
    assert torch.equal(after[: len(before)].view(torch.int32), before.view(torch.int32))
    assert (after[len(before) :] != 0).any()
    one, two = map(curves, ended)
    assert two == pytest.approx(one, rel=1e-3)
    for key in ("forgetting/mcd_es", "forgetting/mcd_change"):
        assert results[1]["metrics"][key] == pytest.approx(
            results[0]["metrics"][key], rel=1e-2, abs=1e-2
        )


@pytest.mark.slow
def test_stopped_job_on_ray_goes_on(ray_session: None, voice_file: Path, tmp_path: Path) -> None:
    """Stopped by Ctrl-C, then as `ray job stop` does it, then started on another cluster."""
    how = [
        "training.max_steps=300", "training.validate_every=150",
        f"run.storage={tmp_path}", "ray.workers=1",
    ]  # fmt: skip
    steps = [0]
    for number in (signal.SIGINT, signal.SIGTERM):
        job = TrainJob(voice_file, *how, "run.name=stopped")
        code, out, err = job.signal_after_a_step(number)
        assert code == 0, err
        assert "stopped at step" in out
        steps.append(json.loads((tmp_path / "stopped" / "result.json").read_text())["step"])
        assert steps[-2] < steps[-1] < 300

    config = load_config(VoiceConfig, [voice_file], [*how, "run.name=stopped"])
    assert start_run(config.launch(), config.ray)["step"] == 300
    bare = load_config(VoiceConfig, [voice_file], [*how, "run.name=bare", "ray.workers=0"])
    start_run(bare.launch(), bare.ray)
    assert weights(config.run.run_dir) == weights(bare.run.run_dir)


def test_mistake_on_the_workers_is_one_line_on_the_driver(voice: Voice, ray_session: None) -> None:
    config = voice("mel.f_max=7000", "ray.workers=2", "ray.max_failures=0")
    with pytest.raises(UserError, match=r"was prepared with mel\.f_max=8000"):
        start_run(config.launch(), config.ray)


def test_more_workers_than_cores_are_refused(voice: Voice, ray_session: None) -> None:
    config = voice("ray.workers=3")
    with pytest.raises(UserError, match=r"ray\.workers=3 with 1 CPU each: .* room for 2"):
        start_run(config.launch(), config.ray)


def test_cluster_that_starts_nodes_is_waited_for(
    ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from dimts.launch.ray_train import WATCHES_NODES, connected, cpus_per_worker
    from dimts.tuning.ray_tune import parallel_trials

    wish = RayConfig(workers=3, cpus_per_worker=2, gpu=True, autoscaled=True)
    with connected(wish):
        assert cpus_per_worker(wish) == 2
        assert os.environ[WATCHES_NODES] == "1"
    assert WATCHES_NODES not in os.environ, "the next cluster may be another one"
    assert capsys.readouterr().out.splitlines() == [
        "ray.workers=3 with 2 CPU and a GPU each: on the cluster's nodes there is room for 0; "
        "waiting for more",
    ]
    assert cpus_per_worker(RayConfig(workers=3, autoscaled=True)) == 1
    space = {"a": {"type": "int", "low": 1, "high": 2}}
    sweep = build_config(SweepConfig, {"name": "s", "space": space, "parallel": 5})
    assert parallel_trials(sweep, wish) == 5, "though there is room for none"
    with pytest.raises(UserError, match=r"sweep\.parallel: how many trials at a time"):
        parallel_trials(sweep.model_copy(update={"parallel": 0}), wish)


def test_credentials_reach_the_workers_and_no_file(voice: Voice) -> None:
    uri = "http://user:secret@localhost:1"
    launch = voice().launch().model_copy(update={"tracking": TrackingConfig(uri=uri)})
    assert Launch.model_validate(launch.model_dump()).tracking.uri == uri
    assert "secret" not in voice(f"tracking.uri={uri}").launch().settings.config_yaml
    assert "secret" not in str(voice(f"tracking.uri={uri}").launch().params)


def test_voice_without_held_out_utterances_is_trained_and_speaks(
    spoken_corpus: Path, voice: Callable[..., VoiceConfig], tmp_path: Path
) -> None:
    config = voice(
        "run.name=all", f"prepare.features={tmp_path}/features", "prepare.val_share=0",
        "prepare.test_share=0", "training.validate_every=0", "training.sample_every=3",
        "training.max_steps=4", "training.sample_texts=['ሰላም።']", "ray.workers=0",
    )  # fmt: skip
    prepare(config.corpus, config.text, [MelExtractor(config.mel)], config.prepare)
    assert start_run(config.launch(), config.ray)["step"] == 4
    assert (config.run.run_dir / "samples" / "step_000003" / "sentence_1.wav").exists()
