"""A sweep in object storage is the sweep in a folder, on whichever machine it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from s3_fixtures import another_machine, names, put
from training_fixtures import acoustic
from tuning_fixtures import TuneJob, study_of, told, wait_until, write_space

from dimts.commands.sweep_config import load_sweep
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import load_bundle
from dimts.storage.paths import StoragePath
from dimts.storage.pointer import read_pointer
from dimts.tracking.mlflow_model import resolve_model
from dimts.training.checkpoint import BEST
from dimts.tuning.remote_sweep import SweepCopy

if TYPE_CHECKING:
    from conftest import BaseVoice

pytest_plugins = ("s3_fixtures",)

STEPS = ("training.max_steps=160", "training.log_every=1", "sweep.parallel=1")


def test_who_does_not_take_it_up_takes_nothing_away(bucket: StoragePath, tmp_path: Path) -> None:
    """As one who is refused, since the sweep was begun with other settings."""
    place = bucket / "sweep"
    first, second = tmp_path / "first", tmp_path / "second"
    copy = SweepCopy(first, place)
    copy.fetch()
    copy.acquire()
    (first / "study").write_text("one trial")
    copy.keep()
    SweepCopy(second, place).fetch()
    assert (second / "study").read_text() == "one trial"
    (first / "study").write_text("two trials")
    copy.keep()
    (first / "study").write_text("three, and then it was killed")
    for _ in range(2):  # the first of them ends before it takes the sweep up
        again = SweepCopy(first, place)
        again.fetch()
        assert (first / "study").read_text() == "three, and then it was killed"
    again.acquire()
    assert (place / "study").read_text() == "three, and then it was killed"
    other = SweepCopy(second, place)
    other.fetch()
    other.acquire()
    with pytest.raises(UserError, match="another machine goes on with this sweep"):
        again.keep()
    (second / "study").write_text("newer")
    other.keep()
    SweepCopy(first, place).fetch()
    assert (first / "study").read_text() == "newer"


def test_all_trials_start_from_the_base_that_it_was(
    bucket: StoragePath, base: BaseVoice, voice_file: Path, tmp_path: Path
) -> None:
    run = put(base.run_dir, bucket / "base")
    overrides = [f"run.storage={tmp_path}", f"base.bundle={run}"]
    plan = load_sweep([voice_file, write_space(tmp_path)], overrides).plan()
    pointer = run / BEST
    found = f"{run}/{read_pointer(pointer)}"
    assert found in plan.config_yaml
    pointer.write_bytes(b"another")
    started_from = acoustic(plan.launch(1, {"training.batch_size": 4})).base
    assert started_from
    assert started_from.bundle == found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_sweep_goes_on_on_another_machine(
    bucket: StoragePath,
    voice_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    configs = (voice_file, write_space(tmp_path, trials=4))
    settings = (*STEPS, f"ray.workers={workers}")
    here = (f"run.storage={tmp_path}", *settings)
    code, _, err = TuneJob(configs, *here).result()
    assert code == 0, err
    undisturbed = told(study_of(configs, here))

    there = (f"run.storage={bucket}/runs", *settings)
    place = bucket / "runs" / "tiny-small"
    job = TuneJob(configs, *there)
    wait_until(lambda: (place / "trials" / "001" / "metrics.jsonl").exists(), job)
    code, out, err = job.interrupt()
    assert code == 0, err
    assert "stopped; give the same command again to go on" in out
    another_machine(monkeypatch, tmp_path / "other")
    code, out, err = TuneJob(configs, *there).result()
    assert code == 0, err
    assert told(study_of(configs, there)) == undisturbed
    assert f"voice: {place}/best" in out
    best = undisturbed[-1][0]
    kept = {name.split("/")[1] for name in names(place) if "/checkpoint_" in name}
    assert kept == {f"{best:03d}"}
    assert not [name for name in names(place) if "ray_tune" in name]
    step = load_bundle(resolve_model(f"{place}/best")).manifest.step
    assert step == load_bundle(resolve_model(tmp_path / "tiny-small" / "best")).manifest.step
