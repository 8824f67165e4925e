"""Several machines on this one: each has its own network, host name, processes and Ray.

A machine is a set of Linux namespaces. Its addresses, ports, process ids, host name, shared memory
and Ray's folder are its own; the file system is everybody's, as a cluster's shared disk is. They
are wired to a switch, which is in the first one. What holds a machine up is a process that reads
from this one: when that ends, however it ends, the kernel ends all processes of the machine and
takes its network away, so there is nothing to tidy up.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dimts.core.environment import NO_DASHBOARD
from dimts.core.errors import UserError
from faults.injection import ROOT, command_line

BIN = Path(sys.executable).parent
TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "taskset": "util-linux",
         "ip": "iproute2"}  # fmt: skip
NETWORK = "10.77.0"
PORT = 6379
PATIENCE_S = 300
# Of a new machine: its process id outside, then what is its own. Orphans are not left as zombies.
BOOT = """
read outer rest < /proc/self/stat
mount -t proc proc /proc && mount -t tmpfs tmpfs /dev/shm && mount --bind "$2" /tmp/ray &&
mount --bind "$3" /etc/hosts && hostname "$1" && ip link set lo up && echo "$outer" &&
exec env --ignore-signal=CHLD cat
"""
NAMESPACES = ("--net", "--uts", "--mount", "--pid", "--ipc")


class Machine(NamedTuple):
    """One of them.

    Attributes:
        name: its host name.
        address: in their network.
        core: of this machine's, on which its Ray runs; None for all of them.
        pid: of the process that holds it up, as seen from outside.
        environment: of commands on it.
        ray: the folder of its Ray.
    """

    name: str
    address: str
    core: int | None
    pid: int
    environment: dict[str, str]
    ray: Path

    def command(self, *arguments: str) -> list[str]:
        """What to start here for a command to run there, with `environment`."""
        return ["nsenter", f"--target={self.pid}", *NAMESPACES, *self._pinned(),
                "env", f"--chdir={ROOT}", *arguments]  # fmt: skip

    def _pinned(self) -> list[str]:
        return [] if self.core is None else ["taskset", "--cpu-list", str(self.core)]

    def run(
        self, *arguments: str, timeout_s: float = PATIENCE_S, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there, in the project's folder, to its end.

        Args:
            arguments: the command.
            timeout_s: seconds after which it is killed.
            more: variables of its environment.
        """
        return subprocess.run(
            self.command(*arguments), env={**self.environment, **more},
            capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip

    def processes(self) -> list[int]:
        """All that run there, by their ids outside."""
        own, found = os.readlink(f"/proc/{self.pid}/ns/pid"), []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # ended meanwhile
                if os.readlink(entry / "ns" / "pid") == own:
                    found.append(int(entry.name))
        return found

    def started(self) -> Counter[str]:
        """How often its Ray has begun each task and actor, by its own logs."""
        said = "".join(
            file.read_text(encoding="utf-8", errors="replace")
            for file in self.ray.glob("session_2*/logs/worker-*.out")
        )
        return Counter(re.findall(r"^:(?:task|actor)_name:(.+)$", said, re.MULTILINE))

    def cpu_s(self, name: str = "") -> float:
        """Seconds of a core that its processes have used whose command line holds `name`."""
        ticks = 0
        for pid in self.processes():
            with suppress(OSError):  # ended meanwhile
                if name in command_line(pid):
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def sent_bytes(self) -> int:
        """Into the network so far."""
        lines = Path(f"/proc/{self.pid}/net/dev").read_text(encoding="ascii").splitlines()
        [counts] = [line.partition(":")[2] for line in lines if line.strip().startswith("eth0:")]
        return int(counts.split()[8])

    def signal(self, number: signal.Signals) -> None:
        """To all that run there, but for what holds it up."""
        for pid in self.processes():
            if pid == self.pid:
                continue
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Nodes(NamedTuple):
    """A cluster of Ray.

    Attributes:
        head: the machine of its head, on which jobs are given; it has no core for their work.
        workers: machines of one core each for Ray.
    """

    head: Machine
    workers: list[Machine]

    @property
    def machines(self) -> list[Machine]:
        return [self.head, *self.workers]

    def job(
        self, name: str, *arguments: str, timeout_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """`jobs/NAME.py` as a person gives it on the head, to its end."""
        return self.head.run(*job(name, *arguments), timeout_s=timeout_s)


def job(name: str, *arguments: str) -> list[str]:
    """The command of one of the project's jobs."""
    return [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments]


@cache
def lacking() -> str:
    """Why there cannot be machines here; empty if there can."""
    if not sys.platform.startswith("linux"):
        return "namespaces are Linux's"
    if missing := {tool: package for tool, package in TOOLS.items() if not shutil.which(tool)}:
        return f"{', '.join(missing)} not found: install {', '.join(sorted(set(missing.values())))}"
    Path("/tmp/ray").mkdir(parents=True, exist_ok=True)
    trial = "mount -t proc proc /proc && ip link add name left type veth peer name right"
    tried = ["unshare", *NAMESPACES, "--fork", "sh", "-c", trial]
    done = subprocess.run(tried, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
        return f"namespaces take the rights of root: {why}"
    return ""


@contextmanager
def ray_nodes(
    n_workers: int, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Nodes]:
    """Inside, a cluster of a head and `n_workers` nodes of one core; logs are in `folder`.

    Worker i is pinned to the i-th core of this process, over again if there are more workers.

    Args:
        n_workers: nodes beside the head.
        folder: for what they say; must not exist.
        environment: of all their processes, beside this one's.

    Raises:
        UserError: no such machines here, or Ray does not start on them.
    """
    own = {n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "DIMTS_"))}
    own |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_ADDRESS": f"{NETWORK}.1:{PORT}",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)]),
        **NO_DASHBOARD,
        **(environment or {}),
    }
    if why := lacking():
        raise UserError(f"several machines on this one: {why}")
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        head, *workers = (
            stack.enter_context(
                _machine(number, cores[(number - 1) % len(cores)] if number else None, folder, own)
            )
            for number in range(n_workers + 1)
        )
        _wire(head, workers)
        whole = ("--head", f"--port={PORT}", f"--node-ip-address={head.address}",
                 "--include-dashboard=false", "--disable-usage-stats")  # fmt: skip
        starting = [_start_ray(head, folder, "--num-cpus=0", *whole)]
        for worker in workers:
            address = f"--address={own['RAY_ADDRESS']}"
            starting.append(_start_ray(worker, folder, "--num-cpus=1", address))
        for process in starting:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
            if process.returncode != 0:
                raise UserError(f"Ray does not start on all machines; see {folder}")
        yield Nodes(head, workers)


