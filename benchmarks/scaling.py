"""What 1,000 hours on 64 GPUs would ask of disks, network and purse: arithmetic, nothing is tried.

    python benchmarks/scaling.py                                  # the tables of docs/scaling.md
    python benchmarks/scaling.py --set plan.hours=100 --set plan.size=small
    python benchmarks/scaling.py --measure features/sample_am     # figures of this machine

The plan, and figures of one unit each with the command that measured it, are in
``benchmarks/scaling.yaml``. What was not measured is printed as such, and so is all that follows
from it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import Field

from dimts.audio.mel import MelConfig
from dimts.cli import run_job
from dimts.core.config import Config, load_config
from dimts.features.config import PrepareConfig
from dimts.tracking.config import TrackingConfig
from dimts.training.config import TrainingConfig

FILE = Path(__file__).with_suffix(".yaml")
WAV_BYTES = 2
FLOAT_BYTES = 4
HOUR_S = 3600
PREPARE = PrepareConfig(features=Path("features"))
TRAINING = TrainingConfig()
MEL = MelConfig()

Size = Literal["tiny", "small", "base"]
SIZES: tuple[Size, ...] = get_args(Size)


class Figure(Config):
    """A measured one.

    Attributes:
        value: None while it was not measured.
        by: the command, and what it measured if that is more than the name says.
        machine: one of `ScalingConfig.machines`.
    """

    value: float | None = None
    by: str
    machine: str | None = None

    @property
    def known(self) -> float:
        """NaN while it was not measured, as is all that is computed from it."""
        return math.nan if self.value is None else self.value


class Plan(Config):
    """What is planned; assumptions, not measurements.

    Attributes:
        hours: of speech.
        utterance_s: mean length.
        gpus: columns of the table of the training, each a number of GPUs.
        gpus_a_machine: of those.
        size, batch_a_gpu: of the model, and of what a GPU sees of each step's batch.
        epochs: over the corpus.
        preparing_cores: of the machines that prepare.
        machine_gbit: network of a machine with GPUs, Gbit/s.
        trials: of a sweep at a time, one a GPU.
    """

    hours: float = Field(gt=0)
    utterance_s: float = Field(gt=0)
    gpus: tuple[int, ...]
    gpus_a_machine: int = Field(ge=1)
    size: Size
    batch_a_gpu: int = Field(ge=1)
    epochs: float = Field(gt=0)
    preparing_cores: int = Field(ge=1)
    machine_gbit: float = Field(gt=0)
    trials: int = Field(ge=1)


class Figures(Config):
    """Measured, each of one unit.

    Attributes:
        feature_bytes_a_frame: of the Arrow files, text and ids included.
        shard_facts_bytes: of one shard in the manifest.
        prepare_cpu_s_an_hour: of all processes of `jobs/prepare.py`, an hour of audio.
        hash_mb_a_s: that one core hashes; the driver hashes each Arrow file.
        flat_start_s_an_hour: of the flat start's alignment, one core, an hour of speech.
        open_us_an_utterance: of opening the features and encoding their texts, in each worker. To
            compare texts with the language's rules takes as long for all sets: 2,000 of them.
        parameters, checkpoint_bytes: of each size.
        frames_a_s: of one GPU, for each size.
        points_a_line: metrics that a logged step has.
        request_ms: of such a line for MLflow's server on SQLite, one client.
        first_step_s: from a submitted command to its first step.
    """

    feature_bytes_a_frame: Figure
    shard_facts_bytes: Figure
    prepare_cpu_s_an_hour: Figure
    hash_mb_a_s: Figure
    flat_start_s_an_hour: Figure
    open_us_an_utterance: Figure
    parameters: dict[Size, Figure]
    checkpoint_bytes: dict[Size, Figure]
    frames_a_s: dict[Size, Figure]
    points_a_line: Figure
    request_ms: Figure
    first_step_s: Figure


class ScalingConfig(Config):
    """The file; `machines` are those that the figures are of, described."""

    plan: Plan
    machines: dict[str, str]
    figures: Figures


class Row(NamedTuple):
    """A line of a table; a value for each column."""

    title: str
    values: Sequence[float]
    show: Callable[[float], str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or figures for the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figures", type=Path, default=FILE, help="(benchmarks/scaling.yaml)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--measure", type=Path, metavar="FEATURES", help="prepared, to measure on")
    options = parser.parse_args(arguments)
    if options.measure:
        from benchmarks.scaling_figures import measure  # Brings torch and the jobs.

        print(measure(options.measure))
        return 0
    config = load_config(ScalingConfig, [options.figures], options.overrides)
    for title, head, rows in (
        ("Data", [f"{config.plan.hours:,.0f} hours"], data(config)),
        ("Preparation", [f"{config.plan.preparing_cores} cores"], preparation(config)),
        ("Training", [f"{n} GPU{'s' * (n > 1)}" for n in config.plan.gpus], training(config)),
        ("Checkpoints and record", ["one run", f"{config.plan.trials} trials"], record(config)),
        ("What is paid for", ["amount"], cost(config)),
    ):
        print(f"{title}\n\n{table(head, rows)}\n")
    print(measured(config))
    return 0


def data(config: ScalingConfig) -> Iterable[Row]:
    """What lies on disks."""
    plan, figures = config.plan, config.figures
    stored = frames(plan) * figures.feature_bytes_a_frame.known
    shards = frames(plan) * MEL.n_mels * FLOAT_BYTES / (PREPARE.shard_mb * 1e6)
    yield Row("utterances", [utterances(plan)], count)
    yield Row("recordings, 16 bit WAV", [wav_bytes(plan)], size)
    yield Row("frames of mel", [frames(plan)], count)
    yield Row("features", [stored], size)
    yield Row(f"Arrow files of at most {PREPARE.shard_mb:g} MB", [shards], count)
    yield Row("manifest", [shards * figures.shard_facts_bytes.known], size)


def preparation(config: ScalingConfig) -> Iterable[Row]:
    """From recordings to features."""
    plan, figures = config.plan, config.figures
    cpu_s = plan.hours * figures.prepare_cpu_s_an_hour.known
    written = frames(plan) * figures.feature_bytes_a_frame.known
    hashing_s = written / (figures.hash_mb_a_s.known * 1e6)
    yield Row(f"tasks of {PREPARE.chunk} utterances", [utterances(plan) / PREPARE.chunk], count)
    yield Row("CPU time of all", [cpu_s], duration)
    yield Row("shared among the cores", [cpu_s / plan.preparing_cores], duration)
    yield Row("Arrow files hashed as the driver writes them, one core", [hashing_s], duration)
    flat_start_s = plan.hours * figures.flat_start_s_an_hour.known
    yield Row("flat start of the alignment, core time", [flat_start_s], duration)


def training(config: ScalingConfig) -> Iterable[Row]:
    """One run, on more and more GPUs, each with the same share of a step's batch."""
    plan, figures = config.plan, config.figures
    speed = figures.frames_a_s[plan.size].known
    step_s = plan.batch_a_gpu * frames(plan) / utterances(plan) / speed
    reduced = [all_reduced(config, n) for n in plan.gpus]
    network_s = [
        bytes_ * 8 / (plan.machine_gbit * 1e9) if n > plan.gpus_a_machine else 0.0
        for bytes_, n in zip(reduced, plan.gpus, strict=True)
    ]
    reading = speed * figures.feature_bytes_a_frame.known
    machines = [math.ceil(n / plan.gpus_a_machine) for n in plan.gpus]
    epoch_s = [frames(plan) / (n * speed) for n in plan.gpus]
    opening_s = utterances(plan) * figures.open_us_an_utterance.known / 1e6
    stored = frames(plan) * figures.feature_bytes_a_frame.known
    yield Row("utterances of a step", [n * plan.batch_a_gpu for n in plan.gpus], count)
    yield Row(
        "steps of an epoch", [utterances(plan) / (n * plan.batch_a_gpu) for n in plan.gpus], count
    )
    yield Row("a step, if nothing waits", [step_s] * len(plan.gpus), duration)
    yield Row("gradients that a GPU sends in a step", reduced, size)
    yield Row(f"that, over {plan.machine_gbit:g} Gbit/s between machines", network_s, duration)
    yield Row("share of the step", [s / step_s for s in network_s], percent)
    yield Row("features read, all GPUs, a second", [n * reading for n in plan.gpus], size)
    yield Row(
        "features read by one machine, a second",
        [n / m * reading for n, m in zip(plan.gpus, machines, strict=True)],
        size,
    )
    yield Row("features copied to every machine", [m * stored for m in machines], size)
    copied_s = stored * 8 / (plan.machine_gbit * 1e9)
    yield Row(f"one copy, at {plan.machine_gbit:g} Gbit/s", [copied_s] * len(plan.gpus), duration)
    yield Row("an epoch, if nothing waits", epoch_s, duration)
    yield Row(f"{plan.epochs:g} epochs", [plan.epochs * s for s in epoch_s], duration)
    yield Row("opening the features, in each worker", [opening_s] * len(plan.gpus), duration)
    started_s = figures.first_step_s.known + opening_s
    yield Row("a submitted job until its first step", [started_s] * len(plan.gpus), duration)


