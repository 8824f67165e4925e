"""What a training of a T3 learns from: features, tokenizer, rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dimts.core.errors import UserError
from dimts.families.chatterbox.alphabet import alphabet_tokenizer
from dimts.families.chatterbox.base import Base, read_base
from dimts.families.chatterbox.dataset import Ids, Rows, Voices
from dimts.families.chatterbox.extractor import COLUMNS
from dimts.families.chatterbox.settings import ChatterboxSettings
from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer
from dimts.features.config import CorpusConfig
from dimts.features.feature_set import FeatureSet, FeatureSplit
from dimts.features.manifest import SplitName, check_prepared_with
from dimts.storage.paths import AnyPath
from dimts.text.language import Language, load_language
from dimts.text.normaliser import TextConfig

MAX_TEXT_IDS = 320
"""Of a row; what the published model is known to have learned is not longer."""
NOBODY = CorpusConfig.model_fields["speaker"].default
log = logging.getLogger(__name__)


class Data(NamedTuple):
    """Features and what reads them.

    Attributes:
        features: of the corpus.
        language, text: of its texts, as they were normalised.
        tokenizer: of all texts.
        voices: of the training split.
        train, val: rows.
        placed: which rows of text the language was given; empty if nothing says so.
        base: what the training starts from.
        rehearsed: sets of the base's languages, and `rehearsal` their rows.
    """

    features: FeatureSet
    language: Language
    text: TextConfig
    tokenizer: StockTokenizer
    voices: Voices
    train: Rows
    val: Rows
    placed: Mapping[str, Any]
    base: Base | None = None
    rehearsed: tuple[FeatureSet, ...] = ()
    rehearsal: Rows | None = None

    @property
    def fingerprint(self) -> str:
        """Of all sets that are learned from."""
        sets = (self.features, *self.rehearsed)
        return "+".join(features.manifest.fingerprint for features in sets)


def open_data(settings: ChatterboxSettings) -> Data:
    """Open the features and encode their texts.

    Raises:
        UserError: they are missing, were made with other settings, have a character that the
            tokenizer lacks or a text that is too long; or there is no such base.
    """
    language = load_language(settings.text.language)
    base = read_base(settings.base.bundle) if settings.base else None
    placed: Mapping[str, Any]
    if base:
        tokenizer, placed = base.tokenizer, base.placed
    else:
        tokenizer, rows = alphabet_tokenizer(language, settings.model.t3.text_vocab)
        placed = {"language": language.code, "rows": rows}
    features = open_features(settings.features, settings, settings.text)
    train = features.split("train")
    drop = (settings.training.drop_text, settings.training.drop_speech)
    voices = Voices([train])
    data = Data(
        features, language, features.manifest.text, tokenizer, voices,
        Rows([train], _texts([train], tokenizer), voices, *drop),
        held_out_rows(features, tokenizer, "val"),
        placed,
        base,
    )  # fmt: skip
    if not len(data.train):
        raise UserError(
            f"{settings.features}: no speaker has two utterances in the training split, and "
            "prompts are taken from another one than what is learned"
        )
    held_out_rows(features, tokenizer, "test")  # what is measured in the end has to be there
    if settings.base and settings.base.rehearsal_share:
        sets = tuple(open_features(place, settings, None) for place in settings.base.features)
        splits = [opened.split("train") for opened in sets]
        rehearsal = Rows(splits, _texts(splits, tokenizer), Voices(splits), *drop)
        data = data._replace(rehearsed=sets, rehearsal=rehearsal)
    return data


def warn_of_one_speaker(settings: ChatterboxSettings) -> None:
    """Say what prompts are where nobody said who speaks."""
    features = open_features(settings.features, settings, settings.text)
    if {*features.split("train").values("speaker")} == {NOBODY}:
        log.warning(
            "%s: nothing says who speaks, so all count as one speaker, and a prompt may be of "
            "anyone; if there are several, name corpus.columns.speaker, if one, corpus.speaker",
            settings.features,
        )


def held_out_rows(features: FeatureSet, tokenizer: StockTokenizer, split: SplitName) -> Rows:
    """A split to measure on, each row also with the text of another, if there are two texts.

    Raises:
        UserError: it is empty, or a text does not fit the tokenizer.
    """
    opened, voices = features.split(split), Voices([features.split("train")])
    rows = Rows([opened], _texts([opened], tokenizer), voices, with_other_texts=True)
    if not len(rows):
        raise UserError(
            f"{features.folder}: the {split} split is empty; raise prepare.{split}_share"
        )
    return rows


def open_features(
    place: AnyPath, settings: ChatterboxSettings, text: TextConfig | None
) -> FeatureSet:
    """A prepared set.

    Args:
        place: its folder.
        settings: what its tokens must be.
        text: what its texts must have been normalised with; None: anything.

    Raises:
        UserError: it is not there, or was made with other settings.
    """
    features = FeatureSet.open(place)
    manifest = features.manifest
    if missing := [column.name for column in COLUMNS if column.name not in manifest.columns]:
        raise UserError(
            f"{place}: has no column {missing[0]}; run dimts prepare with family: chatterbox"
        )
    ours = {"tokens": settings.tokens.model_dump(exclude={"model", "gpus"})}
    theirs = {"tokens": manifest.extractors["speech_tokens"].settings}
    if text:
        ours["text"], theirs["text"] = text.switches, manifest.text.switches
    check_prepared_with(place, ours, theirs)
    return features


def _texts(splits: Sequence[FeatureSplit], tokenizer: StockTokenizer) -> list[Ids]:
    """Ids of the texts of splits, one after another."""
    found = []
    for split in splits:
        for name, text, language in zip(split.ids, split.texts, split.languages, strict=True):
            try:
                ids = tokenizer.encode(text, language)
            except UserError as error:
                raise UserError(f"{split.folder}: {name}: {error}") from error
            if len(ids) > MAX_TEXT_IDS:
                raise UserError(
                    f"{split.folder}: {name}: its text has {len(ids)} tokens, at most "
                    f"{MAX_TEXT_IDS} are learned; split the recording or leave it out"
                )
            found.append(np.array(ids, np.int64))
    return found
