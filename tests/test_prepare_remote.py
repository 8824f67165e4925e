"""`prepare` from and to object storage gives what it gives from and to a folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from layout_fixtures import parquet
from prepare_fixtures import MEL, RATE, TEXT, add_row, add_utterance, contents, make_corpus, tone
from s3_fixtures import S3, another_machine, names, put

from data_prep.pipeline import prepare
from data_prep.readers import read_corpus
from data_prep.recordings import at_hand, root_of
from dimts.core.errors import UserError
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import MANIFEST, Manifest, parse_manifest
from dimts.features.mel_extractor import MelExtractor
from dimts.storage.paths import AnyPath, StoragePath, cache_folder, folder_here

pytest_plugins = ("s3_fixtures",)

JOBS = Path(__file__).parents[1] / "jobs"


class Chunks(list[int]):
    """Sizes of the chunks that were extracted."""


def run(corpus: AnyPath, features: AnyPath, **more: object) -> tuple[Manifest, Chunks]:
    chunks, settings = Chunks(), {"engine": "local", "chunk": 4, "max_seconds": 3.0, **more}
    config = PrepareConfig.model_validate({"features": features, **settings})
    return prepare(
        CorpusConfig(path=corpus), TEXT, [MelExtractor(MEL)], config, chunks.append
    ), chunks


def corpus_with_faults(folder: Path) -> Path:
    """Good recordings, and one of each kind that object storage can hold too."""
    corpus = make_corpus(folder, 9)
    for name in ("a b'c", "ሰ?@%2F"):
        soundfile.write(corpus / "wavs" / f"{name}.wav", tone(len(name)), RATE)
        add_row(corpus, f"{name}|ሰላም ነው።")
    (corpus / "wavs" / "empty.wav").touch()
    (corpus / "wavs" / "broken.wav").write_bytes(b"RIFF of something else")
    soundfile.write(corpus / "wavs" / "long.wav", np.zeros(RATE * 4, np.float32), RATE)
    with (corpus / "wavs" / "huge.wav").open("wb") as file:
        file.truncate(60_000_000)
    for name in ("empty", "broken", "long", "huge", "missing", "../outside"):
        add_row(corpus, f"{name}|ሰላም ነው።")
    return corpus


def by_ray(corpus: StoragePath, place: StoragePath, folder: Path) -> Manifest:
    """`jobs/prepare.py` with the settings of `run`, in a process that starts a Ray."""
    settings = {
        "corpus": {"path": str(corpus)},
        "text": TEXT.model_dump(),
        "mel": MEL.model_dump(),
        "prepare": {"features": str(place), "engine": "ray", "chunk": 4, "max_seconds": 3.0},
        "run": {"name": "remote"},
    }
    (folder / "voice.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, str(JOBS / "prepare.py"), "--config", str(folder / "voice.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return FeatureSet.open(place).manifest


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_same_features_as_from_a_folder(bucket: StoragePath, tmp_path: Path, engine: str) -> None:
    corpus = corpus_with_faults(tmp_path / "corpus")
    ours, _ = run(corpus, tmp_path / "features")
    place, there = bucket / "features", put(corpus, bucket / "corpus")
    theirs = by_ray(there, place, tmp_path) if engine == "ray" else run(there, place)[0]
    assert theirs.fingerprint == ours.fingerprint
    assert theirs.quarantined == ours.quarantined
    assert len(theirs.quarantined) == 5
    here = contents(tmp_path / "features")
    same = [name for name in here if name not in (MANIFEST, "summary.txt")]
    assert {name: (place / name).read_bytes() for name in same} == {n: here[n] for n in same}
    assert theirs.corpus.path == bucket / "corpus"
    assert FeatureSet.open(place).manifest == theirs


def test_parquet_and_another_audio_folder_are_read_there(
    bucket: StoragePath, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    sounds = []
    for n in range(2):
        soundfile.write(tmp_path / "a.flac", tone(n), RATE)
        sounds.append((tmp_path / "a.flac").read_bytes())
    parquet(corpus, *sounds)
    ours, _ = run(corpus, tmp_path / "features")
    there = put(corpus, bucket / "corpus")
    theirs, chunks = run(there, bucket / "features")
    assert (theirs.fingerprint, sum(chunks)) == (ours.fingerprint, 2)
    assert run(there, bucket / "features") == (theirs, [])
    outside = CorpusConfig(path=there, audio_folder="/etc")
    with pytest.raises(UserError, match=r"corpus.audio_folder: /etc: must lie in s3://"):
        read_corpus(outside, "am")


def test_only_what_is_new_is_fetched_on_any_machine(
    bucket: StoragePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path / "corpus", 9)
    place, there = bucket / "features", put(corpus, bucket / "corpus")
    first, chunks = run(there, place, shard_mb=0.01)
    assert sum(chunks) == 9
    assert run(there, place, shard_mb=0.01) == (first, [])
    new = f"wavs/{add_utterance(corpus, 9)}.wav"
    for name in ("metadata.csv", new):
        (there / name).upload(corpus / name)
    assert run(there, place, shard_mb=0.01)[1] == [1]
    another_machine(monkeypatch, tmp_path / "other")
    again, chunks = run(there, place, shard_mb=0.01)
    assert (again.n_utterances, chunks) == (10, [])
    shards = {s.name for split in again.splits.values() for s in split.shards}
    assert {name for name in names(place) if name.endswith("0.arrow")} <= shards | {
        ".work/stamps.arrow"
    }
    run(there, place)  # larger shards are fewer: the others go
    shards = {s.name for s in FeatureSet.open(place).manifest.splits["train"].shards}
    assert {n for n in names(place) if n.startswith("train-")} == shards


def test_run_that_was_not_sent_is_sent_by_the_next(
    s3: S3, bucket: StoragePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path / "corpus", 6)
    place = bucket / "features"

    def refuse(*_: object) -> None:
        raise UserError("the network is gone")

    with monkeypatch.context() as patch:
        patch.setattr("data_prep.pipeline.send", refuse)
        with pytest.raises(UserError, match="network"):
            run(corpus, place)
    assert names(place) == []
    manifest, chunks = run(corpus, place)
    assert (sum(chunks), FeatureSet.open(place).manifest) == (0, manifest)


def test_machine_that_lost_its_copy_does_not_lose_what_is_there(
    bucket: StoragePath, tmp_path: Path
) -> None:
    corpus = make_corpus(tmp_path / "corpus", 6)
    place = bucket / "features"
    manifest, _ = run(corpus, place)
    shutil.rmtree(folder_here(place, "prepare"))
    assert run(corpus, place) == (manifest, [])


def test_other_sets_below_a_set_stay(bucket: StoragePath, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 6)
    run(corpus, bucket / "features" / "am")
    before = names(bucket / "features" / "am")
    run(corpus, bucket / "features")
    assert "train-00000.arrow" in before
    assert names(bucket / "features" / "am") == before


def test_arrow_files_of_other_programs_stay(bucket: StoragePath, tmp_path: Path) -> None:
    corpus, place = make_corpus(tmp_path / "corpus", 6), bucket / "features"
    (place / "data-00000-of-00002.arrow").write_bytes(b"not ours")
    (place / "train-00007.arrow").write_bytes(b"of an earlier run")
    run(corpus, place)
    assert (place / "data-00000-of-00002.arrow").read_bytes() == b"not ours"
    assert "train-00007.arrow" not in names(place)


def other_format(manifest: bytes) -> bytes:
    return json.dumps(json.loads(manifest) | {"format_version": 0}).encode()


def test_manifest_that_cannot_be_read_is_made_anew(
    bucket: StoragePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path / "corpus", 6)
    place = bucket / "features"
    manifest, _ = run(corpus, place)
    content = (place / MANIFEST).read_bytes()
    for machine in ("the same", "another"):
        for unreadable in (content[:100], other_format(content)):
            (place / MANIFEST).write_bytes(unreadable)
            assert run(corpus, place)[0] == manifest
            assert (place / MANIFEST).read_bytes() == content
        another_machine(monkeypatch, tmp_path / machine)


def write_over(file: StoragePath) -> None:
    """Other bits, as many, and later by what object storage tells of times."""
    before, content = file.entry(), file.read_bytes()
    assert before
    while (now := file.entry()) and now.mtime_ns // 10**9 == before.mtime_ns // 10**9:
        file.write_bytes(content[:-1000] + bytes(1000))


def not_those_of_the_manifest(place: StoragePath) -> list[str]:
    manifest = parse_manifest((place / MANIFEST).read_bytes(), place)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    there = {s.name: (place / s.name).read_bytes() for s in shards if (place / s.name).exists()}
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in there.items()}
    return [shard.name for shard in shards if sha256.get(shard.name) != shard.sha256]


def test_shard_that_is_not_the_manifests_is_made_and_sent_again(
    bucket: StoragePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path / "corpus", 9)
    place = bucket / "features"
    manifest, _ = run(corpus, place, shard_mb=0.01)
    for machine in ("the same", "another"):
        write_over(place / "train-00000.arrow")
        (place / "train-00001.arrow").unlink()
        assert not_those_of_the_manifest(place) == ["train-00000.arrow", "train-00001.arrow"]
        others = {e for e in place.entries() if "-" in e.name and e.name > "train-00001.arrow"}
        again, chunks = run(corpus, place, shard_mb=0.01)
        assert (again, bool(chunks)) == (manifest, machine == "another")
        assert not_those_of_the_manifest(place) == []
        assert others and others <= set(place.entries())
        another_machine(monkeypatch, tmp_path / machine)


HELD = """
import sys
from pathlib import Path
from data_prep.readers import read_corpus
from data_prep.recordings import at_hand, root_of
from dimts.storage.paths import StoragePath
with at_hand(root_of(StoragePath(sys.argv[1])), ["metadata.csv"], 1000):
    print("fetched", flush=True)
    sys.stdin.read()
