"""T3: one forward path, no effect of padding, and a length regulator that is a loop's equal."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dimts.families.acoustic.bundle import build_model
from dimts.families.acoustic.model.config import (
    DecoderConfig,
    DurationConfig,
    EncoderConfig,
    ModelConfig,
)
from dimts.families.acoustic.model.durations import (
    N_POSITION_FEATURES,
    position_features,
    regulate,
    round_durations,
)
from dimts.families.acoustic.model.t3 import T3, align
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

N_MELS = 6
TEXTS = ("ሰላም ለዓለም፣ ደህና ናችሁ?", "ቡና ጠጣ።", "አዎ")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_language(load_language("am"), TextConfig(language="am"))


@pytest.fixture(params=[1, 2, 3])
def model(tokenizer: Tokenizer, request: pytest.FixtureRequest) -> T3:
    """Untrained, with durations that differ from token to token; 1, 2 or 3 states a token."""
    torch.manual_seed(0)
    config = ModelConfig(
        width=32,
        states_per_token=request.param,
        encoder=EncoderConfig(layers=2, heads=2, feed_forward=48),
        duration=DurationConfig(channels=24),
        decoder=DecoderConfig(channels=40, blocks=3),
    )
    model = build_model(config, tokenizer, torch.randn(N_MELS), torch.rand(N_MELS) + 0.5)
    torch.nn.init.normal_(model.duration.out.weight, std=0.3)
    torch.nn.init.normal_(model.state_embedding)
    return model.eval()


def batch_of(tokenizer: Tokenizer, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Padded ids [B, N] and their counts [B]."""
    ids = [torch.tensor(tokenizer.encode(text)) for text in texts]
    tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return tokens, torch.tensor([len(i) for i in ids])


def some_mel(n_frames: int, seed: int = 0) -> Tensor:
    return torch.randn(1, n_frames, N_MELS, generator=torch.Generator().manual_seed(seed))


# The whole


@torch.no_grad()
def test_same_durations_give_the_same_mel_wherever_they_come_from(
    model: T3, tokenizer: Tokenizer
) -> None:
    tokens, count = batch_of(tokenizer, TEXTS[:1])
    predicted = model(tokens, count)
    given_again = model(tokens, count, durations_BNS=predicted.durations_BNS)
    assert torch.equal(predicted.mel_BTM, given_again.mel_BTM)

    frames = torch.tensor([150])
    searched = model(tokens, count, some_mel(150), frames)
    given_again = model(tokens, count, durations_BNS=searched.durations_BNS)
    assert torch.equal(searched.mel_BTM, given_again.mel_BTM)
    assert not torch.equal(searched.durations_BNS, predicted.durations_BNS)


@torch.no_grad()
def test_padding_changes_nothing(model: T3, tokenizer: Tokenizer) -> None:
    tokens, count = batch_of(tokenizer, TEXTS)
    together = model(tokens, count)
    for row, text in enumerate(TEXTS):
        alone = model(*batch_of(tokenizer, (text,)))
        n, t = int(count[row]), alone.mel_BTM.shape[1]
        assert torch.equal(together.durations_BNS[row, :n], alone.durations_BNS[0])
        assert not together.durations_BNS[row, n:].any()
        assert together.valid_BT[row].sum() == t
        assert together.valid_BN[row].sum() == n
        assert torch.allclose(together.mel_BTM[row, :t], alone.mel_BTM[0], atol=1e-4)
        assert torch.allclose(
            together.log_durations_BNS[row, :n], alone.log_durations_BNS[0], atol=1e-5
        )


@torch.no_grad()
def test_searched_durations_sum_to_the_frames_of_each_recording(
    model: T3, tokenizer: Tokenizer
) -> None:
    tokens, count = batch_of(tokenizer, TEXTS)
    frames = torch.tensor([140, 77, 20])
    mel = some_mel(140).expand(3, -1, -1).contiguous()
    output = model(tokens, count, mel, frames)
    assert output.durations_BNS.sum((1, 2)).tolist() == frames.tolist()
    assert (output.durations_BNS.sum(2)[output.valid_BN] > 0).all()
    assert output.mel_BTM.shape == mel.shape


@torch.no_grad()
def test_alignment_is_where_the_expected_mels_are() -> None:
    """Frames that are exactly what the states expect are given to those states."""
    means = torch.randn(1, 4, 2, N_MELS, generator=torch.Generator().manual_seed(0)) * 3
    durations = torch.tensor([[[3, 2], [1, 4], [5, 1], [2, 2]]])
    mel = means.view(1, 8, N_MELS).repeat_interleave(durations.view(8), dim=1)
    found = align(means, torch.tensor([4]), mel, torch.tensor([mel.shape[1]]))
    assert torch.equal(found, durations)


