"""The sentences that ship, and the corpus that espeak-ng makes of them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import unicodedata
import wave
from collections import Counter
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest
from word_events import speak_words

from data_prep.recipes.espeak import RECEIPT, SAMPLE_SENTENCES, read_sentences, render_corpus
from data_prep.recipes.espeak_library import speak
from dimts.core.errors import UserError

ROOT = Path(__file__).parents[1]
PUNCTUATION = "።፣፤?!"
CONSONANT_ROWS = "ሀለሐመሠረሰሸቀበቨተቸኀነኘአከኸወዐዘዠየደጀገጠጨጰጸፀፈፐ"


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return read_sentences(SAMPLE_SENTENCES)


@pytest.fixture(scope="module")
def few(sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of eight sentences, commas among them."""
    path = tmp_path_factory.mktemp("few") / "sentences.txt"
    commas = [sentence for sentence in sentences if "፣" in sentence]
    path.write_text("\n".join(sentences[:6] + commas[:2]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def corpus(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "am"
    render_corpus(few, out)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def without_punctuation(sentence: str) -> list[str]:
    return sentence.translate(str.maketrans("", "", PUNCTUATION)).split()


def test_sentences_are_many_unique_and_of_speakable_length(sentences: list[str]) -> None:
    assert len(sentences) >= 480
    assert len(set(sentences)) == len(sentences)
    assert {len(sentence.split()) for sentence in sentences} <= set(range(3, 15))
    starts = Counter(" ".join(sentence.split()[:2]) for sentence in sentences)
    assert starts.most_common(1)[0][1] <= 5, "sentences made from a template?"


def test_sentences_are_clean_amharic(sentences: list[str]) -> None:
    for sentence in sentences:
        assert unicodedata.normalize("NFC", sentence) == sentence
        assert sentence == " ".join(sentence.split(" ")) and "  " not in sentence
        assert sentence[-1] in "።?!"
        for word in without_punctuation(sentence):
            assert all("ETHIOPIC SYLLABLE" in unicodedata.name(c) for c in word), sentence


def test_every_consonant_row_occurs_in_most_vowel_orders(sentences: list[str]) -> None:
    used = set("".join(sentences))
    orders = {row: sum(chr(ord(row) + k) in used for k in range(7)) for row in CONSONANT_ROWS}
    assert min(orders.values()) >= 5, orders
    assert sum(orders.values()) >= 0.95 * 7 * len(orders)
    assert used >= set("ቋኳጓኋሏሟሯሷቧቷኗዟዷጧጿፏኧ")


def test_corpus_has_the_shape_of_ljspeech(corpus: Path, few: Path) -> None:
    lines = (corpus / "metadata.csv").read_bytes().decode("utf-8").split("\n")
    texts = few.read_text(encoding="utf-8").splitlines()
    assert lines == [f"am_{n:04d}|{text}" for n, text in enumerate(texts, start=1)] + [""]
    names = sorted(file.name for file in (corpus / "wavs").iterdir())
    assert names == [f"am_{n:04d}.wav" for n in range(1, len(texts) + 1)]
    for name in names:
        with wave.open(str(corpus / "wavs" / name)) as file:
            params = file.getparams()
            samples = np.frombuffer(file.readframes(params.nframes), "<i2")
        assert (params.nchannels, params.sampwidth, params.framerate) == (1, 2, 22050)
        assert 1.0 < params.nframes / 22050 < 10.0
        assert np.abs(samples).max() > 5000


def test_bytes_do_not_depend_on_the_process(corpus: Path, few: Path, tmp_path: Path) -> None:
    job = [sys.executable, "jobs/sample_corpus.py", "--sentences", str(few)]
    job += ["--out", str(tmp_path / "am"), "--engine", "espeak"]
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    done = subprocess.run(job, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    assert "8 utterances" in done.stdout
    assert contents(tmp_path / "am") == contents(corpus)


@pytest.mark.parametrize(
    ("voice", "texts"),
    [
        ("am", ["ስንት ሰዓት ሆኗል?", "ነገ በአብዛኛው ፀሐያማ አየር ይኖራል።"]),
        ("en", ["Where is the market?", "It rained the whole day."]),
        ("es", ["¿Dónde está el mercado?", "Llovió todo el día."]),
        ("sw", ["Soko liko wapi?", "Mvua ilinyesha siku nzima."]),
    ],
)
def test_samples_do_not_depend_on_what_was_spoken_before(voice: str, texts: list[str]) -> None:
    first = [speak(text, voice) for text in texts]
    again = [speak(text, voice) for text in reversed(texts)][::-1]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.samples, other.samples)
        assert one.sample_rate == other.sample_rate == 22050
    assert not np.array_equal(first[0].samples, first[1].samples)


def test_each_word_has_one_event_in_order(few: Path) -> None:
    for text in few.read_text(encoding="utf-8").splitlines():
        speech, words = speak_words(text)
        assert np.array_equal(speech.samples, speak(text).samples)
        assert [word.text for word in words] == without_punctuation(text)
        starts = [word.start_seconds for word in words]
        assert starts[0] == 0.0
        assert np.diff(starts).min() > 0.05


def test_word_events_point_at_the_sound_after_a_pause() -> None:
    # ነ is voiced from its first sample; በ, ሰ start softly; none has a silent closure
    for text in ("ሰላም ነው፣ ነገ ና።", "ዛሬ ጠዋት፣ በአዲስ አበባ ነበርኩ።", "እሱ ና አለ፣ ሰውየው መጣ።"):
        speech, words = speak_words(text)
        before = next(k for k, word in enumerate(text.split()) if word.endswith("፣"))
        event = round(words[before + 1].start_seconds * speech.sample_rate)
        loud = np.abs(speech.samples.astype(int)) > 150
        assert not loud[event - 2205 : event - 220].any(), "the pause ends before the event"
        assert loud[event : event + 551].any(), "the word sounds within 25 ms"


def test_made_corpus_is_left_alone_and_a_changed_one_replaced(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "am"
    assert render_corpus(few, out).rendered
    before = (out / "metadata.csv").stat().st_mtime_ns
    second = render_corpus(few, out)
    assert not second.rendered and second.n_utterances == 8
    assert (out / "metadata.csv").stat().st_mtime_ns == before
    (out / "wavs" / "am_0003.wav").unlink()
    assert render_corpus(few, out).rendered

    shorter = tmp_path / "shorter.txt"
    shorter.write_text("እንደምን አደራችሁ?\n\n", encoding="utf-8")
    assert render_corpus(shorter, out).n_utterances == 1
    assert [file.name for file in (out / "wavs").iterdir()] == ["am_0001.wav"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["am", "shorter.txt"]


def test_a_folder_of_something_else_is_not_touched(few: Path, tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "mine.wav").write_bytes(b"precious")
    for out in (tmp_path / "recordings", tmp_path / "new" / ".." / "recordings"):
        with pytest.raises(UserError, match="name another folder"):
            render_corpus(few, out)
    assert contents(tmp_path / "recordings") == {"mine.wav": b"precious"}


def test_a_failed_run_leaves_the_old_corpus(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "am"
    render_corpus(few, out)
    before = contents(out)
    with pytest.raises(UserError, match="no voice 'klingon-b'"):
        render_corpus(few, out, voice="klingon-b")
    assert contents(out) == before
    assert (out / RECEIPT).exists()
    assert [file.name for file in tmp_path.iterdir()] == ["am"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds no sentence"), ("ሰላም።\nሀ|ለ\n", r":2: '\|' separates"), (None, "cannot be read")],
)
def test_bad_sentence_files_are_named(content: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.txt"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        render_corpus(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_library_that_stays_loaded_keeps_no_state() -> None:
    kept = ctypes.CDLL(espeakng_loader.get_library_path(), mode=os.RTLD_NODELETE | os.RTLD_NOW)
    first = speak("ሰላም ነው።")
    speak("ዛሬ ዝናብ ጥሏል።")
    assert np.array_equal(speak("ሰላም ነው።").samples, first.samples)
    assert kept
