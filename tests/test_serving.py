"""Speech over HTTP without Ray: the service over a voice in this process."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray
from starlette.testclient import TestClient
from tracking_fixtures import make_store
from voice_fixtures import untrained, write_voice

import dimts
from dimts.core.errors import UserError
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.vocoder.model.config import GeneratorConfig, ModelConfig, PitchNetConfig
from dimts.families.vocoder.model.vocoder import Vocoder
from dimts.families.vocoder.speaker import NeuralVocoder
from dimts.serving.api import create_app, token_digest
from dimts.serving.audio import FORMATS
from dimts.serving.config import ServingConfig
from dimts.serving.voice import Chunk, Order, VoiceServer
from dimts.text.pieces import SENTENCE_PAUSE, pieces
from dimts.tracking.config import TrackingConfig

SPEECH = "/v1/audio/speech"
SENTENCES = ["ሰላም ለዓለም።", "ቡና ጠጣ?", "ደህና ነው።"]
TEXT = " ".join(SENTENCES)
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ServingConfig:
    bundle = write_voice(tmp_path_factory.mktemp("voice") / "hum")
    return ServingConfig(
        model=str(bundle), vocoder="griffin-lim", max_chars=1000, body_timeout_s=0.2
    )


@pytest.fixture(scope="module")
def voice(config: ServingConfig) -> Iterator[VoiceServer]:
    server = VoiceServer(config)
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(config: ServingConfig, voice: VoiceServer) -> Iterator[TestClient]:
    with TestClient(create_app(config, voice)) as client:
        yield client


@pytest.fixture(scope="module")
def spoken(config: ServingConfig) -> NDArray[np.float32]:
    """What the voice says by itself, sentence by sentence."""
    speaker = dimts.load(config.model, vocoder=config.vocoder)
    return np.concatenate([*speaker.stream(TEXT)])  # type: ignore[attr-defined]


def test_each_sentence_is_a_piece_however_short() -> None:
    found = list(pieces(TEXT, "።?", each_sentence=True))
    assert [piece.text for piece in found] == SENTENCES
    assert [piece.pause > 0 for piece in found] == [True, True, False]
    long = "ሰላም " * 100 + "ነው።"
    assert [p.text for p in pieces(f"{long} {TEXT}", "።?", each_sentence=True)][-3:] == SENTENCES


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_holds_what_the_voice_says(
    client: TestClient, spoken: NDArray[np.float32], name: str
) -> None:
    answer = client.post(SPEECH, json={"input": TEXT, "response_format": name})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == FORMATS[name].media_type
    if name == "pcm":
        wave, rate = np.frombuffer(answer.content, "<i2") / 32768, 24_000
    else:
        wave, rate = soundfile.read(io.BytesIO(answer.content))
    assert len(wave) / rate == pytest.approx(len(spoken) / 22_050, abs=0.1)
    if name in ("wav", "flac"):
        assert np.abs(wave - spoken).max() < 1e-4
    else:  # nothing is louder than it was: no click at an end
        assert np.abs(wave).max() < 1.2 * np.abs(spoken).max()


def test_sentences_come_one_by_one_and_those_nobody_hears_are_not_spoken(
    voice: VoiceServer,
) -> None:
    async def first_of(text: str) -> list[Chunk]:
        speech = voice.speak(Order(text))
        found = [await anext(speech)]
        await speech.aclose()
        found += [item async for item in voice.speak(Order(TEXT))]
        return [item for item in found if isinstance(item, Chunk)]

    one, *all_of = asyncio.run(first_of(TEXT))
    assert len(all_of) == len(SENTENCES)
    assert np.array_equal(one.samples, all_of[0].samples)


def test_a_sentence_comes_in_chunks_and_the_same_samples(config: ServingConfig) -> None:
    speaker = dimts.load(config.model, vocoder="griffin-lim")
    assert isinstance(speaker, AcousticSpeaker)
    small = ModelConfig(
        pitch=PitchNetConfig(channels=8, hidden=8, blocks=1),
        generator=GeneratorConfig(channels=8, hidden=8, blocks=1),
    )
    torch.manual_seed(0)
    speaker.vocoder = NeuralVocoder(Vocoder(small, speaker.mel_config).eval())
    long = " ".join(["ሰላም ለዓለም"] * 10) + "።"
    chunks = list(speaker.stream(f"{long} {long}", speed=0.5))
    hop, one = speaker.mel_config.hop_length, speaker.speak(long, speed=0.5)
    assert len(chunks) > 2
    assert len(chunks[0]) == 32 * hop
    silence = np.zeros(round(SENTENCE_PAUSE / 0.5 * speaker.sample_rate))
    spoken = np.concatenate(chunks)
    np.testing.assert_allclose(spoken, np.concatenate([one, silence, one]), atol=2e-4)
    assert np.abs(one).max() > 1e-3


def test_speed_language_and_stock_names_are_taken(client: TestClient) -> None:
    def length(**options: Any) -> int:
        answer = client.post(SPEECH, json={"input": TEXT, "response_format": "wav", **options})
        assert answer.status_code == 200, answer.text
        return len(answer.content) - 44

    usual = length()
    assert length(voice="alloy", model="gpt-4o-mini-tts", instructions="cheerful") == usual
    assert length(language="am", model="hum") == usual
    assert length(speed=2.0) == pytest.approx(usual / 2, rel=0.05)


def test_a_player_asks_by_query(client: TestClient) -> None:
    query = {"input": TEXT, "response_format": "wav", "speed": "2"}
    asked, posted = client.get(SPEECH, params=query), client.post(SPEECH, json=query)
    assert asked.status_code == 200
    assert asked.content == posted.content


HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "not valid JSON"),
    "no JSON": (b"input=hello", 400, "not valid JSON"),
    "another encoding": ('{"input": "ሰላም"}'.encode("utf-16"), 400, "not valid JSON"),
    "half a character": (b'{"input": "\xe1\x88"}', 400, "not valid JSON"),
    "half a pair": (b'{"input": "\\ud800"}', 400, "not valid JSON"),
    "too deep": (b"[" * 5000, 400, "not valid JSON"),
    "a list": (b'["input"]', 400, "must be a JSON object"),
    "no text": (b'{"model": "hum"}', 400, "input: is required"),
    "an empty text": (b'{"input": ""}', 400, "input: string should have at least 1"),
    "spaces": (b'{"input": "   "}', 400, "empty"),
    "a number as text": (b'{"input": 7}', 400, "input: input should be a valid string"),
    "no such format": (b'{"input": "x", "response_format": "aac"}', 400, "response_format: "),
    "no number": (b'{"input": "x", "speed": NaN}', 400, "speed: "),
    "too fast": (b'{"input": "x", "speed": 1e9}', 400, "speed: "),
    "an unknown key": (b'{"input": "x", "sample": 1}', 400, "sample: unknown key"),
    "a stranger": (json.dumps({"input": TEXT, "voice": "eve"}).encode(), 400, "voice eve"),
    "no such language": (json.dumps({"input": TEXT, "language": "xx"}).encode(), 400, "xx"),
    "no such model": (json.dumps({"input": TEXT, "model": "b"}).encode(), 404, "there is hum"),
    "unknown letters": ('{"input": "漢字"}'.encode(), 400, "not in the alphabet"),
    "control characters": (b'{"input": "\\u0000\\u001b[2J"}', 400, ""),
    "a long text": (b'{"input": "' + b"x" * 1001 + b'"}', 400, "1001 characters, at most 1000"),
    "a huge body": (b'{"input": "' + b"x" * 100_000 + b'"}', 413, "at most 16096 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_requests_are_refused_in_one_line(client: TestClient, case: str) -> None:
    body, status, message = HOSTILE[case]
    answer = client.post(SPEECH, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    told = answer.json()["error"]["message"]
    assert message in told and "\n" not in told and "Traceback" not in told


def test_other_content_types_paths_and_methods_are_refused(client: TestClient) -> None:
    assert client.post(SPEECH, content=b"{}").status_code == 415
    assert client.post(SPEECH, data={"input": TEXT}).status_code == 415
    assert client.put(SPEECH, json={"input": TEXT}).status_code == 405
    missing = client.get("/v1/audio/../../etc/passwd")
    assert missing.status_code == 404 and "error" in missing.json()


def call(app: Any, messages: list[dict[str, Any]]) -> tuple[int, int]:
    """Status and bytes of what an ASGI application answers to a request whose messages come one by
    one, the last ones after the first sound; then nothing more comes."""

    async def run() -> tuple[int, int]:
        waiting, sounds = list(messages), asyncio.Event()
        sent: dict[str, int] = {"status": 0, "bytes": 0}

        async def receive() -> dict[str, Any]:
            if waiting and waiting[0]["type"] == "http.disconnect":
                await sounds.wait()
            elif not waiting:
                await asyncio.Event().wait()
            return waiting.pop(0)

        async def send(message: Any) -> None:
            sent["status"] = message.get("status", sent["status"])
            sent["bytes"] += len(message.get("body", b""))
            if message.get("body"):
                sounds.set()

        headers = [(b"content-type", b"application/json"), (b"host", b"here")]
        scope = {
            "type": "http", "method": "POST", "path": SPEECH, "query_string": b"",
            "headers": headers, "asgi": {"version": "3.0"}, "scheme": "http",
        }  # fmt: skip
        await app(scope, receive, send)
        return sent["status"], sent["bytes"]

    return asyncio.run(run())


def test_a_sender_that_stops_is_told_so(config: ServingConfig, voice: VoiceServer) -> None:
    part = {"type": "http.request", "body": b'{"input": ', "more_body": True}
    assert call(create_app(config, voice), [part])[0] == 408


def test_a_client_that_goes_ends_the_speech(
    config: ServingConfig, voice: VoiceServer, client: TestClient
) -> None:
    text = " ".join(SENTENCES * 20)
    body = json.dumps({"input": text, "response_format": "pcm"}).encode()
    request = {"type": "http.request", "body": body, "more_body": False}
    app = create_app(config, voice)
    status, had = call(app, [request, {"type": "http.disconnect"}])
    assert status == 200
    whole = len(client.post(SPEECH, content=body, headers=JSON).content)
    assert 0 < had < whole / 4
    with TestClient(app) as after:
        assert "dimts_requests_in_progress 0.0" in after.get("/metrics").text


def test_who_brings_no_token_hears_nothing(config: ServingConfig, voice: VoiceServer) -> None:
    token = "a-long-enough-token"
    with TestClient(create_app(config, voice, token_digest(token))) as client:
        for given in ("", "Bearer", "Bearer wrong", f"Basic {token}", "Bearer ክብር"):
            refused = {b"authorization": given.encode()}
            for path in ("/v1/models", "/v1/voices", "/metrics", f"{SPEECH}?input=x"):
                answer = client.get(path, headers=refused)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        headers = {"authorization": f"Bearer {token}"}
        assert client.post(SPEECH, json={"input": TEXT}, headers=headers).status_code == 200
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/health", headers=headers).json()["versions"] == ["hum"]


def test_what_there_is_can_be_asked(client: TestClient, config: ServingConfig) -> None:
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["hum"]
    (only,) = client.get("/v1/voices").json()["data"]
    assert (only["id"], only["languages"]) == ("default", ["am"])
    assert client.get("/health").json()["versions"] == ["hum"]
    client.post(SPEECH, content=b"", headers=JSON)
    assert 'dimts_speech_requests_total{status="400"}' in client.get("/metrics").text


def test_voices_of_nobody_are_one_line(config: ServingConfig, voice: VoiceServer) -> None:
    class Away:
        speak = voice.speak

        async def status(self) -> list[Any]:
            return []

    with TestClient(create_app(config, Away()), raise_server_exceptions=False) as client:
        answer = client.get("/v1/voices")
    assert (answer.status_code, "no replica" in answer.json()["error"]["message"]) == (503, True)


def test_the_voice_follows_its_alias_and_a_broken_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMTS_CACHE", str(tmp_path / "cache"))
    tracking = TrackingConfig(uri=f"sqlite:///{make_store(tmp_path / 'store')}/mlflow.db")
    registry = MlflowClient(tracking.uri, registry_uri=tracking.uri)
    registry.create_registered_model("am")
    for seed in (1, 2, 3):
        bundle = write_voice(tmp_path / str(seed), untrained(seed))
        registry.create_model_version("am", str(bundle))
    (bundle / "model.safetensors").write_bytes(b"nonsense")
    registry.set_registered_model_alias("am", "champion", "1")
    config = ServingConfig(
        model="models:/am@champion", vocoder="griffin-lim", tracking=tracking, follow_every_s=3600
    )
    server = VoiceServer(config)

    def version(of: VoiceServer) -> tuple[str, bool]:
        (status,) = asyncio.run(of.status())
        return status.version, status.warning is not None

    async def moves_meanwhile() -> list[Any]:
        speech = server.speak(Order(TEXT))
        first = await anext(speech)
        registry.set_registered_model_alias("am", "champion", "2")
        server.refresh()
        return [first] + [item async for item in speech] + [await anext(server.speak(Order(TEXT)))]

    assert version(server) == ("models:/am/1", False)
    *before, after = asyncio.run(moves_meanwhile())
    assert {item.version for item in before} == {"models:/am/1"}
    assert after.version == "models:/am/2"
    registry.set_registered_model_alias("am", "champion", "3")
    server.refresh()
    assert version(server) == ("models:/am/2", True)
    again = VoiceServer(config)  # as after a crash: the last good one of this machine
    assert version(again) == ("models:/am/2", True)
    with TestClient(create_app(config, again)) as client:
        health = client.get("/health").json()
        assert health["status"] == "warning"
        assert "model.safetensors" in health["warnings"][0]
        assert client.post(SPEECH, json={"input": TEXT}).status_code == 200
    registry.set_registered_model_alias("am", "champion", "1")
    again.refresh()
    assert version(again) == ("models:/am/1", False)
    monkeypatch.setenv("DIMTS_CACHE", str(tmp_path / "another"))
    registry.delete_registered_model_alias("am", "champion")
    with pytest.raises(UserError, match="no voice am@champion"):
        VoiceServer(config)
    for of in (server, again):
        of.close()
