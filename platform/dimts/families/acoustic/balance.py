"""How often an epoch visits each utterance, so that who has few is heard more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dimts.core.errors import UserError
from dimts.families.acoustic.dataset import Corpus


def balanced(corpus: Corpus, temperature: float) -> NDArray[np.float64] | None:
    """Visits of each utterance in an epoch, [n]; None: each is visited once.

    A speaker's share of the frames becomes proportional to their own frames to the power of
    ``1 / temperature`` (as languages are sampled by Arivazhagan et al. 2019, "Massively
    Multilingual Neural Machine Translation in the Wild"); who has most is visited once.

    Raises:
        UserError: there is one speaker only.
    """
    if temperature == 1:
        return None
    if corpus.speakers is None:
        raise UserError(
            f"training.speaker_temperature={temperature:g}: there is one speaker, so it has no "
            "effect; leave it out"
        )
    frames_S = np.bincount(corpus.speakers, weights=corpus.lengths)
    own_S = frames_S / frames_S.max()
    visits: NDArray[np.float64] = own_S[corpus.speakers] ** (1 / temperature - 1)
    return visits