@torch.no_grad()
def test_faster_is_shorter_in_proportion(model: T3, tokenizer: Tokenizer) -> None:
    tokens, count = batch_of(tokenizer, TEXTS[:1])
    normal, fast, slow = (
        int(model(tokens, count, speed=speed).durations_BNS.sum()) for speed in (1.0, 1.25, 0.5)
    )
    assert normal / fast == pytest.approx(1.25, abs=0.05)
    assert normal / slow == pytest.approx(0.5, abs=0.02)


def test_normalising_is_undone(model: T3) -> None:
    mel = some_mel(5)
    assert torch.allclose(model.denormalise(model.normalise(mel)), mel, atol=1e-5)
    assert torch.allclose(model.normalise(model.mel_mean_M), torch.zeros(N_MELS))


def test_every_parameter_learns(model: T3, tokenizer: Tokenizer) -> None:
    """DistributedDataParallel waits for ever for a parameter without a gradient."""
    tokens, count = batch_of(tokenizer, TEXTS)
    output = model(tokens, count)
    (output.mel_BTM.sum() + output.log_durations_BNS.sum() + output.means_BNSM.sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_durations_teach_the_predictor_and_not_the_encoder(model: T3, tokenizer: Tokenizer) -> None:
    model(*batch_of(tokenizer, TEXTS)).log_durations_BNS.sum().backward()
    touched = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert touched == {"duration"}


# The text side


@torch.no_grad()
def test_syllables_of_one_consonant_share_what_is_known_of_it(
    model: T3, tokenizer: Tokenizer
) -> None:
    """What is learned of ለ's consonant moves ላ, and what is learned of its vowel moves በ."""
    embedding = model.encoder.embedding
    ids = torch.tensor([[tokenizer.tokens.index(c) for c in "ለላበባ"]])
    before = embedding(ids)
    consonant, vowel = embedding.factors_VF[ids[0, 0]]
    embedding.factor[0].weight[consonant] += 1.0  # type: ignore[index,operator]
    moved = (embedding(ids) - before).abs().sum(-1)[0] > 1e-3
    assert moved.tolist() == [True, True, False, False]
    embedding.factor[1].weight[vowel] += 1.0  # type: ignore[index,operator]
    moved = (embedding(ids) - before).abs().sum(-1)[0] > 1e-3
    assert moved.tolist() == [True, True, True, False]


@torch.no_grad()
def test_padding_and_missing_factors_have_no_vector(model: T3, tokenizer: Tokenizer) -> None:
    embedding = model.encoder.embedding
    assert not embedding(torch.tensor([[tokenizer.pad_id]])).any()
    space = torch.tensor([[tokenizer.space_ids[0]]])
    own = embedding.token(space) * math.sqrt(32)
    assert torch.allclose(embedding(space), own)


# Durations


@st.composite
def whole_durations(draw: st.DrawFn) -> Tensor:
    """[B, J], each row with one frame at least."""
    columns = draw(st.integers(1, 8))
    row = st.lists(st.integers(0, 5), min_size=columns, max_size=columns).filter(any)
    return torch.tensor(draw(st.lists(row, min_size=1, max_size=4)))


@given(durations=whole_durations())
def test_regulator_does_what_a_loop_would(durations: Tensor) -> None:
    n_frames = int(durations.sum(1).max())
    index, offset, length = regulate(durations, n_frames)
    for b, row in enumerate(durations.tolist()):
        loop = [(j, k, d) for j, d in enumerate(row) for k in range(d)]
        n = len(loop)
        assert index[b, :n].tolist() == [j for j, _, _ in loop]
        assert offset[b, :n].tolist() == [k for _, k, _ in loop]
        assert length[b, :n].tolist() == [d for _, _, d in loop]
        assert (index[b, n:] == len(row) - 1).all()
    features = position_features(offset, length)
    assert features.shape == (*index.shape, N_POSITION_FEATURES)
    assert features.isfinite().all()
    assert features.abs().max() <= 1


@given(data=st.data(), n_states=st.integers(1, 3))
def test_rounded_durations_keep_the_total_and_leave_no_token_out(
    data: st.DataObject, n_states: int
) -> None:
    n_tokens, n_valid = 7, data.draw(st.integers(1, 7))
    value = st.floats(0, 12, width=32) | st.sampled_from([0.0, 0.5, 1.0, 1.5, 1e-12])
    values = data.draw(st.lists(value, min_size=n_tokens * n_states, max_size=n_tokens * n_states))
    expected = torch.tensor(values).view(1, n_tokens, n_states)
    valid = torch.arange(n_tokens)[None] < n_valid
    rounded = round_durations(expected, valid)
    frames = rounded.sum(-1)
    assert (frames[valid] >= 1).all()
    assert not frames[~valid].any()
    wanted = expected.double().sum(-1).clamp_min(1)[valid].sum()
    assert abs(float(frames.sum() - wanted)) <= 0.5 + 1e-6


def test_rounding_loses_no_length_where_each_duration_alone_would() -> None:
    expected = torch.full((1, 100, 2), 1.2)
    assert round_durations(expected, torch.ones(1, 100, dtype=torch.bool)).sum() == 240
