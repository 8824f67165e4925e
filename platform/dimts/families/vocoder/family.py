"""The vocoder family as the platform sees it; see `dimts.families.protocol.Family`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dimts.core.errors import UserError
from dimts.families.protocol import Family, Measured, go_on_from, lazily
from dimts.families.vocoder.metrics import DECIDES, METRICS
from dimts.families.vocoder.sections import VocoderSections
from dimts.families.vocoder.settings import VocoderSettings
from dimts.features.mel_extractor import MelExtractor
from dimts.features.pitch_extractor import PitchExtractor
from dimts.training.config import RunSettings

if TYPE_CHECKING:
    import torch

    from dimts.features.schema import Extractor


class VocoderFamily(Family):
    """Log-mel spectrogram to wave."""

    name = "vocoder"
    Sections = VocoderSections
    Settings = VocoderSettings
    metrics = METRICS
    decides = DECIDES
    task = lazily("vocoder.task:vocoder_task")
    load = lazily("vocoder.speaker:NeuralVocoder.load")

    def new_run_hint(self, place: str) -> str:
        return go_on_from(place)

    def with_base(self, sections: VocoderSections, bundle: Path) -> VocoderSections:
        from dimts.bundles.bundle import resolve_bundle
        from dimts.families.vocoder.bundle import read_sizes

        config, _ = read_sizes(resolve_bundle(bundle))
        model = config.model_copy(update={"freeze": sections.model.freeze})
        return sections.model_copy(update={"model": model})

    def settings(self, sections: VocoderSections, run_dir: Path, config_yaml: str) -> RunSettings:
        features = sections.features or (sections.prepare.features,)
        places = {"features": tuple(place.absolute() for place in features)}
        return super().settings(sections.model_copy(update=places), run_dir, config_yaml)

    def extractors(self, sections: VocoderSections) -> tuple[Extractor, ...]:
        from dimts.families.vocoder.extractors import WaveExtractor, WaveSettings

        mel = sections.mel
        wave = WaveExtractor(WaveSettings(sample_rate=mel.sample_rate))
        return (MelExtractor(mel), wave, PitchExtractor.of(mel, sections.pitch))

    def held_out(
        self, settings: VocoderSettings, bundle: Path, device: torch.device
    ) -> tuple[dict[str, float], dict[str, float]]:
        splits = ("val", "test")
        found = {s: self.scores(settings, bundle, s, device, True).metrics for s in splits}
        return {f"{s}/{key}": value for s, of in found.items() for key, value in of.items()}, {}

    def scores(
        self, settings: VocoderSettings, bundle: Path, split: str, device: torch.device,
        with_griffin_lim: bool = False,
    ) -> Measured:  # fmt: skip
        import numpy as np

        from dimts.families.registry import check_same_mel
        from dimts.families.vocoder.bundle import load_bundle
        from dimts.families.vocoder.data import open_sets, whole_utterances
        from dimts.families.vocoder.held_out import aggregate_metrics, evaluate
        from dimts.families.vocoder.speaker import NeuralVocoder

        model = load_bundle(bundle, device).model
        check_same_mel(str(bundle), model.mel, settings.mel)
        recordings = whole_utterances(open_sets(settings).values(), split, settings.mel)
        if not len(recordings):
            raise UserError(
                f"{settings.features[0]}: the {split} split is empty; raise prepare.{split}_share"
            )
        speak = NeuralVocoder(model)
        rows = evaluate(speak, recordings, settings.mel, settings.pitch, with_griffin_lim)
        metrics = aggregate_metrics(rows)
        if not with_griffin_lim:
            del metrics["griffin_lim_stft_distance"]
        return Measured(recordings.ids, np.array([row.stft_distance for row in rows]), metrics)


FAMILY = VocoderFamily()
