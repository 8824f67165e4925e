"""Text to speech from a bundle alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from voice_fixtures import MEL, untrained, write_voice

from dimts.cli import run_job
from dimts.commands.synthesize import main
from dimts.core.errors import UserError
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.pieces import SENTENCE_PAUSE
from dimts.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
TEXT = "ሰላም ለዓለም።"
UNKNOWN = "not in the alphabet of አማርኛ:"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained: it hums for 8 frames a letter, which is enough to be heard."""
    return write_voice(tmp_path_factory.mktemp("voice") / "checkpoint_best")


@pytest.fixture(scope="module")
def synthesizer(bundle: Path) -> AcousticSpeaker:
    return AcousticSpeaker.load(bundle)


@pytest.fixture
def job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs `jobs/synthesize.py` in an unrelated folder: its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["synthesize.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_job(main)
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


Job = Callable[..., tuple[int, str, str]]


def test_same_text_is_the_same_speech(synthesizer: AcousticSpeaker) -> None:
    one, two = synthesizer.speak(TEXT), synthesizer.speak(TEXT)
    assert np.array_equal(one, two)
    assert one.dtype == np.float32
    assert np.abs(one).max() <= 1
    assert np.abs(one).max() > 0


def test_length_is_that_of_the_predicted_durations(synthesizer: AcousticSpeaker) -> None:
    mel, durations, _ = synthesizer.mel(TEXT)
    assert mel.shape == (durations.sum(), MEL.n_mels)
    assert len(durations) == len(synthesizer.tokenizer.encode(TEXT))
    assert len(synthesizer.speak(TEXT)) == (len(mel) - 1) * MEL.hop_length


def test_voice_speaks_the_language_that_it_is_told() -> None:
    languages = [(load_language(c), TextConfig(language=c)) for c in ("en", "am")]
    tokenizer = Tokenizer.from_languages(languages)
    voice = AcousticSpeaker(untrained(tokenizer=tokenizer), tokenizer, MEL)
    assert len(voice.mel("7", language="en")[1]) == len("seven") + 2
    assert len(voice.mel("7")[1]) == len(voice.mel("7", language="am")[1]) == len("ሰባት") + 2
    assert np.array_equal(voice.speak("7", language="am"), voice.speak("7"))


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.3, 2.0])
def test_speed_changes_the_length_in_proportion(synthesizer: AcousticSpeaker, speed: float) -> None:
    normal, changed = len(synthesizer.speak(TEXT)), len(synthesizer.speak(TEXT, speed=speed))
    assert normal / changed == pytest.approx(speed, rel=0.05)


@pytest.mark.parametrize("speed", [0.0, -1.0, 9.0, float("nan")])
def test_speed_out_of_range_is_refused(synthesizer: AcousticSpeaker, speed: float) -> None:
    with pytest.raises(UserError, match=r"speed \S+: must be between 0\.25 and 4"):
        synthesizer.speak(TEXT, speed=speed)


def test_text_that_is_too_long_at_once_is_refused(synthesizer: AcousticSpeaker) -> None:
    with pytest.raises(UserError, match=r"8002 tokens, at most 8000 are spoken at once; split"):
        synthesizer.mel("ሰ" * 8000)


def test_long_text_is_spoken_sentence_by_sentence(synthesizer: AcousticSpeaker) -> None:
    sentences = ["ሰላም " * 49 + "ነው።", "ቡና ጠጣ " * 30 + "ነው?", "ደህና"]
    first, rest = (
        synthesizer.speak(text, speed=2) for text in (sentences[0], " ".join(sentences[1:]))
    )
    # The silence is shorter, too, at a higher speed; the last two fit into one piece.
    silence = np.zeros(round(SENTENCE_PAUSE / 2 * synthesizer.sample_rate))
    whole = synthesizer.speak(" ".join(sentences), speed=2)
    assert np.array_equal(whole, np.concatenate([first, silence, rest]))


def test_text_without_a_final_mark_ends_as_with_one(synthesizer: AcousticSpeaker) -> None:
    assert np.array_equal(synthesizer.speak("ሰላም"), synthesizer.speak("ሰላም።"))
    assert not np.array_equal(synthesizer.speak("ሰላም"), synthesizer.speak("ሰላም?"))


def test_raw_text_is_normalised_as_in_training(synthesizer: AcousticSpeaker) -> None:
    assert np.array_equal(synthesizer.mel("  ሰላም   ለዓለም ። ")[0], synthesizer.mel(TEXT)[0])


