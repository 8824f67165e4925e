"""A sweep in object storage is the sweep in a folder, on whichever machine it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from s3_fixtures import another_machine, names
from tuning_fixtures import TuneJob, study_of, told, wait_until, write_space

from dimts.bundle import load_bundle
from dimts.storage.place import Remote
from dimts.tracking.mlflow_model import resolve_model

pytest_plugins = ("s3_fixtures",)

STEPS = ("training.max_steps=160", "training.log_every=1", "sweep.parallel=1")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_sweep_goes_on_on_another_machine(
    bucket: Remote,
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
