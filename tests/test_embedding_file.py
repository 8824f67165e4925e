"""A text embedding that another system trained, as the base of a voice of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import build_model
from dimts.families.acoustic.extension.embedding_file import (
    PROJECTION,
    embedding_weights,
    read_embedding,
)
from dimts.families.acoustic.extension.rows import TOKEN, Extension, extend_rows, std_of
from dimts.families.acoustic.model.config import EncoderConfig, ModelConfig
from dimts.families.acoustic.model.t3 import T3
from dimts.text.language import load_language
from dimts.text.merging import merge
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.text.transliteration import load_transliteration

WIDTH, ROW_WIDTH = 32, 48


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_language(load_language("es"), TextConfig(language="es"))


@pytest.fixture(scope="module")
def table(tokenizer: Tokenizer) -> Tensor:
    """Rows whose variance is in few directions, as a trained embedding's is."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(tokenizer.n_vocab, ROW_WIDTH, generator=generator)
    return 5 * rows * torch.linspace(1, 0, ROW_WIDTH) ** 2 + 0.4


@pytest.fixture
def file(table: Tensor, tmp_path: Path) -> Path:
    """A model with more in it than the embedding."""
    path = tmp_path / "t3.safetensors"
    others = {"speech_emb.weight": torch.zeros(7, 3), "head.bias": torch.zeros(7)}
    save_file({"text_emb.weight": table, **others}, path)
    return path


def model_of(tokenizer: Tokenizer, row_width: int | None, width: int = WIDTH) -> T3:
    encoder = EncoderConfig(layers=1, heads=2, feed_forward=16, embedding_width=row_width)
    torch.manual_seed(0)
    config = ModelConfig(width=width, encoder=encoder)
    return build_model(config, tokenizer, torch.zeros(5), torch.ones(5)).eval()


def test_rows_are_read_as_they_are(file: Path, table: Tensor, tokenizer: Tokenizer) -> None:
    assert torch.equal(read_embedding(file, tokenizer), table)


def test_half_precision_becomes_float32(
    table: Tensor, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_file({"emb": table.bfloat16()}, tmp_path / "half.safetensors")
    rows = read_embedding(tmp_path / "half.safetensors", tokenizer, "emb")
    assert rows.dtype == torch.float32
    assert torch.equal(rows, table.bfloat16().float())


def test_what_does_not_fit_is_refused(file: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    n = tokenizer.n_vocab
    with pytest.raises(UserError, match=r"no tensor emb; its matrices: speech_emb.weight, text_"):
        read_embedding(file, tokenizer, "emb")
    with pytest.raises(UserError, match=rf"is \(7, 3\); the tokenizer has {n} tokens"):
        read_embedding(file, tokenizer, "speech_emb.weight")
    with pytest.raises(UserError, match=r"head.bias is \(7,\)"):
        read_embedding(file, tokenizer, "head.bias")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_embedding(tmp_path / "absent.safetensors", tokenizer)
    (tmp_path / "text.safetensors").write_text("not one")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_embedding(tmp_path / "text.safetensors", tokenizer)
    save_file({"text_emb.weight": torch.full((n, 4), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match="not finite"):
        read_embedding(tmp_path / "nan.safetensors", tokenizer)


@pytest.mark.parametrize("width", [16, 32, 64, 96])
def test_projection_is_a_scaled_isometry_of_the_principal_directions(
    table: Tensor, width: int
) -> None:
    weights = embedding_weights(table, width, seed=0)
    assert torch.equal(weights[TOKEN], table)
    projection_DE = weights[PROJECTION]
    assert projection_DE.shape == (width, ROW_WIDTH)
    projected_VD = table @ projection_DE.T
    assert std_of(projected_VD).item() == pytest.approx(width**-0.5, rel=1e-4)
    n = min(width, ROW_WIDTH)
    gram = (
        projection_DE @ projection_DE.T if width <= ROW_WIDTH else projection_DE.T @ projection_DE
    )
    assert torch.allclose(gram / gram[0, 0], torch.eye(n), atol=1e-4)
    centred = table - table.mean(0)
    kept = torch.linalg.svdvals(projected_VD - projected_VD.mean(0))[:n] / gram[0, 0].sqrt()
    assert torch.allclose(kept, torch.linalg.svdvals(centred)[:n], rtol=1e-3, atol=1e-3)
    channels = projected_VD.std(0)
    assert channels.max() < 4 * channels.median(), "no channel holds it all"


def test_equal_width_needs_no_projection(table: Tensor) -> None:
    weights = embedding_weights(table, ROW_WIDTH, seed=0)
    assert weights.keys() == {TOKEN}
    assert std_of(weights[TOKEN]).item() == pytest.approx(ROW_WIDTH**-0.5, rel=1e-4)
    assert torch.allclose(weights[TOKEN] / weights[TOKEN][3, 0], table / table[3, 0], rtol=1e-4)


def test_voice_is_built_on_it_and_extended(file: Path, tokenizer: Tokenizer) -> None:
    """The file's rows are below n_base as they were; the model speaks."""
    rows = read_embedding(file, tokenizer)
    base = model_of(tokenizer, ROW_WIDTH)
    weights = {**base.state_dict(), **embedding_weights(rows, WIDTH, seed=0)}
    amharic = load_language("am")
    merged = merge(tokenizer, amharic, TextConfig(language="am"))
    spelling = load_transliteration("am", amharic)
    extended = extend_rows(weights, Extension(tokenizer, merged, "transliteration", spelling, 0))
    model = model_of(merged, ROW_WIDTH)
    model.load_state_dict(extended)
    assert torch.equal(extended[TOKEN][: tokenizer.n_vocab], rows)
    ids = torch.tensor([merged.encode("ሰላም ለዓለም።")])
    torch.nn.init.normal_(model.duration.out.weight, std=0.3)
    assert model(ids, torch.tensor([ids.shape[1]])).mel_BTM.isfinite().all()
