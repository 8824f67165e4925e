"""Reading prepared features."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from prepare_fixtures import MEL, add_utterance, make_corpus, run_prepare

from benchmarks.recording import read_recording
from dimts.audio.mel import log_mel
from dimts.core.errors import UserError
from dimts.features.feature_set import FeatureSet


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 utterances in several shards."""
    folder = tmp_path_factory.mktemp("features")
    run_prepare(make_corpus(folder / "corpus", 30), folder / "features", shard_mb=0.03)
    return folder / "features"


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(prepared, tmp_path / "copy"))


def test_mel_is_that_of_the_trimmed_recording(prepared: Path) -> None:
    split = FeatureSet.open(prepared).split("train")
    audios, starts, seconds = map(split.values, ("audio", "start", "seconds"))
    for n in (0, len(split) - 1):
        wave = read_recording(str(split.manifest.corpus.path / audios[n]), MEL.sample_rate)
        start = round(starts[n] * MEL.sample_rate)
        end = start + round(seconds[n] * MEL.sample_rate)
        assert start > 0
        np.testing.assert_array_equal(split.mel(n), log_mel(wave[start:end], MEL))
        assert len(split.mel(n)) == split.n_frames[n]


def test_mel_is_a_view_of_the_file(prepared: Path) -> None:
    split = FeatureSet.open(prepared).split("train")
    mel = split.mel(3)
    assert np.shares_memory(mel, split.mel(3))
    assert mel.flags.c_contiguous
    assert mel.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        mel[0, 0] = 1


def test_columns_are_as_long_as_the_split(prepared: Path) -> None:
    features = FeatureSet.open(prepared)
    everything = []
    for name, facts in features.manifest.splits.items():
        split = features.split(name)
        lists = (split.ids, split.texts, split.values("raw_text"), split.languages)
        seconds = split.values("seconds")
        assert {len(split), *map(len, lists), len(seconds)} == {facts.n_utterances}
        assert split.n_frames.sum() == facts.n_frames
        assert sum(seconds) / 3600 == pytest.approx(facts.hours)
        everything += split.ids
    assert sorted(everything) == [f"u{n:03d}" for n in range(30)]
    assert len(features.manifest.splits["train"].shards) > 1


def test_statistics_are_of_the_train_split(prepared: Path) -> None:
    features = FeatureSet.open(prepared)
    split = features.split("train")
    frames = np.concatenate([split.mel(n) for n in range(len(split))]).astype(np.float64)
    np.testing.assert_allclose(features.manifest.mel_mean, frames.mean(axis=0))
    np.testing.assert_allclose(features.manifest.mel_std, frames.std(axis=0))


def test_pickle_holds_a_path_not_the_mels(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(prepared.parent)
    split = FeatureSet.open("features").split("train")
    pickled = pickle.dumps(split)
    monkeypatch.chdir(tmp_path)  # a worker's current directory is another one
    again = pickle.loads(pickled)
    assert len(pickled) < 10_000 < sum(split.n_frames) * MEL.n_mels * 4
    np.testing.assert_array_equal(again.mel(5), split.mel(5))
    assert again.ids == split.ids


def test_split_of_no_utterances_is_empty(tmp_path: Path) -> None:
    run_prepare(make_corpus(tmp_path / "corpus", 3), tmp_path / "features", val_share=0)
    split = FeatureSet.open(tmp_path / "features").split("val")
    assert (len(split), split.ids, split.n_frames.tolist()) == (0, [], [])


def test_open_split_outlives_a_new_preparation(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 4)
    run_prepare(corpus, tmp_path / "features")
    split = FeatureSet.open(tmp_path / "features").split("train")
    before = split.mel(0).copy()
    add_utterance(corpus, 4)
    run_prepare(corpus, tmp_path / "features", mel=MEL.model_copy(update={"n_mels": 10}))
    np.testing.assert_array_equal(split.mel(0), before)


def test_missing_folder_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder of features; run dimts prepare"):
        FeatureSet.open(tmp_path / "nowhere")


def test_missing_manifest_is_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    with pytest.raises(UserError, match="not complete"):
        FeatureSet.open(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "format_version: Input should be 2; run dimts prepare again"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_manifest_that_does_not_fit_is_refused(
    copy: Path, changes: dict[str, object], message: str
) -> None:
    file = copy / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        FeatureSet.open(copy)


@pytest.mark.parametrize(
    "name",
    [
        "../../secret",
        "/etc/passwd",
        "sub/train-00000.arrow",
        "train-00000.arrow\n",
        "x-00000.arrow",
    ],
)
def test_manifest_that_leads_out_of_its_folder_is_refused(copy: Path, name: str) -> None:
    file = copy / "manifest.json"
    values = json.loads(file.read_text())
    values["splits"]["train"]["shards"][0]["name"] = name
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"splits\.train\.shards\.0\.name: .*should match pattern"):
        FeatureSet.open(copy)


def test_cut_off_shard_is_refused(copy: Path) -> None:
    shard = copy / "train-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"train-00000\.arrow: has \d+ bytes, the manifest says"):
        FeatureSet.open(copy)


def test_missing_shard_is_refused(copy: Path) -> None:
    (copy / "val-00000.arrow").unlink()
    with pytest.raises(UserError, match=r"val-00000\.arrow: missing"):
        FeatureSet.open(copy)


def test_shard_of_other_content_is_refused(copy: Path) -> None:
    """Equal size is not enough."""
    features = FeatureSet.open(copy)
    shard = features.manifest.splits["train"].shards[0]
    content = (copy / shard.name).read_bytes()
    (copy / shard.name).write_bytes(content.replace(shard.fingerprint.encode(), b"0" * 16))
    with pytest.raises(UserError, match="does not belong to the manifest"):
        FeatureSet.open(copy).split("train")
