"""Alignment: the search is exact, and the flat-start aligner finds what is there."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from word_events import speak_words

from data_prep.recipes.espeak import SAMPLE_SENTENCES, read_sentences
from dimts.audio.mel import MelConfig, log_mel
from dimts.audio.trim import TrimConfig, trim_silence
from dimts.families.acoustic.alignment.em import align_corpus
from dimts.families.acoustic.alignment.search import search, search_one, skippable_states
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

Float = NDArray[np.float32]
Int = NDArray[np.int64]
MEL = MelConfig()

# The search


def best_score(scores: Float, skippable: NDArray[np.bool_]) -> float | None:
    """The highest sum over all paths, by trying every one; None if there is no path."""
    n_frames, n_states = scores.shape
    best = None
    for path in itertools.combinations_with_replacement(range(n_states), n_frames):
        if set(range(n_states)) - set(path) <= set(np.flatnonzero(skippable)):
            score = float(sum(scores[t, j] for t, j in enumerate(path)))
            best = score if best is None else max(best, score)
    return best


def score_of(scores: Float, durations: NDArray[np.int32]) -> float:
    states = np.repeat(np.arange(len(durations)), durations)
    return float(scores[np.arange(len(states)), states].sum())


@given(
    n_frames=st.integers(1, 7),
    skippable=st.lists(st.booleans(), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_search_finds_the_best_of_all_paths(
    n_frames: int, skippable: list[bool], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, (n_frames, len(skippable))).astype(np.float32)
    durations = search_one(scores, np.array(skippable))
    expected = best_score(scores, np.array(skippable))
    if expected is None:
        assert not durations.any()
    else:
        assert durations.sum() == n_frames
        assert (durations[~np.array(skippable)] > 0).all()
        assert score_of(scores, durations) == pytest.approx(expected, abs=1e-4)


def test_search_of_a_padded_batch_is_that_of_each_row() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 3, (3, 20, 8)).astype(np.float32)
    skippable = rng.random(8) < 0.4
    n_frames, n_states = np.array([20, 9, 4]), np.array([8, 5, 2])
    durations = search(scores, n_frames, n_states, skippable)
    for b, (t, j) in enumerate(zip(n_frames, n_states, strict=True)):
        alone = search_one(np.ascontiguousarray(scores[b, :t, :j]), skippable[:j])
        assert durations[b, :j].tolist() == alone.tolist()
        assert not durations[b, j:].any()


def test_search_refuses_an_utterance_that_is_too_short() -> None:
    scores = np.zeros((2, 5, 4), np.float32)
    never = np.zeros(4, bool)
    with pytest.raises(ValueError, match="too few frames for its states"):
        search(scores, np.array([5, 3]), np.array([4, 4]), never)


@pytest.mark.parametrize(("n_states", "expected"), [(1, "000"), (2, "010101"), (3, "001001001")])
def test_token_is_heard_though_its_last_state_may_be_passed_over(
    n_states: int, expected: str
) -> None:
    assert "".join(map(str, skippable_states(3, n_states).astype(int))) == expected


# The flat-start aligner


class Synthetic(NamedTuple):
    """Utterances whose boundaries are known."""

    tokens: list[Int]
    mels: list[Float]
    durations: list[NDArray[np.int32]]


def synthetic(n_states: int, n_vocab: int = 12, n_utterances: int = 50, seed: int = 0) -> Synthetic:
    """Each token state sounds like one Gaussian, for 2 to 7 frames."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 1, (n_vocab, n_states, 8))
    tokens, mels, durations = [], [], []
    for _ in range(n_utterances):
        ids = rng.integers(0, n_vocab, rng.integers(8, 16))
        duration = rng.integers(2, 8, (len(ids), n_states)).astype(np.int32)
        clean = np.repeat(means[ids].reshape(-1, 8), duration.reshape(-1), axis=0)
        tokens.append(ids)
        mels.append((clean + rng.normal(0, 0.4, clean.shape)).astype(np.float32))
        durations.append(duration)
    return Synthetic(tokens, mels, durations)


def no_factors(n_vocab: int) -> Int:
    return np.zeros((n_vocab, 0), np.int64)


