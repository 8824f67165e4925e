"""Figures of a voice on a split: what it says against what was recorded, no vocoder between.

A figure is only as good as what it is compared with. So two lines of reference come with
each evaluation: the mean mel of the training frames (an adapted voice has its base's), which
says nothing at all, and the same voice with an equal share of frames a token, which is what
unlearned durations sound like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimts.core.threads import one_thread
from dimts.evaluation.mcd import mel_cepstral_distortion
from dimts.families.acoustic.corpora import check_lengths
from dimts.families.acoustic.dataset import Batch, Corpus
from dimts.families.acoustic.model.t3 import T3


class UtteranceMetrics(NamedTuple):
    """Figures of one utterance.

    Attributes:
        id: of the utterance.
        mcd: dB, spoken with predicted durations against the recording's mel.
        equal_share_mcd: dB, the same with the recording's length shared out equally.
        mean_mel_mcd: dB, the model's mean frame, which an adapted voice has from its base,
            against the recording's mel.
        mel_mse: natural-log mel units squared, laid out by the alignment with the recording.
        frames, recorded_frames: predicted and real length.
        duration_error: frames a token, mean absolute, against the model's own alignment.
        tokens: of the text.
    """

    id: str
    mcd: float
    equal_share_mcd: float
    mean_mel_mcd: float
    mel_mse: float
    frames: int
    recorded_frames: int
    duration_error: float
    tokens: int


@torch.no_grad()
def evaluate(model: T3, corpus: Corpus) -> list[UtteranceMetrics]:
    """Speak every utterance of a split and compare it with its recording.

    Args:
        model: on its device; put in eval mode here.
        corpus: with the token ids of the model's tokenizer.

    Raises:
        UserError: an utterance is too short for its states.
    """
    check_lengths(corpus, model.config.states_per_token)
    model.eval()
    with one_thread():
        return [_evaluate_one(model, corpus.collate([i])) for i in range(len(corpus))]


def aggregate_metrics(figures: Sequence[UtteranceMetrics]) -> dict[str, float]:
    """Means over utterances; lengths and duration errors over all frames and tokens."""
    tokens = np.array([f.tokens for f in figures], float)
    errors = np.array([f.duration_error for f in figures])
    recorded = np.array([f.recorded_frames for f in figures], float)
    return {
        "mcd": float(np.mean([f.mcd for f in figures])),
        "equal_share_mcd": float(np.mean([f.equal_share_mcd for f in figures])),
        "mean_mel_mcd": float(np.mean([f.mean_mel_mcd for f in figures])),
        "aligned_mel_mse": float(np.average([f.mel_mse for f in figures], weights=recorded)),
        "length_ratio": float(sum(f.frames for f in figures) / recorded.sum()),
        "duration_error": float(np.average(errors, weights=tokens)),
        "utterances": float(len(figures)),
    }


def _evaluate_one(model: T3, batch: Batch) -> UtteranceMetrics:
    batch = batch.to(model.mel_mean_M.device)
    tokens, count = batch.tokens_BN, batch.n_tokens_B
    recorded_TM = batch.mel_BTM[0].cpu().numpy()
    spoken = model(tokens, count)
    aligned = model(tokens, count, model.normalise(batch.mel_BTM), batch.n_frames_B)
    shared = model(tokens, count, durations_BNS=_equal_share(aligned.durations_BNS))
    mean_TM = model.mel_mean_M.expand(len(recorded_TM), -1).cpu().numpy()
    difference = _mel(model, aligned.mel_BTM) - recorded_TM
    token_frames, predicted_frames = (
        output.durations_BNS.sum(-1).double() for output in (aligned, spoken)
    )
    return UtteranceMetrics(
        id=batch.ids[0],
        mcd=mel_cepstral_distortion(_mel(model, spoken.mel_BTM), recorded_TM),
        equal_share_mcd=mel_cepstral_distortion(_mel(model, shared.mel_BTM), recorded_TM),
        mean_mel_mcd=mel_cepstral_distortion(mean_TM, recorded_TM),
        mel_mse=float(np.square(difference).mean()),
        frames=int(predicted_frames.sum()),
        recorded_frames=len(recorded_TM),
        duration_error=float((predicted_frames - token_frames).abs().mean()),
        tokens=tokens.shape[1],
    )


def _mel(model: T3, mel_BTM: Tensor) -> NDArray[np.float32]:
    mel: NDArray[np.float32] = model.denormalise(mel_BTM)[0].cpu().numpy()
    return mel


def _equal_share(durations_BNS: Tensor) -> Tensor:
    b, n, s = durations_BNS.shape
    total = int(durations_BNS.sum())
    edges = torch.linspace(0, total, n * s + 1, dtype=torch.double).round().long()
    return torch.diff(edges).view(b, n, s).to(durations_BNS.device)
