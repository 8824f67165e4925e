"""A natural neural voice that speaks any language of espeak-ng: hibari on espeak's phonemes.

hibari-tts (Apache-2.0, its weights in its wheel, distilled from Kokoro-82M) has one American
speaker, 24 kHz. English is read by its own rules. Any other language is read by espeak-ng, whose
phonemes are then spoken by the nearest sounds that the voice was trained on (`NEAREST`): a foreign
accent, but a person's voice. Marks that it has no sound for, such as that of ejectives, are left
out.

**The same samples every time** on one machine: the noise in the voice is drawn from a seed that
depends on the text alone. Another kind of CPU may round otherwise.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from data_prep.recipes.espeak_library import Clause, Speech, clauses
from dimts.core.errors import UserError

MARKS = {"…": ".", "።": ".", "፧": "?", "፣": ",", "፥": ",", "፤": ";", "፦": ":"}
"""What ends a clause -> what the voice reads there; others it knows."""
SOUNDS = frozenset("bdfhjklmnpstvwzɡŋɹʃʒðθʤʧɾʔəiuɑɔɛɜɪʊʌAIOWYæᵻˈˌ ")
"""What the voice was trained on; its alphabet has more, which give noise."""

NEAREST = {
    # Sounds of two letters, which espeak ties.
    "t^ʃ": "ʧ", "d^ʒ": "ʤ", "t^s": "ts", "d^z": "dz", "p^f": "pf",
    "a^ɪ": "I", "a^ʊ": "W", "e^ɪ": "A", "o^ʊ": "O", "ə^ʊ": "O", "ɔ^ɪ": "Y", "ɔ^ø": "Y",
    # Vowels.
    "a": "ɑ", "ɐ": "ə", "ɒ": "ɔ", "e": "A", "o": "O", "ɨ": "ɪ", "ɯ": "ʊ", "ɵ": "ʊ", "ɘ": "ə",
    "y": "i", "ʏ": "ɪ", "ø": "ɜ", "œ": "ɛ", "ɤ": "ʌ", "ʉ": "u", "ɚ": "əɹ", "ɝ": "ɜɹ",
    # Consonants.
    "r": "ɾ", "ʀ": "ɹ", "ʁ": "ɹ", "ɽ": "ɾ", "ɻ": "ɹ", "x": "h", "χ": "h", "ħ": "h", "ɦ": "h",
    "ç": "h", "ɲ": "nj", "ɴ": "ŋ", "ɳ": "n", "ɱ": "m", "ʎ": "lj", "ɭ": "l", "ɫ": "l", "β": "b",
    "ɓ": "b", "ɗ": "d", "ɖ": "d", "ʈ": "t", "ɣ": "ɡ", "g": "ɡ", "ɠ": "ɡ", "ɟ": "ɡ", "ʝ": "j",
    "q": "k", "c": "k", "ɸ": "f", "ʋ": "v", "ʍ": "w", "ɥ": "w", "ʂ": "ʃ", "ɕ": "ʃ", "ʐ": "ʒ",
    "ʑ": "ʒ", "ʕ": "ʔ",
}  # fmt: skip
"""A sound of espeak-ng -> the nearest that the voice was trained on."""
_LONGEST = max(map(len, NEAREST))


def speak(text: str, voice: str = "am") -> Speech:
    """Speak one text; equal arguments give equal samples, whatever was spoken before.

    Args:
        text: raw.
        voice: a language of espeak-ng; English is read by hibari itself.

    Raises:
        UserError: hibari-tts is not installed, or espeak-ng has no such voice.
    """
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    model = _model()
    if voice.partition("-")[0] == "en":
        wave = model(text, seed=seed)
    else:
        wave = model.from_phonemes(phonemes(clauses(text, voice)), seed=seed)
    samples = np.clip(np.rint(wave * 32767.0), -32768, 32767).astype(np.int16)
    return Speech(samples, int(model.sample_rate))


def phonemes(read: list[Clause]) -> str:
    """espeak's reading of a text in the alphabet of the voice."""
    return " ".join(_nearest(clause.ipa) + MARKS.get(clause.end, clause.end) for clause in read)


def engine_version() -> str:
    """Of the voice and the rules here; raises like `speak` if it is not installed."""
    _model()
    return f"hibari-tts {version('hibari-tts')}"


def _nearest(ipa: str) -> str:
    found, i = "", 0
    while i < len(ipa):
        for n in range(_LONGEST, 0, -1):
            if (sound := ipa[i : i + n]) in NEAREST:
                found += NEAREST[sound]
                i += n
                break
        else:
            found += ipa[i] if ipa[i] in SOUNDS else ""
            i += 1
    return " ".join(found.split())


@lru_cache(maxsize=1)
def _model() -> Any:
    try:
        from hibari import Hibari
    except ImportError as error:
        raise UserError(
            f"the natural voice needs the package {error.name}; install it: pip install "
            "hibari-tts, or let espeak-ng speak: --engine espeak"
        ) from error
    return Hibari(threads=1)
