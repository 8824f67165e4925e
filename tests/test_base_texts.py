"""The sentences that the base voice is taught with, and those of a further language."""

from __future__ import annotations

import lzma
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from data_prep.recipes.espeak import SAMPLE_SENTENCES, read_sentences
from dimts.text.language import load_language
from dimts.text.normaliser import Normaliser, TextConfig

TEXTS = Path(__file__).parents[1] / "data_prep" / "base_texts"
BASES = ("es", "sw", "tr", "de", "en", "fr")
CODES = (*BASES, "ti")
# letters that a language has for names and loans alone
FOREIGN = {"es": "", "sw": "qx", "tr": "qwx", "de": "", "en": "", "fr": ""}


@cache
def sentences(code: str) -> tuple[str, ...]:
    file = TEXTS / (f"{code}.txt.xz" if code in BASES else f"{code}.txt")
    content = file.read_bytes()
    return tuple((lzma.decompress(content) if code in BASES else content).decode().splitlines())


@cache
def normalised(code: str) -> tuple[str, ...]:
    normaliser = Normaliser(load_language(code), TextConfig(language=code))
    return tuple(map(normaliser.normalise, sentences(code)))


def test_no_file_is_forgotten() -> None:
    assert {file.name.split(".")[0] for file in TEXTS.iterdir()} == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_sentences_are_many_and_speakable(code: str) -> None:
    assert len(sentences(code)) >= (200 if code in BASES else 50)
    for sentence in sentences(code):
        assert unicodedata.normalize("NFC", sentence) == sentence == " ".join(sentence.split())
        assert 3 <= len(sentence.split()) <= 16, sentence
        assert sentence[-1] in "።.?!", sentence
        assert "|" not in sentence and not any(c.isdigit() for c in sentence), sentence
    starts = Counter(" ".join(sentence.split()[:2]) for sentence in sentences(code))
    assert starts.most_common(1)[0][1] <= 5, "sentences made from a template?"


def test_no_sentence_is_there_twice() -> None:
    amharic = read_sentences(SAMPLE_SENTENCES)
    everything = Counter([*amharic, *(text for code in CODES for text in normalised(code))])
    assert [text for text, n in everything.items() if n > 1] == []


@pytest.mark.parametrize("code", CODES)
def test_sentences_are_within_the_alphabet_and_normalised_once(code: str) -> None:
    normaliser = Normaliser(load_language(code), TextConfig(language=code))
    assert tuple(map(normaliser.normalise, normalised(code))) == normalised(code)
    # what is written is kept: no letter is lost on the way
    for raw, text in zip(sentences(code), normalised(code), strict=True):
        assert sum(map(str.isalpha, raw)) == sum(map(str.isalpha, text)), raw


@pytest.mark.parametrize("code", BASES)
def test_every_letter_and_mark_is_heard(code: str) -> None:
    counts = Counter("".join(normalised(code)))
    rare = {c: counts[c] for c in load_language(code).alphabet if counts[c] < 2}
    assert set(rare) <= set(FOREIGN[code]), rare


def test_every_consonant_and_plain_vowel_of_tigrinya_is_heard() -> None:
    syllables = load_language("ti").syllables
    assert syllables
    heard = [syllables.factors[c] for text in normalised("ti") for c in text if c.isalpha()]
    assert {consonant for consonant, _ in heard} == set(syllables.consonants)
    assert {vowel for _, vowel in heard} >= set(syllables.series["plain"])


@pytest.mark.parametrize(
    ("code", "raw", "expected"),
    [
        ("es", "¿Qué? ¡SÍ, SEÑOR! «El Sr. Núñez»…", "qué? sí, señor! el señor núñez."),
        ("es", "El vino, ¿tinto o blanco?", "el vino, tinto o blanco?"),
        ("sw", "Ng’ombe — \"mia\" — KHERI!", "ng'ombe, mia, kheri!"),
        ("tr", "ISPARTA'da İĞNE ve ÜÇ “kâğıt”.", "ıspartada iğne ve üç kâğıt."),
        ("tr", "Dr. Işık RESMÎ!", "doktor ışık resmi!"),
        ("de", "„GROẞE Straße“, wie geht’s z. B. Dr. Müller?",
         "große straße, wie gehts zum beispiel doktor müller?"),
        ("en", "“Who’s THERE?” asked Dr. Gray…", "who's there? asked doctor gray."),
        ("fr", "« L’ŒUF, Mme Noël ? » — ÇA, c.-à-d. où ?",
         "l'œuf, madame noël? ça, c'est à dire où?"),
        ("fr", "M. Müller, à L’Haÿ\u202f!", "monsieur muller, à l'haï!"),
        ("ti", "ሰላም፧ ዶ/ር ኣለ።", "ሰላም? ዶክተር ኣለ።"),
    ],
)  # fmt: skip
def test_each_language_is_brought_into_its_alphabet(code: str, raw: str, expected: str) -> None:
    normaliser = Normaliser(load_language(code), TextConfig(language=code))
    assert normaliser.normalise(raw) == expected
    assert normaliser.normalise(expected) == expected


def test_amharic_and_tigrinya_share_the_names_of_their_sounds() -> None:
    amharic, tigrinya = load_language("am").syllables, load_language("ti").syllables
    assert amharic and tigrinya
    assert set(amharic.consonants) <= set(tigrinya.consonants)
    assert set(tigrinya.consonants) - set(amharic.consonants) == {"qh", "kh", "hh", "ayin"}
    assert set(tigrinya.vowels) == set(amharic.vowels)
    assert tigrinya.factors["ሰ"] == amharic.factors["ሰ"]
