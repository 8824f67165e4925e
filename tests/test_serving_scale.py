"""Replicas that come and go with the load, and one that dies while both speak, on a real Ray."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.serve import Answer, Service, ask, closed_loop, connected

pytestmark = pytest.mark.slow

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).resolve().parents[1]
TEXT = "Un saludo a todo el mundo, y que tengan un buen día. Adiós."
BODY = {"input": TEXT, "language": "es", "response_format": "wav"}


async def asked_until(service: Service, n_clients: int, met: Callable[[int], bool]) -> list[Answer]:
    """What clients are answered that ask on until the number of replicas is as it must be."""
    answers: list[Answer] = []
    done = asyncio.Event()
    async with connected() as session:

        async def client() -> None:
            while not done.is_set():
                answers.append(await ask(session, service.url, BODY))

        clients = [asyncio.create_task(client()) for _ in range(n_clients)]
        while True:
            async with session.get(f"{service.url}/health") as health:
                if met((await health.json())["replicas"]):
                    break
            answers.append(await ask(session, service.url, BODY))
        done.set()
        await asyncio.gather(*clients)
    return answers


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def test_replicas_come_with_the_load_share_it_and_go(tmp_path: Path) -> None:
    settings = ["replica_cpus=0.5", "max_replicas=2", "grow_after_s=0", "shrink_after_s=1"]
    service = Service(str(ROOT / "bases" / "natural"), settings, tmp_path)
    try:
        (first,) = service.replicas()
        (alone,) = asyncio.run(closed_loop(service, BODY, 1, 0.01))
        answers = asyncio.run(asked_until(service, 7, lambda n: n == 2))
        both = service.replicas()
        assert first in both
        before = {pid: cpu_s(pid) for pid in both}
        answers += asyncio.run(closed_loop(service, BODY, 8, 5))
        worked = [cpu_s(pid) - before[pid] for pid in both]
        assert min(worked) > sum(worked) / 5

        async def one_dies() -> list[Answer]:
            speaking = asyncio.create_task(closed_loop(service, BODY, 8, 5))
            async with connected() as session:
                answers.append(await ask(session, service.url, BODY))
            os.kill(first, signal.SIGKILL)
            return await speaking

        answers += asyncio.run(one_dies())
        answers += asyncio.run(asked_until(service, 7, lambda n: n == 2))
        answers += asyncio.run(asked_until(service, 0, lambda n: n == 1))
    finally:
        service.stop()
    assert service.process.returncode == 0, service.log.read_text(encoding="utf-8")
    assert alone.status == 200
    # What a replica said before it died is not said again, nor is anything left out.
    assert {(answer.status, answer.size) for answer in answers} == {(200, alone.size)}
