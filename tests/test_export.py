"""`dimts export` of a voice, and the module that speaks it without torch."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import wave
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from export_fixtures import MEL, MODEL, VOICES, write_bundles

from dimts.commands import export as export_command
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.model.decoder import DecoderBlock
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.registry import load_vocoder
from dimts.families.vocoder.dataset import without_gaps
from dimts.families.vocoder.speaker import NeuralVocoder

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from dimts.export.acoustic_graph import AcousticGraph, filled
from dimts.export.apps import readings
from dimts.export.convolution import PairedBlock
from dimts.export.onnx_file import in_precision
from dimts.export.package import RUNTIME, facts, write_facts, write_runtime
from dimts.export.vocoder_graph import VocoderGraph
from dimts.export.voice import difference_db, export_voice
from dimts.runtime.noise import standard_normal
from dimts.runtime.voice import FIRST_CHUNK, Voice

READINGS = Path(__file__).parent / "data" / "amharic_readings.tsv"
TEXT = "ሰላም፣ ዛሬ 5ኛው ቀን ነው። በ2015 ዓ.ም. HIV"
LONG = " ".join([TEXT] * 12)
WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "pydantic", "yaml", "dimts", "scipy", "numba", "mlflow"}:
            raise ImportError(f"{name} is asked for")

sys.meta_path.insert(0, Refuse())
"""
SPEAK = """
from dimts_runtime.__main__ import main
sys.exit(main())
"""
READ = """
import json
from dimts_runtime.runtime.reader import Reader

reader = Reader(json.load(open("voice.json", encoding="utf-8")))
def read(text):
    try:
        return reader.ids(text)
    except Exception as error:
        return str(error)

print(json.dumps([read(text) for text in json.load(open("texts.json", encoding="utf-8"))]))
"""


class Made(NamedTuple):
    """The bundles, what was exported of them in fp32, and what the command printed."""

    voice: Path
    vocoder: Path
    out: Path
    printed: str


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def made(bundles: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("export")
    voice, vocoder = bundles
    with pytest.MonkeyPatch.context() as patch:
        command = ["export", "--model", str(voice), "--vocoder", str(vocoder), "--page"]
        patch.setattr(sys, "argv", [*command, "--out", str(folder / "out")])
        with redirect_stdout(io.StringIO()) as printed:
            export_command.main()
    return Made(voice, vocoder, folder / "out", printed.getvalue())


@pytest.fixture(scope="module")
def speaker(made: Made) -> AcousticSpeaker:
    speaker = AcousticSpeaker.load(made.voice)
    speaker.vocoder = load_vocoder(made.vocoder, MEL)
    return speaker


@pytest.fixture(scope="module")
def voice(made: Made) -> Voice:
    return Voice(made.out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "options"),
    [
        (TEXT, {}),
        ("ሀ", {"voice": "abebe"}),
        (LONG, {"speed": 1.3}),
        ("Good morning, 42 people!", {"language": "en", "pitch": 1.5, "voice": VOICES[0]}),
    ],
)
def test_exported_voice_speaks_what_the_trained_one_speaks(
    voice: Voice, speaker: AcousticSpeaker, text: str, options: dict[str, object]
) -> None:
    expected = speaker.speak(text, **options)  # type: ignore[arg-type]
    spoken = voice.speak(text, **options)  # type: ignore[arg-type]
    assert spoken.dtype == np.float32 and len(spoken) == len(expected)
    assert expected.std() > 1e-4
    assert difference_db(expected, spoken) < -50


@pytest.mark.slow
def test_export_says_what_was_written(made: Made) -> None:
    mel, written, command = made.printed.splitlines()
    assert mel.startswith("log mel differs by ") and "dB" in mel
    assert f"{made.out}, " in written and written.endswith("MB in fp32")
    assert "python -m dimts_runtime" in command
    assert {path.name for path in made.out.iterdir()} == {
        "acoustic.onnx", "vocoder.onnx", "voice.json", "index.html", "numbers.mjs", RUNTIME,
    }  # fmt: skip


