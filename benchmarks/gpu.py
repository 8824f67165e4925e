"""The training loop and the mel on one CUDA device, without Ray or MLflow.

    PYTHONPATH=platform:. python benchmarks/gpu.py               # from a plain checkout
    PYTHONPATH=platform:. python benchmarks/gpu.py --quick       # does it run? A CPU will do

The loop is the real one (sampler, collation, prefetching, step) over synthetic utterances of
1.5 to 10 s. It is run twice over the same batches and counted the second time, when no shape is
new, without the first window. Frames are real ones, without padding. Durations are given, or
searched by monotonic alignment. Model FLOPs utilisation (MFU): FLOPs a frame of one forward and
backward pass (counted by torch, durations given) times real frames a second, over the device's
peak for that precision.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice, product, starmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.flops import Precision, flops_a_frame, peak_flops
from benchmarks.machine_facts import machine_facts
from benchmarks.speech_like import speech_like
from benchmarks.synthetic import MEAN, STD, padding_share, synthetic_corpus, synthetic_task
from dimts.audio.mel import MelConfig, log_mel, log_mel_torch
from dimts.cli import run_job
from dimts.core.config import Config, build_config, load_config
from dimts.families.acoustic.bundle import build_model
from dimts.families.acoustic.dataset import Corpus
from dimts.families.acoustic.model import t3
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.settings import AcousticTrainingConfig
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.training.callbacks import Callbacks
from dimts.training.precision import same_arithmetic
from dimts.training.sampler import BucketSampler, Position
from dimts.training.trainer import Trainer

MODELS = Path(__file__).resolve().parents[1] / "jobs/configs/models"
AMPS: dict[str, Precision] = {
    "off": "float32",
    "tf32": "tf32",
    "bf16": "16 bits",
    "fp16": "16 bits",
}
PHASES = ("given", "searched")
N_UTTERANCES = 4096
SYNC = "synchroniz"
OURS = "/dimts/"
"""What torch itself waits for is the checkpoint at the end."""


class Size(Config):
    """A file of `jobs/configs/models`; what it says of training is for a CPU."""

    model: ModelConfig
    training: AcousticTrainingConfig = AcousticTrainingConfig()


class Case(NamedTuple):
    """One run of the loop: what is measured at once."""

    size: str
    batch_size: int
    amp: str
    durations: str


class Setup(NamedTuple):
    """What all runs share."""

    device: torch.device
    tokenizer: Tokenizer
    mel: MelConfig
    models: dict[str, ModelConfig]
    corpora: dict[int, Corpus]
    steps: int
    warmup: int
    windows: int


@dataclass(frozen=True)
class Row:
    """Figures of a `Case`; None where they cannot be had.

    Attributes:
        frames_per_second: real frames; slowest, fastest: of the counted windows.
        search_ms: from the states' means to the durations, a step, on the device's clock.
        peak_gib: memory allocated on the device at most.
    """

    case: Case
    frames_per_second: float
    slowest: float
    fastest: float
    step_ms: float
    data_wait_share: float
    search_ms: float | None
    peak_gib: float | None
    flops_a_frame: float
    mfu: float | None


class Clock(Callbacks):
    """`Callbacks` that note the time and the wait for data at the end of each window."""

    def __init__(self, device: torch.device):
        self._device = device
        self.trainer: Trainer
        self.marks: list[float] = []
        self.waited: list[float] = []

    def log(self, values: dict[str, float], step: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.marks.append(time.perf_counter())
        self.waited.append(self.trainer.seconds["data"])


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    setup = _setup(options)
    facts = machine_facts(("torch", "numpy", "numba"))
    rows, failed = _measure_all(options, setup)
    syncs = _host_syncs(setup, options) if setup.device.type == "cuda" else {}
    mels = _measure_mel(setup, seconds=20 if options.quick else 600)
    print(_markdown(rows, failed, setup, facts))
    print(_markdown_mel(mels))
    if syncs:
        print("\nWhere the CPU waits for the device, times a step (durations searched):\n")
        print("\n".join(f"- {place}: {times:.1f}" for place, times in syncs.items()))
    if options.json:
        result = {**facts, "loop": [asdict(r) for r in rows], "failed": failed, "mel": mels}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**result, "syncs": syncs}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["small", "base"], metavar="SIZE")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--amp", nargs="+", choices=list(AMPS), default=list(AMPS))
    parser.add_argument("--durations", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--steps", type=int, default=10, help="in a window (10)")
    parser.add_argument("--warmup", type=int, default=1, help="windows not counted (1)")
    parser.add_argument("--windows", type=int, default=4, help="counted ones (4)")
    parser.add_argument("--quick", action="store_true", help="tiny model, few steps, one thread")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    if options.quick:
        options.sizes, options.batch_sizes, options.amp = ["tiny"], [4], ["off", "bf16"]
        options.steps, options.warmup, options.windows = 2, 1, 2
        torch.set_num_threads(1)
    for amp in ("fp16", "tf32"):
        if not torch.cuda.is_available() and amp in options.amp:
            options.amp = [other for other in options.amp if other != amp]
            print(f"{amp} is left out: it needs a CUDA device", file=sys.stderr)
    if min(options.steps, options.warmup, options.windows, *options.batch_sizes) < 1:
        parser.error("--steps, --warmup, --windows and --batch-sizes must be at least 1")
    return options


def _setup(options: argparse.Namespace) -> Setup:
    tokenizer = Tokenizer.from_language(load_language("am"), TextConfig(language="am"))
    mel = MelConfig()
    models = {s: load_config(Size, [MODELS / f"{s}.yaml"]).model for s in options.sizes}
    n = 64 if options.quick else N_UTTERANCES
    states = {m.states_per_token for m in models.values()}
    corpora = {s: synthetic_corpus(n, tokenizer, mel, s) for s in states}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    windows = options.warmup, options.windows
    return Setup(device, tokenizer, mel, models, corpora, options.steps, *windows)


def _measure_all(options: argparse.Namespace, setup: Setup) -> tuple[list[Row], dict[str, str]]:
    """A row for each case; why there is none for those that failed."""
    rows: list[Row] = []
    failed: dict[str, str] = {}
    flops: dict[tuple[str, int], float] = {}
    met: set[tuple[str, int, str]] = set()
    for case in starmap(
        Case, product(options.sizes, options.batch_sizes, options.amp, options.durations)
    ):
        name, key = " ".join(map(str, case)), (case.size, case.batch_size)
        try:
            if key not in flops:
                flops[key] = _flops_a_frame(case, setup)
            if (shapes := (*key, case.amp)) not in met and setup.device.type == "cuda":
                _train(case, setup)  # cuDNN plans its convolutions for each shape
                met.add(shapes)
            rows.append(_measure(case, setup, flops[key]))
            print(f"{name}: {rows[-1].frames_per_second:,.0f} frames/s", file=sys.stderr)
        except torch.OutOfMemoryError:
            failed[name] = "out of memory"
        gc.collect()
    return rows, failed


def _measure(case: Case, setup: Setup, flops: float) -> Row:
    cuda = setup.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setup.device)
    with _timed_search(setup.device) as search_ms:
        clock = _train(case, setup)
    first = setup.warmup
    frames = _real_frames(case, setup).reshape(-1, setup.steps).sum(1)[first:]
    seconds = np.diff(clock.marks)[first - 1 :]
    speed = float(frames.sum() / seconds.sum())
    searches = [ms() for ms in search_ms[first * setup.steps :]]
    peak = peak_flops(setup.device, AMPS[case.amp])
    return Row(
        case=case,
        frames_per_second=speed,
        slowest=float((frames / seconds).min()),
        fastest=float((frames / seconds).max()),
        step_ms=float(1000 * seconds.sum() / (setup.steps * setup.windows)),
        data_wait_share=float((clock.waited[-1] - clock.waited[first - 1]) / seconds.sum()),
        search_ms=float(np.mean(searches)) if searches else None,
        peak_gib=torch.cuda.max_memory_allocated(setup.device) / 2**30 if cuda else None,
        flops_a_frame=flops,
        mfu=speed * flops / peak if peak else None,
    )


class Watch(Clock):
    """A `Clock` that lets torch warn of each wait for the device, after the first window."""

    def log(self, values: dict[str, float], step: int) -> None:
        super().log(values, step)
        torch.cuda.set_sync_debug_mode("warn")


def _train(case: Case, setup: Setup, make_clock: type[Clock] = Clock) -> Clock:
    """Run the loop: windows to warm up, then those that count."""
    settings = {
        "seed": 0,
        "max_steps": _n_steps(setup),
        "batch_size": case.batch_size,
        "amp": case.amp,
        "log_every": setup.steps,
        "validate_every": 0,
        "sample_every": 0,
        "checkpoint_every": 0,
        "aligner": {"fixed_share": float(case.durations == "given")},
    }
    config = build_config(AcousticTrainingConfig, settings)
    task = synthetic_task(_model(case, setup), _corpus(case, setup), config)
    clock = make_clock(setup.device)
    with tempfile.TemporaryDirectory(prefix="dimts-gpu-") as folder:
        clock.trainer = Trainer(task, config, Path(folder), clock)
        clock.trainer.run()
    assert not clock.trainer.state.progress.skipped, (
        "a loss was not finite: the times are no measure"
    )
    return clock


def _model(case: Case, setup: Setup) -> T3:
    torch.manual_seed(0)
    mean = torch.full((setup.mel.n_mels,), MEAN)
    std = torch.full((setup.mel.n_mels,), STD)
    return build_model(setup.models[case.size], setup.tokenizer, mean, std).to(setup.device)


def _corpus(case: Case, setup: Setup) -> Corpus:
    full = setup.corpora[setup.models[case.size].states_per_token]
    corpus = Corpus(full.utterances, full.tokens)
    corpus.durations = full.durations if case.durations == "given" else None
    return corpus


def _batches(case: Case, setup: Setup) -> list[list[int]]:
    """The batches of all steps; the sampler's sequence depends on the seed alone."""
    n_frames = _corpus(case, setup).utterances.n_frames
    sampler = BucketSampler(n_frames, case.batch_size, seed=0)
    return [batch for _, batch in islice(sampler.following(Position(0, 0)), _n_steps(setup))]


