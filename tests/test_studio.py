"""The studio: what its pages may ask for, and what comes of it."""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from mlflow.tracking import MlflowClient
from starlette.testclient import TestClient
from tracking_fixtures import settings_of
from voice_fixtures import untrained, write_voice

from dimts.commands.studio import actions
from dimts.commands.voice_config import load_voice
from dimts.core.errors import UserError
from dimts.evaluation.answers import read_answers
from dimts.evaluation.listening import Answer
from dimts.evaluation.mushra import REFERENCE, Rating
from dimts.studio.blind_test import Sentence
from dimts.studio.listen import ListeningTest
from dimts.studio.rate import RatingTest
from dimts.studio.record import Recorder, next_sentence
from dimts.studio.server import build_app
from dimts.studio.voices import Voices
from dimts.tracking.config import TrackingConfig
from dimts.tracking.listeners import listeners_against
from dimts.tracking.registry import Registry

pytest_plugins = ("tracking_fixtures",)

SENTENCE = "ሰላም ለሁሉም።"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two voices."""
    folder = tmp_path_factory.mktemp("voices")
    return [str(write_voice(folder / name, untrained(seed))) for seed, name in enumerate("ab")]


@pytest.fixture
def own_file(voice_file: Path, spoken_corpus: Path, tmp_path: Path) -> Path:
    """The settings of the tiny voice with a corpus of the test's own."""
    shutil.copytree(spoken_corpus, tmp_path / "corpus")
    settings = yaml.safe_load(voice_file.read_text(encoding="utf-8"))
    settings["corpus"]["path"] = str(tmp_path / "corpus")
    file = tmp_path / "voice.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def arguments(folder: Path, **given: Any) -> argparse.Namespace:
    """Options of the command."""
    options: dict[str, Any] = {
        "model": [], "config": [], "overrides": [], "record": None, "sentences": None,
        "answers": folder / "answers.jsonl", "ratings": folder / "ratings.jsonl", "trials": 4,
        "tracking": TrackingConfig(),
    }  # fmt: skip
    return argparse.Namespace(**options | given)


@pytest.fixture
def client(models: list[str], own_file: Path, tmp_path: Path) -> TestClient:
    """A browser before the whole studio."""
    sentences = tmp_path / "sentences.txt"
    sentences.write_text(f"ሰላም።\n{SENTENCE}\n", encoding="utf-8")
    given = arguments(
        tmp_path, model=models, config=[own_file], record=tmp_path / "mine", sentences=sentences
    )
    return TestClient(build_app(*actions(given), None), base_url="http://127.0.0.1")


def samples(wav: bytes) -> tuple[Any, int]:
    return soundfile.read(io.BytesIO(wav))


def speech(seconds: float, peak: float = 0.5, noise: float = 0) -> str:
    """A tone that swells, as a WAV file in base64."""
    times = np.arange(round(16_000 * seconds))
    wave = peak * np.sin(times / 9) * np.hanning(len(times))
    wave = np.clip(wave + np.random.default_rng(0).normal(0, noise, len(times)), -1, 1)
    file = io.BytesIO()
    soundfile.write(file, wave, 16_000, "PCM_16", format="WAV")
    return base64.b64encode(file.getvalue()).decode()


