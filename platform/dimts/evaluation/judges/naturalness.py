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
GPU_BATCH = 32


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
        windows = [_windows(clip.wave_16k) for clip in clips]
        # On a CPU one after another: a batch saves nothing, and would change the last digits.
        size = GPU_BATCH if self.device.type == "cuda" else 1
        flat = torch.from_numpy(np.concatenate(windows))
        rated = [self._model(part.to(self.device)).flatten().cpu() for part in flat.split(size)]
        by_clip = torch.cat(rated).split([len(w) for w in windows])
        return [{NATURALNESS.name: float(ratings.double().mean())} for ratings in by_clip]


def _windows(wave: Float32Array) -> Float32Array:
    """Windows over a levelled clip, [n, WINDOW]; the hop is at most `HOP`."""
    level = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    wave = wave * np.float32(LEVEL / max(level, 1e-5))
    beyond = max(0, len(wave) - WINDOW)
    starts = np.linspace(0, beyond, -(-beyond // HOP) + 1).astype(int)
    padded = np.pad(wave, (0, max(0, WINDOW - len(wave))))
    return np.stack([padded[start : start + WINDOW] for start in starts])
