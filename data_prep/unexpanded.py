"""Short forms and foreign words that a language's file has no entry for, as a corpus has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from dimts.core.untrusted import printable
from dimts.text.language import load_language
from dimts.text.normaliser import Normaliser, TextConfig

SHOWN = 20
MAX_WORD = 40


def unexpanded_lines(text: TextConfig, raw_texts: Iterable[str]) -> list[str]:
    """Lines of a summary: how many there are, the most frequent with their counts."""
    normaliser = Normaliser(load_language(text.language), text)
    counts = Counter(found for raw in raw_texts for found in normaliser.unexpanded(raw))
    if not counts:
        return []
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{printable(word, MAX_WORD)} {n}" for word, n in most[:SHOWN])
    rest = f", and {len(most) - SHOWN} more" if len(most) > SHOWN else ""
    return [
        f"spelled   {counts.total()} words of {len(counts)} kinds are read by their letters, as "
        "the language's file has no entry for them:",
        f"  {shown}{rest}",
    ]
