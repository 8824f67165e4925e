"""When espeak-ng begins each word that it speaks: what alignments are measured against.

The library's word events carry the index of the first sample of the word's first phoneme, the
closure of a stop included (up to 68 ms of silence), with no constant offset. There is no silence
before the first word and 0.3 s after the last.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from data_prep.recipes.espeak_library import Speech, espeak

# speak_lib.h of espeak-ng 1.52
POS_CHARACTER = 1
CHARS_UTF8_ENDPAUSE = 0x1001
EVENT_LIST_TERMINATED = 0
EVENT_WORD = 1


class Word(NamedTuple):
    """When a word starts. Where espeak-ng joins words ("of the"), only the first has an event."""

    text: str
    start_seconds: float


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char_p),  # a union, as large as a pointer
    ]


def speak_words(text: str, voice: str = "am") -> tuple[Speech, list[Word]]:
    """What `espeak_library.speak` gives, and the words in order."""
    chunks: list[np.ndarray] = []
    words: list[tuple[int, int, int]] = []  # position in the text from 1, characters, sample

    def collect(samples: Any, n_samples: int, events: Any) -> int:
        if samples and n_samples > 0:
            chunks.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        i = 0
        while events[i].type != EVENT_LIST_TERMINATED:
            if events[i].type == EVENT_WORD:
                words.append((events[i].text_position, events[i].length, events[i].sample))
            i += 1
        return 0

    kind = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
    )
    callback = kind(collect)
    with espeak(voice) as library:
        library.espeak_SetSynthCallback(callback)
        data = text.encode()
        flags = CHARS_UTF8_ENDPAUSE
        assert not library.espeak_Synth(data, len(data) + 1, 0, POS_CHARACTER, 0, flags, None, None)
        rate = int(library.espeak_ng_GetSampleRate())
    found = [Word(text[at - 1 : at - 1 + length], first / rate) for at, length, first in words]
    return Speech(np.concatenate(chunks), rate), found
