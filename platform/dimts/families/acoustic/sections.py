"""What a person writes for a voice: corpus, text, mel, features, model, training, base."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from dimts.audio.mel import MelConfig
from dimts.families.acoustic.extension.config import BaseConfig
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.settings import Source
from dimts.families.acoustic.training_config import AcousticTrainingConfig
from dimts.families.protocol import Sections
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig


def check_language(corpus: CorpusConfig, text: TextConfig) -> None:
    """Refuse a corpus of another language than its texts are read in.

    Raises:
        ValueError: they differ.
    """
    code = load_language(text.language).code
    if corpus.language not in (None, code):
        raise ValueError(
            f"corpus.language ({corpus.language}) must be {code}, the code of text.language's "
            "file; it may be left out"
        )


class AcousticSections(Sections):
    """Corpus, features, model and training of one voice.

    With a `base` the training starts from that voice, whose sizes the model then has.
    """

    corpus: CorpusConfig
    text: TextConfig
    mel: MelConfig = MelConfig()
    prepare: PrepareConfig
    model: ModelConfig = ModelConfig()
    training: AcousticTrainingConfig = AcousticTrainingConfig()
    base: BaseConfig | None = None

    @model_validator(mode="after")
    def _reads_what_is_spoken(self) -> Self:
        check_language(self.corpus, self.text)
        return self

    @property
    def sources(self) -> tuple[Source]:
        """What is learned from, for processes that stand elsewhere."""
        return (Source(features=self.prepare.features.absolute(), text=self.text.absolute()),)
