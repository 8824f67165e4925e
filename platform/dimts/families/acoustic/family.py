"""The acoustic family as the platform sees it; see `dimts.families.protocol.Family`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dimts.core.metric import Metric
from dimts.families.acoustic.metrics import FORGETTING, MCD, METRICS, SELECTION, SPOKEN
from dimts.families.acoustic.settings import SPELLED, AcousticSections, AcousticSettings
from dimts.families.protocol import Family, Limits, go_on_from, lazily
from dimts.features.mel_extractor import MelExtractor
from dimts.features.pitch_extractor import PitchExtractor
from dimts.training.config import RunSettings

if TYPE_CHECKING:
    from dimts.features.schema import Extractor

_WHAT_IS_FORGOTTEN = {"base.bundle", "base.features", "base.held_out"}


class VoiceLimits(Limits):
    """What a voice has to keep to be promoted; the descriptions are those of the command line."""

    margin: float = Field(0.0, ge=0, description="dB by which it must be better than the champion")
    max_forgetting: float = Field(
        0.5, ge=0, description="dB by which the base's languages may be worse"
    )
    length_tolerance: float = Field(
        0.1, gt=0, description="share by which the total length may differ from the recorded one"
    )
    max_of_mean_mel: float = Field(
        0.85, gt=0, description="share of the mean mel's distortion; above it is no voice yet"
    )


class AcousticFamily(Family):
    """Text to log-mel spectrogram, with the alignment learned."""

    name = "acoustic"
    Sections = AcousticSections
    Settings = AcousticSettings
    metrics = METRICS
    decides = MCD
    Limits = VoiceLimits
    task = lazily("acoustic.task:acoustic_task")
    load = lazily("acoustic.speaker:AcousticSpeaker.load")
    shared_inputs = lazily("acoustic.measurements:shared_inputs")
    measure = lazily("acoustic.measurements:measure")
    held_out = lazily("acoustic.measurements:held_out")
    for_promotion = lazily("acoustic.measurements:for_promotion")
    regressions = lazily("acoustic.judged:regressions")

    def with_base(self, sections: AcousticSections, bundle: Path) -> AcousticSections:
        from dimts.families.acoustic.extension.base import model_from_base
        from dimts.text.language import absolute_file, load_language
        from dimts.text.transliteration import TRANSLITERATIONS as TABLES

        assert sections.base is not None
        paths: dict[str, Any] = {"features": tuple(f.absolute() for f in sections.base.features)}
        code = sections.base.transliteration or load_language(sections.text.language).code
        if sections.base.start in SPELLED and (table := absolute_file(code, TABLES)) != code:
            paths["transliteration"] = table
        base = sections.base.model_copy(update=paths)
        model = model_from_base(sections.model, bundle)
        return sections.model_copy(update={"base": base, "model": model})

    def selection(self, sections: AcousticSections | AcousticSettings) -> Metric:
        """The validation loss, or what a judge hears."""
        chooses = sections.judges.chooses
        return next(m for m in METRICS if m.name == f"val/{chooses}") if chooses else SELECTION

    def settings(self, sections: AcousticSections, run_dir: Path, config_yaml: str) -> RunSettings:
        judges = sections.judges
        if judges.reader:  # processes that train may stand elsewhere
            judges = judges.model_copy(update={"reader": str(Path(judges.reader).absolute())})
        own = sections.model_copy(update={"judges": judges})
        return super().settings(own, run_dir, config_yaml)

    def extractors(self, sections: AcousticSections) -> Sequence[Extractor]:
        mel = MelExtractor(sections.mel)
        return (mel, PitchExtractor.of(sections.mel)) if sections.model.pitch else (mel,)

    def prepare_inputs(self, settings: AcousticSettings) -> None:
        if settings.judges.names:
            from dimts.families.acoustic.judged import check_judges

            check_judges(settings)
        if settings.training.aligner.fixed_share > 0:
            from dimts.families.acoustic.data import open_data
            from dimts.families.acoustic.flat_start import ensure_durations

            ensure_durations(settings, open_data(settings))

    def new_run_hint(self, place: str) -> str:
        return go_on_from(place, "training.aligner.fixed_share=0")

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

    def objections(self, metrics: Mapping[str, float], limits: VoiceLimits) -> list[str]:
        """See `Family.objections`; a metric that is not a number fails its condition."""
        found = []
        if not abs(metrics["length_ratio"] - 1) <= limits.length_tolerance:
            found.append(
                f"it speaks {metrics['length_ratio']:.2f} times as long as recorded, "
                f"1 +- {limits.length_tolerance:g} is asked for"
            )
        share = metrics["mcd"] / metrics["mean_mel_mcd"]
        if not share <= limits.max_of_mean_mel:
            found.append(
                f"it is no voice yet: its distortion is {share:.2f} of that of the mean mel, "
                f"at most {limits.max_of_mean_mel:g} is asked for"
            )
        forgetting = metrics.get("forgetting")
        if forgetting is not None and not forgetting <= limits.max_forgetting:
            found.append(
                f"the base's languages changed by {forgetting:+.3f} dB, "
                f"at most {limits.max_forgetting:+g} is asked for"
            )
        return found


FAMILY = AcousticFamily()
