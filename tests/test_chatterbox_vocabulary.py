"""A language more in Chatterbox's published vocabulary: old ids stay, no character is unknown.

`data/chatterbox` holds the published tokenizers (MIT, see the LICENSE there), as the source
distribution of chatterbox-vllm 0.2.1 has them.
"""

from __future__ import annotations

import copy
import unicodedata
from pathlib import Path

import pytest
import torch
from examples import one_in
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.recipes.espeak import SAMPLE_SENTENCES, read_sentences
from dimts.core.errors import UserError
from dimts.families.chatterbox.vocabulary.placement import Placement, free_rows, place
from dimts.families.chatterbox.vocabulary.report import placed_lines, unknown_lines
from dimts.families.chatterbox.vocabulary.rows import TABLES, spelled, start_rows
from dimts.families.chatterbox.vocabulary.text import folded
from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer
from dimts.text.language import load_language
from dimts.text.merge_report import normalised_texts
from dimts.text.normaliser import Normaliser, TextConfig
from dimts.text.transliteration import load_transliteration

DATA = Path(__file__).parent / "data" / "chatterbox"
BASE = StockTokenizer.load(DATA / "grapheme_mtl_merged_expanded_v1.json")
ENGLISH = StockTokenizer.load(DATA / "tokenizer.json")
AMHARIC = load_language("am")
IN_PLACE, EXTENDED = place(BASE, AMHARIC, "in_place"), place(BASE, AMHARIC, "extend")
TABLE = load_transliteration("am", AMHARIC)
SENTENCES, _ = normalised_texts(
    Normaliser(AMHARIC, TextConfig(language="am")), read_sentences(SAMPLE_SENTENCES)
)
FREE = set(free_rows(BASE))
SPOKEN = tuple(code for code in BASE.languages if code not in ("he", "ja", "ru", "zh"))
NEW = {c for token in IN_PLACE.rows for c in token if len(token) == 1}
OLD_TEXT = st.text(
    st.one_of(
        st.sampled_from(sorted({c for token in BASE.ids for c in token} | set(" .,!?"))),
        st.characters(exclude_categories=["Cs"]),
    ),
    min_size=1,
).filter(lambda text: text.strip() and not NEW.intersection(folded(text)) and "am]" not in text)


@pytest.mark.parametrize("placement", [IN_PLACE, EXTENDED], ids=["in_place", "extend"])
def test_no_character_of_the_sample_corpus_is_unknown(placement: Placement) -> None:
    tokenizer = placement.tokenizer
    assert len(SENTENCES) > 100
    for text in SENTENCES:
        ids = tokenizer.encode(text, "am")
        assert ids[:2] == [255, placement.rows["[am]"]] and ids[-1] == 0
        assert 1 not in ids and len(ids) >= len(text)
        before = BASE.encode_any(text, "ar")
        assert before.count(1) >= sum(c.isalpha() for c in text)


def test_in_place_keeps_the_number_of_rows() -> None:
    assert IN_PLACE.tokenizer.n_vocab == BASE.n_vocab == 2454
    assert EXTENDED.tokenizer.n_vocab == BASE.n_vocab + len(EXTENDED.rows)
    assert not EXTENDED.replaced
    assert sorted(IN_PLACE.replaced) == sorted(IN_PLACE.rows.values())
    assert IN_PLACE.replaced[IN_PLACE.rows["[am]"]].startswith("[PLACEHOLDER")
    kept = {t: i for t, i in BASE.ids.items() if i not in IN_PLACE.replaced}
    assert kept.items() <= IN_PLACE.tokenizer.ids.items()


@given(OLD_TEXT, st.sampled_from(SPOKEN))
def test_old_texts_keep_their_ids(text: str, language: str) -> None:
    expected = BASE.encode_any(text, language)
    assert IN_PLACE.tokenizer.encode_any(text, language) == expected
    assert EXTENDED.tokenizer.encode_any(text, language) == expected


@pytest.mark.parametrize("code", ["de", "es", "sw", "tr"])
def test_sentences_of_its_languages_keep_their_ids(code: str) -> None:
    texts = read_sentences(SAMPLE_SENTENCES.parents[1] / "base_texts" / f"{code}.txt.xz")
    assert len(texts) > 100
    for text in texts:
        expected = BASE.encode_any(text, code)
        assert IN_PLACE.tokenizer.encode_any(text, code) == expected
        assert EXTENDED.tokenizer.encode_any(text, code) == expected


@settings(max_examples=one_in(1))
@given(st.text(min_size=1).filter(str.strip), st.sampled_from(SPOKEN))
def test_no_text_reaches_a_free_row(text: str, language: str) -> None:
    assert not FREE.intersection(BASE.encode_any(text, language))


def test_each_token_alone_tells_which_rows_are_free() -> None:
    reached = {i for t in BASE.ids if t.strip() for i in BASE.encode_any(t, "en")}
    assert 400 < len(FREE) < 500 and not FREE & reached
    assert not {BASE.ids[c] for c in "AZ№ёй" if c in BASE.ids} & FREE


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Hello  there", "hello there."),
        ("so: this; that...", "so, this,  that,"),
        ("«é» – ﬁn?", "«é» - fin?"),
        ("ሰላም ለዓለም።", "ሰላም ለዓለም።."),
        ("wait…", "wait,"),
        ("one - two ,three", "one, two,three."),
    ],
)
def test_texts_are_read_as_the_package_reads_them(text: str, read: str) -> None:
    assert BASE.read(text) == unicodedata.normalize("NFD", read)


