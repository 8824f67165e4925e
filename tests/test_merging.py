"""A merged tokenizer: base ids stay, the new language follows, and the report says what."""

from __future__ import annotations

import re

import pytest
from examples import one_in
from hypothesis import given, settings
from hypothesis import strategies as st

from dimts.core.errors import UserError
from dimts.text.language import Language, SyllableRow, Syllables, load_language
from dimts.text.merge_report import merge_report, normalised_texts
from dimts.text.merging import merge
from dimts.text.normaliser import TextConfig, UnknownCharacters
from dimts.text.tokenizer import Tokenizer

AMHARIC, SPANISH = load_language("am"), load_language("es")
BASE_LANGUAGES = ("en", "sw", "tr", "de")
SENTENCES = ["ሰላም ለዓለም። ሰላም ነው!", "ቡና ጠጣ፣ ሰላም ነው።", "ዓለም ሰላም ነው?"]


def several(*codes: str) -> Tokenizer:
    return Tokenizer.from_languages([(load_language(c), TextConfig(language=c)) for c in codes])


def text_of(code: str) -> TextConfig:
    return TextConfig(language=code)


BASE = several(*BASE_LANGUAGES)
MERGED = merge(BASE, AMHARIC, text_of("am"))
SUBWORDS = merge(
    BASE,
    AMHARIC,
    text_of("am"),
    30,
    normalised_texts(MERGED.normaliser("am"), SENTENCES)[0],
)
MIXED = merge(
    BASE,
    SPANISH,
    text_of("es"),
    30,
    2 * ["el niño soñó mañana con el año", "niña, el pingüino y el camión", "then the night"],
)
BASE_CHARACTERS = " " + "".join(t for i, t in enumerate(BASE.tokens) if i not in BASE.special_ids)
FIDEL = " " + "".join(AMHARIC.alphabet)


def test_base_ids_stay_and_new_tokens_follow() -> None:
    assert MERGED.tokens[: BASE.n_vocab] == BASE.tokens
    assert MERGED.n_base == BASE.n_vocab
    new = MERGED.tokens[BASE.n_vocab :]
    assert new[0] == "<am>" and MERGED.start_ids["am"] == BASE.n_vocab
    assert set(new[1:]) == set(AMHARIC.alphabet) - set(BASE.tokens)
    assert MERGED.languages == (*BASE_LANGUAGES, "am")
    assert MERGED.languages[-1] == "am"
    assert (MERGED.pad_id, MERGED.eos_id) == (BASE.pad_id, BASE.eos_id)


@pytest.mark.parametrize("merged", [MERGED, SUBWORDS, MIXED], ids=["am", "subwords", "es"])
@given(text=st.text(BASE_CHARACTERS, max_size=60), code=st.sampled_from(BASE_LANGUAGES))
@settings(max_examples=one_in(8))
def test_base_texts_keep_their_very_ids(merged: Tokenizer, text: str, code: str) -> None:
    ids = BASE.encode_normalised(text, code)
    assert merged.encode_normalised(text, code) == ids
    assert merged.decode(ids) == BASE.decode(ids) == text


@pytest.mark.parametrize("merged", [MERGED, SUBWORDS], ids=["characters", "subwords"])
@given(text=st.text(FIDEL + BASE_CHARACTERS, max_size=60))
@settings(max_examples=one_in(8))
def test_texts_come_back_from_their_ids(merged: Tokenizer, text: str) -> None:
    assert merged.decode(merged.encode_normalised(text)) == text


def test_what_was_unknown_is_known_and_the_rest_stays_unknown() -> None:
    with pytest.raises(UnknownCharacters):
        BASE.encode_normalised("ሰላም", "en")
    for merged in (MERGED, SUBWORDS):
        assert merged.encode("ሰላም ዓለም፡፡")[0] == merged.start_ids["am"]
        with pytest.raises(UnknownCharacters, match="'Ж'"):
            merged.encode_normalised("ሰላም Ж")


def test_subwords_shorten_texts_of_the_new_language_alone() -> None:
    assert len(SUBWORDS.encode("ሰላም ነው።")) == 2 + len(["ሰላም", " ", "ነው", "።"])
    assert len(MERGED.encode("ሰላም ነው።")) == 2 + len("ሰላም ነው።")


