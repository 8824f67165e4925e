"""Which texts of a corpus do not fit their recordings, judged by a flat-start alignment of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_prep.checks import Row
from data_prep.languages import language_of_row
from data_prep.utterance import Reason, Rejected
from dimts.audio.mel import Float32Array
from dimts.core.environment import n_cores
from dimts.core.errors import ConfigError, UserError
from dimts.families.acoustic.alignment.em import align_corpus
from dimts.families.acoustic.alignment.misfit import misfits
from dimts.text.tokenizer import Tokenizer

N_STATES, ITERATIONS, PRIOR_FRAMES = 2, 8, 20.0
MIN_STD = 1e-2


def corpus_misfits(
    mels: Sequence[Float32Array],
    texts: Sequence[str],
    speakers: Sequence[str],
    tokenizer: Tokenizer,
    languages: Sequence[str | None] = (),
) -> NDArray[np.float64]:
    """Of each utterance, see `misfits`, float64 [n].

    Args:
        mels: natural-log mels, float32 [T, M] each; a speaker's mean is taken off.
        texts: normalised.
        languages: code of each text's; none: all are in the tokenizer's default one.

    Raises:
        UserError: an utterance has fewer frames than its text has states.
    """
    read = zip(texts, languages or (None,) * len(texts), strict=True)
    tokens = [np.array(tokenizer.encode_normalised(*row), np.int64) for row in read]
    means: dict[str, Float32Array] = {}
    for speaker in set(speakers):
        own = [mel for mel, name in zip(mels, speakers, strict=True) if name == speaker]
        total = sum(mel.sum(axis=0, dtype=np.float64) for mel in own)
        means[speaker] = (total / sum(map(len, own))).astype(np.float32)
    squares = sum(
        np.square(mel - means[name]).sum(axis=0, dtype=np.float64)
        for mel, name in zip(mels, speakers, strict=True)
    )
    std = np.maximum(np.sqrt(squares / sum(map(len, mels))), MIN_STD).astype(np.float32)

    def mel_of(n: int) -> Float32Array:
        normalised: Float32Array = (mels[n] - means[speakers[n]]) / std
        return normalised

    try:
        durations = align_corpus(
            tokens, mel_of, tokenizer.factors, N_STATES, ITERATIONS, PRIOR_FRAMES,
            threads=n_cores(), pause_ids=tokenizer.pause_ids,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{error}; raise prepare.min_frames_per_token") from error
    return misfits(
        tokens, mel_of, durations, tokenizer.factors, PRIOR_FRAMES, tokenizer.pause_ids, n_cores()
    )


def without_misfits(
    rows: list[Row], max_misfit: float, tokenizer: Tokenizer
) -> tuple[list[Row], list[Rejected]]:
    """Rows whose misfit is not above a limit, and the others.

    Raises:
        ConfigError: no extractor makes mels, by which texts are aligned.
    """
    if not rows:
        return rows, []
    if "mel" not in rows[0].arrays:
        raise ConfigError("prepare.max_misfit: needs a family whose features have a mel")
    scores = corpus_misfits(
        [row.arrays["mel"] for row in rows],
        [row.text for row in rows],
        [row.utterance.speaker for row in rows],
        tokenizer,
        [language_of_row(row.utterance, tokenizer) for row in rows],
    )
    refused = [
        row.utterance.rejected(Reason.MISFIT, f"misfit {score:.2f}, at most {max_misfit:g}")
        for row, score in zip(rows, scores, strict=True)
        if score > max_misfit
    ]
    return [row for row, score in zip(rows, scores, strict=True) if score <= max_misfit], refused
