"""Figures for ``benchmarks/scaling.yaml`` that any machine can measure, in a minute or two.

``python benchmarks/scaling.py --measure features/sample_am``
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from socket import socket

import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric

from benchmarks.machine_facts import machine_facts
from benchmarks.scaling import SIZES
from dimts.bundles.bundle import resolve_bundle
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.dataset import load_corpus
from dimts.families.acoustic.flat_start import ensure_durations
from dimts.families.acoustic.settings import AcousticSettings
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SPLITS
from dimts.tracking.config import TrackingConfig
from dimts.tracking.event_log import EVENTS
from dimts.tracking.ui import LOOPBACK, address, start_ui, stop
from dimts.training.checkpoint import LATEST

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "jobs/configs/sample_am.yaml"
BY = "benchmarks/scaling.py --measure"
SHORT = (
    "training.max_steps=2", "training.log_every=1", "training.batch_size=4",
    "training.validate_every=0", "training.sample_every=0", "training.patience=0",
    "training.aligner.iterations=1", "training.adversarial=null", "tracking.enabled=false",
    "ray.workers=0",
)  # fmt: skip
HERE = "this machine"
REQUESTS = 100
HASHED_BYTES = 256 * 10**6


def measure(features: Path) -> str:
    """The figures, as YAML.

    Args:
        features: prepared from a corpus that is still there.

    Raises:
        UserError: they or the corpus are not there, or a job fails.
    """
    of = FeatureSet.open(features)
    corpus = of.manifest.corpus.path
    if not (isinstance(corpus, Path) and corpus.is_dir()):
        raise UserError(f"{features}: its corpus {corpus} is not there")
    facts = machine_facts(("torch", "numpy"))
    machine = f"{facts['cpu']}, {facts['software']}, load before {facts['load before']}"
    with tempfile.TemporaryDirectory(prefix="dimts-scaling-") as folder:
        copy = Path(folder) / "features"
        shutil.copytree(features, copy, ignore=shutil.ignore_patterns("alignments", ".*"))
        values = {
            **_sizes_of_features(of),
            "prepare_cpu_s_an_hour": _prepare(of, Path(folder)),
            "hash_mb_a_s": _hash(),
            **_training_starts(copy, of),
        }
        sizes = {size: _train(size, copy, Path(folder)) for size in SIZES}
    figures = {name: _figure(value) for name, value in values.items()}
    for n, name in enumerate(("parameters", "checkpoint_bytes")):
        figures[name] = {size: _figure(of_size[n]) for size, of_size in sizes.items()}
    points = sizes["tiny"][2]
    figures["points_a_line"] = _figure(points)
    figures["request_ms"] = _figure(_request_ms(int(points)))
    found = {"machines": {HERE: machine}, "figures": figures}
    return yaml.safe_dump(found, sort_keys=False, width=1000, default_flow_style=None)


def _figure(value: float) -> dict[str, object]:
    rounded = int(value) if value == int(value) else float(f"{value:.3g}")
    return {"value": rounded, "by": BY, "machine": HERE}


def _sizes_of_features(features: FeatureSet) -> dict[str, float]:
    shards = [shard for split in features.manifest.splits.values() for shard in split.shards]
    n_frames = sum(split.n_frames for split in features.manifest.splits.values())
    return {
        "feature_bytes_a_frame": sum(shard.n_bytes for shard in shards) / n_frames,
        "shard_facts_bytes": len(shards[0].model_dump_json()),
    }


def _prepare(features: FeatureSet, folder: Path) -> float:
    """CPU seconds an hour: of a preparation, less those of one that finds nothing to do."""
    corpus = features.manifest.corpus.path
    arguments = [f"corpus.path={corpus}", f"prepare.features={folder / 'anew'}"]
    arguments += ["prepare.engine=local"]
    first, again = (_cpu_s(lambda: _job("prepare", [CONFIG], arguments)) for _ in range(2))
    return (first - again) / features.manifest.hours


def _cpu_s(action: Callable[[], object]) -> float:
    """CPU seconds of the processes that `action` starts and waits for."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    action()
    return spent() - before


def _hash() -> float:
    """MB that one core hashes in a second, from memory: a disk may be slower."""
    data = os.urandom(HASHED_BYTES)
    started = time.process_time()
    hashlib.sha256(data)
    return HASHED_BYTES / 1e6 / (time.process_time() - started)


def _training_starts(features: Path, of: FeatureSet) -> dict[str, float]:
    """What each worker, and what the first one alone, does before a training's first step."""
    overrides = [f"prepare.features={features}", "tracking.enabled=false"]
    settings = load_config(VoiceConfig, [CONFIG], overrides).launch().settings
    assert isinstance(settings, AcousticSettings)
    data = open_data(settings)  # with imports, and all that takes as long for any set
    started = time.process_time()
    again = FeatureSet.open(features)
    for split in SPLITS:
        load_corpus(again, data.tokenizer, split)
    opened = time.process_time()
    ensure_durations(settings, data)
    aligned = time.process_time()
    return {
        "flat_start_s_an_hour": (aligned - opened) / of.manifest.splits["train"].hours,
        "open_us_an_utterance": 1e6 * (opened - started) / of.manifest.n_utterances,
    }


def _train(size: str, features: Path, folder: Path) -> tuple[float, float, float]:
    """Parameters, bytes of a checkpoint, and metrics of a logged step, of a real run."""
    files = [CONFIG, ROOT / f"jobs/configs/models/{size}.yaml"]
    places = [f"prepare.features={features}", f"run.storage={folder}", f"run.name={size}"]
    _job("train", files, [*SHORT, *places])
    lines = (folder / size / EVENTS).read_text(encoding="utf-8").splitlines()
    logged = [json.loads(line).get("values", {}) for line in lines]
    (trained,) = (
        values["parameters/trained"] for values in logged if "parameters/trained" in values
    )
    points = max(len(values) for values in logged if "train/total_loss" in values)
    checkpoint = resolve_bundle(folder / size / LATEST)
    return trained, sum(file.stat().st_size for file in checkpoint.iterdir()), points


def _request_ms(points: int) -> float:
    """Of MLflow's server on SQLite, by the clock, the median of requests one after another."""
    with tempfile.TemporaryDirectory(prefix="dimts-scaling-") as folder, socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
        free.close()
        store = TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", artifacts=f"{folder}/artifacts")
        with redirect_stdout(sys.stderr):
            server = start_ui(store, port, new=True)
        try:
            client = MlflowClient(address(LOOPBACK, port))
            run = client.create_run(client.create_experiment("scaling")).info.run_id
            taken = []
            for step in range(REQUESTS):
                metrics = [Metric(f"m{n}", 0.5, 0, step) for n in range(points)]
                started = time.perf_counter()
                client.log_batch(run, metrics)
                taken.append(1000 * (time.perf_counter() - started))
        finally:
            stop(server)
    return statistics.median(taken)


def _job(name: str, files: Sequence[Path], overrides: Sequence[str]) -> None:
    command = [sys.executable, str(ROOT / f"jobs/{name}.py")]
    command += [f"--config={file}" for file in files] + [f"--set={text}" for text in overrides]
    environment = {"RAY_AUTH_MODE": "disabled", **os.environ}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"jobs/{name}.py ended with {done.returncode}: {last}")
