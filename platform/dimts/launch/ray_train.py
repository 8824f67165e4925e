"""The training loop on Ray Train's workers, which share every batch."""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.torch.config import _TorchBackend

from dimts.core.environment import environment
from dimts.core.errors import UserError
from dimts.core.posix import fcntl
from dimts.core.ray_session import ray_session
from dimts.launch.console import following
from dimts.launch.lean_trainer import LeanTrainer
from dimts.launch.local_run_folder import RemoteRun, local_run_folder
from dimts.launch.machine import resolve_on_machine
from dimts.launch.names import CONFIG_FILE, RESULT
from dimts.launch.resources import equal_share, places
from dimts.launch.run_logger import RunLogger, device_of
from dimts.launch.settings import Launch, RayConfig
from dimts.launch.stopping import stop_on_signal, stop_requested, stop_run
from dimts.launch.training_run import run_training
from dimts.storage.files import arrow_place
from dimts.storage.paths import AnyPath, StorageError
from dimts.storage.pointer import read_pointer
from dimts.training.checkpoint import LATEST
from dimts.training.ownership import RunTakenOver

SIOCGIFADDR = 0x8915
"""Linux: the IPv4 address of an interface, netdevice(7)."""
QUIET = {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
WATCHES_NODES = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""An actor that asks for nodes that are to go; of no use where there is one."""


def run_on_ray(launch: Launch, config: RayConfig) -> None:
    """Train on `config.workers` workers to the end of the run, or until asked to stop.

    Raises:
        UserError: a worker reported one, or too many groups of workers crashed.
    """

    def pass_on_stop() -> None:
        if stop_requested(launch.run_dir) and not stop_requested(launch.place):
            stop_run(launch)

    with (
        connected(config),
        following(launch.place, launch.family.metrics, pass_on_stop),
        stop_on_signal(launch.run_dir),
    ):
        cpus = cpus_per_worker(config)

        def fit(note: str) -> None:
            trainer = torch_trainer(train_worker, launch, config, cpus, 0, {"note": note})
            in_another_thread(trainer.fit).result()

        fit_while_it_comes_further(fit, launch.place, config.max_failures)
        in_another_thread(lambda: measure_on_ray(launch, config, cpus)).result()


def fit_while_it_comes_further(
    fit: Callable[[str], None], place: AnyPath, max_failures: int
) -> None:
    """Train; a group of workers that dies is started again as long as that may help.

    Ray itself counts all deaths of a run together, so that a training of days would end with its
    third lost machine. What matters is whether there is a new checkpoint in between.

    Args:
        fit: trains with a group of workers; is given what a person should know of its start.
        place, max_failures: of the run; deaths in a row that are put up with, none at all if 0.

    Raises:
        UserError: a worker's, which it would only meet again; or there were too many deaths.
    """
    reached, n_died, note = read_pointer(place / LATEST), 0, ""
    while True:
        try:
            fit(note)
            return
        except WorkerGroupError as error:
            failures = list(error.worker_failures.values())
            for failure in failures:  # a storage may be back the next time
                if isinstance(failure, UserError) and not isinstance(failure, StorageError):
                    raise failure from error
            before = reached
            with suppress(StorageError):
                if not (place / CONFIG_FILE).exists():  # a person removed the run
                    return
                reached = read_pointer(place / LATEST)
            n_died = n_died + 1 if reached == before or not max_failures else 0
            if n_died > max_failures:
                last = " ".join(str(failures[0] if failures else error).split())[:300]
                raise UserError(
                    f"{place}: the workers died {n_died} times without coming further than "
                    f"{reached or 'the start'}, at last of: {last}; killed without a word they "
                    "were probably out of memory: lower training.batch_size or raise "
                    "training.accumulate"
                ) from error
            note = "the workers died, and were started again"


def in_another_thread(function: Callable[[], Any]) -> Future[None]:
    """Call it in another thread: in the main one Ray takes Ctrl-C for itself, and aborts."""
    done: Future[None] = Future()

    def call() -> None:
        try:
            function()
            done.set_result(None)
        except BaseException as error:  # raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return done


@contextmanager
def connected(config: RayConfig) -> Iterator[None]:
    """Inside, this process is connected to a cluster; one that it started ends with it.

    Raises:
        UserError: the cluster does not answer, or cannot run as many workers as asked for.
    """
    logging.getLogger("ray.train.v2._internal.execution.context").setLevel(logging.WARNING)
    interval = str(config.report_interval_s)
    with (
        # They hold for this cluster, not for the next one.
        environment({**QUIET, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": interval}),
        ray_session(logging.WARNING),
    ):
        watches = int(config.autoscaled or len(ray.nodes()) > 1)
        with environment({WATCHES_NODES: str(watches)}):
            _check_resources(config)
            yield


def _check_resources(config: RayConfig) -> None:
    cpus = cpus_per_worker(config)
    room = places(node_resources(), {"CPU": cpus, "GPU": int(config.gpu)})
    if room >= config.workers:
        return
    lack = (
        f"ray.workers={config.workers} with {cpus} CPU{' and a GPU' if config.gpu else ''} each: "
        f"on the cluster's nodes there is room for {room}"
    )
    if not config.autoscaled:
        raise UserError(
            f"{lack}, as none is spread over two; lower ray.workers or ray.cpus_per_worker, or "
            "set ray.autoscaled if the cluster starts nodes for what it is asked"
        )
    print(f"{lack}; waiting for more", flush=True)


def node_resources() -> list[dict[str, float]]:
    """What each node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def cpus_per_worker(config: RayConfig) -> int:
    """Cores reserved for each worker: as asked for, or as many as each can have on its node."""
    if config.autoscaled:  # it may have none yet
        return config.cpus_per_worker or 1
    return config.cpus_per_worker or equal_share(node_resources(), config.workers, config.gpu)


def torch_trainer(
    worker: Callable[[dict[str, Any]], None],
    launch: Launch,
    config: RayConfig,
    cpus: int,
    restarts: int,
    more: Mapping[str, Any],
) -> TorchTrainer:
    """The group of workers for a run.

    Args:
        worker: what each of them does; it is given ``launch`` and what `more` holds.
        launch, config, more: the run, of its workers, and for each of them.
        cpus: cores reserved for each worker.
        restarts: times that Ray itself starts a group that died again.
    """
    path, filesystem = arrow_place(launch.place.parent)
    resources: dict[str, float] = {"CPU": cpus, "GPU": 1} if config.gpu else {"CPU": cpus}
    return LeanTrainer(
        worker,
        # Not as JSON, in which the credentials of a tracking server are masked.
        train_loop_config={
            "launch": launch.model_dump(),
            "nodes_may_go": os.environ.get(WATCHES_NODES) == "1",
            **more,
        },
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=config.gpu, resources_per_worker=resources
        ),
        torch_config=ClusterNetwork(backend="nccl" if config.gpu else "gloo"),
        run_config=RunConfig(
            name=launch.name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=restarts),
        ),
    )