@contextmanager
def _machine(
    number: int, core: int | None, folder: Path, environment: dict[str, str]
) -> Iterator[Machine]:
    """Inside, it is there; what Ray keeps in /tmp/ray is in `folder`."""
    name = f"node{number}" if number else "head"
    ray, hosts = folder / name / "ray", folder / name / "hosts"
    ray.mkdir(parents=True)
    # As Debian has it: a machine's own name is not its address in the network.
    hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n", encoding="utf-8")
    command = ["unshare", *NAMESPACES, "--fork", "sh", "-c", BOOT, "sh", name, str(ray), str(hosts)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        pid = holder.stdout.readline()
        try:
            if not pid:
                raise UserError(f"there is no machine {name}; it has said why")
            yield Machine(name, f"{NETWORK}.{number + 1}", core, int(pid), environment, ray)
        finally:
            holder.stdin.close()  # the end of all that runs there, which is waited for


def _wire(head: Machine, workers: Sequence[Machine]) -> None:
    """A switch in the head's namespace, and a cable from it to each of the others."""
    steps = [(head, f"link add name eth0 type bridge; addr add {head.address}/24 dev eth0; "
                    "link set eth0 up")]  # fmt: skip
    for worker in workers:
        port = f"to_{worker.name}"
        steps += [
            (head, f"link add name {port} type veth peer name eth0 netns {worker.pid}; "
                   f"link set {port} master eth0 up"),
            (worker, f"addr add {worker.address}/24 dev eth0; link set eth0 up"),
        ]  # fmt: skip
    for machine, commands in steps:
        for command in commands.split("; "):
            subprocess.run(
                ["nsenter", f"--target={machine.pid}", "--net", "ip", *command.split()], check=True
            )


def _start_ray(machine: Machine, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    with (folder / f"{machine.name}.txt").open("w") as said:
        return subprocess.Popen(
            machine.command(str(BIN / "ray"), "start", *options),
            env=machine.environment, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
