"""How texts are read: settings, and the normaliser that follows them."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from dimts.core.config import Config
from dimts.text.language import absent, absolute_file
from dimts.text.rules import Normaliser, UnknownCharacters

__all__ = ["Normaliser", "TextConfig", "UnknownCharacters"]


class TextConfig(Config):
    """How text is read.

    Args:
        language: a code (``am``) or the path of a language's YAML file.
        fold_homophones: write letters that sound alike as one.
        respell: write words of another script, such as Latin ones, by the language's tables.
    """

    language: str = Field(min_length=1)
    fold_homophones: bool = False
    respell: bool = Field(default=False, exclude_if=absent)

    @property
    def switches(self) -> dict[str, Any]:
        """All but `language`: one language's file has several paths."""
        return {key: value for key, value in self if key != "language"}

    def absolute(self) -> Self:
        """With the path of a language's file from the root, for processes that stand elsewhere."""
        return self.model_copy(update={"language": absolute_file(self.language)})