def boundaries(durations: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    """The last frame of every token but the last, all utterances together."""
    return np.concatenate([np.cumsum(d.sum(1))[:-1] for d in durations])


@pytest.mark.parametrize("n_states", [1, 2, 3])
def test_known_boundaries_are_found_from_a_flat_start(n_states: int) -> None:
    data = synthetic(n_states)
    found = align_corpus(data.tokens, data.mels.__getitem__, no_factors(12), n_states)
    for durations, mel, true in zip(found, data.mels, data.durations, strict=True):
        assert durations.shape == true.shape
        assert durations.sum() == len(mel)
        assert (durations.sum(1) > 0).all()
    errors = np.abs(boundaries(found) - boundaries(data.durations))
    assert np.mean(errors <= 1) > 0.9, f"{np.mean(errors):.2f} frames off in the mean"
    flat = align_corpus(data.tokens, data.mels.__getitem__, no_factors(12), n_states, 1)
    assert np.mean(errors) < np.mean(np.abs(boundaries(flat) - boundaries(data.durations)))


def test_rare_syllable_borrows_from_its_consonant_and_vowel() -> None:
    """Ids are consonant * 3 + vowel; id 8 is heard once, in the middle of an utterance."""
    rng = np.random.default_rng(0)
    consonants, vowels = rng.normal(0, 1, (3, 8)), rng.normal(0, 1, (3, 8))
    factors = np.stack([np.repeat([1, 2, 3], 3), np.tile([1, 2, 3], 3)], 1)
    tokens = [rng.integers(0, 8, 12) for _ in range(40)]
    tokens[0][6] = 8
    mels, true = [], []
    for ids in tokens:
        duration = rng.integers(2, 9, (12, 2)).astype(np.int32)
        states = np.stack((consonants[ids // 3], vowels[ids % 3]), 1).reshape(-1, 8)
        clean = np.repeat(states, duration.reshape(-1), axis=0)
        mels.append((clean + rng.normal(0, 0.4, clean.shape)).astype(np.float32))
        true.append(duration)
    found = align_corpus(tokens, mels.__getitem__, factors)
    assert np.abs(found[0][6] - true[0][6]).max() <= 1


def test_pause_that_is_not_there_takes_one_frame_and_letters_visit_all_their_states() -> None:
    """Token 12 stands before every token and sounds, as silence, in one place of three."""
    data, rng = synthetic(2), np.random.default_rng(1)
    tokens, mels, heard = [], [], []
    for ids, mel, durations in zip(data.tokens, data.mels, data.durations, strict=True):
        spoken = np.split(mel, np.cumsum(durations.sum(1))[:-1])
        here = rng.random(len(ids)) < 1 / 3
        silences = [rng.normal(-4, 0.1, (8 if h else 0, 8)).astype(np.float32) for h in here]
        pairs = zip(silences, spoken, strict=True)
        mels.append(np.concatenate([part for pair in pairs for part in pair]))
        tokens.append(np.stack((np.full_like(ids, 12), ids), 1).reshape(-1))
        heard.append(here)
    found = align_corpus(tokens, mels.__getitem__, no_factors(13), 2, pause_ids=[12])
    pauses = np.concatenate([d.sum(1)[::2] for d in found])
    assert np.mean(pauses[np.concatenate(heard)] > 4) > 0.9
    assert np.mean(pauses[~np.concatenate(heard)] == 1) > 0.9
    assert all((d[1::2] > 0).all() for d in found)


def test_threads_change_nothing() -> None:
    data = synthetic(2, n_utterances=12)
    one, two = (
        align_corpus(data.tokens, data.mels.__getitem__, no_factors(12), 2, threads=threads)
        for threads in (1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_utterance_with_fewer_frames_than_states_is_refused() -> None:
    mel = np.zeros((4, 8), np.float32)
    with pytest.raises(ValueError, match="4 frames are too few for 10 states"):
        align_corpus([np.arange(5)], [mel].__getitem__, no_factors(5))


# On speech


class Spoken(NamedTuple):
    """Sentences of the sample corpus, with the beginnings of words that espeak announced.

    `word_frames` is where the second and every later word begins, in frames: frame i covers
    the time from (i - 0.5) to (i + 0.5) hops, as mel frames are centred.
    """

    tokens: list[Int]
    mels: list[Float]
    word_frames: list[NDArray[np.float64]]
    tokenizer: Tokenizer


@pytest.fixture(scope="module")
def spoken() -> Spoken:
    tokenizer = Tokenizer.from_language(load_language("am"), TextConfig(language="am"))
    tokens, mels, word_frames = [], [], []
    for sentence in read_sentences(SAMPLE_SENTENCES)[:250]:
        speech, words = speak_words(sentence)
        assert speech.sample_rate == MEL.sample_rate
        wave = speech.samples.astype(np.float32) / np.float32(32768)
        start, end = trim_silence(wave, MEL.sample_rate, TrimConfig())
        tokens.append(np.array(tokenizer.encode(sentence)))
        mels.append(log_mel(wave[start:end], MEL))
        seconds = np.array([word.start_seconds for word in words[1:]]) - start / MEL.sample_rate
        word_frames.append(seconds * MEL.sample_rate / MEL.hop_length + 0.5)
    frames = np.concatenate(mels)
    mean, std = frames.mean(0), frames.std(0)
    return Spoken(tokens, [(m - mean) / std for m in mels], word_frames, tokenizer)


def align(spoken: Spoken, tokens: Sequence[Int], n_states: int = 2) -> list[NDArray[np.int32]]:
    return align_corpus(
        tokens,
        spoken.mels.__getitem__,
        spoken.tokenizer.factors,
        n_states,
        threads=2,
        pause_ids=spoken.tokenizer.pause_ids,
    )


def word_errors_ms(spoken: Spoken, durations: Sequence[NDArray[np.int32]]) -> NDArray[np.float64]:
    """Where the aligner has a word begin, less where espeak says, for every word but the first."""
    errors: list[float] = []
    for ids, duration, real in zip(spoken.tokens, durations, spoken.word_frames, strict=True):
        starts = np.cumsum(duration.sum(1)) - duration.sum(1)
        found = starts[1:][np.isin(ids[:-1], spoken.tokenizer.space_ids)]
        assert len(found) == len(real), "espeak counts the words of a sentence otherwise"
        errors += (found - real).tolist()
    return np.array(errors) * MEL.hop_length / MEL.sample_rate * 1000


def misfit(spoken: Spoken, tokens: Sequence[Int]) -> float:
    """Mean squared distance of the frames from the mean of the state they are aligned to."""
    total: dict[int, Float] = defaultdict(lambda: np.zeros(MEL.n_mels, np.float32))
    count: dict[int, int] = defaultdict(int)
    square = 0.0
    for ids, duration, mel in zip(tokens, align(spoken, tokens), spoken.mels, strict=True):
        classes = (ids[:, None] * 2 + np.arange(2)).reshape(-1)
        for state, frame in zip(np.repeat(classes, duration.reshape(-1)), mel, strict=True):
            total[int(state)] += frame
            count[int(state)] += 1
        square += float(np.square(mel).sum())
    explained = sum(float(np.square(total[k]).sum()) / count[k] for k in count)
    return (square - explained) / sum(count.values()) / MEL.n_mels


def test_word_boundaries_of_the_sample_corpus_are_found_within_25_ms(spoken: Spoken) -> None:
    errors = word_errors_ms(spoken, align(spoken, spoken.tokens))
    median = float(np.median(np.abs(errors)))
    scatter = float(np.median(np.abs(errors - np.median(errors))))
    found = (
        f"{len(errors)} words: {median:.1f} ms in the median, {np.median(errors):+.1f} ms of it "
        f"bias; {scatter:.1f} ms without the bias"
    )
    print(found)  # for docs/results.md, by pytest -rP
    assert len(errors) > 1000
    assert median <= 25, found


def test_shuffled_texts_do_not_fit(spoken: Spoken) -> None:
    """Each recording gets the text of another of about the same length."""
    by_length = np.argsort([len(ids) for ids in spoken.tokens], kind="stable").tolist()
    wrong = list(spoken.tokens)
    for one, other in zip(by_length[::2], by_length[1::2], strict=True):
        wrong[one], wrong[other] = wrong[other], wrong[one]
    assert misfit(spoken, wrong) > 1.25 * misfit(spoken, spoken.tokens)
