"""Raw text becomes what a voice can read: variants, abbreviations, numbers, acronyms."""

from __future__ import annotations

import ctypes
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import espeakng_loader
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from dimts.core.errors import ConfigError, UserError
from dimts.text.language import LANGUAGES, Language, load_language
from dimts.text.normaliser import Normaliser, TextConfig, UnknownCharacters
from dimts.text.numbers import cardinal, largest, numeral_value, ordinal
from dimts.text.transliteration import load_transliteration

AMHARIC = load_language("am")
ENGLISH = load_language("en")
am = Normaliser(AMHARIC, TextConfig(language="am"))
am_latin = Normaliser(AMHARIC, TextConfig(language="am", respell=True))
am_folded = Normaliser(AMHARIC, TextConfig(language="am", fold_homophones=True))
en = Normaliser(ENGLISH, TextConfig(language="en"))
NUMBERS = {
    "units": ["a"] * 20,
    "tens": dict.fromkeys(range(20, 100, 10), "a"),
    "scales": [{"value": 100, "word": "a"}],
    "minus": "a",
    "point": "a",
}


@pytest.mark.parametrize(
    ("raw", "normalised"),
    [
        ("ሰላም፡ዓለም፡፡", "ሰላም ዓለም።"),
        ("ሰላም ዓለም ::", "ሰላም ዓለም።"),
        ("እንዴት ነህ፧", "እንዴት ነህ?"),
        ("«እሺ»(አለ)።ሄደ", "እሺ፣ አለ። ሄደ"),
        (" ሰላም\u200b\ufeff\n\tዓለም ", "ሰላም ዓለም"),
        ("በ1983 ዓ.ም.", "በአንድ ሺህ ዘጠኝ መቶ ሰማንያ ሦስት ዓመተ ምሕረት"),
        ("የት/ቤቱ ተማሪ", "የትምህርት ቤቱ ተማሪ"),
        ("፲፱፻፹፫", "አንድ ሺህ ዘጠኝ መቶ ሰማንያ ሦስት"),
        ("5ኛው፣ ፳፩ኛ", "አምስተኛው፣ ሃያ አንደኛ"),
        ("3.05", "ሦስት ነጥብ ዜሮ አምስት"),
        ("1,234,567", "አንድ ሚሊዮን ሁለት መቶ ሠላሳ አራት ሺህ አምስት መቶ ስልሳ ሰባት"),
        ("-7 ዲግሪ", "ኔጌቲቭ ሰባት ዲግሪ"),
        ("$5 ሚሊዮን፣ 50%", "አምስት ሚሊዮን ዶላር፣ ሃምሳ በመቶ"),
        ("12:30", "አስራ ሁለት ሰዓት ተኩል"),
    ],
)
def test_amharic_is_written_out(raw: str, normalised: str) -> None:
    assert am.normalise(raw) == normalised


@pytest.mark.parametrize(
    ("raw", "normalised"),
    [
        ("Press 1, or 2 to exit.", "press one, or two to exit."),
        ("DTMF and IVRs", "dee tee em ef and eye vee ars"),
        ("the 7 key for Q, and I agree", "the seven key for cue, and i agree"),
        ("Please HOLD for the PIN", "please hold for the pin"),
        ("3D audio", "three dee audio"),
        ("21st of May", "twenty first of may"),
        ("Don’t re-enter “that” — ever...", "don't re enter that, ever."),
        ("Dr. Smith vs. DON'T", "doctor smith versus don't"),
        ("$1,234.50", "one thousand two hundred thirty four point five zero dollars"),
        ("007", "zero zero seven"),
        ("Café?!", "cafe?"),
        ("127.0.0.1", "one hundred twenty seven point zero point zero point one"),
        ("9" * 5000, " ".join(["nine"] * 5000)),
        ("www.asterisk.org.", "double you double you double you dot asterisk dot org."),
    ],
)
def test_english_is_written_out(raw: str, normalised: str) -> None:
    assert en.normalise(raw) == normalised


def test_homophones_are_kept_or_folded_by_the_switch() -> None:
    assert am.normalise("ሐኪሙ ፀሐይ ዓየ") == "ሐኪሙ ፀሐይ ዓየ"
    assert am_folded.normalise("ሐኪሙ ፀሐይ ዓየ") == "ሀኪሙ ጸሀይ አየ"
    with pytest.raises(ConfigError, match="fold_homophones"):
        Normaliser(ENGLISH, TextConfig(language="en", fold_homophones=True))


