"""The recogniser family as the platform sees it; see `dimts.families.protocol.Family`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimts.core.errors import UserError
from dimts.families.protocol import Family, Measured, go_on_from, lazily
from dimts.families.recogniser.metrics import METRICS, MISREAD
from dimts.families.recogniser.settings import RecogniserSections, RecogniserSettings
from dimts.features.mel_extractor import MelExtractor

if TYPE_CHECKING:
    import torch

    from dimts.features.schema import Extractor


class RecogniserFamily(Family):
    """Speech to letters."""

    name = "recogniser"
    Sections = RecogniserSections
    Settings = RecogniserSettings
    metrics = METRICS
    decides = MISREAD
    task = lazily("recogniser.task:recogniser_task")
    load = lazily("recogniser.reader:Reader.load")

    def new_run_hint(self, place: str) -> str:
        return go_on_from(place)

    def with_base(self, sections: RecogniserSections, bundle: Path) -> RecogniserSections:
        from dimts.bundles.bundle import resolve_bundle
        from dimts.families.recogniser.bundle import read_sizes
        from dimts.families.registry import check_same_mel

        sizes, mel = read_sizes(resolve_bundle(bundle))
        check_same_mel(str(bundle), mel, sections.mel)
        ours = sections.model.model_dump(include={"freeze", "dropout"})
        return sections.model_copy(update={"model": sizes.model_copy(update=ours)})

    def extractors(self, sections: RecogniserSections) -> tuple[Extractor, ...]:
        return (MelExtractor(sections.mel),)

    def scores(
        self, settings: RecogniserSettings, bundle: Path, split: Any, device: torch.device
    ) -> Measured:
        import numpy as np

        from dimts.families.recogniser.data import open_features
        from dimts.families.recogniser.reader import Reader

        reader = Reader.load(bundle, str(device))
        rows = open_features(settings).split(split)
        if not len(rows):
            raise UserError(
                f"{settings.source.features}: the {split} split is empty; raise "
                f"prepare.{split}_share"
            )
        texts = enumerate(rows.texts)
        found = np.array([reader.misread(reader.read_mel(rows.mel(i)), t) for i, t in texts])
        letters = np.array([len(text) for text in rows.texts])
        found *= letters / letters.mean()  # their mean is then that over all letters
        metrics = {MISREAD.name: float(found.mean()), "utterances": float(len(found))}
        return Measured(rows.ids, found, metrics)


FAMILY = RecogniserFamily()
