"""What a training of a vocoder learns from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from dimts.audio.mel import MelConfig
from dimts.audio.pitch import PitchConfig
from dimts.core.errors import UserError
from dimts.families.vocoder.dataset import Crops, Resampling
from dimts.families.vocoder.predicted import predicted_mels
from dimts.families.vocoder.settings import VocoderSettings
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SplitName, check_prepared_with, mel_moments
from dimts.storage.paths import AnyPath

COLUMNS = ("mel", "wave", "f0")


class Data(NamedTuple):
    """Features and their crops.

    Attributes:
        features: the opened sets, each once.
        train, val: random crops, and crops that stay the same, of a voice's mels if there is one. A
            set that is named several times is learned from as often.
        mel_mean, mel_std: of all bins of the training frames of all sets together.
    """

    features: tuple[FeatureSet, ...]
    train: Crops
    val: Crops
    mel_mean: float
    mel_std: float

    @property
    def fingerprint(self) -> str:
        """Of all sets."""
        return "+".join(features.manifest.fingerprint for features in self.features)


def open_data(settings: VocoderSettings) -> Data:
    """Open the features.

    Raises:
        UserError: they are missing, have no waves, or were made with other settings.
    """
    sets = open_sets(settings)
    training, mel = settings.training, settings.mel
    opened = tuple(sets.values())
    learned = tuple(sets[place] for place in settings.features)
    by_split: dict[SplitName, tuple[FeatureSet, ...]] = {"train": learned, "val": opened}
    train, val = ([f.split(split) for f in found] for split, found in by_split.items())
    mels: Sequence[Sequence[NDArray[np.float16]] | None] = (None, None)
    if training.voice:
        voice = training.voice
        mels = [predicted_mels(voice, found, split, mel) for split, found in by_split.items()]
    resampling = Resampling(training.resample, training.resampled_share)
    train_crops = Crops(
        train, mel, training.crop_frames, training.gain, mels[0], training.predicted_share,
        resampling,
    )  # fmt: skip
    val_crops = Crops(val, mel, training.validation_frames, predicted=mels[1])
    return Data(opened, train_crops, val_crops, *_statistics(learned))


def open_sets(settings: VocoderSettings) -> dict[AnyPath, FeatureSet]:
    """Each set once, by its place; raises like `open_data`."""
    return {p: _open(p, settings.mel, settings.pitch) for p in dict.fromkeys(settings.features)}


def whole_utterances(features: Iterable[FeatureSet], split: str, mel: MelConfig) -> Crops:
    """A split of all sets, to be read utterance by utterance."""
    return Crops([f.split(cast(SplitName, split)) for f in features], mel, 1)


def _open(folder: AnyPath, mel: MelConfig, pitch: PitchConfig) -> FeatureSet:
    features = FeatureSet.open(folder)
    manifest = features.manifest
    if missing := [name for name in COLUMNS if name not in manifest.columns]:
        raise UserError(
            f"{folder}: has no column {missing[0]}; run dimts prepare with family: vocoder"
        )
    tracker = manifest.extractors["pitch"].settings["tracker"]
    ours = {"mel": mel.model_dump(), "pitch": pitch.model_dump()}
    check_prepared_with(folder, ours, {"mel": manifest.mel.model_dump(), "pitch": tracker})
    return features


def _statistics(opened: tuple[FeatureSet, ...]) -> tuple[float, float]:
    """Mean and standard deviation of the training frames, of all bins and sets together.

    Not of each bin: where one corpus has no energy another voice may have some.
    """
    mean, square = (m.mean() for m in mel_moments([features.manifest for features in opened]))
    return float(mean), float(np.sqrt(square - mean**2))
