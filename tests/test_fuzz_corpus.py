"""Whatever stands in a corpus, its rows are used or refused; nothing else happens.

Deterministic: the same examples each time.
"""

from __future__ import annotations

import csv
import io
import shutil
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from examples import fuzz
from hostile_audio import PCM, SPEECH, fmt, riff, sound
from hypothesis import given
from hypothesis import strategies as st
from prepare_fixtures import MEL, RATE, TEXT, TEXTS, contents, run_prepare

from data_prep.checks import check_text
from data_prep.extract import ExtractSettings, extract
from data_prep.readers.ljspeech import read_ljspeech
from data_prep.recordings import opened
from data_prep.report import quarantine_csv
from data_prep.utterance import Reason, Rejected, Segment
from dimts.audio.trim import TrimConfig
from dimts.core.errors import UserError
from dimts.core.untrusted import DRIVES_A_TERMINAL
from dimts.features.config import CorpusConfig
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SPLITS
from dimts.features.mel_extractor import MelExtractor
from dimts.text.language import load_language
from dimts.text.tokenizer import Tokenizer

SETTINGS = ExtractSettings(MelExtractor(MEL), TrimConfig(), min_seconds=0.3, max_seconds=2.0)
TOKENIZER = Tokenizer.from_language(load_language("am"), TEXT)
FORMATS = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "W64", "RF64", "CAF", "AU", "NIST", "VOC")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A corpus with a few recordings and traps, and things around it that must stay as they are."""
    folder = tmp_path_factory.mktemp("fuzz")
    wavs = folder / "corpus" / "wavs"
    (wavs / "sub").mkdir(parents=True)
    for path in (wavs / "a.wav", wavs / "b b.wav", wavs / "sub" / "c.wav", folder / "secret.wav"):
        sound(path)
    (wavs / "out.wav").symlink_to("../../secret.wav")
    (wavs / "zero.wav").symlink_to("/dev/zero")
    (wavs / "d.wav").mkdir()
    yield folder
    shutil.rmtree(folder)


def everything(folder: Path) -> dict[str, bytes]:
    """All that stands around the corpus and in it, but for the table."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if file.name != "metadata.csv"
    }


NAMES = st.sampled_from([
    *("a", "a.wav", " a ", "./a", "b b", "sub/c", "sub//c.wav", "out", "zero", "d", "A", "a.WAV"),
    *("../../secret", "/etc/passwd", "..", ".", "/", "//", "~", "a/", "a/b", ".wav", "wavs/a", ""),
    *("sub/../a", "\x1b[2J", "\0", "\ufeffa", "a\u2028", "x" * 300, "ድ", "'", '"', "a\\..\\b"),
])  # fmt: skip
WORDS = st.sampled_from([
    *TEXTS, "", " ", "።", "5", "፲፱", "abc", "😀", "\u202e", "\x1b[31m", "\0", "9" * 500, "ሰ" * 300,
    '"', "'", ",", "\u2028", "\ufeff",
])  # fmt: skip
LINES = st.one_of(
    st.tuples(NAMES, WORDS).map("|".join).map(str.encode),
    st.tuples(NAMES, WORDS, WORDS).map("|".join).map(str.encode),
    st.lists(st.one_of(NAMES, WORDS), max_size=6).map("|".join).map(str.encode),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")),
    st.binary(max_size=20),
)
TABLES = st.tuples(
    st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\0"]),
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b""])), max_size=8),
).map(lambda table: table[0] + b"".join(line + end for line, end in table[1]))


@fuzz()
@given(TABLES)
def test_each_row_of_any_table_is_an_utterance_or_refused(folder: Path, table: bytes) -> None:
    corpus = folder / "corpus"
    (corpus / "metadata.csv").write_bytes(table)
    try:
        rows = list(read_ljspeech(CorpusConfig(path=corpus), "am"))
    except UserError as error:
        assert "is UTF-16" in str(error)
        return
    lines = table.removeprefix(b"\xef\xbb\xbf").splitlines()
    assert [row.row for row in rows] == [n for n, line in enumerate(lines, 1) if line.strip()]
    used = [row for row in rows if not isinstance(row, Rejected)]
    assert len({row.id for row in used}) == len(used)
    for row in used:
        audio = (corpus / row.audio).resolve()
        assert audio.is_file()
        assert audio.is_relative_to(corpus.resolve())
        assert not DRIVES_A_TERMINAL.search(row.id)


@fuzz(2)
@given(TABLES)
def test_quarantine_of_any_table_is_one_safe_line_a_row(folder: Path, table: bytes) -> None:
    corpus = folder / "corpus"
    (corpus / "metadata.csv").write_bytes(table)
    try:
        rows = list(read_ljspeech(CorpusConfig(path=corpus), "am"))
    except UserError as error:
        assert not DRIVES_A_TERMINAL.search(str(error))
        return
    checked = [row if isinstance(row, Rejected) else check_text(row, TOKENIZER) for row in rows]
    rejected = [row for row in checked if isinstance(row, Rejected)]
    text = quarantine_csv(rejected)
    assert text.endswith("\n")
    lines = text.split("\n")[:-1]
    assert not any(DRIVES_A_TERMINAL.search(line) for line in lines)
    cells = list(csv.reader(io.StringIO(text)))
    assert len(cells) == len(lines) == 1 + len(rejected)
    assert all(len(row) == 4 for row in cells)


