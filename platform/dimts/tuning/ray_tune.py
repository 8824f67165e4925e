"""A sweep's trials on Ray Tune: who runs where, and what is done when a process dies.

What to try and when to stop is the study's matter. Tune's own folder holds nothing that is needed
later; a sweep that was interrupted is a new experiment to Tune.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray.train
from ray import tune
from ray.exceptions import RayError
from ray.train import TrainingFailedError
from ray.train.torch import get_device
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher
from ray.util.queue import Empty, Queue

from dimts.core.errors import UserError
from dimts.core.lock import locked
from dimts.launch.local_run_folder import RemoteRun
from dimts.launch.names import LOCK
from dimts.launch.ray_train import (
    in_another_thread,
    in_worker,
    node_resources,
    torch_trainer,
)
from dimts.launch.resources import places
from dimts.launch.run_folder import acquire
from dimts.launch.run_logger import device_of
from dimts.launch.settings import Launch, RayConfig
from dimts.storage.files import arrow_place, remove_files
from dimts.storage.paths import AnyPath
from dimts.tracking.config import TrackingConfig
from dimts.training.ownership import RunTakenOver
from dimts.tuning.config import SweepConfig
from dimts.tuning.remote_sweep import SCRATCH
from dimts.tuning.trial import (
    BUSY,
    LOCK_S,
    Measured,
    forget_ending,
    note_error,
    read_ending,
    run_trial,
    train_trial,
)

if TYPE_CHECKING:
    from dimts.tuning.sweep import SweepTrials

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
POLL_S = 0.1
ANSWER_S = 60.0
"""How long a group of workers waits to hear what the sweep decides on a validation."""
A_LITTLE_MEMORY = 1_000_000
"""A trial of several workers holds no core itself, and Tune refuses one that holds nothing."""


def run_on_tune(
    trials: SweepTrials, sweep: SweepConfig, config: RayConfig, tracking: TrackingConfig,
    measured: Measured, place: AnyPath,
) -> None:  # fmt: skip
    """Run the trials that `trials` hands out, as many at a time as there is room for.

    Tune keeps in `place`, which all nodes must see, what it needs meanwhile.

    Raises:
        UserError: there is not room for one.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    room = parallel_trials(sweep, config)
    function = tune.with_parameters(
        trial_process, config=config, tracking=tracking, measured=measured
    )
    remove_files(place / SCRATCH)  # of a start that was killed
    path, filesystem = arrow_place(place)
    tuner = tune.Tuner(
        tune.with_resources(function, _resources(sweep, config)),
        tune_config=tune.TuneConfig(
            search_alg=_Searcher(trials),
            num_samples=-1,
            max_concurrent_trials=room,
            reuse_actors=True,  # torch, numba and MLflow are loaded once, not for each trial
        ),
        run_config=tune.RunConfig(
            name=SCRATCH,
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[_Silent()],
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
        ),
    )
    try:
        in_another_thread(tuner.fit).result()
    finally:
        remove_files(place / SCRATCH)


def parallel_trials(sweep: SweepConfig, config: RayConfig) -> int:
    """How many trials run at a time.

    Raises:
        UserError: the cluster has no room for one, or nobody knows how much it may have.
    """
    if config.autoscaled:
        if not sweep.parallel:
            raise UserError(
                "sweep.parallel: how many trials at a time? with ray.autoscaled the cluster starts "
                "nodes for as many as there are to be"
            )
        return sweep.parallel
    nodes, workers, each = node_resources(), max(1, config.workers), _needs(sweep, config)
    room = places(nodes, each) // workers
    if room < 1:
        needs = " and ".join(f"{n * workers:g} {name}" for name, n in each.items())
        has = " and ".join(f"{sum(node.get(name, 0) for node in nodes):g}" for name in each)
        raise UserError(
            f"a trial needs {needs}{', each worker on one node' if len(nodes) > 1 else ''}, the "
            f"cluster has {has}; lower "
            "sweep.cpus_per_trial, sweep.gpus_per_trial, ray.workers or ray.cpus_per_worker"
        )
    return min(room, sweep.parallel) if sweep.parallel else room


