"""How badly texts fit their recordings, by what a trained voice expects of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dimts.core.errors import UserError
from dimts.core.threads import one_thread
from dimts.families.acoustic.bundle import Bundle
from dimts.families.acoustic.model.durations import look_up

N_COMPARED = 64
"""Texts, drawn evenly from all, whose states stand for what any text could say."""


@torch.no_grad()
def model_misfits(
    bundle: Bundle,
    mels: Sequence[NDArray[np.float32]],
    texts: Sequence[str],
    speakers: Sequence[str],
    languages: Sequence[str],
) -> NDArray[np.float64]:
    """Of each utterance, float64 [n], as `alignment.misfit.misfits`, with the model's own state
    means and its own alignment in place of a flat start's.

    Args:
        mels: natural-log mels of the bundle's spec, float32 [T, M] each.
        texts: normalised.
        speakers: names; one that the model does not know is taken for its last.
        languages: codes of what is spoken.

    Raises:
        UserError: the model does not speak the language or a character, or an utterance has fewer
            frames than its text has states.
    """
    model = bundle.model
    rows = {name: row for row, name in enumerate(bundle.speakers)}
    pool: list[torch.Tensor] = []
    forced: list[torch.Tensor] = []
    utterances = zip(mels, texts, speakers, languages, strict=True)
    for n, (mel_TM, text, name, language) in enumerate(utterances):
        tokens_1N = torch.tensor([bundle.tokenizer.encode_normalised(text, language)])
        mel_1TM = model.normalise(torch.from_numpy(np.array(mel_TM)))[None]
        row = torch.tensor([rows.get(name, len(rows) - 1)]) if rows else None
        counts = torch.tensor([tokens_1N.shape[1]]), torch.tensor([len(mel_TM)])
        try:
            with one_thread():
                said = model(tokens_1N, counts[0], mel_1TM, counts[1], speakers_B=row)
        except ValueError as error:
            raise UserError(f"{text!r:.60}: {error}; raise prepare.min_frames_per_token") from error
        means_JM = said.means_BNSM.flatten(1, 2)
        forced.append((look_up(means_JM, said.state_BT) - mel_1TM).square().sum(-1).mean())
        if n % max(1, len(mels) // N_COMPARED) == 0:
            pool.append(means_JM[0, said.durations_BNS.flatten() > 0])
    pool_JM = torch.cat(pool)
    scores = np.empty(len(mels))
    for n, mel_TM in enumerate(mels):
        own_TM = model.normalise(torch.from_numpy(np.array(mel_TM)))
        best = torch.cdist(own_TM, pool_JM).amin(1).square().mean()
        of_all = own_TM.square().sum(-1).mean()
        scores[n] = float(forced[n] - best) / max(float(of_all - best), 1e-6)
    return scores
