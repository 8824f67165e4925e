"""An exported voice where there is no dimts: a clean environment, a browser; and a served model.

These need the package index or programs that are no dependencies: -m slow runs them.
"""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from export_fixtures import MEL, VOICES, write_bundles
from faults.head import free_port
from numpy.typing import NDArray
from tracking_fixtures import write_checkpoint

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from benchmarks.runtime import main
from dimts.audio.mel import log_mel
from dimts.export.package import tables
from dimts.export.voice import difference_db, export_voice
from dimts.runtime.voice import Voice
from dimts.text.language import LANGUAGES, load_language
from dimts.text.normaliser import Normaliser, TextConfig
from dimts.tracking.mlflow_model import _save

pytestmark = pytest.mark.slow

WEB_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
READINGS = Path(__file__).parent / "data" / "amharic_readings.tsv"
TEXT = "ሰላም፣ ዛሬ ደህና ነኝ። እንዴት ነህ?"


READ = """([texts, own]) => texts.map(text => {
    try { return normalised(text, own) } catch { return null }
})"""
"""Of each text what the page makes of it; null: it refuses."""


def numbers() -> dict[str, list[str]]:
    """Texts with numbers in all languages that ship; in Amharic also those that people wrote."""
    draw = random.Random(0)
    found = {}
    for file in LANGUAGES.glob("*.yaml"):
        if (own := load_language(file.stem).numbers) is None:
            continue
        whole = [*range(122), *(draw.randrange(10 ** draw.randrange(2, 13)) for _ in range(300))]
        texts = [f"{n}" for n in whole] + ["-4", "007", "5 6", f"1{own.group_separator}234"]
        suffixes = own.ordinals.suffixes if own.ordinals else ()
        texts += [f"{n}{suffix}" for suffix in suffixes for n in (1, 2, 3, 12, 20, 101, 1000)]
        texts += [f"{n}{own.decimal_separator}{n}5" for n in range(20)]
        texts += [f"{n} {unit}" for unit in load_language(file.stem).units_after for n in (1, 5)]
        texts += [f"{mark}5" for mark in load_language(file.stem).units_before]
        found[file.stem] = texts
    lines = READINGS.read_text(encoding="utf-8").splitlines()[1:]
    found["am"] += ["በ2015", "5ቱን", "3ቀን", "የ12ኛው", "፲፱፻፹፫", *(x.split("\t")[1] for x in lines)]
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    voice, vocoder = write_bundles(folder)
    export_voice(voice, vocoder, folder / "out", page=True, apps=True)
    return folder / "out"


