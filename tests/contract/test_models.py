"""What every family keeps: a bundle loads or is refused, a sweep and a promotion work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from family_fixtures import KILLED, SWEPT, Build, Case, Listener
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tracking_fixtures import make_store

from dimts.bundles.bundle import MANIFEST, WEIGHTS, BundleError, resolve_bundle, sha256
from dimts.cli import run_job
from dimts.commands import promote
from dimts.commands.sweep_config import load_sweep
from dimts.commands.voice_config import load_voice
from dimts.families.protocol import Speaker, Vocoder
from dimts.families.recogniser.reader import Reader
from dimts.families.registry import get_family, load_speaker
from dimts.launch.start import start_run
from dimts.launch.training_run import run_training
from dimts.training.checkpoint import BEST

pytest_plugins = ("family_fixtures",)

LR = "training.optimizer.learning_rate"


def spoken(speaker: Speaker, case: Case) -> NDArray[np.float32]:
    if case.text is not None:
        return speaker.speak(case.text)
    mel_TM = np.random.default_rng(0).normal(-5, 2, (30, 80)).astype(np.float32)
    if isinstance(speaker, Reader):
        return speaker.scores(mel_TM)
    assert isinstance(speaker, Vocoder)
    return speaker(mel_TM)


def test_bundle_speaks_again_what_it_spoke(build: Build, case: Case, tmp_path: Path) -> None:
    settings = build().launch().settings
    run_training(settings, Listener())
    best = resolve_bundle(settings.run_dir / BEST)
    moved = best.rename(tmp_path / "elsewhere")
    speaker = load_speaker(moved)
    wave = spoken(speaker, case)
    assert wave.dtype == np.float32
    assert len(wave) > 0
    assert np.isfinite(wave).all()
    assert np.array_equal(spoken(load_speaker(moved), case), wave)
    assert speaker.sample_rate > 0
    assert list(speaker.languages)


def rewrite(bundle: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change a bundle's weights, with a checksum that fits."""
    tensors = load_file(bundle / WEIGHTS)
    change(tensors)
    before = sha256(bundle / WEIGHTS)
    save_file(tensors, bundle / WEIGHTS)
    text = (bundle / MANIFEST).read_text(encoding="utf-8")
    (bundle / MANIFEST).write_text(text.replace(before, sha256(bundle / WEIGHTS)))


def test_bundle_that_does_not_fit_is_refused(build: Build) -> None:
    settings = build("training.max_steps=1").launch().settings
    run_training(settings, Listener())
    bundle = resolve_bundle(settings.run_dir / BEST)

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        name = max(tensors, key=lambda name: tensors[name].numel())
        tensors[name] = tensors[name].flatten()[:1].contiguous()

    rewrite(bundle, cut)
    with pytest.raises(BundleError, match="tensor"):
        load_speaker(bundle)
    (bundle / WEIGHTS).write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        load_speaker(bundle)
    text = (bundle / MANIFEST).read_text(encoding="utf-8")
    name = f'"family": "{settings.family}"'
    assert name in text
    (bundle / MANIFEST).write_text(text.replace(name, '"family": "unheard"'))
    with pytest.raises(BundleError, match="unheard is unknown; there are acoustic, "):
        load_speaker(bundle)


@pytest.mark.integration
@pytest.mark.parametrize("family", SWEPT, indirect=True)
def test_sweep_of_two_trials(file: Path, family: str, ray_session: None) -> None:
    from dimts.tuning.sweep import run_sweep

    metric = get_family(family).metrics[0]
    measured = next(
        m for m in get_family(family).metrics if m.name.startswith("val/") and m.when == "measured"
    )
    sweep = {
        "name": "two", "trials": 2, "parallel": 1, "validations": 2, "early_stopping": None,
        "objectives": {metric.name: metric.direction, measured.name: measured.direction},
        "space": {LR: {"type": "float", "low": 1e-9, "high": 1e-2, "log": True}},
        "known_good": [{LR: 1e-9}, {LR: 1e-2}],
    }  # fmt: skip
    space = file.with_name("space.yaml")
    space.write_text(yaml.safe_dump({"sweep": sweep}), encoding="utf-8")
    plan = load_sweep([file, space]).plan()
    result = run_sweep(plan)
    assert result.is_complete
    assert result.best is not None
    assert result.best.number == 1  # the other one learned nothing
    assert result.metrics


@pytest.mark.parametrize("family", KILLED, indirect=True)
def test_first_of_its_name_is_promoted_and_a_worse_one_is_not(
    file: Path, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    store = make_store(tmp_path / "store")
    tracked = ("tracking.enabled=true", f"tracking.uri=sqlite:///{store}/mlflow.db",
               "tracking.registered_model=small")  # fmt: skip

    def promoted(*overrides: str) -> tuple[int, str]:
        config = load_voice([file], (*tracked, *overrides))
        start_run(config.launch(), config.ray)
        sets = [part for override in (*tracked, *overrides) for part in ("--set", override)]
        loose = {
            "acoustic": ["--length-tolerance", "1000", "--max-of-mean-mel", "9"],
            "chatterbox": ["--min-text-gap=-9"],
        }.get(family, [])
        monkeypatch.setattr(sys, "argv", ["promote.py", "--config", str(file), *sets, *loose])
        with pytest.raises(SystemExit) as ended:
            run_job(promote.main)
        return int(ended.value.code or 0), capsys.readouterr().out

    status, printed = promoted("run.name=good", "training.max_steps=24")
    assert (status, "there was no champion" in printed) == (0, True), printed
    status, printed = promoted("run.name=bad", f"{LR}=1e-9")
    assert (status, "differs from the champion's" in printed) == (1, True), printed
