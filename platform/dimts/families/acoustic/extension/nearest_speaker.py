"""The base's speaker whose voice is most like a new one's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from dimts.audio.griffin_lim import griffin_lim
from dimts.audio.mel import MelConfig
from dimts.core.errors import UserError
from dimts.core.threads import one_thread
from dimts.evaluation.judges.config import JudgesConfig
from dimts.evaluation.judges.judge import JUDGE_RATE
from dimts.evaluation.judges.speaker import Speaker
from dimts.families.acoustic.data import Data
from dimts.families.acoustic.dataset import Corpus, draw, join, load_corpus, of_speaker
from dimts.families.acoustic.extension.speakers import ROWS
from dimts.families.acoustic.model.t3 import T3

MAX_SENTENCES = 8
"""That a voice is known by: half a minute, and a second of computing."""


@torch.no_grad()
def start_speakers(model: T3, data: Data, mel: MelConfig) -> list[str]:
    """Start each new speaker's row from that of the base's speaker who sounds most alike.

    Both are heard as Griffin-Lim makes waves of their mels, so that the recordings need not be
    here. Where the network is not installed, or `base.features` hold none of the base's speakers,
    the rows stay the mean of the base's.

    Args:
        model: with the base's rows, and new ones behind them.
        data: that it is to learn from.
        mel: of the features.

    Returns:
        a line for each new speaker that says what the row starts from; none if there is nobody
        new, or the base has no table.
    """
    new = range(data.n_base_speakers, len(data.speakers))
    if model.speaker is None or not (data.base and data.base.speakers) or not new:
        return []
    rows_SD = model.state_dict()[ROWS]
    why, notes = "", []
    try:
        judge: Speaker | None = Speaker(JudgesConfig(), torch.device("cpu"))
    except UserError as error:
        judge, why = None, str(error)
    known: dict[int, NDArray[np.float64]] = {}
    if judge and data.base_features:
        parts = [load_corpus(f, data.tokenizer, "train", data.speakers) for f in data.base_features]
        known = _voices(judge, join(parts), range(data.n_base_speakers), mel)
    why = why or "base.features name no recordings of the base's speakers"
    for row, own in (_voices(judge, data.train, new, mel) if judge and known else {}).items():
        likeness = {other: float(own @ vector) for other, vector in known.items()}
        nearest = max(likeness, key=lambda other: likeness[other])
        rows_SD[row] = rows_SD[nearest]
        notes.append(
            f"speaker {data.speakers[row]} starts as {data.speakers[nearest]}, the most alike of "
            f"the base's ({likeness[nearest]:.2f})"
        )
    if not notes:
        names = ", ".join(data.speakers[row] for row in new)
        notes = [f"speaker {names} starts as the mean of the base's speakers: {why}"]
    return notes


def _voices(
    judge: Speaker, corpus: Corpus, rows: Sequence[int], mel: MelConfig
) -> dict[int, NDArray[np.float64]]:
    """Unit vectors of those speakers who say something in a corpus, by row."""
    found = {}
    for row in rows:
        few = draw(of_speaker(corpus, row), MAX_SENTENCES)
        if not len(few):
            continue
        with one_thread():
            mels = (few.utterances.mel(i) for i in range(len(few)))
            waves = [griffin_lim(mel_TM, mel) for mel_TM in mels]
            heard = [soxr.resample(wave, mel.sample_rate, JUDGE_RATE) for wave in waves]
            mean = judge.embed(heard).mean(axis=0)
        found[row] = mean / np.linalg.norm(mean)
    return found
