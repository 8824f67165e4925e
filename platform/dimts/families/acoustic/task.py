"""What a voice's training hands to the trainer: data, model, loss, bundle, samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from dimts.bundles.bundle import check_goes_on
from dimts.core.errors import UserError
from dimts.families.acoustic.adversarial import MelDiscriminator
from dimts.families.acoustic.balance import balanced
from dimts.families.acoustic.bundle import build_model, write_bundle
from dimts.families.acoustic.data import Data, open_data
from dimts.families.acoustic.dataset import Corpus, check_lengths, draw, of_speaker
from dimts.families.acoustic.extension.base import HUGGINGFACE, extended_weights, origin
from dimts.families.acoustic.extension.speakers import unnamed_speaker, with_speakers
from dimts.families.acoustic.flat_start import ensure_durations, read_durations
from dimts.families.acoustic.freezing import freeze
from dimts.families.acoustic.judged import listener
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.objective import AcousticObjective, DiscriminatorObjective
from dimts.families.acoustic.restoration import with_restoration
from dimts.families.acoustic.samples import make_samples
from dimts.families.acoustic.settings import AcousticSettings, AcousticTrainingConfig
from dimts.families.registry import get_family
from dimts.training.checkpoint import find_latest
from dimts.training.task import Objective, Task

MAX_MEASURED = 2000
"""Utterances that mean and standard deviation of log F0 are taken from."""


def acoustic_task(settings: AcousticSettings, device: torch.device) -> Task:
    """The task of a run's settings.

    Raises:
        UserError: features are missing or were made with other settings, or the run was begun
            with another base or vocabulary.
    """
    data = open_data(settings)
    latest = find_latest(settings.run_dir)
    if latest:
        key = "base_sha256"
        facts = (
            ("vocabulary", "tokenizer", data.tokenizer.fingerprint),
            ("set of features", "features", _features(data)),
            ("table of speakers", "speakers", data.speakers),
            ("base", key, _origin(settings, data).get(key)),
        )
        check_goes_on(latest, facts, get_family(settings.family).new_run_hint(str(latest.parent)))
    for text in settings.training.sample_texts:  # now, not at the first sample
        try:
            data.tokenizer.encode(text, data.language)
        except UserError as error:
            raise UserError(f"training.sample_texts: {text!r}: {error}") from error
    if settings.training.aligner.fixed_share > 0:
        if not dist.is_initialized() or dist.get_world_size() == 1:  # there is none that waits
            ensure_durations(settings, data)
        data.train.durations = read_durations(settings, data)
    model = initial_model(settings, data)
    notes = unnamed_speaker(data.features, data.speakers[: data.n_base_speakers])
    if latest is None and data.n_base_speakers < len(data.speakers):
        from dimts.families.acoustic.extension.nearest_speaker import start_speakers

        notes += start_speakers(model, data, settings.mel)
    return replace(task_of(settings, data, model.to(device)), notes=notes)


def task_of(settings: AcousticSettings, data: Data, model: T3) -> Task:
    """The task of a model, whose frozen parts are frozen here, and its data.

    Raises:
        UserError: an utterance is too short for its states.
    """
    counts = freeze(model, data.tokenizer, data.n_base_speakers)
    for corpus in (data.train, data.val, data.rehearsal):
        if corpus:
            check_lengths(corpus, model.config.states_per_token)

    def write(folder: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        own: dict[str, Any] = {"features": _features(data), "origin": _origin(settings, data)}
        own["speakers"] = data.speakers
        weights = with_restoration(model, weights, data.train)
        write_bundle(folder, weights, data.tokenizer, settings.config_yaml, {**facts, **own})

    return Task(
        model=model,
        objectives=objectives(model, settings.training),
        train=data.train,
        val=data.val,
        selection=get_family(settings.family).selection(settings),
        listen=listener(settings, data, model),
        unit="frames",
        write_bundle=write,
        sample=partial(make_samples, settings, data, model),
        rehearsal=data.rehearsal,
        rehearsal_share=settings.base.rehearsal_share if settings.base else 0.0,
        repeats=balanced(data.train, settings.training.speaker_temperature),
        counts={f"parameters/{what}": float(n) for what, n in counts.items()},
    )


def objectives(model: T3, config: AcousticTrainingConfig) -> tuple[Objective, ...]:
    """The voice's, and that of the discriminator that it has to fool, if there is one."""
    if not (adversarial := config.adversarial):
        return (Objective("acoustic", AcousticObjective(model, config), config.optimizer),)
    discriminator = MelDiscriminator(adversarial).to(model.mel_mean_M.device)
    voice = AcousticObjective(model, config, discriminator)
    critic = DiscriminatorObjective(discriminator, voice)
    start = config.adversarial_start
    return (
        Objective("acoustic", voice, config.optimizer),
        Objective("discriminator", critic, adversarial.optimizer, start),
    )


def initial_model(settings: AcousticSettings, data: Data) -> T3:
    """The model before the first step: the base's, extended, or an untrained one."""
    model = untrained_model(settings, data)
    if data.base and settings.base:
        seed = settings.training.seed
        weights = extended_weights(data.base, data.tokenizer, settings.base, seed)
        weights = with_speakers(weights, model.state_dict(), data.n_base_speakers)
        # What the base knows nothing of begins untrained.
        added: tuple[str, ...] = () if data.base.config.pitch else ("pitch.", "source.")
        added += () if data.base.config.postfilter else ("postfilter_FM",)
        own = model.state_dict().items()
        weights |= {key: value for key, value in own if key.startswith(added)}
        if model.postfilter_FM is None:
            weights.pop("postfilter_FM", None)
        model.load_state_dict(weights)
    return model


def untrained_model(settings: AcousticSettings, data: Data) -> T3:
    """A model that knows nothing, with the vocabulary of `data`; the same for the same seed."""
    torch.manual_seed(settings.training.seed)
    mean_M, std_M = torch.from_numpy(data.mel_mean_M), torch.from_numpy(data.mel_std_M)
    model = build_model(settings.model, data.tokenizer, mean_M, std_M, len(data.speakers))
    if model.source is not None:
        rows = range(max(1, len(data.speakers)))
        log_f0 = [_log_f0(of_speaker(data.train, row)) for row in rows]
        model.source.measure(settings.mel, log_f0)
    n_frames = data.train.utterances.n_frames.sum()
    model.duration.expect(float(n_frames / data.train.n_tokens.sum()))
    return model


def _log_f0(corpus: Corpus) -> NDArray[np.float32]:
    """Natural log of F0 in Hz, of voiced frames, of at most `MAX_MEASURED` utterances, [n]."""
    f0 = np.concatenate([np.zeros(0, np.float32), *(draw(corpus, MAX_MEASURED).f0 or ())])
    return np.log(f0[f0 > 0])


def _features(data: Data) -> str:
    """Fingerprints of all sets that are learned from, those that are rehearsed among them."""
    rehearsed = data.base_features if data.rehearsal else ()
    return "+".join(f.manifest.fingerprint for f in (*data.features, *rehearsed))


def _origin(settings: AcousticSettings, data: Data) -> dict[str, str]:
    """What the run's bundles say of the base; see `BundleManifest`."""
    if not (data.base and settings.base):
        return {}
    before = data.base.manifest
    learned = {"speaker": data.speaker} if data.speaker else {}
    if HUGGINGFACE in before.sha256 and before.origin.get("language") == data.language:
        return before.origin | learned  # dimts extend wrote it, and no training has come of it yet
    name = Path(settings.base.bundle).name
    return origin(name, data.base.sha256, settings.base.start, data.language) | learned
