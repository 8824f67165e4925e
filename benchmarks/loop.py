"""The same training bare and under Ray's TorchTrainer: what Ray costs a step, and at the start.

    python benchmarks/loop.py                              # on the sample corpus, made for it
    python benchmarks/loop.py --features features/sample_am
    python benchmarks/loop.py --quick                      # does it run at all?

Both sides are ``jobs/train.py`` in a process of its own with the same environment, settings,
seed and threads; they differ in ``ray.workers`` alone, 0 or 1. They take turns (bare, Ray,
bare, Ray, ...) after an uncounted bare run that fills caches. MLflow is off, validation and
samples too; each step is logged. The first steps are not counted: Ray still starts processes of
its own beside them. Two clocks: the loop's own, which counts steps alone, and this process's,
which sees the lines of the run's metrics.jsonl come and so counts logging, checkpoints and
reports as well. Ratios are taken within a pair.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine_facts import machine_facts
from data_prep.recipes.espeak import SAMPLE_SENTENCES, read_sentences
from dimts.cli import run_job
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.environment import n_cores
from dimts.core.errors import UserError
from dimts.features.feature_set import FeatureSet
from dimts.tracking.event_log import EVENTS
from dimts.training.sampler import BucketSampler, Position

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "jobs/configs/sample_am.yaml"
TINY = ROOT / "jobs/configs/models/tiny.yaml"
POLL_S = 0.005
GOAL = 0.025
SIDES = {"bare": 0, "ray": 1}


class Settings(NamedTuple):
    """What all runs of the benchmark share.

    Attributes:
        arguments: of `jobs/train.py`.
        environment: of its process.
        storage: folder of the runs.
        frames: real frames of each step, in order.
        warmup: steps that are not counted.
        checkpoints: among the counted steps.
    """

    arguments: list[str]
    environment: dict[str, str]
    storage: Path
    frames: list[int]
    warmup: int
    checkpoints: int


@dataclass(frozen=True)
class Run:
    """One training, in seconds.

    Attributes:
        step: mean of a counted step by the loop's clock.
        loop: mean of a counted step by the wall clock: logging, checkpoints, reports with it.
        checkpoint: what the loop took beyond its steps, for each checkpoint.
        first_step: from the command to the end of the first step.
        after: from the end of the last step to the end of the process.
        total: from the command to the end of the process.
        losses: of each step.
    """

    step: float
    loop: float
    checkpoint: float
    first_step: float
    after: float
    total: float
    losses: list[float]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    machine = machine_facts(("torch", "ray", "numpy"))
    with tempfile.TemporaryDirectory(prefix="dimts-loop-") as folder:
        settings, config = _settings(options, Path(folder))
        _train("bare", "warm", settings)
        runs: dict[str, list[Run]] = {side: [] for side in SIDES}
        for number in range(options.repeats):
            for side in SIDES:
                runs[side].append(_train(side, str(number), settings))
                done = runs[side][-1]
                print(
                    f"{side} {number + 1}/{options.repeats}: {1000 * done.step:.1f} ms a step, "
                    f"{done.total:.1f} s in all",
                    file=sys.stderr,
                )
    facts = {**_training(config, settings, options.repeats), **machine}
    print(_markdown(runs, facts))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        raw = {side: [asdict(run) for run in of_side] for side, of_side in runs.items()}
        text = json.dumps({**facts, "overhead": _overheads(runs), "runs": raw}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="voice (sample_am.yaml)")
    parser.add_argument("--features", type=Path, help="prepared (default: the sample corpus)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--steps", type=int, default=100, help="counted steps a run (100)")
    parser.add_argument("--warmup", type=int, default=40, help="uncounted steps before (40)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side (5)")
    parser.add_argument("--checkpoint-every", type=int, default=25, help="steps (25)")
    parser.add_argument("--threads", type=int, default=n_cores(), help="of torch (all cores)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, a few steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.warmup, options.repeats, options.threads = 6, 2, 1, 1
        options.checkpoint_every = 4
    if min(options.warmup, options.repeats, options.threads, options.checkpoint_every) < 1:
        parser.error("--warmup, --repeats, --threads and --checkpoint-every must be at least 1")
    if options.steps <= options.checkpoint_every:
        parser.error("--steps must be above --checkpoint-every: checkpoints are measured, too")
    return options


def _settings(options: argparse.Namespace, folder: Path) -> tuple[Settings, VoiceConfig]:
    environment = {"RAY_AUTH_MODE": "disabled", **os.environ}
    if options.features is None:
        options.features = sample_features(folder, options.quick, environment)
    overrides = [
        f"prepare.features={options.features.absolute()}",
        f"run.storage={folder / 'runs'}",
        f"training.max_steps={options.warmup + options.steps}",
        f"training.checkpoint_every={options.checkpoint_every}",
        f"training.threads={options.threads}",
        "training.log_every=1",
        "training.validate_every=0",
        "training.patience=0",
        "training.adversarial=null",
        "training.sample_every=0",
        "tracking.enabled=false",
        *options.overrides,
    ]
    files = [options.config, *([TINY] if options.quick else [])]
    config = load_config(VoiceConfig, files, overrides)
    arguments = [f"--config={file}" for file in files] + [f"--set={text}" for text in overrides]
    every, frames = config.training.checkpoint_every, _frames_of_steps(config)
    # A step is logged before its checkpoint: that of the last step comes after the last line.
    checkpoints = sum(step % every == 0 for step in range(options.warmup, len(frames)))
    return Settings(
        arguments, environment, folder / "runs", frames, options.warmup, checkpoints
    ), config


def sample_features(folder: Path, quick: bool, environment: dict[str, str]) -> Path:
    """Speak the sample corpus and prepare it, in `folder`."""
    sentences, corpus, features = folder / "sentences.txt", folder / "corpus", folder / "features"
    lines = read_sentences(SAMPLE_SENTENCES)
    sentences.write_text("\n".join(lines[:40] if quick else lines), encoding="utf-8")
    _job("sample_corpus", [f"--sentences={sentences}", f"--out={corpus}"], environment)
    places = [f"--set=corpus.path={corpus}", f"--set=prepare.features={features}"]
    _job("prepare", [f"--config={CONFIG}", *places, "--set=prepare.engine=local"], environment)
    return features


def _job(name: str, arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, f"{ROOT}/jobs/{name}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    _check(name, done.returncode, done.stderr)


def _check(name: str, code: int, errors: str) -> None:
    if code:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"jobs/{name}.py ended with {code}: {last.removeprefix('error: ')}")


def _frames_of_steps(config: VoiceConfig) -> list[int]:
    """Real frames of each step's batch; the sampler's sequence depends on the seed alone."""
    n_frames = FeatureSet.open(config.prepare.features).split("train").n_frames
    sampler = BucketSampler(n_frames, config.training.batch_size, config.training.seed)
    batches = islice(sampler.following(Position(0, 0)), config.training.max_steps)
    return [int(n_frames[indices].sum()) for _, indices in batches]


def _train(side: str, number: str, settings: Settings) -> Run:
    """One run of `jobs/train.py`, watched from outside."""
    name = f"{side}-{number}"
    command = [sys.executable, f"{ROOT}/jobs/train.py", *settings.arguments]
    command += [f"--set=run.name={name}", f"--set=ray.workers={SIDES[side]}"]
    run_dir = settings.storage / name
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=settings.environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            events = list(_watch(process, run_dir / EVENTS))
        finally:
            process.terminate()  # a second Ctrl-C; without effect on one that has ended
            code = process.wait()
        ended = time.perf_counter()
        errors.seek(0)
        _check("train", code, errors.read())
    shutil.rmtree(run_dir)  # checkpoints of all repeats would add up
    steps = [(seen, e["values"]) for seen, e in events if "train/total_loss" in e.get("values", {})]
    if len(steps) != len(settings.frames) or steps[-1][1]["train/skipped_steps"]:
        raise UserError(f"run {name} did not do its {len(settings.frames)} steps; it is no measure")
    seconds = [
        frames / values["train/frames_per_second"]
        for frames, (_, values) in zip(settings.frames, steps, strict=True)
    ]
    seen = [at - started for at, _ in steps]
    in_steps = seconds[settings.warmup :]
    in_loop = seen[-1] - seen[settings.warmup - 1]
    return Run(
        step=statistics.mean(in_steps),
        loop=in_loop / len(in_steps),
        checkpoint=(in_loop - sum(in_steps)) / settings.checkpoints,
        first_step=seen[0],
        after=ended - started - seen[-1],
        total=ended - started,
        losses=[values["train/total_loss"] for _, values in steps],
    )


def _watch(process: subprocess.Popen[bytes], file: Path) -> Iterator[tuple[float, dict[str, Any]]]:
    """The lines of a run's record, each with the time it was seen, until the process ends."""
    position = 0
    while True:
        ended = process.poll() is not None
        if file.exists():
            with file.open("rb") as stream:
                stream.seek(position)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    position += len(line)
                    yield time.perf_counter(), json.loads(line)
        if ended:
            return
        time.sleep(POLL_S)


