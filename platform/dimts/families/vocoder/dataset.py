"""Random crops of recordings with their mel and F0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimts.audio.mel import MelConfig
from dimts.families.vocoder.extractors import INT16
from dimts.features.feature_set import FeatureSplit
from dimts.training.task import Batch, Seed

UNVOICED_HZ = 150.0
"""What is said of F0 where nothing of an utterance is voiced."""


@dataclass(frozen=True)
class VocoderBatch(Batch):
    """Crops of one length; `size` counts frames.

    Attributes:
        mel_BTM: natural-log mel.
        wave_BS: samples; the first of a frame's is its centre in the mel.
        f0_BT: Hz, by the tracker, in straight lines through what is not voiced.
        voiced_BT: 1 or 0.
    """

    mel_BTM: Tensor
    wave_BS: Tensor
    f0_BT: Tensor
    voiced_BT: Tensor


class Recording:
    """One utterance of a split.

    Attributes:
        mel_TM: natural-log mel.
        wave: int16 samples, T * hop of them.
        f0_T: Hz, 0 where nothing is voiced.
    """

    def __init__(self, split: FeatureSplit, index: int, hop: int):
        mel_TM, wave, f0_T = (split.column(name, index) for name in ("mel", "wave", "f0"))
        n = min(len(mel_TM), len(f0_T), len(wave) // hop)
        self.mel_TM, self.wave, self.f0_T = mel_TM[:n], wave[: n * hop], f0_T[:n]

    def __len__(self) -> int:
        return len(self.mel_TM)


class Crops:
    """Crops of the utterances of several splits; see `dimts.training.task.Dataset`.

    Args:
        splits: with the columns mel, wave and f0.
        mel: their spec.
        n_frames: of each crop; a shorter utterance is followed by silence.
        gain: nepers, least and most, that a crop is made louder by.
        predicted: mels of the utterances as a voice predicts them, as long as the recordings'.
        predicted_share: of crops that have those.
    """

    def __init__(
        self, splits: Sequence[FeatureSplit], mel: MelConfig, n_frames: int,
        gain: tuple[float, float] = (0.0, 0.0),
        predicted: Sequence[NDArray[np.float16]] | None = None, predicted_share: float = 1.0,
    ):  # fmt: skip
        self._where = [(split, i) for split in splits for i in range(len(split))]
        self.ids = [split.ids[i] for split, i in self._where]
        self.lengths = np.full(len(self._where), n_frames, np.int64)
        self._mel, self._gain = mel, gain
        self._predicted, self._predicted_share = predicted, predicted_share
        self.n_frames = n_frames

    def __len__(self) -> int:
        return len(self._where)

    def recording(self, index: int) -> Recording:
        """A whole utterance."""
        split, i = self._where[index]
        return Recording(split, i, self._mel.hop_length)

    def collate(
        self, indices: Sequence[int], whole: Sequence[int] | None = None, *,
        seed: Seed = (0,), pad_to_multiple: bool = False,
    ) -> VocoderBatch:  # fmt: skip
        """One crop of each utterance; see `Dataset.collate`."""
        n, hop = self.n_frames, self._mel.hop_length
        silence = np.float32(np.log(self._mel.floor))
        mel_BTM = np.full((len(indices), n, self._mel.n_mels), silence, np.float32)
        wave_BS = np.zeros((len(indices), n * hop), np.float32)
        f0_BT = np.full((len(indices), n), UNVOICED_HZ, np.float32)
        voiced_BT = np.zeros((len(indices), n), np.float32)
        for row, index in enumerate(indices):
            rng = np.random.default_rng((*seed, index))
            recording = self.recording(index)
            start = int(rng.integers(max(1, len(recording) - n + 1)))
            crop = slice(start, min(start + n, len(recording)))
            t = crop.stop - crop.start
            gain = rng.uniform(*self._gain)
            mel_TM = recording.mel_TM[crop]
            if self._predicted and rng.random() < self._predicted_share:
                mel_TM = self._predicted[index][crop].astype(np.float32)
            # What was at the floor was silence: it does not get louder.
            mel_BTM[row, :t] = np.where(mel_TM > silence, mel_TM + np.float32(gain), silence)
            samples = recording.wave[crop.start * hop : crop.stop * hop]
            wave_BS[row, : t * hop] = samples * np.float32(np.exp(gain) / INT16)
            f0_T, voiced_T = without_gaps(recording.f0_T)
            f0_BT[row, :t], voiced_BT[row, :t] = f0_T[crop], voiced_T[crop]
        np.maximum(mel_BTM, silence, out=mel_BTM)
        total = indices if whole is None else whole
        tensors = map(torch.from_numpy, (mel_BTM, wave_BS, f0_BT, voiced_BT))
        return VocoderBatch([self.ids[i] for i in indices], len(total) * n, *tensors)


def without_gaps(f0_T: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """F0 in straight lines through what is not voiced, and 1 where it is, else 0."""
    voiced_T = f0_T > 0
    if not voiced_T.any():
        return np.full_like(f0_T, UNVOICED_HZ), np.zeros_like(f0_T)
    frames = np.arange(len(f0_T))
    filled = np.interp(frames, frames[voiced_T], f0_T[voiced_T]).astype(np.float32)
    return filled, voiced_T.astype(np.float32)
