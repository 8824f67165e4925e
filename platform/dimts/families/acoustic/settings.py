"""What a person writes for a voice (`*Config`, `AcousticSections`), and what its training is given.

The model's own sizes are in `model.config`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dimts.audio.mel import MelConfig
from dimts.core.config import MAX_LAYERS, MAX_WIDTH, Config
from dimts.evaluation.judges.config import JudgesConfig
from dimts.families.acoustic.model.config import LossConfig, ModelConfig
from dimts.families.protocol import RehearsedBase, Sections
from dimts.features.config import CorpusConfig, PrepareConfig, check_language
from dimts.storage.paths import AnyPath
from dimts.text.language import absent, absolute_file
from dimts.text.normaliser import TextConfig
from dimts.training.config import OptimizerConfig, RunSettings, TrainingConfig

StartMethod = Literal["transliteration", "mean", "nearest", "random"]
"""How new rows start.

transliteration: consonants, vowels and other letters as the base's letters that spell them.
mean: drawn with the mean and standard deviation that the base's letters have in each channel.
nearest: each token as the first of the base's letters that spell it.
random: as in an untrained model.
"""

SPELLED: tuple[StartMethod, ...] = ("transliteration", "nearest")
"""Those that need a transliteration."""


class BaseConfig(RehearsedBase):
    """What a voice is adapted from; see `RehearsedBase`.

    Attributes:
        start: how the rows of new tokens begin.
        transliteration: code or file of the table that `start` reads; that of the language if
            not given.
    """

    start: StartMethod = "transliteration"
    transliteration: str | None = None

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.transliteration and self.start not in SPELLED:
            raise ValueError(f"transliteration has no effect with start: {self.start}")
        return self


class AlignerConfig(Config):
    """How the alignment is learned.

    Attributes:
        fixed_share: share of the steps trained on the durations of the flat-start aligner;
            after it, durations come from monotonic alignment search with the model's own
            state means. 1 never searches; 0 searches from the first step.
        iterations: rounds of Viterbi training of the flat-start aligner.
        prior_frames: weight of what a rare token borrows from its consonant and vowel.
    """

    fixed_share: float = Field(0.25, ge=0, le=1)
    iterations: int = Field(12, ge=1)
    prior_frames: float = Field(20.0, gt=0)


LATEST_START = 200
"""Step from which on a discriminator is of use: a voice of fewer is easily told from a person."""


class AdversarialConfig(Config):
    """A discriminator that the decoder has to fool.

    Attributes:
        start_step: from which on it is trained, and the decoder hears of it; None: `LATEST_START`
            or, of shorter runs, a third of the steps.
        frames: of each utterance's piece that it sees.
        channels, layers: its sizes; the second half of the layers has twice the channels.
        weight: of what it thinks, beside the error of the mel.
        features: weight of the distance of what it sees in recorded and predicted mels.
        optimizer: its own.
    """

    start_step: int | None = Field(None, ge=0)
    frames: int = Field(64, ge=8)
    channels: int = Field(16, ge=1, le=MAX_WIDTH)
    layers: int = Field(4, ge=1, le=MAX_LAYERS)
    weight: float = Field(0.1, ge=0)
    features: float = Field(0.5, ge=0)
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, betas=(0.8, 0.99), clip_norm=10.0
    )


class AcousticTrainingConfig(TrainingConfig):
    """The loop, the alignment and the loss.

    Attributes:
        max_utterances: of each training split that are used, always the same ones; 0: all.
        speaker_temperature: of several speakers: 1 visits each utterance once an epoch, more
            visits those of speakers who have few more often, up to equal shares.
        sample_texts: sentences spoken every `sample_every` steps.
        aligner: how the alignment is learned.
        loss: weights of its parts.
        adversarial: a discriminator that the decoder has to fool; None: none.
    """

    max_utterances: int = Field(0, ge=0)
    speaker_temperature: float = Field(1.0, ge=1)
    sample_texts: tuple[str, ...] = ()
    aligner: AlignerConfig = AlignerConfig()
    loss: LossConfig = LossConfig()
    adversarial: AdversarialConfig | None = None

    @property
    def adversarial_start(self) -> int:
        """Step from which on the discriminator is trained."""
        own = self.adversarial.start_step if self.adversarial else None
        return min(LATEST_START, self.max_steps // 3) if own is None else own

    @model_validator(mode="after")
    def _discriminator_begins(self) -> Self:
        if self.adversarial and self.adversarial_start >= self.max_steps:
            raise ValueError(
                f"adversarial.start_step ({self.adversarial_start}) must be less than max_steps "
                f"({self.max_steps}), or the discriminator never begins; leave it out, or set "
                "adversarial to null"
            )
        return self


class Source(Config):
    """A folder that data preparation wrote, and what its texts must have been normalised with.

    `languages` are codes or files of others that its rows are in.
    """

    features: AnyPath
    text: TextConfig
    languages: tuple[str, ...] = Field(default=(), exclude_if=absent)

    @classmethod
    def of(cls, corpus: CorpusConfig, text: TextConfig, features: AnyPath) -> Source:
        """Of a corpus, for processes that stand elsewhere."""
        others = tuple(absolute_file(code) for code in corpus.languages)
        return cls(features=features.absolute(), text=text.absolute(), languages=others)


class AcousticSettings(RunSettings):
    """One training of a voice.

    Attributes:
        sources: sets of features, of one language or of several.
        mel: what the features must have been made with.
        base: the voice to start from; None starts from nothing.
        judges: who hears it.
    """

    family: str = "acoustic"
    sources: tuple[Source, ...] = Field(min_length=1)
    mel: MelConfig
    model: ModelConfig
    training: AcousticTrainingConfig
    base: BaseConfig | None = None
    judges: JudgesConfig = JudgesConfig()


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
    judges: JudgesConfig = JudgesConfig()

    @model_validator(mode="after")
    def _reads_what_is_spoken(self) -> Self:
        check_language(self.corpus, self.text)
        return self

    @property
    def sources(self) -> tuple[Source]:
        """What is learned from, for processes that stand elsewhere."""
        return (Source.of(self.corpus, self.text, self.prepare.features),)
