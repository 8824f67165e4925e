"""What every family keeps: it learns, goes on bit for bit, fits memory, freezes, loads, is searched
and promoted.

A family is added to `CASES`, and to nothing else.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tracking_fixtures import make_store

from dimts.bundles.bundle import MANIFEST, WEIGHTS, BundleError, resolve_bundle, sha256
from dimts.cli import run_job
from dimts.commands import promote
from dimts.commands.sweep_config import load_sweep
from dimts.commands.voice_config import RunnableConfig, load_voice
from dimts.families.protocol import Speaker, Vocoder
from dimts.families.registry import get_family, load_speaker
from dimts.launch.start import start_run
from dimts.launch.stopping import request_stop
from dimts.launch.training_run import run_training
from dimts.training.callbacks import Callbacks
from dimts.training.checkpoint import BEST, LATEST, find_latest
from dimts.training.loader import BatchLoader
from dimts.training.sampler import Position

ROOT = Path(__file__).parents[2]
LR = "training.optimizer.learning_rate"
LOOP = {
    "max_steps": 12, "batch_size": 4, "amp": "off", "threads": 1, "log_every": 1,
    "validate_every": 6, "checkpoint_every": 4, "sample_every": 0,
    "optimizer": {"warmup_steps": 4, "learning_rate": 1e-2},
}  # fmt: skip


class Case(NamedTuple):
    """What the contract needs to know of a family beside its name.

    Attributes:
        settings: of a small model, as YAML; or the fixture that gives its file.
        loss: the metric of training that falls.
        freeze: settings by which a part is frozen.
        frozen: beginnings of the names of the weights that then stay.
        text: that it speaks; None: it is a vocoder.
    """

    settings: dict[str, Any] | str
    loss: str
    freeze: tuple[str, ...]
    frozen: tuple[str, ...]
    text: str | None


CASES = {
    "acoustic": Case(
        "voice_file",
        "train/total_loss",
        ("model.freeze_blocks.encoder=[0]",),
        ("encoder.blocks.0.",),
        "ሰላም",
    ),
    "vocoder": Case(
        "vocoder_file",
        "train/loss",
        ("model.freeze=[pitch]",),
        ("pitch_net.",),
        None,
    ),
    "chatterbox": Case(
        "chatterbox_file",
        "train/loss",
        ("model.mode=lora", "model.freeze_until_index=200"),
        ("speech_emb.", "tfmr.layers.0.self_attn.q_proj.weight"),
        "ሰላም",
    ),
    "toy": Case(
        {"family": "toy", "training": LOOP}, "train/loss", ("model.freeze=true",), ("first.",), "hi"
    ),
}
Build = Callable[..., RunnableConfig]
KILLED = [pytest.param(n, marks=pytest.mark.slow) if n == "chatterbox" else n for n in CASES]
"""Stopped it goes on bit for bit each time; what else a kill does is the same for all."""
SWEPT = [n if n in ("acoustic", "toy") else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
"""A sweep knows metrics and settings of a family alone."""


@pytest.fixture(params=CASES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def case(family: str) -> Case:
    return CASES[family]


@pytest.fixture
def file(case: Case, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The YAML of a small model of the family; its runs are in the test's folder."""
    settings: dict[str, Any]
    if isinstance(case.settings, str):
        given: Path = request.getfixturevalue(case.settings)
        settings = yaml.safe_load(given.read_text(encoding="utf-8"))
        settings["training"] |= {"checkpoint_every": 4}
    else:
        settings = dict(case.settings)
    settings |= {
        "run": {"name": "small", "storage": str(tmp_path)},
        "ray": {"workers": 0},
        "tracking": {"enabled": False},
    }
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@pytest.fixture
def build(file: Path) -> Build:
    """``build("training.max_steps=3")``: its configuration."""
    return lambda *overrides: load_voice([file], overrides)


class Listener(Callbacks):
    """Keeps what is logged, and stops after a number of steps."""

    def __init__(self, stop_after: int = 10**9):
        self.values: dict[int, dict[str, float]] = {}
        self._left = stop_after

    def log(self, values: dict[str, float], step: int) -> None:
        self.values.setdefault(step, {}).update(values)

    def should_stop(self) -> bool:
        self._left -= 1
        return self._left <= 0


