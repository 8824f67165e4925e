"""The training loop: it learns, adds up, survives bad batches and stops when asked to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from training_fixtures import (
    Listener,
    acoustic,
    make_job,
    poisoned,
    run,
    train,
    with_a_long_test,
)

from dimts.bundles.bundle import resolve_bundle
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.core.metric import Metric
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.dataset import Corpus
from dimts.families.acoustic.measurements import held_out
from dimts.families.acoustic.model.config import LossConfig
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.objective import tts_loss
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.task import initial_model, task_of
from dimts.launch.training_run import run_training
from dimts.training.checkpoint import BEST, LATEST, read_state
from dimts.training.task import Losses

Voice = Callable[..., VoiceConfig]
Settings = Callable[..., AcousticSettings]


# It learns


@pytest.fixture(scope="module")
def learned(voice_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Listener, T3]:
    """A run of 150 steps; both phases of the alignment."""
    overrides = ["training.max_steps=150", "training.validate_every=50", "run.name=learned"]
    overrides += [f"run.storage={tmp_path_factory.mktemp('learned')}"]
    overrides += ["training.checkpoint_every=40", "training.sample_every=75"]
    config = load_config(VoiceConfig, [voice_file], overrides)
    listener, job = Listener(), make_job(acoustic(config.launch()))
    train(job, listener)
    return listener, job.model


def test_loss_falls_in_trend(learned: tuple[Listener, T3]) -> None:
    listener, _ = learned
    for key in ("train/total_loss", "train/mel_mse", "train/prior_loss", "train/duration_loss"):
        sixths = [np.mean(part) for part in np.array_split(listener.curve(key), 6)]
        assert sixths[-1] < 0.85 * sixths[0], key
    sixths = [np.mean(part) for part in np.array_split(listener.curve("train/mel_loss"), 6)]
    assert sixths == sorted(sixths, reverse=True)
    assert listener.curve("val/mel_mse")[-1] < 0.6 * listener.curve("val/mel_mse")[0]


def test_everything_that_is_promised_is_logged(learned: tuple[Listener, T3]) -> None:
    listener, _ = learned
    assert listener.values[150].keys() >= {
        "train/total_loss", "train/mel_loss", "train/duration_loss", "train/prior_loss",
        "train/mel_mse", "train/learning_rate", "train/gradient_norm", "train/frames_per_second",
        "train/data_wait_share", "train/skipped_steps", "train/epoch",
        "val/total_loss", "val/mel_loss", "val/duration_loss", "val/prior_loss", "val/mel_mse",
    }  # fmt: skip
    assert sorted(s for s, v in listener.values.items() if "val/total_loss" in v) == [
        0,
        50,
        100,
        150,
    ]
    assert listener.sampled == [75, 150]
    assert {len(metrics) for metrics, _ in listener.reports} == {5}
    rates = listener.curve("train/learning_rate")
    assert rates.index(max(rates)) in (3, 4), "warm-up of 4 steps, then a cosine"
    assert rates[-1] < 0.02 * max(rates)


@torch.no_grad()
def test_text_of_another_recording_raises_the_loss(
    learned: tuple[Listener, T3], voice: Voice
) -> None:
    """Each recording is aligned with its own text, then with that of its neighbour in length."""
    _, model = learned
    corpus = open_data(acoustic(voice().launch())).train
    order = corpus.n_tokens.argsort(kind="stable").tolist()
    swapped = list(corpus.tokens)
    for one, other in zip(order[::2], order[1::2], strict=False):
        swapped[one], swapped[other] = swapped[other], swapped[one]
    own, wrong = (
        loss_of(model.eval(), Corpus(corpus.utterances, tokens))
        for tokens in (corpus.tokens, swapped)
    )
    factors = {"total_loss": 1.25, "mel_loss": 1.15, "duration_loss": 1.5, "prior_loss": 1.1}
    assert all(wrong[name] > factor * own[name] for name, factor in factors.items())


def loss_of(model: T3, corpus: Corpus) -> Losses:
    batch = corpus.collate(range(len(corpus)))
    mel = model.normalise(batch.mel_BTM)
    output = model(batch.tokens_BN, batch.n_tokens_B, mel, batch.n_frames_B)
    return tts_loss(output, mel, model.mel_std_M, LossConfig(), batch.size, batch.n_tokens)


# It adds up


def test_accumulated_gradients_are_those_of_the_whole_batch(settings: Settings) -> None:
    how = ("training.max_steps=4", "training.aligner.fixed_share=1")
    whole, whole_result = run(settings("whole", *how))
    for parts in (2, 4):
        cut, result = run(settings(f"cut{parts}", *how, f"training.accumulate={parts}"))
        for key in ("train/total_loss", "train/duration_loss", "train/gradient_norm"):
            assert cut.curve(key) == pytest.approx(whole.curve(key), rel=1e-4), key
        assert whole_result.checkpoint and result.checkpoint
        before = load_file(whole_result.checkpoint / "model.safetensors")
        for name, tensor in load_file(result.checkpoint / "model.safetensors").items():
            assert torch.allclose(tensor, before[name], atol=2e-4), name


def test_average_is_what_ships_and_the_weights_are_what_trains_on(settings: Settings) -> None:
    _, result = run(settings("average", "training.ema_decay=0.9"))
    assert result.checkpoint is not None
    saved, shipped = (
        read_state(result.checkpoint),
        load_file(result.checkpoint / "model.safetensors"),
    )
    name = "decoder.out.weight"
    [trained] = saved["objectives"].values()
    assert torch.equal(shipped[name], saved["average"][name])
    assert not torch.allclose(shipped[name], trained["weights"][f"model.{name}"])


# It survives


def test_batch_that_is_not_finite_is_left_out_and_named(settings: Settings) -> None:
    config = settings("bad", "training.max_steps=14")
    bad = open_data(config).train.utterances.ids[3]
    listener, job = Listener(), make_job(config, poisoned({bad}))
    result = train(job, listener)
    epochs = 14 / -(-len(job.train) // 4)
    assert epochs > 1
    assert result.step == 14
    assert result.skipped in (math.floor(epochs), math.ceil(epochs))
    assert len(listener.told) == result.skipped
    assert all("left out" in text and bad in text for text in listener.told)
    assert listener.values[14]["train/skipped_steps"] == result.skipped
    assert np.isfinite(listener.curve("train/total_loss")).all()
    assert len(listener.curve("train/total_loss")) == 14 - result.skipped
    assert all(p.isfinite().all() for p in job.model.parameters())


def test_step_that_is_left_out_changes_no_weight(settings: Settings) -> None:
    config = settings("bad", "training.max_steps=2", "training.validate_every=0")
    job = make_job(config, poisoned(set(open_data(config).train.utterances.ids)))
    before = {name: tensor.clone() for name, tensor in job.model.state_dict().items()}
    result = train(job, Listener())
    assert (result.step, result.skipped) == (2, 2)
    assert all(torch.equal(before[n], t) for n, t in job.model.state_dict().items())


def test_ten_bad_steps_in_a_row_end_the_run_and_name_the_batch(settings: Settings) -> None:
    config = settings("bad", "training.max_steps=40")
    ids = set(open_data(config).train.utterances.ids)
    job = make_job(config, poisoned(ids))
    with pytest.raises(UserError, match="not finite 10 steps in a row, up to step 9") as caught:
        train(job, Listener())
    named = str(caught.value).rsplit(": ", 1)[1].split(", ")
    assert 3 <= len(named) <= 4
    assert set(named) <= ids


# It stops


def test_run_without_progress_stops_early_and_stays_stopped(settings: Settings) -> None:
    how = (
        "training.patience=2", "training.validate_every=2",
        "training.optimizer.learning_rate=1e-30",
    )  # fmt: skip
    listener, result = run(settings("still", *how))
    assert (result.status, result.step) == ("early_stopped", 6)
    assert listener.steps == 6  # the first of three validations is the best so far
    again, result = run(settings("still", *how))
    assert (result.status, result.step) == ("early_stopped", 6)
    assert again.steps == 0


def test_progress_is_patient(settings: Settings) -> None:
    _, result = run(settings("going", "training.patience=2", "training.validate_every=3"))
    assert result.status == "finished"


def test_wish_to_stop_ends_with_a_checkpoint_after_the_step(settings: Settings) -> None:
    listener, result = run(settings("stopped"), stop_after=3)
    assert (result.status, result.step) == ("stopped", 3)
    assert result.checkpoint is not None
    assert result.checkpoint.name == "checkpoint_epoch0_step3"
    assert listener.reports[-1][1] == result.checkpoint


def test_best_is_the_checkpoint_of_the_least_validation_loss(settings: Settings) -> None:
    listener, result = run(settings("best", "training.validate_every=3"))
    losses = {s: v["val/total_loss"] for s, v in listener.values.items() if "val/total_loss" in v}
    best_step = min(losses, key=lambda step: losses[step])
    assert best_step > 0
    folder = settings("best").run_dir
    assert resolve_bundle(folder / BEST).name.endswith(f"_step{best_step}")
    assert resolve_bundle(folder / LATEST) == result.checkpoint
    assert result.best["val/total_loss"] == losses[best_step]


def test_best_is_the_largest_of_a_metric_that_is_better_the_larger(settings: Settings) -> None:
    selection = Metric("val/total_loss", "a loss to be had", direction="maximize")
    job = make_job(settings("largest", "training.validate_every=3")).of(selection=selection)
    listener = Listener()
    result = train(job, listener)
    losses = {s: v["val/total_loss"] for s, v in listener.values.items() if "val/total_loss" in v}
    trained = {step: loss for step, loss in losses.items() if step}
    best_step = max(trained, key=lambda step: trained[step])
    assert trained[best_step] > min(trained.values())
    assert resolve_bundle(job.run_dir / BEST).name.endswith(f"_step{best_step}")
    assert result.best["val/total_loss"] == trained[best_step]


def test_metrics_of_the_best_checkpoint_are_not_those_of_the_last_weights(voice: Voice) -> None:
    """Both are recorded at the last step, where a record takes one value of each name."""
    settings = acoustic(voice("training.max_steps=2", "training.validate_every=1").launch())
    listener, _ = run(settings)
    best = resolve_bundle(settings.run_dir / BEST)
    metrics, _ = held_out(settings, best, torch.device("cpu"))
    assert {"val/mcd", "test/mcd", "val/aligned_mel_mse"} <= metrics.keys()
    assert not metrics.keys() & listener.values[2].keys()


def test_last_steps_are_validated_too(settings: Settings) -> None:
    """Or a run shorter than `validate_every` would have no voice to show."""
    listener, _ = run(settings("short", "training.max_steps=5", "training.validate_every=100"))
    assert sorted(s for s, v in listener.values.items() if "val/total_loss" in v) == [0, 5]
    assert resolve_bundle(settings("short").run_dir / BEST).name.endswith("_step5")


def test_without_validation_the_latest_is_the_best(settings: Settings) -> None:
    listener, _ = run(settings("blind", "training.max_steps=3", "training.validate_every=0"))
    assert not listener.curve("val/total_loss")
    assert resolve_bundle(settings("blind").run_dir / BEST).name.endswith("_step3")


class Nobody:
    """A split that is empty."""

    ids: Sequence[str] = ()
    texts: Sequence[str] = ()
    n_frames = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return 0

    def mel(self, index: int) -> NDArray[np.float32]:
        raise IndexError(index)


def test_nothing_to_validate_on_is_said(settings: Settings) -> None:
    job = make_job(settings("blind"))
    nothing = Corpus(Nobody(), [])
    with pytest.raises(UserError, match=r"no utterance is held out .* training\.validate_every=0"):
        train(job.of(val=nothing), Listener())


def test_features_made_with_other_settings_are_refused(settings: Settings) -> None:
    with pytest.raises(UserError, match=r"was prepared with mel\.f_max=8000\.0, .* 7000"):
        open_data(settings("other", "mel.f_max=7000"))
    with pytest.raises(UserError, match=r"was prepared with text\.fold_homophones=False"):
        open_data(settings("other", "text.fold_homophones=true"))


def test_more_states_than_frames_are_refused(settings: Settings) -> None:
    with pytest.raises(UserError, match=r"frames are too few .* lower model\.states_per_token"):
        make_job(settings("other", "model.states_per_token=40"))


def test_utterance_too_short_for_its_states_is_refused_before_the_first_step(
    settings: Settings,
) -> None:
    """Also where no flat start looks at it; a GPU would search without a word."""
    config = settings("short", "training.aligner.fixed_share=0")
    data = open_data(config)
    long = Corpus(data.val.utterances, [np.tile(ids, 40) for ids in data.val.tokens])
    first, model = long.utterances.ids[0], initial_model(config, data)
    with pytest.raises(UserError, match=rf"^{first}: \d+ frames are too few for the \d+ states"):
        task_of(config, data._replace(val=long), model)


def test_what_could_not_be_measured_afterwards_is_refused_before_the_first_step(
    voice: Voice, tmp_path: Path
) -> None:
    features = voice().prepare.features
    assert isinstance(features, Path)
    long = with_a_long_test(features, tmp_path / "features")
    config = voice(f"prepare.features={tmp_path}/features", "training.max_steps=1")
    settings = config.launch().settings
    with pytest.raises(UserError, match=rf"^{long}: \d+ frames are too few for the \d+ states"):
        run_training(settings, Listener())
    assert not (settings.run_dir / LATEST).exists()


def test_sample_text_that_cannot_be_said_is_refused_before_the_first_step(
    settings: Settings,
) -> None:
    config = settings("other", "training.sample_texts=[ሰላም, Ж]")
    with pytest.raises(UserError, match=r"training\.sample_texts: 'Ж': .*U\+0416"):
        run_training(config, Listener())
    assert not config.run_dir.exists()
