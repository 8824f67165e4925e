"""The tokenizer: ids, factors, and one JSON that holds all of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dimts.core.errors import UserError
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig, UnknownCharacters
from dimts.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def amharic() -> Tokenizer:
    return Tokenizer.from_language(load_language("am"), TextConfig(language="am"))


@pytest.fixture(scope="module")
def english() -> Tokenizer:
    return Tokenizer.from_language(load_language("en"), TextConfig(language="en"))


def test_vocabulary_is_specials_space_and_the_whole_alphabet(amharic: Tokenizer) -> None:
    assert amharic.tokens[:4] == ("<pad>", "<am>", "<eos>", " ")
    assert (amharic.pad_id, amharic.start_ids["am"], amharic.eos_id) == (0, 1, 2)
    assert set(amharic.tokens[4:]) == set(load_language("am").alphabet)
    assert amharic.n_vocab == len(amharic.tokens) == len(set(amharic.tokens))


def test_encode_normalises_and_decode_brings_it_back(amharic: Tokenizer) -> None:
    ids = amharic.encode("ሰላም፡ዓለም፡፡")
    assert ids[0] == amharic.start_ids["am"] and ids[-1] == amharic.eos_id
    assert amharic.decode(ids) == "ሰላም ዓለም።"
    assert amharic.encode_normalised("ሰላም ዓለም።") == ids
    everything = "".join(load_language("am").alphabet)
    assert amharic.decode(amharic.encode_normalised(everything)) == everything


def test_unknown_characters_and_ids_are_errors(amharic: Tokenizer) -> None:
    with pytest.raises(UnknownCharacters, match="LATIN SMALL LETTER X"):
        amharic.encode("ሰላም x")
    with pytest.raises(UnknownCharacters, match="DIGIT ONE"):
        amharic.encode_normalised("1")
    with pytest.raises(ValueError, match=str(amharic.n_vocab)):
        amharic.decode([1, amharic.n_vocab])
    with pytest.raises(ValueError, match="-1"):
        amharic.decode([-1])


def test_syllables_share_consonants_and_vowels(amharic: Tokenizer) -> None:
    def factors(letter: str) -> list[int]:
        return [int(f) for f in amharic.factors[amharic.encode_normalised(letter)[1]]]

    assert factors("በ")[0] == factors("ቡ")[0] == factors("ቧ")[0] != factors("ለ")[0]
    assert factors("ቡ")[1] == factors("ሉ")[1] != factors("ሊ")[1]
    assert factors("ሰ") == factors("ሠ")
    assert factors("ሀ") == factors("ሃ") == factors("ሐ") == factors("ኃ") != factors("ኸ")
    assert factors("አ")[1] == factors("ማ")[1]
    assert factors("።") == factors(" ") == [0, 0]


def test_factors_fit_their_sizes(amharic: Tokenizer, english: Tokenizer) -> None:
    assert amharic.factors.shape == (amharic.n_vocab, 2)
    assert amharic.factors.dtype == np.int64
    assert tuple(amharic.factors.max(axis=0) + 1) == amharic.factor_sizes
    assert (amharic.factors[:4] == 0).all()
    assert english.factors.shape == (english.n_vocab, 0)
    assert english.factor_sizes == ()


def test_pauses_go_to_space_punctuation_and_the_ends(english: Tokenizer) -> None:
    assert {english.tokens[i] for i in english.pause_ids} == {"<en>", "<eos>", " ", *".,?!;:"}
    assert [english.tokens[i] for i in english.space_ids] == [" "]


@pytest.mark.parametrize("name", ["amharic", "english"])
def test_the_json_is_the_whole_tokenizer(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded == tokenizer
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (loaded.factors == tokenizer.factors).all()
    raw = "በ1983 ዓ.ም." if name == "amharic" else "Press 1 for DTMF."
    assert loaded.encode(raw) == tokenizer.encode(raw)


def test_several_languages_share_characters_and_differ_in_their_start() -> None:
    codes = ("es", "sw", "am")
    languages = [load_language(code) for code in codes]
    several = Tokenizer.from_languages(
        [(language, TextConfig(language=language.code)) for language in languages]
    )
    assert several.tokens[:6] == ("<pad>", "<es>", "<eos>", "<sw>", "<am>", " ")
    assert several.languages == codes and several.languages[-1] == "am"
    characters = [c for language in languages for c in language.alphabet]
    assert several.tokens[6:] == tuple(dict.fromkeys(characters)) != tuple(characters)
    spanish, swahili = (several.encode("moja sana", code) for code in ("es", "sw"))
    assert spanish[1:] == swahili[1:]
    assert (spanish[0], swahili[0]) == (1, 3)
    assert several.encode("ሰላም") == several.encode("ሰላም", "am")
    assert several.encode_normalised("ሰላም hola", "sw")[0] == 3, "texts may mix the scripts"
    marks = {"<es>", "<sw>", "<am>", "<eos>", " "}
    marks |= {mark for language in languages for mark in language.punctuation}
    assert {several.tokens[i] for i in several.pause_ids} == marks
    assert len(several.pause_ids) == len(marks)
    assert {several.tokens[i] for i in several.special_ids} == set(several.tokens[:5])
    assert several.decode(several.encode("Hola.", "es")) == "hola."


def test_each_language_has_its_own_normaliser() -> None:
    several = Tokenizer.from_languages(
        [(load_language(code), TextConfig(language=code)) for code in ("en", "am")]
    )
    assert several.decode(several.encode("2", "en")) == "two"
    assert several.decode(several.encode("2")) == "ሁለት"
    with pytest.raises(UnknownCharacters, match="አማርኛ"):
        several.encode("two", "am")
    with pytest.raises(UserError, match="'sw' is not one of this voice's: en, am"):
        several.encode("moja", "sw")


def test_factors_of_the_first_language_stay_where_more_are_known(amharic: Tokenizer) -> None:
    several = Tokenizer.from_languages(
        [(load_language(code), TextConfig(language=code)) for code in ("en", "am")]
    )
    assert several.factor_sizes == amharic.factor_sizes
    for letter in load_language("am").alphabet:
        ids = several.tokens.index(letter), amharic.tokens.index(letter)
        assert (several.factors[ids[0]] == amharic.factors[ids[1]]).all()


def test_settings_change_the_fingerprint(amharic: Tokenizer, english: Tokenizer) -> None:
    config = TextConfig(language="am", fold_homophones=True)
    folded = Tokenizer.from_language(load_language("am"), config)
    assert len({amharic.fingerprint, folded.fingerprint, english.fingerprint}) == 3
    assert folded != amharic


def test_files_that_are_no_tokenizer_are_refused_in_one_line(
    english: Tokenizer, tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    english.save(file)
    good = json.loads(file.read_text(encoding="utf-8"))
    tokens = good["tokens"]
    for broken, message in [
        (good | {"version": 1}, "made by an older dimts"),
        (good | {"version": 3}, "version"),
        (good | {"format": "other"}, "format"),
        (good | {"tokens": tokens[1:]}, "must begin with <pad>"),
        (good | {"tokens": [*tokens, "a"]}, "twice"),
        (good | {"tokens": [*tokens, "ab"]}, "not one character"),
        (good | {"tokens": tokens[:-1]}, "is missing"),
        (good | {"extra": 1}, "extra"),
        ([], "file"),
    ]:
        file.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(UserError, match=message) as error:
            Tokenizer.load(file)
        assert str(file) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="no-such"):
        Tokenizer.load(tmp_path / "no-such.json")
