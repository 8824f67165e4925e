"""One corpus with all that can harm who reads it, row by row, and what becomes of each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hostile_audio import (
    SPEECH,
    channels,
    chunks,
    cut_off,
    empty_chunks,
    header,
    holds,
    link,
    mp3_that_seems_short,
    mp3_without_length,
    new_line_in_name,
    nothing,
    promises_a_month,
    sound,
    sound_at_rate,
    sparse,
    ten_minutes,
    with_sample,
)
from prepare_fixtures import TEXTS, tone

from data_prep.utterance import Reason

USED = "used"
N_GOOD = 24
SECRET = "secret.wav"
"""A good recording beside the corpus folder, which no row may reach."""


class Row(NamedTuple):
    """One row of the table.

    Attributes:
        id: names `wavs/ID.wav`, and the row in `quarantine.csv`.
        outcome: `USED`, or the reason why it is not.
        audio: makes the file.
        text: what is said in it.
        line: the whole line, where it is not ``id|text``.
    """

    id: str
    outcome: str
    audio: Callable[[Path], object] = sound
    text: str = TEXTS[0]
    line: str | bytes | None = None

    def in_table(self) -> bytes:
        line = f"{self.id}|{self.text}" if self.line is None else self.line
        return line.encode() if isinstance(line, str) else line


def good(n: int) -> Row:
    """A recording like no other's."""
    return Row(f"u{n:03d}", USED, partial(sound, wave=tone(n)), TEXTS[n % len(TEXTS)])


FORMATS = [
    *(Row(f"rate_{rate}", USED, partial(sound_at_rate, rate=rate))
      for rate in (8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000)),
    *(Row(f"subtype_{subtype}", USED, partial(sound, subtype=subtype))
      for subtype in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW",
                      "IMA_ADPCM", "MS_ADPCM", "GSM610")),
    *(Row(f"really_{kind}", USED, partial(sound, format=kind))
      for kind in ("FLAC", "OGG", "MP3", "AIFF", "RF64", "W64", "CAF")),
    Row("stereo", USED, partial(channels, gains=[1, 0.5])),
    Row("one_channel_silent", USED, partial(channels, gains=[1, 0])),
    Row("channels_of_their_own", USED, partial(channels, gains=[0.5, -0.2], noise=0.1)),
    Row("5_1", USED, partial(channels, gains=[0.1, 0.1, 1, 0, -0.1, -0.1])),
    Row("5_1_centre_alone", USED, partial(channels, gains=[0, 0, 1, 0, 0, 0])),
    Row("1024_channels", USED, partial(channels, gains=[1.0] * 1024)),
    Row("antiphase", Reason.CHANNELS_CANCEL, partial(channels, gains=[1, -1])),
    Row("nearly_antiphase", Reason.CHANNELS_CANCEL, partial(channels, gains=[1, -0.9])),
    Row("antiphase_5_1", Reason.CHANNELS_CANCEL, partial(channels, gains=[1, -1, 0, 0, 1, -1])),
]  # fmt: skip

SAMPLES = [
    Row("clipped", USED, partial(sound, wave=np.clip(20 * SPEECH, -1, 1))),
    Row("louder_than_full_scale", USED, partial(sound, wave=5 * SPEECH, subtype="FLOAT")),
    Row("scaled_as_integers", Reason.BROKEN_AUDIO,
        partial(sound, wave=30_000 * SPEECH, subtype="FLOAT")),
    Row("nan", Reason.NOT_FINITE, partial(with_sample, value=np.nan)),
    Row("inf", Reason.NOT_FINITE, partial(with_sample, value=np.inf)),
    Row("both_inf", Reason.NOT_FINITE,
        partial(sound, wave=np.tile([np.inf, -np.inf], (9_000, 1)), subtype="FLOAT")),
    Row("silence", Reason.SILENT, partial(sound, wave=np.zeros(16_000))),
    Row("stereo_silence", Reason.SILENT, partial(sound, wave=np.zeros((16_000, 2)))),
    Row("no_sample", Reason.EMPTY_AUDIO, partial(sound, wave=np.zeros(0))),
    Row("one_sample", Reason.TOO_SHORT, partial(sound, wave=np.array([0.5]))),
    Row("one_sample_192k", Reason.EMPTY_AUDIO,
        partial(sound, wave=np.array([0.5]), rate=192_000)),
    Row("ten_milliseconds", Reason.TOO_SHORT, partial(sound, wave=tone(1)[2_000:2_160])),
    Row("ten_minutes", Reason.TOO_LONG, ten_minutes),
]  # fmt: skip

