"""The service under load: closed and open loop, twice what it can bear, faults meanwhile.

    python benchmarks/serve.py --model runs/VOICE --text "..."

Starts ``dimts serve`` on a Ray of its own and asks for MP3 by HTTP. One client after the other asks
for one sentence, of which the first sound and the end are timed. In the closed loop as many
clients as given ask one after the other; in the open loop requests begin at a steady rate, whether
others are answered or not: at 0.5, 0.8 and 2 times the throughput of the closed loop. With
``--faults`` a voice is registered twice, and while the open loop runs at 0.5 the alias is moved
and a replica is killed. ``--minutes`` adds a load of ``--share`` and prints memory each minute.
``--connections`` opens so many connections that stop in the head or in the body of a request, and
asks beside them until the service has ended them all; `ulimit -Hn` has to allow for that.

A request without an answer, or with one that is neither 200 nor 429, is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from benchmarks.machine_facts import machine_facts
from benchmarks.process_tree import tree
from dimts.cli import run_job
from dimts.serving.audio import RATE
from dimts.text.pieces import SENTENCE_ENDS, pieces

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 150.0
SHARES = (0.5, 0.8, 2.0)
N_SENTENCES = 20
OPENED_AT_ONCE = 100
STALLED = (
    b"POST /v1/audio/speech HTTP/1.1\r\nHost: here\r\n",
    b"POST /v1/audio/speech HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n{",
)
STALLED_S = 60.0
"""After which a connection counts as one that was left open."""
REPLICA = "ServeReplica:dimts:voice"
START_S = 300.0
SERVE = ("ray::ServeReplica", "ray::ProxyActor", "ray::ServeController")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Answer(NamedTuple):
    """Status (0: none), seconds to the first and to the last byte, and bytes."""

    status: int
    first_s: float
    whole_s: float
    size: int
    version: str


class Service:
    """``dimts serve`` in a process of its own."""

    def __init__(self, model: str, settings: Sequence[str], folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        command = [sys.executable, str(ROOT / "jobs" / "serve.py"), "--model", model]
        command += ["--port", str(self.port), *(f"--set={setting}" for setting in settings)]
        paths = os.pathsep.join((str(ROOT / "platform"), str(ROOT)))
        environment = {**os.environ, "PYTHONPATH": paths, "DIMTS_CACHE": str(folder / "cache")}
        self.log = folder / "serve.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.url = f"http://127.0.0.1:{self.port}"
        end = time.monotonic() + START_S
        while b"speaks at" not in self.log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(self.log.read_text(encoding="utf-8"))
            time.sleep(0.2)

    def replicas(self) -> list[int]:
        """Process ids of what speaks."""
        return [pid for pid, name in self._named().items() if REPLICA in name]

    def memory_mb(self) -> dict[str, int]:
        """Resident memory of the processes of Ray Serve, by name."""
        sizes: Counter[str] = Counter()
        for pid, name in self._named().items():
            with suppress(OSError):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                sizes[name.removeprefix("ray::").partition(".")[0]] += pages * PAGE // 1_000_000
        return dict(sizes)

    def _named(self) -> dict[int, str]:
        """Process id -> name of Ray Serve's processes."""
        found = {}
        for pid in tree(self.process.pid, {}):
            with suppress(OSError):
                name = Path(f"/proc/{pid}/cmdline").read_text().strip("\0")
                if name.startswith(SERVE):
                    found[pid] = name
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextmanager
def running(model: str, settings: Sequence[str]) -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="dimts-serve-", ignore_cleanup_errors=True) as folder:
        service = Service(model, settings, Path(folder))
        try:
            yield service
        finally:
            service.stop()


async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Answer:
    begin = time.perf_counter()
    first, size = 0.0, 0
    try:
        async with session.post(f"{url}/v1/audio/speech", json=body) as answer:
            async for part in answer.content.iter_any():
                first = first or time.perf_counter() - begin
                size += len(part)
            version = answer.headers.get("X-Voice-Version", "")
            return Answer(answer.status, first, time.perf_counter() - begin, size, version)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Answer(0, 0.0, time.perf_counter() - begin, size, repr(error))


