"""Settings of a vocoder of the tests' corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dimts.commands.voice_config import load_voice
from dimts.families.vocoder.settings import VocoderSettings

HOP = 256


@pytest.fixture
def vocoder_settings(vocoder_file: Path, tmp_path: Path) -> Any:
    """``vocoder_settings("training.max_steps=3")``: what trains a run in the test's folder."""

    def build(*overrides: str) -> VocoderSettings:
        config = load_voice([vocoder_file], [f"run.storage={tmp_path}", *overrides])
        found = config.launch().settings
        assert isinstance(found, VocoderSettings)
        return found

    return build
