"""What starting a job does not wait for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from dimts.bundles.bundle import resolve_bundle
from dimts.commands.voice_config import VoiceConfig
from dimts.families.registry import load_speaker
from dimts.launch.start import start_run
from dimts.training.checkpoint import BEST


def test_training_and_speech_do_without_torchs_compiler(
    voice: Callable[..., VoiceConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing it takes a second."""
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    config = voice("training.max_steps=2", "training.validate_every=2")
    assert start_run(config.launch(), config.ray)["status"] == "finished"
    assert len(load_speaker(resolve_bundle(config.run.run_dir / BEST)).speak("ሰላም")) > 0


@pytest.mark.parametrize("cluster", [None, "10.0.0.1:6379"])
def test_ray_train_starts_no_process_that_has_nothing_to_do(
    cluster: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.train.torch import TorchTrainer

    from dimts.launch.lean_trainer import LeanTrainer

    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster)
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    trainers: tuple[Any, ...] = (TorchTrainer, LeanTrainer)
    all_of_ray, ours = (
        {type(callback).__name__ for callback in trainer(print)._create_default_callbacks()}
        for trainer in trainers
    )
    unused = {"DatasetsCallback"} | (set() if cluster else {"PlacementGroupCleanerCallback"})
    assert all_of_ray - ours == unused