@contextmanager
def stopped_at_a_checkpoint(run_dir: Path) -> Iterator[None]:
    """Inside, the run is asked to stop as soon as it has its first checkpoint."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            if list(run_dir.glob("checkpoint_epoch*")):
                request_stop(run_dir)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def weights(run_dir: Path, pointer: str = LATEST) -> dict[str, torch.Tensor]:
    latest = find_latest(run_dir) if pointer == LATEST else resolve_bundle(run_dir / pointer)
    assert latest is not None
    return load_file(latest / WEIGHTS)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_loss_falls(build: Build, case: Case) -> None:
    listener = Listener()
    run_training(build("training.max_steps=60").launch().settings, listener)
    losses = [v[case.loss] for _, v in sorted(listener.values.items()) if case.loss in v]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_run_that_was_stopped_goes_on_bit_for_bit(build: Build) -> None:
    whole, parts = Listener(), Listener(stop_after=5)
    run_training(build("run.name=whole").launch().settings, whole)
    settings = build("run.name=parts").launch().settings
    run_training(settings, parts)
    assert find_latest(settings.run_dir).name.endswith("step5")  # type: ignore[union-attr]
    rest = Listener()
    run_training(settings, rest)
    assert same(weights(settings.run_dir), weights(settings.run_dir.parent / "whole"))
    timed = ("per_second", "data_wait")
    for step, values in rest.values.items():
        for key, value in values.items():
            assert any(part in key for part in timed) or value == whole.values[step][key], key


@pytest.mark.parametrize("family", KILLED, indirect=True)
def test_run_that_was_killed_goes_on_bit_for_bit(build: Build, file: Path) -> None:
    run_training(build("run.name=whole").launch().settings, Listener())
    run_dir = build().run.run_dir
    command = [sys.executable, "jobs/train.py", "--config", str(file)]
    # Slow enough to be killed between two checkpoints, in the middle of an epoch.
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not list(run_dir.glob("checkpoint_*_step4")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run_training(build().launch().settings, Listener())
    assert same(weights(run_dir), weights(run_dir.parent / "whole"))


def one_of_two(rank: int, settings: Any, meeting: Path) -> None:
    """A worker of a run on two."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    run_training(settings, Listener())
    torch.distributed.destroy_process_group()


@pytest.mark.integration
@pytest.mark.parametrize(
    "family",
    # Of the acoustic one tests/test_resume.py and tests/test_smoke.py hold it each time.
    [pytest.param(name, marks=pytest.mark.slow) if name != "toy" else name for name in CASES],
    indirect=True,
)
def test_two_workers_go_on_bit_for_bit(build: Build, ray_session: None, tmp_path: Path) -> None:
    """Those that nobody stops do without Ray, which takes ten times as long."""
    two = ("ray.workers=2", "ray.cpus_per_worker=1", "training.max_steps=40")
    whole = build("run.name=whole", *two)
    settings = whole.launch().settings
    get_family(whole.family).prepare_inputs(settings)
    torch.multiprocessing.spawn(  # type: ignore[attr-defined,no-untyped-call]
        one_of_two, (settings, tmp_path / "meeting"), nprocs=2
    )
    parts = build("run.name=parts", *two)
    with stopped_at_a_checkpoint(parts.run.run_dir):
        assert start_run(parts.launch(), parts.ray)["status"] == "stopped"
    assert start_run(parts.launch(), parts.ray)["status"] == "finished"
    assert same(weights(parts.run.run_dir), weights(whole.run.run_dir))


def test_no_batch_is_longer_than_the_longest(build: Build) -> None:
    """What is tried before the first step is the most that memory will be asked for."""
    config = build()
    settings = config.launch().settings
    task = get_family(config.family).task(settings, torch.device("cpu"))
    loader = BatchLoader(task, settings.training, rank=0, world_size=1, on_gpu=False)

    def size(batch: Any) -> int:
        return sum(v.numel() for v in vars(batch).values() if isinstance(v, torch.Tensor))

    longest = max(map(size, loader.longest(n_micro=1)))
    batches = loader.ahead(Position(0, 0), n_micro=1)
    try:
        for _ in range(20):
            (batch,) = next(batches).micro_batches
            assert size(batch) <= longest
    finally:
        batches.close()


def test_crops_do_not_depend_on_how_a_batch_is_shared_out(build: Build) -> None:
    settings = build().launch().settings
    data = get_family(settings.family).task(settings, torch.device("cpu")).train
    together = data.collate([4, 5], seed=(1, 2, 3))
    for row, index in enumerate((4, 5)):
        alone = data.collate([index], [4, 5], seed=(1, 2, 3))
        assert alone.size == together.size
        for name, value in vars(alone).items():
            whole = getattr(together, name)
            if isinstance(value, torch.Tensor):
                part = tuple(slice(n) for n in value.shape[1:])
                assert torch.equal(value[0], whole[row][part]), name


def test_what_is_frozen_keeps_its_bits(build: Build, case: Case) -> None:
    first = build(*case.freeze, "run.name=first", "training.max_steps=1").launch().settings
    last = build(*case.freeze, "run.name=last").launch().settings
    for settings in (first, last):
        run_training(settings, Listener())
    before, after = weights(first.run_dir), weights(last.run_dir)
    frozen = {name for name in before if name.startswith(case.frozen)}
    assert frozen
    for name in frozen:
        assert torch.equal(before[name], after[name]), name
    assert any(not torch.equal(before[name], after[name]) for name in before.keys() - frozen)


