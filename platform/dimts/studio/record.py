"""The page Record: which sentence is next, and recordings that `dimts prepare` takes."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.checks import Row, check_text, check_text_fits_audio
from data_prep.doctor.measure import NOISY_SNR_DB, measure
from data_prep.extract import ExtractSettings, extract
from data_prep.readers.ljspeech import METADATA
from data_prep.recordings import FileStamp
from data_prep.utterance import Rejected, Segment, Utterance
from dimts.audio.files import decode_audio, write_wav
from dimts.audio.mel import MelConfig
from dimts.audio.parquet_recordings import as_file
from dimts.core.errors import UserError
from dimts.core.untrusted import read_text
from dimts.features.config import PrepareConfig
from dimts.features.mel_extractor import MelExtractor
from dimts.storage.files import append_line
from dimts.studio.requests import Recording, parse
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

MAX_CLIPPED = 0.001
"""Share of samples that may be cut off, as the doctor counts them."""


def pairs(text: str) -> set[tuple[str, str]]:
    """Neighbouring letters of a text, spaces at both ends included."""
    return set(pairwise(f" {text} "))


def next_sentence(texts: Iterable[str], recorded: Iterable[str]) -> str | None:
    """Of the texts that are not recorded, the one with the most pairs of letters that no recorded
    one has; of equals the shortest, then the first. None if all are recorded."""
    done = set(recorded)
    known: set[tuple[str, str]] = set().union(*map(pairs, done))
    left = [text for text in texts if text not in done]
    return max(left, key=lambda text: (len(pairs(text) - known), -len(text)), default=None)


class Recorder:
    """Sentences of a file that are recorded into an LJSpeech folder.

    Args:
        folder: of the corpus; what is there stays.
        sentences: UTF-8 file, one a line.
        text, prepare: how sentences are read, and what `dimts prepare` refuses.

    Raises:
        UserError: a sentence cannot be said, or a file cannot be read.
    """

    def __init__(
        self, folder: Path, sentences: Path, text: TextConfig, prepare: PrepareConfig
    ) -> None:
        self._folder, self._prepare = folder, prepare
        self._language = load_language(text.language)
        self._tokenizer = Tokenizer.from_language(self._language, text)
        self._extractor = MelExtractor(MelConfig())
        self._sentences: dict[str, str] = {}  # normalised -> as it is written
        for number, line in enumerate(read_text(sentences).splitlines(), start=1):
            if line.strip():
                checked = self._checked(line.strip())
                if isinstance(checked, Rejected):
                    raise UserError(f"{sentences}:{number}: {checked.detail}")
                self._sentences[checked.text] = line.strip()
        metadata = folder / METADATA
        rows = read_text(metadata).splitlines() if metadata.exists() else []
        done = (self._checked(row.split("|")[-1]) for row in rows if row)
        self._recorded = {row.text for row in done if isinstance(row, Row)}
        self._writes = Lock()

    def next(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The sentence to record next; None if all are recorded."""
        text = next_sentence(self._sentences, self._recorded)
        sentence = None if text is None else self._sentences[text]
        n_done = len(self._recorded & self._sentences.keys())
        return {"sentence": sentence, "recorded": n_done, "of": len(self._sentences)}

    def keep(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Add a recording to the corpus; the next sentence, as of `next`.

        Raises:
            UserError: `dimts prepare` would refuse it, or it is clipped or noisy.
        """
        asked = parse(Recording, values)
        checked = self._checked(asked.sentence)
        if isinstance(checked, Rejected) or checked.text not in self._sentences:
            raise UserError("this sentence is not one of those to record")
        try:
            data = base64.b64decode(asked.wav, validate=True)
        except binascii.Error as error:
            raise UserError("wav: is not base64") from error
        self._check(data, checked)
        with as_file(data) as descriptor:
            recording = decode_audio(descriptor)
        found = measure(recording)
        if found.clipped > MAX_CLIPPED:
            raise UserError("clipped: the loudest samples are cut off; lower the microphone's gain")
        if found.snr < NOISY_SNR_DB:
            raise UserError(
                f"noisy: the speech is {found.snr:.0f} dB above the noise, it has to be "
                f"{NOISY_SNR_DB}; find a quieter place, or go nearer to the microphone"
            )
        with self._writes:
            if checked.text not in self._recorded:
                wave = recording.wave + np.float32(recording.offset)
                self._write(wave, recording.sample_rate, asked.sentence)
                self._recorded.add(checked.text)
        return self.next({})

    def _write(self, wave: NDArray[np.float32], rate: int, sentence: str) -> None:
        """The recording first: a row without one would be refused."""
        taken = {file.stem for file in (self._folder / "wavs").glob("*.wav")}
        name = next(n for i in range(1, 10**6) if (n := f"{i:05d}") not in taken)
        write_wav(self._folder / "wavs" / f"{name}.wav", wave, rate)
        append_line(self._folder / METADATA, f"{name}|{sentence}")

    def _checked(self, sentence: str) -> Row | Rejected:
        if "|" in sentence or "\n" in sentence:
            raise UserError(f"{sentence!r:.60}: | and line ends cannot stand in {METADATA}")
        here = Utterance("recording", Path("recording"), sentence, "", self._language.code, 1)
        return check_text(here, self._tokenizer)

    def _check(self, data: bytes, row: Row) -> None:
        @contextmanager
        def opened(audio: str) -> Iterator[tuple[int, FileStamp]]:
            with as_file(data) as descriptor:
                yield descriptor, FileStamp.of(os.fstat(descriptor))

        limits = self._prepare
        settings = ExtractSettings(
            self._extractor, limits.trim, limits.min_seconds, limits.max_seconds, limits.cleaning
        )
        result = extract(opened, [Segment("recording")], settings)[0].result
        if result.reason:
            raise UserError(f"{result.reason.value}: {result.detail}")
        if misfit := check_text_fits_audio(row, result, self._extractor, limits):
            raise UserError(f"{misfit.reason.value}: {misfit.detail}")
