"""Checkpoints of a run: bundles with a trainer's state, written whole or not at all.

``checkpoint_epoch{N}_step{M}`` are folders, renamed when complete; ``checkpoint_latest`` and
``checkpoint_best`` beside them are files of one line with the name of one of them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from dimts.bundles.bundle import BEST_OF_RUN, BundleError, read_manifest
from dimts.storage.pointer import write_pointer

TRAINER_STATE = "trainer_state.pt"
LATEST, BEST = "checkpoint_latest", BEST_OF_RUN
_NAME = re.compile(r"checkpoint_epoch(\d+)_step(\d+)")


class NotWritten(Exception):
    """A checkpoint could not be written; the message says why."""


def save_checkpoint(
    run_dir: Path,
    epoch: int,
    step: int,
    state: dict[str, Any],
    write_bundle: Callable[[Path], None],
    best_step: int,
    keep: int,
    before_rename: Callable[[], None] = lambda: None,
) -> Path:
    """Write a checkpoint and point ``checkpoint_latest`` (and ``checkpoint_best``) at it.

    Args:
        run_dir: the run's folder.
        epoch, step: of its name.
        state: tensors and plain values only.
        write_bundle: writes the bundle's files, and last the manifest, into a folder.
        best_step: of the best checkpoint so far, which may be this one; -1 if there is none.
        keep: how many of the latest stay; the best one stays in any case.
        before_rename: called before anything is changed; what it raises ends this.

    Raises:
        NotWritten: there is no room, or the disk or its file system fails.
    """
    name = f"checkpoint_epoch{epoch}_step{step}"
    temporary = run_dir / f".{name}.{os.getpid()}"
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        _write_state(temporary / TRAINER_STATE, state)
        write_bundle(temporary)
        for file in temporary.iterdir():
            _sync(file)
        before_rename()
        final = run_dir / name
        if final.exists():  # of an attempt that went on from an earlier checkpoint: same content
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(run_dir)
        point_to(final, best_step)
    except (OSError, SafetensorError) as error:
        raise NotWritten(getattr(error, "strerror", None) or str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _remove_old(run_dir, step, keep, best_step)
    return final


def point_to(latest: Path, best_step: int) -> None:
    """Write ``checkpoint_latest``, and ``checkpoint_best`` if there is a checkpoint of that step.

    Also done by a run that goes on: a kill may have come between a checkpoint and this.
    """
    run_dir = latest.parent
    write_pointer(run_dir / LATEST, latest.name)
    for folder in _checkpoints(run_dir):
        if step_of(folder.name) == best_step:
            write_pointer(run_dir / BEST, folder.name)
    _sync(run_dir)


def _write_state(file: Path, state: dict[str, Any]) -> None:
    with file.open("wb") as stream:
        try:
            torch.save(state, stream)
        except RuntimeError as error:  # words of torch's insides; a full disk says so itself
            stream.write(b"\0")
            stream.flush()
            raise OSError(str(error).splitlines()[0]) from error


def find_latest(run_dir: Path, notify: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest checkpoint that is whole, or None; `notify` is told of each that is damaged."""
    for folder in _checkpoints(run_dir):
        try:
            read_manifest(folder)
            return folder
        except BundleError as error:
            notify(f"{error}; going back to the checkpoint before it")
    return None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state of a checkpoint, read without running any pickled code.

    Raises:
        BundleError: there is none, or it holds more than tensors and plain values.
    """
    file = checkpoint / TRAINER_STATE
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(f"{file}: not the state of a training: {first}") from error
    return state


def step_of(name: str) -> int | None:
    """The step of a checkpoint by its folder's name; None if that is no checkpoint's."""
    found = _NAME.fullmatch(name)
    return int(found[2]) if found else None


def _checkpoints(run_dir: Path) -> list[Path]:
    """Newest first."""
    if not run_dir.is_dir():
        return []
    found = [f for f in run_dir.iterdir() if step_of(f.name) is not None and f.is_dir()]
    return sorted(found, key=lambda folder: step_of(folder.name) or 0, reverse=True)


def _remove_old(run_dir: Path, step: int, keep: int, best_step: int) -> None:
    """Newer ones than of `step` are damaged, or training would have gone on from them."""
    good = [f for f in _checkpoints(run_dir) if (step_of(f.name) or 0) <= step]
    for folder in good[keep:]:
        if step_of(folder.name) != best_step:
            shutil.rmtree(folder)


def _sync(path: Path) -> None:
    """Ask the system to put a file or folder on disk before what follows it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
