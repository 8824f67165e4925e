"""`jobs/extend.py`: a language more for a bundle, or for another system's embedding."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tokenizers
import torch
from huggingface_fixtures import JSON
from prepare_fixtures import MEL as PREPARED_MEL
from prepare_fixtures import TEXTS, tone
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from voice_fixtures import MEL, MODEL, Settings

from data_prep.pipeline import prepare
from dimts.bundles.bundle import sha256
from dimts.cli import run_job
from dimts.commands.extend import main
from dimts.core.config import to_yaml
from dimts.families.acoustic.bundle import build_model, load_bundle, write_bundle
from dimts.families.acoustic.extension.base import extend_tokenizer
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.features.mel_extractor import MelExtractor
from dimts.text.language import LANGUAGES, load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

Job = Callable[..., tuple[int, str, str]]
TOKEN = "encoder.embedding.token.weight"
SENTENCES = [*TEXTS, "ቡና ጠጣ፣ ሰላም ነው።", "ሰላም Ж!"]
WIDTH = 24
OTHER = ["--tokenizer", "{tokenizer}", "--embedding", "{embedding}", "--language", "am"]
SIZES = {
    "model": {
        "width": 16,
        "encoder": {"layers": 1, "heads": 2, "feed_forward": 16},
        "duration": {"channels": 8, "layers": 1},
        "decoder": {"channels": 16, "blocks": 1},
    }
}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Job:
    """Runs the job: its exit code and what it printed."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["extend.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_job(main)
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained voice of two languages, its matrices in half precision as a base's are."""
    languages = [(load_language(c), TextConfig(language=c)) for c in ("es", "sw")]
    tokenizer = Tokenizer.from_languages(languages)
    torch.manual_seed(3)
    model = build_model(MODEL, tokenizer, torch.randn(MEL.n_mels), torch.rand(MEL.n_mels) + 1)
    weights = {n: t.half() if t.ndim > 1 else t for n, t in model.state_dict().items()}
    folder = tmp_path_factory.mktemp("bases") / "two"
    folder.mkdir()
    facts = {"step": 7, "epoch": 1, "metrics": {"val/loss": 1.0}, "features": "f"}
    write_bundle(folder, weights, tokenizer, to_yaml(Settings()), facts)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "wavs").mkdir()
    rows = [f"u{i:02d}|{text}" for i, text in enumerate(SENTENCES * 3)]
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    for i in range(len(rows)):
        soundfile.write(folder / "wavs" / f"u{i:02d}.wav", tone(i + 1, seconds=1.0), 16_000)
    return folder


