"""Naturalness as listeners would rate it, predicted: DistillMOS (Stahl and Gamper 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dimts.evaluation.judges.judge import Clip, Float32Array, Judge, Scores
from dimts.evaluation.judges.metrics import NATURALNESS

WINDOW = 122_880
"""Samples at 16 kHz that the model hears at once; shorter clips are padded, of longer ones the
mean over windows counts."""
HOP = 16_000
LEVEL = 0.05
"""Root mean square that clips are brought to."""


class Naturalness(Judge):
    """Mean opinion score, 1 to 5."""

    name = "naturalness"

    def load(self) -> None:
        model = self.package("distillmos").ConvTransformerSQAModel(
            load_weights=False, segmenting_in_forward=False
        )
        weights = self.files("distillmos") / "weights" / "distill_mos_v7.pt"
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True)["model"])
        self._model = model.eval().to(self.device)

    @torch.inference_mode()
    def score(self, clips: Sequence[Clip]) -> list[Scores]:
        return [{NATURALNESS.name: self._rate(clip.wave_16k)} for clip in clips]

    def _rate(self, wave: Float32Array) -> float:
        # One after another: on a CPU a batch saves nothing, and would change the last digits.
        windows = torch.from_numpy(_windows(wave)).to(self.device).split(1)
        return float(np.mean([float(self._model(window)) for window in windows]))


def _windows(wave: Float32Array) -> Float32Array:
    """Windows over a levelled clip, [n, WINDOW]; the hop is at most `HOP`."""
    level = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    wave = wave * np.float32(LEVEL / max(level, 1e-5))
    beyond = max(0, len(wave) - WINDOW)
    starts = np.linspace(0, beyond, -(-beyond // HOP) + 1).astype(int)
    padded = np.pad(wave, (0, max(0, WINDOW - len(wave))))
    return np.stack([padded[start : start + WINDOW] for start in starts])