def test_voice_speaks_a_text_and_shows_what_it_read(client: TestClient, models: list[str]) -> None:
    assert client.get("/api/about").json() == {
        "pages": ["speak", "listen", "rate", "record", "corpus"], "models": models,
    }  # fmt: skip
    assert client.get("/api/voice", params={"model": models[0]}).json()["languages"] == ["am"]
    said = {"model": models[0], "text": "ሰላም  ለሁሉም", "speed": 1.5}
    made = client.post("/api/speak", json=said).json()
    assert made["normalised"] == "ሰላም ለሁሉም"
    assert made["tokens"] >= len("ሰላም ለሁሉም")
    assert made["mel"].startswith("data:image/png;base64,iVBOR")
    wave, rate = samples(base64.b64decode(made["wav"].partition(",")[2]))
    assert len(wave) / rate == pytest.approx(made["seconds"]) and np.abs(wave).max() > 0


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"model": "/etc"}, "started without this voice"),
        ({"text": "ሰ" * 2001}, "2001 characters"),
        ({"text": "hello"}, "not in the alphabet"),
        ({"speed": 100}, "speed 100"),
        ({"speed": "fast"}, "speed: "),
        ({"language": "xx"}, "language 'xx'"),
        ({"path": "x"}, "path: "),
    ],
)
def test_what_cannot_be_spoken_is_one_line(
    values: dict[str, Any], why: str, client: TestClient, models: list[str]
) -> None:
    answer = client.post("/api/speak", json={"model": models[0], "text": SENTENCE} | values)
    assert answer.status_code == 400 and why in answer.json()["error"]


def test_listeners_compare_blindly_and_go_on(
    client: TestClient, models: list[str], tmp_path: Path
) -> None:
    first = client.get("/api/listen/trial", params={"listener": "hana"}).json()
    n = first["of"]
    assert (first["trial"], n > 0, bool(first["text"])) == (0, True, True)
    clip: dict[str, str | int] = {"listener": "hana", "trial": 0}
    a, b = (client.get("/api/listen/clip", params=clip | {"side": side}).content for side in (0, 1))
    assert a != b
    loudness = [float(np.sqrt(np.mean(samples(wav)[0] ** 2))) for wav in (a, b)]
    assert loudness[0] == pytest.approx(loudness[1], rel=0.05) or min(loudness) > 0.03
    told = json.dumps(first) + str(
        client.get("/api/listen/clip", params=clip | {"side": 0}).headers
    )
    assert not [name for name in models if name in told]
    for trial in range(n):
        judged = {"listener": "hana", "trial": trial, "choice": "first"}
        after = client.post("/api/listen/answer", json=judged).json()
        client.post("/api/listen/answer", json=judged)  # a button that was clicked twice
        assert after["trial"] == trial + 1
    assert after["text"] is None
    answers = read_answers(tmp_path / "answers.jsonl", Answer)
    assert len(answers) == n and {a.listener for a in answers} == {"hana"}
    pair = client.get("/api/listen/result").json()["pairs"][0]
    assert {pair["one"], pair["other"]} == set(models) and pair["listeners"] == 1
    refused = client.post("/api/listen/log", json={}).json()
    assert "compare registered voices" in refused["error"]


@pytest.mark.integration
def test_result_is_logged_on_the_versions_compared(store: Path, tmp_path: Path) -> None:
    tracking = settings_of(store, "listening")
    client = MlflowClient(tracking.uri, registry_uri=tracking.uri)
    client.create_registered_model("heard")
    for _ in range(2):
        client.create_model_version("heard", str(tmp_path), await_creation_for=0)
    client.set_registered_model_alias("heard", "champion", "2")
    voices = Voices(["models:/heard@champion", "models:/heard/1"], tracking)
    assert voices.names == ["models:/heard/2", "models:/heard/1"]
    sentences = dict.fromkeys("st", Sentence(SENTENCE, "am"))
    test = ListeningTest(voices, sentences, tmp_path / "a.jsonl", 2)
    for listener in ("hana", "lia", "omar"):
        for n, trial in enumerate(test.plan(listener)):
            choice = "first" if trial.first == voices.names[0] else "second"
            test.answer({"listener": listener, "trial": n, "choice": choice})
    assert sorted(test.log({}, tracking)["logged"]) == sorted(voices.names)
    candidate, champion = Registry(tracking, "heard").version("1"), voices.names[0]
    assert candidate.tags["listeners.heard/2.preferred"] == "0.000"
    assert candidate.tags["listeners.heard/2.preferred_listeners"] == "3"
    best = Registry(tracking, "heard").get("champion")
    assert best.uri == champion and best.tags["listeners.heard/1.preferred"] == "1.000"
    assert listeners_against(best, candidate, []) == []
    [worse] = listeners_against(candidate, best, [])
    assert worse.startswith("listeners find it worse than version 2: preferred 0.000 (0.000 to 0.")

    ratings = RatingTest(voices, {"s": Sentence(SENTENCE, "am")}, tmp_path / "r.jsonl", 1, None)
    for listener, points in (("hana", (40, 60)), ("lia", (41, 60)), ("omar", (42, 60))):
        [screen] = ratings.plan(listener)
        given = points if screen.systems[0] == voices.names[0] else points[::-1]
        ratings.rate({"listener": listener, "trial": 0, "points": given})
    ratings.log({}, tracking)
    assert Registry(tracking, "heard").version("1").tags["listeners.heard/2.points"] == "19.000"
    [worse] = listeners_against(Registry(tracking, "heard").get("champion"), candidate, [])
    assert "points -19.000 (-21.484 to -16.516)" in worse


