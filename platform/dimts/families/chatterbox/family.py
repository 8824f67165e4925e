"""The chatterbox family as the platform sees it; see `dimts.families.protocol.Family`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dimts.core.errors import UserError
from dimts.families.chatterbox.metrics import (
    DECIDES,
    ENDS_ON_TIME,
    FORGETTING,
    FORGOTTEN,
    METRICS,
    TEXT_GAP,
)
from dimts.families.chatterbox.settings import ChatterboxSections, ChatterboxSettings
from dimts.families.protocol import Family, Limits, Measured, SharedInputs, go_on_from, lazily
from dimts.training.config import RunSettings

if TYPE_CHECKING:
    import torch

    from dimts.features.schema import Extractor


class ChatterboxLimits(Limits):
    """What a model has to keep to be promoted; the descriptions are those of the command line."""

    margin: float = Field(
        0.0, ge=0, description="nats a token by which it must be better than the champion"
    )
    min_text_gap: float = Field(
        0.1, description="nats a token that a wrong text must cost; below it ignores its text"
    )
    max_forgetting: float = Field(
        0.2, ge=0, description="nats a token by which the base's languages may be worse"
    )


class ChatterboxFamily(Family):
    """Text to speech tokens, by a Llama."""

    name = "chatterbox"
    Sections = ChatterboxSections
    Settings = ChatterboxSettings
    metrics = METRICS
    decides = DECIDES
    Limits = ChatterboxLimits
    prepare_inputs = lazily("chatterbox.data:warn_of_one_speaker")
    task = lazily("chatterbox.task:chatterbox_task")
    load = lazily("chatterbox.speaker:ChatterboxSpeaker.load")

    def new_run_hint(self, place: str) -> str:
        return go_on_from(place)

    def with_base(self, sections: ChatterboxSections, bundle: Path) -> ChatterboxSections:
        from dimts.families.chatterbox.base import read_sizes

        assert sections.base is not None
        paths = {"features": tuple(place.absolute() for place in sections.base.features)}
        base = sections.base.model_copy(update=paths)
        model = sections.model.model_copy(update={"t3": read_sizes(bundle)})
        return sections.model_copy(update={"base": base, "model": model})

    def settings(
        self, sections: ChatterboxSections, run_dir: Path, config_yaml: str
    ) -> RunSettings:
        own = sections.model_copy(update={"text": sections.text.absolute()})
        return super().settings(own, run_dir, config_yaml)

    def extractors(self, sections: ChatterboxSections) -> Sequence[Extractor]:
        from dimts.families.chatterbox.extractor import TokenExtractor

        return (TokenExtractor.of(sections.tokens),)

    def measure(
        self, settings: ChatterboxSettings, bundle: Path, names: Sequence[str],
        shared: Mapping[str, float], device: torch.device,
    ) -> dict[str, float]:  # fmt: skip
        if ENDS_ON_TIME.name not in names:  # to speak takes longer than all else
            training = settings.training.model_copy(update={"generated": 0})
            settings = settings.model_copy(update={"training": training})
        found = super().measure(settings, bundle, names, shared, device)
        if FORGETTING.name in names:
            from dimts.families.chatterbox.forgetting import forgetting

            found[FORGETTING.name] = forgetting(settings, bundle, "val", device)[0][FORGETTING.name]
        return found

    def shared_inputs(
        self, settings: Sequence[ChatterboxSettings], measured: Sequence[str]
    ) -> SharedInputs:
        base = settings[0].base
        if FORGETTING.name in measured and not (base and base.features):
            raise UserError(f"sweep.objectives: {FORGETTING.name} needs base.features")
        return super().shared_inputs(settings, measured)

    def held_out(
        self, settings: ChatterboxSettings, bundle: Path, device: torch.device
    ) -> tuple[dict[str, float], dict[str, float]]:
        from dimts.families.chatterbox.forgetting import forgetting

        after, before = forgetting(settings, bundle, "test", device)
        return super().held_out(settings, bundle, device)[0] | after, before

    def for_promotion(
        self, settings: ChatterboxSettings, device: torch.device
    ) -> Callable[[Path, str, bool], Measured]:
        from dimts.families.chatterbox.forgetting import forgetting

        def measure(bundle: Path, what: str, is_candidate: bool) -> Measured:
            measured = self.scores(settings, bundle, "test", device)
            after, _ = forgetting(settings, bundle, "test", device)
            forgotten = {FORGOTTEN.name: after[FORGETTING.name]} if after else {}
            return measured._replace(metrics={**measured.metrics, **forgotten})

        return measure

    def scores(
        self, settings: ChatterboxSettings, bundle: Path, split: Any, device: torch.device
    ) -> Measured:
        import numpy as np

        from dimts.families.chatterbox.bundle import load_bundle
        from dimts.families.chatterbox.data import held_out_rows, open_features
        from dimts.families.chatterbox.held_out import aggregate_metrics, evaluate

        loaded = load_bundle(bundle)
        features = open_features(settings.features, settings, settings.text)
        rows = held_out_rows(features, loaded.tokenizer, split)
        found = evaluate(loaded.model(device), rows, settings.training.generated)
        values = np.array([row.speech_loss for row in found])
        return Measured(rows.ids, values, aggregate_metrics(found))

    def objections(self, metrics: Mapping[str, float], limits: ChatterboxLimits) -> list[str]:
        """See `Family.objections`; a metric that is not a number fails its condition."""
        found = []
        gap = metrics.get(TEXT_GAP.name)
        if gap is None and limits.min_text_gap > 0:
            found.append(
                "whether it reads its text is not known: the test split needs two utterances of "
                "different texts; raise prepare.test_share and run dimts prepare"
            )
        elif gap is not None and not gap >= limits.min_text_gap:
            found.append(
                f"it ignores its text: a wrong one costs {gap:+.3f} nats a token, at least "
                f"{limits.min_text_gap:+g} is asked for"
            )
        forgotten = metrics.get(FORGOTTEN.name)
        if forgotten is not None and not forgotten <= limits.max_forgetting:
            found.append(
                f"the base's languages changed by {forgotten:+.3f} nats a token, at most "
                f"{limits.max_forgetting:+g} is asked for"
            )
        return found


FAMILY = ChatterboxFamily()
