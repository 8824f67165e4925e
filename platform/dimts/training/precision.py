"""How a step is computed: in which precision, and in which order."""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dimts.core.machine import cpu_name
from dimts.core.threads import one_thread
from dimts.storage.paths import cache_folder

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FAST_ENOUGH = 0.9
"""Share of float32's time that bf16 needs at most to be taken on a CPU."""
SLOW = 1.5
"""Times float32's time from which on bf16 is called slow on a CPU."""
PROBES = 5
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""By which oneDNN and torch are kept from instructions that the CPU has."""


class Choice(NamedTuple):
    """A precision for a device.

    Attributes:
        amp: one of `training.amp`, never "auto".
        reason: why, in half a sentence.
    """

    amp: str
    reason: str


def choose_amp(device: torch.device) -> Choice:
    """The precision that a device computes fast, which is not all that it accepts.

    A GPU is asked for its compute capability: bf16 is fast from 8.0 on, fp16 from 7.0 on. A CPU is
    measured, as instruction sets do not tell: oneDNN has no fast bf16 convolution for AVX2, and
    variables of the environment may restrict it further.
    """
    if device.type == "cuda":
        return _choose_on_gpu(device)
    share = bf16_share()
    return Choice("bf16" if share <= FAST_ENOUGH else "off", _in_words(share))


def slow_amp(device: torch.device, amp: str) -> str:
    """Why a precision is slow on a device, in half a sentence; empty if it is not."""
    if device.type == "cuda":
        choice = _choose_on_gpu(device)
        return choice.reason if amp == "bf16" and choice.amp != "bf16" else ""
    if amp == "fp16":
        return "a CPU has no fast fp16 convolution"
    if amp == "bf16" and (share := bf16_share()) >= SLOW:
        return _in_words(share)
    return ""


def _in_words(share: float) -> str:
    return f"bf16 convolutions take {share:.2g} times as long as float32 ones on this CPU"


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


@functools.cache
def bf16_share() -> float:
    """Time of two bf16 convolutions, forward and backward, over that of the float32 ones.

    Measured with one thread, in half a second at most, once for a CPU, a version of torch and
    what the environment allows them: two runs of a machine take the same precision.
    """
    limits = {name: os.environ.get(name, "") for name in ISA_VARIABLES}
    file = cache_folder("precision", cpu_name(), torch.__version__, limits) / "bf16_share"
    with suppress(OSError, ValueError):
        return float(file.read_text(encoding="ascii"))
    share = _measure_bf16_share()
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with suppress(OSError):  # without a home that can be written it is measured each time
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(str(share), encoding="ascii")
        draft.replace(file)
    return share


def _measure_bf16_share() -> float:
    with one_thread():
        with torch.random.fork_rng(devices=[]):
            layers = nn.Sequential(nn.Conv1d(192, 384, 5, padding=2), nn.Conv1d(384, 192, 1))
            x_BDT = torch.randn(1, 192, 128)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(1 + PROBES):
            for half, taken in seconds.items():
                taken.append(_time_both_ways(layers, x_BDT, half))
    # The first of each plans the computation.
    return min(seconds[True][1:]) / min(seconds[False][1:])


def _time_both_ways(layers: nn.Module, x_BDT: Tensor, half: bool) -> float:
    """CPU seconds, which other work on the machine does not change."""
    start = time.thread_time()
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        y_BDT = layers(x_BDT)
    y_BDT.float().square().mean().backward()
    return time.thread_time() - start


def autocast(device: torch.device, amp: str) -> AbstractContextManager[None]:
    """Inside, matrix products and convolutions are in 16 bits if `training.amp` says so."""
    assert amp != "auto", "to be resolved before: dimts.launch.machine"
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
