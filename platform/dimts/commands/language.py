"""Draft the files of a new language: ``dimts language new ka --corpus corpora/ka``.

Writes languages/CODE.yaml (how it is written), transliterations/CODE.yaml (in which letters of the
base its own begin) and configs/CODE.yaml (corpus, features, training), into the current folder or
that of DIMTS_HOME, where `text.language: CODE` finds them. Letters, number words and names of
symbols are those of Unicode's CLDR, by ICU; what the corpus has beside them is added. Read what is
printed, and correct the files where it is wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data_prep.readers import read_corpus
from data_prep.utterance import Utterance
from dimts.cli import JobParser
from dimts.core.config import build_config
from dimts.core.errors import UserError
from dimts.core.home import shipped
from dimts.core.untrusted import printable
from dimts.features.config import CorpusConfig
from dimts.text.draft import Draft, draft_language
from dimts.text.language import LANGUAGES, Language
from dimts.text.normaliser import Normaliser, TextConfig, UnknownCharacters
from dimts.text.tokenizer import Tokenizer
from dimts.text.transliteration import TRANSLITERATIONS

CODE = re.compile(r"[a-z]{2,3}(?:_[A-Za-z0-9]+)*")
N_EXAMPLES, MAX_SHOWN = 6, 100
FEW = 300
"""Texts, of which more are held out than usual."""
BASE = "bases/natural"
MARKED = re.compile(r"[\d%&€$£]")


def main() -> None:
    """Parse the command line, write the files and print the report."""
    parser = JobParser(description=__doc__)
    parser.add_argument("action", choices=["new"], help="draft the files of a language")
    parser.add_argument("code", help="of the language, ISO 639: nl, ka, hi")
    parser.add_argument(
        "--corpus", type=Path, required=True, metavar="FOLDER",
        help="recordings and their texts, in any layout that dimts reads",
    )  # fmt: skip
    parser.add_argument(
        "--base", default=BASE, metavar="FOLDER",
        help=f"bundle of the voice to start from (default: {BASE})",
    )  # fmt: skip
    arguments = parser.parse_args()
    print(new_language(arguments.code, arguments.corpus, arguments.base), end="")


def new_language(code: str, corpus: Path, base: str = BASE) -> str:
    """Write the three files; what they hold, and how the corpus's texts are read by them.

    Raises:
        UserError: one of them is there already, dimts has the language, there is no such corpus
            or base, or ICU is not installed.
    """
    if not CODE.fullmatch(code):
        raise UserError(f"{code!r} is no code of a language, such as nl, ka or hi")
    if (ours := LANGUAGES / f"{code}.yaml").is_file():
        raise UserError(f"dimts has {code} already: use text.language: {code}, or a copy of {ours}")
    files = {kind: Path(kind, f"{code}.yaml") for kind in
             (LANGUAGES.name, TRANSLITERATIONS.name, "configs")}  # fmt: skip
    if there := next(filter(Path.exists, files.values()), None):
        raise UserError(f"{there} is there already; edit it, or remove it to draft it again")
    rows, notes = read_corpus(CorpusConfig(path=corpus), code)
    texts = [row.text for row in rows if isinstance(row, Utterance)]
    if not texts:
        raise UserError(f"{corpus}: none of its {len(rows)} rows has a text")
    tokenizer = Tokenizer.load(Path(shipped(base)) / "tokenizer.json")
    draft = draft_language(code, texts, {token for token in tokenizer.tokens if len(token) == 1})
    language = build_config(Language, draft.language)
    head = f"# {language.name}: drafted by dimts language new from {corpus}; correct it.\n"
    values = (draft.language, draft.transliteration, _voice(code, corpus, base, texts))
    for file, value in zip(files.values(), values, strict=True):
        file.parent.mkdir(exist_ok=True)
        file.write_text(head + _yaml(value), encoding="utf-8")
    written = ", ".join(map(str, files.values()))
    lines = [f"written   {written}", f"corpus    {corpus}", *notes]
    return "\n".join([*lines, *_report(language, draft, texts, files["configs"])]) + "\n"


def _voice(code: str, corpus: Path, base: str, texts: Sequence[str]) -> dict[str, Any]:
    """A voice that starts from the base and forgets the base's languages."""
    shares = {"val_share": 0.1, "test_share": 0.15} if len(texts) < FEW else {}
    short = min(texts, key=lambda text: abs(len(text) - 60))
    return {
        "include": ["models/small.yaml"],
        "corpus": {"path": str(corpus)},
        "text": {"language": code},
        "prepare": {"features": f"features/{code}", **shares},
        "base": {"bundle": base, "start": "transliteration"},
        "run": {"name": code},
        "training": {"max_steps": 700, "sample_texts": [short]},
    }


def _yaml(values: Any) -> str:
    return yaml.safe_dump(
        values, allow_unicode=True, sort_keys=False, width=96, default_flow_style=None
    )


def _report(language: Language, draft: Draft, texts: Sequence[str], config: Path) -> list[str]:
    normaliser = Normaliser(language, TextConfig(language=language.code))
    read: dict[str, str] = {}
    refused: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    for text in texts:
        try:
            read[text] = normaliser.normalise(text)
        except UnknownCharacters as error:
            digits = not language.numbers and any(c.isdecimal() for c in error.characters)
            refused["digits without number words" if digits else "unknown characters"] += 1
            unread.update(error.characters)
        except UserError:
            refused["no letter"] += 1
    n = refused.total()
    lines = [*draft.sources, f"texts     {len(texts) - n} of {len(texts)} are read, "
             f"{n} ({n / len(texts):.1%}) refused"]  # fmt: skip
    lines += [f"  {reason}: {count}" for reason, count in refused.most_common()]
    if unread:
        shown = ", ".join(f"{printable(c, 8)} {count}" for c, count in unread.most_common(12))
        lines.append(f"  add to symbols or replacements of the language's file: {shown}")
    lines += ["not sure  look at these:", *(f"  - {line}" for line in draft.unsure)]
    lines.append("examples  as written, and as read:")
    # Texts with numbers and symbols first, then those that change most.
    changed = sorted(read, key=lambda text: (not MARKED.search(text), _same(text, read[text])))
    for text in changed[:N_EXAMPLES]:
        lines += [f"  {printable(text, MAX_SHOWN)}", f"  = {printable(read[text], MAX_SHOWN)}"]
    return [
        *lines,
        f"next      dimts prepare --config {config}",
        f"          dimts train --config {config}",
        f'          dimts synthesize --model runs/{language.code} --text "..."',
    ]


def _same(text: str, read: str) -> float:
    """Share of a text's letters that are read as they stand."""
    there, words = set(read.split()), text.lower().split()
    return sum(word in there for word in words) / len(words)
