"""`dimts extend` and `dimts export` on folders as Chatterbox is published, at tiny size."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.chatterbox_parity import drawn_row, drawn_weights
from dimts.cli import run_job
from dimts.commands import export as export_command
from dimts.commands import extend as extend_command
from dimts.core.config import Config, to_yaml
from dimts.families.chatterbox.base import read_base
from dimts.families.chatterbox.bundle import build_model, load_bundle, write_bundle
from dimts.families.chatterbox.export import logits_apart
from dimts.families.chatterbox.model.config import LoraConfig, T3Config
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.placed import write_placed
from dimts.families.chatterbox.stock import MULTILINGUAL, open_stock, write_stock
from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer

TOKENIZER = StockTokenizer.load(Path(__file__).parent / "data" / "chatterbox" / MULTILINGUAL)
CONFIG = T3Config.tiny(TOKENIZER.n_vocab)
NAME = "t3_mtl23ls_v2.safetensors"
LORA = LoraConfig(rank=2, alpha=4)
FACTS = {"step": 1, "epoch": 0, "metrics": {}, "features": ""}
Job = Callable[..., tuple[int, str]]


class Model(Config):
    t3: T3Config
    lora: LoraConfig | None


class Settings(Config):
    model: Model


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """A folder with the published names; the parts that stay are a few bytes."""
    folder = tmp_path / "stock"
    folder.mkdir()
    (folder / "ve.pt").write_bytes(b"voice encoder")
    write_stock(folder, drawn_weights(T3(CONFIG)), CONFIG, TOKENIZER, NAME, beside=None)
    return folder


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Job:
    """Runs a command: its exit code and what it printed."""

    def run(command: str, *arguments: str | Path) -> tuple[int, str]:
        main = {"extend": extend_command.main, "export": export_command.main}[command]
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_job(main)
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return run


def bundle_of(folder: Path, tokenizer: StockTokenizer, lora: LoraConfig | None) -> Path:
    """A bundle as a training writes it."""
    config = T3Config.tiny(tokenizer.n_vocab)
    folder.mkdir()
    settings = Settings(model=Model(t3=config, lora=lora))
    weights = drawn_weights(build_model(config, lora))
    write_bundle(folder, weights, tokenizer, to_yaml(settings), FACTS)
    return folder


def test_a_published_folder_is_extended_in_place(job: Job, stock: Path, tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "am"
    (corpus / "wavs").mkdir(parents=True)
    (corpus / "metadata.csv").write_text("a|ሰላም ለዓለም።\nb|ቡና ጠጣ፣ 3 ጊዜ!\n", encoding="utf-8")
    for name in "ab":
        (corpus / "wavs" / f"{name}.wav").touch()
    code, said = job(
        "extend", "--base", stock, "--language", "am", "--related", "ar",
        "--corpus", corpus, "--out", out,
    )  # fmt: skip
    assert code == 0, said
    assert "2454 rows become 2454" in said and "after:   0.00% of" in said
    assert "before:" in said and "in 2 of 2 texts" in said
    extended, base = open_stock(out), open_stock(stock)
    assert extended.config == CONFIG and extended.t3_file == NAME
    assert 1 not in extended.tokenizer.encode("ሰላም", "am")
    placed = json.loads((out / "vocabulary.json").read_text(encoding="utf-8"))
    changed = set(placed["rows"].values())
    assert placed["rows"]["ሰ"] in changed and placed["replaced"].keys() == set(map(str, changed))
    weights = base.weights()
    for name, tensor in extended.weights().items():
        kept = [i for i in range(len(tensor)) if i not in changed]
        rows = kept if name in ("text_emb.weight", "text_head.weight") else slice(None)
        assert torch.equal(tensor[rows], weights[name][rows]), name
    assert (out / "ve.pt").read_bytes() == b"voice encoder"


def test_more_rows_are_said_not_to_load(job: Job, stock: Path, tmp_path: Path) -> None:
    out = tmp_path / "am"
    code, said = job(
        "extend", "--base", stock, "--language", "am", "--rows", "extend", "--out", out
    )
    assert code == 0, said
    assert "loads 2454 rows of text alone" in said
    assert open_stock(out).config.text_vocab == 2454 + 293


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_a_trained_model_is_exported_as_published(
    job: Job, stock: Path, tmp_path: Path, lora: LoraConfig | None
) -> None:
    bundle, out = bundle_of(tmp_path / "bundle", TOKENIZER, lora), tmp_path / "out"
    code, said = job("export", "--model", bundle, "--out", out, "--base", stock)
    assert code == 0, said
    assert "logits differ by" in said and "does not load" not in said
    with safe_open(out / NAME, "pt") as file:
        names = file.keys()
        assert {file.get_slice(name).get_dtype() for name in names} == {"F32"}
        assert set(names) == set(T3(CONFIG).state_dict())
    exported = T3(CONFIG).eval()
    exported.load_state_dict(load_file(out / NAME))
    row = drawn_row(CONFIG)
    with torch.no_grad():
        trained = load_bundle(bundle).model()(**row)[1]
        torch.testing.assert_close(exported(**row)[1], trained, rtol=0, atol=1e-4)
        exported.load_state_dict(drawn_weights(exported))
        assert (lora is None) == torch.equal(exported(**row)[1], trained)
    assert StockTokenizer.load(out / MULTILINGUAL).values == TOKENIZER.values
    assert (out / "ve.pt").read_bytes() == b"voice encoder"


def test_rows_of_a_language_are_known_after_an_export(
    job: Job, stock: Path, tmp_path: Path
) -> None:
    extended, bundle, out = tmp_path / "am", tmp_path / "bundle", tmp_path / "out"
    job("extend", "--base", stock, "--language", "am", "--out", extended)
    placed = read_base(str(extended)).placed
    bundle_of(bundle, open_stock(extended).tokenizer, LORA)
    write_placed(bundle, placed)
    job("export", "--model", bundle, "--out", out)
    assert placed["rows"] and read_base(str(out)).placed == placed
    code, said = job("extend", "--base", out, "--language", "ti", "--out", tmp_path / "ti")
    assert code == 0, said
    tigrinya = read_base(str(tmp_path / "ti"))
    assert not set(tigrinya.placed["rows"].values()) & set(placed["rows"].values())
    assert tigrinya.tokenizer.encode("ሰላም", "am") == open_stock(out).tokenizer.encode("ሰላም", "am")


def test_other_weights_than_the_trained_ones_are_seen(tmp_path: Path) -> None:
    bundle = load_bundle(bundle_of(tmp_path / "bundle", TOKENIZER, LORA))
    unmerged = {n: w for n, w in bundle.weights.items() if not n.endswith((".lora_a", ".lora_b"))}
    save_file(unmerged, tmp_path / NAME)
    assert logits_apart(bundle, tmp_path / NAME) > 0.01


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / NAME).write_bytes(b"no weights"), "cannot be read"),
        (lambda folder: (folder / MULTILINGUAL).write_text("{}"), "not a tokenizer"),
        (lambda folder: (folder / MULTILINGUAL).unlink(), "cannot be read"),
        (lambda folder: (folder / "t3_cfg.safetensors").touch(), "keep one of them"),
        (lambda folder: save_file({"x": torch.ones(1)}, folder / NAME), "not a T3"),
    ],
)
def test_a_broken_folder_is_one_line(
    job: Job, stock: Path, tmp_path: Path, break_it: Callable[[Path], object], says: str
) -> None:
    break_it(stock)
    code, said = job("extend", "--base", stock, "--language", "am", "--out", tmp_path / "am")
    assert code == 2 and says in said and len(said.splitlines()) == 1, said
    assert not (tmp_path / "am").exists()


def test_options_without_effect_are_refused(job: Job, stock: Path, tmp_path: Path) -> None:
    base = ("extend", "--base", stock, "--language", "am", "--out", tmp_path / "am")
    for option, says in (
        (("--start", "mean"), "--start has no effect"),
        (("--related", "xx"), "not one of the model's languages"),
    ):
        code, said = job(*base, *option)
        assert code == 2 and says in said, said
    code, said = job(
        "extend", "--tokenizer", "x", "--language", "am", "--out", "y", "--rows", "extend"
    )
    assert code == 2 and "--rows needs --base a folder of Chatterbox" in said
    (tmp_path / "am").mkdir()
    (tmp_path / "am" / "there").touch()
    code, said = job(*base)
    assert code == 2 and "exists already" in said
