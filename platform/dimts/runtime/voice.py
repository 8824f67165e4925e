"""A voice of two ONNX graphs, and what its text becomes before the first."""

from __future__ import annotations

import json
import wave as wave_file
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dimts.core.errors import UserError
from dimts.runtime.noise import standard_normal
from dimts.runtime.reader import Reader

FORMAT, VERSION = "dimts-voice", 1
FACTS, ACOUSTIC, VOCODER = "voice.json", "acoustic.onnx", "vocoder.onnx"
FIRST_CHUNK, GROWTH, MAX_CHUNK = 32, 4, 512
"""Frames that are vocoded at once: few at first, then times `GROWTH`."""

Float32Array = NDArray[np.float32]


class Voice:
    """A voice that speaks; see `dimts.families.protocol.Speaker`.

    Args:
        folder: that `dimts export` wrote.
        threads: of each graph; a sentence gains little from a second one.

    Attributes:
        facts: what ``voice.json`` says.

    Raises:
        UserError: the folder holds no such voice.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        folder = Path(folder)
        self.facts = facts = _read_facts(folder / FACTS)
        self.sample_rate: int = facts["sample_rate"]
        self.voices: list[str] = facts["voices"]
        self._reader = Reader(facts)
        self._vocoder: dict[str, int] = facts["vocoder"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._acoustic, self._generator = (
                onnxruntime.InferenceSession(folder / name, options, ["CPUExecutionProvider"])
                for name in (ACOUSTIC, VOCODER)
            )
        except Exception as error:  # onnxruntime has one class for each of its codes
            raise UserError(f"{folder}: cannot be loaded: {_first_line(error)}") from error
        self._takes = {given.name for given in self._acoustic.get_inputs()}
        shape = (self._vocoder["noise_frames"], -1, 2, self._vocoder["n_bins"])
        n_values = shape[0] * self._vocoder["sub_frames"] * 2 * shape[3]
        self._noise = standard_normal(n_values).reshape(shape)

    @property
    def languages(self) -> list[str]:
        """Codes of what it speaks."""
        return list(self.facts["languages"])

    def speak(
        self, text: str, *, language: str | None = None, voice: str | None = None,
        speed: float = 1.0, pitch: float = 1.0,
    ) -> Float32Array:  # fmt: skip
        """Samples in [-1, 1] at `sample_rate`; speed and F0 are multiples of what was learned.

        Raises:
            UserError: the text cannot be spoken, there is no such language or voice, speed or
                pitch are out of range, or the voice cannot change its pitch.
        """
        parts = self.stream(text, language=language, voice=voice, speed=speed, pitch=pitch)
        return np.concatenate(list(parts))

    def stream(
        self, text: str, *, language: str | None = None, voice: str | None = None,
        speed: float = 1.0, pitch: float = 1.0,
    ) -> Iterator[Float32Array]:  # fmt: skip
        """The same samples piece by piece, as soon as they are there; raises like `speak`."""
        for piece in self._reader.pieces(text, language):
            mel = self.mel(self._reader.tokens(piece.text, language), voice, speed, pitch)
            yield from self._vocode(mel)
            if piece.pause:
                yield np.zeros(round(piece.pause / speed * self.sample_rate), np.float32)

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of a raw text between its language's start and the end; raises like `speak`."""
        return self._reader.ids(text, language)

    def mel(
        self, ids: list[int], voice: str | None = None, speed: float = 1.0, pitch: float = 1.0
    ) -> dict[str, NDArray[Any]]:
        """What the first graph makes of tokens, by the names of its outputs.

        ``mel`` is natural-log [T, M], ``durations`` are frames of each token's states [N, S],
        ``f0`` Hz, ``voiced`` 0 or 1 and ``cycles`` the phase of F0 at each frame [T].

        Raises:
            UserError: see `speak`; or there are too many tokens.
        """
        for name, value in (("speed", speed), ("pitch", pitch)):
            low, high = self.facts["limits"][name]
            if not low <= value <= high:
                raise UserError(f"{name} {value:g}: must be between {low:g} and {high:g}")
        if pitch != 1 and not self.facts["predicts_pitch"]:
            raise UserError("pitch: the voice predicts none that could be changed; leave it out")
        if len(ids) > (most := self.facts["limits"]["tokens"]):
            raise UserError(f"{len(ids)} tokens, at most {most} are spoken at once")
        given = {
            "ids": np.array(ids, np.int64),
            "speed": np.array([speed], np.float32),
            "pitch": np.array([pitch], np.float32),
            "speaker": np.array([self._row(voice)], np.int64),
        }
        names = [output.name for output in self._acoustic.get_outputs()]
        taken = {name: value for name, value in given.items() if name in self._takes}
        return dict(zip(names, self._acoustic.run(None, taken), strict=True))

    def vocode(self, spoken: dict[str, NDArray[Any]]) -> Float32Array:
        """Samples of what `mel` has made."""
        return np.concatenate(list(self._vocode(spoken)))

    def _vocode(self, spoken: dict[str, NDArray[Any]]) -> Iterator[Float32Array]:
        """Samples of frames of a mel, each chunk with those beside it that it depends on."""
        own = self._vocoder
        hop, n, start, chunk = own["hop"], len(spoken["mel"]), 0, FIRST_CHUNK
        while start < n:
            end = n if n - start < 2 * chunk else start + chunk
            first, last = max(0, start - own["reach"]), min(n, end + own["reach"])
            given = {key: spoken[key][first:last] for key in ("mel", "f0", "voiced", "cycles")}
            index: Any = slice(first, last)
            if last > len(self._noise):
                index = np.arange(first, last) % len(self._noise)
            noise = self._noise[index].reshape(-1, 2, own["n_bins"])
            (samples,) = self._generator.run(None, {**given, "noise": noise})
            until = min(end, n - 1)  # after the last frame's centre there is nothing
            yield np.clip(samples[(start - first) * hop : (until - first) * hop], -1, 1)
            start, chunk = end, min(GROWTH * chunk, MAX_CHUNK)

    def _row(self, voice: str | None) -> int:
        if not self.voices:
            if voice:
                raise UserError(f"voice {voice}: there is one only; leave it out")
            return 0
        voice = voice or self.facts["voice"]
        if voice not in self.voices:
            raise UserError(f"voice {voice}: there is none; there are {', '.join(self.voices)}")
        return self.voices.index(voice)


def write_wav(path: str | Path, wave: Float32Array, sample_rate: int) -> None:
    """Write samples in [-1, 1] as 16-bit mono."""
    with wave_file.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(wave, -1, 1) * 32767).round().astype("<i2").tobytes())


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = facts["version"] if facts["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {_first_line(error)}") from error
    if version != VERSION:
        raise UserError(f"{path}: is no voice of version {VERSION}; export it again")
    return facts


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
