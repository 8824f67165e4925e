"""Copy synthesis of a split: how far what a vocoder makes of recorded mels is from the recording.

Beside it stands Griffin-Lim of the same mels. None of these figures ranks what is heard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dimts.audio.griffin_lim import griffin_lim
from dimts.audio.mel import Float32Array, MelConfig
from dimts.audio.pitch import PitchConfig, track_pitch
from dimts.core.threads import one_thread
from dimts.families.vocoder.dataset import Crops
from dimts.families.vocoder.extractors import INT16
from dimts.families.vocoder.losses import SpectralDistance

WRONG = np.log(1.2)
"""Difference of log F0 from which on it is another one."""

Speak = Callable[[NDArray[np.float32]], Float32Array]


class UtteranceMetrics(NamedTuple):
    """Figures of one utterance.

    Attributes:
        id: of the utterance.
        stft_distance: of magnitudes at several resolutions, see `SpectralDistance.stft`.
        mel_error: nepers, mean absolute error of the log mel.
        griffin_lim_stft_distance: the first one, of Griffin-Lim.
        f0_error: percent, root mean square, where both are voiced and F0 is not another one.
        f0_wrong: percent of the frames in which both are voiced.
        voicing_wrong: percent of all frames.
    """

    id: str
    stft_distance: float
    mel_error: float
    griffin_lim_stft_distance: float
    f0_error: float
    f0_wrong: float
    voicing_wrong: float


@torch.no_grad()
def evaluate(
    speak: Speak, recordings: Crops, mel: MelConfig, pitch: PitchConfig, with_griffin_lim: bool
) -> list[UtteranceMetrics]:
    """Speak every recording of a split again.

    Args:
        speak: natural-log mel to samples.
        recordings: of the split.
        mel: spec of their mels.
        pitch: how their F0 was found.
        with_griffin_lim: whether that is measured too, else it is 0.
    """
    distance = SpectralDistance(mel)
    rows = []
    with one_thread():
        for index, name in enumerate(recordings.ids):
            recording = recordings.recording(index)
            wave = recording.wave.astype(np.float32) / np.float32(INT16)
            copy = speak(recording.mel_TM)
            stft, error = _distances(distance, copy, wave)
            other = 0.0
            if with_griffin_lim:
                other, _ = _distances(distance, griffin_lim(recording.mel_TM, mel), wave)
            f0_T = track_pitch(copy, mel.sample_rate, mel.hop_length, pitch)
            found = f0_metrics(f0_T, recording.f0_T)
            rows.append(UtteranceMetrics(name, stft, error, other, *found))
    return rows


def aggregate_metrics(rows: Sequence[UtteranceMetrics]) -> dict[str, float]:
    """Means over utterances; the F0 metrics over those that have any."""
    table = np.array([row[1:] for row in rows], np.float64)
    names = UtteranceMetrics._fields[1:]
    means = {n: float(np.nanmean(c)) for n, c in zip(names, table.T, strict=True) if any(c == c)}
    return means | {"utterances": float(len(rows))}


def f0_metrics(
    made_T: NDArray[np.float32], recorded_T: NDArray[np.float32]
) -> tuple[float, float, float]:
    """F0 error, share of wrong ones, share of wrongly voiced frames; all in percent, NaN where
    nothing is voiced in both."""
    n = min(len(made_T), len(recorded_T))
    made_T, recorded_T = made_T[:n], recorded_T[:n]
    both = (made_T > 0) & (recorded_T > 0)
    voicing = 100 * float(np.mean((made_T > 0) != (recorded_T > 0)))
    if not both.any():
        return float("nan"), float("nan"), voicing
    off = np.log(made_T[both] / recorded_T[both])
    right = off[np.abs(off) < WRONG]
    error = 100 * float(np.sqrt(np.square(right).mean())) if len(right) else float("nan")
    return error, 100 * float(np.mean(np.abs(off) >= WRONG)), voicing


def _distances(
    distance: SpectralDistance, made: Float32Array, recorded: Float32Array
) -> tuple[float, float]:
    n = min(len(made), len(recorded))
    waves = [torch.from_numpy(np.ascontiguousarray(wave[:n]))[None] for wave in (made, recorded)]
    waves = [torch.nn.functional.pad(wave, (0, max(0, 2048 - n))) for wave in waves]
    stft = distance.stft(*(distance.spectra(wave) for wave in waves))
    return float(stft), float(distance.mel_error(*waves))
