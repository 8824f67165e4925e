"""A second opinion on quality: DNSMOS P.835 (Reddy, Gopal and Cutler 2022). It was made for noise
suppression and is coarse for synthesis: it may rate a robot's clean voice above a person's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dimts.evaluation.judges.judge import JUDGE_RATE, Clip, Float32Array, Judge, Scores
from dimts.evaluation.judges.metrics import DNSMOS

WINDOW = int(9.01 * JUDGE_RATE)
"""Samples that the model hears at once; shorter clips are repeated, of longer ones the mean over
windows of a hop of a second counts."""
OVERALL = np.polynomial.Polynomial([0.04602535, 1.11546468, -0.06766283])
"""From what the model says to the scale of people, as its authors fitted it."""


class Dnsmos(Judge):
    """The overall score, 1 to 5, on the CPU."""

    name = "dnsmos"

    def load(self) -> None:
        onnx = self.package("onnxruntime")
        options = onnx.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = self.files("speechmos") / "dnsmos_models" / "sig_bak_ovr.onnx"
        self._session = onnx.InferenceSession(str(model), options, ["CPUExecutionProvider"])

    def score(self, clips: Sequence[Clip]) -> list[Scores]:
        return [{DNSMOS.name: self._overall(clip.wave_16k)} for clip in clips]

    def _overall(self, wave: Float32Array) -> float:
        wave = np.tile(wave, -(-WINDOW // len(wave)))[: max(WINDOW, len(wave))]
        starts = range(0, len(wave) - WINDOW + 1, JUDGE_RATE)
        inputs = [wave[None, start : start + WINDOW] for start in starts]
        raw = [self._session.run(None, {"input_1": window})[0][0] for window in inputs]
        return float(np.mean(OVERALL(np.array([overall for _, _, overall in raw], np.float64))))
