"""Runs that go on longer than they were begun: more steps, more patience, more recordings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from training_fixtures import Listener, run

from data_prep.pipeline import prepare
from dimts.commands.voice_config import VoiceConfig
from dimts.core.errors import UserError
from dimts.families.acoustic.settings import AcousticSettings
from dimts.features.mel_extractor import MelExtractor
from dimts.launch.start import start_run
from dimts.training.checkpoint import read_state
from dimts.training.config import OptimizerConfig
from dimts.training.optimizer import extended_share, learning_rate_share
from dimts.training.progress import Result

Voice = Callable[..., VoiceConfig]
Settings = Callable[..., AcousticSettings]
DROPOUT = ("model.encoder.dropout=0.1", "model.duration.dropout=0.1", "model.decoder.dropout=0.1")


def weights(result: Result) -> bytes:
    assert result.checkpoint is not None
    return (result.checkpoint / "model.safetensors").read_bytes()


def test_finished_run_goes_on_where_more_steps_are_asked_for(voice: Voice) -> None:
    config = voice("training.max_steps=6")
    first = start_run(config.launch(), config.ray)
    assert (first["status"], first["step"]) == ("finished", 6)
    longer = voice("training.max_steps=18")
    second = start_run(longer.launch(), longer.ray)
    assert (second["status"], second["step"]) == ("finished", 18)
    assert second["units"] > first["units"]
    assert "test/mcd" in second["metrics"]
    # It is a run of 18 steps from now on.
    with pytest.raises(UserError, match=r"begun with training\.max_steps=18, not 12; .*base\.bun"):
        start_run(voice("training.max_steps=12").launch(), config.ray)


def test_learning_rate_goes_over_to_the_longer_schedule(settings: Settings) -> None:
    config = settings("rate").training.optimizer
    run(settings("rate", "training.max_steps=8"))
    listener, result = run(settings("rate", "training.max_steps=20"))
    assert result.step == 20
    shares = [rate / config.learning_rate for rate in listener.curve("train/learning_rate")]
    assert len(shares) == 12
    short, warmup = learning_rate_share(8, 8, config), config.warmup_steps
    for step, share in enumerate(shares, start=8):
        expected = learning_rate_share(step, 20, config)
        if step < 8 + warmup:
            expected = short + (expected - short) * (step - 8 + 1) / warmup
        assert share == pytest.approx(expected)
    # No step is far from the one before it, as it would be without the way over.
    assert max(abs(b - a) for a, b in zip([short, *shares], shares, strict=False)) < 0.25
    assert any(line.startswith("20 steps instead of 8: from step 8 on") for line in listener.told)


def test_schedules_of_runs_never_made_longer_are_as_before() -> None:
    config = OptimizerConfig(warmup_steps=5)
    for step in range(40):
        share = learning_rate_share(step, 40, config)
        assert extended_share(step, 40, config, -1, 0.0) == share
    # Made longer while it warms up, and without a warm-up.
    assert extended_share(3, 80, config, 2, 0.6) == pytest.approx(0.6 + (0.8 - 0.6) * 2 / 5)
    none = OptimizerConfig(warmup_steps=0)
    assert extended_share(10, 40, none, 10, 0.1) == learning_rate_share(10, 40, none)


@pytest.mark.parametrize("stops", [(1,), (3, 2)], ids=["at once", "twice"])
def test_longer_run_that_is_stopped_ends_with_the_same_bits(
    settings: Settings, stops: tuple[int, ...]
) -> None:
    """Also one that was made longer twice; whether by one start or by several."""
    how = (*DROPOUT, "training.ema_decay=0.9", "training.aligner.fixed_share=0.5")
    for name in ("whole", "parts"):
        run(settings(name, *how, "training.max_steps=6"))
        run(settings(name, *how, "training.max_steps=9"))
    _, whole = run(settings("whole", *how, "training.max_steps=18"))
    for stop in stops:
        _, part = run(settings("parts", *how, "training.max_steps=18"), stop_after=stop)
        assert part.status == "stopped"
    listener, resumed = run(settings("parts", *how, "training.max_steps=18"))
    assert resumed.step == whole.step == 18
    assert weights(resumed) == weights(whole)
    assert not any("instead of" in line for line in listener.told)  # it was so before the stop


def test_flat_start_does_not_come_back_in_a_longer_run(settings: Settings) -> None:
    """A quarter of 40 steps is 10, but this run has searched its alignments since step 2."""
    run(settings("aligned", "training.max_steps=8"))
    _, result = run(settings("aligned", "training.max_steps=40"), stop_after=1)
    assert result.checkpoint is not None
    progress = read_state(result.checkpoint)["progress"]
    assert (progress["planned_steps"], progress["max_steps"], progress["extended_at"]) == (8, 40, 8)


def test_early_stopped_run_goes_on_with_more_patience_or_more_steps(settings: Settings) -> None:
    how = ("training.validate_every=1", "training.optimizer.learning_rate=1e-9")
    _, stopped = run(settings("patient", *how, "training.patience=2", "training.max_steps=30"))
    assert stopped.status == "early_stopped"
    for more in (("training.patience=4", "training.max_steps=30"),
                 ("training.patience=4", "training.max_steps=60")):  # fmt: skip
        _, went_on = run(settings("patient", *how, *more))
        assert went_on.step > stopped.step
        stopped = went_on


def test_settings_that_no_weight_depends_on_may_change(voice: Voice) -> None:
    first = voice("training.max_steps=4", "training.validate_every=2")
    start_run(first.launch(), first.ray)
    other = voice(
        "training.max_steps=6", "training.validate_every=2", "training.log_every=2",
        "training.sample_every=3", "training.sample_texts=[ሰላም]", "training.checkpoint_every=3",
        "training.keep_checkpoints=1", "training.patience=9", "training.threads=2",
    )  # fmt: skip
    assert start_run(other.launch(), other.ray)["step"] == 6
    assert (first.run.run_dir / "samples" / "step_000006").exists()
    seeded = voice("training.max_steps=6", "training.seed=1", "training.validate_every=2")
    way_out = (
        rf"training\.seed=0, not 1; .*--set run\.name=NEW --set base\.bundle={first.run.place}"
    )
    with pytest.raises(UserError, match=way_out):
        start_run(seeded.launch(), seeded.ray)


def test_more_recordings_are_learned_by_a_run_that_starts_from_the_first(
    voice: Voice, spoken_corpus: Path, tmp_path: Path
) -> None:
    """The refusal names the way out, and the way out is gone as it is named."""
    corpus = tmp_path / "corpus"
    shutil.copytree(spoken_corpus, corpus)
    rows = (corpus / "metadata.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (corpus / "metadata.csv").write_text("".join(rows[:-4]), encoding="utf-8")
    own = (f"corpus.path={corpus}", f"prepare.features={tmp_path / 'features'}")
    steps = ("training.max_steps=6", "training.validate_every=3")
    config = voice(*own, *steps)
    prepare(config.corpus, config.text, [MelExtractor(config.mel)], config.prepare)
    first = start_run(config.launch(), config.ray)

    (corpus / "metadata.csv").write_text("".join(rows), encoding="utf-8")
    prepare(config.corpus, config.text, [MelExtractor(config.mel)], config.prepare)
    with pytest.raises(UserError, match="another set of features than there is now") as refusal:
        start_run(config.launch(), config.ray)
    parts = str(refusal.value).split(" give ")[1].split(", or ")[0].split("--set ")
    given = [part.strip().replace("=NEW", "=more") for part in parts if part.strip()]
    assert given[0] == "run.name=more"

    more = voice(*own, *steps, *given)
    assert start_run(more.launch(), more.ray)["status"] == "finished"
    # From where the first one was best, not from nothing.
    assert validation(more.run.run_dir, 0) == pytest.approx(first["metrics"]["val/total_loss"])


def validation(run_dir: Path, step: int) -> float:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [event for line in lines if (event := json.loads(line)).get("step") == step]
    return next(
        float(event["values"]["val/total_loss"])
        for event in events
        if "val/total_loss" in event["values"]
    )


def test_listener_hears_the_way_over_once(settings: Settings) -> None:
    run(settings("once", "training.max_steps=3"))
    told: list[str] = []
    for _ in range(2):
        listener, _ = run(settings("once", "training.max_steps=5"))
        told += listener.told
    assert isinstance(listener, Listener)
    assert len([line for line in told if "instead of" in line]) == 1
