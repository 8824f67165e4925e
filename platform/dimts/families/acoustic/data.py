"""What a training learns from: features, tokenizer, splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dimts.audio.mel import MelConfig
from dimts.bundles.fetch import local_bundle
from dimts.core.config import first_difference
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import Bundle, load_bundle
from dimts.families.acoustic.dataset import F0, Corpus, check_lengths, draw, join, load_corpus
from dimts.families.acoustic.extension.base import extend_tokenizer
from dimts.families.acoustic.extension.speakers import speaker_table, speakers_of
from dimts.families.acoustic.settings import AcousticSettings
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SPLITS, check_prepared_with, mel_moments
from dimts.storage.paths import AnyPath
from dimts.text.language import Language, load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

MAX_CHECKED_TEXTS = 2000
"""Texts of a set: English of 78 characters takes 0.1 ms each on a core of a Xeon."""


class Data(NamedTuple):
    """Features and what reads them.

    Attributes:
        features: the opened sets, one for each source.
        tokenizer: of all their languages, and of the base's.
        language: code of the last source's, which samples are spoken in.
        train, val: of all sources together.
        mel_mean_M, mel_std_M: of the training frames; with a base, what its weights expect.
        base: the voice to start from.
        base_features: prepared sets of the base's languages.
        rehearsal: their training splits, if any of it is to be rehearsed.
        speakers: the model's table of speakers, the base's first; empty if it has none.
        n_base_speakers: of them, whose rows come from the base.
        speaker: of them, the last one of `features`, who speaks samples; None if there is no table.
    """

    features: tuple[FeatureSet, ...]
    tokenizer: Tokenizer
    language: str
    train: Corpus
    val: Corpus
    mel_mean_M: NDArray[np.float32]
    mel_std_M: NDArray[np.float32]
    base: Bundle | None = None
    base_features: tuple[FeatureSet, ...] = ()
    rehearsal: Corpus | None = None
    speakers: tuple[str, ...] = ()
    n_base_speakers: int = 0
    speaker: str | None = None


def open_data(settings: AcousticSettings) -> Data:
    """Open the features and encode their texts.

    Raises:
        UserError: they are missing, were made with another mel spec or normaliser than the
            configuration or the base say, lack F0 that the model learns, or a test utterance is
            too short for its states.
    """
    languages = [load_language(source.text.language) for source in settings.sources]
    opened = tuple(
        _open(source.features, language.code, source.text, settings.mel)
        for source, language in zip(settings.sources, languages, strict=True)
    )
    base = load_bundle(local_bundle(settings.base.bundle)) if settings.base else None
    others = [load_language(code) for source in settings.sources for code in source.languages]
    tokenizer = _tokenizer(languages, others, opened, base)
    for features in opened:
        if unknown := {*features.manifest.corpus.languages} - {*tokenizer.languages}:
            code = min(unknown)
            raise UserError(f"{features.folder}: has rows in {code}; name it in corpus.languages")
        _check_texts(features, tokenizer, "text.language's file has now; run dimts prepare again")
    _check_pitch(opened, settings)
    rehearsed = _open_base_features(settings, base) if base else ()
    speakers, n_base = speaker_table(opened, rehearsed, base.speakers if base else ())
    train = [load_corpus(features, tokenizer, "train", speakers) for features in opened]
    if settings.training.max_utterances:
        train = [draw(corpus, settings.training.max_utterances) for corpus in train]
    val = [load_corpus(features, tokenizer, "val", speakers) for features in opened]
    mean_M, std_M = _statistics(opened)
    data = Data(opened, tokenizer, languages[-1].code, join(train), join(val), mean_M, std_M)
    last = speakers_of(opened)[-1] if speakers else None
    data = data._replace(speakers=speakers, n_base_speakers=n_base, speaker=last)
    data = _with_base(data, settings, base, rehearsed) if base else data
    # Of what is measured after the training, refuse now what could not be.
    tests = [load_corpus(features, tokenizer, "test", speakers) for features in opened]
    if settings.base:
        of_base = (load_corpus(f, tokenizer, "test", speakers) for f in data.base_features)
        tests += [draw(corpus, settings.base.held_out) for corpus in of_base]
    for corpus in tests:
        check_lengths(corpus, settings.model.states_per_token)
    return data


def language_of(features: FeatureSet) -> str:
    """Code of the language that a set is of."""
    return features.manifest.corpus.languages[0]


def _open(folder: AnyPath, language: str, text: TextConfig, mel: MelConfig) -> FeatureSet:
    features = FeatureSet.open(folder)
    manifest = features.manifest
    ours = {"mel": mel.model_dump(), "text": {"language": language, **text.switches}}
    theirs = {
        "mel": manifest.mel.model_dump(),
        "text": {"language": language_of(features), **manifest.text.switches},
    }
    check_prepared_with(folder, ours, theirs)
    return features


def _tokenizer(
    languages: Sequence[Language],
    others: Sequence[Language],
    opened: Sequence[FeatureSet],
    base: Bundle | None,
) -> Tokenizer:
    """Its texts' settings are the features' own, in which a language's file is named as it was
    given: where a worker finds it differs from machine to machine. `others` have default ones, and
    are known to the base."""
    codes = {language.code for language in languages}
    rules: dict[str, tuple[Language, TextConfig]] = {
        other.code: (other, TextConfig(language=other.code))
        for other in others
        if other.code not in codes
    }
    for language, features in zip(languages, opened, strict=True):
        rules.setdefault(language.code, (language, features.manifest.text))
    if base:
        for code in rules.keys() - codes:
            if code not in base.tokenizer.languages:
                raise UserError(
                    f"corpus.languages: {code} is not one of the base's languages, "
                    f"{', '.join(base.tokenizer.languages)}; it is extended by text.language alone"
                )
            extend_tokenizer(base.tokenizer, *rules[code])
        return extend_tokenizer(base.tokenizer, *rules[languages[0].code])
    return Tokenizer.from_languages(list(rules.values()))


def _check_texts(features: FeatureSet, tokenizer: Tokenizer, has: str) -> None:
    """Refuse texts of which `tokenizer` makes others: the rules have changed since."""
    splits = [features.split(name) for name in SPLITS]
    columns = ((s.ids, s.values("raw_text"), s.texts, s.languages) for s in splits)
    rows = [row for of_split in columns for row in zip(*of_split, strict=True)]
    for utterance_id, raw, text, language in rows[:: len(rows) // MAX_CHECKED_TEXTS + 1]:
        normaliser = tokenizer.normaliser(language)
        try:
            same = normaliser.normalise(raw) == text
        except UserError:
            same = False
        if not same:
            raise UserError(
                f"{features.folder}: {utterance_id}: its text was read by other rules than {has}"
            )


def _statistics(
    opened: Sequence[FeatureSet],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of the training frames of all sets."""
    manifests = [features.manifest for features in opened]
    if len(manifests) == 1:
        only = manifests[0]
        return np.array(only.mel_mean, np.float32), np.array(only.mel_std, np.float32)
    mean, square = mel_moments(manifests)
    return mean.astype(np.float32), np.sqrt(square - mean**2).astype(np.float32)


