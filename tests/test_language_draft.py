"""A language that dimts does not have: its files drafted from CLDR and a corpus's texts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.checks import check_text
from data_prep.utterance import Reason, Rejected, Utterance
from dimts.audio.files import write_wav
from dimts.commands.language import new_language
from dimts.commands.voice_config import VoiceConfig, load_voice
from dimts.core.config import build_config
from dimts.core.errors import ConfigError, UserError
from dimts.text.cldr import Cldr
from dimts.text.language import Language, Numbers, load_language
from dimts.text.normaliser import Normaliser, TextConfig
from dimts.text.numbers import cardinal
from dimts.text.tokenizer import Tokenizer
from dimts.text.transliteration import Transliteration, load_transliteration

ROOT = Path(__file__).parents[1]
GEORGIAN = {
    "დილა მშვიდობისა, როგორ ბრძანდებით?": "დილა მშვიდობისა, როგორ ბრძანდებით?",
    "ფასდაკლება დღეს 20% იქნება.": "ფასდაკლება დღეს ოცი პროცენტი იქნება.",
    "ქალაქში 1 200 000 კაცია.": "ქალაქში ერთი მილიონ ორასი ათასი კაცია.",
    "„მძიმეა“ – თქვა ბიჭმა…": "მძიმეა, თქვა ბიჭმა.",
    "ჩართე radio!": "ჩართე რადიო!",
}
HINDI = {
    "गाड़ी १० बजकर 45 मिनट पर छूटती है।": "गाड़ी दस बजकर पैंतालीस मिनट पर छूटती है।",
    "आबादी 12,00,000 है॥": "आबादी बारह लाख है॥",
    "पेन ₹15 का है।": "पेन पन्द्रह भारतीय रुपए का है।",
    "तापमान -3.5 अंश है।": "तापमान ऋण तीन दशमलव पाँच अंश है।",
}
DUTCH = {
    "Foto's van zo'n café?": "foto's van zo'n café?",
    "Het kost € 1.250,50!": "het kost duizendtweehonderdvijftig komma vijf nul euro!",
    "Naïef: à propos": "naïef: a propos",
}


def corpus_of(folder: Path, *texts: str) -> Path:
    """A table of texts, all of one recording's length."""
    (folder / "wavs").mkdir(parents=True)
    for n, _ in enumerate(texts):
        write_wav(folder / "wavs" / f"{n}.wav", np.zeros(1600), 16_000)
    rows = "".join(f"{n}|{text}\n" for n, text in enumerate(texts))
    (folder / "metadata.csv").write_text(rows, encoding="utf-8")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reader(code: str) -> Normaliser:
    return Normaliser(load_language(code), TextConfig(language=code))


def test_files_of_a_language_are_found_where_they_were_written(home: Path) -> None:
    report = new_language("ka", corpus_of(home / "corpus", *GEORGIAN))
    assert [reader("ka").normalise(text) for text in GEORGIAN] == list(GEORGIAN.values())
    assert "texts     5 of 5 are read, 0 (0.0%) refused" in report
    for line in ("letters   33 of CLDR", "1983 ათას ცხრაასოთხმოცდასამი", "% პროცენტი"):
        assert line in report
    assert "letters of other scripts, in 1 rows" in report
    assert "  ფასდაკლება დღეს 20% იქნება.\n  = ფასდაკლება დღეს ოცი პროცენტი იქნება." in report
    table = load_transliteration("ka", load_language("ka"))
    assert [table.letters[letter] for letter in "შჩძა"] == ["ş", "ç", "dz", "a"]
    # Workers of Ray stand in another folder.
    voice = load_voice(["configs/ka.yaml"])
    assert isinstance(voice, VoiceConfig)
    base = voice.resolved().base
    assert base and base.transliteration == str(home / "transliterations" / "ka.yaml")
    assert voice.sources[0].text.language == str(home / "languages" / "ka.yaml")


def test_neither_a_file_nor_a_language_of_ours_is_replaced(home: Path) -> None:
    corpus = corpus_of(home / "corpus", *DUTCH)
    with pytest.raises(UserError, match=r"dimts has de already: use text\.language: de"):
        new_language("de", corpus)
    new_language("nl", corpus)
    with pytest.raises(UserError, match=r"languages/nl\.yaml is there already; edit it"):
        new_language("nl", corpus)


def test_what_a_base_knows_needs_no_spelling(home: Path) -> None:
    report = new_language("nl", corpus_of(home / "corpus", *DUTCH))
    assert [reader("nl").normalise(text) for text in DUTCH] == list(DUTCH.values())
    # Of ij with an accent on both: Unicode composes one with í alone.
    assert load_transliteration("nl", load_language("nl")).letters == {"\u0301": ""}
    assert "letters are never heard in the corpus: " in report


def test_letters_that_are_composed_of_two_are_read(home: Path) -> None:
    report = new_language("hi", corpus_of(home / "corpus", *HINDI, "1/2 किलो", "12/3/2015"))
    assert "1 rows have numbers such as 1/2, read as two: list what is a fraction" in report
    assert [reader("hi").normalise(text) for text in HINDI] == list(HINDI.values())
    spelled = load_transliteration("hi", load_language("hi")).letters
    assert [spelled[letter] for letter in "।कचा्"] == [".", "k", "ç", "a", ""]


