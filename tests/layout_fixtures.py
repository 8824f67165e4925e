"""Corpora of each layout, made by hand: two to four rows, and what is to be read in them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

FIRST, SECOND, THIRD = "ሰላም ነው።", "እንዴት ነህ?", "ደህና ነኝ።"
PARQUET = "data/train-00000-of-00001.parquet"
CV_COLUMNS = (
    "client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes",
    "age", "gender", "accents", "variant", "locale", "segment",
)  # fmt: skip


class Row(NamedTuple):
    """What is read of a row."""

    id: str
    audio: str
    text: str
    speaker: str = "speaker"
    start: float = 0.0
    end: float | None = None


class Layout(NamedTuple):
    """A corpus of a layout.

    Attributes:
        reader: its name.
        write: makes the files in a folder.
        rows: that are read, in their order.
        settings: of the section `corpus`, where `auto` needs some.
    """

    reader: str
    write: Callable[[Path], object]
    rows: tuple[Row, ...]
    settings: dict[str, object] = {}  # noqa: RUF012 - never changed


def audio(folder: Path, *names: str) -> None:
    """Files where recordings should be; readers do not look into them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"audio")


def table(file: Path, *lines: str, encoding: str = "utf-8") -> None:
    """A text file of these lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line + "\n" for line in lines), encoding=encoding)


def ljspeech(folder: Path) -> None:
    audio(folder, "wavs/a.wav", "wavs/b.wav")
    table(folder / "metadata.csv", f"a|5 ብር|{FIRST}", f"b|{SECOND}|{SECOND}")


def piper(folder: Path) -> None:
    audio(folder, "wav/a.wav", "wav/b.wav", "wav/c.wav", "wav/d.wav")
    table(folder / "metadata.csv", f"a|s1|{FIRST}", f"b|s1|{SECOND}", f"c|s2|{THIRD}", "d|s2|ቡና")


def speaker_last(folder: Path) -> None:
    audio(folder, "a.wav", "b.wav", "c.wav", "d.wav")
    table(folder / "list.txt", f"a.wav|{FIRST}|s1", f"b.wav|{SECOND}|s1", f"c.wav|{THIRD}|s2",
          "d.wav|ቡና|s2")  # fmt: skip


def vits(folder: Path) -> None:
    audio(folder, "DUMMY1/a.wav", "DUMMY1/b.wav")
    table(folder / "filelists/train.txt", f"DUMMY1/a.wav|{FIRST}", f"DUMMY1/b.wav|{SECOND}")


def coqui(folder: Path) -> None:
    audio(folder, "clips/a.wav", "clips/b.wav")
    table(folder / "metadata.csv", "audio_file|text|speaker_name", f'clips/a.wav|"{FIRST}"|s1',
          'clips/b.wav|"ቡና | ""ጠጣ"""|s2')  # fmt: skip


def f5(folder: Path) -> None:
    audio(folder, "wavs/a.wav", "wavs/b.wav")
    table(folder / "metadata.csv", "audio_file|text", f"{folder}/wavs/a.wav|{FIRST}",
          f"/home/other/f5/wavs/b.wav|{SECOND}")  # fmt: skip


def openslr(folder: Path) -> None:
    audio(folder, "wavs/a.wav", "b.wav")
    table(folder / "line_index.tsv", f"a\t {FIRST}", f"b \t{SECOND}")


def comma(folder: Path) -> None:
    audio(folder, "audio/a.wav", "audio/b.wav")
    table(folder / "table.csv", "wav_filename,transcript,client_id",
          f'a.wav,"{FIRST}, {SECOND}",7', f"b.wav,{THIRD},8")  # fmt: skip


def reversed_latin(folder: Path) -> None:
    audio(folder, "wavs/a.wav", "wavs/b.wav")
    table(folder / "metadata.csv", "schön|a.wav", "Straße|b.wav", encoding="latin-1")


def mailabs(folder: Path) -> None:
    audio(folder, "by_book/female/x/one/wavs/a.wav", "by_book/male/y/two/wavs/b.wav")
    table(folder / "by_book/female/x/one/metadata.csv", f"a|{FIRST}|{FIRST}")
    table(folder / "by_book/male/y/two/metadata.csv", f"b|{SECOND}|{SECOND}", "missing|x|x")


