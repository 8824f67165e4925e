"""Preparations of a corpus that are killed in the middle, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.speech_like import speech_like
from dimts.audio.files import write_wav
from dimts.core.errors import UserError
from faults import prepare_killed
from faults.injection import ROOT
from faults.prepare_killed import DRIVER, POOL_WORKER, RAYLET, log_of, started

TEXT = "ሰላም ነው። እንዴት ነህ? ደህና ነኝ።"
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
        command = [sys.executable, prepare_killed.__file__, corpus, features, engine, kills]
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
