"""Speech as bytes of a file that is sent while it is made."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

UNKNOWN = 0xFFFFFFFF
"""Length of a WAV file whose end is not known when it begins."""
RATE = 24_000
"""Hz: what clients of OpenAI's service expect of raw samples, and one of Opus' rates."""

OPUS_FRAME = RATE // 50


class Format(NamedTuple):
    """A format of responses.

    Attributes:
        media_type: of HTTP.
        sample_rate: in Hz; None: the voice's own.
        options: of `soundfile.SoundFile`; None: samples as they are.
        is_streamed: False if the file's beginning says how long it is.
    """

    media_type: str
    sample_rate: int | None = None
    options: Mapping[str, Any] | None = None
    is_streamed: bool = True


FORMATS = {
    # Of a variable rate, players would take the length from a header that comes too early.
    "mp3": Format(
        "audio/mpeg",
        options={"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.5},
    ),
    "opus": Format("audio/ogg; codecs=opus", RATE, {"format": "OGG", "subtype": "OPUS"}),
    "flac": Format("audio/flac", options={"format": "FLAC"}, is_streamed=False),
    "wav": Format("audio/wav"),
    "pcm": Format("audio/pcm", RATE),
}


class Encoder:
    """Samples of one speech to bytes, in pieces.

    Args:
        name: a key of `FORMATS`.
        sample_rate: of the samples, in Hz.
    """

    def __init__(self, name: str, sample_rate: int) -> None:
        self._format = FORMATS[name]
        target = self._format.sample_rate or sample_rate
        self._resample = (
            soxr.ResampleStream(sample_rate, target, 1, "int16") if target != sample_rate else None
        )
        # LAME's first frame is a header without sound, whose figures would come at the end.
        self._out = _Growing(dropped=int(name == "mp3"))
        self._file: soundfile.SoundFile | None = None
        if self._format.options:
            self._file = soundfile.SoundFile(
                self._out, "w", target, 1, **{"subtype": None, **self._format.options}
            )
        elif name == "wav":
            self._out.write(_wav_header(target))

    def encode(self, samples: NDArray[np.int16]) -> bytes:
        """What can be sent now, perhaps nothing."""
        self._write(samples, last=False)
        return self._out.take() if self._format.is_streamed else b""

    def finish(self) -> bytes:
        """The rest."""
        if self._resample:
            self._write(np.empty(0, np.int16), last=True)
        if self._file:
            if self._file.subtype == "OPUS":  # libsndfile's end of a sound clicks
                self._file.write(np.zeros(OPUS_FRAME, np.int16))
            self._file.close()
        return self._out.take()

    def _write(self, samples: NDArray[np.int16], last: bool) -> None:
        if self._resample:
            samples = self._resample.resample_chunk(samples, last=last)
        if self._file:
            self._file.write(samples)
        else:
            self._out.write(samples.astype("<i2").tobytes())


class _Growing(io.RawIOBase):
    """A file in memory, of which the beginning is taken away; what is written there later is lost.

    Args:
        dropped: writes at the beginning that are none of the file's.
    """

    def __init__(self, dropped: int = 0) -> None:
        self._bytes, self._start, self._position, self._dropped = bytearray(), 0, 0, dropped

    def take(self) -> bytes:
        taken = bytes(self._bytes)
        self._start += len(taken)
        self._bytes.clear()
        return taken

    def write(self, data: Any) -> int:
        content, at = bytes(data), self._position - self._start
        self._position += len(content)
        if self._dropped:
            self._dropped -= 1
            self._start = self._position
        elif at >= 0:
            self._bytes[at : at + len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._start + len(self._bytes)
        self._position = offset + (0, self._position, end)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        return b""


def _wav_header(sample_rate: int) -> bytes:
    """Of one channel of 16 bits, as long as may be."""
    layout = struct.pack("<IHHIIHH", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    length = struct.pack("<I", UNKNOWN)
    return b"RIFF" + length + b"WAVEfmt " + layout + b"data" + length
