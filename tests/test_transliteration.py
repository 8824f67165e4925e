"""Letters of a new language are spelled in those of the base voice."""

from __future__ import annotations

from pathlib import Path

import pytest

from dimts.core.errors import ConfigError
from dimts.text.language import load_language
from dimts.text.transliteration import TRANSLITERATIONS, Transliteration, load_transliteration

SHIPPED = sorted(file.stem for file in TRANSLITERATIONS.glob("*.yaml"))
BASES = tuple(load_language(code) for code in ("es", "sw", "tr", "de"))


def spelled(text: str, code: str) -> list[str | None]:
    table, language = load_transliteration(code), load_language(code)
    return [table.spell(character, language) for character in text]


def test_amharic_is_spelled_letter_by_letter() -> None:
    assert spelled("ሰላም።", "am") == ["se", "la", "mı", "."]
    assert spelled("አየኝ", "am") == ["a", "ye", "ñı"]
    assert spelled("ጓሽቸጸኧ", "am") == ["gwa", "şı", "çe", "tse", "e"]


def test_sounds_of_tigrinya_alone_are_spelled_as_the_nearest() -> None:
    assert spelled("ሰላም", "ti") == spelled("ሰላም", "am")
    assert spelled("ቐኸዓሓ", "ti") == ["ke", "he", "ğa", "ha"]
    assert spelled("አሀ", "ti") == ["e", "he"] and spelled("አሀ", "am") == ["a", "ha"]


def test_what_is_not_covered_is_none() -> None:
    language = load_language("am")
    assert spelled("a ", "am") == [None, None]
    table = Transliteration(language="am", consonants={"s": "s"}, vowels={"ae": "e"})
    assert [table.spell(c, language) for c in "ሰሱለ"] == ["se", None, None]
    assert table.spell("a", load_language("en")) is None


@pytest.mark.parametrize("code", SHIPPED)
def test_shipped_tables_cover_their_alphabet_in_letters_of_all_base_languages(code: str) -> None:
    language = load_language(code)
    table = load_transliteration(code, language)
    letters = set().union(*(base.alphabet for base in BASES))
    for character in language.alphabet:
        spelling = table.spell(character, language)
        assert spelling, character
        assert set(spelling) <= letters, character
        assert character.isalpha() == spelling.isalpha(), character


def test_the_letters_of_one_character_come_before_its_syllable() -> None:
    table = load_transliteration("am").model_copy(update={"letters": {"ሰ": "ß"}})
    language = load_language("am")
    assert [table.spell(c, language) for c in "ሰሱ"] == ["ß", "su"]


def test_mistakes_in_a_table_name_file_and_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no transliteration of 'xx'; there are am, ti"):
        load_transliteration("xx")
    file, language = tmp_path / "own.yaml", load_language("am")
    for content, message in [
        ("language: am\nconsonant: {s: s}\n", "own.yaml: consonant: unknown key"),
        ("language: am\nletters: {ሰላ: sela}\n", "own.yaml: letters"),
        (
            "language: am\nconsonants: {ssh: ş}\n",
            "own.yaml: consonants: አማርኛ has no 'ssh'; it has h",
        ),
        ("language: am\nvowels: {ä: e}\n", "own.yaml: vowels: አማርኛ has no 'ä'; it has ae"),
        ("language: am\nletters: {a: a}\n", "own.yaml: letters: አማርኛ has no 'a'"),
        ("language: ti\n", "own.yaml: language: is ti, not am"),
    ]:
        file.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=message) as error:
            load_transliteration(file, language)
        assert "\n" not in str(error.value)


def test_a_language_without_syllables_is_spelled_by_its_letters(tmp_path: Path) -> None:
    file = tmp_path / "en.yaml"
    file.write_text("language: en\nletters: {w: u, j: c}\n", encoding="utf-8")
    english = load_language("en")
    table = load_transliteration(file, english)
    assert [table.spell(c, english) for c in "wjx"] == ["u", "c", None]
