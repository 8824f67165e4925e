"""Runs of the training loop in the test's own process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dimts.bundles.bundle import WEIGHTS, sha256
from dimts.families.acoustic.data import Data, open_data
from dimts.families.acoustic.dataset import Corpus
from dimts.families.acoustic.flat_start import ensure_durations, read_durations
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.task import initial_model, task_of
from dimts.features.feature_set import read_batches
from dimts.features.manifest import MANIFEST
from dimts.launch.settings import Launch
from dimts.training import trainer
from dimts.training.callbacks import Callbacks
from dimts.training.config import TrainingConfig
from dimts.training.progress import Result
from dimts.training.task import Task

FILES = ("model.safetensors", "trainer_state.pt", "config.yaml", "tokenizer.json")


class Listener(Callbacks):
    """Remembers what it is told, and asks to stop after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.values: dict[int, dict[str, float]] = {}
        self.reports: list[tuple[dict[str, float], Path | None]] = []
        self.sampled: list[int] = []
        self.told: list[str] = []
        self.steps = 0
        self._stop_after = stop_after

    def log(self, values: dict[str, float], step: int) -> None:
        self.values.setdefault(step, {}).update(values)

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        self.reports.append((metrics, checkpoint))

    def sample(self, task: Task, step: int) -> None:
        assert not task.model.training
        self.sampled.append(step)

    def notify(self, text: str) -> None:
        self.told.append(text)

    def should_stop(self) -> bool:
        self.steps += 1
        return self._stop_after is not None and self.steps >= self._stop_after

    def curve(self, key: str) -> list[float]:
        """A metric's values in the order of steps."""
        return [values[key] for _, values in sorted(self.values.items()) if key in values]


class Job(NamedTuple):
    """What `run_training` hands to the trainer."""

    task: Task
    config: TrainingConfig
    run_dir: Path
    max_threads: int = 0

    @property
    def model(self) -> T3:
        """What is trained."""
        assert isinstance(self.task.model, T3)
        return self.task.model

    @property
    def train(self) -> Corpus:
        """What it is trained on."""
        assert isinstance(self.task.train, Corpus)
        return self.task.train

    def of(self, **changes: Any) -> Job:
        """The same with another task."""
        return self._replace(task=replace(self.task, **changes))


def acoustic(launch: Launch) -> AcousticSettings:
    """The settings of a launch of the acoustic family."""
    assert isinstance(launch.settings, AcousticSettings)
    return launch.settings


def make_job(
    settings: AcousticSettings, change: Callable[[Data], Corpus] = lambda data: data.train
) -> Job:
    """What `run_training` hands to the trainer, with the training split as `change` makes it."""
    data = open_data(settings)
    if settings.training.aligner.fixed_share > 0:
        ensure_durations(settings, data)
        data.train.durations = read_durations(settings, data)
    task = task_of(settings, data._replace(train=change(data)), initial_model(settings, data))
    return Job(task, settings.training, settings.run_dir)


def train(job: Job, callbacks: Callbacks) -> Result:
    """Train, or go on with, a job."""
    return trainer.train(job.task, job.config, job.run_dir, callbacks, job.max_threads)


def run(settings: AcousticSettings, stop_after: int | None = None) -> tuple[Listener, Result]:
    """Train, or go on with, the run of `settings.run_dir`."""
    listener = Listener(stop_after)
    return listener, train(make_job(settings), listener)


def assert_same_bits_when_stopped(settings_of: Callable[[str], AcousticSettings]) -> None:
    """A run that is stopped and started again ends with the weights of one that is not.

    Args:
        settings_of: those of a run of more than five steps, by its name.
    """
    _, whole = run(settings_of("whole"))
    assert run(settings_of("parted"), stop_after=5)[1].status == "stopped"
    _, parted = run(settings_of("parted"))
    assert whole.checkpoint and parted.checkpoint
    assert sha256(whole.checkpoint / WEIGHTS) == sha256(parted.checkpoint / WEIGHTS)


class Poisoned:
    """Utterances of which some have a mel that is not a number."""

    def __init__(self, utterances: Any, bad: set[str]) -> None:
        self.ids, self.texts = utterances.ids, utterances.texts
        self.n_frames: NDArray[np.int64] = utterances.n_frames
        self._utterances, self._bad = utterances, bad

    def __len__(self) -> int:
        return len(self.ids)

    def mel(self, index: int) -> NDArray[np.float32]:
        mel: NDArray[np.float32] = self._utterances.mel(index)
        return np.full_like(mel, np.nan) if self.ids[index] in self._bad else mel


def with_a_long_test(features: Path, target: Path) -> str:
    """A copy of features in which one test utterance has the text of forty; its id."""
    shutil.copytree(features, target)
    manifest = json.loads((target / MANIFEST).read_text())
    shard = manifest["splits"]["test"]["shards"][0]
    schema, batches = read_batches(features / shard["name"])
    rows = pa.Table.from_batches(batches, schema)
    for name in ("text", "raw_text"):
        texts = rows[name].to_pylist()
        texts[0] = " ".join([texts[0]] * 40)
        rows = rows.set_column(schema.get_field_index(name), schema.field(name), [texts])
    with pa.ipc.new_file(str(target / shard["name"]), schema) as writer:
        writer.write_table(rows)
    shard["n_bytes"] = (target / shard["name"]).stat().st_size
    (target / MANIFEST).write_text(json.dumps(manifest))
    return str(rows["id"][0].as_py())


def poisoned(bad: set[str]) -> Callable[[Data], Corpus]:
    """A change for `make_job`."""

    def change(data: Data) -> Corpus:
        corpus = Corpus(Poisoned(data.train.utterances, bad), data.train.tokens)
        corpus.durations = data.train.durations
        return corpus

    return change
