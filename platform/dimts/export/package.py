"""What lies beside the graphs of a voice: its text as data, and the code that reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dimts
from dimts.core.config import Config
from dimts.families.acoustic.bundle import Bundle
from dimts.families.acoustic.speaker import (
    MAX_PITCH,
    MAX_SPEED,
    MAX_TOKENS,
    MIN_PITCH,
    MIN_SPEED,
    AcousticSpeaker,
)
from dimts.families.vocoder.model.generator import SUB_FRAMES
from dimts.families.vocoder.model.vocoder import NOISE_FRAMES, Vocoder
from dimts.runtime.voice import FACTS, FORMAT, VERSION
from dimts.text.language import Language, Syllables

RUNTIME = "dimts_runtime"
SOURCES = (
    "core/errors", "core/masking", "core/printable", "runtime/noise", "runtime/reader",
    "runtime/tables", "runtime/voice", "text/affixed_numbers", "text/number_forms",
    "text/numbers", "text/pieces", "text/replacing", "text/respelling", "text/rules",
    "text/short_forms", "text/spellout",
)  # fmt: skip
"""Modules of dimts that `dimts.runtime` imports; they need numpy and onnxruntime alone."""


def facts(speaker: AcousticSpeaker, bundle: Bundle, vocoder: Vocoder) -> dict[str, Any]:
    """What ``voice.json`` says: all that is needed beside the graphs to speak a text."""
    tokenizer, voices = speaker.tokenizer, list(speaker.voices)
    characters = (token for token in tokenizer.tokens if len(token) == 1)
    return {
        "format": FORMAT,
        "version": VERSION,
        "made_by": f"dimts {dimts.__version__}",
        "weights": bundle.sha256,
        "sample_rate": speaker.sample_rate,
        "language": speaker.language or tokenizer.languages[-1],
        "voices": voices,
        "voice": voices[0] if voices else None,
        "predicts_pitch": speaker.model.source is not None,
        "limits": {
            "speed": [MIN_SPEED, MAX_SPEED],
            "pitch": [MIN_PITCH, MAX_PITCH],
            "tokens": MAX_TOKENS,
        },
        "vocoder": {
            "hop": vocoder.mel.hop_length,
            "reach": vocoder.generator.reach_frames,
            "sub_frames": SUB_FRAMES,
            "n_bins": vocoder.generator.n_bins,
            "noise_frames": NOISE_FRAMES,
        },
        "end_id": tokenizer.eos_id,
        "tokens": {character: tokenizer.segment(character)[0] for character in characters},
        "languages": {
            known.language.code: {
                "start_id": tokenizer.start_ids[known.language.code],
                "text": known.text.switches,
                "tables": tables(known.language),
            }
            for known in tokenizer.spec.languages
        },
    }


def tables(config: Config) -> dict[str, Any]:
    """All fields of a language's tables, defaults and what follows from them included."""
    values = {name: _plain(getattr(config, name)) for name in type(config).model_fields}
    if isinstance(config, Language):
        values |= {"alphabet": config.alphabet, "letters_pattern": config.letters_pattern}
    if isinstance(config, Syllables):
        values["factors"] = config.factors
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return tables(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def write_facts(folder: Path, values: dict[str, Any]) -> None:
    """Write ``voice.json``."""
    text = json.dumps(values, ensure_ascii=False, indent=1)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")


def write_runtime(folder: Path) -> None:
    """Write the package `dimts_runtime`: modules of dimts under that name."""
    library = Path(dimts.__file__).parent
    files = {name: name for name in SOURCES}
    files |= {"__init__": "runtime/__init__", "__main__": "runtime/__main__"}
    for name, source in files.items():
        code = (library / f"{source}.py").read_text(encoding="utf-8")
        path = folder / RUNTIME / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"\bdimts\.(?=[a-z])", f"{RUNTIME}.", code), encoding="utf-8")
