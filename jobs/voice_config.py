"""The one configuration of a voice, which all jobs read: ``jobs/configs/VOICE.yaml``."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from data_prep.config import CorpusConfig, PrepareConfig
from dimts.audio.mel import MelConfig
from dimts.config import Config, flatten, to_yaml
from dimts.launch.settings import Launch, RayConfig, RunConfig
from dimts.model.t3 import ModelConfig
from dimts.text.normaliser import TextConfig
from dimts.tracking.config import TrackingConfig
from dimts.training.config import TrainingConfig
from dimts.training.run import RunSettings


class VoiceConfig(Config):
    """Corpus, features, model, training and record of one voice."""

    corpus: CorpusConfig
    text: TextConfig
    mel: MelConfig = MelConfig()
    prepare: PrepareConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    tracking: TrackingConfig = TrackingConfig()
    ray: RayConfig = RayConfig()
    run: RunConfig

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        share = max(1, self.ray.workers) * self.training.accumulate
        if share > self.training.batch_size:
            raise ValueError(
                f"training.batch_size ({self.training.batch_size}) must be at least ray.workers x "
                f"training.accumulate ({share}), each of which gets an utterance"
            )
        if self.training.amp == "fp16" and not self.ray.gpu:
            raise ValueError("training.amp: fp16 needs ray.gpu; on a CPU use bf16 or off")
        return self

    def launch(self) -> Launch:
        """What the processes that train are handed."""
        return Launch(
            name=self.run.name,
            settings=RunSettings(
                features=self.prepare.features.absolute(),
                run_dir=self.run.run_dir,
                text=self.text,
                mel=self.mel,
                model=self.model,
                training=self.training,
                config_yaml=to_yaml(self),
            ),
            tracking=self.tracking.absolute(),
            params=flatten(self.model_dump(mode="json")),
        )