def test_the_english_model_reads_capitals() -> None:
    assert ENGLISH.read("hello") == "Hello."
    assert ENGLISH.encode("Hello")[1:-1] != ENGLISH.encode("hELLO")[1:-1]
    with pytest.raises(UserError, match="English alone"):
        place(ENGLISH, AMHARIC, "in_place")
    with pytest.raises(UserError, match="English alone"):
        ENGLISH.encode("hello", "de")


@pytest.mark.parametrize(
    ("text", "language", "says"),
    [
        ("ሰላም", "en", "no row for 'ሰ' 'ላ' 'ም'"),
        ("hello", "xx", "language 'xx' has no tag"),
        ("hello", None, "language None has no tag"),
        ("שלום", "he", "vowel signs"),
        ("  ", "en", "nothing to say"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, language: str | None, says: str) -> None:
    with pytest.raises(UserError, match=says):
        BASE.encode(text, language)


def test_languages_are_those_with_a_tag() -> None:
    assert {"ar", "en", "he", "sw", "zh"} < set(BASE.languages)
    assert not {"am", "cry", "sip"} & set(BASE.languages)
    assert "am" in IN_PLACE.tokenizer.languages and not ENGLISH.languages


def test_a_known_language_and_a_second_time_are_refused() -> None:
    with pytest.raises(UserError, match="one of the model's languages"):
        place(BASE, load_language("de"), "in_place")
    with pytest.raises(UserError, match="one of the model's languages"):
        place(IN_PLACE.tokenizer, AMHARIC, "in_place")


def test_a_related_language_finds_its_characters_there() -> None:
    both = place(EXTENDED.tokenizer, load_language("ti"), "extend")
    assert 1 < len(both.rows) < 60 and "ሰ" not in both.rows
    assert both.tokenizer.encode("ሰላም", "am") == EXTENDED.tokenizer.encode("ሰላም", "am")


@pytest.mark.parametrize("code", ["amharic", "AM", "sip"])
def test_a_code_that_would_be_no_tag_is_refused(code: str) -> None:
    with pytest.raises(UserError, match="two or three small letters"):
        place(BASE, AMHARIC.model_copy(update={"code": code}), "in_place")


def test_too_few_free_rows_are_refused() -> None:
    few = StockTokenizer(_without_rows())
    with pytest.raises(UserError, match="give --rows extend"):
        place(few, AMHARIC, "in_place")


def _without_rows() -> dict[str, object]:
    """The published JSON, whose precomposed rows have been taken by other scripts."""
    values = copy.deepcopy(dict(BASE.values))
    free = FREE - {BASE.ids[t] for t in BASE.ids if t.startswith("[")}
    private = iter(range(0xE000, 0xE800))
    vocabulary = {chr(next(private)) if i in free else t: i for t, i in BASE.ids.items()}
    return {**values, "model": {**values["model"], "vocab": vocabulary}}


@pytest.mark.parametrize("placement", [IN_PLACE, EXTENDED], ids=["in_place", "extend"])
def test_new_rows_start_from_what_spells_them(placement: Placement) -> None:
    weights = {name: torch.randn(BASE.n_vocab, 8) for name in TABLES} | {"other": torch.ones(3)}
    before = {name: tensor.clone() for name, tensor in weights.items()}
    started = start_rows(weights, BASE, placement, TABLE, "ar", seed=1)
    new = sorted(placement.rows.values())
    old = [i for i in range(BASE.n_vocab) if i not in new]
    for name in TABLES:
        assert torch.equal(started[name][old], before[name][old])
        assert torch.equal(weights[name], before[name])
        spells = spelled(BASE, placement, TABLE)
        assert spells["ሰ"] == [BASE.ids["se"]] and spells["።"] == [BASE.ids["."]]
        for token, ids in {"ሰ": spells["ሰ"], "ሸ": spells["ሸ"], "[am]": [BASE.ids["[ar]"]]}.items():
            apart = started[name][placement.rows[token]] - before[name][ids].mean(0)
            assert 0 < apart.norm() < 1
        assert len(started[name][new].unique(dim=0)) == len(new)
    assert started["other"] is weights["other"]
    with pytest.raises(UserError, match="--related xx"):
        start_rows(weights, BASE, placement, TABLE, "xx", seed=1)


def test_the_report_names_what_is_unknown_and_what_is_taken() -> None:
    lines = placed_lines(BASE, IN_PLACE, spelled(BASE, IN_PLACE, TABLE))
    assert "2454 rows become 2454" in lines[0] and lines[1] == "tag:     [am], row 695"
    assert "rows that no text reaches" in lines[3] and len(lines) == 4
    before = unknown_lines("before", BASE, SENTENCES)
    assert before[0].endswith(f"in {len(SENTENCES)} of {len(SENTENCES)} texts")
    after = unknown_lines("after", IN_PLACE.tokenizer, SENTENCES)
    assert len(after) == 1 and "0.00%" in after[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v["model"]["vocab"].pop("[SPACE]"), "ids have holes"),
        (lambda v: v["model"].update(type="Unigram"), "only BPE"),
        (lambda v: v["model"]["vocab"].update({"[STOP]": 5, "[UNK]": 0}), r"\[STOP\] has the id"),
    ],
)
def test_other_tokenizers_are_refused(change: object, says: str) -> None:
    values = copy.deepcopy(dict(BASE.values))
    assert callable(change)
    change(values)
    with pytest.raises(UserError, match=says):
        StockTokenizer(values)
