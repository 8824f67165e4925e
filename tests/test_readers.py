"""Reading LJSpeech folders, good and bad."""

from __future__ import annotations

from pathlib import Path

import pytest
from prepare_fixtures import add_row

from data_prep.readers import read_corpus
from data_prep.utterance import Reason, Rejected, Utterance
from dimts.core.errors import UserError
from dimts.features.config import CorpusConfig


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three audio files and no rows yet."""
    folder = tmp_path / "corpus"
    (folder / "wavs").mkdir(parents=True)
    for name in ("a.wav", "b.wav", "c.flac"):
        (folder / "wavs" / name).write_bytes(b"audio")
    (folder / "metadata.csv").touch()
    return folder


def read(corpus: Path) -> list[Utterance | Rejected]:
    config = CorpusConfig(path=corpus, reader="ljspeech", speaker="abebe")
    return read_corpus(config, "am")[0]


def only(corpus: Path) -> Utterance:
    (row,) = read(corpus)
    assert isinstance(row, Utterance)
    return row


def refused(corpus: Path) -> list[tuple[int, str, Reason]]:
    return [(r.row, r.id, r.reason) for r in read(corpus) if isinstance(r, Rejected)]


def test_a_row_becomes_an_utterance(corpus: Path) -> None:
    add_row(corpus, "a|ሰላም")
    assert only(corpus) == Utterance("a", Path("wavs/a.wav"), "ሰላም", "abebe", "am", row=1)


def test_third_column_is_preferred_unless_empty(corpus: Path) -> None:
    add_row(corpus, "a|5 ብር|አምስት ብር")
    add_row(corpus, "b|ሰላም|")
    assert [row.text for row in read(corpus) if isinstance(row, Utterance)] == ["አምስት ብር", "ሰላም"]


@pytest.mark.parametrize("name", ["a", "a.wav", " a.wav "])
def test_file_is_named_with_or_without_suffix(corpus: Path, name: str) -> None:
    add_row(corpus, f"{name}|ሰላም")
    assert only(corpus).id == "a"


def test_other_formats_and_dots_in_names(corpus: Path) -> None:
    (corpus / "wavs" / "s1.take2.wav").write_bytes(b"audio")
    (corpus / "wavs" / "d.ogg").write_bytes(b"audio")
    (corpus / "wavs" / "e.mp3").write_bytes(b"audio")
    for name in ("c", "s1.take2", "d", "e"):
        add_row(corpus, f"{name}|ሰላም")
    assert [row.id for row in read(corpus)] == ["c", "s1.take2", "d", "e"]
    assert refused(corpus) == []


@pytest.mark.parametrize("newline", [b"\r\n", b"\r", b"\n"])
def test_bom_and_line_endings(corpus: Path, newline: bytes) -> None:
    lines = ["a|ሰላም".encode(), b"", "b|ቡና".encode(), b""]
    (corpus / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + newline.join(lines))
    assert [(row.id, row.row) for row in read(corpus)] == [("a", 1), ("b", 3)]


def test_text_with_unicode_line_separator_is_one_row(corpus: Path) -> None:
    add_row(corpus, "a|ሰላም\u2028ነው")
    assert only(corpus).text == "ሰላም\u2028ነው"


def test_each_bad_row_is_named_with_its_reason(corpus: Path) -> None:
    (corpus / "secret.wav").write_bytes(b"audio")
    (corpus.parent / "outside.wav").write_bytes(b"audio")
    (corpus / "wavs" / "link.wav").symlink_to(corpus.parent / "outside.wav")
    (corpus / "wavs" / "folder.wav").mkdir()
    rows: list[tuple[str | bytes, str, Reason]] = [
        ("a|", "a", Reason.EMPTY_TEXT),
        ("a|  |  ", "a", Reason.EMPTY_TEXT),
        ("nowhere|ሰላም", "nowhere", Reason.MISSING_FILE),
        ("folder|ሰላም", "folder", Reason.NOT_A_FILE),
        ("nul\0|ሰላም", "nul\0", Reason.UNPRINTABLE_ID),
        ("x" * 300 + "|ሰላም", "x" * 300, Reason.MISSING_FILE),
        ("a", "a", Reason.WRONG_COLUMN_COUNT),
        ("a|b|c|d", "a", Reason.WRONG_COLUMN_COUNT),
        ("|ሰላም", "", Reason.EMPTY_ID),
        (b"a|caf\xe9", "a", Reason.UNDECODABLE_LINE),
        (f"{corpus.parent}/outside.wav|ሰላም", f"{corpus.parent}/outside", Reason.OUTSIDE_CORPUS),
        ("../../outside|ሰላም", "../../outside", Reason.OUTSIDE_CORPUS),
        ("../secret|ሰላም", "../secret", Reason.OUTSIDE_CORPUS),
        ("link|ሰላም", "link", Reason.OUTSIDE_CORPUS),
    ]
    for line, _, _ in rows:
        add_row(corpus, line)
    add_row(corpus, "b|ሰላም")
    expected = [(n, name, reason) for n, (_, name, reason) in enumerate(rows, start=1)]
    assert refused(corpus) == expected
    assert [row.id for row in read(corpus) if isinstance(row, Utterance)] == ["b"]


def test_first_usable_row_of_an_id_stays(corpus: Path) -> None:
    for line in ("a|", "a|አንድ", "a.wav|ሁለት"):
        add_row(corpus, line)
    assert [row.text for row in read(corpus) if isinstance(row, Utterance)] == ["አንድ"]
    assert refused(corpus)[1] == (3, "a", Reason.DUPLICATE_ID)
    assert "row 2" in [row.detail for row in read(corpus) if isinstance(row, Rejected)][1]


def test_link_inside_the_corpus_is_followed(corpus: Path) -> None:
    (corpus / "wavs" / "again.wav").symlink_to("a.wav")
    add_row(corpus, "again|ሰላም")
    assert only(corpus).id == "again"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda c: c.rename(c.with_name("gone")), "no such corpus folder"),
        (lambda c: (c / "metadata.csv").unlink(), "metadata.csv: no such file"),
        (lambda c: (c / "metadata.csv").write_bytes("a|b".encode("utf-16")), "save it as UTF-8"),
    ],
)
def test_no_corpus_is_one_line(corpus: Path, break_it: object, message: str) -> None:
    assert callable(break_it)
    break_it(corpus)
    with pytest.raises(UserError, match=message) as error:
        read(corpus)
    assert "\n" not in str(error.value)
