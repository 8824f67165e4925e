"""Features by several extractors, with and without a model, of recordings and of parts of them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import extractor_fixtures
import numpy as np
import pytest
import soundfile
from extractor_fixtures import HOP, TokenExtractor, TokenSettings, read_cues
from prepare_fixtures import (
    MEL,
    RATE,
    TEXT,
    TEXTS,
    Extractions,
    add_hostile_rows,
    contents,
    make_corpus,
    tone,
)

from benchmarks.recording import read_recording
from data_prep.pipeline import prepare
from data_prep.readers import READERS, Reader
from dimts.audio.mel import log_mel
from dimts.core.errors import UserError
from dimts.families.vocoder.extractors import WaveExtractor, WaveSettings
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.features.feature_set import FeatureSet, FeatureSplit
from dimts.features.manifest import Manifest
from dimts.features.mel_extractor import MelExtractor
from dimts.features.schema import Column, Extract, Extractor

NO_MODEL = r"^nowhere: no such model; name its folder$"
MEL_AND_TOKENS = (MelExtractor(MEL), TokenExtractor())


def run(
    corpus: Path, features: Path, *extractors: Extractor, **settings: Any
) -> tuple[Manifest, int]:
    """What was prepared, and how many times a segment was extracted for it."""
    extracted = Extractions()
    config = PrepareConfig.model_validate(
        {"features": features, "engine": "local", "chunk": 4} | settings
    )
    reader = "cues" if (corpus / "cues.csv").exists() else "auto"
    given = CorpusConfig(path=corpus, reader=reader)
    manifest = prepare(given, TEXT, extractors, config, extracted)
    return manifest, extracted.n


def reasons(features: Path) -> dict[str, tuple[str, str]]:
    """Id -> reason and detail."""
    with (features / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        return {row["id"]: (row["reason"], row["detail"]) for row in csv.DictReader(file)}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus", 8)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return tmp_path / "features"


def test_columns_are_what_the_extractors_make_of_the_speech(corpus: Path, features: Path) -> None:
    extractor = TokenExtractor()
    run(corpus, features, *MEL_AND_TOKENS)
    split = FeatureSet.open(features).split("train")
    audios, starts, seconds = map(split.values, ("audio", "start", "seconds"))
    for n in range(len(split)):
        audio = corpus / audios[n]
        wave = read_recording(str(audio), extractor.sample_rate)
        start = round(starts[n] * extractor.sample_rate)
        end = start + round(seconds[n] * extractor.sample_rate)
        token = split.column("token", n)
        assert starts[n] > 0
        assert token.dtype == np.int64
        assert token.shape == (1 + (end - start - 2 * HOP) // HOP,)
        assert split.lengths("token")[n] == len(token)
        assert split.column("embedding", n).shape == (2, 3)
        if soundfile.info(audio).samplerate == extractor.sample_rate:
            made = extractor.open()(wave[start:end], extractor.sample_rate)
            np.testing.assert_array_equal(token, made["token"])
        assert not token.flags.writeable
        np.testing.assert_array_equal(split.column("mel", n), split.mel(n))


class SecondWave(WaveExtractor):
    """The samples once more, as an extractor that is not the first is given them."""

    name = "again"
    columns = (Column(name="again", dtype="int16"),)

    def open(self) -> Extract:
        samples = super().open()
        return lambda wave, rate: {"again": samples(wave, rate)["wave"]}


def test_extractors_of_one_sample_rate_are_given_the_same_samples(
    corpus: Path, features: Path
) -> None:
    # At another rate than theirs a cut falls between their samples.
    for n, file in enumerate(sorted((corpus / "wavs").glob("*.wav"))):
        soundfile.write(file, np.pad(tone(n, 0.6), (2_400, 4_800)), 24_000)
    settings = WaveSettings(sample_rate=22_050)
    run(corpus, features, WaveExtractor(settings), SecondWave(settings))
    split = FeatureSet.open(features).split("train")
    for n in range(len(split)):
        np.testing.assert_array_equal(split.column("again", n), split.column("wave", n))


def test_second_run_extracts_only_for_what_has_changed(corpus: Path, features: Path) -> None:
    add_hostile_rows(corpus)
    limits = {"max_seconds": 2.2, "max_seconds_per_token": 0.6}

    def extracted(*extractors: Extractor) -> tuple[str, int]:
        manifest, n = run(corpus, features, *extractors, **limits)
        return manifest.fingerprint, n

    mel, tokens = MEL_AND_TOKENS
    alone, n = extracted(mel)
    both, more = extracted(mel, tokens)
    assert (n, more) == (8 + 10, 8)  # of what was refused there are no tokens
    before = contents(features)
    assert extracted(mel, tokens) == (both, 0)
    assert contents(features) == before
    newer, n = extracted(mel, replace(tokens, version=2))
    assert n == 8
    other, n = extracted(mel, replace(tokens, settings=TokenSettings(seed=1)))
    assert n == 8
    assert len({alone, both, newer, other}) == 4
    assert extracted(mel) == (alone, 0)
    assert not {"token", "embedding"} & FeatureSet.open(features).manifest.columns.keys()


def test_tokens_need_no_mel(corpus: Path, features: Path) -> None:
    manifest, n = run(corpus, features, TokenExtractor())
    split = FeatureSet.open(features).split("train")
    assert (n, manifest.n_utterances) == (8, 8)
    assert manifest.splits["train"].lengths == {"token": split.lengths("token").sum()}
    assert split.column("token", 0).max() < TokenSettings().n_tokens
    with pytest.raises(UserError, match="have no mel"):
        print(manifest.mel)


def test_arrays_that_were_not_declared_are_refused(corpus: Path, features: Path) -> None:
    with pytest.raises(UserError, match=r"none of 8 rows .*8 extraction_failed"):
        run(corpus, features, TokenExtractor(faulty=True))
    assert "token: int32 [" in reasons(features)["u000"][1]


@pytest.mark.parametrize("engine", ["local", pytest.param("pool", marks=pytest.mark.integration)])
def test_model_that_is_not_there_is_one_line(corpus: Path, features: Path, engine: str) -> None:
    with pytest.raises(UserError, match=NO_MODEL):
        run(corpus, features, TokenExtractor(weights="nowhere"), engine=engine)


@pytest.mark.integration
def test_pool_makes_the_same_columns(corpus: Path, features: Path) -> None:
    run(corpus, features, *MEL_AND_TOKENS)
    run(corpus, features.with_name("pool"), *MEL_AND_TOKENS, engine="pool", workers=2)
    ours, theirs = contents(features), contents(features.with_name("pool"))
    assert [name for name in ours if ours[name] != theirs[name]] == ["summary.txt"]


def test_actors_of_ray_make_the_same_columns_though_one_dies(
    ray_session: None, corpus: Path, features: Path, tmp_path: Path
) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(extractor_fixtures)  # workers do not find the tests
    run(corpus, features, *MEL_AND_TOKENS)
    (weights := tmp_path / "weights").mkdir()
    (weights / "kill").touch()
    mel, tokens = MEL_AND_TOKENS
    both = (mel, replace(tokens, weights=str(weights)))
    by_ray = features.with_name("by_ray")
    manifest, n = run(corpus, by_ray, *both, engine="ray", workers=2)
    assert not (weights / "kill").exists()
    assert n == 16
    ours, theirs = contents(features), contents(by_ray)
    assert [name for name in ours if ours[name] != theirs[name]] == ["summary.txt"]
    assert run(corpus, by_ray, *both, engine="ray") == (manifest, 0)


@pytest.fixture
def cues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording of four sentences by two speakers, longer than an utterance may be."""
    reader = Reader(lambda _: ["cues.csv"], lambda folder, code: read_cues(folder.config, code))
    monkeypatch.setitem(READERS, "cues", reader)
    corpus = tmp_path / "cues"
    corpus.mkdir()
    sound = np.concatenate([tone(n) for n in range(4)])
    soundfile.write(corpus / "hour.flac", sound, RATE)
    soundfile.write(corpus / "other.wav", tone(9), RATE)
    rows = [f"c{n}|hour.flac|{0.7 * n}|{0.7 * (n + 1)}|s{n % 2}|{TEXTS[n]}" for n in range(4)]
    rows.append(f"whole|other.wav|0||s0|{TEXTS[0]}")
    (corpus / "cues.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return corpus


def all_splits(features: Path) -> dict[str, tuple[FeatureSplit, int]]:
    """Where each utterance is."""
    opened = FeatureSet.open(features)
    splits = [opened.split(name) for name in opened.manifest.splits]
    return {name: (split, n) for split in splits for n, name in enumerate(split.ids)}


def test_parts_of_a_recording_are_utterances(cues: Path, features: Path) -> None:
    manifest, n = run(cues, features, *MEL_AND_TOKENS, max_seconds=1.0)
    found = all_splits(features)
    assert (n, sorted(found)) == (10, ["c0", "c1", "c2", "c3", "whole"])
    assert manifest.corpus.speakers == ("s0", "s1")
    wave = read_recording(cues / "hour.flac", RATE)
    for number in range(4):
        split, n = found[f"c{number}"]
        begins, seconds, speaker = (
            split.values(name)[n] for name in ("start", "seconds", "speaker")
        )
        assert 0.7 * number < begins < 0.7 * number + 0.1
        assert speaker == f"s{number % 2}"
        start, length = round(begins * RATE), round(seconds * RATE)
        np.testing.assert_array_equal(split.mel(n), log_mel(wave[start : start + length], MEL))
    tokens = [tuple(split.column("token", n)) for split, n in found.values()]
    assert len(set(tokens)) == 5


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("x|hour.flac|2.5|3.5|s|ሰላም ነው።", "outside_recording", "2.5 to 3.5 s is not inside"),
        ("x|hour.flac|1.5|1.0|s|ሰላም ነው።", "outside_recording", "1.5 to 1 s is not inside"),
        ("x|hour.flac|-1|1.0|s|ሰላም ነው።", "outside_recording", "-1 to 1 s is not inside"),
        ("x|hour.flac|0|1.5|s|ሰላም ነው።", "too_long", "at most 1 s"),
        ("x|hour.flac|0|0.2|s|ሰላም ነው።", "too_short", "at least 0.3 s"),
        ("x|hour.flac|0||s|ሰላም ነው።", "too_long", "at most 1 s"),
        ("x|none.flac|0|1|s|ሰላም ነው።", "missing_file", "none.flac"),
    ],
)
def test_part_that_cannot_be_used_costs_only_itself(
    cues: Path, features: Path, line: str, reason: str, detail: str
) -> None:
    with (cues / "cues.csv").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    manifest, _ = run(cues, features, MelExtractor(MEL), max_seconds=1.0)
    assert manifest.n_utterances == 5
    [(found, said)] = [reasons(features)["x"]]
    assert found == reason
    assert detail in said


def test_another_end_is_extracted_anew_and_nothing_else(cues: Path, features: Path) -> None:
    run(cues, features, *MEL_AND_TOKENS)
    table = cues / "cues.csv"
    table.write_text(table.read_text().replace("|1.4|s1", "|1.3|s1"))  # where c1 ends
    _, n = run(cues, features, *MEL_AND_TOKENS)
    assert n == 2
    run(cues, features.with_name("fresh"), *MEL_AND_TOKENS)
    fresh = contents(features.with_name("fresh"))
    assert {name: contents(features)[name] for name in fresh if name != "summary.txt"} == {
        name: content for name, content in fresh.items() if name != "summary.txt"
    }
