"""`jobs/pretrain.py`: corpora, features and a base voice of several languages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml
from conftest import BASE_TEXTS, N_BASE_SENTENCES
from training_fixtures import acoustic

from data_prep.recipes.espeak import read_sentences
from dimts.bundles.bundle import WEIGHTS, read_manifest, resolve_bundle
from dimts.commands.mix_config import MixConfig
from dimts.commands.pretrain import main, prepare_parts
from dimts.core.config import load_config, to_yaml
from dimts.core.errors import ConfigError
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.dataset import load_corpus
from dimts.families.acoustic.held_out import aggregate_metrics, evaluate
from dimts.families.acoustic.measurements import base_metrics, held_out
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.features.feature_set import FeatureSet
from dimts.launch.run_logger import read_result
from dimts.training.checkpoint import BEST

if TYPE_CHECKING:
    from conftest import BaseVoice

ROOT = Path(__file__).parents[1]
MIXES = sorted((ROOT / "jobs" / "configs" / "mix").glob("*.yaml"))
Change = Callable[[dict[str, object]], object]


def config_of(base: BaseVoice, *overrides: str) -> MixConfig:
    return load_config(MixConfig, [base.file], overrides)


def test_base_has_the_languages_of_its_parts_in_their_order(base: BaseVoice) -> None:
    voice = load_bundle(base.run_dir / BEST)
    assert voice.tokenizer.languages == ("es", "sw")
    assert voice.tokenizer.n_base == 0
    assert voice.manifest.origin == {}
    prints = [FeatureSet.open(folder).manifest.fingerprint for folder in base.features]
    assert voice.manifest.features == "+".join(prints)


def test_base_learns_from_every_part(base: BaseVoice) -> None:
    data = open_data(acoustic(config_of(base).launch()))
    for split in (data.train, data.val):
        starts = {int(ids[0]) for ids in split.tokens}
        assert starts == set(data.tokenizer.start_ids.values())
    mels = [data.train.utterances.mel(i) for i in range(len(data.train))]
    frames_TM = np.concatenate(mels).astype(np.float64)
    assert data.mel_mean_M == pytest.approx(frames_TM.mean(0), abs=1e-4)
    assert data.mel_std_M == pytest.approx(frames_TM.std(0), rel=1e-3)
    voice = load_bundle(base.run_dir / BEST)
    assert torch.equal(voice.model.mel_mean_M, torch.from_numpy(data.mel_mean_M))


def test_figures_are_of_each_language(base: BaseVoice) -> None:
    figures = read_result(base.run_dir)["metrics"]
    voice = load_bundle(base.run_dir / BEST)
    for split in ("val", "test"):
        rows = []
        for folder, code in zip(base.features, ("es", "sw"), strict=True):
            of_one = evaluate(
                voice.model, load_corpus(FeatureSet.open(folder), voice.tokenizer, split)
            )
            assert figures[f"{split}/mcd_{code}"] == pytest.approx(aggregate_metrics(of_one)["mcd"])
            rows += of_one
        assert figures[f"{split}/mcd"] == pytest.approx(aggregate_metrics(rows)["mcd"])
        assert figures[f"{split}/utterances"] == len(rows)
        assert figures[f"{split}/mcd_es"] != figures[f"{split}/mcd_sw"]


def test_job_says_what_it_made(base: BaseVoice) -> None:
    lines = base.printed.splitlines()
    for folder, code in zip(base.features, ("es", "sw"), strict=True):
        n = FeatureSet.open(folder).manifest.n_utterances
        assert any(x.startswith(f"{folder}: {n} utter") and x.endswith(code) for x in lines)
    assert "finished at step 10" in base.printed
    assert lines[-1].startswith(f"exported: {base.exported}, ")


def test_second_call_does_no_work(
    base: BaseVoice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = base.file.parent
    kept = [
        file
        for name in ("corpus_es", "corpus_sw", "features_es", "features_sw", "runs/base")
        for file in (folder / name).rglob("*")
        if file.suffix in (".wav", ".csv", ".arrow", ".safetensors", ".pt")
    ]
    assert len(kept) > 40
    before = {file: file.stat().st_mtime_ns for file in kept}
    figures = read_result(base.run_dir)["metrics"]
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--config", str(base.file)])
    main()
    assert {file: file.stat().st_mtime_ns for file in kept} == before
    out = capsys.readouterr().out
    assert "loss" not in out, "no step"
    assert read_result(base.run_dir)["metrics"] == figures


def test_prepare_only_trains_nothing(
    base: BaseVoice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pretrain.py", "--config", str(base.file), "--prepare-only"]
    monkeypatch.setattr(sys, "argv", [*command, "--set", "run.name=none"])
    main()
    assert not (base.run_dir.parent / "none").exists()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_export_is_half_as_large_and_speaks(base: BaseVoice) -> None:
    trained = resolve_bundle(base.run_dir)
    assert (base.exported / WEIGHTS).stat().st_size < 0.6 * (trained / WEIGHTS).stat().st_size
    assert folder_size(base.exported) <= folder_size(trained) / 2
    assert {f.name for f in base.exported.iterdir()} == {
        "model.safetensors", "config.yaml", "tokenizer.json", "manifest.json",
    }  # fmt: skip
    figures = read_result(base.run_dir)["metrics"]
    assert read_manifest(base.exported).metrics == figures
    shipped, full = AcousticSpeaker.load(base.exported), AcousticSpeaker.load(trained)
    for text, code in (("Buenos días.", "es"), ("Habari ya asubuhi.", "sw")):
        mel_TM, durations, _ = shipped.mel(text, language=code)
        expected_TM, expected, _ = full.mel(text, language=code)
        assert abs(int(durations.sum()) - int(expected.sum())) <= 2
        if len(mel_TM) == len(expected_TM):
            assert mel_TM == pytest.approx(expected_TM, abs=0.1)
        assert np.isfinite(shipped.speak(text, language=code)).all()


def folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_language_decides_what_is_said(base: BaseVoice) -> None:
    voice = AcousticSpeaker.load(base.exported)
    spanish, swahili = (voice.mel("mama", language=code)[0] for code in ("es", "sw"))
    assert spanish.shape != swahili.shape or not np.allclose(spanish, swahili)
    assert np.array_equal(voice.mel("mama")[0], swahili), "the last one is the default"


# Settings


def test_base_that_ships_speaks_its_languages() -> None:
    """It is small, says how good it is, and is what its own settings make."""
    folder = ROOT / "bases" / "natural"
    assert folder_size(folder) <= 12e6
    config = load_config(MixConfig, [ROOT / "jobs" / "configs" / "mix" / "natural.yaml"])
    shipped = load_bundle(folder)
    assert shipped.model.config == config.model
    assert shipped.mel == config.mel
    codes = tuple(dict.fromkeys(part.text.language for part in config.parts))
    assert shipped.tokenizer.languages == codes
    assert set(shipped.speakers) <= {part.corpus.speaker for part in config.parts}
    assert {f"test/mcd_{code}" for code in codes} <= shipped.manifest.metrics.keys()
    assert shipped.manifest.metrics["test/mcd_of_untrained"] < 0.6
    voice = AcousticSpeaker.load(folder)
    for part in config.parts:
        if part.sentences is None:
            continue
        sentence = read_sentences(ROOT / part.sentences)[0]
        who = part.corpus.speaker
        mel_TM, _, _ = voice.mel(sentence, language=part.text.language, voice=who)
        seconds = len(mel_TM) * config.mel.hop_length / config.mel.sample_rate
        assert 0.03 < seconds / len(sentence) < 0.15


@pytest.mark.parametrize("shipped", MIXES, ids=lambda file: file.name)
def test_shipped_mix_loads_and_resolves(shipped: Path, tmp_path: Path) -> None:
    config = load_config(MixConfig, [shipped])
    file = tmp_path / "again.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(MixConfig, [file]) == config
    assert len(acoustic(config.launch()).sources) == len(config.parts) >= 4
    for part in config.parts:
        assert part.sentences is None or (ROOT / part.sentences).is_file()
        assert part.corpus.language == part.text.language != "am"


def same_features(settings: dict[str, object]) -> None:
    parts = settings["parts"]
    assert isinstance(parts, list)
    parts[1]["prepare"] = parts[0]["prepare"]


def other_rules(settings: dict[str, object]) -> None:
    parts = settings["parts"]
    assert isinstance(parts, list)
    parts[1]["text"] = {"language": "es", "fold_homophones": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (same_features, "is there twice"),
        (other_rules, "es is read by two sets of rules"),
        (lambda settings: settings.update(parts=[]), "parts: "),
        (lambda settings: settings.update(base={"bundle": "x"}), "base: unknown key"),
    ],
)
def test_mix_that_cannot_work_is_refused(
    base: BaseVoice, tmp_path: Path, change: Change, message: str
) -> None:
    settings = yaml.safe_load(base.file.read_text(encoding="utf-8"))
    change(settings)
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(MixConfig, [file]).launch()
    assert len(str(caught.value).splitlines()) == 1


def test_sets_of_one_language_have_one_figure(base: BaseVoice, tmp_path: Path) -> None:
    """As two speakers of it would be."""
    lines = read_sentences(BASE_TEXTS / "es.txt.xz")
    others = sorted(lines, key=len)[N_BASE_SENTENCES : 2 * N_BASE_SENTENCES]
    (tmp_path / "others.txt").write_text("\n".join(others), encoding="utf-8")
    settings = yaml.safe_load(base.file.read_text(encoding="utf-8"))
    first = settings["parts"][0]
    further = {
        **first,
        "corpus": {"path": str(tmp_path / "corpus")},
        "prepare": {**first["prepare"], "features": str(tmp_path / "features")},
        "sentences": str(tmp_path / "others.txt"),
    }
    settings["parts"].append(further)
    file = tmp_path / "three.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    config = load_config(MixConfig, [file])
    prepare_parts(config, config.parts)
    settings_of_run = acoustic(config.launch())
    data = open_data(settings_of_run)
    assert data.tokenizer.languages == ("es", "sw")
    voice = load_bundle(base.run_dir / BEST)
    rows = []
    for features in (data.features[0], data.features[2]):
        rows += evaluate(voice.model, load_corpus(features, voice.tokenizer, "test"))
    metrics, _ = held_out(settings_of_run, base.run_dir / BEST, torch.device("cpu"))
    assert metrics["test/mcd_es"] == pytest.approx(aggregate_metrics(rows)["mcd"])
    both = data._replace(base_features=(data.features[0], data.features[2]))
    forgotten = base_metrics(voice.model, both, limit=50)
    assert forgotten["forgetting/mcd_es"] == pytest.approx(aggregate_metrics(rows)["mcd"])
