"""Hugging Face's tokenizer.json, read, extended, written, and loaded by `tokenizers`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from examples import one_in
from huggingface_fixtures import JSON, LETTERS, SPECIALS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from dimts.core.errors import UserError
from dimts.text.huggingface import (
    read_huggingface,
    read_tokenizer,
    to_huggingface,
    write_huggingface,
)
from dimts.text.language import load_language
from dimts.text.merging import merge
from dimts.text.normaliser import TextConfig, UnknownCharacters
from dimts.text.tokenizer import Tokenizer

AMHARIC = load_language("am")
AM = TextConfig(language="am")


def load(values: dict[str, Any]) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(values))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file = tmp_path_factory.mktemp("base") / "tokenizer.json"
    file.write_text(json.dumps(JSON))
    return read_huggingface(file)


@pytest.fixture(scope="module")
def merged(base: Tokenizer) -> Tokenizer:
    texts = ["ሰላም ለዓለም። ሰላም ነው!", "ዓለም ሰላም ነው።"]
    return merge(base, AMHARIC, AM, 8, texts)


@pytest.fixture(scope="module")
def loaded(merged: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    file = tmp_path_factory.mktemp("merged") / "huggingface_tokenizer.json"
    write_huggingface(merged, file)
    return tokenizers.Tokenizer.from_file(str(file))


def test_file_is_read_with_its_ids(base: Tokenizer) -> None:
    assert base.tokens[:6] == tuple(SPECIALS)
    assert base.n_vocab == load(JSON).get_vocab_size() > len(LETTERS)
    assert (base.eos_id, base.space_ids, base.pad_id) == (0, (2,), None)
    assert base.languages == ()
    text = "the cat, el niño"
    assert base.segment(text) == load(JSON).encode(text.replace(" ", "[SPACE]")).ids
    assert base.decode(base.segment(text)) == text
    with pytest.raises(UserError, match="knows no language yet"):
        base.encode(text)


@given(text=st.text(LETTERS, max_size=60), mark=st.sampled_from(["", "[en]", "[START][es]"]))
@settings(max_examples=one_in(2))
def test_base_texts_keep_their_very_ids(
    loaded: tokenizers.Tokenizer, merged: Tokenizer, text: str, mark: str
) -> None:
    written = mark + text.replace(" ", "[SPACE]")
    ids = load(JSON).encode(written).ids
    assert loaded.encode(written).ids == ids
    if not mark:
        assert merged.segment(text) == ids
        assert merged.decode(ids) == text


@given(text=st.text([*AMHARIC.alphabet, " ", "a", "."], min_size=1, max_size=40))
@settings(max_examples=one_in(4))
def test_new_texts_have_ids_of_their_own(
    loaded: tokenizers.Tokenizer, merged: Tokenizer, base: Tokenizer, text: str
) -> None:
    ids = merged.encode_normalised(text)
    written = f"[am]{text.replace(' ', '[SPACE]')}[STOP]"
    assert loaded.encode(written).ids == ids
    assert "[UNK]" not in loaded.encode(written).tokens
    for index in ids[1:-1]:
        is_new = any(not base.knows(c) for c in merged.decode([index]))
        assert (index >= base.n_vocab) == is_new
    assert merged.decode(ids) == text


def test_new_language_follows_the_base(merged: Tokenizer, base: Tokenizer) -> None:
    assert merged.tokens[: base.n_vocab] == base.tokens
    assert merged.start_ids == {"am": base.n_vocab}
    assert merged.tokens[base.n_vocab] == "[am]", "written as the base writes its own"
    assert merged.n_base == base.n_vocab
    ids = merged.encode("ሰላም ለዓለም፡፡")
    assert ids[0] == base.n_vocab and ids[-1] == 0
    with pytest.raises(UnknownCharacters):
        merged.encode_normalised("ሰላም Ж")


def test_language_that_the_base_names_keeps_its_start_token(base: Tokenizer) -> None:
    spanish = merge(base, load_language("es"), TextConfig(language="es"))
    assert spanish.start_ids == {"es": SPECIALS.index("[es]")}
    assert "[es]" not in spanish.tokens[base.n_vocab :]


def test_ids_hold_where_added_tokens_stand_outside_the_model(tmp_path: Path) -> None:
    """`tokenizers` numbers such tokens behind the model's, which has grown."""
    values = copy.deepcopy(JSON)
    n = len(values["model"]["vocab"])
    values["added_tokens"].append(values["added_tokens"][4] | {"id": n, "content": "[fr]"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    base = read_huggingface(tmp_path / "tokenizer.json")
    assert base.tokens[n] == "[fr]"
    extended = load(to_huggingface(merge(base, AMHARIC, AM)))
    assert extended.token_to_id("[fr]") == n
    assert extended.token_to_id("[am]") == n + 1
    assert extended.encode("[fr]the").ids == load(values).encode("[fr]the").ids


def test_merges_written_as_text_stay_so(tmp_path: Path) -> None:
    values = copy.deepcopy(JSON)
    values["model"]["merges"] = [" ".join(pair) for pair in values["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    base = read_huggingface(tmp_path / "tokenizer.json")
    merged = merge(base, AMHARIC, AM, 3, ["ሰላም ሰላም"])
    assert merged.segment("the") == base.segment("the") == load(JSON).encode("the").ids
    assert len(merged.segment("ሰላም")) == 1


def test_holes_among_the_ids_are_kept(tmp_path: Path) -> None:
    values = copy.deepcopy(JSON)
    n = len(values["model"]["vocab"])
    values["model"]["vocab"]["ж"] = n + 2
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    base = read_huggingface(tmp_path / "tokenizer.json")
    assert base.n_vocab == n + 3
    merged = merge(base, AMHARIC, AM)
    assert merged.start_ids["am"] == n + 3
    assert merged.segment("ж") == [n + 2]


def test_saved_and_loaded_it_is_the_same(
    merged: Tokenizer, base: Tokenizer, tmp_path: Path
) -> None:
    for tokenizer in (base, merged):
        tokenizer.save(tmp_path / "tokenizer.json")
        again = read_tokenizer(tmp_path / "tokenizer.json")
        assert again == tokenizer and again.fingerprint == tokenizer.fingerprint
        assert to_huggingface(again) == to_huggingface(tokenizer)
    assert again.encode("ሰላም ነው።") == merged.encode("ሰላም ነው።")


@given(data=st.data())
@settings(max_examples=one_in(8), suppress_health_check=[HealthCheck.too_slow])
def test_our_own_tokenizer_is_loaded_by_hugging_face(data: st.DataObject) -> None:
    alphabet = [t for i, t in enumerate(OURS.tokens) if i not in OURS.special_ids]
    text = data.draw(st.text(alphabet, max_size=60))
    code = data.draw(st.sampled_from(OURS.languages))
    encoded = OURS_LOADED.encode(f"<{code}>{text}<eos>")
    assert encoded.ids == OURS.encode_normalised(text, code)
    assert OURS_LOADED.decode(encoded.ids) == text


OURS = merge(
    Tokenizer.from_languages([(load_language(c), TextConfig(language=c)) for c in ("en", "es")]),
    AMHARIC,
    AM,
)
OURS_LOADED = load(to_huggingface(OURS))


def changed(**parts: Any) -> dict[str, Any]:
    return {**copy.deepcopy(JSON), **parts}


def with_model(**parts: Any) -> dict[str, Any]:
    return changed(model={**copy.deepcopy(JSON["model"]), **parts})


def other_model(model: Any) -> dict[str, Any]:
    return json.loads(tokenizers.Tokenizer(model).to_str())


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
IN_SEQUENCE = {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [REPLACE]}]}
LAST = max(JSON["model"]["vocab"].values()) + 1


def byte_level() -> dict[str, Any]:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    return json.loads(tokenizer.to_str())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: other_model(models.WordPiece()), "a WordPiece tokenizer; only BPE"),
        (lambda: other_model(models.Unigram()), "a Unigram tokenizer; only BPE"),
        (byte_level, "its pre_tokenizer is ByteLevel"),
        (lambda: changed(normalizer={"type": "Metaspace"}), "its normalizer is Metaspace"),
        (lambda: changed(model=None), "it has no model"),
        (lambda: {}, "it has no model"),
        (lambda: [], "no object of keys"),
        (lambda: with_model(vocab=None), "null, expected a map"),
        (lambda: with_model(vocab={"a": -1}), "integer `-1`, expected u32"),
        (lambda: with_model(vocab={"a": 10**12}, merges=[]), "expected u32"),
        (lambda: with_model(vocab={"a": 10**9}, merges=[], unk_token=None), "too many holes"),
        (lambda: with_model(vocab={"a": 0, "b": 0}, merges=[]), "share id 0"),
        (lambda: with_model(dropout=0.1), "model.dropout is set"),
        (lambda: with_model(end_of_word_suffix="</w>"), "model.end_of_word_suffix is set"),
        (lambda: with_model(merges=[["a", "zoo"]]), "zoo"),
        (lambda: changed(added_tokens=[1]), "integer `1`, expected struct AddedToken"),
        (lambda: changed(added_tokens=[{}]), "missing field `id`"),
        (lambda: changed(normalizer=IN_SEQUENCE), "its normalizer is Replace, which is not read"),
        (
            lambda: with_model(vocab={**JSON["model"]["vocab"], "x" * 1001: LAST}),
            "a token has more than 1000 characters",
        ),
        (lambda: changed(pre_tokenizer={"type": "Evil"}), "Evil|pre_tokenizer|data did not match"),
        (
            lambda: (
                with_model(vocab={"a": 0, "[SPACE]": 1}, merges=[], unk_token=None)
                | {"added_tokens": []}
            ),
            "no token for the end of a text",
        ),
        (
            lambda: (
                with_model(
                    vocab={"a": 0, " ": 1, "[STOP]": 2, "[UNK]": 3}, merges=[], unk_token="[UNK]"
                )
                | {"added_tokens": []}
            ),
            "does not come back",
        ),
    ],
)
def test_files_that_cannot_be_extended_are_refused_in_one_line(
    make: Callable[[], Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(make()))
    with pytest.raises(UserError, match=message) as caught:
        read_tokenizer(file)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        {"added_tokens": [1]},
        {"added_tokens": [{}]},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"model": None},
    ],
)
def test_our_own_file_with_a_damaged_segmentation_is_refused_in_one_line(
    merged: Tokenizer, damage: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    merged.save(file)
    values = json.loads(file.read_text(encoding="utf-8"))
    values["huggingface"] |= damage
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UserError, match="not a tokenizer: huggingface: ") as error:
        Tokenizer.load(file)
    assert "\n" not in str(error.value)


def test_base_with_syllables_as_mere_letters_is_refused(tmp_path: Path) -> None:
    values = with_model(vocab={**JSON["model"]["vocab"], "ሰ": len(JSON["model"]["vocab"])})
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="the base has ሰ of አማርኛ without consonant and vowel"):
        merge(read_huggingface(tmp_path / "tokenizer.json"), AMHARIC, AM)


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"[" * 100_000, b""])
def test_files_that_are_no_json_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match="not a tokenizer"):
        read_tokenizer(tmp_path / "x.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_tokenizer(tmp_path / "none.json")


def test_letters_that_the_base_takes_apart_are_refused(tmp_path: Path) -> None:
    values = changed(normalizer={"type": "NFKD"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    base = read_huggingface(tmp_path / "tokenizer.json")
    assert merge(base, AMHARIC, AM).encode("ሰላም")
    with pytest.raises(UserError, match=r"normaliser changes .*ü"):
        merge(base, load_language("de"), TextConfig(language="de"))
