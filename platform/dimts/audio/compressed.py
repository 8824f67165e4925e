"""Where MP3 and Ogg end: libsndfile guesses it."""

from __future__ import annotations

import os

_KBITS_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def samples_in_mp3(descriptor: int, most: float) -> int | None:
    """Of all frames; None if the file says it or holds anything else. EOFError: it is cut off."""
    position, n_samples, size = 0, 0, os.fstat(descriptor).st_size
    tag = os.pread(descriptor, 10, 0)
    if tag[:3] == b"ID3":
        position = 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])
    first = os.pread(descriptor, 48, position)
    if b"Xing" in first or b"Info" in first:
        return None
    while position != size and n_samples <= most:
        header = os.pread(descriptor, 4, position)
        if header.startswith((b"TAG", b"APE")):
            break
        if len(header) < 4:
            raise EOFError
        length, samples = _frame(int.from_bytes(header, "big"))
        if header[:2] != first[:2] or not length:
            return None
        position += length
        n_samples += samples
    return n_samples


def _frame(bits: int) -> tuple[int, int]:
    """Bytes and samples behind a header (ISO 11172-3, 13818-3), or 0."""
    version, kbits, rate = bits >> 19 & 3, bits >> 12 & 15, bits >> 10 & 3
    if bits & 0xFFE60000 != 0xFFE20000 or version == 1 or kbits in {0, 15} or rate == 3:
        return 0, 0
    n_samples, table = (1152, _KBITS_1) if version == 3 else (576, _KBITS_2)
    hertz = (44_100, 48_000, 32_000)[rate] >> (2, 0, 1, 0)[version]
    return n_samples * 125 * table[kbits - 1] // hertz + (bits >> 9 & 1), n_samples


def is_whole_ogg(descriptor: int) -> bool:
    """Whether its last page is whole and says that it is the last (RFC 3533)."""
    start = os.fstat(descriptor).st_size - (1 << 16)  # a page is shorter
    tail = os.pread(descriptor, 1 << 16, max(0, start))
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & 4:
        return False
    return len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