def test_voice_speaks_in_an_environment_of_onnxruntime_and_numpy_alone(
    exported: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = str(tmp_path / "env" / "bin" / "python")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    versions = [f"{name}=={__import__(name).__version__}" for name in ("numpy", "onnxruntime")]
    install = [python, "-m", "pip", "install", "-q", *versions]
    subprocess.run(install, check=True, env=environment)
    command = [python, "-m", "dimts_runtime", ".", TEXT, str(tmp_path / "out.wav")]
    subprocess.run(command, cwd=exported, check=True, env=environment)
    with wave.open(str(tmp_path / "out.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    expected = (Voice(exported).speak(TEXT) * 32767).round().astype("<i2")
    assert np.abs(samples.astype(int) - expected).max() <= 1
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True)
    assert "torch" not in listed.stdout and "onnxruntime" in listed.stdout


def test_benchmark_measures_the_voice_beside_others(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(exported)]) == 0
    row, *peers = capsys.readouterr().out.splitlines()[2:5]
    size, speed, first, seconds, *_ = (float(cell) for cell in row.split("|")[2:-1])
    assert size > 0 and speed > 0 and seconds > 0
    assert 0 < first < 1000 * seconds
    assert [peer.split("|")[1].strip() for peer in peers] == ["hibari-tts", "espeak-ng"]


def test_piper_and_sherpa_onnx_speak_what_the_module_does(exported: Path) -> None:
    piper, sherpa = (pytest.importorskip(name) for name in ("piper", "sherpa_onnx"))
    text = TEXT.partition(" እንዴት")[0]
    voice, own = piper.PiperVoice.load(exported / "voice.onnx"), Voice(exported)
    config = piper.SynthesisConfig(speaker_id=1, normalize_audio=False)
    (chunk,) = voice.synthesize(text, config)
    vits = sherpa.OfflineTtsVitsModelConfig(
        model=str(exported / "voice.onnx"), tokens=str(exported / "tokens.txt")
    )
    model = sherpa.OfflineTtsModelConfig(vits=vits)
    tts = sherpa.OfflineTts(sherpa.OfflineTtsConfig(model=model))
    assert tts.num_speakers == len(VOICES)
    options = sherpa.GenerationConfig()
    options.sid, options.silence_scale = 1, 1.0  # else it makes pauses shorter
    whole, expected = tts.generate(text, options), levels(own.speak(text, voice=VOICES[1]))
    assert chunk.sample_rate == whole.sample_rate == own.sample_rate
    for samples in (chunk.audio_float_array, whole.samples):
        found = levels(np.array(samples, np.float32))
        assert found.shape == expected.shape
        off, by_chance = (np.abs(found - e).mean() for e in (expected, expected[::-1]))
        assert off < 0.75 * by_chance, (off, by_chance)
    options.speed = 2.0
    assert len(tts.generate(text, options).samples) == len(
        own.speak(text, voice=VOICES[1], speed=2)
    )


def levels(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural-log mel of a wave at the rate of these voices."""
    return log_mel(wave, MEL)


@pytest.fixture
def page(exported: Path, tmp_path: Path) -> Iterator[str]:
    """The address of the exported folder, with onnxruntime-web as npm has it beside the page."""
    if not shutil.which("npm") or not shutil.which("chromium"):
        pytest.skip("npm and chromium are not there")
    folder = tmp_path / "page"
    shutil.copytree(exported, folder)
    packed = os.environ.get("ONNXRUNTIME_WEB")  # a package that was fetched before
    if not packed:
        command = ["npm", "pack", "--silent", "onnxruntime-web@1.30.0"]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        packed = str(tmp_path / done.stdout.split()[-1])
    (folder / "onnxruntime-web").mkdir()
    with tarfile.open(packed) as archive:
        for name in WEB_FILES:
            content = archive.extractfile(f"package/dist/{name}")
            assert content is not None
            (folder / "onnxruntime-web" / name).write_bytes(content.read())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_page_speaks_in_a_browser_as_the_module_does(page: str, exported: Path) -> None:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": 360, "height": 640})
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(page)
        tab.wait_for_function("window.speak !== undefined", timeout=300_000)
        spoken = np.array(tab.evaluate(f"speak({json.dumps(TEXT)}).then(wave => [...wave])"))
        tab.fill("textarea", TEXT)
        tab.press("textarea", "Tab")
        tab.click("button")
        tab.wait_for_function("document.querySelector('audio').duration > 0", timeout=60_000)
        duration = tab.evaluate("document.querySelector('audio').duration")
        tab.fill("textarea", "8:30")
        tab.click("button")
        tab.wait_for_function(
            "document.querySelector('[role=status]').textContent.includes('as they are said')"
        )
        for code, texts in numbers().items():
            language, text = load_language(code), TextConfig(language=code)
            read = Normaliser(language, text).normalise
            own = {"tables": tables(language), "text": text.switches}
            found = tab.evaluate(READ, [texts, own])
            assert sum(map(bool, found)) > 0.7 * len(texts)
            for given, said in zip(texts, found, strict=True):
                assert said is None or said == read(given), (code, given)
        browser.close()
    voice = Voice(exported)
    expected = voice.speak(TEXT)
    assert len(spoken) == len(expected)
    assert difference_db(expected, spoken.astype(np.float32)) < -50
    assert duration == pytest.approx(len(expected) / voice.sample_rate, abs=0.01)
    assert all(url.startswith((page, "blob:")) for url in asked)


def test_logged_model_is_served_by_mlflow(tmp_path: Path) -> None:
    bundle = write_checkpoint(tmp_path / "run")
    logged = SimpleNamespace(artifact_location=str(tmp_path), model_id="m-0")
    _save(tmp_path / "model", bundle, logged, "0")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(tmp_path / "model")]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    programs = str(Path(sys.executable).parent)  # MLflow starts uvicorn by its name
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(command, env=environment, start_new_session=True) as server:
        try:
            address = f"http://127.0.0.1:{port}/"
            wait_for(f"{address}ping", server)
            answer = ask(address, [{"text": "ሰላም።", "speed": 1.5}])
            [file] = json.loads(answer)["predictions"]
            with wave.open(io.BytesIO(base64.b64decode(file))) as spoken:
                assert spoken.getnframes() > 0
            with pytest.raises(urllib.error.HTTPError, match="400"):
                ask(address, [{"text": "ሰላም።", "language": "xx"}])
            with pytest.raises(urllib.error.HTTPError, match="400"):
                ask(address, [{"said": "ሰላም።"}])
        finally:
            if server.poll() is None:
                os.killpg(server.pid, 15)


def ask(address: str, sentences: list[dict[str, object]]) -> bytes:
    body = json.dumps({"inputs": sentences}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}invocations", body, headers)
    with urllib.request.urlopen(request) as answer:
        return bytes(answer.read())


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    while True:
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(address):
                return
        except OSError:
            threading.Event().wait(0.5)
