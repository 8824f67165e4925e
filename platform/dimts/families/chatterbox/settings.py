"""What a person writes for a T3 (`ChatterboxSections`), and what its training is given."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dimts.core.config import Config
from dimts.families.chatterbox.model.config import LoraConfig, T3Config
from dimts.families.chatterbox.tokens_config import TokensConfig
from dimts.families.protocol import RehearsedBase, Sections
from dimts.features.config import CorpusConfig, PrepareConfig, check_language
from dimts.storage.paths import AnyPath
from dimts.text.normaliser import TextConfig
from dimts.training.config import OptimizerConfig, RunSettings, TrainingConfig

FreezeIndex = Literal["n_base"] | Annotated[int, Field(ge=0)]
Mode = Literal["full", "top_layers", "lora"]


class ModelConfig(Config):
    """Sizes, and what of the model is trained.

    The tables of text, embedding and head, are trained in every mode: a new language is there.

    Attributes:
        t3: sizes; with a base they are its own.
        mode: full trains all; top_layers the last blocks, the heads and the tables of text; lora
            adapters and the tables of text.
        top_layers: how many blocks that is.
        lora: the adapters.
        freeze_until_index: rows of the tables of text below it stay bit for bit, but those that
            `dimts extend` gave to the language; ``n_base`` is all others than those.
    """

    t3: T3Config = T3Config()
    mode: Mode = "full"
    top_layers: int | None = Field(None, ge=1)
    lora: LoraConfig | None = None
    freeze_until_index: FreezeIndex = 0

    @model_validator(mode="before")
    @classmethod
    def _adapters_of_lora(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("mode") == "lora" and not values.get("lora"):
            return {**values, "lora": {}}
        return values

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        for name, value in (("top_layers", self.top_layers), ("lora", self.lora)):
            if value is not None and self.mode != name:
                raise ValueError(f"{name} has no effect with mode: {self.mode}")
        if self.mode == "top_layers" and self.top_layers is None:
            raise ValueError("mode: top_layers needs top_layers, a number of blocks")
        return self


class ChatterboxPrepare(PrepareConfig):
    """The same with limits of speech that the model was made for: 25 to 750 tokens."""

    min_seconds: float = Field(1.0, ge=1, description="shortest speech, silence trimmed")
    max_seconds: float = Field(30.0, gt=0, le=30, description="longest recording")


class ChatterboxTraining(TrainingConfig):
    """The loop and the loss.

    Attributes:
        batch_budget: tokens of a step, where batches are not counted by rows.
        text_weight: of the cross-entropy of the text beside that of the speech.
        drop_text: share of the rows whose text is not shown, as classifier-free guidance needs.
        drop_speech: share of the speech tokens that are not shown but foretold all the same, so
            that the text is needed (word dropout: Bowman et al., CoNLL 2016).
        checkpointing: compute the blocks again in the backward pass, which saves memory.
        generated: held-out texts that are spoken after the training, to see where they end; 0 is
            none.
    """

    text_weight: float = Field(0.1, ge=0)
    drop_text: float = Field(0.1, ge=0, lt=1)
    drop_speech: float = Field(0.0, ge=0, lt=1)
    checkpointing: bool = False
    generated: int = Field(50, ge=0)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-5, warmup_steps=100)


class ChatterboxSettings(RunSettings):
    """One training of a T3.

    Attributes:
        features: the prepared set.
        text: what its texts must have been normalised with.
        tokens: what its tokens must be.
        base: a folder of the published model, as it is or as `dimts extend` wrote it, or a bundle
            or run of this family; None starts from nothing.
    """

    family: str = "chatterbox"
    features: AnyPath
    text: TextConfig
    tokens: TokensConfig
    model: ModelConfig
    training: ChatterboxTraining
    base: RehearsedBase | None = None


class ChatterboxSections(Sections):
    """Corpus, tokens, model and training; see the classes of each."""

    corpus: CorpusConfig
    text: TextConfig
    tokens: TokensConfig
    prepare: ChatterboxPrepare
    model: ModelConfig = ModelConfig()
    training: ChatterboxTraining = ChatterboxTraining()
    base: RehearsedBase | None = None

    @model_validator(mode="after")
    def _reads_what_is_spoken(self) -> Self:
        check_language(self.corpus, self.text)
        if self.corpus.languages:
            raise ValueError("corpus.languages: this family learns one language; leave it out")
        return self

    @property
    def features(self) -> AnyPath:
        """What is learned from, for processes that stand elsewhere."""
        return self.prepare.features.absolute()
