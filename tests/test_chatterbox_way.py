"""The whole way of docs/chatterbox.md: what ships is whole, and its commands do what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dimts.commands.sweep_config import load_sweep
from dimts.commands.voice_config import load_voice
from dimts.families.chatterbox.alphabet import alphabet_tokenizer
from dimts.families.chatterbox.model.config import T3Config
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.settings import ChatterboxSettings
from dimts.families.chatterbox.stock import open_stock, write_stock
from dimts.text.language import load_language

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "jobs" / "configs" / "chatterbox"
SPACE = ROOT / "search_spaces" / "chatterbox.yaml"
SHORT = {
    "train": ["training.max_steps=8", "training.batch_size=4", "training.generated=2"],
    "tune": ["training.generated=2", "sweep.trials=2", "sweep.utterances=128"],
    "promote": ["training.generated=2"],
}


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """A folder as the published model's, tiny."""
    folder = tmp_path / "chatterbox-am"
    folder.mkdir()
    config = T3Config.tiny()
    tokenizer, _ = alphabet_tokenizer(load_language("am"), config.text_vocab)
    weights = T3(config).state_dict()
    write_stock(folder, weights, config, tokenizer, "t3_mtl23ls_v2.safetensors", None)
    return folder


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_model_that_starts_from_nothing_has_rows_for_its_letters(name: str) -> None:
    settings = load_voice([CONFIGS / f"{name}.yaml"]).launch().settings
    assert isinstance(settings, ChatterboxSettings)
    alphabet_tokenizer(load_language(settings.text.language), settings.model.t3.text_vocab)


def test_adapters_of_the_published_model_take_its_sizes(stock: Path) -> None:
    config = load_voice([CONFIGS / "lora.yaml"], [f"base.bundle={stock}"])
    settings = config.launch().settings
    assert isinstance(settings, ChatterboxSettings)
    assert settings.model.t3 == T3Config.tiny()
    assert settings.model.lora and settings.model.lora.rank == 32


def test_search_space_fits_the_adapters(stock: Path, tmp_path: Path) -> None:
    overrides = [f"base.bundle={stock}", f"run.storage={tmp_path}"]
    plan = load_sweep([CONFIGS / "lora.yaml", SPACE], overrides).plan()
    settings = plan.launch(0, plan.sweep.known_good[0]).settings
    assert isinstance(settings, ChatterboxSettings)
    assert settings.training.batch_size == 32


def way() -> list[list[str]]:
    """Commands of the page that need nothing but the repository."""
    page = (ROOT / "docs" / "chatterbox.md").read_text(encoding="utf-8")
    _, _, part = page.partition("## The same on a laptop")
    found = re.findall(r"^    \.venv/bin/dimts (.*)$", part.partition("\n## ")[0], re.MULTILINE)
    return [shlex.split(command) for command in found]


@pytest.mark.slow
def test_way_on_a_laptop(spoken_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "sample_am").symlink_to(spoken_corpus)
    names = [words[0] for words in way()]
    assert names == [
        "sample-corpus", "prepare", "train", "synthesize", "tune", "promote", "export",
    ]  # fmt: skip
    printed = {}
    for name, *words in way()[1:]:
        more = [part for change in SHORT.get(name, ()) for part in ("--set", change)]
        # The few sentences of the tests leave no split empty with these shares.
        shares = ("prepare.val_share=0.12", "prepare.test_share=0.08")
        more += [part for s in shares if name == "prepare" for part in ("--set", s)]
        done = subprocess.run(
            [sys.executable, "-m", "dimts", name, *words, *more],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"
        printed[name] = done.stdout
    assert (tmp_path / "output" / "tiny.wav").stat().st_size > 1000
    assert "models:/tiny@champion" in printed["promote"]
    exported = open_stock(tmp_path / "output" / "chatterbox_tiny")
    assert exported.config == T3Config.tiny()
    T3(exported.config).load_state_dict(exported.weights())


@pytest.mark.slow
def test_benchmark_measures_all_modes(tmp_path: Path) -> None:
    file = tmp_path / "steps.json"
    command = ["benchmarks/chatterbox.py", "--budget", "800", "--steps", "1", "--json", str(file)]
    environment = {**os.environ, "PYTHONPATH": "platform:."}
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, env=environment)
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    trained = {r["case"]["mode"]: r["trained"] for r in results}
    assert trained["lora"] < trained["top_layers"] < trained["full"]
    assert trained["full"] == sum(p.numel() for p in T3(T3Config.tiny()).parameters()) - 8 * 64
    assert all(r["tokens_per_second"] > 0 and r["flops_a_row"] > 1e8 for r in results)
    assert torch.cuda.is_available() or all(r["mfu"] is None for r in results)
