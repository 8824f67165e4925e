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
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from dimts.audio.files import write_wav
from dimts.audio.speech_like import speech_like
from dimts.command import run_job
from dimts.errors import UserError
from dimts.machine import machine_facts

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from benchmarks.prepare_killed import (  # noqa: E402
    CHUNK,
    DRIVER,
    POOL_WORKER,
    RAYLET,
    SECOND_RUN,
    WORKER,
    WORKERS,
    log_of,
    prepare_corpus,
    started,
)

TEXT = "ሰላም ነው። እንዴት ነህ? ደህና ነኝ።"
FAULTS = {
    "the process, local engine": ("local", DRIVER),
    "the process, pool": ("pool", DRIVER),
    "a process of the pool": ("pool", POOL_WORKER),
    "the process, Ray engine": ("ray", DRIVER),
    "a Ray worker that extracts": ("ray", WORKER),
    "the raylet": ("ray", RAYLET),
    "nothing; a second run at once is refused": ("local", SECOND_RUN),
}
ENDS_THE_RUN = {DRIVER, POOL_WORKER, RAYLET}


class Outcome(NamedTuple):
    """What came of one fault.

    Attributes:
        survived: the features are those of an undisturbed run.
        lost: utterances extracted more than once.
        seconds: until it went on.
        words: the last line that the disturbed run said on standard error.
    """

    survived: bool
    lost: int
    seconds: float
    words: str


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


def make_corpus(folder: Path, n_utterances: int) -> Path:
    """An LJSpeech folder of synthetic speech, 15 s each, so that a kill finds workers at work."""
    names = [f"u{n:04d}" for n in range(n_utterances)]
    for n, name in enumerate(names):
        write_wav(folder / "wavs" / f"{name}.wav", np.tile(speech_like(1.5, seed=n), 10), 22_050)
    rows = [f"{name}|{TEXT}\n" for name in names]
    (folder / "metadata.csv").write_text("".join(rows), encoding="utf-8")
    return folder


class Run:
    """One run of the preparation, a process of its own."""

    def __init__(self, corpus: Path, features: Path, engine: str, kills: str = "") -> None:
        paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
        environment = {"RAY_AUTH_MODE": "disabled", **os.environ, "PYTHONPATH": paths}
        script = ROOT / "benchmarks" / "prepare_killed.py"
        command = [sys.executable, script, corpus, features, engine, kills]
        self.process = subprocess.Popen(
            [*map(str, command)], env=environment, stderr=subprocess.PIPE, text=True
        )

    def result(self) -> tuple[int, str]:
        """Exit status, and the last line that it said."""
        _, err = self.process.communicate()
        return self.process.returncode, (err.splitlines() or [""])[-1]


def events(features: Path, name: str) -> list[dict[str, Any]]:
    """What the runs into this folder have noted under one name."""
    log = log_of(features)
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]


def extracted_again(features: Path) -> list[float]:
    """For each utterance that was begun more than once, and each time, when."""
    seen: set[str] = set()
    again = []
    for event in events(features, "extract"):
        again += [event["time"] for audio in event["audios"] if audio in seen]
        seen |= set(event["audios"])
    return again


def contents(features: Path) -> dict[str, bytes]:
    """The files that must not differ; the summary names the folder."""
    files = (file for file in features.iterdir() if file.is_file() and file.name != "summary.txt")
    return {file.name: file.read_bytes() for file in files}


def disturb(corpus: Path, features: Path, undisturbed: Path, engine: str, kill: str) -> Outcome:
    """Prepare with a kill in the middle, and go on until it is done."""
    victim = kill.partition("@")[0]
    status, words = Run(corpus, features, engine, kill).result()
    if not events(features, "kill"):
        raise UserError(f"the run ended before anything was killed: {words}")
    ended = status != 0
    if ended:
        status, _ = Run(corpus, features, engine).result()
    (killed,) = events(features, "kill")
    end_what_is_left(features)
    again = extracted_again(features)
    safe = [event["time"] for event in events(features, "safe")]
    went_on = min(time for time in again or safe if time > killed["time"])
    survived = (
        status == 0
        and ended == (victim in ENDS_THE_RUN)
        and contents(features) == contents(undisturbed)
    )
    return Outcome(survived, len(again), went_on - killed["time"], words)


def end_what_is_left(features: Path) -> list[int]:
    """Kill what killed runs had started and what has not ended by itself; these processes."""
    others = [other for event in events(features, "kill") for other in event["others"]]
    left = [pid for pid, start in others if start and started(pid) == start]
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


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
