"""How a bundle reads texts: the rules by which those of its training were normalised."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from dimts.bundles.bundle import BundleError, file_of
from dimts.core.config import Config, build_config
from dimts.core.errors import UserError
from dimts.core.untrusted import MAX_JSON_BYTES, parse_json, read_bytes
from dimts.families.chatterbox.vocabulary.text import OWN_STEP
from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer
from dimts.text.language import Language
from dimts.text.normaliser import Normaliser, TextConfig

FILE = "language.json"
LONGEST = 160
"""Ids of a piece of text: about 15 s of speech, which most of a corpus is not longer than."""
SENTENCE = re.compile(r"(?<=[.!?。？！።፧])\s+")


class LearnedLanguage(Config):
    """A language and the settings of its normaliser.

    Attributes:
        language: its file's content.
        text: settings; the path of the language's file is of no use elsewhere.
    """

    language: Language
    text: TextConfig

    @cached_property
    def normaliser(self) -> Normaliser:
        """Of its texts."""
        return Normaliser(self.language, self.text)


class Piece(NamedTuple):
    """A part of a text that is spoken at once, and its ids from START to STOP."""

    text: str
    ids: list[int]


class TextReader:
    """Texts to ids, in pieces that are not too long.

    Args:
        tokenizer: of the model.
        learned: the language of the training, whose texts are normalised.

    Attributes:
        languages: codes of what can be read; the learned one first.
    """

    def __init__(self, tokenizer: StockTokenizer, learned: LearnedLanguage):
        self._tokenizer, self._learned = tokenizer, learned
        code = learned.language.code
        others = [c for c in tokenizer.languages if c != code and c not in OWN_STEP]
        self.languages = (code, *others)

    def pieces(self, text: str, language: str | None = None) -> list[Piece]:
        """Sentences, joined as long as they are short.

        Raises:
            UserError: there is no such language, a character is unknown, or a sentence is too long.
        """
        code = language or self.languages[0]
        if code not in self.languages:
            known = ", ".join(self.languages)
            raise UserError(f"language {code!r} is not known to the model; known: {known}")
        if code == self._learned.language.code:
            text = self._learned.normaliser.normalise(text)
        pieces: list[Piece] = []
        for sentence in SENTENCE.split(text.strip()):
            joined = f"{pieces[-1].text} {sentence}" if pieces else sentence
            ids = self._tokenizer.encode(joined, code)
            if pieces and len(ids) <= LONGEST:
                pieces[-1] = Piece(joined, ids)
                continue
            ids = self._tokenizer.encode(sentence, code)
            if len(ids) > 2 * LONGEST:
                raise UserError(f"a sentence is too long to be spoken: {sentence[:60]!r}...")
            pieces.append(Piece(sentence, ids))
        return pieces


def write_language(folder: Path, language: Language, text: TextConfig) -> None:
    """Write `FILE` into a bundle's folder."""
    learned = LearnedLanguage(language=language, text=text)
    (folder / FILE).write_text(learned.model_dump_json() + "\n", encoding="utf-8")


def read_language(folder: Path) -> LearnedLanguage:
    """The language of a bundle.

    Raises:
        BundleError: it cannot be read.
    """
    file = file_of(folder, FILE)
    try:
        values = parse_json(read_bytes(file, MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: cannot be read: {error}") from error
    return build_config(LearnedLanguage, values, {(): str(file)})
