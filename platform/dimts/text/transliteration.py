"""How a language's letters are spelled in those of the base voice: one YAML file a language.

``transliterations/<code>.yaml`` gives letters to consonants and vowels, by the names that the
language's syllables give them, and to any further characters. New rows of an embedding start
from it; it is not a way to write the language.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from dimts.core.config import Config, load_config
from dimts.core.errors import ConfigError
from dimts.text.language import Language, data_file
from dimts.text.letters import Character

TRANSLITERATIONS = Path(__file__).parent / "transliterations"


class Transliteration(Config):
    """Letters of the base languages, ``""`` for what has no sound of its own.

    Consonants and vowels are named as by the syllables of the `language`, a code. What stands in
    `letters`, characters and punctuation, comes before what a syllable says.
    """

    language: str = Field(min_length=1)
    consonants: dict[str, str] = Field(default={})
    vowels: dict[str, str] = Field(default={})
    letters: dict[Character, str] = Field(default={})

    def spell(self, character: str, language: Language) -> str | None:
        """The letters of one character: ``ሰ`` -> ``se``; None where nothing covers it."""
        if character in self.letters:
            return self.letters[character]
        factors = language.syllables.factors if language.syllables else {}
        consonant, vowel = factors.get(character, (None, None))
        if consonant not in self.consonants or vowel not in self.vowels:
            return None
        return self.consonants[consonant] + self.vowels[vowel]


def load_transliteration(
    code_or_path: str | Path, language: Language | None = None
) -> Transliteration:
    """The transliteration of a language's code (``am``) or of a YAML file's path.

    Raises:
        ConfigError: no such transliteration, the file is not a valid one, or has names that mean
            nothing in the `language` that it shall spell; names file and key.
    """
    path = data_file(
        code_or_path,
        TRANSLITERATIONS,
        "there is no transliteration of {}; there are {}; name the path of a transliteration's "
        "YAML file, or start new rows without one (base.start=mean)",
    )
    table = load_config(Transliteration, [path], including=False)
    if language is None:
        return table
    if table.language != language.code:
        raise ConfigError(f"{path}: language: is {table.language}, not {language.code}")
    syllables = language.syllables
    for key, names, known in (
        ("consonants", table.consonants, syllables.consonants if syllables else ()),
        ("vowels", table.vowels, syllables.vowels if syllables else ()),
        ("letters", table.letters, (*language.alphabet, " ")),
    ):
        if unknown := ", ".join(repr(name) for name in names if name not in known):
            has = " ".join(known) or "none"
            raise ConfigError(f"{path}: {key}: {language.name} has no {unknown}; it has {has}")
    return table
