"""Figures of a voice on a split: what it says against what was recorded, no vocoder between.

A line of reference comes with each evaluation: the mean mel of the training frames (an adapted
voice has its base's), which says nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from dimts.core.threads import one_thread
from dimts.evaluation.mcd import mel_cepstral_distortion
from dimts.families.acoustic.dataset import AcousticBatch, Corpus, check_lengths
from dimts.families.acoustic.model.t3 import T3

GPU_BATCH = 16
"""Utterances that are spoken at once; a CPU has nothing from more than one."""


class UtteranceMetrics(NamedTuple):
    """Figures of one utterance.

    Attributes:
        id: of the utterance.
        mcd: dB, spoken with predicted durations against the recording's mel.
        mean_mel_mcd: dB, the model's mean frame, which an adapted voice has from its base,
            against the recording's mel.
        mel_mse: natural-log mel units squared, laid out by the alignment with the recording.
        frames, recorded_frames: predicted and real length.
        duration_error: frames a token, mean absolute, against the model's own alignment.
        tokens: of the text.
        speaker: row of the model's table of speakers; 0 if it has none.
    """

    id: str
    mcd: float
    mean_mel_mcd: float
    mel_mse: float
    frames: int
    recorded_frames: int
    duration_error: float
    tokens: int
    speaker: int = 0


@torch.no_grad()
def evaluate(model: T3, corpus: Corpus) -> list[UtteranceMetrics]:
    """Speak every utterance of a split, and compare it with its recording.

    The model, on its device, is put in eval mode; the corpus has the ids of its tokenizer.

    Raises:
        UserError: an utterance is too short for its states.
    """
    check_lengths(corpus, model.config.states_per_token)
    model.eval()
    device = model.mel_mean_M.device
    size = GPU_BATCH if device.type == "cuda" else 1
    order = corpus.lengths.argsort(kind="stable").tolist()
    found: dict[int, UtteranceMetrics] = {}
    with one_thread():
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            batch = corpus.collate(indices).to(device)
            found |= zip(indices, _evaluate_batch(model, batch), strict=True)
    return [found[i] for i in range(len(corpus))]


def aggregate_metrics(rows: Sequence[UtteranceMetrics]) -> dict[str, float]:
    """Means over utterances; lengths and duration errors over all frames and tokens."""
    of = {name: np.array([getattr(r, name) for r in rows]) for name in UtteranceMetrics._fields}
    return {
        **{name: float(of[name].mean()) for name in ("mcd", "mean_mel_mcd")},
        "aligned_mel_mse": float(np.average(of["mel_mse"], weights=of["recorded_frames"])),
        "length_ratio": float(of["frames"].sum() / of["recorded_frames"].sum()),
        "duration_error": float(np.average(of["duration_error"], weights=of["tokens"])),
        "utterances": float(len(rows)),
    }


def _evaluate_batch(model: T3, batch: AcousticBatch) -> Iterator[UtteranceMetrics]:
    count = batch.n_tokens_B
    say = partial(model, batch.tokens_BN, count, speakers_B=batch.speakers_B)
    spoken = say()
    aligned = say(mel_BTM=model.normalise(batch.mel_BTM), n_frames_B=batch.n_frames_B)
    outputs = (spoken, aligned)
    mels_BTM = [model.denormalise(output.mel_BTM).cpu().numpy() for output in outputs]
    frames_BN = [output.durations_BNS.sum(-1).double().cpu() for output in outputs]
    mean_M = model.mel_mean_M.cpu().numpy()
    for row, utterance_id in enumerate(batch.ids):
        n_tokens, n_frames = int(count[row]), int(batch.n_frames_B[row])
        recorded_TM = batch.mel_BTM[row, :n_frames].cpu().numpy()
        spoken_TM, aligned_TM = (
            mel_BTM[row, : int(frames[row].sum())]
            for mel_BTM, frames in zip(mels_BTM, frames_BN, strict=True)
        )
        predicted_N, aligned_N = (frames[row, :n_tokens] for frames in frames_BN)
        yield UtteranceMetrics(
            id=utterance_id,
            mcd=mel_cepstral_distortion(spoken_TM, recorded_TM),
            mean_mel_mcd=mel_cepstral_distortion(
                np.broadcast_to(mean_M, recorded_TM.shape), recorded_TM
            ),
            mel_mse=float(np.square(aligned_TM - recorded_TM).mean()),
            frames=int(predicted_N.sum()),
            recorded_frames=n_frames,
            duration_error=float((predicted_N - aligned_N).abs().mean()),
            tokens=n_tokens,
            speaker=0 if batch.speakers_B is None else int(batch.speakers_B[row]),
        )