@pytest.mark.parametrize(
    ("code", "text", "parts"),
    [("bn", "ভয় পেয়ো না।", "য\u09bc"), ("yo", "Ọ̀rọ̀ dùn, ẹ̀kọ́.", "ọ\u0300")],
)
def test_letters_of_two_characters_are_in_an_alphabet(
    home: Path, code: str, text: str, parts: str
) -> None:
    report = new_language(code, corpus_of(home / "corpus", text, f"{text} 5"))
    assert {*parts} <= {*load_language(code).alphabet}
    assert reader(code).normalise(text) == reader(code).normalise(text.lower())
    # CLDR has words of neither's numbers.
    assert "digits without number words: 1" in report
    assert "1 rows have digits, which no rule reads: add numbers" in report


def test_composed_letters_by_hand_work_or_are_explained() -> None:
    plain: dict[str, Any] = {"name": "x", "code": "x", "punctuation": "."}
    language = build_config(Language, {**plain, "letters": ["অ-হ", "য়", "ড়ঢ়"]})
    assert language.alphabet.count("\u09bc") == language.alphabet.count("য") == 1
    with pytest.raises(ConfigError, match=r"one character is wanted; .* is 2 \(U\+09AF U\+09BC\)"):
        build_config(Transliteration, {"language": "x", "letters": {"য়": "y"}})


def test_digits_without_number_words_have_a_reason_of_their_own() -> None:
    tokenizer = Tokenizer.from_language(load_language("ti"), TextConfig(language="ti"))
    row = Utterance("a", Path("a.wav"), "ኣብ 5 ሰዓት", "s", "ti", row=1)
    refused = check_text(row, tokenizer)
    assert isinstance(refused, Rejected)
    assert refused.reason == Reason.NO_NUMBER_WORDS
    assert "its file has no number words: add numbers to it" in refused.detail


@pytest.mark.parametrize(
    ("code", "raw", "spoken"),
    [
        ("es", "El 21 de 1.983", "el veintiuno de mil novecientos ochenta y tres"),
        ("es", "$500", "quinientos dólares"),
        ("de", "1.234,5", "eintausendzweihundertvierunddreißig komma fünf"),
        ("de", "2000000", "zwei millionen"),
        ("tr", "%20, 1453", "yüzde yirmi, bin dört yüz elli üç"),
        ("sw", "2015", "elfu mbili, kumi na tano"),
        ("fr", "71 et 280", "soixante et onze et deux cent quatre vingts"),
    ],
)
def test_shipped_languages_have_number_words(code: str, raw: str, spoken: str) -> None:
    assert reader(code).normalise(raw) == spoken


@pytest.mark.parametrize(
    ("code", "number", "words"),
    [
        ("ru", 2_001_004, "два миллиона одна тысяча четыре"),
        ("pl", 5_022, "pięć tysięcy dwadzieścia dwa"),
        ("it", 123, "centoventitré"),
        ("ja", 10_300, "一万三百"),
    ],
)
def test_number_words_of_cldr_need_no_library_to_be_read(
    code: str, number: int, words: str
) -> None:
    values = {"units": ["x"] * 10, "minus": "x", "point": "x"}
    tables = build_config(Numbers, {**values, "rules": Cldr(code).number_words()})
    assert cardinal(number, tables) == words


def test_number_rules_that_cannot_be_followed() -> None:
    def language(**rules: dict[str, str]) -> Language:
        numbers = {"units": [*"abcdefghij"], "rules": rules, "minus": "a", "point": "a"}
        return build_config(Language, {
            "name": "x", "code": "x", "letters": ["a-z"], "punctuation": ".", "numbers": numbers,
        })  # fmt: skip

    with pytest.raises(ConfigError, match="rules: %a: 1: there is no %b"):
        language(**{"%a": {"1": ">%b>"}})
    with pytest.raises(ConfigError, match="rules: %a: 'one' is neither a number nor 20/20"):
        language(**{"%a": {"one": "a"}})
    # A circle, and a number that no rule covers, are read digit by digit.
    for rules in ({"0": "=%a= =%a="}, {"20": "a"}):
        tables = language(**{"%a": rules}).numbers
        assert tables
        assert cardinal(12, tables) == "b c"


def test_missing_library_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "icu", None)
    with pytest.raises(UserError, match=r"dimts language needs ICU: pip install 'dimts\[language"):
        new_language("ka", corpus_of(home / "corpus", *GEORGIAN))


@pytest.mark.slow
def test_georgian_goes_from_a_corpus_to_a_voice_by_commands_alone(home: Path) -> None:
    def dimts(*arguments: str) -> str:
        command = [sys.executable, "-m", "dimts", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    sentences = ROOT / "benchmarks" / "languages" / "ka.txt"
    dimts("sample-corpus", "--engine", "espeak", "--voice", "ka", "--sentences", str(sentences),
          "--out", "corpora/ka")  # fmt: skip
    assert "77 of 77 are read" in dimts("language", "new", "ka", "--corpus", "corpora/ka")
    config = ("--config", "configs/ka.yaml")
    assert "used      77 of 77 rows" in dimts("prepare", *config)
    few = ("training.max_steps=20", "training.validate_every=20", "tracking.enabled=false")
    dimts("train", *config, *(f"--set={each}" for each in (*few, "ray.workers=0")))
    dimts("synthesize", "--model", "runs/ka", "--text", "დილა მშვიდობისა!", "--out", "ka.wav")
    assert (home / "ka.wav").stat().st_size > 10_000
