"""The tokenizer of a published model: its JSON, and the ids of texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dimts.core.errors import UserError
from dimts.families.chatterbox.model.config import START_TEXT, STOP_TEXT, UNK_TEXT
from dimts.families.chatterbox.vocabulary.text import OWN_STEP, folded, punctuated
from dimts.text.segmentation import Segmenter, read_vocabulary
from dimts.text.tokenizer_spec import read_json

SPECIALS = {"[STOP]": STOP_TEXT, "[UNK]": UNK_TEXT, "[START]": START_TEXT}
SPACE = "[SPACE]"
TAG = re.compile(r"\[([a-z]{2,3})\]")
NO_LANGUAGES = {"cry", "ipa", "sip"}


class StockTokenizer:
    """Ids of texts as the stock package encodes them, without its `[UNK]`.

    Attributes:
        values: what the JSON holds.
        ids: id of each token.
        languages: codes of the languages that have a tag; none of an English model.
    """

    def __init__(self, values: Mapping[str, Any], source: str | Path = "tokenizer") -> None:
        try:
            self.ids = read_vocabulary(values)
        except ValueError as error:
            raise UserError(f"{source}: not a tokenizer of Chatterbox: {error}") from error
        for token, index in SPECIALS.items():
            if self.ids.get(token) != index:
                raise UserError(
                    f"{source}: not a tokenizer of Chatterbox: {token} has the id "
                    f"{self.ids.get(token)}, not {index}"
                )
        if sorted(self.ids.values()) != list(range(len(self.ids))) or SPACE not in self.ids:
            raise UserError(f"{source}: not a tokenizer of Chatterbox: ids have holes")
        self.values = values
        self._segmenter = Segmenter(values, SPACE)
        added = (TAG.fullmatch(t["content"]) for t in values.get("added_tokens") or ())
        tags = {match[1] for match in added if match} - NO_LANGUAGES
        # The English file has a few tags, too, which its package never writes.
        self.languages = tuple(sorted(tags)) if "en" in tags else ()

    @classmethod
    def load(cls, path: str | Path) -> StockTokenizer:
        """Read the JSON; raises a `UserError` if it cannot be read or is another tokenizer's."""
        return cls(read_json(path), path)

    def save(self, path: str | Path) -> None:
        """Write the JSON."""
        text = json.dumps(self.values, ensure_ascii=False)
        Path(path).write_text(text, encoding="utf-8")

    @property
    def n_vocab(self) -> int:
        """Rows of the text's embedding."""
        return len(self.ids)

    @property
    def multilingual(self) -> bool:
        """Whether texts are folded and begin with the tag of their language."""
        return bool(self.languages)

    def read(self, text: str) -> str:
        """A text as it is cut into tokens, but for its tag; raises a `UserError` if empty."""
        text = punctuated(text)
        return folded(text) if self.multilingual else text

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of a text between START and STOP.

        Args:
            text: as it is written, or as `dimts prepare` has normalised it.
            language: code; None for an English model.

        Raises:
            UserError: a character has no row, or no such language is known.
        """
        ids = self.encode_any(text, language)
        if UNK_TEXT in ids:
            missing = " ".join(repr(c) for c in self.unknown([text]))
            raise UserError(
                f"no row for {missing} in {text!r:.80}; add the language by dimts extend"
            )
        return ids

    def encode_any(self, text: str, language: str | None = None) -> list[int]:
        """Like `encode`, with `[UNK]` for characters that have no row."""
        return [START_TEXT, *self._tag(language), *self.pieces(text), STOP_TEXT]

    def pieces(self, text: str) -> list[int]:
        """Ids of a text alone, with `[UNK]`: no tag, no START, no STOP."""
        return self._segmenter.ids(self.read(text))

    def unknown(self, texts: Iterable[str]) -> dict[str, int]:
        """Characters that become `[UNK]`, and how often, of texts as they are written."""
        counts: dict[str, int] = {}
        for text in texts:
            for character in self.read(text):
                if character != " " and not self.knows(character):
                    counts[character] = counts.get(character, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def knows(self, character: str) -> bool:
        """Whether a character has a row."""
        return self._segmenter.knows(character)

    def segment(self, text: str) -> list[int]:
        """Ids of some letters, with no mark, tag or end put to them."""
        return self._segmenter.ids(folded(text) if self.multilingual else text)

    def _tag(self, language: str | None) -> list[int]:
        if not self.multilingual:
            if language not in (None, "en"):
                raise UserError(f"language {language!r}: the model is English alone")
            return []
        if language is None or language not in self.languages:
            known = ", ".join(self.languages)
            raise UserError(
                f"language {language!r} has no tag in the tokenizer, which dimts extend gives it; "
                f"known: {known}"
            )
        if step := OWN_STEP.get(language):
            raise UserError(f"language {language!r}: its texts need {step}, which is not here")
        return [self.ids[f"[{language}]"]]


def tag_of(code: str) -> str:
    """The token that texts of a language begin with.

    Raises:
        UserError: its code could not be told from other text.
    """
    tag = f"[{code}]"
    if code in NO_LANGUAGES or not TAG.fullmatch(tag):
        raise UserError(
            f"language {code!r}: the code must be two or three small letters of a-z for {tag} to "
            "be a tag; change code in the language's file"
        )
    return tag
