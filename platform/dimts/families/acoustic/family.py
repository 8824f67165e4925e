"""The acoustic family as the platform sees it; see `dimts.families.protocol.Family`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dimts.core.config import to_yaml
from dimts.families.acoustic.limits import VoiceLimits, objections
from dimts.families.acoustic.mel_extractor import MelExtractor
from dimts.families.acoustic.metrics import FORGETTING, MCD, METRICS, SPOKEN
from dimts.families.acoustic.sections import AcousticSections
from dimts.families.acoustic.settings import AcousticSettings, Source
from dimts.families.protocol import Family, HeldOut, Measured, SharedInputs
from dimts.features.pitch_extractor import PitchExtractor

if TYPE_CHECKING:
    import torch

    from dimts.families.acoustic.speaker import AcousticSpeaker
    from dimts.features.schema import Extractor
    from dimts.training.task import Task

_WHAT_IS_FORGOTTEN = {"base.bundle", "base.features", "base.held_out"}


class AcousticFamily(Family):
    """Text to log-mel spectrogram, with the alignment learned."""

    name = "acoustic"
    Sections = AcousticSections
    Settings = AcousticSettings
    metrics = METRICS
    decides = MCD
    Limits = VoiceLimits

    def with_base(self, sections: AcousticSections, bundle: Path) -> AcousticSections:
        from dimts.families.acoustic.extension.base import base_sizes, model_from_base
        from dimts.text.language import absolute_file

        assert sections.base is not None
        features = tuple(path.absolute() for path in sections.base.features)
        base = sections.base.model_copy(update={"features": features})
        if base.transliteration:
            spelled = absolute_file(base.transliteration)
            base = base.model_copy(update={"transliteration": spelled})
        model = model_from_base(sections.model, base_sizes(bundle))
        return sections.model_copy(update={"base": base, "model": model})

    def settings(
        self, sections: AcousticSections, run_dir: Path, config_yaml: str = ""
    ) -> AcousticSettings:
        source = Source(
            features=sections.prepare.features.absolute(), text=sections.text.absolute()
        )
        return AcousticSettings(
            sources=(source,),
            run_dir=run_dir,
            mel=sections.mel,
            model=sections.model,
            training=sections.training,
            base=sections.base,
            config_yaml=config_yaml or to_yaml(sections),
        )

    def extractors(self, sections: AcousticSections) -> Sequence[Extractor]:
        mel = MelExtractor(sections.mel)
        return (mel, PitchExtractor.of(sections.mel)) if sections.model.pitch else (mel,)

    def prepare_inputs(self, settings: AcousticSettings) -> None:
        if settings.training.aligner.fixed_share > 0:
            from dimts.families.acoustic.data import open_data
            from dimts.families.acoustic.flat_start import ensure_durations

            ensure_durations(settings, open_data(settings))

    def task(self, settings: AcousticSettings, device: torch.device) -> Task:
        from dimts.families.acoustic.task import acoustic_task

        return acoustic_task(settings, device)

    def load(self, bundle: Path, device: str = "cpu") -> AcousticSpeaker:
        from dimts.families.acoustic.speaker import AcousticSpeaker

        return AcousticSpeaker.load(bundle, device)

    def new_run_hint(self, place: str) -> str:
        from dimts.families.acoustic.task import go_on_from

        return go_on_from(place)

    def check_search(self, keys: Sequence[str], objectives: Sequence[str], early: bool) -> None:
        if FORGETTING.name in objectives and (bases := _WHAT_IS_FORGOTTEN & set(keys)):
            raise ValueError(
                f"{min(bases)} changes what {FORGETTING.name} is measured on, so trials cannot be "
                "compared by it; leave it out, or take another objective"
            )
        weighed = [key for key in keys if f"{key}.".startswith("training.loss.")]
        losses = {metric.name for metric in METRICS if metric.when == "validation"}
        if weighed and (early or set(objectives) & losses):
            raise ValueError(
                f"{weighed[0]} changes what a loss means, so trials cannot be compared by it; "
                f"set early_stopping to null and take {SPOKEN.name} as the objective"
            )

    def shared_inputs(
        self, settings: Sequence[AcousticSettings], measured: Sequence[str]
    ) -> SharedInputs:
        from dimts.families.acoustic.sweeping import shared_inputs

        return shared_inputs(settings, measured)

    def measure(
        self,
        settings: AcousticSettings,
        bundle: Path,
        names: Sequence[str],
        shared: Mapping[str, float],
        device: torch.device,
    ) -> dict[str, float]:
        from dimts.families.acoustic.sweeping import measure

        return measure(settings, bundle, names, shared, device)

    def held_out(self, settings: AcousticSettings, bundle: Path, device: torch.device) -> HeldOut:
        from dimts.families.acoustic.data import open_data
        from dimts.families.acoustic.measurements import forgetting_metrics, held_out_metrics

        data = open_data(settings)
        metrics = held_out_metrics(settings, data, bundle, device)
        before, after = forgetting_metrics(settings, data, bundle, device)
        return HeldOut(metrics | after, before)

    def for_promotion(
        self, settings: AcousticSettings, device: torch.device
    ) -> Callable[[Path, str, bool], Measured]:
        from dimts.families.acoustic.promotion import TestSplit

        return TestSplit(settings, device).measure

    def objections(self, metrics: Mapping[str, float], limits: VoiceLimits) -> list[str]:
        return objections(metrics, limits)


FAMILY = AcousticFamily()
