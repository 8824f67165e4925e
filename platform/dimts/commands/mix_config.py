"""The configuration of a voice of several languages, which others are adapted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from data_prep.recipes.espeak import ENGINES, ESPEAK
from dimts.audio.mel import MelConfig
from dimts.commands.voice_config import RunnableConfig
from dimts.core.config import Config
from dimts.evaluation.judges.config import JudgesConfig
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.settings import AcousticTrainingConfig, Source
from dimts.features.config import CorpusConfig, PrepareConfig, check_language
from dimts.text.language import Language, load_language
from dimts.text.normaliser import TextConfig


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


class MixConfig(RunnableConfig):
    """Corpora, model, training and record of a voice of several languages or speakers, which starts
    from nothing."""

    # No settings here: keys of these names are unknown.
    family: ClassVar[str] = "acoustic"  # type: ignore[misc]
    base: ClassVar[None] = None  # type: ignore[misc]
    parts: tuple[Part, ...] = Field(min_length=1)
    mel: MelConfig = MelConfig()
    model: ModelConfig = ModelConfig()
    training: AcousticTrainingConfig = AcousticTrainingConfig()
    judges: JudgesConfig = JudgesConfig()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
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
        return self

    @property
    def sources(self) -> tuple[Source, ...]:
        """What is learned from, for processes that stand elsewhere."""
        return tuple(Source.of(p.corpus, p.text, p.prepare.features) for p in self.parts)