@fuzz(41)
@given(TABLES)
def test_preparing_any_table_writes_into_its_folder_alone(folder: Path, table: bytes) -> None:
    corpus, features = folder / "corpus", folder / "features"
    before = everything(folder)
    (corpus / "metadata.csv").write_bytes(table + f"\nsub/c|{TEXTS[0]}\n".encode())
    try:
        manifest = run_prepare(corpus, features)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        splits = map(FeatureSet.open(features).split, SPLITS)
        assert sum(len(split) for split in splits) == manifest.n_utterances >= 1
        names = {name.partition("-")[0] for name in contents(features)}
        assert names <= {"train", "val", "test", "manifest.json", "quarantine.csv", "summary.txt"}
    finally:
        shutil.rmtree(features, ignore_errors=True)
    assert everything(folder) == before


INTEGERS = st.sampled_from([0, 1, 2, 3, 7, 8, 16, 24, 32, 64, 255, 1024, 1025, 0x7FFF, 0xFFFF])
RATES = st.sampled_from([0, 1, 4_000, RATE, 384_000, 2**31 - 1, 2**31, 2**32 - 1])
SIZES = st.sampled_from(
    [None, None, None, None, 0, 1, 15, 16, 17, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
)
CHUNK_NAMES = st.sampled_from([
    b"fmt ", b"data", b"LIST", b"fact", b"JUNK", b"cue ", b"smpl", b"bext", b"PEAK", b"ds64",
    b"slnt", b"wavl", b"id3 ", b"\0\0\0\0", b"\xff\xff\xff\xff",
])  # fmt: skip
FMT = st.builds(
    lambda *fields, more: (b"fmt ", fmt(*fields)[1] + more),
    st.sampled_from([0, 1, 2, 3, 6, 7, 0x11, 0x31, 0x50, 0x55, 0x161, 0xFFFE, 0xFFFF]),
    INTEGERS, RATES, INTEGERS, INTEGERS,
    more=st.one_of(st.just(b""), st.binary(max_size=40)),
)  # fmt: skip
SENSIBLE = [fmt(), fmt(n_channels=2, align=4), fmt(bits=8, align=1), fmt(tag=7, bits=8, align=1)]
CHUNKS = st.one_of(
    FMT,
    st.tuples(CHUNK_NAMES, st.binary(max_size=60)),
    st.just((b"data", PCM)),
    st.just(fmt()),
)


@st.composite
def wav_files(draw: st.DrawFn) -> bytes:
    """RIFF files, half of them with format and sound, of which one chunk may lie on its length."""
    parts = draw(st.lists(CHUNKS, max_size=4))
    if draw(st.booleans()):
        parts = [draw(st.sampled_from(SENSIBLE)), *parts, (b"data", PCM)]
    data = bytearray(riff(*parts))
    claimed = draw(SIZES) if parts else None
    if claimed is not None:
        at = data.find(draw(st.sampled_from(parts))[0], 12) + 4
        data[at : at + 4] = struct.pack("<I", claimed)
    data[:4] = draw(st.sampled_from([b"RIFF", b"RIFF", b"RIFF", b"RIFX", b"RF64"]))
    return bytes(data[: draw(st.sampled_from([None, None, None, 12, 20, 44, -1, -3]))])


def check_extracted(folder: Path, content: bytes) -> None:
    """A mel of numbers, or a reason and one line; never an error that nobody has thought of."""
    corpus = folder / "corpus"
    (corpus / "fuzzed.wav").write_bytes(content)
    fuzzed = [Segment("fuzzed.wav")]
    [(_, result, *_)] = extract(partial(opened, corpus), fuzzed, SETTINGS)
    if result.reason is None:
        mel = result.arrays["mel"]
        assert np.isfinite(mel).all()
        assert SETTINGS.min_seconds <= result.seconds <= SETTINGS.max_seconds + 0.1
        assert len(mel) == pytest.approx(result.seconds * RATE / MEL.hop_length, abs=2)
    else:
        assert result.reason is not Reason.EXTRACTION_FAILED, result.detail
        assert result.detail and "\n" not in result.detail
        assert str(folder) not in result.detail
        assert not result.arrays
    assert extract(partial(opened, corpus), fuzzed, SETTINGS)[0].result.detail == result.detail


@fuzz()
@given(wav_files())
def test_any_wav_header_gives_a_mel_or_a_reason(folder: Path, content: bytes) -> None:
    check_extracted(folder, content)


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same speech in each format."""
    path = tmp_path_factory.mktemp("good") / "a"
    files = {}
    for kind in FORMATS:
        sound(path, SPEECH[:9_000], format=kind, subtype="PCM_16" if kind == "VOC" else None)
        files[kind] = path.read_bytes()
    return files


@fuzz()
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=6),
    st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.1, 0.01]),
)
def test_any_damage_to_a_file_gives_a_mel_or_a_reason(
    folder: Path,
    good_files: dict[str, bytes],
    kind: str,
    damage: list[tuple[int, int]],
    left: float,
) -> None:
    content = bytearray(good_files[kind])
    for at, value in damage:
        content[at] = value
    check_extracted(folder, bytes(content[: int(len(content) * left)]))