def _check_pitch(opened: Sequence[FeatureSet], settings: AcousticSettings) -> None:
    """Refuse features without F0 for a model that learns it.

    Raises:
        UserError: names the folder.
    """
    for features in opened if settings.model.pitch else ():
        if F0 not in features.manifest.columns:
            raise UserError(
                f"model.pitch: {features.folder}: the features have no F0; run dimts prepare (or "
                "dimts pretrain --prepare-only) again with model.pitch, or set model.pitch=null"
            )


def _open_base_features(settings: AcousticSettings, base: Bundle) -> tuple[FeatureSet, ...]:
    """The sets of the base's languages; raises like `open_data`."""
    assert settings.base is not None
    if found := first_difference(
        {"mel": settings.mel.model_dump()}, {"mel": base.mel.model_dump()}
    ):
        key, asked, there = found
        raise UserError(
            f"base.bundle={settings.base.bundle}: speaks mel with {key}={there}, the "
            f"configuration says {asked}; prepare the features as the base needs them"
        )
    rules = {known.language.code: known.text for known in base.tokenizer.spec.languages}
    sets = []
    for folder in settings.base.features:
        code = language_of(FeatureSet.open(folder))
        if code not in rules:
            raise UserError(
                f"base.features: {folder} is of {code}, which is not a language of the base: "
                f"{', '.join(rules)}"
            )
        sets.append(_open(folder, code, rules[code], settings.mel))
        unknown = sorted({*sets[-1].manifest.corpus.speakers} - {*base.speakers})
        if base.speakers and unknown:
            raise UserError(
                f"base.features: {folder} is spoken by {unknown[0]}, whom the base does not know; "
                f"it knows {', '.join(base.speakers)}"
            )
        _check_texts(
            sets[-1],
            base.tokenizer,
            "the base has; prepare base.features by the base's rules, or leave them out",
        )
    if settings.base.rehearsal_share:
        _check_pitch(sets, settings)
    return tuple(sets)


def _with_base(
    data: Data, settings: AcousticSettings, base: Bundle, sets: tuple[FeatureSet, ...]
) -> Data:
    assert settings.base is not None
    rehearsal = None
    if settings.base.rehearsal_share:
        rehearsal = join([load_corpus(f, data.tokenizer, "train", data.speakers) for f in sets])
        if not len(rehearsal):
            folders = ", ".join(map(str, settings.base.features))
            raise UserError(
                f"base.features: {folders}: nothing in the training split to rehearse; set "
                "base.rehearsal_share=0 or name other features"
            )
    return data._replace(
        mel_mean_M=base.weights["mel_mean_M"].float().numpy(),
        mel_std_M=base.weights["mel_std_M"].float().numpy(),
        base=base,
        base_features=sets,
        rehearsal=rehearsal,
    )
