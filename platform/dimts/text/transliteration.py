"""How a language's letters are spelled in those of the base voice: one YAML file a language.

``transliterations/<code>.yaml`` gives letters to consonants and vowels, by the names that the
language's syllables give them, and to any further characters. New rows of an embedding start
from it; it is not a way to write the language.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from dimts.core.config import Config, load_config
from dimts.core.errors import ConfigError
from dimts.text.language import FILES, Character, Language

TRANSLITERATIONS = Path(__file__).parent / "transliterations"


class Transliteration(Config):
    """Letters of the base languages, ``""`` for what has no sound of its own.

    Args:
        language: code of the language that is spelled.
        consonants: name of a consonant of its syllables -> letters.
        vowels: name of a vowel of its syllables -> letters.
        letters: character, punctuation too -> letters; before what its syllable says.
    """

    language: str = Field(min_length=1)
    consonants: dict[str, str] = Field(default={})
    vowels: dict[str, str] = Field(default={})
    letters: dict[Character, str] = Field(default={})

    def spell(self, character: str, language: Language) -> str | None:
        """The letters of one character: ``ሰ`` -> ``se``; None where nothing covers it."""
        if character in self.letters:
            return self.letters[character]
        factors = language.syllables.factors.get(character) if language.syllables else None
        if factors is None:
            return None
        consonant, vowel = factors
        if consonant not in self.consonants or vowel not in self.vowels:
            return None
        return self.consonants[consonant] + self.vowels[vowel]


def load_transliteration(
    code_or_path: str | Path, language: Language | None = None
) -> Transliteration:
    """The transliteration of a language's code (``am``) or of a YAML file's path.

    Args:
        code_or_path: which.
        language: what it shall spell, to have names that mean nothing there refused.

    Raises:
        ConfigError: no such transliteration, the file is not a valid one, or it does not fit
            `language`; names file and key.
    """
    path = Path(code_or_path)
    if path.suffix not in FILES:
        path = TRANSLITERATIONS / f"{code_or_path}.yaml"
        if not path.is_file():
            codes = ", ".join(sorted(file.stem for file in TRANSLITERATIONS.glob("*.yaml")))
            raise ConfigError(
                f"there is no transliteration of {str(code_or_path)!r}; there are {codes}; "
                "name the path of a transliteration's YAML file, or start new rows without one "
                "(base.start=mean)"
            )
    transliteration = load_config(Transliteration, [path], including=False)
    if language is not None:
        _refuse_misfits(transliteration, language, path)
    return transliteration


def _refuse_misfits(table: Transliteration, language: Language, path: Path) -> None:
    """Raise what would have no effect: it is a mistake in the table."""
    if table.language != language.code:
        raise ConfigError(f"{path}: language: is {table.language}, not {language.code}")
    syllables = language.syllables
    allowed: dict[str, tuple[Iterable[str], Iterable[str]]] = {
        "consonants": (table.consonants, syllables.consonants if syllables else ()),
        "vowels": (table.vowels, syllables.vowels if syllables else ()),
        "letters": (table.letters, (*language.alphabet, " ")),
    }
    for key, (names, known) in allowed.items():
        if unknown := [name for name in names if name not in set(known)]:
            raise ConfigError(
                f"{path}: {key}: {language.name} has no {', '.join(map(repr, unknown))}; "
                f"it has {' '.join(known) or 'none'}"
            )
