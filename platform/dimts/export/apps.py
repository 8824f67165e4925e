"""A voice as apps of Piper and of sherpa-onnx load it: one graph, and what each character is.

Both are given the inputs that Piper's voices have; sherpa-onnx leaves the end's id out. Text comes
to them as it is, so that numbers and abbreviations have to be written as they are said.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import compose, helper, parser

from dimts.core.errors import UserError
from dimts.export.onnx_file import OPSET
from dimts.runtime.reader import Reader
from dimts.runtime.voice import ACOUSTIC, FACTS, VOCODER

GRAPH, PIPER, SHERPA = "voice.onnx", "voice.onnx.json", "tokens.txt"
QUOTES, BRACKETS = ("'", '"'), ("Pi", "Pf", "Ps", "Pe")
BEFORE = """
before (int64[1, n] input, int64[1] input_lengths, float[3] scales{sid}) => (float[1] a_speed) {{
  first = Constant <value = int64[1] {{0}}> ()
  second = Constant <value = int64[1] {{1}}> ()
  slowest = Constant <value = float {{{slowest}}}> ()
  fastest = Constant <value = float {{{fastest}}}> ()
  given = Squeeze (input, first)
  end = Constant <value = int64[1] {{{end}}}> ()
  end_at = Constant <value = int64[1] {{-1}}> ()
  last = Gather (given, end_at)
  ends = Equal (last, end)
  open = Not (ends)
  added = Compress <axis = 0> (end, open)
  a_ids = Concat <axis = 0> (given, added)
  longer = Gather (scales, second)
  faster = Reciprocal (longer)
  a_speed = Clip (faster, slowest, fastest)
  a_pitch = Constant <value = float[1] {{1.0}}> ()
  {speaker}
}}
"""
BETWEEN = """
between (float[t, m] a_mel) => (float[k, 2, f] v_noise) {{
  frames = Shape <start = 0, end = 1> (a_mel)
  sub_frames = Constant <value = int64[1] {{{sub_frames}}}> ()
  of_each = Constant <value = int64[2] {{2, {n_bins}}}> ()
  n_noise = Mul (frames, sub_frames)
  size = Concat <axis = 0> (n_noise, of_each)
  zeros = ConstantOfShape (size)
  v_noise = RandomNormalLike <seed = 0.0> (zeros)
  v_mel = Identity (a_mel)
  v_f0 = Identity (a_f0)
  v_voiced = Identity (a_voiced)
  v_cycles = Identity (a_cycles)
}}
"""
AFTER = """
after (float[s] v_wave) => (float[1, 1, s] output) {{
  until = Constant <value = int64[1] {{-{hop}}}> ()
  low = Constant <value = float {{-1.0}}> ()
  high = Constant <value = float {{1.0}}> ()
  leading = Constant <value = int64[2] {{0, 1}}> ()
  whole = Slice (v_wave, first, until)
  clipped = Clip (whole, low, high)
  output = Unsqueeze (clipped, leading)
}}
"""


def write_for_apps(folder: Path) -> None:
    """Write `GRAPH`, `PIPER` and `SHERPA` beside a voice, of the language that it speaks by
    default."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    read = readings(facts)
    (folder / SHERPA).write_text(
        "".join(f"{c} {ids[0]}\n" for c, ids in read.items() if len(ids) == 1), encoding="utf-8"
    )
    (folder / PIPER).write_text(json.dumps(_piper(facts, read), ensure_ascii=False, indent=1))
    model = _one_graph(folder, facts)
    code, end = facts["language"], facts["end_id"]
    own = {
        "comment": "dimts, laid out as coqui", "frontend": "characters", "add_blank": 0,
        "language": code, "sample_rate": facts["sample_rate"],
        "n_speakers": max(1, len(facts["voices"])), "use_eos_bos": 1,
        "bos_id": facts["languages"][code]["start_id"], "eos_id": end, "blank_id": 0, "pad_id": 0,
    }  # fmt: skip
    helper.set_model_props(model, {key: str(value) for key, value in own.items()})
    onnx.save(model, folder / GRAPH)


def readings(facts: Mapping[str, Any]) -> dict[str, list[int]]:
    """Ids of each character that the voice's rules read by itself, as letters that sound alike."""
    reader, known = Reader(facts), facts["tokens"]
    tables = facts["languages"][facts["language"]]["tables"]

    def ids(text: str) -> list[int]:
        try:
            return reader.ids(text)[1:-1]
        except UserError:
            return []

    letter = next(c for c in known if c.isalpha() and ids(c) == [known[c]])
    written = {*known, *tables["replacements"], *tables["homophones"], *map(str.upper, known)}
    found = {}
    for c in sorted(c for c in written if len(c) == 1):
        # A mark is followed by a space inside of a text, and a space does not end it.
        own = ids(letter + c)[1:] or ids(letter + c + letter)[1:-1]
        quotes = own == [known[" "]] and (c in QUOTES or unicodedata.category(c) in BRACKETS)
        if own and not quotes:  # beside which there is a space already
            found[c] = own
    return found


def _piper(facts: Mapping[str, Any], read: Mapping[str, list[int]]) -> dict[str, Any]:
    """Piper's configuration of a voice whose phonemes are characters."""
    code, voices = facts["language"], facts["voices"]
    marks = {"^": [facts["languages"][code]["start_id"]], "$": [facts["end_id"]], "_": []}
    return {
        "audio": {"sample_rate": facts["sample_rate"]},
        "espeak": {"voice": code},
        "language": {"code": code},
        "phoneme_type": "text",
        "num_symbols": 1 + max(max(ids) for ids in read.values()),
        "num_speakers": max(1, len(voices)),
        "speaker_id_map": {voice: row for row, voice in enumerate(voices)},
        "inference": {"noise_scale": 1.0, "length_scale": 1.0, "noise_w": 1.0},
        "phoneme_id_map": {**read, **marks},
        "hop_length": facts["vocoder"]["hop"],
    }


def _one_graph(folder: Path, facts: Mapping[str, Any]) -> onnx.ModelProto:
    """Both graphs of a voice with what lies before, between and after them."""
    acoustic, vocoder = (
        compose.add_prefix(onnx.load(folder / name), prefix)
        for name, prefix in ((ACOUSTIC, "a_"), (VOCODER, "v_"))
    )
    slowest, fastest = facts["limits"]["speed"]
    speaks = bool(facts["voices"])
    before = parser.parse_graph(
        BEFORE.format(
            end=facts["end_id"], slowest=float(slowest), fastest=float(fastest),
            sid=", int64[1] sid" if speaks else "",
            speaker="a_speaker = Identity (sid)" if speaks else "",
        )
    )  # fmt: skip
    between = parser.parse_graph(BETWEEN.format(**facts["vocoder"]))
    after = parser.parse_graph(AFTER.format(**facts["vocoder"]))
    graphs = (before, acoustic.graph, between, vocoder.graph, after)
    graph = helper.make_graph(
        [node for graph in graphs for node in graph.node], "voice", before.input, after.output,
        [*acoustic.graph.initializer, *vocoder.graph.initializer],
    )  # fmt: skip
    imports = {entry.domain: entry.version for m in (acoustic, vocoder) for entry in m.opset_import}
    assert imports[""] == OPSET
    opsets = [helper.make_opsetid(*entry) for entry in imports.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=acoustic.ir_version)
