"""Preparing again: only what is new, after kills, beside another run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from prepare_fixtures import (
    MEL,
    RATE,
    TEXTS,
    Extractions,
    add_hostile_rows,
    add_utterance,
    contents,
    make_corpus,
    run_prepare,
    tone,
)

from data_prep.extract import (
    Extracted,
    ExtractSettings,
    Result,
    chunk_table,
    extract,
    hash_file,
)
from data_prep.recordings import opened
from data_prep.store import Store
from data_prep.utterance import Reason, Segment
from dimts.audio.cleaning import Cleaned
from dimts.audio.trim import TrimConfig
from dimts.core.errors import UserError
from dimts.core.lock import locked
from dimts.core.untrusted import NotAFile
from dimts.features.feature_set import SHARD_FINGERPRINT, FeatureSet
from dimts.features.mel_extractor import MelExtractor

TESTS = Path(__file__).parent
PATHS = os.pathsep.join([str(TESTS), str(TESTS.parent), str(TESTS.parent / "platform")])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """24 good utterances."""
    return make_corpus(tmp_path / "corpus", 24)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return tmp_path / "features"


def test_second_run_does_no_work(corpus: Path, features: Path) -> None:
    add_hostile_rows(corpus)
    run_prepare(corpus, features)
    before = {file: file.stat() for file in features.rglob("*") if file.name != "lock"}
    extracted = Extractions()
    run_prepare(corpus, features, extracted)
    assert extracted.n == 0
    for file, stat in before.items():
        if file.is_file():
            assert (file.stat().st_ino, file.stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


def new_utterance(corpus: Path) -> None:
    add_utterance(corpus, 99)


def new_recording(corpus: Path) -> None:
    file = corpus / "wavs" / "u005.wav"
    stat = file.stat()
    soundfile.write(file, tone(500), RATE)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # a copy that keeps the old time
    assert file.stat().st_size == stat.st_size


def touched(corpus: Path) -> None:
    for file in (corpus / "wavs").iterdir():
        os.utime(file)


def new_text(corpus: Path) -> None:
    file = corpus / "metadata.csv"
    file.write_text(file.read_text().replace(f"u004|{TEXTS[0]}", "u004|ቡና ጠጣች።"))


def row_removed(corpus: Path) -> None:
    file = corpus / "metadata.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize(
    ("change", "n_extracted"),
    [(new_utterance, 1), (new_recording, 1), (touched, 0), (new_text, 0), (row_removed, 0)],
)
def test_only_what_changed_is_extracted(
    corpus: Path, features: Path, change: Callable[[Path], None], n_extracted: int
) -> None:
    run_prepare(corpus, features, shard_mb=0.02)
    before = contents(features)
    change(corpus)
    extracted = Extractions()
    run_prepare(corpus, features, extracted, shard_mb=0.02)
    assert extracted.n == n_extracted
    assert (contents(features) == before) == (change is touched)
    run_prepare(corpus, features.with_name("fresh"), shard_mb=0.02)
    fresh = contents(features.with_name("fresh"))
    del fresh["summary.txt"]  # names the folder
    assert {name: contents(features)[name] for name in fresh} == fresh
    again = Extractions()
    run_prepare(corpus, features, again, shard_mb=0.02)
    assert again.n == 0


def test_appended_utterance_leaves_full_shards_alone(corpus: Path, features: Path) -> None:
    run_prepare(corpus, features, shard_mb=0.02)
    first = (features / "train-00000.arrow").stat()
    add_utterance(corpus, 99)
    run_prepare(corpus, features, shard_mb=0.02)
    assert (features / "train-00000.arrow").stat().st_ino == first.st_ino


def test_arrow_files_of_other_programs_stay(corpus: Path, features: Path) -> None:
    others = [features / name for name in ("data-00000-of-00002.arrow", "dev-00000.arrow")]
    features.mkdir()
    for file in others:
        file.write_bytes(b"not ours")
    run_prepare(corpus, features, shard_mb=0.02)
    run_prepare(corpus, features)
    assert not (features / "train-00001.arrow").exists()
    assert [file.read_bytes() for file in others] == [b"not ours"] * 2


def test_other_mel_settings_replace_the_features(corpus: Path, features: Path) -> None:
    first = run_prepare(corpus, features)
    extracted = Extractions()
    other = MEL.model_copy(update={"n_mels": 10})
    second = run_prepare(corpus, features, extracted, mel=other)
    assert extracted.n == 24
    assert second.fingerprint != first.fingerprint
    assert FeatureSet.open(features).split("train").mel(0).shape[1] == 10


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from prepare_fixtures import run_prepare

done = 0
def kill_after_three_chunks(n):
    global done
    done += n
    if done >= 12:
        os.kill(os.getpid(), signal.SIGKILL)

run_prepare(Path(sys.argv[1]), Path(sys.argv[2]), kill_after_three_chunks)
"""


