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
from dataclasses import asdict
from itertools import islice, product, starmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.flops import Precision, flops_a_frame, peak_flops
from benchmarks.gpu_cases import Case, Row, Setup, markdown
from benchmarks.gpu_mel import markdown_mel, measure_mel
from benchmarks.machine_facts import machine_facts
from benchmarks.synthetic import MEAN, STD, synthetic_corpus, synthetic_task
from dimts.audio.mel import MelConfig
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
    mels = measure_mel(setup, seconds=20 if options.quick else 600)
    print(markdown(rows, failed, setup, facts))
    print(markdown_mel(mels))
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


if __name__ == "__main__":
    run_job(main)