"""


def test_recordings_of_a_killed_process_are_removed_by_the_next(
    bucket: StoragePath, tmp_path: Path
) -> None:
    (bucket / "metadata.csv").write_bytes(b"1|1\n")
    folder = cache_folder("recordings")
    with subprocess.Popen(
        [sys.executable, "-c", HELD, str(bucket)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"fetched\n"
        with at_hand(root_of(bucket), ["metadata.csv"], 1000):
            assert len(list(folder.glob("*/0"))) == 2
        other.kill()
    assert len(list(folder.glob("*/0"))) == 1
    with at_hand(root_of(bucket), ["metadata.csv"], 1000) as fetched:
        assert len(list(folder.glob("*/0"))) == 1
        with fetched("metadata.csv") as (_, stamp):
            assert stamp.size == 4
    assert list(folder.glob("*/")) == []


def test_corpus_of_which_nothing_can_be_used_says_why_there(
    bucket: StoragePath, tmp_path: Path
) -> None:
    corpus = make_corpus(tmp_path / "corpus", 0)
    add_row(corpus, "missing|ሰላም ነው።")
    place = bucket / "features"
    with pytest.raises(UserError, match=f"{place}/quarantine.csv"):
        run(put(corpus, bucket / "corpus"), place)
    assert "missing_file" in (place / "quarantine.csv").read_text()


def test_corpus_that_is_not_there_is_one_line(bucket: StoragePath, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{bucket}/corpus: no such folder, or nothing is in it$"):
        run(bucket / "corpus", tmp_path / "features")