def _n_steps(setup: Setup) -> int:
    return setup.steps * (setup.warmup + setup.windows)


def _real_frames(case: Case, setup: Setup) -> NDArray[np.int64]:
    n_frames = _corpus(case, setup).utterances.n_frames
    return np.array([n_frames[batch].sum() for batch in _batches(case, setup)])


def _flops_a_frame(case: Case, setup: Setup) -> float:
    """Of the step that is nearest to the mean."""
    corpus, batches = _corpus(case._replace(durations="given"), setup), _batches(case, setup)
    n_frames = corpus.utterances.n_frames
    padded = np.array([n_frames[b].max() * len(b) for b in batches])
    nearest = batches[int(np.abs(padded - padded.mean()).argmin())]
    return flops_a_frame(_model(case, setup), corpus.collate(nearest).to(setup.device))


@contextmanager
def _timed_search(device: torch.device) -> Iterator[list[Callable[[], float]]]:
    """Inside, each alignment search adds what says its milliseconds afterwards."""
    taken: list[Callable[[], float]] = []
    align = t3.align

    def timed(*arguments: Any) -> torch.Tensor:
        ends = [_mark(device)]
        durations = align(*arguments)
        ends.append(_mark(device))
        taken.append(lambda: _milliseconds(*ends))
        return durations

    vars(t3)["align"] = timed
    try:
        yield taken
    finally:
        vars(t3)["align"] = align


