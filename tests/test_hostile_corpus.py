"""A corpus with everything that can be wrong: right reasons, unharmed good rows, little memory."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hostile_fixtures import HOSTILE, SECRET, USED, without_refused_rows, write_hostile_corpus
from prepare_fixtures import TEXTS, add_row, contents, make_corpus, run_prepare

from dimts.core.errors import UserError
from dimts.core.untrusted import DRIVES_A_TERMINAL
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SPLITS

TESTS = Path(__file__).parent
MAX_MORE_BYTES = 200_000_000
PREPARE = """
import resource, sys
from pathlib import Path
from prepare_fixtures import run_prepare

corpus, features = map(Path, sys.argv[1:])
run_prepare(corpus, features, read={"reader": "ljspeech"}, chunk=32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


class Prepared(NamedTuple):
    """What a process of its own has made of a corpus.

    Attributes:
        corpus, features: the folders.
        peak_bytes: of memory.
        said: on standard error.
    """

    corpus: Path
    features: Path
    peak_bytes: int
    said: str


def python(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), str(TESTS.parent / "platform")])
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def prepared(corpus: Path) -> Prepared:
    features = corpus.with_name("features")
    done = python(PREPARE, corpus, features)
    assert done.returncode == 0, done.stderr
    return Prepared(corpus, features, int(done.stdout), done.stderr)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    folder = tmp_path_factory.mktemp("hostile")
    yield prepared(write_hostile_corpus(folder / "corpus"))
    shutil.rmtree(folder)  # copies of files with holes would fill a disk