def record(config: ScalingConfig) -> Iterable[Row]:
    """What runs write, at the speed of one GPU each, with the intervals of the defaults."""
    plan, figures = config.plan, config.figures
    step_s = (
        plan.batch_a_gpu * frames(plan) / utterances(plan) / figures.frames_a_s[plan.size].known
    )
    many = (1, plan.trials)
    kept = TRAINING.keep_checkpoints + 1
    bytes_ = figures.checkpoint_bytes[plan.size].known
    points = figures.points_a_line.known / (TRAINING.log_every * step_s)
    yield Row("a checkpoint", [bytes_] * 2, size)
    yield Row(f"{kept} checkpoints, which stay", [n * kept * bytes_ for n in many], size)
    each = TRAINING.checkpoint_every * step_s
    yield Row(f"a checkpoint every {TRAINING.checkpoint_every} steps", [each] * 2, duration)
    yield Row("checkpoints written, a second", [n * bytes_ / each for n in many], size)
    yield Row("points of metrics for MLflow, a second", [n * points for n in many], count)
    sends = 1 / TrackingConfig().send_every_s
    yield Row("requests to MLflow, a second", [n * sends for n in many], decimal)
    busy = sends * figures.request_ms.known / 1000
    yield Row("share of the second that they take, one by one", [n * busy for n in many], percent)


