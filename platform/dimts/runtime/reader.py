"""A voice's text as data: raw text to token ids, as `dimts.text.tokenizer.Tokenizer` has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dimts.core.errors import UserError
from dimts.runtime.tables import Tables
from dimts.text.pieces import Piece, pieces
from dimts.text.rules import Normaliser, UnknownCharacters


class Reader:
    """Reads texts of a voice's languages.

    Args:
        facts: what ``voice.json`` says.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts
        self._normalisers: dict[str, Normaliser] = {}

    def pieces(self, text: str, language: str | None = None) -> Iterator[Piece]:
        """Parts of a raw text that can be spoken at once, normalised; raises like `ids`."""
        normaliser = self._normaliser(language)
        marks = filter(self._facts["tokens"].__contains__, normaliser.language.punctuation)
        return pieces(normaliser.normalise(text), "".join(marks))

    def ids(self, text: str, language: str | None = None) -> list[int]:
        """Tokens of a raw text between its language's start and the end.

        Raises:
            UserError: nothing to say is left, characters are unknown, or no such language.
        """
        return self.tokens(self._normaliser(language).normalise(text), language)

    def tokens(self, text: str, language: str | None = None) -> list[int]:
        """The same of a text that is normalised."""
        normaliser, tokens = self._normaliser(language), self._facts["tokens"]
        if unknown := [character for character in text if character not in tokens]:
            raise UnknownCharacters(unknown, normaliser.language.name)
        start = self._facts["languages"][normaliser.language.code]["start_id"]
        return [start, *(tokens[character] for character in text), self._facts["end_id"]]

    def _normaliser(self, language: str | None) -> Normaliser:
        code, languages = language or self._facts["language"], self._facts["languages"]
        if code not in languages:
            known = ", ".join(languages)
            raise UserError(f"language {code!r} is not one of this voice's: {known}")
        if code not in self._normalisers:
            tables: Any = Tables(languages[code]["tables"])
            switches: Any = Tables(languages[code]["text"])
            self._normalisers[code] = Normaliser(tables, switches)
        return self._normalisers[code]
