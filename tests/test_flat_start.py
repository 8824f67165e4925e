"""The flat start's durations are made by data preparation, and only read by workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dimts.commands.prepare import main
from dimts.commands.voice_config import VoiceConfig
from dimts.core.errors import UserError
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.family import FAMILY
from dimts.families.acoustic.flat_start import read_durations
from dimts.families.acoustic.settings import AcousticSettings


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def run_prepare(
    voice_file: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """``run_prepare("base.bundle=x")``: the job, of the tiny voice, into a folder of the test."""

    def run(*overrides: str) -> None:
        words = ["prepare.py", "--config", str(voice_file)]
        for setting in (f"prepare.features={features}", *overrides):
            words += ["--set", setting]
        monkeypatch.setattr("sys.argv", words)
        main()

    return run


def test_prepare_leaves_what_workers_read(
    run_prepare: Callable[..., None], voice: Callable[..., VoiceConfig], features: Path
) -> None:
    run_prepare()
    [file] = (features / "alignments").iterdir()
    before = file.stat()
    settings = voice(f"prepare.features={features}").launch().settings
    assert isinstance(settings, AcousticSettings)
    data = open_data(settings)
    durations = read_durations(settings, data)
    frames = [of_tokens.sum() for of_tokens in durations]
    np.testing.assert_array_equal(frames, data.train.utterances.n_frames)
    FAMILY.prepare_inputs(settings)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    file.unlink()
    with pytest.raises(UserError, match=r"is not aligned; run dimts prepare again"):
        read_durations(settings, data)


def test_base_that_is_not_there_yet_costs_no_features(
    run_prepare: Callable[..., None], features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_prepare("base.bundle=not_yet_trained")
    printed = capsys.readouterr()
    assert printed.out == (features / "summary.txt").read_text(encoding="utf-8")
    note = printed.err.splitlines()[-1]
    assert note.startswith("note: what else it needs is left to the training: ")
    assert "not_yet_trained" in note
    assert not (features / "alignments").exists()


def test_voice_without_a_flat_start_is_not_aligned(
    run_prepare: Callable[..., None], features: Path
) -> None:
    run_prepare("training.aligner.fixed_share=0")
    assert not (features / "alignments").exists()
