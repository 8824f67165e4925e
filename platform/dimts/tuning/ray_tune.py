"""A sweep's trials on Ray Tune: who runs where, and what is done when a process dies.

What to try and when to stop is the study's matter. Tune's own folder holds nothing that is needed
later; a sweep that was interrupted is a new experiment to Tune.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from concurrent.futures import wait
from contextlib import suppress
from typing import Any, Protocol

import ray.train
from ray import tune
from ray.train import TrainingFailedError
from ray.train.torch import get_device
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from dimts.core.errors import UserError
from dimts.launch.local_run_folder import RemoteRun
from dimts.launch.machine import resolve_on_machine
from dimts.launch.names import ANSWERED
from dimts.launch.ray_train import (
    in_another_thread,
    in_worker,
    node_resources,
    storage_of,
    torch_trainer,
)
from dimts.launch.resources import places
from dimts.launch.run_logger import device_of
from dimts.launch.settings import Launch, RayConfig
from dimts.storage.paths import AnyPath, StorageError, copy_to, remove_files
from dimts.tracking.config import TrackingConfig
from dimts.tracking.event_log import follow_events
from dimts.training.ownership import RunTakenOver
from dimts.tuning.config import SweepConfig
from dimts.tuning.remote_sweep import SCRATCH
from dimts.tuning.trial import (
    Measured,
    TrialLogger,
    begin,
    begin_remotely,
    locked,
    note_error,
    read_ending,
    run_trial,
    train_trial,
)

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
REPORTS = "reports.jsonl"
POLL_S = 0.1
ANSWER_S = 60.0
A_LITTLE_MEMORY = 1_000_000
"""A trial of several workers holds no core itself, and Tune refuses one that holds nothing."""


class Trials(Protocol):
    """What the sweep answers to Tune."""

    def next(self) -> tuple[int, Launch] | None:
        """Number and run of the next trial; None if there will be no further one."""

    def on_validation(self, number: int, validation: int, loss: float) -> None:
        """A trial validated; it waits for this to return."""

    def ended(self, number: int, error: str | None) -> None:
        """A trial's process is done, or died too often."""


def run_on_tune(
    trials: Trials, sweep: SweepConfig, config: RayConfig, tracking: TrackingConfig,
    measured: Measured, place: AnyPath,
) -> None:  # fmt: skip
    """Run the trials that `trials` hands out, as many at a time as there is room for.

    Ray is connected. Tune keeps in `place`, which all nodes must see, what it needs meanwhile.

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
    tuner = tune.Tuner(
        tune.with_resources(function, _resources(sweep, config)),
        tune_config=tune.TuneConfig(
            search_alg=_Searcher(trials),
            scheduler=_Scheduler(trials),
            num_samples=-1,
            max_concurrent_trials=room,
            reuse_actors=True,  # torch, numba and MLflow are loaded once, not for each trial
        ),
        run_config=tune.RunConfig(
            name=SCRATCH,
            **storage_of(place),
            verbose=0,
            callbacks=[_Silence()],
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
    nodes, workers = node_resources(), max(1, config.workers)
    cpus, gpus = _needs(sweep, config)
    room = places(nodes, {"CPU": cpus, "GPU": gpus}) // workers
    if room < 1:
        has = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
        raise UserError(
            f"a trial needs {cpus * workers:g} CPU and {gpus * workers:g} GPU"
            f"{', each worker on one node' if len(nodes) > 1 else ''}, the cluster has "
            f"{' and '.join(f'{n:g}' for n in has)}; lower "
            "sweep.cpus_per_trial, sweep.gpus_per_trial, ray.workers or ray.cpus_per_worker"
        )
    return min(room, sweep.parallel) if sweep.parallel else room


def _needs(sweep: SweepConfig, config: RayConfig) -> tuple[float, float]:
    """CPUs and GPUs of a trial's process, or of each of its workers."""
    if config.workers > 1:
        return max(1, config.cpus_per_worker), int(config.gpu)
    return sweep.cpus_per_trial, sweep.gpus_per_trial if config.gpu else 0


def _resources(sweep: SweepConfig, config: RayConfig) -> dict[str, float]:
    if config.workers > 1:  # they are what holds the cores; else the last trial would wait for them
        return {"CPU": 0, "memory": A_LITTLE_MEMORY}
    cpus, gpus = _needs(sweep, config)
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


class _Searcher(Searcher):
    """Hands out the sweep's trials."""

    def __init__(self, trials: Trials):
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

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.trials.ended(self.numbers.pop(trial_id), "its process died" if error else None)

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _Silence(TrialProgressCallback):
    """In place of Tune's own, which prints although it is reports to be quiet."""

    def on_trial_result(self, *_: Any, **__: Any) -> None: ...

    def on_trial_error(self, *_: Any, **__: Any) -> None: ...

    def on_trial_complete(self, *_: Any, **__: Any) -> None: ...


class _Scheduler(FIFOScheduler):
    """Passes on what trials tell. One that is to stop finds a file in its run's folder and ends by
    itself after a step, so that its process is free for the next one."""

    def __init__(self, trials: Trials):
        super().__init__()  # type: ignore[no-untyped-call]
        self.trials = trials

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(
        self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        if "validation" in result:
            number = trial.config["number"]
            self.trials.on_validation(number, int(result["validation"]), float(result["loss"]))
        return str(FIFOScheduler.CONTINUE)


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
    """Several workers; what rank 0 tells comes here through a file, wherever it runs."""
    reports = launch.place / REPORTS
    begin_remotely(launch)
    with locked(launch.run_dir):
        begin(launch.run_dir)
        reports.unlink(missing_ok=True)
        with suppress(UserError):  # workers will meet it again, and say so
            launch.family.prepare_inputs(launch.settings)
        trainer = torch_trainer(
            group_worker,
            launch,
            config,
            max(1, config.cpus_per_worker),
            config.max_failures,
            {"measured": measured},
        )
        group = in_another_thread(trainer.fit)
        for line in follow_events(reports, 0, lambda: bool(wait([group], POLL_S).done)):
            tune.report(line["values"])
            _answer(launch, line["id"])
        try:
            group.result()
        except TrainingFailedError:
            if read_ending(launch) is None:
                raise


def _answer(launch: Launch, number: str) -> None:
    (launch.place / ANSWERED).write_bytes(number.encode())


def _wait_for_answer(launch: Launch, number: str) -> None:
    """Until the sweep has decided on what it was reports, or is not heard of for long."""
    file = launch.place / ANSWERED
    until = time.monotonic() + ANSWER_S
    while time.monotonic() < until:
        with suppress(FileNotFoundError, StorageError):
            if file.read_text() == number:
                return
        time.sleep(POLL_S)


def group_worker(config: dict[str, Any]) -> None:
    """One worker of a trial's group."""

    def work(launch: Launch, rank: int, copy: RemoteRun | None) -> None:
        reports = launch.run_dir / REPORTS

        def on_validation(values: dict[str, float]) -> None:
            """The trial waits, or how far it comes before it is stopped would be chance."""
            number = uuid.uuid4().hex
            with reports.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"id": number, "values": values}) + "\n")
            with suppress(StorageError):  # it is sent with the event log, later
                copy_to(reports, launch.place / REPORTS)
            _wait_for_answer(launch, number)

        device = get_device()
        resolved, line = resolve_on_machine(launch, device)
        logger = TrialLogger(
            resolved, config["measured"], on_validation, rank, ray.train.report, copy
        )
        train_trial(logger, device, line)

    in_worker(Launch.model_validate(config["launch"]), work, stays=False)
