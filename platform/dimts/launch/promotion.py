"""From candidate to champion: registered voices on held-out sentences, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from dimts.bundles.bundle import Bundle, load_bundle
from dimts.core.errors import UserError
from dimts.evaluation.compare import Difference, Quality
from dimts.families.acoustic.corpora import load_corpus
from dimts.families.acoustic.data import Data, open_data
from dimts.families.acoustic.figures import base_figures
from dimts.families.acoustic.held_out import UtteranceFigures, evaluate, summary
from dimts.features.feature_set import FeatureSet
from dimts.launch.settings import Launch
from dimts.tracking.mlflow_model import resolve_model
from dimts.tracking.registry import CHAMPION, Registry, Version
from dimts.training.run import initial_model

RECORDED = ("mcd", "length_ratio", "duration_error", "base_mcd", "forgetting")


class Measured(NamedTuple):
    """A registered voice on held-out sentences.

    Attributes:
        version: that was measured.
        rows: figures of the utterances of the test split.
        figures: their means; of the base's languages ``base_mcd`` and ``forgetting``, if those
            were measured.
        is_adapted: whether it comes from a base.
    """

    version: Version
    rows: Sequence[UtteranceFigures]
    figures: Mapping[str, float]
    is_adapted: bool

    @property
    def quality(self) -> Quality:
        figures = self.figures
        return Quality(figures["mcd"], figures["length_ratio"], figures.get("forgetting"))


class HeldOut:
    """Sentences that voices are measured on: the test splits that a run's settings name.

    Args:
        launch: of a run; its features and base are meant, and its store.

    Raises:
        UserError: the features are missing, do not fit the configuration, or the test split
            is empty.
    """

    def __init__(self, launch: Launch) -> None:
        settings = launch.settings
        self._tracking = launch.tracking
        self._data = open_data(settings)
        self._limit = settings.base.held_out if settings.base else 0
        self._base: dict[str, float] = {}
        if self._data.base_features:
            base = initial_model(settings, self._data)
            self._base = base_figures(base, self._data, self._limit, "test")
            if not self._base:
                raise UserError("base.features: no test utterances to measure forgetting on")
        if not len(self._data.features[0].split("test")):
            raise UserError(f"{self._data.features[0].folder}: the test split is empty")

    def measure(self, version: Version, must_know_base: bool) -> Measured:
        """Let a registered voice speak.

        Args:
            version: of the voice.
            must_know_base: refuse a voice whose forgetting cannot be measured.

        Raises:
            UserError: it cannot be had, its mel or its texts are not those of the features, or
                it comes from another base.
        """
        what = f"{version.name} version {version.number}"
        voice = load_bundle(resolve_model(version.uri, self._tracking))
        for features in self._data.features:
            check_fits(voice, features, what)
        corpus = load_corpus(self._data.features[0], voice.tokenizer, "test")
        rows = evaluate(voice.model, corpus)
        figures = summary(rows)
        if self._base and must_know_base:
            check_origin(voice, self._data, what)
        if self._base and (must_know_base or self._knows_base(voice)):
            data = self._data._replace(tokenizer=voice.tokenizer)
            after = base_figures(voice.model, data, self._limit, "test")["forgetting/mcd"]
            figures |= {"base_mcd": after, "forgetting": after - self._base["forgetting/mcd"]}
        return Measured(version, rows, figures, "base_sha256" in voice.manifest.origin)

    def _knows_base(self, voice: Bundle) -> bool:
        known = {k.language.code for k in voice.tokenizer.spec.languages}
        return all(f.manifest.corpus.languages[0] in known for f in self._data.base_features)


def check_fits(voice: Bundle, features: FeatureSet, what: str) -> None:
    """Refuse a voice that says another mel, or reads texts by other rules, than a set has.

    Raises:
        UserError: names the first difference.
    """
    manifest, code = features.manifest, features.manifest.corpus.languages[0]
    known = {k.language.code: k.text for k in voice.tokenizer.spec.languages}
    if code not in known:
        raise UserError(f"{what}: does not speak {code}, which {features.folder} is of")
    pairs = (("mel", voice.mel, manifest.mel), ("text", known[code], manifest.text))
    for section, ours, theirs in pairs:
        there = theirs.model_dump()
        for key, value in ours.model_dump().items():
            # A language's name may be that of a file, which lies elsewhere by now.
            if key != "language" and value != there[key]:
                raise UserError(
                    f"{what}: was trained with {section}.{key}={value}, {features.folder} was "
                    f"prepared with {there[key]}; give the configuration of this voice, and voices "
                    "that differ in it another --name"
                )


def check_origin(voice: Bundle, data: Data, what: str) -> None:
    """Refuse a voice that was not adapted from the configured base.

    Raises:
        UserError: so it is; what it forgot of this base says nothing.
    """
    assert data.base is not None
    # A base that dimts extend wrote hands on where it came from itself.
    allowed = {data.base.sha256, data.base.origin.get("base_sha256")} - {None}
    origin = voice.manifest.origin
    if origin.get("base_sha256") not in allowed:
        raise UserError(
            f"{what}: was adapted from {origin.get('base', 'no base')}, not from base.bundle; "
            "give the configuration of this voice"
        )


def unmeasured(voice: Measured) -> list[str]:
    """What speaks against a voice that was adapted if what it forgot was not measured."""
    if not voice.is_adapted or "forgetting" in voice.figures:
        return []
    return [
        "it was adapted from a base, and what it forgot is not measured; configure base and "
        "base.features, or give --without-forgetting"
    ]


def record(
    registry: Registry,
    ours: Measured,
    champion: Version | None,
    difference: Difference | None,
    against: Sequence[str],
) -> None:
    """Write the comparison to the candidate's version; without objections, move the alias."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    tags = {
        "promotion.at": now,
        "promotion.outcome": "; ".join(against) or "promoted",
        "promotion.compared_with": champion.number if champion else "none",
        "promotion.utterances": str(len(ours.rows)),
    }
    figures = {key: ours.figures[key] for key in RECORDED if key in ours.figures}
    if difference:
        figures |= {
            "mcd_difference": difference.mean,
            "mcd_difference_low": difference.low,
            "mcd_difference_high": difference.high,
        }
    tags |= {f"promotion.{key}": f"{value:.4g}" for key, value in figures.items()}
    registry.set_tags(ours.version, tags)
    if against:
        return
    registry.set_alias(CHAMPION, ours.version)
    if champion:
        followed = {"promotion.followed_at": now, "promotion.followed_by": ours.version.number}
        registry.set_tags(champion, followed)