def _overheads(runs: dict[str, list[Run]]) -> dict[str, list[float]]:
    """Share that Ray adds, a value for each pair; and what two bare neighbours differ by."""
    bare, ray = runs["bare"], runs["ray"]
    return {
        "step": [r.step / b.step - 1 for b, r in zip(bare, ray, strict=True)],
        "loop": [r.loop / b.loop - 1 for b, r in zip(bare, ray, strict=True)],
        "bare_to_bare": [b.step / a.step - 1 for a, b in pairwise(bare)],
    }


def _markdown(runs: dict[str, list[Run]], facts: dict[str, object]) -> str:
    """The table, the verdict, and the facts under it."""
    shares = _overheads(runs)
    lines = [
        "| | bare | Ray Train, 1 worker | Ray adds |",
        "| --- | --- | --- | --- |",
        _row("a step, the loop's clock, ms", runs, lambda r: 1000 * r.step, shares["step"]),
        _row(
            "a step with logging and the checkpoints, wall clock, ms",
            runs, lambda r: 1000 * r.loop, shares["loop"],
        ),
        _row("a checkpoint and its report, ms", runs, lambda r: 1000 * r.checkpoint),
        _row("from the command to the end of the first step, s", runs, lambda r: r.first_step),
        _row("from the last step to the end, s", runs, lambda r: r.after),
        _row("all, s", runs, lambda r: r.total),
        "",
    ]  # fmt: skip
    overhead = statistics.median(shares["step"])
    met = "met" if overhead <= GOAL else "not met"
    lines.append(
        "Medians; ratios within a pair of neighbouring runs, in brackets their range. Goal: Ray "
        f"adds at most {GOAL:.1%} to a step: {met}."
    )
    if shares["bare_to_bare"]:
        lines.append(f"The same between neighbouring bare runs: {_percent(shares['bare_to_bare'])}")
    difference = max(
        abs(b - r)
        for bare, ray in zip(runs["bare"], runs["ray"], strict=True)
        for b, r in zip(bare.losses, ray.losses, strict=True)
    )
    lines.append(f"Largest difference in a step's loss between the two: {difference:.1g}.")
    lines += ["", *(f"- {key}: {value}" for key, value in facts.items())]
    return "\n".join(lines)


