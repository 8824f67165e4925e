"""Long texts are cut where a reader would pause."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from voice_fixtures import untrained, write_voice

from benchmarks import pieces as benchmark
from dimts.text.pieces import CLAUSE_PAUSE, MAX_PIECE, SENTENCE_PAUSE, Piece, pieces

MARKS = "?!።፤፦፥፣"


def test_short_text_is_one_piece() -> None:
    text = "ሰላም። እንዴት ነህ?"
    assert list(pieces(text, MARKS)) == [Piece(text, 0)]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("aa. bb, cc? dd ee ff", [("aa. bb, cc?", SENTENCE_PAUSE), ("dd ee ff.", 0)]),
        ("aa bb, cc, dd ee ff", [("aa bb, cc,", CLAUSE_PAUSE), ("dd ee ff.", 0)]),
        ("aa bb cc dd ee ff", [("aa bb cc dd", 0), ("ee ff.", 0)]),
        ("a" * 15, [("a" * 12, 0), ("aaa.", 0)]),
        ("aa bb cc dd. e", [("aa bb cc dd.", SENTENCE_PAUSE), ("e.", 0)]),
    ],
)
def test_longer_text_is_cut_at_the_strongest_mark(text: str, cut: list[tuple[str, float]]) -> None:
    assert list(pieces(text, "?!.,", longest=12)) == cut


@pytest.mark.parametrize(
    ("text", "marks", "ends"),
    [
        ("ሰላም", MARKS, "።"),
        ("ሰላም?", MARKS, "?"),
        ("ሰላም፣", MARKS, "፣"),
        ("hi", "!", "i"),
        ("hi", ".", "."),
    ],
)
def test_text_ends_with_a_mark(text: str, marks: str, ends: str) -> None:
    (piece,) = pieces(text, marks)
    assert piece.text[-1] == ends


@given(st.lists(st.sampled_from(["ሰላም", "ዓለም።", "ነው፣", "ሀ" * 400, "ለ"]), min_size=1, max_size=200))
def test_no_piece_is_too_long_and_no_letter_is_lost(words: list[str]) -> None:
    text = " ".join(words) + "።"
    cut = list(pieces(text, MARKS))
    assert all(0 < len(piece.text) <= MAX_PIECE for piece in cut)
    assert "".join(piece.text for piece in cut).replace(" ", "") == text.replace(" ", "")


def test_the_benchmark_speaks_the_same_one_by_one_and_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voice = write_voice(tmp_path / "voice", untrained())
    sentences = tmp_path / "am.txt"
    sentences.write_text("ሰላም ነው።\n" * 100, encoding="utf-8")
    options = ["--language", "am", "--pieces", "2", "--repeats", "1"]
    benchmark.main(["--model", str(voice), "--sentences", str(sentences), *options])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:4]]
    assert [int(row[0]) for row in rows] == [1, 2]
    assert float(rows[1][2]) < 1e-4
