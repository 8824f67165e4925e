"""How much of a batch is computed at a time: as much as memory allows, found out beforehand.

The batch of an optimizer step stays what it is. Where it does not fit into memory it is computed
in more micro-batches, whose gradients are added up.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from dimts.core.errors import UserError

T = TypeVar("T")
PARTS = "micro_batches"
ON_THE_CPU = ("can't allocate memory", "not enough memory", "could not create a primitive")
"""What torch's allocator says on a CPU, and oneDNN where it is out of memory."""
TOO_LONG = (
    "there is not memory enough for one utterance at a time; lower prepare.max_seconds and prepare "
    "again, or take a smaller model"
)


class OutOfMemory(Exception):
    """A worker of several ran out of memory in a step. Started again, the group goes on from the
    last checkpoint with smaller micro-batches."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ON_THE_CPU)


def fits(compute: Callable[[], T], device: torch.device) -> T | None:
    """What is computed; None if memory does not suffice, and then what it took is free again."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    gc.collect()  # not above, where the error still holds what was computed
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def smaller_parts(parts: int, most: int) -> int:
    """Twice as many micro-batches as before, or `most`, which are of one utterance each.

    Raises:
        UserError: they are so already.
    """
    if parts >= most:
        raise UserError(TOO_LONG)
    return min(2 * parts, most)


def read_parts(run_dir: Path) -> int:
    """Micro-batches that an earlier start of the run found to be needed; 1 if none did."""
    try:
        return max(1, int((run_dir / PARTS).read_text(encoding="ascii")))
    except (FileNotFoundError, ValueError):
        return 1


def write_parts(run_dir: Path, parts: int) -> None:
    """Remember for the next start how many micro-batches are needed."""
    (run_dir / PARTS).write_text(str(parts), encoding="ascii")
