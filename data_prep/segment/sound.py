"""What the aligner hears of a long recording: cepstra, levels, and where sound and pauses are."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.ndimage import median_filter, minimum_filter1d

from data_prep.recordings import Open
from dimts.audio.decoded import MAX_RECORDING_SECONDS, AudioError
from dimts.audio.files import read_audio
from dimts.audio.mel import Float32Array, MelConfig, log_mel

MEL = MelConfig(
    sample_rate=16_000, n_fft=512, win_length=400, hop_length=160, n_mels=40, f_max=7600.0
)
FRAMES_A_SECOND = MEL.sample_rate // MEL.hop_length
N_CEPSTRA = 13
CHUNK_SECONDS = 300
"""Decoded at once; a multiple of the frames."""

_QUIET_DB, _ABOVE_FLOOR_DB, _BELOW_LOUD_DB = 40.0, 8.0, 15.0
"""As where silence is trimmed: speech is within 40 dB of what is loud around it, or above noise."""
_AROUND_SECONDS = 31
_MIN_PAUSE_SECONDS, _MIN_SOUND_SECONDS = 0.1, 0.04
_DELTA = 2  # frames to either side


class Sound(NamedTuple):
    """A recording as the aligner hears it, T frames of 10 ms, frame t centred on `t / 100` s.

    Attributes:
        cepstra_TD: mel cepstra and their slopes, each of mean 0 and deviation 1, float32.
        sounds_T: which frames are no pause, bool.
    """

    cepstra_TD: Float32Array
    sounds_T: NDArray[np.bool_]


def hear(open_recording: Open, audio: str) -> Sound:
    """Decode a recording of up to 12 hours, 5 minutes at a time.

    Raises:
        AudioError: it cannot be used, or all of it is silent.
        OSError: there is none.
    """
    mels: list[Float32Array] = []
    powers: list[Float32Array] = []
    seconds = 0.0
    with open_recording(audio) as (descriptor, _):
        while seconds < MAX_RECORDING_SECONDS:
            wave = _chunk(descriptor, seconds)
            if not len(wave):
                break
            n_frames = math.ceil(len(wave) / MEL.hop_length)
            mels.append(log_mel(wave, MEL)[:n_frames])
            powers.append(_powers(wave, n_frames))
            seconds += len(wave) / MEL.sample_rate
            if len(wave) < CHUNK_SECONDS * MEL.sample_rate:
                break
    sounds_T = _sounds(np.concatenate(powers)) if powers else np.zeros(0, bool)
    if not sounds_T.any():
        raise AudioError("silent", "holds no sound")
    return Sound(_cepstra(np.concatenate(mels), sounds_T), sounds_T)


def runs(mask_T: NDArray[np.bool_]) -> NDArray[np.int64]:
    """First index of each run of true values and the one after its last, [n, 2]."""
    edges = np.flatnonzero(np.diff(mask_T, prepend=False, append=False))
    return edges.reshape(-1, 2)


def _chunk(descriptor: int, start: float) -> Float32Array:
    """The next samples, fewer than a chunk has where the recording ends; silence is zeros."""
    for end in (start + CHUNK_SECONDS, math.inf):
        try:
            return read_audio(descriptor, MEL.sample_rate, CHUNK_SECONDS, start, end)
        except AudioError as error:
            if error.reason == "silent" and end < math.inf:
                return np.zeros(CHUNK_SECONDS * MEL.sample_rate, np.float32)
            ends = error.reason in ("outside", "truncated", "silent", "empty")
            if not ends or (end == math.inf and not start):
                raise
    return np.empty(0, np.float32)


def _powers(wave: Float32Array, n_frames: int) -> Float32Array:
    """Mean square around each frame, of 40 ms, float32 [n_frames]."""
    padded = np.zeros((n_frames + 4) * MEL.hop_length, np.float32)
    padded[2 * MEL.hop_length : 2 * MEL.hop_length + len(wave)] = wave
    hops = padded.reshape(-1, MEL.hop_length)
    energy = np.einsum("ij,ij->i", hops, hops)
    power = np.convolve(energy, np.ones(4, np.float32), mode="valid")
    result: Float32Array = (power[:n_frames] / (4 * MEL.hop_length)).astype(np.float32)
    return result


def _sounds(power_T: Float32Array) -> NDArray[np.bool_]:
    """Frames that are no pause, judged against what is loud and what is quiet around them."""
    level_T = 10 * np.log10(np.maximum(power_T, 1e-12))
    n = math.ceil(len(level_T) / FRAMES_A_SECOND)
    padded = np.pad(level_T, (0, n * FRAMES_A_SECOND - len(level_T)), mode="edge")
    by_second = np.sort(padded.reshape(n, FRAMES_A_SECOND), axis=1)
    loud = median_filter(by_second[:, -5], _AROUND_SECONDS, mode="nearest")
    loud = np.maximum(loud, by_second[:, -5].max() - _QUIET_DB)
    floor = minimum_filter1d(by_second[:, 10], _AROUND_SECONDS, mode="nearest")
    limit = np.maximum(loud - _QUIET_DB, np.minimum(floor + _ABOVE_FLOOR_DB, loud - _BELOW_LOUD_DB))
    sounds_T = level_T > np.repeat(limit, FRAMES_A_SECOND)[: len(level_T)]
    # A click is no sound, and the closure of a plosive no pause.
    sounds_T = _closed(sounds_T, round(_MIN_PAUSE_SECONDS * FRAMES_A_SECOND))
    return ~_closed(~sounds_T, round(_MIN_SOUND_SECONDS * FRAMES_A_SECOND))


def _closed(mask_T: NDArray[np.bool_], n: int) -> NDArray[np.bool_]:
    """A mask whose gaps of fewer than `n` frames are filled."""
    filled = mask_T.copy()
    for start, end in runs(~mask_T):
        if end - start < n and start > 0 and end < len(mask_T):
            filled[start:end] = True
    return filled


def _cepstra(mel_TM: Float32Array, sounds_T: NDArray[np.bool_]) -> Float32Array:
    cepstra = dct(mel_TM, axis=1, norm="ortho")[:, :N_CEPSTRA].astype(np.float32)
    padded = np.pad(cepstra, ((_DELTA, _DELTA), (0, 0)), mode="edge")
    slopes = padded[2 * _DELTA :] - padded[: -2 * _DELTA]
    both = np.hstack((cepstra, slopes))
    heard = both[sounds_T] if sounds_T.any() else both
    both -= heard.mean(axis=0)
    both /= np.maximum(heard.std(axis=0), 1e-3)
    return both
