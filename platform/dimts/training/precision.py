"""How a step is computed: in which precision, and in which order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str) -> AbstractContextManager[None]:
    """Inside, matrix products and convolutions are in 16 bits if `training.amp` says so."""
    return torch.autocast(device.type, HALVES.get(amp), enabled=amp in HALVES)


@contextmanager
def float32_precision(amp: str) -> Iterator[None]:
    """Inside, float32 is computed as float32 on a GPU, or as TF32 if `training.amp` says so.

    Left to itself, torch uses TF32 in convolutions and not in matrix products.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = amp == "tf32"
    torch.backends.cudnn.allow_tf32 = amp == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def same_order(device: torch.device) -> Iterator[None]:
    """Inside, a GPU adds up in an order that does not differ from run to run; a CPU always does.

    Or a run that goes on from a checkpoint would not repeat what an undisturbed one does. For
    T3's operations it costs no time that could be measured (docs/benchmarks.md).
    """
    if device.type != "cuda":
        yield
        return
    flags: Any = torch.utils.deterministic
    before = flags.fill_uninitialized_memory
    flags.fill_uninitialized_memory = False  # that is for finding mistakes, and costs a pass
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            # Attention's: at the sizes that are trained here its results were the same.
            warnings.filterwarnings("ignore", message=".*defaults to a non-deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        flags.fill_uninitialized_memory = before