async def closed_loop(service: Service, body: dict[str, Any], n: int, s: float) -> list[Answer]:
    """`n` clients that ask one after the other, for `s` seconds."""
    end = time.monotonic() + s
    answers: list[Answer] = []

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            answers.append(await ask(session, service.url, body))

    async with connected() as session:
        await asyncio.gather(*(client(session) for _ in range(n)))
    return answers


async def open_loop(service: Service, body: dict[str, Any], rate: float, s: float) -> list[Answer]:
    """`rate` requests a second, for `s` seconds."""
    begin = time.monotonic()
    async with connected() as session, asyncio.TaskGroup() as group:
        tasks = []
        for n in range(round(rate * s)):
            await asyncio.sleep(max(0.0, begin + n / rate - time.monotonic()))
            tasks.append(group.create_task(ask(session, service.url, body)))
    return [task.result() for task in tasks]


def connected() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(TIMEOUT_S)
    )


def row(name: str, answers: Sequence[Answer], s: float) -> str:
    """A row of the table."""
    good = [a for a in answers if a.status == 200]
    refused = sum(a.status == 429 for a in answers)
    lost = [a for a in answers if a.status not in (200, 429)]
    for answer in lost[:3]:
        print(f"lost: {answer}", file=sys.stderr)
    cells: list[str] = []
    for values in ([a.first_s for a in good], [a.whole_s for a in good]):
        cuts = statistics.quantiles(values, n=100) if len(values) > 1 else [0.0] * 99
        cells.append(" / ".join(f"{cuts[p - 1]:.2f}" for p in (50, 95, 99)))
    return (
        f"| {name} | {len(good) / s:.2f} | {len(good)} | {refused} | {len(lost)} | "
        + " | ".join(cells) + " |"
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="bundle or run folder")
    parser.add_argument("--text", default="ሰላም ለዓለም። ቡና ጠጣ? ደህና ነው።", help="of each request")
    parser.add_argument("--sentence", help="of the first sound (the first one of the text)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load (20)")
    parser.add_argument("--clients", type=int, default=8, help="of the closed loop (8)")
    parser.add_argument("--minutes", type=int, default=0, help="in which memory is shown (0)")
    parser.add_argument("--share", type=float, default=2.0, help="of what it bears, meanwhile (2)")
    parser.add_argument("--faults", action="store_true", help="replica killed, alias moved")
    parser.add_argument("--connections", type=int, default=0, help="that stop in a request (0)")
    parser.add_argument("--set", action="append", default=[], help="setting of the service")
    options = parser.parse_args(arguments)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="dimts-registry-") as folder:
        model, settings = options.model, list(options.set)
        if options.faults:
            registry = Registered(Path(folder), options.model)
            model, settings = "models:/voice@champion", [*settings, *registry.settings]
        with running(model, settings) as service:
            measure(service, options, registry if options.faults else None)
    print("\n".join(f"{name}: {value}" for name, value in machine_facts(("ray",)).items()))
    return 0


class Registered:
    """A voice that is registered twice in a database of its own."""

    def __init__(self, folder: Path, bundle: str) -> None:
        from mlflow.tracking import MlflowClient

        from dimts.tracking.mlflow_model import resolve_model

        uri = f"sqlite:///{folder}/mlflow.db"
        self.settings = (f"tracking.uri={uri}", "follow_every_s=1")
        self._client = MlflowClient(uri, registry_uri=uri)
        self._client.create_registered_model("voice")
        for _ in range(2):
            self._client.create_model_version("voice", str(resolve_model(bundle).absolute()))
        self.point(1)

    def point(self, version: int) -> None:
        """Move the alias."""
        self._client.set_registered_model_alias("voice", "champion", str(version))


