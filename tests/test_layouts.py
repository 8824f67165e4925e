"""Each layout of a corpus is read by name and recognised; what is not clear ends in one hint."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from layout_fixtures import FIRST, LAYOUTS, SECOND, Row, audio, coqui, ljspeech, nemo, piper, table

from data_prep.readers import READERS, read_corpus
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.splits import assign_splits
from data_prep.utterance import Reason, Rejected, Utterance
from dimts.core.errors import UserError
from dimts.features.config import CorpusConfig, PrepareConfig


def read(folder: Path, **settings: Any) -> tuple[list[Utterance | Rejected], list[str]]:
    return read_corpus(CorpusConfig.model_validate({"path": folder, **settings}), "am")


def used(folder: Path, **settings: Any) -> list[Row]:
    rows = [row for row in read(folder, **settings)[0] if isinstance(row, Utterance)]
    return [Row(r.id, r.audio.as_posix(), r.text, r.speaker, r.start, r.end) for r in rows]


def refused(folder: Path, **settings: Any) -> dict[str, Reason]:
    return {row.id: row.reason for row in read(folder, **settings)[0] if isinstance(row, Rejected)}


def hint(folder: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        read(folder, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("reader", ["auto", "its name"])
def test_layout_is_recognised_and_read_by_name(name: str, reader: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    layout.write(tmp_path)
    if reader == "its name":
        reader = layout.reader
    assert used(tmp_path, reader=reader, **layout.settings) == list(layout.rows)
    _, notes = read(tmp_path, reader=reader, **layout.settings)
    if reader == "auto":
        found = "delimited" if layout.reader == "ljspeech" else layout.reader
        assert notes[0] == f"reader    {found}, recognised (corpus.reader)"
    assert layout.reader == "ljspeech" or any(note.startswith("columns") for note in notes)


@pytest.mark.parametrize(
    "name",
    ["a", "a.wav", "wavs/a", "wavs/a.wav", "./wavs/a.wav", "wavs\\a.wav", "WAVS/A.WAV", "a.WAV",
     "/other/machine/wavs/a.wav", "C:\\corpora\\mine\\wavs\\a.wav"],
)  # fmt: skip
@pytest.mark.parametrize("reader", ["auto", "ljspeech"])
def test_recording_is_found_however_its_path_is_written(
    name: str, reader: str, tmp_path: Path
) -> None:
    audio(tmp_path, "wavs/a.wav", "wavs/b.wav")
    table(tmp_path / "metadata.csv", f"{name}|{FIRST}", f"b|{SECOND}")
    assert [row.audio for row in used(tmp_path, reader=reader)] == ["wavs/a.wav", "wavs/b.wav"]


def test_decomposed_names_of_a_mac_are_found(tmp_path: Path) -> None:
    audio(tmp_path, unicodedata.normalize("NFD", "wavs/café.wav"))
    table(tmp_path / "metadata.csv", f"{unicodedata.normalize('NFC', 'café')}|{FIRST}")
    [row] = used(tmp_path)
    assert (tmp_path / row.audio).is_file()


def test_names_that_differ_in_case_alone_are_not_mixed_up(tmp_path: Path) -> None:
    audio(tmp_path, "wavs/a.wav", "wavs/A.wav")
    table(tmp_path / "metadata.csv", f"a|{FIRST}", f"A|{SECOND}", f"wavs/a.WAV|{SECOND}")
    assert [(row.id, row.audio) for row in used(tmp_path)] == [
        ("a", "wavs/a.wav"), ("A", "wavs/A.wav"),
    ]  # fmt: skip
    audio(tmp_path, "wavs/x.Wav", "wavs/X.wav")
    table(tmp_path / "metadata.csv", f"a|{FIRST}", f"x.WAV|{FIRST}")
    assert refused(tmp_path) == {"x": Reason.MISSING_FILE}


def test_no_path_leads_out_unless_the_audio_folder_says_so(tmp_path: Path) -> None:
    corpus, outside = tmp_path / "corpus", tmp_path / "outside"
    audio(outside, "a.wav", "secret/b.wav")
    audio(corpus, "wavs/c.wav")
    lines = (f"{outside}/a.wav|{FIRST}", f"../outside/a|{FIRST}", f"c|{FIRST}")
    table(corpus / "metadata.csv", *lines)
    assert set(refused(corpus).values()) == {Reason.OUTSIDE_CORPUS}
    assert [row.id for row in used(corpus)] == ["c"]
    settings = {"audio_folder": str(outside)}
    table(corpus / "metadata.csv", f"{outside}/a.wav|{FIRST}", f"secret/b|{SECOND}", "../x|y")
    assert [(row.id, row.audio) for row in used(corpus, **settings)] == [
        ("a", f"{outside}/a.wav"), ("secret/b", f"{outside}/secret/b.wav"),
    ]  # fmt: skip
    (outside / "link.wav").symlink_to(corpus.parent / "elsewhere.wav")
    audio(tmp_path, "elsewhere.wav")
    table(corpus / "metadata.csv", f"link|{FIRST}", f"a|{FIRST}")
    assert refused(corpus, **settings) == {"link": Reason.OUTSIDE_CORPUS}


def test_linked_folders_are_used_but_not_searched(tmp_path: Path) -> None:
    audio(tmp_path, "real/a.wav")
    (tmp_path / "wavs").symlink_to("real")
    (tmp_path / "everything").symlink_to("/")
    table(tmp_path / "metadata.csv", f"a|{FIRST}")
    assert [row.audio for row in used(tmp_path)] == ["wavs/a.wav"]
    assert CorpusFolder(CorpusConfig(path=tmp_path)).tables("", depth=3) == [
        "everything", "metadata.csv", "wavs", "real/a.wav",
    ]  # fmt: skip


def test_speaker_is_no_text_and_the_summary_says_so(tmp_path: Path) -> None:
    piper(tmp_path)
    _, notes = read(tmp_path)
    assert notes[1] == (
        "columns   metadata.csv: 1 is the recording, 3 the text, 2 the speaker; 2 repeats, so it "
        "is no text (corpus.columns: {text: 2} would read it)"
    )
    assert [row.text for row in used(tmp_path, columns={"text": 2})] == ["s1", "s1", "s2", "s2"]


def test_numbers_are_no_text_and_what_is_not_read_is_named(tmp_path: Path) -> None:
    audio(tmp_path, "wavs/a.wav", "wavs/b.wav")
    lines = (f"a|{FIRST}|3.25|x a|4", f"b|{SECOND}|2.5|y b|5")
    table(tmp_path / "metadata.csv", *(line.rsplit("|", 2)[0] for line in lines))
    assert [row.text for row in used(tmp_path)] == [FIRST, SECOND]
    table(tmp_path / "metadata.csv", *lines)
    assert [row.text for row in used(tmp_path)] == ["x a", "y b"]
    assert read(tmp_path)[1][1].endswith(
        "4 the text; 2 and 3 and 5 not read (corpus.columns: {text: 2} would)"
    )


def test_missing_recordings_name_the_setting(tmp_path: Path) -> None:
    audio(tmp_path, "sounds/a.wav")
    table(tmp_path / "metadata.csv", f"a|{FIRST}")
    [row], _ = read(tmp_path)
    assert isinstance(row, Rejected)
    assert row.detail == (
        "wavs/a.wav does not exist; corpus.audio_folder names the folder of the recordings"
    )
    [row], _ = read(tmp_path, audio_folder="sounds", reader="ljspeech")
    assert isinstance(row, Utterance)


def test_stray_delimiter_belongs_to_the_text(tmp_path: Path) -> None:
    audio(tmp_path, *(f"wavs/{n}.wav" for n in range(20)))
    lines = [f"{n}|{n} {FIRST}" for n in range(19)]
    table(tmp_path / "metadata.csv", *lines, f"19|{FIRST} | {SECOND}")
    assert used(tmp_path)[-1].text == f"{FIRST}|{SECOND}"
    assert "1 rows of 20 have a delimiter more" in " ".join(read(tmp_path)[1])
    assert used(tmp_path, reader="ljspeech")[-1].text == SECOND
    table(tmp_path / "metadata.csv", *lines[:3], f"19|{FIRST} | {SECOND}")  # one of few
    assert used(tmp_path)[-1].text == f"{FIRST}|{SECOND}"


def test_columns_that_both_repeat_end_in_a_hint(tmp_path: Path) -> None:
    audio(tmp_path, *(f"wavs/{n}.wav" for n in range(4)))
    table(tmp_path / "metadata.csv", *(f"{n}|s{n % 2}|t{n // 2}" for n in range(4)))
    assert "columns 2 and 3 all repeat, so which is the text? Set corpus.columns" in hint(tmp_path)
    chosen = used(tmp_path, columns={"text": 3, "speaker": 2})
    assert [(row.text, row.speaker) for row in chosen][:2] == [("t0", "s0"), ("t0", "s1")]


def two_layouts(folder: Path) -> None:
    nemo(folder)
    ljspeech(folder)


def two_tables(folder: Path) -> None:
    audio(folder, "a.wav")
    table(folder / "x.txt", "a|b")
    table(folder / "y.txt", "a|c")


@pytest.mark.parametrize(
    ("prepare", "settings", "message"),
    [
        (lambda c: audio(c, "a.wav"), {}, "no layout of a corpus is seen in it, but 1 .wav"),
        (lambda c: c.mkdir(exist_ok=True), {}, "no such folder, or nothing is in it"),
        (ljspeech, {"reader": "kaldi"},
         "is not laid out as kaldi; it looks like delimited: set corpus.reader: auto"),
        (two_layouts, {},
         "looks like jsonl and like delimited; seen: jsonl (manifest.json), delimited (metadata"),
        (two_tables, {},
         "2 tables name recordings: x.txt, y.txt; set corpus.tables: [x.txt]"),
        (ljspeech, {"reader": "latex"}, "corpus.reader: latex: no such layout; one of auto, comm"),
        (ljspeech, {"tables": ["none.csv"]}, "none.csv: no such file; corpus.tables names"),
        (ljspeech, {"reader": "ljspeech", "columns": {"text": 2}},
         "corpus.columns: text has no effect on the layout ljspeech; corpus.reader: delimited"),
        (LAYOUTS["kaldi"].write, {"delimiter": "tab"},
         "corpus.delimiter: has no effect on the layout kaldi; corpus.reader: delimited reads"),
        (ljspeech, {"audio_folder": "none"}, "corpus.audio_folder: none: no such folder"),
        (ljspeech, {"columns": {"text": 4}}, "corpus.columns.text: no column 4; it has 3 columns"),
        (coqui, {"columns": {"text": "x"}}, "no column x; it has audio_file, text, speaker_name"),
        (coqui, {"only": {"gender": ["f"]}}, "corpus.only: no column gender; there are audio_fi"),
        (lambda c: table(c / "metadata.csv", "no columns"), {}, "no |, tab, comma or semicolon"),
    ],
)  # fmt: skip
def test_wrong_or_unclear_corpus_ends_in_one_hint(
    prepare: Any, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    assert message in hint(tmp_path, **settings)


def test_only_some_speakers_and_only_this_language(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav", "b.wav", "c.wav")
    table(tmp_path / "t.csv", "file,text,speaker,locale", f"a.wav,{FIRST},s1,am-ET",
          f"b.wav,{SECOND},s2,am", f"c.wav,{SECOND},s1,ti")  # fmt: skip
    assert [row.id for row in used(tmp_path)] == ["a", "b", "c"]
    settings = {"columns": {"language": "locale"}, "only": {"speaker": ["s1"]}}
    assert [row.id for row in used(tmp_path, **settings)] == ["a"]
    assert refused(tmp_path, **settings) == {
        "b": Reason.LEFT_OUT_BY_ONLY, "c": Reason.OTHER_LANGUAGE,
    }  # fmt: skip
    both = {"columns": {"language": "locale"}, "languages": ["es", "ti"]}
    rows = [row for row in read(tmp_path, **both)[0] if isinstance(row, Utterance)]
    assert [row.language for row in rows] == ["am", "am", "ti"]


def test_rows_of_json_need_not_have_all_keys(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav", "b.wav")
    rows = ({"audio_filepath": "a.wav", "text": FIRST, "gender": "f"},
            {"audio_filepath": "b.wav", "text": SECOND})  # fmt: skip
    table(tmp_path / "list.jsonl", *map(json.dumps, rows), "[]")
    settings = {"only": {"gender": ["f"]}}
    assert [row.id for row in used(tmp_path, **settings)] == ["a"]
    assert set(refused(tmp_path, **settings).values()) == {
        Reason.LEFT_OUT_BY_ONLY, Reason.UNDECODABLE_LINE,
    }  # fmt: skip


def test_only_utterances_in_this_language_of_lhotse(tmp_path: Path) -> None:
    LAYOUTS["lhotse"].write(tmp_path)
    columns = {"columns": {"language": "language"}}
    assert len(used(tmp_path, **columns)) == 2
    rows, _ = read_corpus(CorpusConfig.model_validate({"path": tmp_path, **columns}), "ti")
    assert {row.reason for row in rows if isinstance(row, Rejected)} == {Reason.OTHER_LANGUAGE}


def test_lines_of_blanks_cost_themselves(tmp_path: Path) -> None:
    LAYOUTS["kaldi"].write(tmp_path / "kaldi")
    text = tmp_path / "kaldi/data/test/text"
    table(text, " " * 300 + f"te_1 {SECOND}", "\u00a0" * 150 + "x", " " * 250)
    assert len(used(tmp_path / "kaldi")) == 2
    assert set(refused(tmp_path / "kaldi").values()) == {Reason.MISSING_FILE}
    LAYOUTS["librispeech"].write(tmp_path / "libri")
    table(tmp_path / "libri/train-clean/103/12/103-12.trans.txt", "\u00a0", f"103-12-0000 {FIRST}")
    assert "no layout of a corpus is seen in it" in hint(tmp_path / "libri")


@pytest.mark.parametrize(
    ("name", "tables", "ids"),
    [
        ("kaldi", ["data/train/text"], ["tr_1"]),
        ("mls", ["train/transcripts.txt"], ["12_34_000001"]),
        ("fleurs", ["dev.tsv"], ["3"]),
        ("vctk", ["txt/p2/*.txt"], ["p2_001"]),
    ],
)
@pytest.mark.parametrize("auto", [True, False])
def test_some_tables_of_a_layout_are_read(
    name: str, tables: list[str], ids: list[str], auto: bool, tmp_path: Path
) -> None:
    LAYOUTS[name].write(tmp_path)
    reader = "auto" if auto else LAYOUTS[name].reader
    settings = {**LAYOUTS[name].settings, "reader": reader, "tables": tables}
    assert [row.id for row in used(tmp_path, **settings)] == ids


def test_sentence_of_several_speakers_is_in_one_split(tmp_path: Path) -> None:
    LAYOUTS["fleurs"].write(tmp_path)
    rows = [row for row in read(tmp_path)[0] if isinstance(row, Utterance)]
    ids = [row.split_id for row in rows]
    assert ids == ["sentence 7", "sentence 7", "sentence 8"]
    sentences = [f"sentence {n}" for n in range(12) for _ in range(2)]
    shares = PrepareConfig(features=tmp_path, val_share=1e-9, test_share=1e-9)
    splits = assign_splits(sentences, shares)  # two are filled, each with a whole sentence
    assert sorted(splits) == ["test"] * 2 + ["train"] * 20 + ["val"] * 2
    assert len(set(zip(sentences, splits, strict=True))) == 12


def test_odd_rows_of_each_layout_cost_themselves(tmp_path: Path) -> None:
    LAYOUTS["common_voice"].write(tmp_path / "cv")
    assert refused(tmp_path / "cv") == {"b": Reason.VOTED_DOWN}
    LAYOUTS["kaldi"].write(tmp_path / "kaldi")
    place = tmp_path / "kaldi/data/test"
    table(place / "wav.scp", "te_1 sox x.wav -t wav - |", "te_2 wav/te_1.wav")
    table(place / "text", "te_1 x", "te_2", "te_3 y")
    assert refused(tmp_path / "kaldi") == {
        "te_1": Reason.MISSING_FILE, "te_2": Reason.EMPTY_TEXT, "te_3": Reason.MISSING_FILE,
    }  # fmt: skip
    LAYOUTS["librispeech"].write(tmp_path / "libri")
    chapter = tmp_path / "libri/train-clean/103/12/103-12.trans.txt"
    table(chapter, f"103-12-0000 {FIRST}", "\u00a0", "odd x")
    assert refused(tmp_path / "libri") == {"odd": Reason.EMPTY_ID}
    LAYOUTS["subtitles"].write(tmp_path / "cues")
    table(tmp_path / "cues/talk.srt", "00:01,0 --> 00:03,0", FIRST, "", "00:02,0 --> 00:04,0",
          SECOND, "", "00:0x --> 00:05,0", "x", "", "00:09,0 --> 00:08,0", "x", "",
          "00:10,0 --> 00:11,0", "x", "00:11,0 --> 00:12,0", "y")  # fmt: skip
    assert refused(tmp_path / "cues") == {
        "talk_00001": Reason.OVERLAPS, "talk_00002": Reason.OVERLAPS,
        "talk_00003": Reason.OUTSIDE_RECORDING, "talk_00004": Reason.OUTSIDE_RECORDING,
        "talk_00005": Reason.UNDECODABLE_LINE,
    }  # fmt: skip
    coqui(tmp_path / "coqui")
    table(tmp_path / "coqui/metadata.csv", "audio_file|text", 'clips/a.wav|"never closed',
          f"clips/b.wav|{FIRST}")  # fmt: skip
    assert refused(tmp_path / "coqui") == {"clips/a": Reason.UNDECODABLE_LINE}
    assert [row.text for row in used(tmp_path / "coqui")] == [FIRST]


def test_quoted_cell_may_hold_line_ends(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav", "b.wav")
    table(tmp_path / "t.csv", "file,text", f'a.wav,"{FIRST}', f'{SECOND}"', f"b.wav,{SECOND}")
    assert [row.text for row in used(tmp_path)] == [f"{FIRST}\n{SECOND}", SECOND]
    assert [row.row for row in read(tmp_path)[0]] == [2, 4]


def test_settings_in_the_documents_are_settings() -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^    corpus:\n(?:      .*\n)+", page, re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        section = {"path": "corpora/mine", **yaml.safe_load(block)["corpus"]}
        assert CorpusConfig.model_validate(section).model_dump(exclude_defaults=True)
    for reader in READERS:
        assert f"| `{reader}` |" in page
    for reason in Reason:
        assert f"`{reason}`" in page
