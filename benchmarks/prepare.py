"""Preparation of hours of speech: ``python benchmarks/prepare.py --folder FOLDER``.

Side by side and in turns, each the whole command in a process of its own: one worker and two, the
pool and Ray Data, beside the plainest pool of processes that does the same work. Then memory, of 10
hours and of 30, and one epoch of training on each, of the features that memory was measured with.
All ways must end with the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.long_corpus import N_UTTERANCES, beginning, long_corpus
from benchmarks.machine_facts import machine_facts
from benchmarks.process_tree import Spent, measure
from dimts.cli import run_job
from dimts.core.errors import UserError
from dimts.features.manifest import read_manifest
from dimts.tracking.event_log import EVENTS

CONFIGS = ("jobs/configs/sample_am.yaml", "jobs/configs/models/tiny.yaml")
SHARE = 3  # the shorter corpus has a third of the rows
FEW = 300
BATCH = 32
BYTES_A_SECOND = 2 * 22_050
MB = 1e6
PLAIN = "plain pool, 2 workers"
WAYS = {
    "this process (`local`)": ("jobs/prepare.py", "local", 0),
    "`pool`, 1 worker": ("jobs/prepare.py", "pool", 1),
    "`pool`, 2 workers": ("jobs/prepare.py", "pool", 2),
    "Ray Data, 1 worker": ("jobs/prepare.py", "ray", 1),
    "Ray Data, 2 workers": ("jobs/prepare.py", "ray", 2),
    PLAIN: ("benchmarks/prepare_plain.py", "auto", 2),
}
SHIPPED = {"as shipped (`auto`)": ("jobs/prepare.py", "auto", 0), PLAIN: WAYS[PLAIN]}
IN_MEMORY = ("`pool`, 2 workers", "Ray Data, 2 workers")
PARTS = ["speed", "few", "memory", "training"]
Way = tuple[str, str, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, required=True, help="for corpora (kept) and features"
    )
    parser.add_argument("--times", type=int, default=3, help="runs of each way (3)")
    parser.add_argument("--utterances", type=int, default=N_UTTERANCES, help="of the corpus")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="all if not given")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    whole = long_corpus(folder, options.utterances)
    third = beginning(whole, options.utterances // SHARE)
    if "speed" in options.parts:
        speed = in_turns(WAYS, third, folder, options.times)
        show(f"{len_of(third)}:\n\n{speed_table(speed)}\n\n{findings(speed)}")
    if "few" in options.parts:
        few = beginning(whole, min(FEW, options.utterances // SHARE))
        show(f"{len_of(few)}:\n\n{speed_table(in_turns(SHIPPED, few, folder, options.times))}")
    features = {corpus: folder / f"features-{corpus.name}" for corpus in (third, whole)}
    if "memory" in options.parts:
        memory = {
            (way, corpus): prepared(WAYS[way], corpus, features[corpus])
            for way in IN_MEMORY
            for corpus in features
        }
        show(f"{memory_table(memory, hours_of(features))}\n\n{units(memory, features)}")
    if "training" in options.parts:
        epochs = {corpus: epoch(features[corpus], folder) for corpus in features}
        show(epoch_table(epochs, hours_of(features)))
    facts = ", ".join(map(str, machine_facts(["ray", "pyarrow", "torch"]).values()))
    show(f"Medians of {options.times} rounds in turns, in brackets the range. {facts}")
    return 0


def show(text: str) -> None:
    print(text + "\n", flush=True)


def hours_of(features: dict[Path, Path]) -> dict[Path, float]:
    """Of speech, the silence around it cut off."""
    return {corpus: read_manifest(folder).hours for corpus, folder in features.items()}


def len_of(corpus: Path) -> str:
    rows = (corpus / "metadata.csv").read_bytes().count(b"\n")
    n_bytes = sum(file.stat().st_size for file in (corpus / "wavs").iterdir())
    return f"{rows:,} utterances, {n_bytes / BYTES_A_SECOND / 3600:.1f} h"


def in_turns(
    ways: dict[str, Way], corpus: Path, folder: Path, times: int
) -> dict[str, list[Spent]]:
    """Every way once, then every way again; what all must end with is compared."""
    spent: dict[str, list[Spent]] = {name: [] for name in ways}
    contents: dict[str, str] = {}
    for _ in range(times):
        for name, way in ways.items():
            features = folder / "features"
            spent[name].append(prepared(way, corpus, features))
            contents[name] = digest(features)
    if len(set(contents.values())) > 1:
        raise UserError(f"not the same features: {contents}")
    return spent


def prepared(way: Way, corpus: Path, features: Path) -> Spent:
    """Prepare a corpus from the beginning."""
    script, engine, workers = way
    shutil.rmtree(features, ignore_errors=True)
    settings = [f"corpus.path={corpus}", f"prepare.features={features}", f"prepare.engine={engine}"]
    first = [script]
    if script.endswith("plain.py"):
        first.append(str(workers))
    elif workers:
        settings.append(f"prepare.workers={workers}")
    spent = measure([*first, *words(settings)], features / ".work", "chunk-*.arrow")
    print(f"{corpus.name} {way}: {spent}", file=sys.stderr, flush=True)
    return spent


def words(settings: Sequence[str]) -> list[str]:
    configs = [part for file in CONFIGS for part in ("--config", file)]
    return [*configs, *(part for setting in settings for part in ("--set", setting))]


def digest(features: Path) -> str:
    """Of the manifest, in which the sums of the shards stand, and of what was refused."""
    files = (features / "manifest.json", features / "quarantine.csv")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def epoch(features: Path, folder: Path) -> tuple[Spent, float]:
    """Train the tiny model on every utterance once; what it took and frames per second."""
    run = folder / "runs" / features.name
    shutil.rmtree(run, ignore_errors=True)
    steps = math.ceil(read_manifest(features).splits["train"].n_utterances / BATCH)
    settings = [
        f"prepare.features={features}", f"run.name={run.name}", f"run.storage={run.parent}",
        f"training.max_steps={steps}", f"training.batch_size={BATCH}", "ray.workers=0",
        "training.validate_every=0", "training.sample_every=0", "training.checkpoint_every=0",
        f"training.log_every={min(4, steps)}", "tracking.enabled=false",
    ]  # fmt: skip
    spent = measure(["jobs/train.py", *words(settings)], run, "checkpoint_*")
    lines = (run / EVENTS).read_text(encoding="utf-8").splitlines()
    print(f"{features.name} epoch: {spent}", file=sys.stderr, flush=True)
    values = [json.loads(line).get("values", {}) for line in lines]
    rates = [v["train/frames_per_second"] for v in values if "train/frames_per_second" in v]
    return spent, median(rates)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    low, middle, high = (f"{v:.{digits}f}" for v in (min(values), median(values), max(values)))
    return f"{middle} ({low}-{high})"


def speed_table(spent: dict[str, list[Spent]]) -> str:
    lines = [
        "| | the command, s | from the first chunk on, s | CPU, s | of the plain pool's time |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, runs in spent.items():
        columns = [
            _spread([run.seconds for run in runs]),
            _spread([run.seconds - run.begun for run in runs]),
            _spread([run.cpu for run in runs]),
            _spread(ratios(spent, name, PLAIN), 2),
        ]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


def whole_time(run: Spent) -> float:
    return run.seconds


def working_time(run: Spent) -> float:
    return run.seconds - run.begun


def ratios(
    spent: dict[str, list[Spent]], one: str, other: str,
    time: Callable[[Spent], float] = whole_time,
) -> list[float]:  # fmt: skip
    """Of the times of two ways, round by round."""
    pairs = zip(spent[one], spent[other], strict=True)
    return [time(a) / time(b) for a, b in pairs]


def findings(spent: dict[str, list[Spent]]) -> str:
    lines = []
    for name in ("`pool`", "Ray Data"):
        one, two = f"{name}, 1 worker", f"{name}, 2 workers"
        whole, work = ratios(spent, one, two), ratios(spent, one, two, working_time)
        lines.append(
            f"- {name}: two workers are {_spread(whole, 2)} times as fast as one, whole command; "
            f"{_spread(work, 2)} from the first chunk on"
        )
        for title, plain in (("the plain pool", PLAIN), ("`pool`", "`pool`, 2 workers")):
            if plain != two:
                whole, work = ratios(spent, two, plain), ratios(spent, two, plain, working_time)
                lines.append(
                    f"- {name}, 2 workers, beside {title}: {percent(whole)}, the whole command; "
                    f"{percent(work)} from the first chunk on"
                )
    return "\n".join(lines)


def percent(values: Sequence[float]) -> str:
    low, middle, high = (100 * (v - 1) for v in (min(values), median(values), max(values)))
    return f"{middle:+.0f} % ({low:+.0f} ... {high:+.0f})"


def memory_table(memory: dict[tuple[str, Path], Spent], hours: dict[Path, float]) -> str:
    lines = [
        "| | speech, h | peak memory, MB | of that at the first | mapped files, MB | time, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (way, corpus), spent in memory.items():
        first = next(s for (name, _), s in memory.items() if name == way)
        lines.append(
            f"| {way} | {hours[corpus]:.1f} | {spent.memory / MB:,.0f} | "
            f"{spent.memory / first.memory:.2f} | {spent.mapped / MB:,.0f} | {spent.seconds:.1f} |"
        )
    return "\n".join(lines)


def units(memory: dict[tuple[str, Path], Spent], features: dict[Path, Path]) -> str:
    """What one hour takes, and what two corpora tell of each further one."""
    small, large = features
    hours = hours_of(features)
    more = hours[large] - hours[small]
    lines = []
    for way in IN_MEMORY:
        a, b = memory[way, small], memory[way, large]
        lines.append(f"- CPU of each further hour of speech, {way}: {(b.cpu - a.cpu) / more:.2f} s")
    folder = features[large]
    shards = sum(file.stat().st_size for file in folder.glob("*.arrow"))
    audio = sum(file.stat().st_size for file in (large / "wavs").iterdir())
    table, rows = (large / "metadata.csv").stat().st_size, read_manifest(folder).corpus.n_rows
    growth = memory[IN_MEMORY[0], large].memory - memory[IN_MEMORY[0], small].memory
    more_rows = rows - read_manifest(features[small]).corpus.n_rows
    lines += [
        f"- features of an hour of speech: {shards / hours[large] / MB:.1f} MB",
        f"- recordings of an hour of speech, silence included: {audio / hours[large] / MB:.1f} MB",
        f"- metadata.csv: {table / rows:.0f} bytes an utterance",
        f"- memory of each further utterance, {IN_MEMORY[0]}: {growth / more_rows:,.0f} bytes",
    ]
    return "\n".join(lines)


def epoch_table(epochs: dict[Path, tuple[Spent, float]], hours: dict[Path, float]) -> str:
    lines = [
        "| one epoch of | peak memory, MB | mapped files, MB | frames/s | CPU, s | time, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for corpus, (spent, rate) in epochs.items():
        lines.append(
            f"| {hours[corpus]:.1f} h | {spent.memory / MB:,.0f} | {spent.mapped / MB:,.0f} | "
            f"{rate:,.0f} | {spent.cpu:.0f} | {spent.seconds:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_job(main)
