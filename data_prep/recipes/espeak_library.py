"""espeak-ng over ctypes: text and a voice -> samples, or the sounds that it reads.

**The same samples every time.** espeak-ng keeps the phase of its pitch flutter and its gain
control in static variables which no call resets: an utterance depends on all that were spoken
before it. So every utterance is spoken by a library that was loaded afresh, 7 ms each.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import tempfile
import threading
from _ctypes import dlclose
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import espeakng_loader
import numpy as np

from dimts.core.errors import UserError

# speak_lib.h of espeak-ng 1.52
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_ENDPAUSE = 0x1000
_EE_OK = 0
_TIED_IPA = 0x02 | 0x80 | ord("^") << 8
_CLAUSE_ENDS = ".,;:!?…።፣፤፥፦፧"
_OTHER_LANGUAGE = re.compile(r"\([a-z-]+\)")
"""What espeak-ng writes where it reads a word by the rules of another language."""


class Speech(NamedTuple):
    """One utterance: int16 samples [n_samples], and their rate in Hz."""

    samples: np.ndarray
    sample_rate: int


def speak(text: str, voice: str = "am") -> Speech:
    """Speak one text; equal arguments give equal samples, whatever was spoken before.

    Raises:
        UserError: the voice does not exist or the library cannot be started.
    """
    chunks: list[np.ndarray] = []

    def collect(samples: Any, n_samples: int, _events: Any) -> int:
        if samples and n_samples > 0:
            chunks.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        return 0

    callback = _SynthCallback(collect)  # the library holds a bare pointer to it
    with espeak(voice) as library:
        library.espeak_SetSynthCallback(callback)
        data, flags = text.encode(), _CHARS_UTF8 | _ENDPAUSE
        status = library.espeak_Synth(data, len(data) + 1, 0, 0, 0, flags, None, None)
        if status != _EE_OK:
            raise RuntimeError(f"espeak-ng could not speak {text!r} (status {status})")
        rate = int(library.espeak_ng_GetSampleRate())
    return Speech(np.concatenate(chunks) if chunks else np.zeros(0, np.int16), rate)


class Clause(NamedTuple):
    """How a clause is read: its sounds in the International Phonetic Alphabet, those of two
    letters tied by ``^``, and the mark that ends it; empty if none does."""

    ipa: str
    end: str


def clauses(text: str, voice: str) -> list[Clause]:
    """How a text is read, clause by clause; raises like `speak`."""
    found = []
    with espeak(voice) as library:
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
    with espeak() as library:
        return str(library.espeak_Info(None).decode())


_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
_one_at_a_time = threading.RLock()  # the library's state is global


@contextmanager
def espeak(voice: str = "en") -> Iterator[ctypes.CDLL]:
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
            dlclose(library._handle)
