"""Long recordings: texts in several forms, rough places, and what is cut out of joined speech."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from benchmarks.segment import Truth, join, rate
from data_prep.readers import read_corpus
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.recipes.espeak import SAMPLE_SENTENCES, render_corpus
from data_prep.segment.cut import CutConfig
from data_prep.segment.rough import find_roughly
from data_prep.segment.run import LEFT_OUT, WORK, Segmented, SegmentSettings, segment
from data_prep.segment.texts import Part, read_parts, recordings_with_texts
from data_prep.utterance import Utterance
from dimts.audio.files import write_wav
from dimts.cli import main
from dimts.core.errors import UserError
from dimts.features.config import CorpusConfig
from dimts.text.normaliser import TextConfig

SRT = """1
00:00:01,500 --> 00:00:04,000
Hello there.

2
00:01:00,000 --> 00:01:02,000
<i>How are
you?</i>
"""
LONG_TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"
xmin = 0
xmax = 5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 5
        intervals: size = 2
        intervals [1]:
            xmin = 1.5
            xmax = 2
            text = "Hello"
        intervals [2]:
            xmin = 2
            xmax = 3
            text = "there"
    item [2]:
        class = "IntervalTier"
        name = "sentences"
        xmin = 0
        xmax = 5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 1.5
            text = ""
        intervals [2]:
            xmin = 1.5
            xmax = 4
            text = "Hello there."
        intervals [3]:
            xmin = 60
            xmax = 62
            text = "How are ""you""?"
"""
SHORT_TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
5
<exists>
2
"TextTier"
"clicks"
0
5
1
2.5
"a very long remark about a click in the recording"
"IntervalTier"
"text"
0
5
2
1.5
4
"Hello there."
60
62
"How are you?"
"""
LABELS = "1.500000\t4.000000\tHello there.\n\\\t0\t100\n60,0\t62,0\tHow are you?\n5\t6\t\n"


def folder_of(path: Path) -> CorpusFolder:
    return CorpusFolder(CorpusConfig(path=path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("talk.srt", SRT.encode()),
        ("talk.TextGrid", LONG_TEXTGRID.replace('""you""', "you").encode("utf-16")),
        ("talk.TextGrid", SHORT_TEXTGRID.encode()),
        ("talk.txt", LABELS.encode()),
        ("talk.csv", b"start,end,text\n1.5,4,Hello there.\n0:01:00,62,How are you?\n"),
    ],
)
def test_texts_with_times_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_parts(folder_of(tmp_path), name) == [
        Part("Hello there.", True, 1.5),
        Part("How are you?", True, 60.0),
    ]


def test_cues_without_times_are_listed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-3, 16_000).astype(np.float32)
    write_wav(tmp_path / "in" / "talk.wav", noise, 16_000)
    srt = "1\n00:00:0x --> 00:00:02,000\nሰላም ነው።\n"
    (tmp_path / "in" / "talk.srt").write_text(srt, encoding="utf-8")
    with pytest.raises(UserError, match="nothing of the texts was found"):
        segment(settings(tmp_path / "in"), tmp_path / "out", on_ray=False)
    with (tmp_path / "out" / LEFT_OUT).open(encoding="utf-8", newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["reason"], row["recording"]) == ("unreadable_cue", "talk.wav")
    assert row["what"] == "line 2: 00:00:0x --> 00:00:02,000 are no times"


def test_what_cannot_be_read_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "talk.m4a").write_bytes(b"\0\0\0\x18ftypM4A junk")
    (tmp_path / "in" / "talk.txt").write_text("ሰላም ነው።\n" * 6, encoding="utf-8")
    with pytest.raises(UserError, match="nothing of the texts was found"):
        segment(settings(tmp_path / "in"), tmp_path / "out", on_ray=False)
    assert ",cannot be read: " in (tmp_path / "out" / LEFT_OUT).read_text(encoding="utf-8")
    assert not [*(tmp_path / "out" / WORK).glob("*.json")]


def test_table_without_times_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "talk.csv").write_text("text,speaker\nHello there.,a\n")
    with pytest.raises(UserError, match=r"talk\.csv: needs the columns start, end and text"):
        read_parts(folder_of(tmp_path), "talk.csv")


def test_plain_text_is_cut_into_sentences_and_long_ones_into_clauses(tmp_path: Path) -> None:
    clause = "a clause of some forty letters or a few more"
    (tmp_path / "talk.txt").write_text(
        f'One costs 3.5 birr. "Two?" Three\n\nሰላም ነው።እንዴት ነህ፡፡ ደህና\n{clause}, {clause}, {clause}.\n'
        + "word " * 30,
        encoding="utf-8",
    )
    parts = read_parts(folder_of(tmp_path), "talk.txt")
    texts = [part.text for part in parts]
    assert texts[:6] == ["One costs 3.5 birr.", '"Two?"', "Three", "ሰላም ነው።", "እንዴት ነህ፡፡", "ደህና"]
    assert [(p.text, p.ends) for p in parts[6:9]] == [
        (f"{clause},", False), (f"{clause},", False), (f"{clause}.", True),
    ]  # fmt: skip
    assert [len(part.text.split()) for part in parts[9:]] == [18, 12]
    assert all(math.isnan(part.time) for part in parts)


def test_recordings_are_paired_with_texts_of_their_names(tmp_path: Path) -> None:
    for name in ("a.wav", "a.srt", "b.mp3", "b.am.vtt", "c.wav", "other.txt"):
        (tmp_path / name).touch()
    assert recordings_with_texts(folder_of(tmp_path)) == (
        {"a.wav": "a.srt", "b.mp3": "b.am.vtt"},
        ["c.wav"],
    )
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"a\.wav: has several texts \(a\.srt, a\.txt\)"):
        recordings_with_texts(folder_of(tmp_path))


def test_sentences_are_found_roughly_by_their_lengths() -> None:
    rng = np.random.default_rng(0)
    letters = rng.integers(10, 90, 60).astype(float)
    spoken = [n for n in range(60) if not 20 <= n < 26]
    islands, owners, at = [], [], 1.0
    for n in spoken:
        seconds = letters[n] / 14 * rng.uniform(0.9, 1.1)
        for share in rng.dirichlet([8.0] * rng.integers(1, 3)):
            islands.append((at, at + seconds * share))
            owners.append(n)
            at = islands[-1][1] + 0.15
        at += rng.uniform(0.1, 1.5)
        if n in (10, 40):  # a jingle
            islands.append((at, at + 20))
            owners.append(-1)
            at += 21
    found = find_roughly(letters, np.array(islands), np.full(60, np.nan)).islands_N2
    right = sum(owners[a] == n == owners[b - 1] for n, (a, b) in enumerate(found) if a < b)
    assert right >= 0.7 * len(spoken)


def settings(recordings: Path, language: str = "am") -> SegmentSettings:
    return SegmentSettings(recordings, TextConfig(language=language), CutConfig())


@pytest.fixture(scope="module")
def joined(
    spoken_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Truth]]:
    """Two minutes of espeak with music, and a sentence in the text that is not spoken."""
    folder = tmp_path_factory.mktemp("joined")
    truths = join(folder, "talk", spoken_corpus, "am", 2.0, music_every=60.0)
    text = folder / "talk.txt"
    lines = text.read_text(encoding="utf-8").splitlines()
    lines.insert(15, "ይህ ዓረፍተ ነገር በቀረጻው ውስጥ ፈጽሞ አይሰማም።")
    text.write_text("\n".join(lines), encoding="utf-8")
    return folder, truths


@pytest.fixture(scope="module")
def segmented(
    joined: tuple[Path, list[Truth]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Segmented]:
    """What the command has made, and the same as it is read again."""
    out = tmp_path_factory.mktemp("corpus")
    command = ["dimts", "segment", "--recordings", str(joined[0]), "--language", "am"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", [*command, "--out", str(out)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    made = segment(settings(joined[0]), out, on_ray=False)
    assert f"utterances  {len(made.pieces['talk.wav'])}, " in printed.getvalue()
    return out, made


def test_utterances_are_cut_out_of_a_recording(
    joined: tuple[Path, list[Truth]], segmented: tuple[Path, Segmented]
) -> None:
    recovered, wrong, border, worst_cut = rate(joined[1], segmented[1].pieces["talk.wav"])
    assert recovered >= 0.9
    assert wrong <= 2
    assert border < 0.06
    assert worst_cut <= 0.05


def test_what_is_in_text_or_sound_alone_is_listed(segmented: tuple[Path, Segmented]) -> None:
    with (segmented[0] / LEFT_OUT).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert any("አይሰማም" in row["what"] for row in rows)
    music = [row for row in rows if row["reason"] == "no_text"]
    assert sum(float(row["to"]) - float(row["from"]) for row in music) > 10


def test_the_corpus_is_read_as_it_is(segmented: tuple[Path, Segmented]) -> None:
    out, made = segmented
    rows, _ = read_corpus(CorpusConfig(path=out), "am")
    assert [(row.start, row.end, row.text) for row in rows if isinstance(row, Utterance)] == [
        (piece.start, piece.end, piece.text) for piece in made.pieces["talk.wav"]
    ]
    assert all(
        1.5 <= (row.end or 0) - row.start <= 12 for row in rows if isinstance(row, Utterance)
    )


def test_a_recording_is_cut_once(
    joined: tuple[Path, list[Truth]], segmented: tuple[Path, Segmented]
) -> None:
    out, made = segmented
    [result] = (out / WORK).glob("*.json")
    stored = json.loads(result.read_text(encoding="utf-8"))
    stored["pieces"] = stored["pieces"][:3]
    result.write_text(json.dumps(stored), encoding="utf-8")
    again = segment(settings(joined[0]), out, on_ray=False)
    assert again.pieces["talk.wav"] == made.pieces["talk.wav"][:3]


def test_the_text_of_another_hour_is_left_out(
    joined: tuple[Path, list[Truth]], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "talk.wav").write_bytes((joined[0] / "talk.wav").read_bytes())
    lines = (joined[0] / "talk.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "in" / "talk.txt").write_text("\n".join(reversed(lines)), encoding="utf-8")
    with pytest.raises(UserError, match="nothing of the texts was found"):
        segment(settings(tmp_path / "in"), tmp_path / "out", on_ray=False)


def test_texts_of_nothing_that_is_spoken_end_in_one_line(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-3, 48_000).astype(np.float32)
    write_wav(tmp_path / "in" / "a.wav", noise, 16_000)
    with pytest.raises(UserError, match="no recording has a text of the same name"):
        segment(settings(tmp_path / "in"), tmp_path / "out")
    (tmp_path / "in" / "a.txt").write_text("ሰላም ነው።\nእንዴት ነህ?\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"nothing of the texts was found .* See .*left_out\.csv"):
        segment(settings(tmp_path / "in"), tmp_path / "out", on_ray=False)
    assert "too_few_sentences" in (tmp_path / "out" / LEFT_OUT).read_text(encoding="utf-8")


def test_ray_cuts_the_same(
    ray_session: None, joined: tuple[Path, list[Truth]], segmented: tuple[Path, Segmented],
    tmp_path: Path,
) -> None:  # fmt: skip
    for name in ("talk.wav", "talk.txt"):
        (tmp_path / "in" / "b").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes((joined[0] / name).read_bytes())
        (tmp_path / "in" / "b" / name).write_bytes((joined[0] / name).read_bytes())
    made = segment(settings(tmp_path / "in"), tmp_path / "out")
    first, second = made.pieces["talk.wav"], made.pieces["b/talk.wav"]
    assert first == second
    assert first[:3] == segmented[1].pieces["talk.wav"][:3]


@pytest.mark.slow
def test_half_an_hour_is_recovered(tmp_path: Path) -> None:
    render_corpus(SAMPLE_SENTENCES, tmp_path / "corpus")
    truths = join(tmp_path / "in", "talk", tmp_path / "corpus", "am", 30.0)
    made = segment(settings(tmp_path / "in"), tmp_path / "out", on_ray=False)
    recovered, _, border, worst_cut = rate(truths, made.pieces["talk.wav"])
    assert recovered >= 0.95
    assert border <= 0.06
    assert worst_cut <= 0.05
