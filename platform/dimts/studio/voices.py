"""The voices of the studio: loaded once, spoken with by several requests."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

import dimts
from dimts.audio.mel import MelConfig, log_mel
from dimts.core.errors import UserError
from dimts.families.protocol import Speaker, Vocoder
from dimts.plotting.mel import mel_plot
from dimts.studio.alignment import Aligned, alignment
from dimts.tracking.config import TrackingConfig, is_in_mlflow
from dimts.tracking.mlflow_model import resolve_model
from dimts.tracking.registry import Registry

MAX_TEXT = 2000
"""Characters that are spoken at once: about two minutes."""
KEPT = 8
"""Voices in memory."""
LOUDNESS, PEAK = 0.08, 0.99
"""RMS and highest peak of what is compared: the louder one of two always seems better."""
_SPEAKS = Lock()


class Spoken(NamedTuple):
    """Samples in [-1, 1], and their rate in Hz."""

    wave: NDArray[np.float32]
    sample_rate: int

    def wav(self) -> bytes:
        """A 16-bit WAV file."""
        file = io.BytesIO()
        soundfile.write(file, np.clip(self.wave, -1, 1), self.sample_rate, "PCM_16", format="WAV")
        return file.getvalue()

    def mel_png(self, title: str, aligned: Aligned | None = None) -> bytes:
        """A plot of its mel; of the one that it was spoken by, with its tokens, where that is
        known."""
        config = MelConfig(sample_rate=self.sample_rate, f_max=min(8000, self.sample_rate / 2))
        hop_s = config.hop_length / self.sample_rate
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "mel.png"
            if aligned:
                durations_N, tokens = aligned.durations_N, aligned.tokens
                mel_plot(picture, aligned.mel_TM, None, title, hop_s, durations_N, tokens)
            else:
                mel_plot(picture, log_mel(self.wave, config), title=title, hop_s=hop_s)
            return picture.read_bytes()

    def levelled(self) -> Spoken:
        """As loud as all that is compared."""
        rms, peak = float(np.sqrt(np.mean(self.wave**2))), float(np.abs(self.wave).max())
        gain = min(LOUDNESS / max(rms, 1e-9), PEAK / max(peak, 1e-9))
        return Spoken(self.wave * np.float32(gain), self.sample_rate)


class Voices:
    """The voices that were named when the studio was started; a browser can name no others.

    Raises:
        UserError: there is no such folder, or no such alias.
    """

    def __init__(self, models: Sequence[str], tracking: TrackingConfig) -> None:
        self.names = list(dict.fromkeys(pinned(model, tracking) for model in models))
        for name in self.names:
            if not is_in_mlflow(name):
                resolve_model(name, tracking)
        self._uri = tracking.uri
        self._load = lru_cache(KEPT)(self._loaded)

    def __getitem__(self, name: str) -> Speaker:
        if name not in self.names:
            raise UserError(f"{name}: the studio was started without this voice")
        with _SPEAKS:
            return self._load(name)

    def _loaded(self, name: str) -> Speaker:
        speaker = dimts.load(name, tracking_uri=self._uri)
        if isinstance(speaker, Vocoder):
            raise UserError(f"{name}: is a vocoder, which speaks no text")
        return speaker

    def facts(self, name: str) -> dict[str, Any]:
        """Languages and voices of one."""
        speaker = self[name]
        return {"languages": list(speaker.languages), "voices": list(speaker.voices)}

    def speak(self, name: str, text: str, **options: Any) -> Spoken:
        """A text by one of them; `options` as of `Speaker.speak`.

        Raises:
            UserError: there is no such voice, or it cannot speak that.
        """
        if len(text) > MAX_TEXT:
            raise UserError(f"the text has {len(text)} characters, at most {MAX_TEXT} are spoken")
        speaker = self[name]
        with _SPEAKS:
            return Spoken(speaker.speak(text, **options), speaker.sample_rate)

    def aligned(self, name: str, text: str, **options: Any) -> Aligned | None:
        """Which token of a text is heard when, see `alignment`; `options` as of `speak`."""
        speaker = self[name]
        with _SPEAKS:
            return alignment(speaker, text, **options)

    def normalised(self, name: str, text: str, language: str | None) -> str:
        """What the voice's normaliser makes of a text; empty if it has none that can be asked."""
        tokenizer: Any = getattr(self[name], "tokenizer", None)
        if not hasattr(tokenizer, "normaliser"):
            return ""
        language = language or getattr(self[name], "language", None)
        return str(tokenizer.normaliser(language).normalise(text))


def pinned(model: str, tracking: TrackingConfig) -> str:
    """A model's name; of an alias the version that has it now, as it may move while people
    listen."""
    name, at, alias = model.removeprefix("models:/").partition("@")
    if model.startswith("models:/") and at:
        return Registry(tracking, name).get(alias).uri
    return model


def data_url(kind: str, data: bytes) -> str:
    """Bytes inside a page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
