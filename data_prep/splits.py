"""Which split an utterance belongs to: a matter of its id alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from dimts.features.config import PrepareConfig
from dimts.features.manifest import SplitName

SMALLEST_TO_FILL = 20
"""From so many utterances on, each split that was asked for gets at least one."""


def assign_splits(ids: Sequence[str], prepare: PrepareConfig) -> list[SplitName]:
    """The split of each id: a stable hash, so that new utterances never move old ones.

    The exception are splits that the hash leaves empty: an empty test or val split takes the
    train utterance with the lowest hash (if there are `SMALLEST_TO_FILL`), and an empty train
    split takes everything, as nothing can be learned from no utterance.
    """
    places = [_place(utterance_id) for utterance_id in ids]
    first = prepare.test_share + prepare.val_share
    splits: list[SplitName] = [
        "test" if place < prepare.test_share else "val" if place < first else "train"
        for place in places
    ]
    if "train" not in splits:
        return ["train"] * len(ids)
    if len(ids) < SMALLEST_TO_FILL:
        return splits
    wanted: dict[SplitName, float] = {"test": prepare.test_share, "val": prepare.val_share}
    for name, share in wanted.items():
        if share > 0 and name not in splits:
            train = [n for n, split in enumerate(splits) if split == "train"]
            splits[min(train, key=places.__getitem__)] = name
    return splits


def _place(utterance_id: str) -> float:
    """A number in [0, 1) that depends on the id alone."""
    digest = hashlib.sha256(f"split:{utterance_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