@pytest.mark.integration
def test_killed_run_goes_on_where_it_stopped(corpus: Path, features: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, corpus, features],
        env=os.environ | {"PYTHONPATH": PATHS},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (features / "manifest.json").exists()
    extracted = Extractions()
    run_prepare(corpus, features, extracted)
    assert extracted.n == 12
    same = contents(features)
    run_prepare(corpus, features.with_name("undisturbed"))
    undisturbed = contents(features.with_name("undisturbed"))
    assert same.keys() == undisturbed.keys()
    assert [n for n in same if same[n] != undisturbed[n]] == ["summary.txt"]  # names the folder


class Killed(BaseException):
    """Stands for the process's end."""


def test_run_that_dies_at_any_rename_loses_nothing(
    corpus: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename in turn is the last thing a run does, while old shards become new ones."""
    small: dict[str, Any] = {"shard_mb": 0.05, "chunk": 8}
    run_prepare(corpus, features, **small)
    row_removed(corpus)
    add_utterance(corpus, 99)
    run_prepare(corpus, features.with_name("undisturbed"), **small)
    undisturbed = contents(features.with_name("undisturbed"))
    rename = os.replace
    total = 0
    for last in range(100):
        renames = iter(range(last + 1))

        def dying(source: Path, target: Path, left: object = renames) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise Killed
            rename(source, target)

        extracted = Extractions()
        monkeypatch.setattr(os, "replace", dying)
        try:
            run_prepare(corpus, features, extracted, **small)
        except Killed:
            total += extracted.n
        else:
            break
        finally:
            monkeypatch.undo()
    assert 2 <= last < 99
    assert total + extracted.n == 1  # the new utterance, once
    del undisturbed["summary.txt"]
    assert {name: contents(features)[name] for name in undisturbed} == undisturbed


def test_shards_between_two_manifests_are_not_opened(
    corpus: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_prepare(corpus, features)
    row_removed(corpus)
    rename = os.replace

    def dying(source: Path, target: Path) -> None:
        rename(source, target)
        if Path(target).parent == features and Path(target).suffix == ".arrow":
            raise Killed

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(Killed):
        run_prepare(corpus, features)
    with pytest.raises(UserError, match=r"run dimts prepare again"):
        FeatureSet.open(features)


def test_features_from_before_cleaning_are_read_and_made_anew(
    corpus: Path, features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_prepare(corpus, features)
    assert not capsys.readouterr().err.startswith("note")
    new = contents(features)
    manifest = json.loads((features / "manifest.json").read_text())
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            file = features / shard["name"]
            with pa.memory_map(str(file)) as source:
                table = pa.ipc.open_file(source).read_all()
            older = table.drop_columns([*Cleaned._fields])
            older = older.replace_schema_metadata({SHARD_FINGERPRINT: "old"})
            with pa.ipc.new_file(str(file) + "~", older.schema) as writer:
                writer.write_table(older)
            os.replace(str(file) + "~", file)
            shard |= {"n_bytes": file.stat().st_size, "fingerprint": "old"}
    (features / "manifest.json").write_text(json.dumps(manifest))
    split = FeatureSet.open(features).split("train")
    assert len(split.mel(0)) == split.n_frames[0]
    extracted = Extractions()
    run_prepare(corpus, features, extracted)
    assert extracted.n == 24
    note = capsys.readouterr().err.splitlines()[0]
    assert note.startswith(f"note: {features}: was made without cleaning")
    assert contents(features) == new


def test_leftovers_that_are_no_arrow_files_do_no_harm(corpus: Path, features: Path) -> None:
    run_prepare(corpus, features)
    before = contents(features)
    (features / ".work" / "stamps.arrow").write_bytes(b"junk")
    (features / ".work" / "chunk-000007.arrow").write_bytes(b"")
    (features / "train-00000.arrow").write_bytes(b"ARROW1\0\0 cut off")
    run_prepare(corpus, features)
    assert contents(features) == before


def test_what_a_later_version_has_refused_is_read_again(corpus: Path, features: Path) -> None:
    (corpus / "wavs" / "u000.wav").write_bytes(b"no audio")
    run_prepare(corpus, features)
    before, unused = contents(features), features / ".work" / "unused.arrow"
    table = pa.ipc.open_file(unused.read_bytes()).read_all()
    reasons = pa.array(["of_tomorrow"] * len(table), table.schema.field("reason").type)
    table = table.set_column(table.schema.get_field_index("reason"), "reason", reasons)
    unused.unlink()
    with pa.ipc.new_file(unused, table.schema) as writer:
        writer.write_table(table)
    extracted = Extractions()
    run_prepare(corpus, features, extracted)
    assert extracted.n == 1
    assert contents(features) == before


SETTLE_120_MB = """
import sys
from pathlib import Path
import numpy as np
from data_prep.extract import Result
from data_prep.store import Store
from dimts.features.mel_extractor import MelExtractor
from prepare_fixtures import MEL

def most_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000

mel = np.ones((25_000, 20), np.float32)
unused = [Result(f"k{n}", seconds=1.0, arrays={"mel": mel}) for n in range(60)]
extractors = [MelExtractor(MEL)]
Store(Path(sys.argv[1]), extractors).settle([], unused[:1])  # what Arrow itself costs
before = most_mb()
for _ in range(2):
    Store(Path(sys.argv[1]), extractors).settle([], unused)
print(most_mb() - before)
"""


def test_what_is_not_used_is_not_held_in_memory_to_write_it_down(features: Path) -> None:
    settled = subprocess.run(
        [sys.executable, "-c", SETTLE_120_MB, features],
        env=os.environ | {"PYTHONPATH": PATHS},
        check=True,
        stdout=subprocess.PIPE,
    )
    assert (features / ".work" / "unused.arrow").stat().st_size > 120e6
    assert float(settled.stdout) < 60  # as one table it took more than 300


def test_what_is_not_used_is_read_again_and_written_only_if_it_differs(features: Path) -> None:
    extractor = MelExtractor(MEL)

    def known() -> list[Result]:
        store = Store(features, [extractor])
        return [result for row in rows if (result := store.result(row.result.key))]

    def mels() -> list[float]:
        return [float(r.arrays["mel"].mean()) for r in known() if not r.reason]

    wide = [np.full((25_000, 20), n, np.float32) for n in range(9)]  # three batches
    segment = Segment("")
    rows = [
        Extracted(segment, Result(f"k{n}", seconds=1.0, arrays={"mel": mel}))
        for n, mel in enumerate(wide)
    ]
    rows.append(Extracted(segment, Result("r", Reason.TOO_SHORT, "0.1 s")))
    store, file = Store(features, [extractor]), features / ".work" / "unused.arrow"
    table = chunk_table(rows, extractor.columns)
    with pa.ipc.new_file(file, table.schema) as writer:  # in one piece, as it once was
        writer.write_table(table)
    in_one_piece = file.stat()
    store.settle([], known())
    assert file.stat().st_ino == in_one_piece.st_ino
    store.settle([], known()[1:])  # while it is mapped from the file that it replaces
    in_groups = file.stat()
    assert in_groups.st_ino != in_one_piece.st_ino
    assert mels() == list(range(1, 9))
    assert known()[-1] == Result("r", Reason.TOO_SHORT, "0.1 s")
    store.settle([], known())
    assert file.stat().st_ino == in_groups.st_ino


def test_pipe_put_in_a_recordings_place_meanwhile_blocks_nothing(corpus: Path) -> None:
    """The reader has seen a file; what opens it later looks again."""
    settings = ExtractSettings(MelExtractor(MEL), TrimConfig(), min_seconds=0.3, max_seconds=20)
    file = corpus / "wavs" / "u000.wav"
    file.unlink()
    os.mkfifo(file)
    [(_, extracted, *_)] = extract(partial(opened, corpus), [Segment("wavs/u000.wav")], settings)
    assert (extracted.reason, extracted.key) == (Reason.NOT_A_FILE, "")
    assert extracted.detail == "wavs/u000.wav: is a named pipe, not a file"
    with pytest.raises(NotAFile, match="named pipe"):
        hash_file(file)


def test_second_run_at_the_same_time_is_refused(corpus: Path, features: Path) -> None:
    message = f"process {os.getpid()}.*wait for it"
    with locked(features / Store.LOCK, ""), pytest.raises(UserError, match=message):
        run_prepare(corpus, features)
    run_prepare(corpus, features)
