"""Figures of held-out utterances: losses, what a wrong text costs, where speech ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from dimts.families.chatterbox.dataset import Rows
from dimts.families.chatterbox.model.generation import generate
from dimts.families.chatterbox.model.sampling import Sampling
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.objective import EMOTION, row_losses

BATCH = 8
TOLERANCE = 0.2
"""Share by which speech may be longer or shorter than the recording and yet end on time."""
ROOM = 2
"""Times the recording's length after which speech is ended."""


class UtteranceMetrics(NamedTuple):
    """Figures of one utterance.

    Attributes:
        id: of the utterance.
        speech_loss, text_loss: nats a token.
        ends: 1 where EOS is the likeliest token after the last one.
        text_gap: nats a token by which the text of another utterance raises the speech's loss; NaN
            where there is no other text.
        length_ratio: of what is spoken to what was recorded; NaN where it was not spoken.
    """

    id: str
    speech_loss: float
    text_loss: float
    ends: float
    text_gap: float
    length_ratio: float


@torch.no_grad()
def evaluate(
    model: T3, rows: Rows, generated: int, limit: int | None = None
) -> list[UtteranceMetrics]:
    """Figures of all rows, in their order.

    Args:
        model: in evaluation mode.
        rows: with the texts of others.
        generated: how many of them are spoken, evenly spread, by the likeliest token each time.
        limit: how many are measured at most, likewise.
    """
    device = model.speech_head.weight.device
    spoken, measured = set(_spread(len(rows), generated)), _spread(len(rows), limit)
    found: dict[int, UtteranceMetrics] = {}
    order = sorted(measured, key=rows.lengths.__getitem__)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = rows.collate(chosen).to(device)
        own = row_losses(model, batch, "off")
        swapped_B = torch.full_like(own.speech, torch.nan)
        if batch.other_BL is not None:
            swapped_B = row_losses(model, batch, "off", with_other_texts=True).speech
        n_speech_B, n_text_B = batch.n_speech_B - 1, batch.n_text_B - 1
        table = torch.stack(
            [
                own.speech / n_speech_B,
                own.text / n_text_B,
                own.ends,
                (swapped_B - own.speech) / n_speech_B,
            ]
        )
        for index, values in zip(chosen, table.T.tolist(), strict=True):
            ratio = _length_ratio(model, rows, index) if index in spoken else float("nan")
            found[index] = UtteranceMetrics._make((rows.ids[index], *values, ratio))
    return [found[index] for index in measured]


def aggregate_metrics(rows: Sequence[UtteranceMetrics]) -> dict[str, float]:
    """Means over utterances, by the names of `dimts.families.chatterbox.metrics`."""
    table = np.array([row[1:] for row in rows], np.float64)
    speech, text, ends, gap, ratios = table.T
    metrics = {
        "utterance_loss": speech.mean(),
        "text_loss": text.mean(),
        "eos_recall": ends.mean(),
        "utterances": len(rows),
    }
    if not np.isnan(gap).any():
        metrics["text_gap"] = gap.mean()
    if len(ratios := ratios[~np.isnan(ratios)]):
        metrics["ends_on_time"] = np.mean(np.abs(ratios - 1) <= TOLERANCE)
    return {name: float(value) for name, value in metrics.items()}


def _spread(n: int, limit: int | None) -> list[int]:
    """At most `limit` of `n` indices, evenly spread."""
    n_taken = n if limit is None else min(limit, n)
    return [int(index) for index in np.linspace(0, n - 1, n_taken).round()]


def _length_ratio(model: T3, rows: Rows, index: int) -> float:
    recorded = int(rows.n_speech[index]) - 2
    greedy = Sampling(temperature=0, cfg_weight=0, repetition_penalty=1, max_tokens=ROOM * recorded)
    prompt, speaker = rows.prompt(index)
    text_N, prompt_P = torch.from_numpy(rows.texts[index]), torch.from_numpy(prompt)
    made = generate(model, text_N, torch.tensor(speaker), prompt_P, EMOTION, greedy)
    return len(made.ids) / recorded