def test_unknown_characters_are_named() -> None:
    with pytest.raises(UnknownCharacters, match=r"'ß' \(U\+00DF LATIN SMALL LETTER SHARP S\)") as e:
        en.normalise("Straße ሰ")
    assert e.value.characters == ("ß", "ሰ")


@pytest.mark.parametrize("text", ["", "  \n", "።", "\u200b", "«»?"])
def test_text_without_letters_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="nothing to say"):
        am.normalise(text)


# Runs of what the rules look for, so that they meet each other in every order.
_PIECES = [*AMHARIC.replacements, *AMHARIC.abbreviations, *AMHARIC.symbols, *AMHARIC.alphabet]
_PIECES += [*ENGLISH.replacements, *ENGLISH.abbreviations, *ENGLISH.symbols, *ENGLISH.alphabet]
_PIECES += [*"0123456789፩፲፻፼ \u200b\u0301\u00a0ABCDXYZ./-:+", "ኛ", "st", "$", "1,000", "ቱ", "በ"]
_texts = st.lists(st.one_of(st.sampled_from(_PIECES), st.characters()), max_size=15).map("".join)


@given(_texts)
@example("dr .")  # taking out the space completes an abbreviation
@example("a -- .c.om")
@pytest.mark.parametrize(
    "normaliser", [am, am_folded, am_latin, en], ids=["am", "am-folded", "am-latin", "en"]
)
def test_normalised_text_stays_as_it_is(normaliser: Normaliser, text: str) -> None:
    try:
        once = normaliser.normalise(text)
    except UserError as error:
        assert "never settle" not in str(error)
        return
    assert normaliser.normalise(once) == once
    assert set(once) <= {*normaliser.language.alphabet, " "}
    assert once == once.strip() and "  " not in once


@pytest.mark.parametrize("language", [AMHARIC, ENGLISH], ids=["am", "en"])
def test_numbers_in_words_are_distinct_and_within_the_alphabet(language: Language) -> None:
    assert language.numbers
    numbers = [*range(10_000), *(10**k + 1 for k in range(5, 15)), *range(99_000, 102_000, 7)]
    words = [cardinal(n, language.numbers) for n in numbers]
    assert len(set(words)) == len(set(numbers))
    assert set("".join(words)) <= {*language.alphabet, " "}
    beyond = Normaliser(language, TextConfig(language=language.code)).normalise
    most = largest(language.numbers)
    assert beyond(str(most)) == cardinal(most, language.numbers)
    assert beyond(str(most + 1)) == " ".join(language.numbers.units[int(c)] for c in str(most + 1))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (1_000, "one thousand"),
        (1_888, "one thousand eight hundred eighty eight"),
        (20_018, "twenty thousand eighteen"),
        (1_000_000, "one million"),
    ],
)
def test_english_cardinals(number: int, words: str) -> None:
    assert ENGLISH.numbers and cardinal(number, ENGLISH.numbers) == words


def test_ordinals_change_the_last_word() -> None:
    assert ENGLISH.numbers and AMHARIC.numbers
    assert ordinal(123, ENGLISH.numbers) == "one hundred twenty third"
    assert ordinal(40, ENGLISH.numbers) == "fortieth"
    assert ordinal(12, AMHARIC.numbers) == "አስራ ሁለተኛ"
    for tables in (ENGLISH.numbers, AMHARIC.numbers):
        assert None not in {ordinal(n, tables) for n in (*range(200), 1000, 10**6, 10**9, 10**12)}


@pytest.mark.parametrize(
    ("numeral", "value"),
    [
        ("፩", 1),
        ("፲", 10),
        ("፻", 100),
        ("፲፱፻፹፫", 1983),
        ("፼", 10_000),
        ("፪፼፫", 20_003),
        ("፻፼", 1_000_000),
        ("፼፼", 100_000_000),
        ("፲፪፻፴፬፼፶፮፻፸፰", 12_345_678),
    ],
)
def test_ethiopic_numerals(numeral: str, value: int) -> None:
    assert AMHARIC.numbers and numeral_value(numeral, AMHARIC.numbers.numerals) == value