def common_voice(folder: Path) -> None:
    audio(folder, "am/clips/a.mp3", "am/clips/b.mp3", "am/clips/c.mp3")

    def row(name: str, text: str, up: int, down: int) -> str:
        return "\t".join(
            [f"who{name}", f"{name}.mp3", "7", text, "", str(up), str(down), *[""] * 4, "am", ""]
        )

    rows = [row("a", f'"{FIRST}', 2, 0), row("b", SECOND, 2, 3), row("c", THIRD, 3, 1)]
    table(folder / "am/validated.tsv", "\t".join(CV_COLUMNS), *rows)
    table(folder / "am/train.tsv", "\t".join(CV_COLUMNS), rows[0])
    table(folder / "am/clip_durations.tsv", "clip\tduration[ms]", "a.mp3\t1000")


def spontaneous(folder: Path) -> None:
    audio(folder, "audios/a.mp3")
    table(folder / "ss-corpus-am.tsv",
          "client_id\taudio_id\taudio_file\tduration_ms\tprompt\ttranscription\tsplit",
          f"who\t1\ta.mp3\t900\tp | q\t{FIRST}\ttrain")  # fmt: skip


def kaldi(folder: Path) -> None:
    audio(folder, "data/train/wav/tr_1.wav", "data/test/wav/te_1.wav")
    for name, key, text in (("train", "tr_1", FIRST), ("test", "te_1", SECOND)):
        place = folder / "data" / name
        table(place / "text", f"{key} {text}")
        table(place / "wav.scp", f"{key}\t/home/other/ALFFA/{name}/wav/{key}.wav")
        table(place / "utt2spk", f"{key} {key[:2]}")
    table(folder / "data/test/trsTest.txt", f"<s> {SECOND} </s> (te_1)")


def kaldi_segments(folder: Path) -> None:
    audio(folder, "long.flac")
    table(folder / "text", f"u1 {FIRST}", f"u2 {SECOND}")
    table(folder / "wav.scp", "rec long.flac")
    table(folder / "segments", "u1 rec 0.5 1.25", "u2 rec 2.0 3.5")


def mls(folder: Path) -> None:
    audio(folder, "train/audio/12/34/12_34_000001.flac", "dev/audio/5/6/5_6_000000.flac")
    table(folder / "train/transcripts.txt", f"12_34_000001\t{FIRST}")
    table(folder / "dev/transcripts.txt", f"5_6_000000\t{SECOND}")
    table(folder / "train/segments.txt", "12_34_000001\thttp://x/a.mp3\t1.0\t2.0")


def librispeech(folder: Path) -> None:
    audio(folder, "train-clean/103/12/103-12-0000.flac", "train-clean/103/12/103-12-0001.flac")
    table(folder / "train-clean/103/12/103-12.trans.txt", f"103-12-0000 {FIRST}",
          f"103-12-0001 {SECOND}")  # fmt: skip
    table(folder / "SPEAKERS.TXT", "103 | F | train-clean | 1.0 | Somebody")


def fleurs(folder: Path) -> None:
    audio(folder, "audio/train/1.wav", "audio/train/2.wav", "audio/dev/3.wav")
    table(folder / "train.tsv", f"7\t1.wav\t{FIRST}\tx\tx\t16000\tMALE",
          f"7\t2.wav\t{FIRST}\tx\tx\t16000\tFEMALE")  # fmt: skip
    table(folder / "dev.tsv", f"8\t3.wav\t{SECOND}\ty\ty\t16000\tMALE")


def nemo(folder: Path) -> None:
    audio(folder, "audio/a.wav", "audio/long.wav")
    rows = [
        {"audio_filepath": "/raid/x/audio/a.wav", "duration": 99.0, "text": FIRST, "speaker": "s"},
        {"audio_filepath": "audio/long.wav", "offset": 2.0, "duration": 1.5, "text": SECOND},
    ]
    table(folder / "manifest.json", *map(json.dumps, rows))


def audiofolder_jsonl(folder: Path) -> None:
    audio(folder, "data/a.flac")
    table(folder / "metadata.jsonl", json.dumps({"file_name": "data/a.flac", "text": FIRST}))


def zipped(file: Path, *rows: object) -> None:
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def recording(name: str) -> dict[str, object]:
    source = {"type": "file", "channels": [0], "source": f"/data/{name}.flac"}
    return {"id": name, "sources": [source], "sampling_rate": 16000, "duration": 9.0}


def supervision(name: str, start: float, duration: float, text: str) -> dict[str, object]:
    return {"id": name, "recording_id": "r1", "start": start, "duration": duration, "channel": 0,
            "text": text, "speaker": "s1", "language": "am"}  # fmt: skip