HEADERS = [
    Row("from_a_pipe", USED, partial(header, claimed=0xFFFFFFFF)),
    Row("from_a_recorders_pipe", USED, partial(header, claimed=0x80000000)),
    Row("mp3_without_length", USED, partial(mp3_without_length, rate=44_100)),
    Row("mp3_that_seems_short", Reason.BROKEN_AUDIO, mp3_that_seems_short),
    Row("claims_4_gib", Reason.BROKEN_AUDIO, partial(header, claimed=0xFFFFFFF0)),
    Row("claims_a_month", Reason.TOO_LONG, promises_a_month),
    Row("cut_off", Reason.BROKEN_AUDIO, partial(cut_off, share=0.6)),
    Row("cut_off_in_header", Reason.BROKEN_AUDIO, partial(holds, content=b"RIFF\x24\0\0\0WAVEfm")),
    Row("cut_off_flac", Reason.BROKEN_AUDIO, partial(cut_off, share=0.6, format="FLAC")),
    Row("cut_off_ogg", Reason.BROKEN_AUDIO, partial(cut_off, share=0.6, format="OGG")),
    Row("no_bytes", Reason.EMPTY_AUDIO, partial(holds, content=b"")),
    Row("one_byte", Reason.BROKEN_AUDIO, partial(holds, content=b"R")),
    Row("a_web_page", Reason.BROKEN_AUDIO, partial(holds, content=b"<html>not found</html>")),
    Row("zeros", Reason.BROKEN_AUDIO, partial(holds, content=b"\0" * 50_000)),
    Row("no_channel", Reason.BROKEN_AUDIO, partial(header, n_channels=0)),
    Row("65535_channels", Reason.BROKEN_AUDIO, partial(header, n_channels=65_535)),
    Row("no_rate", Reason.BROKEN_AUDIO, partial(header, rate=0)),
    Row("huge_rate", Reason.BROKEN_AUDIO, partial(header, rate=0xFFFFFFFF)),
    Row("rate_of_one", Reason.BROKEN_AUDIO, partial(header, rate=1)),
    Row("no_bits", Reason.BROKEN_AUDIO, partial(header, bits=0)),
    Row("unknown_tag", Reason.BROKEN_AUDIO, partial(header, tag=0x1234)),
    Row("no_block", USED, partial(header, align=0)),
    Row("odd_chunk", USED, partial(chunks, before=[(b"LIST", b"odd")])),
    Row("many_chunks", USED, partial(chunks, before=[(b"note", b"x")] * 500)),
    Row("empty_chunks", Reason.BROKEN_AUDIO, empty_chunks),
    Row("a_terabyte", Reason.TOO_LONG, partial(sparse, n_bytes=1 << 40)),
]

FILES = [
    Row("missing", Reason.MISSING_FILE, nothing),
    Row("x" * 300, Reason.MISSING_FILE, nothing),
    Row("named_pipe", Reason.NOT_A_FILE, os.mkfifo),
    Row("folder", Reason.NOT_A_FILE, Path.mkdir),
    Row("circle", Reason.NOT_A_FILE, partial(link, target="circle.wav")),
    Row("link_inside", USED, partial(link, target="u000.wav")),
    Row("link_to_nothing", Reason.MISSING_FILE, partial(link, target="nowhere.wav")),
    Row("link_outside", Reason.OUTSIDE_CORPUS, partial(link, target=f"../../{SECRET}")),
    Row("link_to_zeros", Reason.OUTSIDE_CORPUS, partial(link, target="/dev/zero")),
    Row("link_to_terminal", Reason.OUTSIDE_CORPUS, partial(link, target="/dev/tty")),
    Row("../../secret", Reason.OUTSIDE_CORPUS, nothing),
    Row("sub/../../../secret", Reason.OUTSIDE_CORPUS, nothing),
    Row("/etc/passwd", Reason.OUTSIDE_CORPUS, nothing),
    Row("with space", USED),
    Row('"quoted" it\'s', USED),
    Row("comma, semicolon; $(echo) `x` *?[a] %s {0}", USED),
    Row("=1+2", USED),
    Row("-rf", USED),
    Row("ድምፅ", USED),
    Row("n" * 250, USED),
    Row("new", Reason.WRONG_COLUMN_COUNT, new_line_in_name, line="new"),
    Row("line", Reason.MISSING_FILE, nothing),
]

