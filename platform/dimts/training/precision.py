"""How a step is computed: in which precision, and in which order."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""By which oneDNN and torch are kept from instructions that the CPU has."""


class Choice(NamedTuple):
    """A precision for a device, one of `training.amp`, and why, in half a sentence."""

    amp: str
    reason: str


def choose_amp(device: torch.device) -> Choice:
    """The precision that a device computes fast, which is not all that it accepts.

    A GPU has fast bf16 from compute capability 8.0 on, fast fp16 from 7.0 on. A CPU has fast bf16
    if it has instructions for it; elsewhere oneDNN converts, and takes several times as long.
    """
    if device.type == "cuda":
        return _choose_on_gpu(device)
    capabilities = torch.cpu.get_capabilities()
    limits = [f"{name}={value}" for name in ISA_VARIABLES if (value := os.environ.get(name))]
    if limits:
        return Choice("off", f"{', '.join(limits)} may leave this CPU without fast bf16")
    if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
        return Choice("bf16", "this CPU has instructions for bf16")
    return Choice("off", "this CPU has no instructions for bf16")


def slow_amp(device: torch.device, amp: str) -> str:
    """Why a precision is slow on a device, in half a sentence; empty if it is not."""
    if device.type == "cpu" and amp == "fp16":
        return "a CPU has no fast fp16 convolution"
    choice = choose_amp(device)
    return choice.reason if amp == "bf16" and choice.amp != "bf16" else ""


def _choose_on_gpu(device: torch.device) -> Choice:
    name = torch.cuda.get_device_name(device)
    if torch.version.hip:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return Choice("bf16" if fast else "off", f"{name} {'has' if fast else 'lacks'} bf16")
    major, minor = torch.cuda.get_device_capability(device)
    capability = f"{name} has compute capability {major}.{minor}"
    if major >= 8:
        return Choice("bf16", capability)
    return Choice("fp16" if major == 7 else "off", f"{capability}, bf16 needs 8.0")


def autocast(device: torch.device, amp: str) -> AbstractContextManager[None]:
    """Inside, matrix products and convolutions are in 16 bits if `training.amp` says so."""
    assert amp != "auto", "to be resolved before: dimts.launch.machine"
    return torch.autocast(device.type, HALVES.get(amp), enabled=amp in HALVES)


@contextmanager
def same_arithmetic(device: torch.device, amp: str) -> Iterator[None]:
    """Inside, a GPU computes the same in every run; a CPU always does.

    Or a run that goes on from a checkpoint would not repeat what an undisturbed one does. Sums are
    added up in the same order, which costs T3 no time that could be measured (docs/benchmarks.md).
    float32 is TF32 if `amp` says so; left to itself, torch takes that in convolutions alone.
    """
    if device.type != "cuda":
        yield
        return
    flags: Any = torch.utils.deterministic
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = flags.fill_uninitialized_memory, matmul.allow_tf32, cudnn.allow_tf32
    flags.fill_uninitialized_memory = False  # that is for finding mistakes, and costs a pass
    matmul.allow_tf32 = cudnn.allow_tf32 = amp == "tf32"
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            # Attention's: at the sizes that are trained here its results were the same.
            warnings.filterwarnings("ignore", message=".*defaults to a non-deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        flags.fill_uninitialized_memory, matmul.allow_tf32, cudnn.allow_tf32 = before
