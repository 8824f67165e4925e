"""Random crops of recordings with their mel and F0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimts.audio.mel import MelConfig, log_mel
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


class Crop(NamedTuple):
    """Of one utterance.

    Attributes:
        mel_TM: natural-log mel.
        wave: float32 samples, T * hop of them.
        f0_T: Hz, in straight lines through what is not voiced.
        voiced_T: 1 or 0.
    """

    mel_TM: NDArray[np.float32]
    wave: NDArray[np.float32]
    f0_T: NDArray[np.float32]
    voiced_T: NDArray[np.float32]


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


class Resampling(NamedTuple):
    """Crops that are played faster or slower.

    Attributes:
        factors: least and most; 1.1 makes pitch and formants a tenth higher.
        share: of all crops.
    """

    factors: tuple[float, float]
    share: float


NO_RESAMPLING = Resampling((1.0, 1.0), 0.0)


class Crops:
    """Crops of the utterances of several splits; see `dimts.training.task.Dataset`.

    Args:
        splits: with the columns mel, wave and f0.
        mel: their spec.
        n_frames: of each crop; a shorter utterance is followed by silence.
        gain: nepers, least and most, that a crop is made louder by.
        predicted: mels of the utterances as a voice predicts them, as long as the recordings'.
        predicted_share: of crops that have those.
        resampling: of crops, which then have their own mel.
    """

    def __init__(
        self, splits: Sequence[FeatureSplit], mel: MelConfig, n_frames: int,
        gain: tuple[float, float] = (0.0, 0.0),
        predicted: Sequence[NDArray[np.float16]] | None = None, predicted_share: float = 1.0,
        resampling: Resampling = NO_RESAMPLING,
    ):  # fmt: skip
        self._where = [(split, i) for split in splits for i in range(len(split))]
        self.ids = [split.ids[i] for split, i in self._where]
        self.lengths = np.full(len(self._where), n_frames, np.int64)
        self._mel, self._gain = mel, gain
        self._predicted, self._predicted_share = predicted, predicted_share
        self._resampling = resampling
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
            factors, share = self._resampling
            start = None
            if share and rng.random() < share:
                crop = resampled(recording, self._mel, n, rng.uniform(*factors), rng)
            else:
                start = int(rng.integers(max(1, len(recording) - n + 1)))
                crop = as_recorded(recording, start, n, hop)
            gain, t = rng.uniform(*self._gain), len(crop.mel_TM)
            mel_TM = crop.mel_TM
            if start is not None and self._predicted and rng.random() < self._predicted_share:
                mel_TM = self._predicted[index][start : start + t].astype(np.float32)
            # What was at the floor was silence: it does not get louder.
            mel_BTM[row, :t] = np.where(mel_TM > silence, mel_TM + np.float32(gain), silence)
            wave_BS[row, : t * hop] = crop.wave * np.float32(np.exp(gain))
            f0_BT[row, :t], voiced_BT[row, :t] = crop.f0_T, crop.voiced_T
        np.maximum(mel_BTM, silence, out=mel_BTM)
        total = indices if whole is None else whole
        tensors = map(torch.from_numpy, (mel_BTM, wave_BS, f0_BT, voiced_BT))
        return VocoderBatch([self.ids[i] for i in indices], len(total) * n, *tensors)


def as_recorded(recording: Recording, start: int, n_frames: int, hop: int) -> Crop:
    """The frames from `start` on, as many as there are."""
    crop = slice(start, min(start + n_frames, len(recording)))
    wave = recording.wave[crop.start * hop : crop.stop * hop].astype(np.float32) / np.float32(INT16)
    f0_T, voiced_T = without_gaps(recording.f0_T)
    return Crop(recording.mel_TM[crop], wave, f0_T[crop], voiced_T[crop])


def resampled(
    recording: Recording, mel: MelConfig, n_frames: int, factor: float, rng: np.random.Generator
) -> Crop:
    """A random crop that is played `factor` times as fast; a shorter recording gives a shorter one.

    It is cut with what the windows of its mel see of its neighbours, which is cut off again.
    """
    import soxr  # a voice that only speaks does without it

    hop, margin = mel.hop_length, -(-mel.n_fft // (2 * mel.hop_length))
    n_source = math.ceil(n_frames * factor)
    start = int(rng.integers(max(1, len(recording) - n_source + 1)))
    before = math.ceil(margin * factor)
    first = max(0, start - before)
    source = recording.wave[first * hop : (start + n_source + before) * hop]
    wave = soxr.resample(source.astype(np.float32) / np.float32(INT16), factor, 1.0, quality="HQ")
    skipped = round((start - first) / factor)
    mel_TM = log_mel(wave, mel)[skipped : skipped + n_frames]
    t = min(len(mel_TM), len(wave) // hop - skipped)
    at_T = first + (skipped + np.arange(t)) * factor
    f0_T, voiced_T = without_gaps(recording.f0_T)
    frames = np.arange(len(recording))
    nearest_T = np.minimum(np.rint(at_T).astype(int), len(recording) - 1)
    return Crop(
        mel_TM[:t], wave[skipped * hop : (skipped + t) * hop],
        (np.interp(at_T, frames, f0_T) * factor).astype(np.float32), voiced_T[nearest_T],
    )  # fmt: skip


def without_gaps(f0_T: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """F0 in straight lines through what is not voiced, and 1 where it is, else 0."""
    voiced_T = f0_T > 0
    if not voiced_T.any():
        return np.full_like(f0_T, UNVOICED_HZ), np.zeros_like(f0_T)
    frames = np.arange(len(f0_T))
    filled = np.interp(frames, frames[voiced_T], f0_T[voiced_T]).astype(np.float32)
    return filled, voiced_T.astype(np.float32)
