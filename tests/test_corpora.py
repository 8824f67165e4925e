"""Corpora made of others: nothing is lost, mixed up, or drawn otherwise the next time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from math import floor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from dimts.core.errors import UserError
from dimts.families.acoustic.dataset import Corpus, draw, join, load_corpus
from dimts.features.feature_set import FeatureSet
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.training.sampler import BucketSampler, Position, ScheduledIndices, interleave

if TYPE_CHECKING:
    from conftest import BaseVoice

START = Position(0, 0)
BUDGETS = (0, 45)
SHARES = (0.05, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.95)


class Numbered:
    """Utterances whose mel says which they are."""

    def __init__(self, name: str, n: int) -> None:
        self.ids = [f"{name}{i}" for i in range(n)]
        self.texts = [f"text of {name}{i}" for i in range(n)]
        self.n_frames: NDArray[np.int64] = np.arange(3, 3 + n)
        self._first = ord(name) * 1000

    def __len__(self) -> int:
        return len(self.ids)

    def mel(self, index: int) -> NDArray[np.float32]:
        return np.full((self.n_frames[index], 2), self._first + index, np.float32)


def corpus(name: str, n: int) -> Corpus:
    return Corpus(Numbered(name, n), [np.array([ord(name), i]) for i in range(n)])


def contents(of: Corpus) -> list[tuple[str, str, int, list[list[float]], list[int]]]:
    """All that an utterance consists of, in the corpus's order."""
    rows = of.utterances
    return [
        (rows.ids[i], rows.texts[i], int(rows.n_frames[i]), rows.mel(i).tolist(),
         of.tokens[i].tolist())
        for i in range(len(of))
    ]  # fmt: skip


# Joined and drawn


def test_joined_corpora_keep_their_order_and_their_mels() -> None:
    parts = [corpus("a", 3), corpus("b", 0), corpus("c", 2)]
    joined = join(parts)
    assert contents(joined) == [row for part in parts for row in contents(part)]
    assert joined.n_tokens.tolist() == [2] * 5
    alone = parts[2].collate([1, 0])
    together = joined.collate([4, 3])
    assert together.ids == alone.ids
    assert together.mel_BTM.equal(alone.mel_BTM)
    assert together.tokens_BN.equal(alone.tokens_BN)
    assert (together.size, together.n_tokens) == (7, 4)


def test_single_corpus_joined_is_itself() -> None:
    alone = corpus("a", 3)
    assert join([alone]) is alone


def test_smaller_draw_is_a_part_of_a_larger_one() -> None:
    whole = corpus("a", 40)
    rows = contents(whole)
    drawn = [contents(draw(whole, n)) for n in (1, 5, 20, 39)]
    for n, part in zip((1, 5, 20, 39), drawn, strict=True):
        assert len(part) == n
        assert part == [row for row in rows if row in part], "in the order of the corpus"
    for smaller, larger in pairwise(drawn):
        assert all(row in larger for row in smaller)
    assert drawn[2] != rows[:20], "an even draw, not the beginning"
    assert draw(whole, 40) is draw(whole, 41) is whole


def test_draw_does_not_change_with_what_else_there_is() -> None:
    """Utterances that are added take places, and move no other in or out for another reason."""
    few = {row[0] for row in contents(draw(corpus("a", 30), 10))}
    many = {row[0] for row in contents(draw(corpus("a", 60), 20))}
    first_30 = {f"a{i}" for i in range(30)}
    kept = many & first_30
    assert kept <= few or few <= kept


def test_texts_are_encoded_in_the_language_of_their_row(base: BaseVoice) -> None:
    languages = [(load_language(code), TextConfig(language=code)) for code in ("es", "sw")]
    tokenizer = Tokenizer.from_languages(languages)
    for code, folder in zip(("es", "sw"), base.features, strict=True):
        features = FeatureSet.open(folder)
        read = load_corpus(features, tokenizer, "train")
        assert len(read) > 0
        for ids, text in zip(read.tokens, features.split("train").texts, strict=True):
            assert ids[0] == tokenizer.start_ids[code]
            assert tokenizer.decode(ids) == text


def test_language_that_the_tokenizer_does_not_know_is_named(base: BaseVoice) -> None:
    spanish = Tokenizer.from_language(load_language("es"), TextConfig(language="es"))
    with pytest.raises(UserError, match=rf"^{base.features[1]}: language 'sw' is not one .*: es"):
        load_corpus(FeatureSet.open(base.features[1]), spanish, "train")


# Interleaved


def samplers(budget: int = 0) -> tuple[BucketSampler, BucketSampler]:
    """Of batches of four, the last of an epoch a smaller one; or of so many frames."""
    main, rehearsed = np.arange(5, 28), np.arange(7, 16)
    return BucketSampler(main, 4, 3, budget), BucketSampler(rehearsed, 4, 3, budget)


def take(of: Iterator[ScheduledIndices], n: int) -> list[ScheduledIndices]:
    return list(islice(of, n))


def batches(of: Sequence[ScheduledIndices], rehearsal: bool) -> list[list[int]]:
    return [batch.indices for batch in of if batch.rehearsal == rehearsal]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("share", SHARES)
def test_share_of_rehearsal_is_exact_after_every_step(share: float, budget: int) -> None:
    """So it is evenly spread, too."""
    done = 0
    mixed = take(interleave(*samplers(budget), share, START), 1000)
    for n, batch in enumerate(mixed, start=1):
        done += batch.rehearsal
        assert done == floor(n * share + 1e-9), n
        assert batch.after.rehearsed == done


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("share", SHARES)
def test_interleaved_batches_go_on_from_any_position(share: float, budget: int) -> None:
    """Across epochs of both corpora."""
    whole = take(interleave(*samplers(budget), share, START), 80)
    assert whole[-1].after.epoch >= 1 or share > 0.9
    for n, batch in enumerate(whole[:60], start=1):
        assert take(interleave(*samplers(budget), share, batch.after), 15) == whole[n : n + 15], n


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("share", SHARES)
def test_rehearsal_leaves_the_epochs_of_both_corpora_as_they_are(share: float, budget: int) -> None:
    main, rehearsed = samplers(budget)
    mixed = take(interleave(main, rehearsed, share, START), 200)
    for sampler, of in zip(samplers(budget), (False, True), strict=True):
        found = batches(mixed, of)
        expected = [indices for _, indices in islice(sampler.following(START), len(found))]
        assert found == expected
        first, epoch = 0, 0
        while (last := first + sampler.batches_of(epoch)) <= len(found):
            seen = sorted(i for batch in found[first:last] for i in batch)
            assert seen == list(range(len(seen))) and len(seen) in (9, 23)
            first, epoch = last, epoch + 1
    positions = [batch.after[:2] for batch in mixed if not batch.rehearsal]
    of_main = samplers(budget)[0].following(START)
    plain = [after[:2] for after, _ in islice(of_main, len(positions))]
    assert positions == plain


@pytest.mark.parametrize("position", [START, Position(0, 3), Position(2, 1)])
@pytest.mark.parametrize("rehearsed", [True, False])
def test_without_a_share_there_is_the_main_corpus_alone(
    position: Position, rehearsed: bool
) -> None:
    main, other = samplers()
    share = 0.0 if rehearsed else 0.5
    mixed = take(interleave(main, other if rehearsed else None, share, position), 30)
    plain = islice(samplers()[0].following(position), 30)
    assert mixed == [ScheduledIndices(after, False, indices) for after, indices in plain]