def test_subwords_cross_no_pause_and_each_holds_a_new_character() -> None:
    for merged in (SUBWORDS, MIXED):
        language = merged.normaliser().language
        new = [t for t in merged.tokens[BASE.n_vocab + 1 :] if len(t) > 1]
        assert new
        for token in new:
            assert not set(token) & {" ", *language.punctuation}
            assert set(token) - set(BASE_CHARACTERS)


def test_subwords_are_at_most_as_many_as_asked_for() -> None:
    few = merge(BASE, AMHARIC, text_of("am"), 2, ["ሰላም ለዓለም ሰላም ነው ሰላም ነው"])
    assert few.n_vocab == MERGED.n_vocab + 2


def test_factor_rows_of_the_base_stay_where_they_are() -> None:
    amharic = several("am")
    syllables = AMHARIC.syllables
    assert syllables is not None
    other = Language(
        name="other",
        code="xx",
        punctuation="!",
        syllables=Syllables(
            series={"two": ("new vowel", syllables.vowels[0])},
            rows=(
                SyllableRow(consonant="new", vowels="two", letters="ሀⶀ"),
                SyllableRow(consonant=syllables.consonants[3], vowels="two", letters="ⶁⶂ"),
            ),
        ),
    )
    both = merge(amharic, other, text_of("xx"))
    assert (both.factors[: amharic.n_vocab] == amharic.factors).all()
    assert both.factor_sizes == tuple(size + 1 for size in amharic.factor_sizes)
    n_consonants, n_vowels = amharic.factor_sizes
    assert both.factors[both.tokens.index("ⶀ")].tolist() == [n_consonants, 1]
    assert both.factors[both.tokens.index("ⶁ")].tolist() == [4, n_vowels]
    assert (MERGED.factors[: BASE.n_vocab] == 0).all()
    assert MERGED.factors.shape == (MERGED.n_vocab, 2)


def test_saved_and_loaded_it_is_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    for merged in (MERGED, SUBWORDS):
        file = tmp_path_factory.mktemp("merged") / "tokenizer.json"
        merged.save(file)
        loaded = Tokenizer.load(file)
        assert loaded == merged and loaded.n_base == BASE.n_vocab
        assert loaded.encode("ሰላም ነው።") == merged.encode("ሰላም ነው።")


def test_a_language_twice_and_subwords_of_nothing_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(am\) is one of the base's languages already"):
        merge(MERGED, AMHARIC, text_of("am"))
    with pytest.raises(UserError, match="there are none"):
        merge(BASE, AMHARIC, text_of("am"), 5, [" ", "።"])


def test_report_says_what_is_added_and_what_stays_unknown() -> None:
    texts = [*SENTENCES, "ሰላም Жж!", "Ж"]
    lines = merge_report(BASE, SUBWORDS, texts)
    new = SUBWORDS.tokens[BASE.n_vocab + 1 :]
    n_added = len(set(AMHARIC.alphabet) - set(BASE.tokens))
    n_shared = len(AMHARIC.alphabet) - n_added
    letters = "".join(texts).replace(" ", "")
    known, of_base = (1 - 3 / len(letters), sum(c in "!?" for c in letters) / len(letters))
    assert lines[0] == (
        f"አማርኛ (am) (the base speaks en, sw, tr, de): {BASE.n_vocab} tokens become "
        f"{SUBWORDS.n_vocab}"
    )
    assert lines[1] == "start:   <am>"
    assert lines[2].startswith(f"added:   {n_added} characters ")
    assert lines[3].startswith(f"shared:  {n_shared} characters ") and n_shared > 0
    assert lines[4].startswith(f"subwords: {len(new) - n_added} ")
    assert lines[5] == (
        f"covers:  {known:.2%} of {len(letters)} characters in {len(texts)} texts; "
        f"the base alone {of_base:.2%}"
    )
    match = re.fullmatch(r"tokens a text: ([\d.]+) without sub-words, ([\d.]+) with", lines[6])
    assert match and float(match[2]) < float(match[1])
    assert lines[7:] == [
        "unknown: 'Ж' (U+0416), 2 times, as in: ሰላም Жж!",
        "unknown: 'ж' (U+0436), 1 times, as in: ሰላም Жж!",
    ]


def test_report_without_texts_says_nothing_of_coverage() -> None:
    lines = merge_report(BASE, MERGED)
    assert [line.partition(":")[0] for line in lines[1:]] == ["start", "added", "shared"]