@dataclass
class ClusterNetwork(TorchConfig):
    """Gloo's workers meet at the addresses by which Ray knows their nodes.

    By itself Gloo takes what the host name resolves to. On Debian and Ubuntu that is 127.0.1.1,
    where no other node finds it.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _ClusterBackend


class _ClusterBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_name_interface)
        super().on_start(worker_group, backend_config)


def interface_of(address: str) -> str | None:
    """Name of the interface that has an IPv4 address; None if none is found to, as on macOS."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has none
                answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


def _name_interface() -> None:
    """In a worker, before it looks for the others; what the node's owner has set stays."""
    if interface := interface_of(ray.util.get_node_ip_address()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def train_worker(config: dict[str, Any]) -> None:
    """One worker of the group; the loop finds the others through `torch.distributed`."""

    def node_goes() -> bool:
        """Whether a worker's machine is to be taken away; all workers ask together."""
        return config["nodes_may_go"] and ray.train.get_preemption_info() is not None

    def train(launch: Launch, rank: int, copy: RemoteRun | None) -> None:
        device = get_device()
        launch, note = resolve_on_machine(launch, device)
        logger = RunLogger(launch, rank, ray.train.report, node_goes, copy)
        with logger.recording("; ".join(filter(None, (config["note"], note)))):
            try:
                logger.finish(run_training(launch.settings, logger, device))
            except StorageError as error:  # the group is started again, when it may be back
                logger.notify(str(error))
                raise

    in_worker(Launch.model_validate(config["launch"]), train)


def in_worker(
    launch: Launch, work: Callable[[Launch, int, RemoteRun | None], None], stays: bool = True
) -> None:
    """Do a worker's work, with the run's folder on its machine; nothing where the run is another's.

    Args:
        launch, stays: see `local_run_folder`.
        work: is given the launch as it is on this machine, the worker's rank, and the run's copy.
    """
    context = ray.train.get_context()
    rank, begun = context.get_world_rank(), False
    try:
        with local_run_folder(launch, rank, context.get_local_rank(), stays) as (launch_here, copy):
            begun = True
            work(launch_here, rank, copy)
    except RunTakenOver:  # by a start elsewhere, or a worker that was given up for dead
        if begun:
            raise  # a group that is still listened to is started again, which takes the run up


def measure_on_ray(launch: Launch, config: RayConfig, cpus: int) -> None:
    """Measure what a run has made, in a task of its own: its workers have ended.

    Raises:
        UserError: it cannot be measured.
    """
    task = ray.remote(_measure).options(num_cpus=cpus, num_gpus=int(config.gpu))
    try:
        ray.get(task.remote(launch.model_dump(), config.gpu))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError | RunTakenOver):
            raise UserError(str(error.cause)) from error
        raise


def _measure(dumped: dict[str, Any], gpu: bool) -> None:
    with local_run_folder(Launch.model_validate(dumped)) as (launch, _):
        if not (launch.run_dir / RESULT).exists():
            return  # it was removed: the driver says so
        device = device_of(gpu)
        launch, _ = resolve_on_machine(launch, device)
        with RunLogger(launch).recording() as logger:
            logger.measure(device)