def lhotse(folder: Path) -> None:
    audio(folder, "data/r1.flac")
    zipped(folder / "x_recordings.jsonl.gz", recording("r1"))
    zipped(folder / "x_supervisions.jsonl.gz", supervision("u1", 0.5, 1.0, FIRST),
           supervision("u2", 0.0, 9.0, SECOND))  # fmt: skip


def lhotse_cuts(folder: Path) -> None:
    audio(folder, "r1.flac")
    cut = {"id": "c", "start": 2.0, "duration": 5.0, "channel": 0, "type": "MonoCut",
           "recording": recording("r1"),
           "supervisions": [supervision("u1", 0.5, 1.0, FIRST)]}  # fmt: skip
    zipped(folder / "cuts.jsonl.gz", cut)


def parquet(folder: Path, first: bytes = b"audio", second: bytes = b"audio") -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    columns = {
        "id": ["a", "b"],
        "audio": pa.array(
            [{"bytes": first, "path": "x/a.mp3"}, {"bytes": second, "path": None}],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        "transcription": [FIRST, SECOND],
        "speaker_id": [3, 4],
        "gender": ["female", "male"],
    }
    pq.write_table(
        pa.table(columns), folder / "data/train-00000-of-00001.parquet", row_group_size=1
    )


def audiofolder(folder: Path) -> None:
    audio(folder, "train/a.mp3", "train/b.mp3")
    table(folder / "train/metadata.csv", "file_name,transcription", f'a.mp3,"{FIRST}, {SECOND}"',
          f"b.mp3,{THIRD}")  # fmt: skip


def subtitles(folder: Path) -> None:
    audio(folder, "talk.mp4", "radio/news.m4a")
    table(folder / "talk.srt", "\ufeff1", "00:00:01,000 --> 00:00:02,500 X1:40", f"<i>{FIRST}</i>",
          "", "2", "00:00:03,000 --> 00:00:04,000", SECOND, THIRD)  # fmt: skip
    table(folder / "radio/news.am.vtt", "WEBVTT", "", "NOTE hm --", "", "01:00.000 --> 01:02.000",
          f"<v Abebe>{FIRST} &amp; ቡና")  # fmt: skip


def cue_table(folder: Path) -> None:
    audio(folder, "talk.ogg")
    table(folder / "talk.csv", "start,end,text", f'1.5,2.5,"{FIRST}, {SECOND}"')


def vctk(folder: Path) -> None:
    audio(folder, *(f"wav48/p{n}/p{n}_001_mic{mic}.flac" for n in (1, 2) for mic in (1, 2)))
    table(folder / "txt/p1/p1_001.txt", FIRST)
    table(folder / "txt/p2/p2_001.txt", SECOND, "", THIRD)


def libritts(folder: Path) -> None:
    audio(folder, "train/103/12/103_12_0.wav")
    table(folder / "train/103/12/103_12_0.normalized.txt", "x")
    table(folder / "train/103/12/103_12_0.original.txt", FIRST)


LAYOUTS: dict[str, Layout] = {
    "ljspeech": Layout("ljspeech", ljspeech, (
        Row("a", "wavs/a.wav", FIRST), Row("b", "wavs/b.wav", SECOND))),
    "piper": Layout("delimited", piper, (
        Row("a", "wav/a.wav", FIRST, "s1"), Row("b", "wav/b.wav", SECOND, "s1"),
        Row("c", "wav/c.wav", THIRD, "s2"), Row("d", "wav/d.wav", "ቡና", "s2"))),
    "speaker_last": Layout("delimited", speaker_last, (
        Row("a", "a.wav", FIRST, "s1"), Row("b", "b.wav", SECOND, "s1"),
        Row("c", "c.wav", THIRD, "s2"), Row("d", "d.wav", "ቡና", "s2"))),
    "vits": Layout("delimited", vits, (
        Row("DUMMY1/a", "DUMMY1/a.wav", FIRST), Row("DUMMY1/b", "DUMMY1/b.wav", SECOND))),
    "coqui": Layout("delimited", coqui, (
        Row("clips/a", "clips/a.wav", FIRST, "s1"),
        Row("clips/b", "clips/b.wav", 'ቡና | "ጠጣ"', "s2"))),
    "f5": Layout("delimited", f5, (
        Row("a", "wavs/a.wav", FIRST), Row("b", "wavs/b.wav", SECOND))),
    "openslr": Layout("delimited", openslr, (
        Row("a", "wavs/a.wav", FIRST), Row("b", "b.wav", SECOND))),
    "comma": Layout("delimited", comma, (
        Row("a", "audio/a.wav", f"{FIRST}, {SECOND}", "7"), Row("b", "audio/b.wav", THIRD, "8"))),
    "reversed_latin": Layout("delimited", reversed_latin, (
        Row("a", "wavs/a.wav", "schön"), Row("b", "wavs/b.wav", "Straße")),
        {"encoding": "latin-1"}),
    "mailabs": Layout("delimited", mailabs, (
        Row("a", "by_book/female/x/one/wavs/a.wav", FIRST),
        Row("b", "by_book/male/y/two/wavs/b.wav", SECOND)),
        {"tables": ["by_book/**/metadata.csv"]}),
    "common_voice": Layout("common_voice", common_voice, (
        Row("a", "am/clips/a.mp3", f'"{FIRST}', "whoa"),
        Row("c", "am/clips/c.mp3", THIRD, "whoc"))),
    "spontaneous": Layout("common_voice", spontaneous, (Row("a", "audios/a.mp3", FIRST, "who"),)),
    "kaldi": Layout("kaldi", kaldi, (
        Row("te_1", "data/test/wav/te_1.wav", SECOND, "te"),
        Row("tr_1", "data/train/wav/tr_1.wav", FIRST, "tr"))),
    "kaldi_segments": Layout("kaldi", kaldi_segments, (
        Row("u1", "long.flac", FIRST, start=0.5, end=1.25),
        Row("u2", "long.flac", SECOND, start=2.0, end=3.5))),
    "mls": Layout("librispeech", mls, (
        Row("5_6_000000", "dev/audio/5/6/5_6_000000.flac", SECOND, "5"),
        Row("12_34_000001", "train/audio/12/34/12_34_000001.flac", FIRST, "12"))),
    "librispeech": Layout("librispeech", librispeech, (
        Row("103-12-0000", "train-clean/103/12/103-12-0000.flac", FIRST, "103"),
        Row("103-12-0001", "train-clean/103/12/103-12-0001.flac", SECOND, "103"))),
    "fleurs": Layout("fleurs", fleurs, (
        Row("1", "audio/train/1.wav", FIRST), Row("2", "audio/train/2.wav", FIRST),
        Row("3", "audio/dev/3.wav", SECOND))),
    "nemo": Layout("jsonl", nemo, (
        Row("audio/a", "audio/a.wav", FIRST, "s"),
        Row("audio/long_00002000", "audio/long.wav", SECOND, start=2.0, end=3.5))),
    "audiofolder_jsonl": Layout("jsonl", audiofolder_jsonl, (
        Row("data/a", "data/a.flac", FIRST),)),
    "lhotse": Layout("lhotse", lhotse, (
        Row("u1", "data/r1.flac", FIRST, "s1", 0.5, 1.5),
        Row("u2", "data/r1.flac", SECOND, "s1"))),
    "lhotse_cuts": Layout("lhotse", lhotse_cuts, (
        Row("u1", "r1.flac", FIRST, "s1", 2.5, 3.5),)),
    "parquet": Layout("huggingface", parquet, (
        Row("train-00000-of-00001_a", "data/train-00000-of-00001.parquet#0", FIRST, "3"),
        Row("train-00000-of-00001_b", "data/train-00000-of-00001.parquet#1", SECOND, "4"))),
    "audiofolder": Layout("huggingface", audiofolder, (
        Row("a", "train/a.mp3", f"{FIRST}, {SECOND}"), Row("b", "train/b.mp3", THIRD))),
    "subtitles": Layout("subtitles", subtitles, (
        Row("talk_00001", "talk.mp4", FIRST, start=1.0, end=2.5),
        Row("talk_00002", "talk.mp4", f"{SECOND} {THIRD}", start=3.0, end=4.0),
        Row("radio/news_00001", "radio/news.m4a", f"{FIRST} & ቡና", "Abebe", 60.0, 62.0))),
    "cue_table": Layout("subtitles", cue_table, (
        Row("talk_00001", "talk.ogg", f"{FIRST}, {SECOND}", start=1.5, end=2.5),)),
    "vctk": Layout("text_files", vctk, (
        Row("p1_001", "wav48/p1/p1_001_mic1.flac", FIRST, "p1"),
        Row("p2_001", "wav48/p2/p2_001_mic1.flac", f"{SECOND} {THIRD}", "p2")),
        {"columns": {"speaker": 2}}),
    "libritts": Layout("text_files", libritts, (
        Row("103_12_0", "train/103/12/103_12_0.wav", FIRST),)),
}  # fmt: skip
