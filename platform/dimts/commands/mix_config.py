"""The configuration of a voice of several languages, which others are adapted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from data_prep.recipes.espeak import ENGINES, ESPEAK
from dimts.audio.mel import MelConfig
from dimts.commands.voice_config import check_workers
from dimts.core.config import Config, flatten, to_yaml
from dimts.evaluation.judges.config import JudgesConfig
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.settings import (
    AcousticSettings,
    AcousticTrainingConfig,
    Source,
    check_language,
)
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.launch.settings import Launch, RayConfig, RunConfig
from dimts.text.language import Language, load_language
from dimts.text.normaliser import TextConfig
from dimts.tracking.config import TrackingConfig


class Part(Config):
    """One corpus of the mix, with the sections of a single voice.

    `engine`, as `dimts sample-corpus` names it, makes it from a text file of `sentences`, read as
    espeak-ng's `voice` does, or that of the language's code; without them it has to be there.
    """

    corpus: CorpusConfig
    text: TextConfig
    prepare: PrepareConfig
    sentences: Path | None = None
    engine: str = ESPEAK.name
    voice: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_language(self.corpus, self.text)
        if self.voice and not self.sentences:
            raise ValueError("voice has no effect without sentences")
        if self.engine not in ENGINES:
            raise ValueError(f"engine: no {self.engine!r}; there are {', '.join(ENGINES)}")
        if self.engine != ESPEAK.name and not self.sentences:
            raise ValueError("engine has no effect without sentences")
        return self


class MixConfig(Config):
    """Corpora, model, training and record of a voice of several languages or speakers."""

    parts: tuple[Part, ...] = Field(min_length=1)
    mel: MelConfig = MelConfig()
    model: ModelConfig = ModelConfig()
    training: AcousticTrainingConfig = AcousticTrainingConfig()
    judges: JudgesConfig = JudgesConfig()
    tracking: TrackingConfig = TrackingConfig()
    ray: RayConfig = RayConfig()
    run: RunConfig

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        folders = [part.prepare.features for part in self.parts]
        if twice := {str(folder) for folder in folders if folders.count(folder) > 1}:
            raise ValueError(f"parts: prepare.features {', '.join(twice)} is there twice")
        rules: dict[str, tuple[Language, dict[str, Any]]] = {}
        for part in self.parts:
            language = load_language(part.text.language)
            own = (language, part.text.switches)
            if rules.setdefault(language.code, own) != own:
                raise ValueError(
                    f"parts: {language.code} is read by two sets of rules; give all its parts the "
                    "same text"
                )
        check_workers(self.training, self.ray)
        return self

    def launch(self) -> Launch:
        """What the processes that train are handed."""
        return Launch(
            name=self.run.name,
            settings=AcousticSettings(
                sources=tuple(Source.of(p.corpus, p.text, p.prepare.features) for p in self.parts),
                run_dir=self.run.run_dir,
                mel=self.mel,
                model=self.model,
                training=self.training,
                judges=self.judges,
                config_yaml=to_yaml(self),
            ),
            tracking=self.tracking.absolute(),
            params=flatten(self.model_dump(mode="json")),
            place=self.run.place,
        )
