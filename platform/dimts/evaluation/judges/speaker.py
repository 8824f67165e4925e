"""Whether it is the same person: cosine similarity of speaker embeddings.

The embedding is the GE2E network of Wan et al. (2018) as Resemblyzer trained it (Apache-2.0, on
LibriSpeech, VoxCeleb 1 and 2): three LSTM layers over 40 mel bins, windows of 1.6 s, the mean of
their unit vectors. Only the weights of that package are read, none of its code is run.
"""

from __future__ import annotations

from collections.abc import Sequence

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dimts.evaluation.judges.judge import JUDGE_RATE, Clip, Float32Array, Judge, Scores
from dimts.evaluation.judges.metrics import RIGHT_SPEAKER, SPEAKER_SIMILARITY

N_MELS, HOP, FRAME = 40, 160, 400
WINDOW_FRAMES, HOP_FRAMES = 160, 77
MIN_COVERAGE = 0.75
"""Of the last window, which is left out if less of it is speech."""
LEVEL = 10 ** (-30 / 20)
"""Root mean square that quieter clips are raised to."""
SILENCE_DB = 40.0
"""Below the loudest frame; such stretches are cut out."""


class Speaker(Judge):
    """Mean similarity of a clip to the recordings of all other clips of its speaker, at most 1.

    Of several speakers it is judged, too, whether a clip is most similar to the recordings of its
    own. The recordings' own score is then that between recordings, which is what can be had. A clip
    alone is compared with its own recording.
    """

    name = "speaker"
    per_clip = False
    needs_reference = True

    def load(self) -> None:
        weights = self.files("resemblyzer") / "pretrained.pt"
        state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        self._encoder = _Encoder()
        self._encoder.load_state_dict({k: state[k] for k in self._encoder.state_dict()})
        self._encoder.eval().to(self.device)

    def score(self, clips: Sequence[Clip]) -> list[Scores]:
        recorded = [clip.reference_16k for clip in clips]
        ours = self.embed([clip.wave_16k for clip in clips])
        theirs = self.embed([wave for wave in recorded if wave is not None])
        names = sorted({clip.speaker for clip in clips})
        who = np.array([names.index(clip.speaker) for clip in clips])
        means_BS = np.stack(
            [_mean_of_others(ours @ theirs.T, who == row) for row in range(len(names))], axis=1
        )
        scores = [
            {SPEAKER_SIMILARITY.name: float(mean[row])}
            for mean, row in zip(means_BS, who, strict=True)
        ]
        if len(names) > 1:
            for found, right in zip(scores, means_BS.argmax(axis=1) == who, strict=True):
                found[RIGHT_SPEAKER.name] = float(right)
        return scores

    @torch.inference_mode()
    def embed(self, waves: Sequence[Float32Array]) -> NDArray[np.float64]:
        """Unit vectors of voices, [n, 256], of waves at `JUDGE_RATE`."""
        windows = [torch.from_numpy(_windows(wave)).to(self.device) for wave in waves]
        means = [self._encoder(part).cpu().double().numpy().mean(axis=0) for part in windows]
        return np.stack([mean / np.linalg.norm(mean) for mean in means])


def _mean_of_others(
    similarity_BB: NDArray[np.float64], of_speaker_B: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean similarity of each clip to a speaker's recordings but its own, [B]; to its own if
    that is the only one."""
    weights_BB = of_speaker_B & ~np.eye(len(of_speaker_B), dtype=bool)
    weights_BB |= np.diag(of_speaker_B & ~weights_BB.any(axis=1))
    mean_B: NDArray[np.float64] = np.average(similarity_BB, axis=1, weights=weights_BB)
    return mean_B


class _Encoder(nn.Module):
    """Mel windows [n, T, 40] to unit vectors [n, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(N_MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mel_BTM: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mel_BTM)
        vectors = torch.relu(self.linear(hidden[-1]))
        return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-6)


def _windows(wave: Float32Array) -> Float32Array:
    """Mel windows of the speech in a wave, [n, 160, 40]."""
    speech = librosa.effects.split(wave, top_db=SILENCE_DB, frame_length=480, hop_length=240)
    wave = np.concatenate([wave[start:end] for start, end in speech])
    level = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    wave = wave * np.float32(max(1.0, LEVEL / max(level, 1e-5)))
    mel_TM = librosa.feature.melspectrogram(
        y=wave, sr=JUDGE_RATE, n_fft=FRAME, hop_length=HOP, n_mels=N_MELS
    ).T
    starts = list(range(0, max(1, len(mel_TM) - WINDOW_FRAMES + HOP_FRAMES), HOP_FRAMES))
    if len(starts) > 1 and len(mel_TM) - starts[-1] < MIN_COVERAGE * WINDOW_FRAMES:
        starts.pop()
    padded = np.pad(mel_TM, ((0, WINDOW_FRAMES), (0, 0))).astype(np.float32)
    return np.stack([padded[start : start + WINDOW_FRAMES] for start in starts])
