"""A trained vocoder at work: mels to waves, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from dimts.audio.mel import Float32Array, MelConfig, log_mel
from dimts.core.errors import UserError
from dimts.core.threads import one_thread
from dimts.families.vocoder.bundle import load_bundle
from dimts.families.vocoder.dataset import without_gaps
from dimts.families.vocoder.model.excitation import cycles_at_frames
from dimts.families.vocoder.model.pitch_net import Pitch
from dimts.families.vocoder.model.vocoder import Vocoder

FIRST_CHUNK, LATER_CHUNK = 32, 256
"""Frames of the chunks of a whole mel; each costs its context once more."""
LOUDEST = 20.0
"""Of a log mel; full scale stays below 6."""


class NeuralVocoder:
    """A vocoder that speaks mels.

    It is a `dimts.families.protocol.Speaker` by its attributes alone; texts it refuses.

    Args:
        model: in eval mode.

    Attributes:
        model: likewise.
        mel: spec of the mels that it takes.
    """

    languages: Sequence[str] = ("recordings",)
    voices: Sequence[str] = ()

    def __init__(self, model: Vocoder):
        self.model = model
        self.mel: MelConfig = model.mel

    @classmethod
    def load(cls, bundle: str | Path, device: str = "cpu") -> Self:
        """The vocoder of a bundle folder.

        Raises:
            BundleError: the folder is no bundle of a vocoder, is damaged, or does not fit together.
        """
        return cls(load_bundle(Path(bundle), device).model)

    @property
    def sample_rate(self) -> int:
        return self.mel.sample_rate

    def __call__(
        self, mel_TM: NDArray[np.float32], f0_T: NDArray[np.float32] | None = None
    ) -> Float32Array:
        """Samples in [-1, 1] of a natural-log mel [T, M], (T - 1) * hop of them.

        Args:
            mel_TM: as `dimts.audio.mel.log_mel` makes it.
            f0_T: Hz of each frame, 0 where nothing is voiced; None: read off the mel.

        Raises:
            ValueError: the mel's shape does not fit, or a value is not finite.
        """
        mel_BTM = self._checked(mel_TM)
        pitch = None if f0_T is None else self._pitch(f0_T)
        with one_thread(), torch.inference_mode():
            wave_S = self.model(mel_BTM, pitch)[0]
        return _samples(wave_S[: -self.mel.hop_length])

    def chunks(
        self, mel_TM: NDArray[np.float32], f0_T: NDArray[np.float32] | None = None,
        soon: bool = True,
    ) -> Iterator[Float32Array]:  # fmt: skip
        """The samples of a call piece by piece: `LATER_CHUNK` frames, the first time `FIRST_CHUNK`
        where they are wanted `soon`.

        Each is computed with the frames before and after it that it depends on, so the samples are
        those of the whole but for the rounding of float32.

        Raises:
            ValueError: like a call, before the first piece.
        """
        model, hop, n_frames = self.model, self.mel.hop_length, len(mel_TM)
        ahead = model.generator.reach_frames
        mel_BTM = self._checked(mel_TM)
        with one_thread(), torch.inference_mode():
            f0_BT, voiced_BT = model.find_pitch(mel_BTM) if f0_T is None else self._pitch(f0_T)
            cycles_BT = cycles_at_frames(Pitch(f0_BT, voiced_BT), hop, self.mel.sample_rate)
        start, size = 0, FIRST_CHUNK if soon else LATER_CHUNK
        while start < n_frames:
            end = start + size if n_frames - start >= 2 * size else n_frames
            since = max(0, start - ahead)
            near = slice(since, end + ahead)
            with one_thread(), torch.inference_mode():
                own = Pitch(f0_BT[:, near], voiced_BT[:, near])
                wave_BS = model(mel_BTM[:, near], own, since, cycles_BT[:, :-1][:, near])
            last = min(end, n_frames - 1)
            yield _samples(wave_BS[0, (start - since) * hop : (last - since) * hop])
            start, size = end, LATER_CHUNK

    def speak(
        self, text: str, *, language: str | None = None, voice: str | None = None,
        speed: float = 1.0, pitch: float = 1.0,
    ) -> Float32Array:  # fmt: skip
        """Refuse: a text is not read as the name of a file, which a served model would hand out.

        Raises:
            UserError: always; says what a vocoder speaks.
        """
        raise UserError(
            "a vocoder speaks recordings again, no texts: name one to dimts synthesize, or give "
            "its mel, vocoder(vocoder.mel_of(wave))"
        )

    def mel_of(self, wave: Float32Array) -> Float32Array:
        """Natural-log mel of samples, [T, M]."""
        return log_mel(wave, self.mel)

    def _checked(self, mel_TM: NDArray[np.float32]) -> torch.Tensor:
        if mel_TM.ndim != 2 or mel_TM.shape[1] != self.mel.n_mels or not len(mel_TM):
            raise ValueError(f"mel must be [T, {self.mel.n_mels}], not {list(mel_TM.shape)}")
        if not np.isfinite(mel_TM).all():
            raise ValueError("mel holds NaN or infinite values")
        own = np.clip(mel_TM, -LOUDEST, LOUDEST).astype(np.float32)  # beyond it gains overflow
        return torch.from_numpy(own)[None].to(self.model.mel_mean.device)

    def _pitch(self, f0_T: NDArray[np.float32]) -> Pitch:
        device = self.model.mel_mean.device
        tensors = (torch.from_numpy(array)[None].to(device) for array in without_gaps(f0_T))
        return Pitch(*tensors)


def _samples(wave_S: torch.Tensor) -> Float32Array:
    return wave_S.clamp(-1, 1).cpu().numpy()