def test_clips_are_rated_with_the_recording_hidden_among_them(
    client: TestClient, models: list[str], tmp_path: Path
) -> None:
    first = client.get("/api/rate/trial", params={"listener": "hana"}).json()
    assert (first["clips"], first["reference"]) == (3, True) and first["text"]
    clips = [
        client.get("/api/rate/clip", params={"listener": "hana", "trial": 0, "side": side}).content
        for side in range(3)
    ]
    assert len(set(clips)) == 3
    told = client.get("/api/rate/clip", params={"listener": "hana", "trial": 0, "side": 3})
    assert "there are 3" in told.json()["error"]
    for points in ([50, 60], [50, 60, 101], [50, 60, "x"]):
        judged = {"listener": "hana", "trial": 0, "points": points}
        assert "points" in client.post("/api/rate/answer", json=judged).json()["error"]
    for trial in range(first["of"]):
        judged = {"listener": "hana", "trial": trial, "points": [10, 20, 95]}
        after = client.post("/api/rate/answer", json=judged).json()
        client.post("/api/rate/answer", json=judged)  # a button that was clicked twice
    assert (after["text"], after["trial"]) == (None, first["of"])
    kept = read_answers(tmp_path / "ratings.jsonl", Rating)
    assert len(kept) == first["of"]
    assert all(set(rating.systems) == {*models, REFERENCE} for rating in kept)
    result = client.get("/api/rate/result").json()
    missed = sum(rating.of_system[REFERENCE] < 90 for rating in kept)
    assert result["left_out"] == ["hana"] * (missed > 0.15 * len(kept))
    assert len(result["means"]) == 3 * (not result["left_out"])


def test_recordings_are_a_corpus_that_prepare_takes(
    client: TestClient, own_file: Path, tmp_path: Path
) -> None:
    from data_prep.pipeline import prepare

    first = client.get("/api/sentence").json()
    assert first == {"sentence": SENTENCE, "recorded": 0, "of": 2}  # of the most pairs

    def keep(wav: str, sentence: str = SENTENCE) -> Any:
        return client.post("/api/recording", json={"sentence": sentence, "wav": wav}).json()

    for wav, why in (
        (speech(2, peak=3), "clipped"),
        (speech(2, peak=1e-5), "silent"),
        (speech(0.1), "too_short"),
        (speech(2, noise=0.05), "noisy: the speech is 1"),
        (speech(19), "text_too_short"),
        (base64.b64encode(b"no sound").decode(), "broken_audio"),
        ("?", "base64"),
    ):
        assert why in keep(wav)["error"]
    assert "not one of those" in keep(speech(2), "ሌላ")["error"]
    assert not (tmp_path / "mine").exists()
    (tmp_path / "mine" / "wavs").mkdir(parents=True)
    (tmp_path / "mine" / "metadata.csv").write_text("of_others|ሌላ", encoding="utf-8")  # no end
    assert keep(speech(2)) == {"sentence": "ሰላም።", "recorded": 1, "of": 2}
    assert keep(speech(2), "ሰላም።")["sentence"] is None

    config: Any = load_voice([own_file], [f"corpus.path={tmp_path / 'mine'}",
                                          f"prepare.features={tmp_path / 'f'}"])  # fmt: skip
    again = Recorder(tmp_path / "mine", tmp_path / "sentences.txt", config.text, config.prepare)
    assert again.next({}) == {"sentence": None, "recorded": 2, "of": 2}
    made = prepare(config.corpus, config.text, config.of_family.extractors(config), config.prepare)
    assert made.n_utterances == 2 and made.quarantined == {"missing_file": 1}