def _mark(device: torch.device) -> torch.cuda.Event | float:
    """Now, on the device's clock."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _milliseconds(start: Any, end: Any) -> float:
    if isinstance(start, float):
        return 1000 * (end - start)
    return float(start.elapsed_time(end))


def _host_syncs(setup: Setup, options: argparse.Namespace) -> dict[str, float]:
    """How often a step makes the CPU wait for the device, by place in the code."""
    case = Case(options.sizes[0], options.batch_sizes[0], "bf16", "searched")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _train(case, setup, Watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        f"{Path(w.filename).parent.name}/{Path(w.filename).name}:{w.lineno}"
        for w in caught
        if SYNC in str(w.message) and OURS in w.filename
    )
    steps = _n_steps(setup) - setup.steps
    return {place: n / steps for place, n in places.most_common()}


def _measure_mel(setup: Setup, seconds: int) -> dict[str, dict[str, float]]:
    """x real time of the mel on a core and on the device, and the largest difference."""
    each, sample_rate = 5, setup.mel.sample_rate
    waves = np.stack([speech_like(each, sample_rate, seed=k) for k in range(4)])
    waves = np.tile(waves, (seconds // each // len(waves), 1))
    expected = log_mel(waves[0], setup.mel)
    waves_BS = torch.from_numpy(waves)
    on_device_BS = waves_BS.to(setup.device)
    ways: dict[str, Callable[[], Any]] = {
        "`log_mel`, one CPU core": lambda: [log_mel(wave, setup.mel) for wave in waves],
        f"`log_mel_torch`, {setup.device.type}, waves there": lambda: log_mel_torch(
            on_device_BS, setup.mel
        ),
        f"`log_mel_torch`, {setup.device.type}, from memory and back": lambda: log_mel_torch(
            waves_BS.to(setup.device), setup.mel
        ).cpu(),
    }
    results = {}
    for name, way in ways.items():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with same_arithmetic(setup.device, "off"):
            first = torch.as_tensor(way()[0]).cpu().numpy()
            times = sorted(_seconds(way, setup.device) for _ in range(5))
        torch.set_num_threads(threads)
        speed = len(waves) * each / times[len(times) // 2]
        results[name] = {"x_real_time": speed, "max_abs": float(np.abs(first - expected).max())}
    return results


def _seconds(way: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _markdown(
    rows: list[Row], failed: dict[str, str], setup: Setup, facts: dict[str, object]
) -> str:
    lines = [
        "| size | batch | AMP | durations | frames/s | slowest - fastest window | step, ms "
        "| waiting for data | search, ms | search, share | peak memory, GiB | MFU |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            *map(str, row.case),
            f"{row.frames_per_second:,.0f}",
            f"{row.slowest:,.0f} - {row.fastest:,.0f}",
            f"{row.step_ms:.1f}",
            f"{row.data_wait_share:.1%}",
            "" if row.search_ms is None else f"{row.search_ms:.1f}",
            "" if row.search_ms is None else f"{row.search_ms / row.step_ms:.1%}",
            "" if row.peak_gib is None else f"{row.peak_gib:.1f}",
            "" if row.mfu is None else f"{row.mfu:.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {case}: {reason}" for case, reason in failed.items())]
    if rows and rows[0].mfu is None:
        lines.append("- MFU left out: the peak of this device is not known to benchmarks.flops")
    flops = {row.case.size: row.flops_a_frame for row in rows}
    n_frames = next(iter(setup.corpora.values())).utterances.n_frames
    padding = {
        size: padding_share(n_frames, BucketSampler(n_frames, size, seed=0).batches(0))
        for size in sorted({row.case.batch_size for row in rows})
    }
    facts = {
        "MFLOPs a frame, forward and backward": ", ".join(
            f"{size} {value / 1e6:.1f}" for size, value in flops.items()
        ),
        "padding, share of frames": ", ".join(f"batch {b} {p:.1%}" for b, p in padding.items()),
        "steps": f"{setup.windows} windows of {setup.steps}, {setup.warmup} more before them "
        "not counted",
        **facts,
    }
    return "\n".join([*lines, *(f"- {key}: {value}" for key, value in facts.items())])


def _markdown_mel(mels: dict[str, dict[str, float]]) -> str:
    lines = ["", "| mel | x real time | largest difference |", "| --- | --- | --- |"]
    for name, figures in mels.items():
        lines.append(f"| {name} | {figures['x_real_time']:,.0f} | {figures['max_abs']:.1e} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_job(main)