def test_numeral_beyond_the_words_is_an_error_of_one_line() -> None:
    with pytest.raises(UnknownCharacters, match="ETHIOPIC NUMBER TEN THOUSAND"):
        am.normalise("፼" * 3000)


def test_folding_leaves_one_letter_a_sound() -> None:
    assert AMHARIC.syllables
    factors = AMHARIC.syllables.factors
    for letter, folded in AMHARIC.homophones.items():
        assert factors[letter] == factors[folded], f"{letter} -> {folded}"
    left = [factors[letter] for letter in factors if letter not in AMHARIC.homophones]
    assert len(set(left)) == len(left)


def test_factors_agree_with_the_phonemes_of_another_pronunciation_source() -> None:
    assert AMHARIC.syllables
    phonemes: dict[tuple[str, str], set[bytes]] = {}
    speak = _espeak_phonemes()
    for letter, factors in AMHARIC.syllables.factors.items():
        phonemes.setdefault(factors, set()).add(speak(f"ለ{letter}ለ"))
    assert all(len(sounds) == 1 for sounds in phonemes.values())
    assert len(set.union(*phonemes.values())) == len(phonemes)


def _espeak_phonemes() -> Callable[[str], bytes]:
    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    espeak.espeak_Initialize(1, 0, espeakng_loader.get_data_path().encode(), 0)
    assert espeak.espeak_SetVoiceByName(b"am") == 0
    espeak.espeak_TextToPhonemes.restype = ctypes.c_char_p

    def phonemes(text: str) -> bytes:
        rest = ctypes.c_char_p(text.encode())
        return bytes(espeak.espeak_TextToPhonemes(ctypes.byref(rest), 1, 0))

    return phonemes


