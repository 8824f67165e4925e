"""`dimts serve` on a real Ray: OpenAI's client, too many requests, the alias moved and a replica
killed while it speaks."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tracking_fixtures import make_store
from voice_fixtures import untrained, write_voice

import dimts
from benchmarks.serve import Answer, Service, ask, connected

pytestmark = pytest.mark.slow

TOKEN = "a-long-enough-token"
TEXT = "ሰላም ለዓለም። ቡና ጠጣ? ደህና ነው።"


def test_the_service_speaks_through_all_that_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient
    from openai import AuthenticationError, BadRequestError, OpenAI

    uri = f"sqlite:///{make_store(tmp_path / 'store')}/mlflow.db"
    registry = MlflowClient(uri, registry_uri=uri)
    registry.create_registered_model("am")
    for seed in (1, 2):
        bundle = write_voice(tmp_path / str(seed), untrained(seed))
        registry.create_model_version("am", str(bundle))
    registry.set_registered_model_alias("am", "champion", "1")
    monkeypatch.setenv("DIMTS_SERVE_TOKEN", TOKEN)
    settings = [f"tracking.uri={uri}", "follow_every_s=0.5", "vocoder=griffin-lim", "queue=4"]
    service = Service("models:/am@champion", settings, tmp_path)
    try:
        client = OpenAI(api_key=TOKEN, base_url=f"{service.url}/v1", max_retries=0)
        assert [model.id for model in client.models.list()] == ["am"]
        with client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input=TEXT, response_format="wav"
        ) as answer:
            parts = [part for part in answer.iter_bytes() if part]
            assert answer.headers["x-voice-version"] == "models:/am/1"
        wave, rate = soundfile.read(io.BytesIO(b"".join(parts)))
        speaker = dimts.load(tmp_path / "1", vocoder="griffin-lim")
        assert len(parts) > 1 and rate == speaker.sample_rate
        whole = np.concatenate([*speaker.stream(TEXT)])  # type: ignore[attr-defined]
        assert len(wave) == len(whole)
        with pytest.raises(BadRequestError, match="not in the alphabet"):
            client.audio.speech.create(model="tts-1", voice="alloy", input="漢字")
        with pytest.raises(AuthenticationError):
            OpenAI(api_key="wrong", base_url=f"{service.url}/v1").models.list()

        def say(_: int) -> str:
            with client.audio.speech.with_streaming_response.create(
                model="tts-1", voice="alloy", input=TEXT
            ) as answer:
                assert len(answer.read()) > 1000
                return str(answer.headers["x-voice-version"])

        done = threading.Event()

        def speak_on(_: int) -> Counter[str]:
            versions: Counter[str] = Counter()
            while not done.is_set():
                versions[say(0)] += 1
            return versions

        with ThreadPoolExecutor(2) as pool:
            speaking = [pool.submit(speak_on, n) for n in range(2)]
            registry.set_registered_model_alias("am", "champion", "2")
            while say(0) != "models:/am/2":
                pass
            (replica,) = service.replicas()
            os.kill(replica, signal.SIGKILL)
            say(0)
            done.set()
            versions = sum((each.result() for each in speaking), Counter())
        assert set(versions) <= {"models:/am/1", "models:/am/2"}
        assert versions["models:/am/2"]
        assert replica not in service.replicas()

        answers = asyncio.run(flood(service))
        found = Counter(answer.status for answer in answers)
        assert found.keys() == {200, 429} and found.total() == 60
        text = urllib.request.urlopen(request(service, "/metrics")).read().decode()
        assert f'dimts_speech_requests_total{{status="429"}} {found[429]}.0' in text
        assert "dimts_requests_in_progress 0.0" in text
    finally:
        service.stop()
    assert service.process.returncode == 0, service.log.read_text(encoding="utf-8")


def request(service: Service, path: str) -> urllib.request.Request:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return urllib.request.Request(service.url + path, headers=headers)


async def flood(service: Service) -> list[Answer]:
    body = {"input": " ".join([TEXT] * 4), "response_format": "mp3"}
    async with connected() as session:
        session.headers["Authorization"] = f"Bearer {TOKEN}"
        return list(await asyncio.gather(*(ask(session, service.url, body) for _ in range(60))))
