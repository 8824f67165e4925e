"""What a training starts from: the published model, that extended, or a bundle of the family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dimts.bundles.bundle import WEIGHTS, sha256
from dimts.bundles.fetch import local_bundle
from dimts.families.chatterbox.bundle import load_bundle
from dimts.families.chatterbox.model.config import T3Config
from dimts.families.chatterbox.model.lora import merge_lora
from dimts.families.chatterbox.placed import read_placed
from dimts.families.chatterbox.stock import is_stock, open_stock
from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer


class Base(NamedTuple):
    """A model to start from.

    Attributes:
        config: its sizes.
        weights: all of them, adapters merged.
        tokenizer: of its texts.
        sha256: of its file of weights.
        placed: which rows of text a language was given; empty if nothing says so.
    """

    config: T3Config
    weights: Mapping[str, Tensor]
    tokenizer: StockTokenizer
    sha256: str
    placed: Mapping[str, Any]


def read_sizes(folder: Path) -> T3Config:
    """Sizes of the model in a folder; raises like `read_base`."""
    return open_stock(folder).config if is_stock(folder) else load_bundle(folder).config


def read_base(place: str) -> Base:
    """The model of a folder.

    Raises:
        UserError: it holds none, or is damaged.
    """
    folder = local_bundle(place)
    if is_stock(folder):
        stock = open_stock(folder)
        placed = read_placed(folder, stock.config.text_vocab)
        digest = sha256(folder / stock.t3_file)
        return Base(stock.config, stock.weights(), stock.tokenizer, digest, placed)
    bundle = load_bundle(folder)
    weights = merge_lora(bundle.weights, bundle.lora) if bundle.lora else bundle.weights
    digest = bundle.manifest.sha256[WEIGHTS]
    return Base(bundle.config, weights, bundle.tokenizer, digest, bundle.placed)
