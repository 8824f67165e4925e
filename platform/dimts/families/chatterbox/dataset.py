"""Rows of text and speech tokens, with a prompt of another utterance, collated into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimts.families.chatterbox.extractor import PROMPT, SPEAKER, SPEECH
from dimts.families.chatterbox.model.config import (
    MAX_PROMPT,
    N_CONDITION,
    START_SPEECH,
    STOP_SPEECH,
)
from dimts.features.feature_set import FeatureSplit
from dimts.training.task import Batch, Seed

WIDTH_MULTIPLE = 32
"""What widths of text and speech are padded to on a GPU, see `Rows.collate`."""
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class SpeechBatch(Batch):
    """Rows padded at the right; `size` counts tokens.

    Attributes:
        tokens_BL: int64; text from START to STOP, then at once speech from BOS to EOS.
        n_text_B, n_speech_B: of each, these included.
        prompt_BP, n_prompt_B: S3 tokens of another utterance.
        speaker_BE: vector of the same.
        drop_text_B: whether the text is not shown.
        widths: what text and speech are padded to where they are apart.
        n_text_targets, n_speech_targets, n_rows: of the whole batch, over all workers; texts that
            are not shown have no targets.
        other_BL, n_other_B: the same rows with another row's text, in validation.
        other_width: what those texts are padded to.
        shown_BL: `tokens_BL` as the model is shown them; None: as they are.
    """

    tokens_BL: Tensor
    n_text_B: Tensor
    n_speech_B: Tensor
    prompt_BP: Tensor
    n_prompt_B: Tensor
    speaker_BE: Tensor
    drop_text_B: Tensor
    widths: tuple[int, int]
    n_text_targets: int
    n_speech_targets: int
    n_rows: int
    other_BL: Tensor | None = None
    n_other_B: Tensor | None = None
    other_width: int = 0
    shown_BL: Tensor | None = None


class Voices:
    """The utterances that prompts are taken from, by speaker.

    Two sets may give one name to two people, so a speaker is one of a set.

    Args:
        splits: those of training.

    Attributes:
        names: of the speakers.
    """

    def __init__(self, splits: Sequence[FeatureSplit]):
        self._of: dict[tuple[Path, str], list[tuple[FeatureSplit, int]]] = {}
        self._numbers: dict[tuple[int, int], int] = {}
        for split in splits:
            for index, speaker in enumerate(split.values("speaker")):
                of_speaker = self._of.setdefault((split.folder, speaker), [])
                self._numbers[id(split), index] = len(of_speaker)
                of_speaker.append((split, index))
        self.names = tuple(dict.fromkeys(speaker for _, speaker in self._of))

    def n_others(self, split: FeatureSplit, index: int, speaker: str) -> int:
        """How many utterances of a speaker there are beside one of a split."""
        of_speaker = self._of.get((split.folder, speaker), ())
        return len(of_speaker) - ((id(split), index) in self._numbers)

    def other(
        self, split: FeatureSplit, index: int, speaker: str, number: int
    ) -> tuple[FeatureSplit, int]:
        """One of the utterances of a speaker beside that, by its number."""
        own = self._numbers.get((id(split), index))
        return self._of[split.folder, speaker][number + (own is not None and number >= own)]

    def longest(self, speaker: str) -> tuple[Ids, NDArray[np.float32]]:
        """The longest prompt of a speaker, and the vector of the same utterance."""
        rows = [row for (_, name), of in self._of.items() if name == speaker for row in of]
        split, index = max(rows, key=lambda row: len(row[0].column(PROMPT, row[1])))
        return split.column(PROMPT, index).astype(np.int64), split.column(SPEAKER, index)


class Rows:
    """Utterances of one split or several as rows; see `dimts.training.task.Dataset`.

    Args:
        splits: of the features.
        texts: ids of each text from START to STOP, of all splits one after another.
        voices: where prompts come from; an utterance whose speaker has no other one is left out.
        drop_text: share of the rows whose text is not shown.
        drop_speech: share of the speech ids in whose place BOS is shown.
        with_other_texts: whether batches hold each row with the text of another as well, if there
            are two texts.

    Attributes:
        ids: of the utterances.
        texts, speech: ids of each row, START, STOP, BOS and EOS included.
        lengths: tokens of each row, conditioning included.
        n_alone: utterances that were left out.
    """

    def __init__(
        self, splits: Sequence[FeatureSplit], texts: Sequence[Ids], voices: Voices,
        drop_text: float = 0.0, drop_speech: float = 0.0, with_other_texts: bool = False,
    ):  # fmt: skip
        where = [(split, index) for split in splits for index in range(len(split))]
        speakers = [speaker for split in splits for speaker in split.values("speaker")]
        kept = [n for n, row in enumerate(where) if voices.n_others(*row, speakers[n])]
        self.n_alone = len(where) - len(kept)
        self._where, self._speakers = [where[n] for n in kept], [speakers[n] for n in kept]
        self._voices, self._drop_text, self._drop_speech = voices, drop_text, drop_speech
        self.texts = [texts[n] for n in kept]
        self.ids = [split.ids[index] for split, index in self._where]
        self.n_text = np.array([len(text) for text in self.texts], np.int64)
        speech = {id(split): split.lengths(SPEECH) for split in splits}
        ends = [speech[id(split)][index] + 2 for split, index in self._where]
        self.n_speech = np.array(ends, np.int64)
        self.lengths = N_CONDITION + self.n_text + self.n_speech
        n_texts = len({text.tobytes() for text in self.texts})
        self._other = self._other_texts() if with_other_texts and n_texts > 1 else None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pace(self) -> float:
        """Speech tokens a letter: START, the language's tag, BOS and what ends both are none."""
        return float((self.n_speech - 2).sum() / max(1, (self.n_text - 3).sum()))

    def speech(self, index: int) -> Ids:
        """Speech ids of a row from BOS to EOS."""
        split, i = self._where[index]
        return np.array([START_SPEECH, *split.column(SPEECH, i), STOP_SPEECH], np.int64)

    def prompt(self, index: int, seed: Seed = (0,)) -> tuple[Ids, NDArray[np.float32]]:
        """Prompt ids and vector of another utterance of the speaker."""
        speaker, row = self._speakers[index], self._where[index]
        draw = np.random.default_rng((*seed, index, 1))
        number = int(draw.integers(self._voices.n_others(*row, speaker)))
        split, i = self._voices.other(*row, speaker, number)
        return split.column(PROMPT, i).astype(np.int64), split.column(SPEAKER, i)

    def collate(
        self, indices: Sequence[int], whole: Sequence[int] | None = None, *,
        seed: Seed = (0,), pad_to_multiple: bool = False,
    ) -> SpeechBatch:  # fmt: skip
        """The batch of some rows; see `Dataset.collate`."""
        chosen, total = np.array(indices), np.array(indices if whole is None else whole)
        n_text, n_speech = self.n_text[chosen], self.n_speech[chosen]
        speech = [self.speech(index) for index in indices]
        prompts = [self.prompt(index, seed) for index in indices]
        shown = self.n_text[total] - 1
        dropped = {int(index): self._is_dropped(int(index), seed) for index in {*total, *chosen}}
        multiple = WIDTH_MULTIPLE if pad_to_multiple else 1
        others: dict[str, object] = {}
        if self._other is not None:
            other = self._other[chosen]
            texts = [self.texts[index] for index in other]
            others = {
                "other_BL": _padded(
                    [np.concatenate(ids) for ids in zip(texts, speech, strict=True)]
                ),
                "n_other_B": torch.from_numpy(self.n_text[other]),
                "other_width": _rounded(self.n_text[other], multiple),
            }
        texts = [self.texts[index] for index in indices]
        if self._drop_speech:
            heard = [self._shown(*row, seed) for row in zip(speech, indices, strict=True)]
            others["shown_BL"] = _padded(
                [np.concatenate(ids) for ids in zip(texts, heard, strict=True)]
            )
        return SpeechBatch(
            ids=[self.ids[index] for index in indices],
            size=int(self.lengths[total].sum()),
            tokens_BL=_padded([np.concatenate(ids) for ids in zip(texts, speech, strict=True)]),
            n_text_B=torch.from_numpy(n_text),
            n_speech_B=torch.from_numpy(n_speech),
            prompt_BP=_padded([ids for ids, _ in prompts], MAX_PROMPT),
            n_prompt_B=torch.tensor([len(ids) for ids, _ in prompts]),
            speaker_BE=torch.from_numpy(np.stack([vector for _, vector in prompts])),
            drop_text_B=torch.tensor([dropped[index] for index in indices]),
            widths=(_rounded(n_text, multiple), _rounded(n_speech, multiple)),
            n_text_targets=sum(int(n) for n, i in zip(shown, total, strict=True) if not dropped[i]),
            n_speech_targets=int((self.n_speech[total] - 1).sum()),
            n_rows=len(total),
            **others,  # type: ignore[arg-type]
        )

    def _is_dropped(self, index: int, seed: Seed) -> bool:
        if not self._drop_text:
            return False
        return bool(np.random.default_rng((*seed, index, 0)).random() < self._drop_text)

    def _shown(self, speech: Ids, index: int, seed: Seed) -> Ids:
        hidden = np.random.default_rng((*seed, index, 2)).random(len(speech)) < self._drop_speech
        return np.where(hidden, START_SPEECH, speech)

    def _other_texts(self) -> Ids:
        """For each row another one whose text differs and is about as long, [n]."""
        order = self.n_text.argsort(kind="stable")
        other = np.arange(len(order))
        for place, index in enumerate(order):
            for candidate in np.roll(order, -place)[1:]:
                if not np.array_equal(self.texts[candidate], self.texts[index]):
                    other[index] = candidate
                    break
        return other


def _padded(rows: Sequence[Ids], width: int | None = None) -> Tensor:
    """int64 [B, width], zeros at the right."""
    padded = torch.zeros(len(rows), width or max(map(len, rows)), dtype=torch.long)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.from_numpy(ids)
    return padded


def _rounded(lengths: Ids, multiple: int) -> int:
    longest = int(lengths.max())
    return longest + -longest % multiple
