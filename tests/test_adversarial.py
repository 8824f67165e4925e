"""A decoder that has to fool a discriminator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from training_fixtures import acoustic, assert_same_bits_when_stopped, make_job, run

from dimts.bundles.bundle import read_manifest
from dimts.commands.voice_config import VoiceConfig
from dimts.core.errors import UserError
from dimts.families.acoustic.adversarial import crops
from dimts.families.acoustic.settings import AcousticSettings
from dimts.training.step_result import LossAccumulator, ObjectiveResult

ADVERSARIAL = ("training.adversarial.start_step=3", "training.adversarial.frames=16")


@pytest.fixture
def settings_of(voice: Callable[..., VoiceConfig]) -> Callable[..., AcousticSettings]:
    def build(name: str, *overrides: str) -> AcousticSettings:
        return acoustic(voice(f"run.name={name}", *ADVERSARIAL, *overrides).launch())

    return build


def test_pieces_are_the_same_of_both_mels_and_inside_the_utterance() -> None:
    n_frames = torch.tensor([40, 12, 90])
    at = torch.arange(100.0)[None, :, None].expand(3, 100, 4)
    torch.manual_seed(0)
    first, second = crops((at, -at), n_frames, 16)
    assert first.shape == (3, 16, 4)
    assert torch.equal(first, -second)
    for row, n in ((0, 40), (2, 90)):
        assert torch.equal(first[row].diff(dim=0), torch.ones(15, 4))
        assert first[row].max() < n
    assert torch.equal(first[1, :12, 0], torch.arange(12.0))  # shorter than a piece
    assert not first[1, 12:].any()
    [whole] = crops((at[:, :8],), n_frames.clamp_max(8), 16)
    assert torch.equal(whole, at[:, :8])


def test_discriminator_is_trained_heard_of_and_no_part_of_the_bundle(
    settings_of: Callable[..., AcousticSettings],
) -> None:
    settings = settings_of("heard", "training.log_every=2", "training.max_steps=8")
    discriminator = make_job(settings).task.objectives[1].module
    untrained = {name: weight.clone() for name, weight in discriminator.state_dict().items()}
    job = make_job(settings)
    listener, result = run(settings)
    assert result.checkpoint
    assert len(listener.curve("train/adversarial_loss")) == 3  # after steps 4, 6 and 8
    assert len(listener.curve("train/discriminator_loss")) == 3
    again = make_job(settings).task.objectives[1].module.state_dict()
    assert all(torch.equal(again[name], untrained[name]) for name in untrained)
    state = torch.load(result.checkpoint / "trainer_state.pt", weights_only=True)
    trained = state["objectives"]["discriminator"]["weights"]
    weights = [name for name in untrained if name.endswith("weight")]
    assert not any(torch.equal(trained[name], untrained[name]) for name in weights)
    assert "judge" not in " ".join(read_manifest(result.checkpoint).sha256)
    assert set(job.model.state_dict()) == set(
        make_job(settings_of("other", "training.adversarial=null")).model.state_dict()
    )


def test_adversarial_run_that_was_stopped_ends_with_the_same_bits(
    settings_of: Callable[..., AcousticSettings],
) -> None:
    assert_same_bits_when_stopped(settings_of)


def test_run_is_made_longer_before_the_discriminator_begins(
    settings_of: Callable[..., AcousticSettings],
) -> None:
    late = ("training.adversarial.start_step=4", "training.adversarial.optimizer.warmup_steps=0")
    run(settings_of("longer", *late, "training.max_steps=5"), stop_after=2)
    listener, result = run(settings_of("longer", *late, "training.max_steps=6"))
    assert (result.status, result.step) == ("finished", 6)
    assert any(text.startswith("6 steps instead of 5") for text in listener.told)


def test_discriminator_that_would_never_begin_is_refused(
    settings_of: Callable[..., AcousticSettings],
) -> None:
    with pytest.raises(UserError, match=r"start_step \(3\) must be less than max_steps \(3\)"):
        settings_of("never", "training.max_steps=3")
    settings_of("just", "training.max_steps=4")


def test_patience_waits_for_the_discriminator(settings_of: Callable[..., AcousticSettings]) -> None:
    how = (
        "training.adversarial.start_step=4", "training.max_steps=12", "training.patience=2",
        "training.validate_every=1", "training.optimizer.learning_rate=1e-30",
    )  # fmt: skip
    _, result = run(settings_of("patient", *how))
    assert (result.status, result.step) == ("early_stopped", 7)  # of 5, 6 and 7 the first is best


def test_a_loss_that_begins_between_two_log_lines_is_the_mean_of_its_own_steps() -> None:
    kept = LossAccumulator()
    norm, flags = torch.tensor(1.0), torch.zeros(3)
    rows = ({"loss": 1.0}, {"loss": 2.0}, {"loss": 6.0, "fooled": 5.0})
    for number, losses in enumerate(rows):
        values = {name: torch.tensor(value) for name, value in losses.items()}
        kept.add([ObjectiveResult("voice", values, norm, flags)])
        if number == 1:  # a checkpoint in between
            state, kept = kept.state_dict(), LossAccumulator()
            kept.load_state_dict(state, torch.device("cpu"))
    assert kept.means() == {"train/loss": 3.0, "train/fooled": 5.0, "train/gradient_norm": 1.0}
