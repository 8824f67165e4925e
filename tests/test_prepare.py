"""Corpus -> features: bad rows, sizes, engines, splits, settings."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from prepare_fixtures import (
    MEL,
    TEXTS,
    Extractions,
    add_hostile_rows,
    add_row,
    contents,
    make_corpus,
    run_prepare,
)

from data_prep.splits import SMALLEST_TO_FILL, assign_splits
from dimts.cli import run_job
from dimts.commands.prepare import main as prepare_job
from dimts.core.config import build_config
from dimts.core.errors import ConfigError, UserError
from dimts.features.config import PrepareConfig


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """24 good utterances."""
    return make_corpus(tmp_path / "corpus", 24)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return tmp_path / "features"


def quarantine(features: Path) -> dict[str, str]:
    """Id -> reason."""
    with (features / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def test_bad_rows_cost_only_themselves(corpus: Path, features: Path) -> None:
    good = make_corpus(corpus.parent / "good", 24)
    expected = add_hostile_rows(corpus)
    add_row(corpus, "u003|" + TEXTS[0])
    limits: dict[str, Any] = {"max_seconds": 2.2, "max_seconds_per_token": 0.6}
    manifest = run_prepare(corpus, features, **limits)
    assert quarantine(features) == expected | {"u003": "duplicate_id"}
    assert manifest.n_utterances == 24
    assert manifest.quarantined["broken_audio"] == 2
    assert sum(manifest.quarantined.values()) == manifest.corpus.n_rows - 24 == len(expected) + 1
    assert "24 of 39 rows" in (features / "summary.txt").read_text()
    run_prepare(good, features.with_name("good_features"), **limits)
    bad, clean = contents(features), contents(features.with_name("good_features"))
    assert {n for n in clean if clean[n] != bad[n]} == {
        "manifest.json",
        "quarantine.csv",
        "summary.txt",
    }


def test_quarantine_tells_row_and_detail(corpus: Path, features: Path) -> None:
    add_row(corpus, 'odd,"name|ሰላም Ж')
    (corpus / "wavs" / 'odd,"name.wav').write_bytes((corpus / "wavs" / "u000.wav").read_bytes())
    run_prepare(corpus, features)
    with (features / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["row"], row["id"]) == ("25", 'odd,"name')
    assert "U+0416" in row["detail"]


def test_corpus_without_a_good_row_is_one_line(tmp_path: Path, features: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 0)
    add_hostile_rows(corpus)
    with pytest.raises(UserError, match=r"none of 14 rows .* see .*quarantine\.csv") as error:
        run_prepare(corpus, features, max_seconds=2.2, max_seconds_per_token=0.6)
    assert "\n" not in str(error.value)
    assert len(quarantine(features)) == 14
    assert not (features / "manifest.json").exists()


def test_corpus_without_rows_is_one_line(tmp_path: Path, features: Path) -> None:
    with pytest.raises(UserError, match="no rows"):
        run_prepare(make_corpus(tmp_path / "corpus", 0), features)
    assert not features.exists()


def test_files_are_of_bounded_size(corpus: Path, features: Path) -> None:
    manifest = run_prepare(corpus, features, shard_mb=0.02)
    shards = manifest.splits["train"].shards
    assert len(shards) > 3
    mel_bytes = [shard.n_utterances * 53 * MEL.n_mels * 4 for shard in shards]  # 53 frames each
    assert max(mel_bytes) <= 20_000 * 1.05


def test_features_where_a_file_stands_are_refused(corpus: Path, features: Path) -> None:
    features.touch()
    with pytest.raises(UserError, match="cannot be written"):
        run_prepare(corpus, features)


@pytest.mark.slow  # of good rows tests/test_smoke.py holds it each time
def test_ray_makes_the_same_files(corpus: Path, features: Path) -> None:
    import ray

    add_hostile_rows(corpus)
    run_prepare(corpus, features)
    was_running = ray.is_initialized()
    by_ray = features.with_name("by_ray")
    extracted = Extractions()
    run_prepare(corpus, by_ray, extracted, engine="ray", workers=2)
    assert ray.is_initialized() == was_running
    assert extracted.n == 24 + 10
    ours, theirs = contents(features), contents(by_ray)
    assert [name for name in ours if ours[name] != theirs[name]] == ["summary.txt"]


def run_prepare_job(corpus: Path, features: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of `jobs/prepare.py` with a config file."""
    config = corpus.parent / "voice.yaml"
    config.write_text(
        f"corpus: {{path: {corpus}}}\ntext: {{language: am}}\nrun: {{name: tiny}}\n"
        f"prepare: {{features: nowhere, engine: local}}\n"
    )
    arguments = ["--config", str(config), "--set", f"prepare.features={features}"]
    monkeypatch.setattr("sys.argv", ["prepare.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        run_job(prepare_job)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_job_ends_with_the_summary(
    corpus: Path,
    features: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_hostile_rows(corpus)
    assert run_prepare_job(corpus, features, monkeypatch) == 0
    printed = capsys.readouterr()
    assert printed.out == (features / "summary.txt").read_text()
    assert "quarantine.csv" in printed.out
    assert printed.err == ""


def test_job_without_a_good_row_prints_one_line(
    tmp_path: Path,
    features: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = make_corpus(tmp_path / "corpus", 0)
    add_row(corpus, "nowhere|ሰላም ነው።")
    assert run_prepare_job(corpus, features, monkeypatch) == 2
    assert capsys.readouterr().err == (
        f"error: {corpus}: none of 1 rows can be used (1 missing_file); "
        f"see {features}/quarantine.csv\n"
    )


def assign(ids: list[str], **shares: float) -> dict[str, str]:
    config = PrepareConfig(features=Path("unused"), **shares)
    return dict(zip(ids, assign_splits(ids, config), strict=True))


def test_new_utterances_never_move_old_ones() -> None:
    ids = [f"utterance_{n}" for n in range(3000)]
    few, many = assign(ids[::-2]), assign(ids)
    assert all(many[name] == split for name, split in few.items())
    shares = [list(many.values()).count(name) / len(ids) for name in ("val", "test")]
    assert shares == pytest.approx([0.05, 0.05], abs=0.012)


@pytest.mark.parametrize("prefix", "abcdefgh")
def test_small_corpora_get_every_split(prefix: str) -> None:
    ids = [f"{prefix}{n}" for n in range(SMALLEST_TO_FILL)]
    assert set(assign(ids).values()) == {"train", "val", "test"}
    assert set(assign(ids, test_share=0).values()) == {"train", "val"}
    assert "train" in assign(ids[:1]).values()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_seconds": 5, "max_seconds": 4}, "must be below max_seconds"),
        ({"engine": "local", "workers": 3}, "workers has no effect"),
        ({"engine": "spark"}, "engine: .*'ray'"),
        ({"shards": 3}, "unknown key"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(PrepareConfig, {"features": "x"} | settings)
