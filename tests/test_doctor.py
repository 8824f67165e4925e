"""The doctor of corpora: what it measures is true, and wrong texts come first."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray
from prepare_fixtures import TEXT, TEXTS, add_row, make_corpus, run_prepare
from tracking_fixtures import make_store, settings_of

from benchmarks.misfits import main as main_misfits
from benchmarks.misfits import measure as measure_misfits
from data_prep.doctor.measure import measure
from data_prep.doctor.texts import duplicates, pairs_never_heard
from data_prep.misfit import corpus_misfits
from data_prep.recipes.espeak import ENGINES, SAMPLE_SENTENCES, render_corpus
from dimts.audio.files import Decoded
from dimts.commands import doctor
from dimts.core.errors import ConfigError
from dimts.families.acoustic.alignment.em import align_corpus
from dimts.families.acoustic.alignment.misfit import misfits
from dimts.features.feature_set import FeatureSet
from dimts.text.language import load_language
from dimts.text.tokenizer import Tokenizer


def test_wrong_texts_have_the_worst_scores() -> None:
    rng = np.random.default_rng(0)
    sounds_VM = rng.normal(0, 1, (20, 16)).astype(np.float32)
    said = [rng.integers(0, 20, 12) for _ in range(60)]

    def speak(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        heard = np.repeat(sounds_VM[ids], rng.integers(3, 8, len(ids)), axis=0)
        return (heard + rng.normal(0, 0.5, heard.shape)).astype(np.float32)

    mels = [speak(ids) for ids in said]
    texts = list(said)
    wrong = [4, 17, 30]
    for a, b in zip(wrong, wrong[1:] + wrong[:1], strict=True):
        texts[a] = said[b]
    factors = np.zeros((20, 0), np.int64)
    durations = align_corpus(texts, mels.__getitem__, factors, 2, 6)
    scores = misfits(texts, mels.__getitem__, durations, factors)
    assert set(np.argsort(-scores)[:3].tolist()) == set(wrong)
    assert scores[wrong].min() > 0.5 > np.delete(scores, wrong).max()


def test_a_recording_is_measured() -> None:
    rng = np.random.default_rng(0)
    t = np.arange(44_100) / 44_100
    speech = np.where((t > 0.3) & (t < 0.7), 0.1 * np.sin(2 * np.pi * 1000 * t), 0)
    found = measure(Decoded((speech + rng.normal(0, 1e-3, len(t))).astype(np.float32), 44_100, 0))
    assert found.snr == pytest.approx(37, abs=1.5)
    assert found.loudness == pytest.approx(-23, abs=1)
    assert found.clipped == 0
    assert found.bandwidth > 20_000
    clipped = measure(Decoded(np.clip(20 * speech, -1, 1).astype(np.float32), 44_100, 0))
    assert clipped.clipped > 0.2


def test_the_band_of_an_upsampled_recording_is_found() -> None:
    soxr = pytest.importorskip("soxr")
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    found = measure(Decoded(soxr.resample(noise, 16_000, 44_100), 44_100, 0))
    assert found.bandwidth == pytest.approx(8000, rel=0.05)


def test_pairs_and_duplicates() -> None:
    texts = ["ab" * 20, "ca" * 20]
    pairs = dict(pairs_never_heard(texts))
    assert {"cb", "bc", "bb", "aa", "cc"} == pairs.keys()
    assert next(iter(pairs)) == "aa"
    assert duplicates("xyx", ["1", "2", "3"]) == [["1", "3"]]


class Links(HTMLParser):
    """Whatever a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def run_doctor(corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    command = ["doctor", str(corpus), "--language", "am", "--out", str(out)]
    settings = [part for option in options for part in ("--set", option)]
    monkeypatch.setattr(sys, "argv", [*command, *settings])
    doctor.main()


def test_doctor_makes_a_page_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(tmp_path / "corpus", 8)
    add_row(corpus, "<script>x</script>|ሰላም ነው።")  # a file that is not there
    evil = "<img src=x onerror=alert(1)>"
    (corpus / "wavs" / f"{evil}.wav").write_bytes((corpus / "wavs" / "u001.wav").read_bytes())
    add_row(corpus, f"{evil}|{TEXTS[1]}")
    tracking = settings_of(make_store(tmp_path / "store"), "corpora")
    recorded = (f"tracking.uri={tracking.uri}", f"tracking.artifacts={tracking.artifacts}")
    run_doctor(corpus, tmp_path / "out", monkeypatch, "prepare.engine=local", *recorded)
    printed = capsys.readouterr().out
    assert "9 of 10 rows" in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["refused"] == {"missing_file": 1}
    assert report["same_recording"] == [["u001", evil]]
    assert [row["misfit"] for row in report["rows"]] == sorted(
        (row["misfit"] for row in report["rows"]), reverse=True
    )
    links = Links()
    links.feed((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert not {"script", "img", "link", "iframe"} & links.tags
    assert len(links.sources) == 9
    for source in links.sources:
        assert soundfile.info(tmp_path / "out" / source).duration > 0.5
    client = MlflowClient(tracking.uri)
    (experiment,) = client.search_experiments(filter_string="name = 'dimts'")
    (recorded_run,) = client.search_runs([experiment.experiment_id])
    assert f"run {recorded_run.info.run_id} in " in printed
    assert recorded_run.data.metrics["corpus/used"] == 9
    kept = Path(recorded_run.info.artifact_uri.removeprefix("file://"), "doctor")
    assert (kept / "index.html").read_bytes() == (tmp_path / "out" / "index.html").read_bytes()
    assert all((kept / source).is_file() for source in links.sources)


@pytest.mark.parametrize(
    ("setting", "option"),
    [("corpus.path=x", "CORPUS"), ("text.language=ti", "--language"),
     ("prepare.features=x", "--out")],
)  # fmt: skip
def test_what_an_option_says_cannot_be_set(
    setting: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=f"--set {setting.partition('=')[0]}: .*{option} says"):
        run_doctor(tmp_path, tmp_path / "out", monkeypatch, setting)


def test_texts_that_fit_worse_than_allowed_are_left_out(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 8)
    shares: dict[str, Any] = {"val_share": 0.0, "test_share": 0.0}
    everything = run_prepare(corpus, tmp_path / "features", max_misfit=10, **shares)
    assert "misfit" not in everything.quarantined
    tokenizer = Tokenizer.from_language(load_language("am"), TEXT)
    split = FeatureSet.open(tmp_path / "features").split("train")
    mels = [split.mel(n) for n in range(len(split))]
    scores = corpus_misfits(mels, split.texts, split.values("speaker"), tokenizer)
    limit = float(np.sort(scores)[-3:-1].mean())
    fewer = run_prepare(corpus, tmp_path / "features", max_misfit=limit, **shares)
    assert fewer.quarantined == {"misfit": 2}
    left = set(FeatureSet.open(tmp_path / "features").split("train").ids)
    assert set(split.ids) - left == {split.ids[n] for n in np.argsort(scores)[-2:]}


@pytest.mark.slow
def test_swapped_texts_are_among_the_worst_of_the_sample_corpus(
    tmp_path: Path,
) -> None:
    render_corpus(SAMPLE_SENTENCES, tmp_path / "corpus", "am", None, ENGINES["espeak"])
    found = measure_misfits(tmp_path / "corpus", "am", tmp_path / "out", seed=1)
    assert found.wrong == 30
    assert found.among_worst >= 0.9 * found.wrong


@pytest.mark.slow
def test_a_voice_that_learns_wrong_texts_examines_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_corpus(tmp_path / "corpus", 40)
    command = [f"--corpus={tmp_path / 'corpus'}", "--language=am", "--steps=2", "--seeds=1"]
    assert main_misfits(command) == 0
    assert "of 2 wrong rows" in capsys.readouterr().out
