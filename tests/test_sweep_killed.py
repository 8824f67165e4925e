"""A sweep that is killed, in whichever part of it, ends as one that nobody disturbed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tuning_fixtures import TuneJob, parent_of, steps_of, study_of, told, wait_until, write_space

from dimts.bundles.bundle import resolve_bundle
from dimts.commands.sweep_config import load_sweep
from dimts.storage.pointer import read_pointer
from dimts.training.checkpoint import LATEST
from dimts.tuning.sweep import run_sweep

STEPS = ("training.max_steps=160", "training.log_every=1")
VALIDATE_EVERY = 40


class Sweep(NamedTuple):
    """A command.

    Attributes:
        configs, overrides: its arguments.
        folder: of the sweep.
    """

    configs: tuple[Path, Path]
    overrides: tuple[str, ...]
    folder: Path

    def start(self) -> TuneJob:
        return TuneJob(self.configs, *self.overrides)

    def trial(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:03d}"

    def told(self) -> list[Any]:
        return told(study_of(self.configs, self.overrides))

    def wait_for_step(self, job: TuneJob, number: int, step: int) -> None:
        wait_until(lambda: max(steps_of(self.trial(number)), default=0) >= step, job)


def make_sweep(voice_file: Path, folder: Path) -> Sweep:
    folder.mkdir(exist_ok=True)
    configs = (voice_file, write_space(folder, trials=6))
    return Sweep(configs, (f"run.storage={folder}", *STEPS), folder / "tiny-small")


@pytest.fixture(scope="module")
def undisturbed(
    voice_file: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> list[Any]:
    """What a sweep comes to that nobody disturbs."""
    sweep = make_sweep(voice_file, tmp_path_factory.mktemp("undisturbed"))
    run_sweep(load_sweep(sweep.configs, sweep.overrides).plan())
    trials = sweep.told()
    assert {state for _, state, *_ in trials[:-1]} == {"finished", "stopped early"}
    return trials


def kill_driver(sweep: Sweep, number: int, step: int) -> None:
    job = sweep.start()
    sweep.wait_for_step(job, number, step)
    job.kill_driver()


def kill_trial(sweep: Sweep, job: TuneJob, number: int, step: int) -> None:
    """The job sees to it itself, and the trial goes on from its checkpoint."""
    process = job.trial_process(sweep.trial(number))
    sweep.wait_for_step(job, number, step)
    before = steps_of(sweep.trial(number))
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: len(steps_of(sweep.trial(number))) > len(before) + 2, job)
    again = steps_of(sweep.trial(number))[len(before) :]
    assert again[0] == max(before) // VALIDATE_EVERY * VALIDATE_EVERY + 1 or again[0] > max(before)


def kill_ray(sweep: Sweep, job: TuneJob, number: int, step: int) -> None:
    """The raylet is what started the trial's process."""
    raylet = parent_of(job.trial_process(sweep.trial(number)))
    assert raylet is not None
    assert parent_of(raylet) == job.process.pid
    sweep.wait_for_step(job, number, step)
    os.kill(raylet, signal.SIGKILL)
    code, _, err = job.result()
    assert code != 0
    assert len(err.splitlines()) < 20, err


def interrupt(sweep: Sweep, number: int, step: int) -> None:
    """The trial that runs stops with a checkpoint: `number`, or one after it, as they are short."""
    job = sweep.start()
    sweep.wait_for_step(job, number, step)
    code, out, err = job.interrupt()
    assert code == 0, err
    assert "stopping after this step, with a checkpoint" in out
    assert "stopped; give the same command again to go on" in out
    last = max(folder for folder in (sweep.folder / "trials").iterdir() if steps_of(folder))
    assert int(last.name) >= number
    assert resolve_bundle(last / LATEST).name.endswith(f"_step{max(steps_of(last))}")


@pytest.mark.slow
def test_killed_sweep_ends_as_an_undisturbed_one(
    voice_file: Path, tmp_path: Path, undisturbed: list[Any]
) -> None:
    """Each part of it is killed once, then Ctrl-C; each time another trial runs."""
    sweep = make_sweep(voice_file, tmp_path)
    kill_driver(sweep, 0, VALIDATE_EVERY + 5)
    job = sweep.start()
    kill_trial(sweep, job, 1, 2 * VALIDATE_EVERY + 5)
    kill_ray(sweep, job, 2, 5)
    interrupt(sweep, 3, 3)
    code, out, err = sweep.start().result()
    assert code == 0, err
    assert "registered" not in out, "without a record there is no registry"
    assert sweep.told() == undisturbed
    assert read_pointer(sweep.folder / "best") == f"trials/{undisturbed[-1][0]:03d}"


@pytest.mark.slow
def test_sweep_killed_three_times_in_each_way_ends_as_an_undisturbed_one(
    voice_file: Path, tmp_path: Path, undisturbed: list[Any]
) -> None:
    sweep = make_sweep(voice_file, tmp_path)
    kill_driver(sweep, 0, 3)
    kill_driver(sweep, 0, VALIDATE_EVERY + 5)
    job = sweep.start()
    kill_trial(sweep, job, 0, 3 * VALIDATE_EVERY + 1)
    kill_trial(sweep, job, 1, 4)
    kill_trial(sweep, job, 1, 2 * VALIDATE_EVERY + 5)
    for number in (2, 3, 4):
        kill_ray(sweep, job, number, 1)
        job = sweep.start()
    sweep.wait_for_step(job, 5, 2)
    job.kill_driver()
    code, _, err = sweep.start().result()
    assert code == 0, err
    assert sweep.told() == undisturbed