def test_next_sentence_brings_the_most_missing_pairs() -> None:
    texts = ["abab", "abcdef", "cdef", "xy"]
    assert next_sentence(texts, []) == "abcdef"
    assert next_sentence(texts, ["abcdef"]) == "xy"  # three new pairs; "abab" has two
    assert next_sentence(texts, ["abcdef", "xy"]) == "abab"
    assert next_sentence(texts, texts) is None


def test_row_marked_as_bad_is_left_out_by_prepare(
    client: TestClient, own_file: Path, tmp_path: Path
) -> None:
    from data_prep.pipeline import prepare

    page = client.get("/api/rows").json()
    row = page["rows"][3]
    assert client.get("/api/rows", params={"word": row["text"]}).json()["rows"][0] == row
    wave, rate = samples(client.get("/api/row", params={"index": 3}).content)
    assert len(wave) > rate / 4
    assert client.post("/api/mark", json={"index": 3, "bad": True}).json() == {"bad": 1}
    assert client.post("/api/mark", json={"index": 5, "bad": True}).json() == {"bad": 2}
    assert client.post("/api/mark", json={"index": 5, "bad": False}).json() == {"bad": 1}
    assert client.get("/api/rows").json()["rows"][3]["bad"] is True
    config: Any = load_voice([own_file], [f"prepare.features={tmp_path / 'features'}"])
    made = prepare(config.corpus, config.text, config.of_family.extractors(config), config.prepare)
    assert made.quarantined == {"left_out": 1}
    with (tmp_path / "features" / "quarantine.csv").open(encoding="utf-8") as file:
        assert [refused["id"] for refused in csv.DictReader(file)] == [row["id"]]


def test_only_who_may_is_let_in() -> None:
    reads: dict[str, Callable[..., Any]] = {"x": lambda values: dict(values)}
    app = build_app(reads, {"y": lambda values: {}}, None)
    here = TestClient(app, base_url="http://localhost:7860")
    assert here.get("/api/x?a=1").json() == {"a": "1"}
    assert TestClient(app, base_url="http://evil.example").get("/api/x").status_code == 403
    elsewhere = {"Origin": "http://evil.example"}
    assert here.post("/api/y", json={}, headers=elsewhere).status_code == 403
    assert (
        here.post("/api/y", content="{}", headers={"Content-Type": "text/plain"}).status_code == 415
    )
    for text in ("[]", "{", "[" * 100_000):
        kind = {"Content-Type": "application/json"}
        assert here.post("/api/y", content=text, headers=kind).status_code == 400
    assert "frame-ancestors 'none'" in here.get("/").headers["content-security-policy"]

    asked = TestClient(build_app(reads, {}, "sesame"), base_url="http://studio.example")
    assert asked.get("/api/x").status_code == asked.get("/").status_code == 401
    assert asked.get("/api/x?token=sesame").status_code == 401  # only the page takes it
    assert asked.get("/?token=wrong").status_code == 401
    assert asked.get("/?token=sesame").status_code == 200
    assert asked.get("/api/x").status_code == 200


def test_nothing_to_show_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_file: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no voice in runs/"):
        actions(arguments(tmp_path))
    with pytest.raises(UserError, match="no such bundle"):
        actions(arguments(tmp_path, model=["gone"]))
    with pytest.raises(UserError, match="give --config, --record and --sentences"):
        actions(arguments(tmp_path, config=[own_file], record=tmp_path / "mine"))
