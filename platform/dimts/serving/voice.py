"""A voice that speaks requests, and follows an alias of MLflow's registry while it does.

A request keeps the voice that it began with. One that does not load changes nothing: the last good
one goes on speaking, and `Status.warning` says why.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import dimts
from dimts.core.errors import UserError
from dimts.families.protocol import Speaker, Streams, Vocoder
from dimts.serving.config import ServingConfig
from dimts.storage.files import write_text
from dimts.storage.paths import cache_folder
from dimts.text.normaliser import UnknownCharacters
from dimts.tracking.registry import Registry

log = logging.getLogger(__name__)
ALIAS = re.compile(r"models:/([^/@]+)@([^/@]+)")
STOCK_VOICES = (
    "default", "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx",
    "sage", "shimmer", "verse",
)  # fmt: skip
"""Names that clients of OpenAI's service send, which must name a voice: whoever speaks by default,
unless one is called so."""
WARM_UP = "1"
"""Compiles and plans what speaking needs; most languages read numbers."""


class Order(NamedTuple):
    """What to say, and how; see `dimts.families.protocol.Speaker.speak`."""

    text: str
    language: str | None = None
    voice: str | None = None
    speed: float = 1.0
    pitch: float = 1.0


class Chunk(NamedTuple):
    """A part of what was ordered: 16-bit samples at a rate in Hz, and the version that spoke."""

    samples: NDArray[np.int16]
    sample_rate: int
    version: str


class Refused(NamedTuple):
    """Why an order cannot be spoken."""

    message: str


class Status(NamedTuple):
    """What speaks: the version that is loaded, and what it can say.

    Attributes:
        warning: why it is not the version that was asked for; None if it is.
    """

    version: str
    languages: Sequence[str]
    voices: Sequence[str]
    warning: str | None


class _Loaded(NamedTuple):
    version: str
    speaker: Speaker


class VoiceServer:
    """A loaded voice. Chunks of several requests are spoken one at a time, in turn.

    Raises:
        UserError: the voice does not load, and none has before on this machine.
    """

    def __init__(self, config: ServingConfig) -> None:
        self._config = config
        self._warning: str | None = None
        self._last_good = (
            cache_folder("serving")
            / hashlib.sha256(
                f"{config.model} {config.vocoder} {config.tracking.uri}".encode()
            ).hexdigest()
        )
        self._loaded = self._first()
        self._one = ThreadPoolExecutor(1, "speaks")
        self._closed = threading.Event()
        if ALIAS.fullmatch(config.model):
            threading.Thread(target=self._follow, name="follows", daemon=True).start()

    def close(self) -> None:
        """Follow the alias no longer."""
        self._closed.set()
        self._one.shutdown(wait=False, cancel_futures=True)

    async def speak(self, order: Order) -> AsyncGenerator[Chunk | Refused]:
        """An order's speech as it is made; what is left is not spoken once this is closed.

        A text that cannot be spoken is one `Refused`, and no chunk, if its characters or the
        order's voice, language, speed or pitch are to blame.
        """
        loaded = self._loaded
        waves = _waves(loaded.speaker, order)
        loop = asyncio.get_running_loop()
        while True:
            try:
                wave = await loop.run_in_executor(self._one, next, waves, None)
            except UserError as error:
                yield Refused(str(error))
                return
            if wave is None:
                return
            samples = np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)
            yield Chunk(samples, loaded.speaker.sample_rate, loaded.version)

    async def status(self) -> list[Status]:
        """What speaks now, one entry for each process; here there is one."""
        version, speaker = self._loaded
        languages, voices = list(speaker.languages), list(speaker.voices)
        return [Status(version, languages, voices, self._warning)]

    def refresh(self) -> None:
        """Change to the version that the alias names now, if that one loads."""
        try:
            version = newest(self._config)
            if version != self._loaded.version:
                self._loaded = self._load(version)
                log.warning("%s: speaks now", version)
            self._warning = None
        except UserError as error:
            self._keep(str(error))
        except Exception as error:  # a bundle may be wrong in any way; those who listen go on
            self._keep(f"{type(error).__name__}: {error}")

    def _first(self) -> _Loaded:
        """The version that is asked for, or else the last good one of this machine."""
        try:
            return self._load(newest(self._config))
        except UserError as error:
            with suppress(OSError, UserError, UnicodeDecodeError):
                loaded = self._load(self._last_good.read_text(encoding="utf-8"))
                self._loaded = loaded
                self._keep(str(error))
                return loaded
            raise

    def _load(self, version: str) -> _Loaded:
        """A version that has spoken.

        Raises:
            UserError: it does not load, or does not speak.
        """
        config = self._config
        speaker = dimts.load(version, vocoder=config.vocoder, tracking_uri=config.tracking.uri)
        if isinstance(speaker, Vocoder):
            raise UserError(f"{version}: is a vocoder, which speaks no text; name a voice")
        with suppress(UnknownCharacters):
            for _ in _waves(speaker, Order(WARM_UP)):
                pass
        with suppress(OSError):  # a full disk is no reason to be silent
            self._last_good.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._last_good, version)
        return _Loaded(version, speaker)

    def _keep(self, why: str) -> None:
        warning = f"{why}; {self._loaded.version} goes on speaking"
        if warning != self._warning:
            log.warning("%s", warning)
        self._warning = warning

    def _follow(self) -> None:
        while not self._closed.wait(self._config.follow_every_s):
            self.refresh()


def newest(config: ServingConfig) -> str:
    """What the model's name stands for now: the version that an alias has, else the name.

    Raises:
        UserError: there is no such alias, or MLflow does not answer.
    """
    if alias := ALIAS.fullmatch(config.model):
        return Registry(config.tracking, alias[1]).get(alias[2]).uri
    return config.model


def _waves(speaker: Speaker, order: Order) -> Iterator[NDArray[np.float32]]:
    options = order._asdict()
    text, voice = options.pop("text"), options["voice"]
    if voice in STOCK_VOICES and voice not in speaker.voices:
        options["voice"] = None
    if isinstance(speaker, Streams):
        yield from speaker.stream(text, **options)
    else:
        yield speaker.speak(text, **options)
