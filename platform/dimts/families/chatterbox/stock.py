"""Folders as chatterbox-tts publishes and loads them: T3, tokenizer, and parts that stay."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimts.bundles.bundle import check_weights, sizes_alone
from dimts.core.config import build_config
from dimts.core.errors import UserError
from dimts.core.untrusted import parse_json
from dimts.families.chatterbox.model.config import T3Config
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer
from dimts.storage.files import link_or_copy

MULTILINGUAL, ENGLISH = "grapheme_mtl_merged_expanded_v1.json", "tokenizer.json"
TOKENIZERS = {
    "t3_mtl23ls_v2.safetensors": MULTILINGUAL,
    "t3_mtl23ls_v3.safetensors": MULTILINGUAL,
    "t3_cfg.safetensors": ENGLISH,
}
"""Of each file of a T3 that the package loads; the first is the one that it loads by itself."""
STOCK_ROWS = {MULTILINGUAL: 2454, ENGLISH: 704}
"""Of the text's embedding, that the package asks for."""
OTHERS = (
    "ve.pt", "ve.safetensors", "s3gen.pt", "s3gen.safetensors", "conds.pt", "Cangjie5_TC.json",
)  # fmt: skip
"""Voice encoder, speech decoder, default voice and Chinese codes, which no training changes."""
SIZES = "dimts.t3"
"""In the metadata of what we write: sizes, of which the number of heads is in no shape."""
HEAD_WIDTH = 64


class StockFolder(NamedTuple):
    """A folder of a published model, or of one that was exported.

    Attributes:
        folder: where it is.
        t3_file: name of the T3's file.
        config: its sizes.
        tokenizer: of its texts.
    """

    folder: Path
    t3_file: str
    config: T3Config
    tokenizer: StockTokenizer

    def weights(self) -> dict[str, Tensor]:
        """All tensors of the T3, float32.

        Raises:
            UserError: the file cannot be read, or a tensor is missing or of another shape.
        """
        path = self.folder / self.t3_file
        try:
            weights = {name: tensor.float() for name, tensor in load_file(path).items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from error
        with sizes_alone():
            check_weights(T3(self.config), weights, path)
        return weights


def is_stock(folder: Path) -> bool:
    """Whether a folder holds a T3 under one of the published names."""
    return any((folder / name).is_file() for name in TOKENIZERS)


def open_stock(folder: Path) -> StockFolder:
    """Read all but the weights.

    Raises:
        UserError: a file is missing or damaged, there are several T3, or they do not fit together.
    """
    there = [name for name in TOKENIZERS if (folder / name).is_file()]
    if len(there) != 1:
        names = " or ".join(TOKENIZERS)
        has = f"has {' and '.join(there)}; keep one of them" if there else f"has no {names}"
        raise UserError(f"{folder}: {has}")
    path = folder / there[0]
    config = _sizes(path)
    tokenizer = StockTokenizer.load(folder / TOKENIZERS[there[0]])
    if tokenizer.n_vocab != config.text_vocab:
        raise UserError(
            f"{path}: has {config.text_vocab} rows of text, {TOKENIZERS[there[0]]} "
            f"{tokenizer.n_vocab} tokens"
        )
    return StockFolder(folder, there[0], config, tokenizer)


def write_stock(
    out: Path,
    weights: Mapping[str, Tensor],
    config: T3Config,
    tokenizer: StockTokenizer,
    t3_file: str,
    beside: Path | None,
) -> None:
    """Write a T3 and its tokenizer under the published names into an existing folder.

    Args:
        out: the folder.
        weights: no adapters among them.
        config, tokenizer: theirs.
        t3_file: one of `TOKENIZERS`.
        beside: folder whose other parts are put there as well, as hard links where it can be.
    """
    plain = {name: tensor.detach().cpu().float().contiguous() for name, tensor in weights.items()}
    save_file(plain, out / t3_file, metadata={"format": "pt", SIZES: config.model_dump_json()})
    tokenizer.save(out / TOKENIZERS[t3_file])
    shutil.copymode(out / TOKENIZERS[t3_file], out / t3_file)  # else only its writer may read it
    for name in OTHERS if beside else ():
        assert beside is not None
        source = (beside / name).resolve()
        if source.is_file():
            link_or_copy(source, out / name)


def _sizes(path: Path) -> T3Config:
    """Sizes of a T3, from its file's metadata or from its shapes."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            shapes = {name: file.get_slice(name).get_shape() for name in names}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if SIZES in metadata:
        try:
            values = parse_json(metadata[SIZES].encode())
        except ValueError as error:
            raise UserError(f"{path}: {SIZES}: {error}") from error
        return build_config(T3Config, values, {(): f"{path}: {SIZES}"})
    try:
        rows, hidden = shapes["text_emb.weight"]
        values = {
            "text_vocab": rows,
            "hidden": hidden,
            "heads": hidden // HEAD_WIDTH,
            "speech_vocab": shapes["speech_emb.weight"][0],
            "feed_forward": shapes["tfmr.layers.0.mlp.up_proj.weight"][0],
            "layers": sum(name.endswith(".mlp.up_proj.weight") for name in shapes),
        }
    except (LookupError, ValueError) as error:
        raise UserError(f"{path}: not a T3 of Chatterbox: {error}") from error
    return build_config(T3Config, values, {(): str(path)})
