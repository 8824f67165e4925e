"""The one configuration of a voice, which all jobs read: ``jobs/configs/VOICE.yaml``."""

from __future__ import annotations

import re
from typing import Self

from pydantic import model_validator

from data_prep.config import CorpusConfig, PrepareConfig
from dimts.audio.mel import MelConfig
from dimts.core.config import Config, flatten, to_yaml
from dimts.families.acoustic.extension.config import BaseConfig
from dimts.families.acoustic.model.config import ModelConfig
from dimts.launch.names import BASES
from dimts.launch.settings import Launch, RayConfig, RunConfig
from dimts.storage.paths import is_remote, remote
from dimts.text.language import absolute_file, load_language
from dimts.text.normaliser import TextConfig
from dimts.tracking.config import TrackingConfig, is_in_mlflow
from dimts.training.config import TrainingConfig
from dimts.training.settings import RunSettings, Source


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


def check_workers(training: TrainingConfig, ray: RayConfig) -> None:
    """Refuse a training that the workers cannot do.

    Raises:
        ValueError: a worker would be left without an utterance, or has no such precision.
    """
    share = max(1, ray.workers) * training.accumulate
    if share > training.batch_size:
        raise ValueError(
            f"training.batch_size ({training.batch_size}) must be at least ray.workers x "
            f"training.accumulate ({share}), each of which gets an utterance"
        )
    if training.amp in ("fp16", "tf32") and not ray.gpu:
        raise ValueError(f"training.amp: {training.amp} needs ray.gpu; on a CPU use bf16 or off")


class VoiceConfig(Config):
    """Corpus, features, model, training and record of one voice.

    With a `base` the training starts from that voice, whose sizes the model then has.
    """

    corpus: CorpusConfig
    text: TextConfig
    mel: MelConfig = MelConfig()
    prepare: PrepareConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    tracking: TrackingConfig = TrackingConfig()
    ray: RayConfig = RayConfig()
    base: BaseConfig | None = None
    run: RunConfig

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_language(self.corpus, self.text)
        check_workers(self.training, self.ray)
        return self

    def resolved(self) -> VoiceConfig:
        """With the base found, and the model's sizes taken from it.

        Raises:
            UserError: there is no such base, or the model's settings do not fit it.
        """
        if self.base is None:
            return self
        from dimts.bundles.fetch import local_bundle
        from dimts.families.acoustic.extension.base import model_from_base, read_base

        features = tuple(path.absolute() for path in self.base.features)
        bundle = self._base_for_all(self.base.bundle)
        base = self.base.model_copy(update={"bundle": bundle, "features": features})
        if base.transliteration:
            spelled = absolute_file(base.transliteration)
            base = base.model_copy(update={"transliteration": spelled})
        model = model_from_base(self.model, read_base(local_bundle(bundle)).model)
        return self.model_copy(update={"base": base, "model": model})

    def pinned(self) -> Self:
        """With a base that may be another one tomorrow, an alias of MLflow or a link in object
        storage, as it is now; raises like `resolved`."""
        if self.base is None or not (is_remote(self.base.bundle) or is_in_mlflow(self.base.bundle)):
            return self
        base = self.base.model_copy(update={"bundle": self._base_for_all(self.base.bundle)})
        return self.model_copy(update={"base": base})

    def _base_for_all(self, bundle: str) -> str:
        """Where all machines find the base, and each of them the same."""
        from dimts.bundles.fetch import find_bundle, share_bundle
        from dimts.tracking.mlflow_model import resolve_model

        if is_remote(bundle):
            return str(find_bundle(remote(bundle)))
        folder = resolve_model(bundle, self.tracking).absolute()
        if is_in_mlflow(bundle):
            name = re.sub(r"[^A-Za-z0-9.-]+", "-", bundle.partition(":/")[2]).strip("-")
            return str(share_bundle(folder, self.run.storage.absolute() / BASES, name))
        return str(folder)

    def launch(self) -> Launch:
        """What the processes that train are handed; raises like `resolved`."""
        config = self.resolved()
        # As it was given: the copy of a model that MLflow keeps lies elsewhere each time.
        recorded = config.model_copy(update={"base": self.base})
        source = Source(features=config.prepare.features.absolute(), text=config.text.absolute())
        return Launch(
            name=config.run.name,
            settings=RunSettings(
                sources=(source,),
                run_dir=config.run.run_dir,
                mel=config.mel,
                model=config.model,
                training=config.training,
                base=config.base,
                config_yaml=to_yaml(recorded),
            ),
            tracking=config.tracking.absolute(),
            params=flatten(recorded.model_dump(mode="json")),
            remote=config.run.remote,
        )