def _needs(sweep: SweepConfig, config: RayConfig) -> dict[str, float]:
    """What a trial's process holds, or each of its workers."""
    if config.workers > 1:
        return {"CPU": max(1, config.cpus_per_worker), "GPU": int(config.gpu)}
    return {"CPU": sweep.cpus_per_trial, "GPU": sweep.gpus_per_trial if config.gpu else 0}


def _resources(sweep: SweepConfig, config: RayConfig) -> dict[str, float]:
    if config.workers > 1:  # they are what holds the cores; else the last trial would wait for them
        return {"CPU": 0, "memory": A_LITTLE_MEMORY}
    return {name: n for name, n in _needs(sweep, config).items() if n}


class _Searcher(Searcher):
    """Hands out the sweep's trials, and passes on what they report.

    One that is to stop finds a file in its run's folder and ends by itself after a step, so that
    its process is free for the next one.
    """

    def __init__(self, trials: SweepTrials):
        super().__init__()
        self.trials = trials
        self.numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps a copy of its searcher, which nobody reads.

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        if (following := self.trials.next()) is None:
            return str(Searcher.FINISHED)
        number, launch = following
        self.numbers[trial_id] = number
        # Without the record's settings, which may hold a password: Tune writes this down.
        return {"number": number, "launch": launch.model_dump(exclude={"tracking"})}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "validation" in result:
            number, loss = self.numbers[trial_id], float(result["loss"])
            self.trials.on_validation(number, int(result["validation"]), loss)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.trials.ended(self.numbers.pop(trial_id), "its process died" if error else None)

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _Silent(TrialProgressCallback):
    """In place of Tune's own, which prints that a trial is complete even with ``verbose=0``."""

    def _print(self, msg: str) -> None: ...


# In the trial's process


def trial_process(
    trial: dict[str, Any], config: RayConfig, tracking: TrackingConfig, measured: Measured
) -> None:
    """Run one trial, in this process or as a group of workers."""
    launch = Launch.model_validate({**trial["launch"], "tracking": tracking})
    try:
        if config.workers > 1:
            _run_group(launch, config, measured)
        else:
            run_trial(launch, measured, tune.report, device_of(config.gpu))
    except RunTakenOver:
        # Of a sweep that goes on elsewhere, as its driver finds. Another try would take it back.
        if launch.remote is None:
            raise
    except Exception:  # Tune tries again; what was wrong is to be found where the trial is
        note_error(launch)
        raise


def _run_group(launch: Launch, config: RayConfig, measured: Measured) -> None:
    """Several workers; rank 0 reports to this process, and waits for its answer."""
    acquire(launch)
    forget_ending(launch.place)
    with locked(launch.run_dir / LOCK, f"{launch.run_dir}: {BUSY}", LOCK_S):
        forget_ending(launch.run_dir)
        with suppress(UserError):  # workers will meet it again, and say so
            launch.family.prepare_inputs(launch.settings)
        reports, answers = (Queue(actor_options={"num_cpus": 0}) for _ in range(2))
        trainer = torch_trainer(
            group_worker,
            launch,
            config,
            max(1, config.cpus_per_worker),
            config.max_failures,
            {"measured": measured, "reports": reports, "answers": answers},
        )
        group = in_another_thread(trainer.fit)
        while not group.done():
            with suppress(Empty):
                values = reports.get(timeout=POLL_S)
                tune.report(values)
                answers.put(values["validation"])
        try:
            group.result()
        except TrainingFailedError:
            if read_ending(launch) is None:
                raise


def group_worker(config: dict[str, Any]) -> None:
    """One worker of a trial's group."""

    def on_validation(values: dict[str, float]) -> None:
        """The trial waits, or how far it comes before it is stopped would be chance."""
        with suppress(Empty, RayError):
            config["reports"].put(values)
            while config["answers"].get(timeout=ANSWER_S) != values["validation"]:
                pass  # for a worker that has died since

    def work(launch: Launch, rank: int, copy: RemoteRun | None) -> None:
        measured, device = config["measured"], get_device()
        train_trial(launch, measured, on_validation, device, copy, rank, ray.train.report)

    in_worker(Launch.model_validate(config["launch"]), work, stays=False)
