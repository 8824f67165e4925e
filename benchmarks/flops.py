"""How much arithmetic a step is, and how much the device could do."""

from __future__ import annotations

from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from dimts.families.acoustic.dataset import AcousticBatch
from dimts.families.acoustic.model.config import LossConfig
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.objective import tts_loss

Precision = Literal["float32", "tf32", "16 bits"]

# Dense peaks of NVIDIA's datasheets, FLOP/s, by the name that torch gives the device.
_H100_SXM: dict[Precision, float] = {"float32": 66.9e12, "tf32": 494.7e12, "16 bits": 989.4e12}
_H100_PCIE: dict[Precision, float] = {"float32": 51.2e12, "tf32": 378e12, "16 bits": 756e12}
_A100: dict[Precision, float] = {"float32": 19.5e12, "tf32": 156e12, "16 bits": 312e12}
PEAKS: dict[str, dict[Precision, float]] = {
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H200": _H100_SXM,
    "NVIDIA H100 PCIe": _H100_PCIE,
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
}


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """FLOP/s that the device could do at most; None if its peak is not known."""
    if device.type != "cuda":
        return None
    return PEAKS.get(torch.cuda.get_device_name(device), {}).get(precision)


def flops_a_frame(model: T3, batch: AcousticBatch) -> float:
    """FLOPs of one forward and backward pass over `batch`, for each frame, padding included.

    Matrix products, convolutions and attention are counted, as torch counts them.

    Args:
        model: on the batch's device; its gradients are cleared afterwards.
        batch: with durations, so that the search for them is not counted.
    """
    assert batch.durations_BNS is not None
    mel_BTM = model.normalise(batch.mel_BTM)
    with FlopCounterMode(display=False) as counter:
        output = model(
            batch.tokens_BN, batch.n_tokens_B, mel_BTM, batch.n_frames_B, batch.durations_BNS
        )
        std_M, loss = model.mel_std_M, LossConfig()
        losses = tts_loss(output, mel_BTM, std_M, loss, batch.size, batch.n_tokens)
        torch.autograd.backward(losses["total_loss"])
    model.zero_grad(set_to_none=True)
    n_frames = batch.mel_BTM.shape[0] * batch.mel_BTM.shape[1]
    return float(counter.get_total_flops() / n_frames)
