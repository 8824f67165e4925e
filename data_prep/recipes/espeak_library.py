"""espeak-ng over ctypes: text and a voice -> samples and the time each word starts.

**The same samples every time.** espeak-ng keeps the phase of its pitch flutter and its gain
control in static variables which no call resets: an utterance depends on all that were spoken
before it. So every utterance is spoken by a library that was loaded afresh, 7 ms each.

**Word times.** The library's word events carry the index of the first sample of the word's
first phoneme, the closure of a stop included (up to 68 ms of silence), with no constant offset.
There is no silence before the first word and 0.3 s after the last.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import espeakng_loader
import numpy as np

from dimts.core.errors import UserError

if sys.platform == "win32":
    from _ctypes import FreeLibrary as unload_library  # noqa: N813
else:
    from _ctypes import dlclose as unload_library

# speak_lib.h of espeak-ng 1.52
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_ENDPAUSE = 0x1000
_EVENT_LIST_TERMINATED = 0
_EVENT_WORD = 1
_EE_OK = 0
_TIED_IPA = 0x02 | 0x80 | ord("^") << 8
_CLAUSE_ENDS = ".,;:!?…።፣፤፥፦፧"
_OTHER_LANGUAGE = re.compile(r"\([a-z-]+\)")
"""What espeak-ng writes where it reads a word by the rules of another language."""


class WordEvent(NamedTuple):
    """When a word starts. Where espeak-ng joins words ("of the"), only the first has an event."""

    text: str
    start_seconds: float


class Speech(NamedTuple):
    """One utterance: int16 samples [n_samples], their rate in Hz, its words in order."""

    samples: np.ndarray
    sample_rate: int
    words: list[WordEvent]


def speak(text: str, voice: str = "am") -> Speech:
    """Speak one text; equal arguments give equal samples, whatever was spoken before.

    Raises:
        UserError: the voice does not exist or the library cannot be started.
    """
    chunks: list[np.ndarray] = []
    words: list[tuple[int, int, int]] = []  # position in the text from 1, characters, sample

    def collect(samples: Any, n_samples: int, events: Any) -> int:
        if samples and n_samples > 0:
            chunks.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        i = 0
        while events[i].type != _EVENT_LIST_TERMINATED:
            if events[i].type == _EVENT_WORD:
                words.append((events[i].text_position, events[i].length, events[i].sample))
            i += 1
        return 0

    callback = _SynthCallback(collect)  # the library holds a bare pointer to it
    with _espeak(voice) as library:
        library.espeak_SetSynthCallback(callback)
        data, flags = text.encode(), _CHARS_UTF8 | _ENDPAUSE
        status = library.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, flags, None, None)
        if status != _EE_OK:
            raise RuntimeError(f"espeak-ng could not speak {text!r} (status {status})")
        rate = int(library.espeak_ng_GetSampleRate())
    return Speech(
        np.concatenate(chunks) if chunks else np.zeros(0, np.int16),
        rate,
        [WordEvent(text[at - 1 : at - 1 + length], first / rate) for at, length, first in words],
    )


class Clause(NamedTuple):
    """How a clause is read: its sounds in the International Phonetic Alphabet, those of two
    letters tied by ``^``, and the mark that ends it; empty if none does."""

    ipa: str
    end: str


def clauses(text: str, voice: str) -> list[Clause]:
    """How a text is read, clause by clause; raises like `speak`."""
    found = []
    with _espeak(voice) as library:
        data = ctypes.create_string_buffer(text.encode())
        start = ctypes.addressof(data)
        rest = ctypes.c_void_p(start)
        while rest.value:
            begin = rest.value - start
            ipa = library.espeak_TextToPhonemes(ctypes.byref(rest), _CHARS_UTF8, _TIED_IPA)
            end = rest.value - start if rest.value else len(data.value)
            spoken = data.value[begin:end].decode("utf-8", errors="ignore")
            # It has looked at the beginning of the next clause already.
            marks = [c for c in spoken if c in _CLAUSE_ENDS]
            if sounds := _OTHER_LANGUAGE.sub("", (ipa or b"").decode()).strip():
                found.append(Clause(sounds, marks[-1] if marks else ""))
    return found


def espeak_version() -> str:
    """The version of the library, such as ``1.52.0``."""
    with _espeak() as library:
        return str(library.espeak_Info(None).decode())


class _EventId(ctypes.Union):
    _fields_ = [
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    ]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)
_one_at_a_time = threading.RLock()  # the library's state is global


@contextmanager
def _espeak(voice: str = "en") -> Iterator[ctypes.CDLL]:
    """The library as it is right after the start of a process, for the length of the block.

    A copy is loaded, as the system gives the one that is there already to whoever asks for the
    same file, and some processes never let go of it.
    """
    with _one_at_a_time, tempfile.TemporaryDirectory(prefix="dimts-espeak-") as folder:
        copy = Path(folder) / Path(espeakng_loader.get_library_path()).name
        shutil.copyfile(espeakng_loader.get_library_path(), copy)
        library = ctypes.CDLL(str(copy))
        try:
            # Of functions that ctypes would guess wrongly.
            library.espeak_Synth.argtypes = [
                ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint,
                ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
            ]  # fmt: skip
            library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
            library.espeak_Info.argtypes = [ctypes.c_void_p]
            library.espeak_Info.restype = ctypes.c_char_p
            library.espeak_TextToPhonemes.argtypes = [
                ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int,
            ]  # fmt: skip
            library.espeak_TextToPhonemes.restype = ctypes.c_char_p
            data = str(espeakng_loader.get_data_path())
            options = _INITIALIZE_DONT_EXIT
            if library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data.encode(), options) <= 0:
                raise UserError(f"espeak-ng does not start with the data in {data}")
            library.espeak_ng_SetRandSeed(1)
            if library.espeak_SetVoiceByName(voice.encode()) != _EE_OK:
                raise UserError(
                    f"espeak-ng has no voice {voice!r}; it has languages such as am, en, es, sw"
                )
            yield library
        finally:
            library.espeak_Terminate()
            unload_library(library._handle)
