"""Who extracts: what is chosen when, the bytes that all make, and how a pool ends."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing import active_children
from pathlib import Path

import pytest
from prepare_fixtures import (
    MEL,
    Extractions,
    add_hostile_rows,
    contents,
    make_corpus,
    run_prepare,
)

from benchmarks.long_corpus import beginning, long_corpus
from benchmarks.prepare import IN_MEMORY, WAYS
from benchmarks.prepare import main as costs
from benchmarks.process_tree import measure
from data_prep.engine import POOL_PAYS_FROM_BYTES, choose_engine, chunk_size
from data_prep.extract import ExtractSettings, extract_chunk
from data_prep.recordings import root_of
from data_prep.utterance import Segment
from dimts.audio.trim import TrimConfig
from dimts.core.errors import UserError
from dimts.features.config import PrepareConfig
from dimts.features.mel_extractor import MelExtractor


def settings(**more: object) -> PrepareConfig:
    return PrepareConfig.model_validate({"features": "unused"} | more)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus", 24)


@pytest.mark.integration
def test_pool_makes_the_same_files(corpus: Path, tmp_path: Path) -> None:
    add_hostile_rows(corpus)
    run_prepare(corpus, tmp_path / "here")
    extracted = Extractions()
    run_prepare(corpus, tmp_path / "pool", extracted, engine="pool", workers=2)
    assert extracted.n == 24 + 10
    ours, theirs = contents(tmp_path / "here"), contents(tmp_path / "pool")
    assert [name for name in ours if ours[name] != theirs[name]] == ["summary.txt"]
    assert active_children() == []


@pytest.mark.integration
def test_worker_that_is_killed_is_one_line(corpus: Path, tmp_path: Path) -> None:
    def kill(n: int) -> None:
        for worker in active_children():
            os.kill(worker.pid or 0, signal.SIGKILL)

    with pytest.raises(UserError, match=r"ended from outside.* goes on where it stopped"):
        run_prepare(corpus, tmp_path / "features", kill, engine="pool", workers=2, chunk=1)


def test_what_a_worker_had_finished_is_not_done_again(corpus: Path, tmp_path: Path) -> None:
    """Its run was killed before it came to it."""
    work = tmp_path / "features" / ".work"
    work.mkdir(parents=True)
    (work / ".chunk-half.arrow.tmp").write_bytes(b"half")
    made = ExtractSettings(MelExtractor(MEL), TrimConfig(), min_seconds=0.3, max_seconds=20.0)
    segments = [Segment(f"wavs/u{n:03d}.wav") for n in range(5)]
    extract_chunk(root_of(corpus), segments, made, work)
    extracted = Extractions()
    run_prepare(corpus, tmp_path / "features", extracted)
    assert extracted.n == 24 - 5
    assert {file.name for file in work.iterdir()} == {"lock", "stamps.arrow", "unused.arrow"}


def test_engine_is_chosen_by_where_ray_is_and_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (tmp_path / "hours.wav").open("wb") as file:
        file.truncate(POOL_PAYS_FROM_BYTES - 1)
    (tmp_path / "short.wav").write_bytes(b"1")
    root = root_of(tmp_path)
    hours, short = [Segment("hours.wav"), Segment("missing.wav")], Segment("short.wav")
    assert choose_engine(root, hours, settings(workers=2)) == "local"
    assert choose_engine(root, [*hours, short], settings(workers=2)) == "pool"
    assert choose_engine(root, [*hours, short], settings(workers=1)) == "local"
    assert choose_engine(root, hours, settings(engine="ray")) == "ray"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert choose_engine(root, hours, settings()) == "ray"


def test_every_worker_gets_several_tasks() -> None:
    assert chunk_size(20_000, 2, settings(chunk=256)) == 256
    assert chunk_size(300, 2, settings(chunk=256)) == 38
    assert chunk_size(1, 8, settings(chunk=256)) == 1


@pytest.mark.slow
def test_long_corpus_is_made_once_and_its_beginning_is_a_corpus(tmp_path: Path) -> None:
    corpus = long_corpus(tmp_path, 40)
    before = (corpus / "wavs" / "u000000.wav").stat()
    part = beginning(corpus, 25)
    assert long_corpus(tmp_path, 40) == corpus
    assert (part / "wavs" / "u000000.wav").stat().st_ino == before.st_ino
    assert (corpus / "wavs" / "u000000.wav").stat().st_mtime_ns == before.st_mtime_ns
    rows = [(folder / "metadata.csv").read_text().splitlines() for folder in (corpus, part)]
    assert rows[0][:25] == rows[1]
    features = tmp_path / "features"
    chosen = (f"corpus.path={part}", f"prepare.features={features}", "prepare.engine=local")
    words = ["jobs/prepare.py", "--config", "jobs/configs/sample_am.yaml"]
    words += [part for setting in chosen for part in ("--set", setting)]
    spent = measure(words, features / ".work", "chunk-*.arrow")
    assert spent.cpu > 0
    assert 0 < spent.begun <= spent.seconds
    assert spent.memory > 50e6
    assert "25 of 25 rows" in (features / "summary.txt").read_text()


@pytest.mark.slow
def test_what_each_way_costs_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert costs(["--folder", str(tmp_path), "--times", "1", "--utterances", "90"]) == 0
    printed = capsys.readouterr().out
    for row in (*WAYS, *IN_MEMORY, "as shipped (`auto`)", "features of an hour of speech"):
        assert row in printed