def _row(
    title: str,
    runs: dict[str, list[Run]],
    value: Callable[[Run], float],
    shares: list[float] | None = None,
) -> str:
    bare, ray = ([value(run) for run in runs[side]] for side in SIDES)
    adds = f"{statistics.median(r - b for b, r in zip(bare, ray, strict=True)):+.1f}"
    cells = [title, f"{statistics.median(bare):.1f}", f"{statistics.median(ray):.1f}"]
    return f"| {' | '.join([*cells, _percent(shares) if shares else adds])} |"


def _percent(shares: list[float]) -> str:
    low, middle, high = min(shares), statistics.median(shares), max(shares)
    return f"{100 * middle:+.2f} % ({100 * low:+.2f} ... {100 * high:+.2f})"


def _training(config: VoiceConfig, settings: Settings, repeats: int) -> dict[str, object]:
    training, total = config.training, len(settings.frames)
    return {
        "training": f"{total} steps, the first {settings.warmup} not counted, batch "
        f"{training.batch_size}, amp {training.amp}, {training.threads} torch threads, a "
        f"checkpoint every {training.checkpoint_every} steps",
        "model": f"width {config.model.width}, {config.model.encoder.layers} encoder layers, "
        f"decoder {config.model.decoder.blocks} x {config.model.decoder.channels}",
        "repeats": repeats,
    }


if __name__ == "__main__":
    run_job(main)
