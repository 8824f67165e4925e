"""What a kill costs while data are prepared: ``python benchmarks/prepare_faults.py --times 5``.

A corpus is prepared again and again in a process of its own, and each time something is killed at a
random place in the middle: the process itself, one of its pool, a Ray worker that extracts, Ray's
raylet. Where that ends the process, the same command is given again. In the end the features must
be those of a run that nobody disturbed, byte for byte. Lost are utterances extracted more than
once; the time to go on is from the kill until the first of them is begun again or, if none was
lost, until more are safe on disk.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job

# Before this folder, whose faults.py has the name of the package in tests/.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from faults.prepare_killed import (
    CHUNK,
    DRIVER,
    POOL_WORKER,
    RAYLET,
    SECOND_RUN,
    WORKER,
    WORKERS,
    prepare_corpus,
)
from faults.prepare_runs import Outcome, disturb, make_corpus

FAULTS = {
    "the process, local engine": ("local", DRIVER),
    "the process, pool": ("pool", DRIVER),
    "a process of the pool": ("pool", POOL_WORKER),
    "the process, Ray engine": ("ray", DRIVER),
    "a Ray worker that extracts": ("ray", WORKER),
    "the raylet": ("ray", RAYLET),
    "nothing; a second run at once is refused": ("local", SECOND_RUN),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    places = random.Random(seed)
    outcomes: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="dimts-prepare-faults-") as name:
        corpus = make_corpus(Path(name) / "corpus", options.utterances)
        undisturbed = Path(name) / "undisturbed"
        prepare_corpus(corpus, undisturbed, "local")
        for title, (engine, victim) in FAULTS.items():
            for n in range(options.times):
                place = places.randrange(1, options.utterances // 2)
                features = Path(name) / f"{victim}-{engine}-{n}"
                outcome = disturb(corpus, features, undisturbed, engine, f"{victim}@{place}")
                print(f"{title}, after {place}: {outcome}", file=sys.stderr, flush=True)
                outcomes.setdefault(title, []).append(outcome)
    print(table(outcomes, options.utterances))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=5, help="each fault (5)")
    parser.add_argument("--utterances", type=int, default=96, help="of the corpus (96)")
    parser.add_argument("--seed", type=int, help="of the places of the kills; random if not given")
    return parser.parse_args(arguments)


def table(outcomes: dict[str, list[Outcome]], n_utterances: int) -> str:
    """Markdown, with what it was measured on below."""
    lines = [
        "| fault: killed is | times tried | survived | lost | time to go on, s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for title, tried in outcomes.items():
        survived = sum(outcome.survived for outcome in tried)
        lost = _spread([outcome.lost for outcome in tried], 0)
        seconds = _spread([outcome.seconds for outcome in tried], 1)
        lines.append(f"| {title} | {len(tried)} | {survived} | {lost} | {seconds} |")
    facts = ", ".join(map(str, machine_facts(["ray", "pyarrow", "torch"]).values()))
    note = (
        f"Medians, in brackets the least and the greatest. {n_utterances} utterances of 15 s, "
        f"{CHUNK} in a task, {WORKERS} workers; lost are utterances extracted again."
    )
    return "\n".join([*lines, "", note, facts])


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = (f"{v:.{digits}f}" for v in (min(values), median(values), max(values)))
    return f"{middle} ({low}-{high})"


if __name__ == "__main__":
    run_job(main)
