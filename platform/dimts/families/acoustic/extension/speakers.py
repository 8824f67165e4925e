"""A new speaker on an old voice: who is in the table of speakers, and what new rows start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dimts.features.config import CorpusConfig
from dimts.features.feature_set import FeatureSet

ROWS = "speaker.rows.weight"
STATISTICS = ("source.mean", "source.std", "source.gain")
"""Of each speaker's F0, where the model predicts it."""


def speaker_table(
    opened: Sequence[FeatureSet], of_base: Sequence[FeatureSet], known: Sequence[str]
) -> tuple[tuple[str, ...], int]:
    """The names of the table's rows, and how many of them are the base's.

    Without a base that has a table, a model of one speaker has none either.

    Args:
        opened: what is learned from.
        of_base: sets of the base's languages.
        known: the base's table.
    """
    ours = speakers_of(opened)
    if not known and len(ours) < 2:
        return (), 0
    theirs = list(known) or speakers_of(of_base)
    return (*theirs, *(name for name in ours if name not in theirs)), len(theirs)


def speakers_of(sets: Sequence[FeatureSet]) -> list[str]:
    """Each once, in the order of the sets."""
    return list(dict.fromkeys(name for s in sets for name in s.manifest.corpus.speakers))


def unnamed_speaker(opened: Sequence[FeatureSet], known: Sequence[str]) -> list[str]:
    """A line that says so if a speaker to whom nobody gave a name goes on from the row of one of
    the base's, who may be somebody else."""
    name = CorpusConfig.model_fields["speaker"].default
    if name not in speakers_of(opened) or name not in known:
        return []
    return [
        f"corpus.speaker: the base knows a {name!r}, who is taken for the same person; if this is "
        "another one, name both by corpus.speaker and run dimts prepare again"
    ]


def with_speakers(
    weights: Mapping[str, Tensor], untrained: Mapping[str, Tensor], n_base: int
) -> dict[str, Tensor]:
    """A base's weights with rows for the speakers that it lacks, behind its own.

    New rows start as the mean of the base's, and with the F0 of the new speakers' recordings. A
    base without a table gets rows of zero, so that it begins as it was.

    Args:
        weights: the base's.
        untrained: of a model with the whole table, which knows the statistics of F0.
        n_base: rows that are the base's.
    """
    if ROWS not in untrained:
        return dict(weights)
    n_speakers, width = untrained[ROWS].shape
    old_SD = weights.get(ROWS, torch.zeros(max(1, n_base), width))
    mean_SD = old_SD.mean(0).expand(n_speakers - n_base, width)
    extended = {ROWS: torch.cat((old_SD[:n_base], mean_SD))}
    for name in {*STATISTICS} & weights.keys():
        old_S = weights[name].expand(n_base) if not weights[name].ndim else weights[name]
        extended[name] = torch.cat((old_S, untrained[name][n_base:]))
    return {**weights, **extended}