TABLE = [
    Row("u003", Reason.DUPLICATE_ID, nothing),
    Row("u004", Reason.DUPLICATE_ID, nothing, line=f"u004.wav|{TEXTS[0]}"),
    Row("u005", Reason.DUPLICATE_ID, nothing, line=f"./u005|{TEXTS[0]}"),
    Row("latin_1", Reason.UNDECODABLE_LINE, line=b"latin_1|caf\xe9"),
    Row("half�", Reason.UNDECODABLE_LINE, nothing, line=b"half\xe1|x"),
    Row("utf_16", Reason.UNDECODABLE_LINE, line=b"utf_16|" + "ሰላም".encode("utf-16")),
    Row("no_text_column", Reason.WRONG_COLUMN_COUNT, line="no_text_column"),
    Row("four_columns", Reason.WRONG_COLUMN_COUNT, line="four_columns|a|b|c"),
    Row("no_text", Reason.EMPTY_TEXT, text=""),
    Row("marks_alone", Reason.EMPTY_TEXT, text="።?!"),
    Row("", Reason.EMPTY_ID, nothing),
    Row("bell\\x07", Reason.UNPRINTABLE_ID, nothing, line="bell\x07|x"),
    Row("\\x1b[2Jclear", Reason.UNPRINTABLE_ID, nothing, line="\x1b[2Jclear|x"),
    Row("nul\\x00", Reason.UNPRINTABLE_ID, nothing, line="nul\0|x"),
    Row("\\u202egnp", Reason.UNPRINTABLE_ID, nothing, line="\u202egnp|x"),
    Row("\\ufeffbom", Reason.UNPRINTABLE_ID, nothing, line="\ufeffbom|x"),
    Row("z" * 300, Reason.UNDECODABLE_LINE, nothing, line="z" * 3_000_000),
    Row("control_in_text", USED, text="ሰላም\x1b\0\x07 ነው።"),
    Row("bom_in_text", USED, text="\ufeffሰላም ነው።"),
    Row("right_to_left_mark", USED, text="\u202eሰላም ነው።"),
    Row("third_column", USED, text="5|አምስት ነው።"),
    Row("quotes_in_text", Reason.UNKNOWN_CHARACTER, text='ሰላም "☃" ነው'),
    Row("emoji", Reason.UNKNOWN_CHARACTER, text="ሰላም 😀"),
    Row("right_to_left", Reason.UNKNOWN_CHARACTER, text="שלום عليكم"),
    Row("escape_in_text", Reason.UNKNOWN_CHARACTER, text="ሰላም \x1b[31mred"),
    Row("20000_characters", Reason.TEXT_TOO_LONG_FOR_AUDIO, text="ሰላም " * 5_000),
    Row("20000_numerals", Reason.UNKNOWN_CHARACTER, text="፼" * 20_000),
    Row("20000_digits", Reason.TEXT_TOO_LONG_FOR_AUDIO, text="9" * 20_000),
    Row("1000000_characters", Reason.TEXT_TOO_LONG_FOR_AUDIO, text="9" * 1_000_000),
    Row("text_too_long", Reason.TEXT_TOO_LONG_FOR_AUDIO, text=TEXTS[0] * 10),
    Row("text_too_short", Reason.TEXT_TOO_SHORT_FOR_AUDIO, partial(sound, wave=tone(1, 4.0)), "ና"),
]


HOSTILE = [*(good(n) for n in range(N_GOOD // 2)), *FORMATS, *SAMPLES, *HEADERS, *FILES, *TABLE,
           *(good(n) for n in range(N_GOOD // 2, N_GOOD))]  # fmt: skip


def write_hostile_corpus(folder: Path) -> Path:
    """All rows; with a byte-order mark, and lines that end as on one system after the other."""
    (folder / "wavs").mkdir(parents=True)
    sound(folder.parent / SECRET)
    table = [b"\xef\xbb\xbf"]
    for row, end in zip(HOSTILE, cycle((b"\n", b"\r\n", b"\r", b"\n\n")), strict=False):
        row.audio(folder / "wavs" / f"{row.id}.wav")
        table += [row.in_table(), end]
    (folder / "metadata.csv").write_bytes(b"".join(table))
    return folder


def without_refused_rows(corpus: Path, folder: Path) -> Path:
    """The same corpus without the rows that are not used, its table plain."""
    used = [row for row in HOSTILE if row.outcome == USED]
    (folder / "wavs").mkdir(parents=True)
    for row in used:  # copied, as some formats hold the time at which they were written
        name = f"{row.id}.wav"
        shutil.copy2(corpus / "wavs" / name, folder / "wavs" / name, follow_symlinks=False)
    (folder / "metadata.csv").write_bytes(b"".join(row.in_table() + b"\n" for row in used))
    return folder