def cost(config: ScalingConfig) -> Iterable[Row]:
    """Amounts, each to be multiplied by its price of the day."""
    plan, figures = config.plan, config.figures
    gpu_s = plan.epochs * frames(plan) / figures.frames_a_s[plan.size].known
    cpu_s = plan.hours * figures.prepare_cpu_s_an_hour.known
    stored = wav_bytes(plan) + frames(plan) * figures.feature_bytes_a_frame.known
    yield Row("CPU core hours of preparation", [cpu_s / HOUR_S], decimal)
    yield Row(f"GPU hours of {plan.epochs:g} epochs, on however many", [gpu_s / HOUR_S], decimal)
    yield Row(f"GPU hours of a sweep of {plan.trials} such trials", [
        plan.trials * gpu_s / HOUR_S
    ], decimal)  # fmt: skip
    yield Row("GB kept in the bucket", [stored / 1e9], decimal)


def frames(plan: Plan) -> float:
    """Of mel."""
    return plan.hours * HOUR_S * MEL.sample_rate / MEL.hop_length


def utterances(plan: Plan) -> float:
    """Of all splits together."""
    return plan.hours * HOUR_S / plan.utterance_s


def wav_bytes(plan: Plan) -> float:
    """Of recordings with the mel's sample rate."""
    return plan.hours * HOUR_S * MEL.sample_rate * WAV_BYTES


def all_reduced(config: ScalingConfig, n: int) -> float:
    """Bytes that each of `n` GPUs sends in a step, and receives, if the sum goes around a ring."""
    gradients = config.figures.parameters[config.plan.size].known * FLOAT_BYTES
    return 2 * (n - 1) / n * gradients


def table(head: Sequence[str], rows: Iterable[Row]) -> str:
    """Markdown."""
    lines = [f"| | {' | '.join(head)} |", f"| --- |{' --- |' * len(head)}"]
    for row in rows:
        cells = ["not measured" if math.isnan(v) else row.show(v) for v in row.values]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(config: ScalingConfig) -> str:
    """Each figure with what measured it, and on what."""
    lines = ["| figure | value | measured by | on |", "| --- | --- | --- | --- |"]
    for name in Figures.model_fields:
        value = getattr(config.figures, name)
        of_sizes = value.items() if isinstance(value, dict) else [("", value)]
        for kind, figure in of_sizes:
            shown = "not measured" if figure.value is None else f"{figure.value:,.10g}"
            title = f"{name} {kind}".strip().replace("_", " ")
            lines.append(f"| {title} | {shown} | `{figure.by}` | {figure.machine or ''} |")
    facts = [f"- {name}: {text}" for name, text in config.machines.items()]
    return "\n".join([*lines, "", *facts])


def count(value: float) -> str:
    return f"{value:,.0f}"


def decimal(value: float) -> str:
    return f"{value:,.1f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def size(value: float) -> str:
    """Bytes, in powers of ten."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} bytes"


def duration(value: float) -> str:
    """Seconds, in what people say."""
    for unit, factor in (("h", 3600), ("min", 60), ("s", 1)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{1000 * value:.3g} ms"


if __name__ == "__main__":
    run_job(main)
