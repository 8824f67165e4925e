"""Features of corpora of other layouts than LJSpeech: recordings in Parquet, parts of videos."""

from __future__ import annotations

import csv
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from layout_fixtures import PARQUET, audio, parquet, table
from prepare_fixtures import MEL, RATE, TEXTS, Extractions, contents, run_prepare, tone
from test_containers import write

from data_prep.extract import ExtractSettings, extract_chunk
from data_prep.recordings import root_of
from data_prep.utterance import Segment
from dimts.audio.mel import Float32Array
from dimts.audio.parquet_recordings import opened_recording
from dimts.audio.trim import TrimConfig
from dimts.core.errors import UserError
from dimts.features.feature_set import FeatureSet
from dimts.features.mel_extractor import MelExtractor


def encoded(wave: Float32Array, kind: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format=kind)
    return file.getvalue()


def reasons(features: Path) -> dict[str, str]:
    with (features / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def all_speech(features: Path) -> dict[str, tuple[str, float, float]]:
    """Speaker, start and seconds of each utterance."""
    opened = FeatureSet.open(features)
    found: dict[str, tuple[str, float, float]] = {}
    for name in opened.manifest.splits:
        split = opened.split(name)
        facts = zip(*(split.values(n) for n in ("speaker", "start", "seconds")), strict=True)
        found |= dict(zip(split.ids, facts, strict=True))
    return found


def test_recordings_in_parquet_are_prepared_and_known_again(tmp_path: Path) -> None:
    corpus, features = tmp_path / "corpus", tmp_path / "features"
    parquet(corpus, encoded(tone(1), "FLAC"), encoded(tone(2), "MP3"))
    count = Extractions()
    run_prepare(corpus, features, count)
    stem = "train-00000-of-00001"
    assert {name: facts[0] for name, facts in all_speech(features).items()} == {
        f"{stem}_a": "3", f"{stem}_b": "4",
    }  # fmt: skip
    summary = (features / "summary.txt").read_text(encoding="utf-8")
    assert "reader    huggingface, recognised (corpus.reader)\n" in summary
    assert "audio is the recording" in summary
    assert "speakers  2\n" in summary
    with opened_recording(corpus, f"{PARQUET}#1") as descriptor:
        assert os.pread(descriptor, 1 << 20, 0) == encoded(tone(2), "MP3")
    before = contents(features)
    run_prepare(corpus, features, count)
    assert (count.n, contents(features)) == (2, before)
    parquet(corpus, encoded(tone(1), "FLAC"), encoded(tone(3), "WAV"))
    run_prepare(corpus, features, count)
    assert contents(features)["manifest.json"] != before["manifest.json"]


def test_what_parquet_lacks_is_refused(tmp_path: Path) -> None:
    corpus, features = tmp_path / "corpus", tmp_path / "features"
    parquet(corpus, encoded(tone(1), "FLAC"), b"no sound")
    run_prepare(corpus, features)
    assert reasons(features) == {"train-00000-of-00001_b": "broken_audio"}
    settings = ExtractSettings(MelExtractor(MEL), TrimConfig(), 0.3, 2.0)
    (corpus / PARQUET).write_bytes(b"PAR1 and nothing")
    chunk = extract_chunk(root_of(corpus), [Segment(f"{PARQUET}#0")], settings, tmp_path)
    assert b"not_readable" in chunk.read_bytes()


def test_cues_of_a_video_are_utterances_where_they_are_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, features = tmp_path / "corpus", tmp_path / "features"
    corpus.mkdir()

    def speech(rate: int) -> Float32Array:
        """Sound from 0.5 to 1.1 s and from 2.0 to 2.6 s."""
        t = np.arange(4 * rate) / rate
        on = ((t >= 0.5) & (t < 1.1)) | ((t >= 2.0) & (t < 2.6))
        return (0.3 * on * np.sin(2 * np.pi * 300 * t)).astype(np.float32)

    write(corpus / "talk.mp4", "mp4", speech)
    table(corpus / "talk.srt", "1", "00:00:00,300 --> 00:00:01,300", TEXTS[0], "", "2",
          "00:00:01,800 --> 00:00:02,800", TEXTS[1])  # fmt: skip
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "av", None)
        with pytest.raises(UserError, match="2 needs_pyav"):
            run_prepare(corpus, features)
    run_prepare(corpus, features)  # is tried again once it is installed
    found = all_speech(features)
    assert sorted(found) == ["talk_00001", "talk_00002"]
    for name, begins in (("talk_00001", 0.5), ("talk_00002", 2.0)):
        _, start, seconds = found[name]
        assert begins - 0.1 < start < begins + 0.01  # a little silence is kept
        assert 0.59 < seconds < 0.8


def test_speakers_with_few_minutes_are_left_out(tmp_path: Path) -> None:
    corpus, features = tmp_path / "corpus", tmp_path / "features"
    (corpus / "wavs").mkdir(parents=True)
    lines = ["file|text|speaker"]
    for n in range(5):
        soundfile.write(corpus / "wavs" / f"{n}.wav", tone(n), RATE)
        lines.append(f"{n}|{TEXTS[n % 4]}|{'rare' if n == 3 else 'often'}")
    table(corpus / "metadata.csv", *lines)
    count = Extractions()
    run_prepare(corpus, features, count)
    assert "speakers  2\n" in (features / "summary.txt").read_text(encoding="utf-8")
    manifest = run_prepare(corpus, features, count, read={"min_minutes": 0.02})
    assert (manifest.n_utterances, manifest.corpus.speakers, count.n) == (4, ("often",), 5)
    assert reasons(features) == {"3": "speaker_has_few_minutes"}


def test_recordings_outside_the_corpus_are_prepared(tmp_path: Path) -> None:
    corpus, outside = tmp_path / "corpus", tmp_path / "outside"
    audio(corpus, "unused.wav")
    outside.mkdir()
    soundfile.write(outside / "a.wav", tone(1), RATE)
    table(corpus / "metadata.csv", f"a|{TEXTS[0]}")
    manifest = run_prepare(corpus, tmp_path / "features", read={"audio_folder": str(outside)})
    assert manifest.n_utterances == 1