@pytest.mark.integration
def test_bundle_speaks_wherever_it_is_copied_to(bundle: Path, tmp_path: Path) -> None:
    """By the real job, in a process of its own; the environment names no folder of ours."""
    voice = tmp_path / "somewhere" / "else"
    shutil.copytree(bundle, voice)
    (tmp_path / "work").mkdir()
    command = [sys.executable, str(ROOT / "jobs" / "synthesize.py"), "--model", str(voice)]
    command += ["--text", TEXT, "--out", "said.wav", "--vocoder", "griffin-lim"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    wave, rate = soundfile.read(tmp_path / "work" / "said.wav", dtype="float32")
    assert rate == MEL.sample_rate
    assert f"{len(wave) / rate:.1f} s" in done.stdout
    expected = AcousticSpeaker.load(bundle).speak(TEXT)
    assert np.abs(wave - expected).max() < 2e-4
    assert [f.name for f in (tmp_path / "work").iterdir()] == ["said.wav"]


def test_file_of_sentences_becomes_wavs_named_for_their_lines(
    job: Job, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_text("\ufeffአዎ።\n\n ቡና ጠጣ። \n", encoding="utf-8")
    code, out, _ = job("--model", str(bundle), "--file", "lines.txt", "--out", "said")
    assert code == 0
    assert sorted(f.name for f in (tmp_path / "said").iterdir()) == ["0001.wav", "0003.wav"]
    assert out.count("\n") == 2
    short, long = (len(soundfile.read(tmp_path / "said" / n)[0]) for n in ("0001.wav", "0003.wav"))
    assert short < long


def test_lines_that_cannot_be_spoken_are_listed_and_the_others_spoken(
    job: Job, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_text("ሰላም Ж\nአዎ።\nЖ\nቡና ጠጣ።\n", encoding="utf-8")
    code, out, err = job("--model", str(bundle), "--file", "lines.txt", "--out", "said")
    assert code == 1
    assert sorted(f.name for f in (tmp_path / "said").iterdir()) == ["0002.wav", "0004.wav"]
    assert out.count("\n") == 2
    assert err.splitlines()[0].startswith(f"error: lines.txt:1: {UNKNOWN} 'Ж' (U+0416")
    assert err.splitlines()[-1] == "2 of 4 lines were not spoken: 1, 3"


def test_unknown_characters_are_left_out_where_that_is_asked_for(
    job: Job, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_text("ሰላም ЖЖ\nЖ\n", encoding="utf-8")
    arguments = ("--model", str(bundle), "--file", "lines.txt", "--out", "said", "--skip-unknown")
    code, _, err = job(*arguments)
    assert code == 1
    assert err.splitlines() == [
        "warning: lines.txt:1: left out 'Ж' (U+0416)",
        "error: lines.txt:2: the text is empty once normalised: nothing to say",
        "1 of 2 lines were not spoken: 2",
    ]
    said, _ = soundfile.read(tmp_path / "said" / "0001.wav", dtype="float32")
    assert len(said) == len(AcousticSpeaker.load(bundle).speak("ሰላም"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--text", TEXT, "--out", "there"), "there: is a folder; name a wav file"),
        (("--file", "a.txt", "--out", "a.txt"), "a.txt: is no folder, which --file needs"),
    ],
)
def test_place_that_cannot_be_written_is_refused_before_the_voice_is_loaded(
    job: Job, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "a.txt").write_text(TEXT)
    assert job("--model", "none", *options) == (2, "", f"error: {message}\n")


def test_run_folder_speaks_with_its_best_checkpoint(job: Job, bundle: Path) -> None:
    code, out, _ = job("--model", str(bundle.parent), "--text", TEXT)
    assert code == 0
    assert out.startswith("output/speech.wav")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "{bundle}", "--text", "ሰላም Ж"], f"{UNKNOWN} 'Ж' (U+0416"),
        (
            ["--model", "{bundle}", "--text", "  "],
            "the text is empty once normalised: nothing to say",
        ),
        (["--model", "{bundle}", "--file", "none.txt"], "none.txt: cannot be read"),
        (["--model", "{bundle}", "--file", "empty.txt"], "empty.txt: holds no sentence"),
        (["--model", "{bundle}", "--text", "ሰላም", "--speed", "9"], "speed 9: must be"),
        (
            ["--model", "{bundle}", "--text", "ሰላም", "--language", "sw"],
            "language 'sw' is not one of this voice's: am",
        ),
        (["--model", "nowhere", "--text", "ሰላም"], "nowhere: no such"),
        (["--model", ".", "--text", "ሰላም"], ".: not a bundle"),
        (["--model", "bad.txt", "--text", "ሰላም"], "bad.txt: no such"),
        (
            ["--model", "{bundle}", "--text", "ሰላም", "--tracking-uri", "foo"],
            "tracking_uri: uri: must be sqlite:///FILE",
        ),
    ],
)
def test_mistake_is_one_line(
    job: Job, bundle: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "bad.txt").write_text("ሰላም\nሰላም Ж\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    code, _, err = job(*(a.format(bundle=bundle) for a in arguments))
    assert code == 2
    assert err.startswith(f"error: {message}"), err
    assert len(err.splitlines()) == 1