def measure(service: Service, options: argparse.Namespace, registry: Registered | None) -> None:
    body = {"input": options.text, "response_format": "mp3"}
    seconds = options.seconds
    marks = "".join(SENTENCE_ENDS)
    sentence = options.sentence or next(pieces(options.text, marks, each_sentence=True)).text
    print(asyncio.run(first_sound(service, sentence)), flush=True)
    print("| load | answers a second | 200 | 429 | lost | first byte, s: p50 / p95 / p99 | whole |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    asyncio.run(closed_loop(service, body, 2, min(5.0, seconds)))  # caches are filled
    answers = asyncio.run(closed_loop(service, body, options.clients, seconds))
    bearable = sum(a.status == 200 for a in answers) / seconds
    print(row(f"closed, {options.clients} clients", answers, seconds), flush=True)
    for share in SHARES:
        answers = asyncio.run(open_loop(service, body, share * bearable, seconds))
        print(row(f"open, {share:g} x", answers, seconds), flush=True)
    if registry:
        answers = asyncio.run(with_faults(service, body, bearable / 2, seconds, registry))
        print(row("open, 0.5 x, alias moved, replica killed", answers, seconds), flush=True)
        print(f"versions: {Counter(a.version for a in answers)}")
    if options.connections:
        print(asyncio.run(beside_stalled(service, body, options.connections)), flush=True)
    print(f"memory, MB: {service.memory_mb()}", flush=True)
    for minute in range(options.minutes):
        answers = asyncio.run(open_loop(service, body, options.share * bearable, 60))
        print(row(f"minute {minute + 1}, {options.share:g} x", answers, 60))
        print(f"memory, MB: {service.memory_mb()}", flush=True)


async def first_sound(service: Service, sentence: str) -> str:
    """How soon one sentence begins, and how soon it ends, where nobody else asks."""
    body = {"input": sentence, "response_format": "pcm"}
    async with connected() as session:
        await ask(session, service.url, body)
        answers = [await ask(session, service.url, body) for _ in range(N_SENTENCES)]
    first, whole = (
        statistics.median(times)
        for times in ([a.first_s for a in answers], [a.whole_s for a in answers])
    )
    spoken_s = answers[0].size / 2 / RATE
    return (
        f"a sentence of {spoken_s:.1f} s: first byte after {1000 * first:.0f} ms, last one after "
        f"{1000 * whole:.0f} ms (medians of {N_SENTENCES})"
    )


async def beside_stalled(service: Service, body: dict[str, Any], n: int) -> str:
    """How connections end that stop in the head or the body of a request, and requests beside."""
    gate = asyncio.Semaphore(OPENED_AT_ONCE)

    async def stall(number: int) -> str:
        try:
            async with gate:
                reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
                writer.write(STALLED[number % len(STALLED)])
            async with asyncio.timeout(STALLED_S):
                words = (await reader.read()).split(maxsplit=2)
            writer.close()
            return words[1].decode() if len(words) > 1 else "closed"
        except TimeoutError:
            return "left open"
        except OSError as error:
            return type(error).__name__

    begin = time.perf_counter()
    stalled = asyncio.gather(*(stall(number) for number in range(n)))
    beside: list[Answer] = []
    async with connected() as session:
        while not stalled.done():
            beside.append(await ask(session, service.url, body))
        after = await ask(session, service.url, body)
    times = sorted(answer.whole_s for answer in beside)
    found = dict(Counter(answer.status for answer in beside))
    return (
        f"{n} stalled connections: {dict(Counter(await stalled))} within "
        f"{time.perf_counter() - begin:.0f} s; beside them {found}, "
        f"median {statistics.median(times):.2f} s, slowest {times[-1]:.2f} s; after them "
        f"{after.status} in {after.whole_s:.2f} s"
    )


async def with_faults(
    service: Service, body: dict[str, Any], rate: float, s: float, registry: Registered
) -> list[Answer]:
    async def faults() -> None:
        await asyncio.sleep(s / 4)
        await asyncio.to_thread(registry.point, 2)
        await asyncio.sleep(s / 4)
        os.kill(service.replicas()[0], signal.SIGKILL)

    answers, _ = await asyncio.gather(open_loop(service, body, rate, s), faults())
    return answers


if __name__ == "__main__":
    run_job(main)
