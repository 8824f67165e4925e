"""What a training of a recogniser learns from: mels and the letters of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dimts.core.errors import UserError
from dimts.families.acoustic.dataset import AcousticBatch, Corpus, Utterances
from dimts.families.recogniser.model import STRIDE
from dimts.families.recogniser.settings import RecogniserSettings, RecogniserTraining
from dimts.features.feature_set import FeatureSet, FeatureSplit
from dimts.features.manifest import SplitName, check_prepared_with
from dimts.text.language import load_language
from dimts.text.tokenizer import Tokenizer
from dimts.training.task import Seed

Ids = NDArray[np.int64]


class Data(NamedTuple):
    """Features and what reads them."""

    features: FeatureSet
    tokenizer: Tokenizer
    train: Corpus
    val: Corpus


class Masked(Corpus):
    """Utterances in which stretches of time and bands of the mel are hidden, by the batch's seed
    (SpecAugment: Park et al. 2019): the mean mel stands there."""

    def __init__(
        self, utterances: Utterances, tokens: Sequence[Ids], config: RecogniserTraining,
        mel_mean_M: NDArray[np.float32],
    ):  # fmt: skip
        super().__init__(utterances, tokens)
        self._config, self._mel_mean_M = config, mel_mean_M

    def collate(
        self, indices: Sequence[int], whole: Sequence[int] | None = None, *,
        seed: Seed = (0,), pad_to_multiple: bool = False,
    ) -> AcousticBatch:  # fmt: skip
        """See `dimts.training.task.Dataset`."""
        batch = super().collate(indices, whole, seed=seed, pad_to_multiple=pad_to_multiple)
        c = self._config
        for row, index in enumerate(indices):
            mel_TM = batch.mel_BTM[row, : int(batch.n_frames_B[row])].numpy()
            draw = np.random.default_rng((*seed, index))
            for _ in range(c.masks):
                there = _stretch(draw, len(mel_TM), min(c.mask_frames, len(mel_TM) // 10))
                mel_TM[there] = self._mel_mean_M
                band = _stretch(draw, mel_TM.shape[1], min(c.mask_bins, mel_TM.shape[1]))
                mel_TM[:, band] = self._mel_mean_M[band]
        return batch


def open_data(settings: RecogniserSettings) -> Data:
    """Open the features and encode their texts.

    Raises:
        UserError: they are missing, were made with other settings, have an utterance that is too
            short for its text, or a split is empty.
    """
    features = open_features(settings)
    manifest = features.manifest
    language = load_language(settings.source.text.language)
    tokenizer = Tokenizer.from_language(language, manifest.text)
    mean_M = np.array(manifest.mel_mean, np.float32)
    train = features.split("train")
    data = Data(
        features,
        tokenizer,
        Masked(train, _letters(train, tokenizer), settings.training, mean_M),
        held_out(features, tokenizer, "val"),
    )
    held_out(features, tokenizer, "test")  # what is measured in the end has to be there
    return data


def open_features(settings: RecogniserSettings) -> FeatureSet:
    """The prepared set.

    Raises:
        UserError: it is not there, or was made with other settings.
    """
    source = settings.source
    features = FeatureSet.open(source.features)
    manifest, code = features.manifest, load_language(source.text.language).code
    check_prepared_with(
        source.features,
        {"mel": settings.mel.model_dump(), "text": {"language": code, **source.text.switches}},
        {
            "mel": manifest.mel.model_dump(),
            "text": {"language": manifest.corpus.languages[0], **manifest.text.switches},
        },
    )
    return features


def held_out(features: FeatureSet, tokenizer: Tokenizer, name: SplitName) -> Corpus:
    """A split to measure on; raises like `open_data`."""
    split = features.split(name)
    if not len(split):
        raise UserError(f"{features.folder}: the {name} split is empty; raise prepare.{name}_share")
    return Corpus(split, _letters(split, tokenizer))


def _letters(split: FeatureSplit, tokenizer: Tokenizer) -> list[Ids]:
    """Tokens of each text, without its start and its end."""
    found = []
    for name, text, n_frames in zip(split.ids, split.texts, split.n_frames, strict=True):
        try:
            ids = np.array(tokenizer.encode_normalised(text)[1:-1], np.int64)
        except UserError as error:
            raise UserError(f"{split.folder}: {name}: {error}") from error
        needed = STRIDE * (len(ids) + int((ids[1:] == ids[:-1]).sum()))
        if n_frames < needed:
            raise UserError(
                f"{split.folder}: {name}: {n_frames} frames are too few for its text, which takes "
                f"{needed}; raise prepare.min_frames_per_token and run dimts prepare again"
            )
        found.append(ids)
    return found


def _stretch(draw: np.random.Generator, n: int, longest: int) -> slice:
    length = int(draw.integers(longest + 1))
    start = int(draw.integers(n - length + 1))
    return slice(start, start + length)