def test_text_is_read_as_by_the_tokenizer_without_torch_or_dimts(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    speaker, neural = AcousticSpeaker.load(bundles[0]), NeuralVocoder.load(bundles[1])
    write_facts(tmp_path, facts(speaker, load_bundle(bundles[0]), neural.model))
    write_runtime(tmp_path)
    lines = READINGS.read_text(encoding="utf-8").splitlines()[1:]
    texts = [*(line.split("\t")[1] for line in lines), "5 ab۞", "..."]
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    done = without_torch(READ, tmp_path, tmp_path)
    read = 0
    for text, found in zip(texts, json.loads(done), strict=True):
        try:
            assert found == speaker.tokenizer.encode(text), text
            read += 1
        except UserError as error:
            assert found == str(error)
    assert 400 < read < len(texts)


def test_apps_know_characters_that_the_rules_read_by_themselves(
    bundles: tuple[Path, Path],
) -> None:
    speaker, neural = AcousticSpeaker.load(bundles[0]), NeuralVocoder.load(bundles[1])
    own = facts(speaker, load_bundle(bundles[0]), neural.model)
    read, known = readings(own), own["tokens"]
    for written, said in ("ሀሀ", "  ", "።።", "፧?", "ኰኰ"):
        assert read[written] == [known[said]]
    assert not {"5", "%", "“", '"'} & read.keys()


@pytest.mark.parametrize("n", [1, 2, 7])
def test_frames_are_convolved_two_at_once_as_one_by_one(n: int) -> None:
    config = MODEL.decoder.model_copy(update={"kernel": 3})
    block, x_1TD, mask = DecoderBlock(config).eval(), torch.randn(1, n, 16), torch.ones(1)
    torch.testing.assert_close(PairedBlock(block)(x_1TD, mask), block(x_1TD, mask))


@pytest.mark.slow
def test_stream_is_the_same_speech_in_pieces(voice: Voice) -> None:
    pieces = list(voice.stream(LONG))
    assert len(pieces[0]) == FIRST_CHUNK * MEL.hop_length
    assert len(pieces) > 6
    assert np.array_equal(np.concatenate(pieces), voice.speak(LONG))
    spoken = voice.mel(voice.encode(TEXT))
    whole = voice.vocode(spoken)
    (at_once,) = voice._generator.run(
        None,
        {k: spoken[k] for k in ("mel", "f0", "voiced", "cycles")}
        | {"noise": voice._noise[: len(spoken["mel"])].reshape(-1, *voice._noise.shape[2:])},
    )
    assert difference_db(np.clip(at_once[: len(whole)], -1, 1), whole) < -80


@pytest.mark.slow
def test_folder_speaks_without_torch_or_dimts(made: Made, voice: Voice, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    without_torch(SPEAK, made.out, tmp_path, made.out, TEXT, out, "--speaker", "hana")
    with wave.open(str(out)) as file:
        assert file.getframerate() == MEL.sample_rate
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert np.array_equal(samples, (voice.speak(TEXT, voice="hana") * 32767).round().astype("<i2"))


def without_torch(code: str, package: Path, cwd: Path, *arguments: str | Path) -> str:
    """What a process prints that finds the package in a folder, and is refused all of `WITHOUT`."""
    command = [sys.executable, "-c", WITHOUT + code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "within"), [("fp16", 0.05), ("int8", 1.0)])
def test_weights_of_fewer_bits_speak_nearly_the_same(
    made: Made, voice: Voice, tmp_path: Path, precision: str, within: float
) -> None:
    small = tmp_path / precision
    shutil.copytree(made.out, small)
    for name in ("acoustic.onnx", "vocoder.onnx"):
        in_precision(small / name, precision)  # type: ignore[arg-type]
        assert (small / name).stat().st_size < (made.out / name).stat().st_size
    ids = voice.encode(TEXT)
    one, other = voice.mel(ids), Voice(small).mel(ids)
    if np.array_equal(one["durations"], other["durations"]):
        assert 0 < np.abs(one["mel"] - other["mel"]).mean() < within
    assert np.isfinite(Voice(small).speak(TEXT)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text": "እ۞"}, "not in the alphabet of"),
        ({"text": "..."}, "nothing to say"),
        ({"language": "xx"}, "not one of this voice's: en, am"),
        ({"voice": "nobody"}, "there are abebe, hana"),
        ({"speed": 9.0}, "speed 9: must be between 0.25 and 4"),
    ],
)
def test_what_cannot_be_spoken_is_said(voice: Voice, options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        voice.speak(**{"text": TEXT, **options})  # type: ignore[arg-type]


@pytest.mark.slow
def test_folders_that_hold_no_voice_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"voice.json: cannot be read"):
        Voice(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(made.out, broken)
    (broken / "vocoder.onnx").write_bytes(b"none")
    with pytest.raises(UserError, match=f"^{broken}: cannot be loaded"):
        Voice(broken)


def test_nothing_is_exported_where_something_is(bundles: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=f"^{bundles[0]}: exists already"):
        export_voice(*bundles, bundles[0])


def test_options_of_other_families_are_refused(
    bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["export", "--out", "x", "--model"]
    monkeypatch.setattr(sys, "argv", [*command, str(bundles[0]), "--base", "y"])
    with pytest.raises(UserError, match="--base: does nothing for"):
        export_command.main()
    monkeypatch.setattr(sys, "argv", [*command, str(bundles[1])])
    with pytest.raises(UserError, match="is of the family vocoder; voices of the acoustic"):
        export_command.main()


def test_graphs_compute_what_the_voice_computes(bundles: tuple[Path, Path]) -> None:
    speaker, neural = AcousticSpeaker.load(bundles[0]), NeuralVocoder.load(bundles[1])
    expected = speaker.mel(TEXT, speed=1.3, pitch=1.2, voice="abebe")
    assert expected.f0_T is not None
    ids, speed, pitch = torch.tensor(speaker.tokenizer.encode(TEXT)), 1.3, 1.2
    with torch.inference_mode():
        mel_TM, *shown, durations_NS = AcousticGraph(speaker.model, neural.model).eval()(
            ids, torch.tensor([speed]), torch.tensor([pitch]), torch.tensor([0])
        )
        noise = neural.model.noise_from(0, len(mel_TM))[0]
        wave_S = VocoderGraph(neural.model)(mel_TM, *shown, noise)[: -MEL.hop_length]
    np.testing.assert_array_equal(durations_NS, expected.durations_NS)
    np.testing.assert_allclose(mel_TM, expected.mel_TM, atol=1e-3)
    vocoded = neural(expected.mel_TM, expected.f0_T)
    assert difference_db(vocoded, wave_S.clamp(-1, 1).numpy()) < -50


def test_noise_is_what_torch_draws(bundles: tuple[Path, Path]) -> None:
    expected = NeuralVocoder.load(bundles[1]).model.noise_from(0, 16).flatten().numpy()
    np.testing.assert_allclose(standard_normal(len(expected)), expected, atol=1e-5)


def test_f0_of_a_voice_that_predicts_none_is_read_off_its_mel(tmp_path: Path) -> None:
    own = MODEL.model_copy(update={"pitch": None, "postfilter": 0.0})
    bundle, vocoder = write_bundles(tmp_path, own)
    speaker, neural = AcousticSpeaker.load(bundle), NeuralVocoder.load(vocoder)
    ids, one = torch.tensor(speaker.tokenizer.encode(TEXT)), torch.ones(1)
    graph = AcousticGraph(speaker.model, neural.model).eval()
    with torch.inference_mode():
        mel_TM, f0_T, voiced_T, *_ = graph(ids, one, one, torch.tensor([0]))
        expected = neural.model.find_pitch(mel_TM[None])
    np.testing.assert_allclose(mel_TM, speaker.mel(TEXT).mel_TM, atol=1e-4)
    torch.testing.assert_close(f0_T[None], expected.f0_BT, rtol=1e-5, atol=1e-2)
    assert torch.equal(voiced_T[None], expected.voiced_BT)


@pytest.mark.parametrize("f0", [[0, 0, 0], [0, 100, 0, 0, 130, 0], [90.0, 0], [80, 90]])
def test_f0_is_filled_as_in_training(f0: list[float]) -> None:
    given = np.array(f0, np.float32)
    for expected, actual in zip(
        without_gaps(given), filled(torch.tensor(given)[None]), strict=True
    ):
        np.testing.assert_allclose(actual[0], expected, rtol=1e-6)