def spoken(speaker: Speaker, case: Case) -> NDArray[np.float32]:
    if case.text is not None:
        return speaker.speak(case.text)
    assert isinstance(speaker, Vocoder)
    mel_TM = np.random.default_rng(0).normal(-5, 2, (30, speaker.mel.n_mels))
    return speaker(mel_TM.astype(np.float32))


def test_bundle_speaks_again_what_it_spoke(build: Build, case: Case, tmp_path: Path) -> None:
    settings = build().launch().settings
    run_training(settings, Listener())
    best = resolve_bundle(settings.run_dir / BEST)
    moved = best.rename(tmp_path / "elsewhere")
    speaker = load_speaker(moved)
    wave = spoken(speaker, case)
    assert wave.dtype == np.float32
    assert len(wave) > 0
    assert np.isfinite(wave).all()
    assert np.array_equal(spoken(load_speaker(moved), case), wave)
    assert speaker.sample_rate > 0
    assert list(speaker.languages)


def rewrite(bundle: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change a bundle's weights, with a checksum that fits."""
    tensors = load_file(bundle / WEIGHTS)
    change(tensors)
    before = sha256(bundle / WEIGHTS)
    save_file(tensors, bundle / WEIGHTS)
    text = (bundle / MANIFEST).read_text(encoding="utf-8")
    (bundle / MANIFEST).write_text(text.replace(before, sha256(bundle / WEIGHTS)))


def test_bundle_that_does_not_fit_is_refused(build: Build) -> None:
    settings = build("training.max_steps=1").launch().settings
    run_training(settings, Listener())
    bundle = resolve_bundle(settings.run_dir / BEST)

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        name = max(tensors, key=lambda name: tensors[name].numel())
        tensors[name] = tensors[name].flatten()[:1].contiguous()

    rewrite(bundle, cut)
    with pytest.raises(BundleError, match="tensor"):
        load_speaker(bundle)
    (bundle / WEIGHTS).write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        load_speaker(bundle)
    text = (bundle / MANIFEST).read_text(encoding="utf-8")
    name = f'"family": "{settings.family}"'
    assert name in text
    (bundle / MANIFEST).write_text(text.replace(name, '"family": "unheard"'))
    with pytest.raises(BundleError, match="unheard is unknown; there are acoustic, "):
        load_speaker(bundle)


@pytest.mark.integration
@pytest.mark.parametrize("family", SWEPT, indirect=True)
def test_sweep_of_two_trials(file: Path, family: str, ray_session: None) -> None:
    from dimts.tuning.sweep import run_sweep

    metric = get_family(family).metrics[0]
    measured = next(
        m for m in get_family(family).metrics if m.name.startswith("val/") and m.when == "measured"
    )
    sweep = {
        "name": "two", "trials": 2, "parallel": 1, "validations": 2, "early_stopping": None,
        "objectives": {metric.name: metric.direction, measured.name: measured.direction},
        "space": {LR: {"type": "float", "low": 1e-9, "high": 1e-2, "log": True}},
        "known_good": [{LR: 1e-9}, {LR: 1e-2}],
    }  # fmt: skip
    space = file.with_name("space.yaml")
    space.write_text(yaml.safe_dump({"sweep": sweep}), encoding="utf-8")
    plan = load_sweep([file, space]).plan()
    result = run_sweep(plan)
    assert result.is_complete
    assert result.best is not None
    assert result.best.number == 1  # the other one learned nothing
    assert result.metrics


@pytest.mark.parametrize("family", KILLED, indirect=True)
def test_first_of_its_name_is_promoted_and_a_worse_one_is_not(
    file: Path, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    store = make_store(tmp_path / "store")
    tracked = ("tracking.enabled=true", f"tracking.uri=sqlite:///{store}/mlflow.db",
               "tracking.registered_model=small")  # fmt: skip

    def promoted(*overrides: str) -> tuple[int, str]:
        config = load_voice([file], (*tracked, *overrides))
        start_run(config.launch(), config.ray)
        sets = [part for override in (*tracked, *overrides) for part in ("--set", override)]
        loose = {
            "acoustic": ["--length-tolerance", "1000", "--max-of-mean-mel", "9"],
            "chatterbox": ["--min-text-gap=-9"],
        }.get(family, [])
        monkeypatch.setattr(sys, "argv", ["promote.py", "--config", str(file), *sets, *loose])
        with pytest.raises(SystemExit) as ended:
            run_job(promote.main)
        return int(ended.value.code or 0), capsys.readouterr().out

    status, printed = promoted("run.name=good", "training.max_steps=24")
    assert (status, "there was no champion" in printed) == (0, True), printed
    status, printed = promoted("run.name=bad", f"{LR}=1e-9")
    assert (status, "differs from the champion's" in printed) == (1, True), printed
