"""The loss: what each part measures, and that batches may be cut in any way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dimts.families.acoustic.model.config import LossConfig
from dimts.families.acoustic.model.durations import regulate
from dimts.families.acoustic.model.t3 import T3Output
from dimts.families.acoustic.objective import tts_loss
from dimts.training.task import Losses

STD = torch.tensor([0.5, 2.0, 1.0])
CONFIG = LossConfig(mel_l1=0.5, duration=0.25, prior=2.0)


def output(mel: Tensor, durations: Tensor, log_durations: Tensor, means: Tensor) -> T3Output:
    """As the model would give it, for durations of whole rows."""
    frames = torch.arange(mel.shape[1]) < durations.sum((1, 2))[:, None]
    state, _, _ = regulate(durations.flatten(1), mel.shape[1])
    return T3Output(mel, durations, log_durations, means, state, durations.sum(2) > 0, frames)


def random_output(seed: int = 0) -> tuple[T3Output, Tensor]:
    """Two utterances, the second padded: an output and its recording."""
    torch.manual_seed(seed)
    durations = torch.tensor([[[1, 2], [3, 0], [1, 1]], [[2, 1], [2, 1], [0, 0]]])
    predicted, recorded = torch.randn(2, 8, 3), torch.randn(2, 8, 3)
    made = output(predicted, durations, torch.randn(2, 3, 2), torch.randn(2, 3, 2, 3))
    return made, recorded


def loss_of(made: T3Output, recorded: Tensor) -> Losses:
    """Of a batch that is whole."""
    n_frames, n_tokens = float(made.valid_BT.sum()), float(made.valid_BN.sum())
    return tts_loss(made, recorded, STD, CONFIG, n_frames, n_tokens)


def loop_loss(made: T3Output, recorded: Tensor) -> Losses:
    """The same by loops over frames, tokens and states."""
    mel = prior = mse = duration = torch.tensor(0.0)
    n_frames = n_tokens = 0
    for b in range(len(recorded)):
        t = 0
        for n in range(made.durations_BNS.shape[1]):
            if not made.valid_BN[b, n]:
                continue
            n_tokens += 1
            for s in range(2):
                d = float(made.durations_BNS[b, n, s])
                log_rate = made.log_durations_BNS[b, n, s]
                duration = (
                    duration
                    + torch.distributions.Poisson(log_rate.exp()).log_prob(torch.tensor(d)) * -1
                )
                if d:
                    best = torch.distributions.Poisson(torch.tensor(d)).log_prob(torch.tensor(d))
                    duration = duration + best
                for _ in range(int(d)):
                    error = made.mel_BTM[b, t] - recorded[b, t]
                    mel = mel + error.square().sum() + CONFIG.mel_l1 * error.abs().sum()
                    mse = mse + (error * STD).square().sum()
                    prior = prior + (made.means_BNSM[b, n, s] - recorded[b, t]).square().sum()
                    t += 1
        n_frames += t
    values = n_frames * 3
    mel, duration, prior = mel / values, duration / n_tokens, prior / values
    total = mel + CONFIG.duration * duration + CONFIG.prior * prior
    return {
        "total_loss": total,
        "mel_loss": mel,
        "duration_loss": duration,
        "prior_loss": prior,
        "mel_mse": mse / values,
    }


def test_loss_is_what_loops_would_compute() -> None:
    made, recorded = random_output()
    ours, theirs = loss_of(made, recorded), loop_loss(made, recorded)
    assert list(ours) == list(theirs)
    for name, loss in ours.items():
        assert float(loss) == pytest.approx(float(theirs[name]), rel=1e-5), name


def test_padding_counts_for_nothing() -> None:
    made, recorded = random_output()
    loud = made.mel_BTM.masked_fill(~made.valid_BT[..., None], 1e6)
    long = made.log_durations_BNS.masked_fill(~made.valid_BN[..., None], 9.0)
    padded = made._replace(mel_BTM=loud, log_durations_BNS=long)
    assert loss_of(padded, recorded) == loss_of(made, recorded)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    made, recorded = random_output()
    whole = loss_of(made, recorded)
    parts = [
        tts_loss(T3Output._make((*row, None, None)), recorded[b : b + 1], STD, CONFIG, 14, 5)
        for b in range(2)
        for row in [tuple(x[b : b + 1] for x in made if isinstance(x, Tensor))]
    ]
    for name, loss in whole.items():
        assert float(loss) == pytest.approx(sum(float(part[name]) for part in parts), rel=1e-5), (
            name
        )


@given(durations=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any))
def test_duration_part_is_least_at_the_mean(durations: list[int]) -> None:
    """One prediction for durations that vary: the best is their mean, so lengths have no bias."""
    n = len(durations)
    frames = torch.tensor(durations).view(1, n, 1)
    mel, means = torch.zeros(1, sum(durations), 3), torch.zeros(1, n, 1, 3)
    log_rate = torch.tensor(sum(durations) / n).log().requires_grad_()

    def loss(log_rate: Tensor) -> Tensor:
        made = output(mel, frames, log_rate.expand(1, n, 1), means)
        made = made._replace(valid_BN=torch.ones(1, n, dtype=torch.bool))
        return loss_of(made, mel)["duration_loss"]

    loss(log_rate).backward()
    assert log_rate.grad is not None
    assert abs(float(log_rate.grad)) < 1e-5
    with torch.no_grad():
        below, best, above = (float(loss(log_rate + step)) for step in (-0.1, 0, 0.1))
    assert best >= -1e-6
    assert min(below, above) > best


def test_duration_of_no_frames_has_a_finite_loss_and_gradient() -> None:
    log_durations = torch.full((1, 1, 2), -3.0, requires_grad=True)
    durations = torch.tensor([[[2, 0]]])
    made = output(torch.zeros(1, 2, 3), durations, log_durations, torch.zeros(1, 1, 2, 3))
    loss = loss_of(made, torch.zeros(1, 2, 3))["total_loss"]
    loss.backward()
    assert loss.isfinite()
    assert log_durations.grad is not None
    assert log_durations.grad.isfinite().all()


def test_reported_error_is_in_natural_log_units() -> None:
    """An error of one in normalised units is one spread of the bin in natural-log mel."""
    durations = torch.tensor([[[2]]])
    made = output(torch.ones(1, 2, 3), durations, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 3))
    loss = loss_of(made, torch.zeros(1, 2, 3))
    assert float(loss["mel_mse"]) == pytest.approx(float(STD.square().mean()))
    assert float(loss["mel_loss"]) == pytest.approx(1 + CONFIG.mel_l1)
