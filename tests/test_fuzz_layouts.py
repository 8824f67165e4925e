"""Whatever stands in the tables of a layout, its rows are used or refused; nothing else happens.

Deterministic: the same examples each time.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from examples import fuzz
from hypothesis import given
from hypothesis import strategies as st
from layout_fixtures import LAYOUTS

from data_prep.readers import read_corpus
from data_prep.readers.audio_names import has_audio_suffix
from data_prep.utterance import Utterance
from dimts.audio.parquet_recordings import container
from dimts.core.errors import UserError
from dimts.core.untrusted import DRIVES_A_TERMINAL
from dimts.features.config import CorpusConfig

PIECES = st.sampled_from([
    *(b"|", b"\t", b",", b'"', b"\n", b"\r", b"\n\n", b"{", b"}", b"[", b":", b"\\", b" ", b".."),
    *(b"../../secret.wav", b"/etc/passwd", b"-->", b"00:00:01,0 --> 00:00:09,0", b"1e999", b"NaN"),
    *(b"-1", b"9" * 400, b"null", b"\0", b"\xff", b"\xef\xbb\xbf", b"\x1b[2J", b"x" * 5000, b"#0"),
    "\u202e\u2028ሰላም".encode(),
])  # fmt: skip
CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 30), st.one_of(PIECES, st.binary(max_size=4))),
    min_size=1,
    max_size=4,
)


def changed(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """At places, some bytes are replaced by others."""
    for place, n, piece in changes:
        at = round(place * len(data))
        data = data[:at] + piece + data[at + n :]
    return data


@pytest.mark.parametrize("name", LAYOUTS)
@fuzz(4)
@given(changes=CHANGES, place=st.integers(0, 5), auto=st.booleans())
def test_any_damage_to_a_layout_costs_rows_or_ends_in_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    changes: list[tuple[float, int, bytes]],
    place: int,
    auto: bool,
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    corpus = folder / "corpus"
    LAYOUTS[name].write(corpus)
    (folder / "secret.wav").write_bytes(b"audio")
    tables = sorted(
        file for file in corpus.rglob("*") if file.is_file() and not has_audio_suffix(file.name)
    )
    table = tables[place % len(tables)]
    table.write_bytes(changed(table.read_bytes(), changes))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    reader = "auto" if auto else LAYOUTS[name].reader
    config = {"path": corpus, "reader": reader, **LAYOUTS[name].settings}
    try:
        rows, notes = read_corpus(CorpusConfig.model_validate(config), "am")
    except UserError as error:
        assert not DRIVES_A_TERMINAL.search(str(error))
    else:
        used = [row for row in rows if isinstance(row, Utterance)]
        assert len({row.id for row in used}) == len(used)
        for row in used:
            audio = (corpus / container(row.audio.as_posix())).resolve()
            assert audio.is_file()
            assert audio.is_relative_to(corpus.resolve())
            assert not DRIVES_A_TERMINAL.search(row.id + row.speaker)
            assert row.text and row.start >= 0 and (row.end is None or row.end > row.start)
        assert not any("\n" in note for note in notes)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    shutil.rmtree(folder)


def test_a_small_archive_of_a_huge_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.readers.corpus_folder.MAX_BYTES", 1 << 16)
    LAYOUTS["lhotse"].write(tmp_path)
    import gzip

    (tmp_path / "x_supervisions.jsonl.gz").write_bytes(gzip.compress(b"\n" * (1 << 20)))
    with pytest.raises(UserError, match="cannot be decompressed: more than 65536 bytes"):
        read_corpus(CorpusConfig(path=tmp_path), "am")
