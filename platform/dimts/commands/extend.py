"""A base voice that knows one language more: vocabulary and embedding, ready to fine-tune.

dimts extend --base bases/natural --language am --out bundles/am
dimts extend --tokenizer tokenizer.json --language am --out extended

dimts extend --base chatterbox --language am --related ar --corpus corpora/am --out chatterbox-am

The base is a bundle, a run's folder or an MLflow URI; a folder of the published multilingual
Chatterbox; or a tokenizer.json, Hugging Face's too, with --embedding a .safetensors that holds its
text embedding, and with --features prepared features of the language, to have a bundle made around
it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.readers import read_corpus
from data_prep.utterance import Utterance
from dimts.bundles.fetch import new_folder
from dimts.cli import JobParser
from dimts.commands.extend_stock import extend_stock
from dimts.core.config import Config, load_config
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import TOKENIZER
from dimts.families.acoustic.extension.embedding_file import TENSOR, read_embedding
from dimts.families.acoustic.extension.extended import (
    write_bundle_around,
    write_embedding,
    write_extended_bundle,
    write_tokenizers,
)
from dimts.families.acoustic.extension.rows import Extension, not_covered
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.settings import SPELLED
from dimts.families.chatterbox.stock import is_stock
from dimts.features.config import CorpusConfig
from dimts.features.feature_set import FeatureSet
from dimts.text.huggingface import read_tokenizer
from dimts.text.language import Language, load_language
from dimts.text.merge_report import merge_report, normalised_texts
from dimts.text.merging import merge
from dimts.text.normaliser import Normaliser, TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.text.transliteration import Transliteration, load_transliteration
from dimts.tracking.config import add_tracking_uri
from dimts.tracking.mlflow_model import resolve_model


class Sizes(Config):
    """Of the model that is made around an embedding."""

    model: ModelConfig = ModelConfig()


def main() -> None:
    """Extend, say what was added, write."""
    arguments = _parser().parse_args()
    stock = Path(arguments.base) if arguments.base and is_stock(Path(arguments.base)) else None
    _check(arguments, stock)
    language = load_language(arguments.language)
    if stock:
        texts = _texts(arguments.corpus, language) if arguments.corpus else []
        extend_stock(arguments, stock, language, texts)
        print(f"written: {arguments.out}")
        return
    text = TextConfig(language=arguments.language, fold_homophones=arguments.fold_homophones)
    folder = None
    if arguments.base:
        folder = resolve_model(arguments.base, arguments.tracking)
    base = read_tokenizer(folder / TOKENIZER if folder else arguments.tokenizer)
    texts = _texts(arguments.corpus, language) if arguments.corpus else []
    normalised, _ = normalised_texts(Normaliser(language, text), texts)
    merged = merge(base, language, text, arguments.subwords or 0, normalised)
    print("\n".join(merge_report(base, merged, texts)))
    table = _table(arguments, base, merged, language)
    extension = Extension(base, merged, arguments.start, table, arguments.seed)
    if folder:
        write_extended_bundle(folder, extension, arguments.out)
    elif arguments.embedding:
        _write_embedding(arguments, extension)
    else:
        with new_folder(arguments.out) as partial:
            write_tokenizers(merged, partial)
    print(f"written: {arguments.out}")


def _parser() -> argparse.ArgumentParser:
    parser = JobParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--base", help="bundle, run folder or MLflow URI; or a folder of the published Chatterbox"
    )
    what.add_argument("--tokenizer", type=Path, help="tokenizer.json, of Hugging Face or ours")
    parser.add_argument("--language", required=True, help="code, or path of a language's YAML")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--corpus", type=Path, help="folder of a corpus: coverage, texts for sub-words"
    )
    parser.add_argument("--subwords", type=int, metavar="N", help="sub-words to add, at most")
    parser.add_argument(
        "--fold-homophones", action="store_true", help="as text.fold_homophones of a voice"
    )
    parser.add_argument(
        "--start",
        choices=("transliteration", "mean", "nearest", "random"),
        help="how new rows start (default: transliteration)",
    )
    parser.add_argument(
        "--transliteration", metavar="FILE", help="its table (default: that of the language)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn (default: 1)")
    parser.add_argument(
        "--rows", choices=("in_place", "extend"),
        help="of Chatterbox: rows that no text reaches (default, loads into its package), or more",
    )  # fmt: skip
    parser.add_argument(
        "--related", metavar="CODE", help="language whose tag the new one starts from"
    )
    parser.add_argument("--embedding", type=Path, help=".safetensors with the tokenizer's rows")
    parser.add_argument("--tensor", help=f"name of the embedding in it (default: {TENSOR})")
    parser.add_argument("--features", type=Path, help="make a bundle around it: mel statistics")
    parser.add_argument("--config", type=Path, help="YAML with the sizes of that bundle's model")
    add_tracking_uri(parser)
    return parser


def _check(arguments: argparse.Namespace, stock: Path | None) -> None:
    """Refuse what would have no effect; fill in what was left out."""
    for option, needs, there in (
        ("embedding", "--tokenizer", arguments.tokenizer),
        ("tensor", "--embedding", arguments.embedding),
        ("features", "--embedding", arguments.embedding),
        ("config", "--features", arguments.features),
        ("start", "--base or --embedding", arguments.base or arguments.embedding),
        ("transliteration", "--base or --embedding", arguments.base or arguments.embedding),
        ("subwords", "--corpus, to learn them from", arguments.corpus),
        ("rows", "--base a folder of Chatterbox", stock),
        ("related", "--base a folder of Chatterbox", stock),
    ):
        if getattr(arguments, option) is not None and not there:
            raise UserError(f"--{option} needs {needs}")
    if arguments.subwords is not None and arguments.subwords < 1:
        raise UserError(f"--subwords {arguments.subwords}: must be at least 1")
    if stock:
        return
    arguments.start = arguments.start or "transliteration"
    if arguments.transliteration and arguments.start not in SPELLED:
        raise UserError(f"--transliteration has no effect with --start {arguments.start}")


def _texts(corpus: Path, language: Language) -> list[str]:
    """Texts of the corpus as they are written."""
    rows, _ = read_corpus(CorpusConfig(path=corpus), language.code)
    texts = [row.text for row in rows if isinstance(row, Utterance)]
    if len(texts) < len(rows):
        print(f"{corpus}: {len(rows) - len(texts)} of {len(rows)} rows cannot be used")
    if not texts:
        raise UserError(f"{corpus}: holds no text")
    return texts


def _table(
    arguments: argparse.Namespace, base: Tokenizer, merged: Tokenizer, language: Language
) -> Transliteration | None:
    """The transliteration that new rows start from, if they do; says what it leaves out."""
    weights = arguments.base or arguments.embedding
    if not weights or arguments.start not in SPELLED:
        return None
    table = load_transliteration(arguments.transliteration or language.code, language)
    if left := not_covered(base, merged, table):
        print(f"no transliteration, they start by the mean: {' '.join(left)}")
    return table


def _write_embedding(arguments: argparse.Namespace, extension: Extension) -> None:
    tensor, out, source = arguments.tensor or TENSOR, arguments.out, arguments.embedding
    if extension.base.factor_sizes:
        raise UserError(
            f"{arguments.tokenizer}: an embedding has no rows of consonants and vowels; "
            "give --base a bundle, or --tokenizer a huggingface_tokenizer.json"
        )
    rows = read_embedding(source, extension.base, tensor)
    if not arguments.features:
        write_embedding(rows, source, tensor, extension, out)
        return
    features = FeatureSet.open(arguments.features)
    sizes = load_config(Sizes, [arguments.config] if arguments.config else [])
    write_bundle_around(rows, source, extension, out, sizes.model, features)
