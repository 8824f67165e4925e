"""Amharic as it is written, by kind: tests/data/amharic_readings.tsv has what is to be spoken."""

from __future__ import annotations

import csv
import unicodedata
from collections import defaultdict
from pathlib import Path

import pytest

from data_prep.unexpanded import unexpanded_lines
from dimts.core.errors import ConfigError
from dimts.text.language import load_language
from dimts.text.normaliser import Normaliser, TextConfig, UnknownCharacters

AMHARIC = load_language("am")
plain = Normaliser(AMHARIC, TextConfig(language="am"))
latin = Normaliser(AMHARIC, TextConfig(language="am", respell=True))


def _table() -> dict[str, list[tuple[str, str]]]:
    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    file = Path(__file__).parent / "data" / "amharic_readings.tsv"
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            kinds[row["kind"]].append((row["text"], row["reading"]))
    return kinds


KINDS = _table()


def test_the_table_has_lines_for_every_kind() -> None:
    assert sum(map(len, KINDS.values())) >= 300
    assert all(len(rows) >= 2 for rows in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_amharic_is_read_as_its_kind(kind: str) -> None:
    normaliser = latin if kind.startswith("Latin") else plain
    read = [(text, normaliser.normalise(text)) for text, _ in KINDS[kind]]
    assert read == KINDS[kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("Latin")])
def test_respelling_changes_nothing_but_latin_words(kind: str) -> None:
    assert [(text, latin.normalise(text)) for text, _ in KINDS[kind]] == KINDS[kind]


def test_latin_words_are_refused_unless_respelled() -> None:
    with pytest.raises(UnknownCharacters, match=r"; text\.respell: true reads them"):
        plain.normalise("በFacebook ላይ")
    with pytest.raises(UnknownCharacters, match=r"; text\.respell: true reads them"):
        plain.normalise("ሰላም é")
    with pytest.raises(UnknownCharacters) as error:
        plain.normalise("ሰላም 你")
    assert "respell" not in str(error.value)
    with pytest.raises(ConfigError, match=r"text\.respell: English has no respelling"):
        Normaliser(load_language("en"), TextConfig(language="en", respell=True))


def test_every_ethiopic_character_is_read() -> None:
    """Of any language and of any Unicode that Python knows."""
    blocks = (range(0x1200, 0x13A0), range(0x2D80, 0x2DE0), range(0xAB00, 0xAB30),
              range(0x1E7E0, 0x1E800))  # fmt: skip
    assigned = [c for block in blocks for c in map(chr, block) if unicodedata.name(c, "")]
    assert len(assigned) >= 495
    for character in assigned:
        plain.normalise(f"ለ{character}")


def test_latin_letters_with_marks_are_respelled() -> None:
    assert latin.normalise("c\u0304af\u0327e\u0301") == latin.normalise("cafe")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("በኢ.ቲ.ቪ ዜና", ["ኢ.ቲ.ቪ"]),
        ("ረ/ሐኪም አበበ በ1983 ዓ.ም.", ["ረ/ሐኪም"]),
        ("ዶ/ር አበበ 5 km ሮጠ", []),
        ("Robert በFacebook", ["Robert"]),
    ],
)
def test_what_is_read_by_its_letters_alone_is_found(text: str, found: list[str]) -> None:
    assert latin.unexpanded(text) == found


def test_a_switch_that_is_off_leaves_fingerprints_as_they_were() -> None:
    assert TextConfig(language="am").model_dump() == {"language": "am", "fold_homophones": False}
    assert "respelling" not in load_language("es").model_dump()


def test_summary_lists_what_is_read_by_its_letters_with_counts() -> None:
    texts = ["የኢ.ቲ.ቪ ዜና", "በኢ.ቲ.ቪ ታየ", "ረ/ሐኪም መጣ", "ዶ/ር መጣ"]
    lines = unexpanded_lines(TextConfig(language="am"), texts)
    assert lines[0].startswith("spelled   3 words of 2 kinds")
    assert lines[1:] == ["  ኢ.ቲ.ቪ 2, ረ/ሐኪም 1"]
    assert unexpanded_lines(TextConfig(language="am"), ["ዶ/ር መጣ"]) == []


def test_features_read_by_another_switch_are_told_apart() -> None:
    on, off = (TextConfig(language="am", respell=respell) for respell in (True, False))
    assert on.switches == {"fold_homophones": False, "respell": True}
    assert off.switches.keys() == on.switches.keys()
    assert TextConfig.model_validate(on.model_dump()) == on