@pytest.fixture(scope="module")
def clean(hostile: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(
        without_refused_rows(hostile.corpus, tmp_path_factory.mktemp("clean") / "corpus")
    )


def test_each_row_is_used_or_refused_for_its_reason(hostile: Prepared) -> None:
    with (hostile.features / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        refused = [(row["id"].split("...")[0], row["reason"]) for row in csv.DictReader(file)]
    assert refused == [(row.id, row.outcome) for row in HOSTILE if row.outcome != USED]
    splits = map(FeatureSet.open(hostile.features).split, SPLITS)
    used = sorted(utterance_id for split in splits for utterance_id in split.ids)
    assert used == sorted(row.id for row in HOSTILE if row.outcome == USED)


@pytest.mark.integration
def test_good_rows_have_the_bytes_that_they_have_alone(hostile: Prepared, clean: Prepared) -> None:
    ours, alone = contents(hostile.features), contents(clean.features)
    told = {"manifest.json", "quarantine.csv", "summary.txt"}
    assert {name for name in alone if ours.get(name) != alone[name]} == told
    assert ours.keys() == alone.keys()
    facts = [json.loads(files["manifest.json"]) for files in (ours, alone)]
    for key in ("fingerprint", "splits", "extractors"):
        assert facts[0][key] == facts[1][key]


@pytest.mark.integration
def test_memory_is_that_of_a_clean_corpus(hostile: Prepared, clean: Prepared) -> None:
    assert hostile.peak_bytes - clean.peak_bytes < MAX_MORE_BYTES


def test_nothing_of_the_corpus_can_drive_a_terminal(hostile: Prepared) -> None:
    for name in ("quarantine.csv", "summary.txt"):
        for line in (hostile.features / name).read_text(encoding="utf-8").splitlines():
            assert not DRIVES_A_TERMINAL.search(line), line
            assert len(line) < 1000
    bar, _, rest = hostile.said.rpartition("\r")
    assert "Warning" not in bar
    assert len(rest.splitlines()) <= 1, rest


def test_details_say_what_is_wrong(hostile: Prepared) -> None:
    with (hostile.features / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        details = {row["id"]: row["detail"] for row in csv.DictReader(file)}
    assert details["named_pipe"] == "wavs/named_pipe.wav is a named pipe, not a file"
    assert details["folder"] == "wavs/folder.wav is a folder, not a file"
    assert details["circle"] == "wavs/circle.wav is a link in a circle"
    assert details["link_to_zeros"] == "wavs/link_to_zeros.wav is a link to /dev/zero"
    assert details["antiphase"] == "its 2 channels cancel each other when mixed to one"
    assert details["cut_off"].endswith("bytes of audio are missing")
    assert "U+1F600 GRINNING FACE" in details["emoji"]
    assert details["\\x1b[2Jclear"] == "U+001B in the name of the file"
    assert str(1 << 40) in details["a_terabyte"]


def test_nothing_is_written_but_the_features(hostile: Prepared) -> None:
    folder = hostile.corpus.parent
    assert {file.name for file in folder.iterdir()} == {"corpus", "features", SECRET}
    files = {file.name for file in hostile.features.iterdir()}
    assert files - {".work"} == contents(hostile.features).keys()


PREPARE_AS_NOBODY = """
import os, sys
from pathlib import Path
from prepare_fixtures import run_prepare

corpus, features = map(Path, sys.argv[1:])
run_prepare(corpus, features.with_name("loaded"))
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
run_prepare(corpus, features)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every account may reach and write to."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.integration
def test_what_may_not_be_read_is_refused_as_that(public: Path) -> None:
    corpus = make_corpus(public / "corpus", 24)
    for name in ("sub/inside", "guarded"):
        add_row(corpus, f"{name}|{TEXTS[0]}")
        (corpus / "wavs" / name).parent.mkdir(exist_ok=True)
        shutil.copy(corpus / "wavs" / "u000.wav", corpus / "wavs" / f"{name}.wav")
    (corpus / "wavs" / "guarded.wav").chmod(0)
    (corpus / "wavs" / "sub").chmod(0)
    done = python(PREPARE_AS_NOBODY, corpus, public / "features")
    if "PermissionError" in done.stderr and "os.set" in done.stderr:
        pytest.skip("this root may not become another account")
    assert done.returncode == 0, done.stderr
    with (public / "features" / "quarantine.csv").open(encoding="utf-8") as file:
        assert [[row["id"], row["reason"], row["detail"]] for row in csv.DictReader(file)] == [
            ["sub/inside", "not_readable", "wavs/sub/inside.wav: Permission denied"],
            ["guarded", "not_readable", "wavs/guarded.wav: Permission denied"],
        ]


def table_link(table: Path, target: str) -> None:
    table.symlink_to(target)


def enormous(table: Path) -> None:
    table.touch()
    os.truncate(table, 1 << 40)


def utf_16(table: Path, encoding: str) -> None:
    table.write_bytes(f"u000|{TEXTS[0]}\n".encode(encoding))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is a named pipe, not a file"),
        (Path.mkdir, "is a folder, not a file"),
        (enormous, f"has {1 << 40} bytes, at most .*; split the corpus"),
        (lambda table: table_link(table, "/dev/zero"), "is a link to /dev/zero, out of the corpus"),
        (lambda table: table_link(table, "../metadata.csv"), "out of the corpus folder"),
        (lambda table: table_link(table, "metadata.csv"), "cannot be read: Too many levels"),
        (lambda table: table_link(table, "nowhere"), "no such file"),
        (lambda table: utf_16(table, "utf-16"), "is UTF-16; save it as UTF-8"),
        (lambda table: utf_16(table, "utf-16-le"), "is UTF-16; save it as UTF-8"),
        (lambda table: utf_16(table, "utf-16-be"), "is UTF-16; save it as UTF-8"),
        (Path.touch, "the corpus has no rows"),
    ],
)
def test_table_that_is_none_is_one_line(tmp_path: Path, make: object, message: str) -> None:
    corpus = make_corpus(tmp_path / "corpus", 1)
    (corpus / "metadata.csv").replace(tmp_path / "metadata.csv")
    assert callable(make)
    make(corpus / "metadata.csv")
    with pytest.raises(UserError, match=f"{corpus}.*{message}") as error:
        run_prepare(corpus, tmp_path / "features")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "features").exists()
