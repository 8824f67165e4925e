"""Facts of a corpus's texts: characters, pairs that are never heard, duplicates."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise

MIN_EXPECTED = 3.0
"""Times that a pair would be met if characters stood side by side by chance."""
MAX_PAIRS = 200


def characters(texts: Iterable[str]) -> dict[str, int]:
    """Character -> how often it stands in normalised texts, the most frequent first."""
    return dict(Counter("".join(texts)).most_common())


def pairs_never_heard(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Pairs of letters (and marks) that never stand side by side, and how often chance had them.

    The most expected ones first; those that chance would hardly have are left out.
    """
    heard = {a + b for text in texts for a, b in pairwise(text)}
    counts = characters(texts)
    total = max(1, sum(counts.values()))
    letters = [c for c in counts if unicodedata.category(c)[0] in "LM"]
    missing = [
        (a + b, counts[a] * counts[b] / total)
        for a in letters
        for b in letters
        if a + b not in heard and counts[a] * counts[b] >= MIN_EXPECTED * total
    ]
    return sorted(missing, key=lambda pair: (-pair[1], pair[0]))[:MAX_PAIRS]


def duplicates(keys: Iterable[Hashable], ids: Iterable[str]) -> list[list[str]]:
    """Ids that have the same key, those of each key together."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for key, name in zip(keys, ids, strict=True):
        groups[key].append(name)
    return [group for group in groups.values() if len(group) > 1]
