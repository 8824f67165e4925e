"""The recipe of the Asterisk corpus, on made-up prompts."""

from __future__ import annotations

import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from data_prep.recipes.asterisk_en import make_corpus, read_prompts
from dimts.core.errors import UserError

TRANSCRIPTS = """\
; Core sounds

activated: Activated.
agent-user: Please enter your number:  then  press #.
dictate/help: press * to Toggle: pause
umute: You may umute. Represenatives wait.
beep: [this is a simple beep tone]
join: <beep ascending>
intro: After the tone. (simple tone sound plays)
empty:
gone: There is no audio.
"""

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg decodes G.722")


def test_prompts_are_read_and_corrected() -> None:
    prompts = {prompt.id: prompt for prompt in read_prompts(TRANSCRIPTS)}
    assert len(prompts) == 9
    assert prompts["agent-user"].text == "Please enter your number: then press pound."
    assert prompts["dictate_help"].name == "dictate/help"
    assert prompts["dictate_help"].text == "press star to Toggle: pause"
    assert prompts["umute"].text == "You may unmute. Representatives wait."
    speechless = [name for name, prompt in prompts.items() if not prompt.is_speech]
    assert speechless == ["beep", "join", "intro"]


def test_a_line_that_is_no_prompt_is_named() -> None:
    with pytest.raises(UserError, match="line 2"):
        list(read_prompts("a: b\nno separator\n"))


@pytest.fixture
def prompts(tmp_path: Path) -> tuple[Path, Path]:
    """Transcripts and audio; any bytes are valid G.722, 8,000 of them a second."""
    transcripts, audio = tmp_path / "core.txt", tmp_path / "sounds"
    transcripts.write_text(TRANSCRIPTS, encoding="utf-8")
    (audio / "dictate").mkdir(parents=True)
    noise = np.random.default_rng(0)
    seconds = {"activated": 0.5, "agent-user": 2.0, "dictate/help": 1.5, "umute": 13.0}
    for name, length in {**seconds, "beep": 2.0, "join": 2.0, "intro": 2.0, "empty": 2.0}.items():
        (audio / f"{name}.g722").write_bytes(noise.bytes(int(length * 8000)))
    return transcripts, audio


@needs_ffmpeg
def test_corpus_holds_speech_of_the_right_length(
    prompts: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "corpus"
    summary = make_corpus(out, *prompts)
    assert (out / "metadata.csv").read_text(encoding="utf-8").splitlines() == [
        "agent-user|Please enter your number: then press pound.|",
        "dictate_help|press star to Toggle: pause|",
    ]
    assert summary.clips == 2 and summary.seconds == pytest.approx(3.5, abs=0.01)
    assert dict(summary.left_out) == {
        "under 1.5 s": 1,
        "over 12 s": 1,
        "with sounds that are no speech": 3,
        "without text": 1,
        "without audio": 1,
    }
    with wave.open(str(out / "wavs" / "agent-user.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
    assert "Allison Smith" in (out / "README.md").read_text(encoding="utf-8")


@needs_ffmpeg
def test_corpus_is_the_same_bytes_when_made_again(
    prompts: tuple[Path, Path], tmp_path: Path
) -> None:
    def made(out: Path) -> dict[str, bytes]:
        make_corpus(out, *prompts)
        files = sorted(path for path in out.rglob("*") if path.is_file())
        return {str(path.relative_to(out)): path.read_bytes() for path in files}

    first = made(tmp_path / "a")
    assert made(tmp_path / "b") == first
    assert made(tmp_path / "a") == first


@needs_ffmpeg
def test_a_folder_of_something_else_is_left_alone(
    prompts: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(UserError, match="holds something else"):
        make_corpus(tmp_path / "mine", *prompts)
    assert (tmp_path / "mine" / "note.txt").exists()


def test_what_cannot_be_is_refused(prompts: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="both"):
        make_corpus(tmp_path / "x", transcripts=prompts[0])
    with pytest.raises(UserError, match="no clip"):
        make_corpus(tmp_path / "x", *prompts, min_seconds=3, max_seconds=2)
    assert not (tmp_path / "x").exists()
