"""SIGTERM in the middle of jobs on Ray: they end soon, with a checkpoint, and go on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from surroundings_fixtures import HANGS_S, connected
from tuning_fixtures import (
    TuneJob,
    descendants,
    started_at,
    steps_of,
    study_of,
    wait_until,
    wait_until_gone,
    write_space,
)

from dimts.bundles.bundle import resolve_bundle
from dimts.launch import stopping
from dimts.launch.stopping import stop_on_signal, stop_requested
from dimts.training.checkpoint import LATEST
from dimts.tuning.outcomes import outcome

STEPS = 300
"""Of a trial; several seconds' worth, in which the signal arrives."""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="Ray ends its daemons by their group there")
def test_signal_to_the_group_of_a_job_leaves_its_ray_alone(tmp_path: Path) -> None:
    with connected(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        os.killpg(process.pid, signal.SIGTERM)
        out, _ = process.communicate("\n", timeout=HANGS_S)
        assert out == "['SIGTERM'] Ray works\n"


def test_same_signal_twice_at_once_is_one_wish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`timeout` sends its signal to the job, then to the job's group."""
    taken: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: taken.append(number))
    try:
        with stop_on_signal(tmp_path):
            signal.raise_signal(signal.SIGTERM)
            assert stop_requested(tmp_path)
            signal.raise_signal(signal.SIGTERM)
            assert taken == []
            monkeypatch.setattr(stopping, "ONE_SIGNAL_S", 0)
            signal.raise_signal(signal.SIGTERM)  # of a person who will not wait
            assert taken == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


class Interrupted(NamedTuple):
    """A sweep of one trial, which got SIGTERM.

    Attributes:
        configs, how: arguments of its command.
        trial: its folder.
        processes: its own, id -> when it was started, as it got the signal.
        code, out, err: how it ended.
    """

    configs: tuple[Path, Path]
    how: tuple[str, ...]
    trial: Path
    processes: dict[int, str | None]
    code: int
    out: str
    err: str

    def goes_on(self) -> None:
        """Given at once, the same command ends the sweep; what the first one started is gone."""
        code, _, err = TuneJob(self.configs, *self.how).result()
        assert code == 0, err
        wait_until_gone(self.processes)
        trials = study_of(self.configs, self.how).trials
        assert [outcome(one) for one in trials] == ["finished"]


def sweep_that_gets_sigterm(
    voice_file: Path, folder: Path, send: Callable[[int, int], None]
) -> Interrupted:
    configs = (voice_file, write_space(folder, trials=1, early_stopping=None))
    how = (
        f"run.storage={folder}", f"training.max_steps={STEPS}", "training.log_every=1",
        "training.validate_every=100",
    )  # fmt: skip
    trial = folder / "tiny-small" / "trials" / "000"
    sweep = TuneJob(configs, *how)
    wait_until(lambda: max(steps_of(trial), default=0) >= 5, sweep)
    processes = {pid: started_at(pid) for pid in descendants(sweep.process.pid)}
    assert processes
    send(sweep.process.pid, signal.SIGTERM)
    return Interrupted(configs, how, trial, processes, *sweep.result())


@pytest.mark.integration
@pytest.mark.parametrize("send", [pytest.param(os.kill, marks=pytest.mark.slow), os.killpg])
def test_sweep_that_gets_sigterm_ends_with_a_checkpoint_and_goes_on(
    send: Callable[[int, int], None], voice_file: Path, tmp_path: Path
) -> None:
    """A signal to its group, as `timeout` sends it, is one to the job as well."""
    sweep = sweep_that_gets_sigterm(voice_file, tmp_path, send)
    assert (sweep.code, sweep.err) == (0, "")
    assert sweep.out.splitlines()[-1] == "stopped; give the same command again to go on"
    last = max(steps_of(sweep.trial))
    assert resolve_bundle(sweep.trial / LATEST).name.endswith(f"_step{last}")
    sweep.goes_on()
    assert steps_of(sweep.trial) == list(range(1, STEPS + 1)), "no step is done twice"


@pytest.mark.slow
def test_sweep_whose_every_process_gets_sigterm_ends_and_goes_on(
    voice_file: Path, tmp_path: Path
) -> None:
    """As systemd and Slurm may send it: Ray ends under the sweep, which does not wait long.

    Which of Ray's processes is the first to end differs from time to time, and so does what Ray
    says and when the sweep ends. That the trial died with its Ray is no failure of the trial.
    """

    def send(pid: int, number: int) -> None:
        for one in (pid, *descendants(pid)):
            with suppress(ProcessLookupError):
                os.kill(one, number)

    sweep = sweep_that_gets_sigterm(voice_file, tmp_path, send)
    assert (sweep.code == 0) == ("stopped; give the same command again" in sweep.out)
    sweep.goes_on()