@pytest.fixture(scope="module")
def features(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "am"
    config = PrepareConfig(features=folder, engine="local", val_share=0.2, test_share=0.2)
    mel = [MelExtractor(PREPARED_MEL)]
    prepare(CorpusConfig(path=corpus), TextConfig(language="am"), mel, config)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tokenizer.json and the .safetensors with its embedding, as another system has them."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "tokenizer.json").write_text(json.dumps(JSON))
    rows = torch.randn(len(JSON["model"]["vocab"]), WIDTH, generator=torch.manual_seed(5))
    save_file({"text_emb.weight": rows, "text_head.weight": rows * 2}, folder / "t3.safetensors")
    return folder / "tokenizer.json", folder / "t3.safetensors"


@pytest.mark.parametrize("start", ["transliteration", "mean", "nearest", "random"])
def test_bundle_speaks_one_language_more_and_the_old_ones_as_before(
    job: Job, base: Path, tmp_path: Path, start: str
) -> None:
    out = tmp_path / "am"
    code, said, err = job("--base", base, "--language", "am", "--out", out, "--start", start)
    assert (code, err) == (0, "")
    before, after = load_bundle(base), load_bundle(out)
    n = before.tokenizer.n_vocab
    assert f"{n} tokens become {after.tokenizer.n_vocab}" in said
    assert after.tokenizer.tokens[:n] == before.tokenizer.tokens
    old, new = before.model.state_dict(), after.model.state_dict()
    for name, tensor in old.items():
        assert torch.equal(new[name][:n] if name == TOKEN else new[name], tensor), name
    speaks, spoke = (AcousticSpeaker(b.model, b.tokenizer, b.mel) for b in (after, before))
    for code_, text in (("es", "Hola, buenos días."), ("sw", "Habari ya asubuhi.")):
        assert np.array_equal(speaks.mel(text, language=code_)[0], spoke.mel(text, 1, code_)[0])
    assert np.isfinite(speaks.mel("ሰላም ለዓለም።")[0]).all()


def test_bundle_says_where_it_came_from(job: Job, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "am"
    assert job("--base", base, "--language", "am", "--out", out, "--start", "mean")[0] == 0
    manifest = load_bundle(out).manifest
    assert manifest.origin == {
        "base": "two",
        "base_sha256": sha256(base / "model.safetensors"),
        "start": "mean",
        "language": "am",
    }
    assert (manifest.step, manifest.metrics) == (7, {"val/loss": 1.0})
    assert "huggingface_tokenizer.json" in manifest.sha256
    assert [f.name for f in out.parent.iterdir()] == ["am"], "nothing half written is left"


def test_same_seed_gives_the_same_bytes(job: Job, base: Path, tmp_path: Path) -> None:
    names = [("a", 1), ("b", 1), ("c", 2)]
    options = ("--base", base, "--language", "am", "--start", "random")
    for name, seed in names:
        assert job(*options, "--out", tmp_path / name, "--seed", str(seed))[0] == 0
    a, b, c = (sha256(tmp_path / name / "model.safetensors") for name, _ in names)
    assert a == b != c


def test_training_takes_the_bundle_as_it_is(job: Job, base: Path, tmp_path: Path) -> None:
    """Its language is there, so that nothing is added a second time."""
    assert job("--base", base, "--language", "am", "--out", tmp_path / "am")[0] == 0
    tokenizer = load_bundle(tmp_path / "am").tokenizer
    # Wherever the language's file lies by now.
    elsewhere = TextConfig(language=str(LANGUAGES / "am.yaml"))
    assert extend_tokenizer(tokenizer, load_language("am"), elsewhere) == tokenizer
    assert tokenizer.n_base == load_bundle(base).tokenizer.n_vocab


def test_corpus_gives_coverage_and_subwords(
    job: Job, base: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "am"
    options = ("--base", base, "--language", "am", "--out", out, "--corpus", corpus)
    code, said, err = job(*options, "--subwords", "12")
    assert (code, err) == (0, "")
    assert f"in {len(SENTENCES) * 3} texts; the base alone" in said
    assert "unknown: 'Ж' (U+0416), 3 times, as in: ሰላም Ж!" in said
    tokenizer = load_bundle(out).tokenizer
    text = "ቡና ጠጣ፣ ሰላም ነው።"
    ids = tokenizer.encode(text)
    assert len(ids) < len(text)
    loaded = tokenizers.Tokenizer.from_file(str(out / "huggingface_tokenizer.json"))
    assert loaded.encode(f"<am>{text}<eos>").ids == ids
    assert np.isfinite(AcousticSpeaker.load(out).mel(text)[0]).all()


def test_embedding_of_another_system_gets_rows(
    job: Job, other: tuple[Path, Path], tmp_path: Path
) -> None:
    tokenizer, embedding = other
    out = tmp_path / "am"
    options = ("--tokenizer", tokenizer, "--embedding", embedding, "--language", "am")
    code, _, err = job(*options, "--out", out)
    assert (code, err) == (0, "")
    merged = Tokenizer.load(out / "tokenizer.json")
    rows = load_file(out / "embedding.safetensors")
    assert list(rows) == ["text_emb.weight"]
    assert rows["text_emb.weight"].shape == (merged.n_vocab, WIDTH)
    base_rows = load_file(embedding)["text_emb.weight"]
    assert torch.equal(rows["text_emb.weight"][: len(base_rows)], base_rows)
    new = rows["text_emb.weight"][len(base_rows) :]
    assert new.isfinite().all() and (new.norm(dim=1) > 0).all()
    with safe_open(out / "embedding.safetensors", framework="pt") as file:
        assert file.metadata()["base_sha256"] == sha256(embedding)
    loaded = tokenizers.Tokenizer.from_file(str(out / "huggingface_tokenizer.json"))
    assert loaded.encode("[am]ሰላም[SPACE]the[STOP]").ids == merged.encode_normalised("ሰላም the")


def test_what_was_written_is_a_base_again(
    job: Job, other: tuple[Path, Path], tmp_path: Path
) -> None:
    """With Hugging Face's file: ours has syllables, whose parts have no rows there."""
    once, twice = tmp_path / "am", tmp_path / "sw"
    rows = ("--tokenizer", other[0], "--embedding", other[1])
    assert job(*rows, "--language", "am", "--out", once)[0] == 0
    options = ("--language", "sw", "--start", "mean", "--out", twice, "--embedding")
    written = (*options, once / "embedding.safetensors", "--tensor", "text_emb.weight")
    code, _, err = job("--tokenizer", once / "tokenizer.json", *written)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "give --base a bundle, or --tokenizer a huggingface_tokenizer.json" in err
    assert not twice.exists()
    assert job("--tokenizer", once / "huggingface_tokenizer.json", *written)[0] == 0
    kept, more = (load_file(f / "embedding.safetensors")["text_emb.weight"] for f in (once, twice))
    assert len(more) > len(kept) and torch.equal(more[: len(kept)], kept)


@pytest.mark.parametrize("width", [16, WIDTH])
def test_embedding_of_another_system_becomes_a_bundle(
    job: Job, other: tuple[Path, Path], features: Path, tmp_path: Path, width: int
) -> None:
    tokenizer, embedding = other
    sizes = json.loads(json.dumps(SIZES))
    sizes["model"]["width"] = width
    (tmp_path / "sizes.yaml").write_text(json.dumps(sizes))
    options = ("--tokenizer", tokenizer, "--embedding", embedding, "--language", "am")
    around = ("--features", features, "--config", tmp_path / "sizes.yaml")
    code, _, err = job(*options, *around, "--out", tmp_path / "am")
    assert (code, err) == (0, "")
    bundle = load_bundle(tmp_path / "am")
    assert bundle.mel == PREPARED_MEL
    assert bundle.manifest.origin["base"] == "t3.safetensors"
    rows = bundle.model.state_dict()[TOKEN]
    assert rows.shape == (bundle.tokenizer.n_vocab, WIDTH)
    base_rows = load_file(embedding)["text_emb.weight"]
    kept = rows[: len(base_rows)]
    projected = width != WIDTH
    assert bundle.model.config.encoder.embedding_width == (WIDTH if projected else None)
    scale = 1.0 if projected else float(kept[5, 0] / base_rows[5, 0])
    torch.testing.assert_close(kept, base_rows * scale)
    assert np.isfinite(AcousticSpeaker.load(tmp_path / "am").mel("ሰላም ነው።")[0]).all()


def test_tokenizer_alone_is_extended(job: Job, other: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "am"
    assert job("--tokenizer", other[0], "--language", "am", "--out", out)[0] == 0
    names = sorted(f.name for f in out.iterdir())
    assert names == ["huggingface_tokenizer.json", "tokenizer.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "{base}", "--language", "es"], r"\(es\) is one of the base's languages"),
        (["--base", "{base}", "--language", "zz"], "language 'zz' is not known"),
        (["--base", "nowhere", "--language", "am"], "nowhere: no such"),
        (["--tokenizer", "none.json", "--language", "am"], "none.json: cannot be read"),
        (
            ["--tokenizer", "{tokenizer}", "--language", "am", "--start", "mean"],
            "--start needs --base or --embedding",
        ),
        (
            ["--base", "{base}", "--language", "am", "--embedding", "x"],
            "--embedding needs --tokenizer",
        ),
        (["--base", "{base}", "--language", "am", "--subwords", "5"], "--subwords needs --corpus"),
        (
            ["--base", "{base}", "--language", "am", "--corpus", "{corpus}", "--subwords", "0"],
            "--subwords 0: must be at least 1",
        ),
        (
            ["--base", "{base}", "--language", "am", "--start", "mean", "--transliteration", "am"],
            "--transliteration has no effect with --start mean",
        ),
        (["--base", "{base}", "--language", "am", "--corpus", "none"], "none"),
        (
            ["--base", "{base}", "--language", "en"],
            "no transliteration of 'en'",
        ),
        (
            ["--base", "{base}", "--language", "am", "--tracking-uri", "mlflow.db"],
            "--tracking-uri: uri: must be sqlite:///",
        ),
        (
            [*OTHER, "--tensor", "zoo"],
            "has no tensor zoo; its matrices: text_emb.weight, text_head.weight",
        ),
        (
            [*OTHER, "--features", "{features}", "--fold-homophones"],
            "the features were prepared with text",
        ),
    ],
)
def test_mistake_is_one_line_and_leaves_nothing(
    job: Job,
    base: Path,
    corpus: Path,
    features: Path,
    other: tuple[Path, Path],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    paths = {"base": base, "corpus": corpus, "features": features}
    paths |= {"tokenizer": other[0], "embedding": other[1]}
    filled = [argument.format(**paths) for argument in arguments]
    code, _, err = job(*filled, "--out", tmp_path / "out")
    assert code == 2
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    assert re.search(message, err), err
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over(job: Job, base: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    code, _, err = job("--base", base, "--language", "am", "--out", tmp_path)
    assert code == 2 and "exists already" in err
    assert [f.name for f in tmp_path.iterdir()] == ["precious"]