@pytest.mark.parametrize("file", sorted(LANGUAGES.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_languages_are_valid_and_named_by_their_code(file: Path) -> None:
    language = load_language(file)
    assert language.code == file.stem
    assert load_language(file.stem) == language


def test_a_language_of_ones_own_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sw.yaml"
    file.write_text("name: Kiswahili\ncode: sw\nletters: [a-z]\npunctuation: '.,'\ncase: lower\n")
    normaliser = Normaliser(load_language(file), TextConfig(language=str(file)))
    assert normaliser.normalise("Habari  ya leo .") == "habari ya leo."


def test_mistakes_in_a_language_name_file_and_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known: am, de, en"):
        load_language("xx")
    data = yaml.safe_load((LANGUAGES / "en.yaml").read_text(encoding="utf-8"))
    file = tmp_path / "x.yaml"
    for change, message in [
        ({"homophone": {}}, "homophone: unknown key"),
        ({"symbols": {"%": "Prozent ß"}}, "symbols: 'Prozent ß' has ß"),
        ({"letters": ["a-z", "q"]}, "q is in the alphabet twice"),
        ({"letters": ["a-z", " "]}, r"letters: white space .*U\+0020"),
        ({"letters": ["a-z", "\u200c"]}, r"letters: .* control character .*U\+200C"),
        ({"letters": ["a-z", "~-\u00a1"]}, r"letters: .* control character .*U\+007F"),
        ({"punctuation": ". ,"}, r"punctuation: white space .*U\+0020"),
        ({"abbreviations": {"": "nothing"}}, "abbreviations.*: string should have at least 1"),
        ({"replacements": {"": "nothing"}}, "replacements.*: string should have at least 1"),
        ({"symbols": {"": "nothing"}}, "symbols.*: string should have at least 1"),
        ({"code": "pad"}, "code: 'pad' is the name of a token of its own"),
        ({"code": "eos"}, "code: 'eos' is"),
        ({"numbers": data["numbers"] | {"tens": {20: "twenty"}}}, "tens: 30 is missing"),
        ({"numbers": data["numbers"] | {"fractions": {"half": "a"}}}, "fractions.*: string should"),
    ]:
        file.write_text(yaml.safe_dump(data | change, allow_unicode=True), encoding="utf-8")
        with pytest.raises(ConfigError, match=message) as error:
            load_language(file)
        assert "\n" not in str(error.value)


def written(tmp_path: Path, **settings: object) -> Normaliser:
    """Of a language of one's own."""
    file = tmp_path / "x.yaml"
    plain = {"name": "X", "code": "x", "letters": ["a-z", "A-Z"], "punctuation": ".,"}
    file.write_text(yaml.safe_dump(plain | settings, allow_unicode=True), encoding="utf-8")
    return Normaliser(load_language(file), TextConfig(language=str(file), fold_homophones=True))


SWELLING: dict[str, tuple[dict[str, object], str]] = {
    "last rule": ({"symbols": {"%": "a" * 20}, "replacements": {"a": "b" * 1000}}, "%" * 45_000),
    "one number": ({"numbers": {**NUMBERS, "units": ["b" * 1000] * 20}}, "1" * 300_000),
    "its parts": ({"numbers": {**NUMBERS, "point": "b" * 1000}}, "1" + ".1" * 300_000),
    "abbreviation": ({"abbreviations": {"x": "a" * 1000}}, "x " * 400_000),
    "mark between": ({"numbers": {**NUMBERS, "between": {":": "b" * 1000}}}, "1:" * 300_000),
    "invisible": ({}, "\u200b" * 2_000_000),
}


@pytest.mark.parametrize("rule", SWELLING)
def test_no_rule_makes_much_more_than_it_may(tmp_path: Path, rule: str) -> None:
    """Not even on the way to being refused."""
    settings, text = SWELLING[rule]
    normaliser = written(tmp_path, homophones={"q": "k"}, **settings)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="more than 1000000 characters"):
            normaliser.normalise(text)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_language_opens_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("name: Y")
    with pytest.raises(ConfigError, match=r"x\.yaml: include: unknown key"):
        written(tmp_path, include=["other.yaml"])
    table = tmp_path / "t.yaml"
    table.write_text("language: am\ninclude: [other.yaml]")
    with pytest.raises(ConfigError, match=r"t\.yaml: include: unknown key"):
        load_transliteration(table)


def test_abbreviation_in_capitals_is_expanded_where_case_is_kept(tmp_path: Path) -> None:
    keeps = written(tmp_path, abbreviations={"Dr.": "Doctor"}, homophones={"q": "k"})
    assert keeps.normalise("Dr. Abebe, Adr. dr.") == "Doctor Abebe, Adr. dr."


def test_language_may_be_written_in_decomposed_letters(tmp_path: Path) -> None:
    e, a, o = "e\u0301", "a\u0300", "o\u0302"
    voice = written(
        tmp_path,
        letters=["a-z", "\u00e9", o],
        replacements={f"{a}": "a"},
        abbreviations={f"b{a}.": f"b{e}"},
        symbols={"=\u0338": "ne"},
        homophones={o: "o"},
        syllables={"series": {"s": ["i"]}, "rows": [
            {"consonant": "k", "vowels": "s", "letters": "u\u0308"},
        ]},
    )  # fmt: skip
    assert voice.normalise(f"b{a}. {a} {o} =\u0338 u\u0308") == "b\u00e9 a o ne \u00fc"


def test_marks_are_left_out_but_those_of_the_alphabet(tmp_path: Path) -> None:
    voice = written(tmp_path, letters=["a-z", "q\u0303"], drop_marks=True, homophones={"k": "q"})
    assert voice.normalise("q\u0303 x\u0304\u0303") == "q\u0303 x\u0303"


def test_fractions_that_a_language_lists_are_read(tmp_path: Path) -> None:
    halves = {"fractions": {"1/2": "half", "+1/2": "and a half"}}
    voice = written(tmp_path, homophones={"q": "k"}, numbers={
        "units": [*"abcdefghijklmnopqrst"], "tens": dict.fromkeys(range(20, 100, 10), "t"),
        "scales": [{"value": 100, "word": "h"}], "minus": "minus", "point": "p",
        "between": {"/": " by "}, **halves,
    })  # fmt: skip
    assert voice.normalise("1/2 of 3½, 3 1/2, 1/3 in 1/2/3") == (
        "half of d and a half, d and a half, b by d in b by c by d"
    )


def test_ranges_of_letters_are_replaced_letter_by_letter(tmp_path: Path) -> None:
    table = {"\u03b1-\u03b3": "a-c", "1-3": "d"}
    voice = written(tmp_path, replacements=table, homophones={"x-z": "a-c"})
    assert voice.normalise("\u03b1\u03b2\u03b3 xyz 1-3") == "abc abc d"
