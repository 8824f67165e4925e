"""A preparation in whose middle something is killed; `prepare_runs.py` starts it.

``prepare_killed.py CORPUS FEATURES ENGINE worker@20,driver@40``: who dies after how many utterances
are safe. `FEATURES.log` tells what happened, one JSON event a line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data_prep import engine as engine_module
from data_prep.extract import ExtractSettings, extract_chunk
from data_prep.pipeline import prepare
from data_prep.recordings import Root
from data_prep.utterance import Segment
from dimts.audio.mel import MelConfig
from dimts.cli import run_job
from dimts.core.errors import UserError
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.features.mel_extractor import MelExtractor
from dimts.text.normaliser import TextConfig

CHUNK = 4
WORKERS = 2
DRIVER, WORKER, RAYLET, SECOND_RUN = "driver", "worker", "raylet", "second_run"
POOL_WORKER = "pool_worker"


def main() -> None:
    corpus, features, engine, kills = sys.argv[1:]
    log = log_of(Path(features))
    waiting = [kill.split("@") for kill in kills.split(",") if kill]
    n_safe = 0

    def on_chunk(n: int) -> None:
        nonlocal n_safe
        n_safe += n
        note(log, "safe", n=n)
        if waiting and n_safe >= int(waiting[0][1]) and KILL[waiting[0][0]](log):
            waiting.pop(0)

    note_what_is_extracted(log)
    prepare_corpus(Path(corpus), Path(features), engine, on_chunk)
    if waiting:
        raise UserError(f"the run is over, and nothing was killed: {waiting}")


def prepare_corpus(
    corpus: Path, features: Path, engine: str, on_chunk: Callable[[int], object] | None = None
) -> None:
    """The preparation itself."""
    settings: dict[str, Any] = {"features": features, "engine": engine, "chunk": CHUNK}
    if engine != "local":
        settings["workers"] = WORKERS
    prepare(
        CorpusConfig(path=corpus),
        TextConfig(language="am"),
        [MelExtractor(MelConfig())],
        PrepareConfig.model_validate(settings),
        on_chunk,
    )


def note_what_is_extracted(log: Path) -> None:
    """In this process, in a pool's, or in workers of Ray, to which the wrapper goes by value."""

    def not_of_its_module(
        batch: dict[str, Any], root: Root, settings: ExtractSettings, folder: Path | None
    ) -> dict[str, list[Any]]:
        return extract_batch(batch, root, settings, folder)

    extract_batch = engine_module._extract_batch
    setattr(engine_module, "extract_chunk", partial(noted_chunk, log))  # noqa: B010
    setattr(engine_module, "_extract_batch", not_of_its_module)  # noqa: B010


def noted_chunk(
    log: Path,
    root: Root,
    segments: Sequence[Segment],
    settings: ExtractSettings,
    folder: Path,
) -> Path:
    note(log, "extract", audios=[segment.audio for segment in segments])
    return extract_chunk(root, segments, settings, folder)


def log_of(features: Path) -> Path:
    return features.with_name(f"{features.name}.log")


def note(log: Path, event: str, **facts: Any) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": event, "time": time.time(), **facts}) + "\n")


def kill(pid: int, log: Path) -> bool:
    note(log, "kill", pid=pid, others=[(pid, started(pid)) for pid in descendants()])
    os.kill(pid, signal.SIGKILL)
    return True


def kill_driver(log: Path) -> bool:
    return kill(os.getpid(), log)


def kill_worker(log: Path) -> bool:
    """A worker is called after what it does; while none extracts, later is soon enough."""
    busy = [pid for pid in descendants() if name_of(pid).startswith("ray::MapBatches")]
    return bool(busy) and kill(busy[0], log)


def kill_pool_worker(log: Path) -> bool:
    """One of those that were forked by the process that this one started for it."""
    ours = str(os.getpid())
    workers = [pid for pid in descendants() if _stat(pid)[1] not in ("", ours)]
    return bool(workers) and kill(workers[0], log)


def kill_raylet(log: Path) -> bool:
    (raylet,) = (pid for pid in descendants() if name_of(pid).endswith("/raylet"))
    return kill(raylet, log)


def start_second_run(log: Path) -> bool:
    """It is refused in one line."""
    note(log, "kill", pid=0, others=[])
    command = [sys.executable, __file__, *sys.argv[1:4], ""]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    words = f"another run (process {os.getpid()}) is writing there; wait for it\n"
    if done.returncode != 2 or not done.stderr.endswith(words) or done.stderr.count("\n") > 1:
        raise UserError(f"the second run was not refused: {done.stderr}")
    return True


KILL: dict[str, Callable[[Path], bool]] = {
    DRIVER: kill_driver,
    WORKER: kill_worker,
    POOL_WORKER: kill_pool_worker,
    RAYLET: kill_raylet,
    SECOND_RUN: start_second_run,
}


def descendants() -> list[int]:
    """Processes that this one has started, and those that they have."""
    parents = {int(p.name): _stat(int(p.name))[1] for p in Path("/proc").glob("[0-9]*")}
    found = [os.getpid()]
    for ancestor in found:
        found += [pid for pid, parent in parents.items() if parent == str(ancestor)]
    return found[1:]


def started(pid: int) -> str:
    """When a process began, which tells it from a later one of its number; empty if it ended."""
    state, *rest = _stat(pid)
    return "" if state in ("", "Z") else rest[18]


def _stat(pid: int) -> list[str]:
    """State, parent and so on of a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["", ""]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    run_job(main)
