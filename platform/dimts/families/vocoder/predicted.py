"""The mels that a voice predicts for recordings, laid out as they were spoken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dimts.audio.mel import MelConfig
from dimts.bundles.fetch import local_bundle
from dimts.core.errors import UserError
from dimts.core.threads import one_thread
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.dataset import load_corpus
from dimts.families.acoustic.speaker import finished_mel
from dimts.families.registry import check_same_mel
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SplitName


@torch.no_grad()
def predicted_mels(
    voice: str, features: Sequence[FeatureSet], split: SplitName, mel: MelConfig
) -> list[NDArray[np.float16]]:
    """Natural-log mels [T, M] of a split of all sets, as long as the recordings'.

    The voice aligns each text with its recording, and predicts the mel of that alignment: what a
    vocoder is to make the recording of (Shen et al. 2018).

    Args:
        voice: bundle or run.
        features: whose texts and recordings are meant.
        split: of them.
        mel: that the voice must predict.

    Raises:
        UserError: the voice predicts another mel, or does not know a text's letters, language or
            speaker.
    """
    loaded = load_bundle(local_bundle(voice))
    check_same_mel(voice, loaded.mel, mel)
    model, mels = loaded.model, []
    for of_one in features:
        try:
            corpus = load_corpus(of_one, loaded.tokenizer, split, loaded.speakers)
        except UserError as error:
            raise UserError(f"training.voice: {error}") from error
        with one_thread():
            for index in range(len(corpus)):
                batch = corpus.collate([index])
                shown_BTM = model.normalise(batch.mel_BTM)
                said = model(
                    batch.tokens_BN, batch.n_tokens_B, shown_BTM, batch.n_frames_B,
                    speakers_B=batch.speakers_B,
                )  # fmt: skip
                mels.append(finished_mel(model, said.mel_BTM).astype(np.float16))
    return mels
