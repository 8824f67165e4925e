"""How badly texts fit their recordings, by what a trained voice expects of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dimts.core.errors import UserError
from dimts.core.threads import one_thread
from dimts.families.acoustic.alignment.misfit import forced_score, misfit, of_similar_length
from dimts.families.acoustic.alignment.search import must_visit, skippable_states
from dimts.families.acoustic.bundle import Bundle

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
    model, n_states = bundle.model, bundle.config.states_per_token
    rows = {name: row for row, name in enumerate(bundle.speakers)}
    pool: list[torch.Tensor] = []
    tokens: list[NDArray[np.int64]] = []
    means: list[torch.Tensor] = []
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
        tokens.append(tokens_1N[0].numpy())
        means.append(said.means_BNSM[0].flatten(0, 1))
        if n % max(1, len(mels) // N_COMPARED) == 0:
            pool.append(means[n][said.durations_BNS.flatten() > 0])
    pool_JM, others = torch.cat(pool), of_similar_length(tokens, speakers)
    scores = np.empty(len(mels))
    for n, mel_TM in enumerate(mels):
        own_TM = model.normalise(torch.from_numpy(np.array(mel_TM)))
        best = -torch.cdist(own_TM, pool_JM).amin(1).square().mean()
        reached = [-float(own_TM.square().sum(-1).mean())]
        for other in (n, *others[n]):
            if len(own_TM) >= len(tokens[other]) * must_visit(n_states):
                skippable = skippable_states(len(tokens[other]), n_states)
                scores_TJ = -torch.cdist(own_TM, means[other]).square()
                reached.append(forced_score(scores_TJ.numpy(), skippable))
        scores[n] = misfit(float(best), reached.pop(1), reached)
    return scores
