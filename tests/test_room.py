"""How much fits onto nodes, each process on one of them; which interface has an address."""

from __future__ import annotations

import socket

import pytest

from dimts.launch.ray_train import interface_of
from dimts.launch.resources import equal_share, places

SMALL, LARGE = {"CPU": 1.0}, {"CPU": 8.0, "GPU": 2.0}


def test_a_process_is_on_one_node() -> None:
    assert places([SMALL, SMALL], {"CPU": 1}) == 2
    assert places([SMALL, SMALL], {"CPU": 2}) == 0
    assert places([{}, SMALL, LARGE], {"CPU": 4, "GPU": 1}) == 2
    assert places([LARGE], {"CPU": 1, "GPU": 0}) == 8


def test_a_share_of_a_gpu_is_of_a_single_one() -> None:
    assert places([LARGE], {"CPU": 1, "GPU": 0.4}) == 4
    assert places([LARGE], {"CPU": 1, "GPU": 0.1}) == 8
    assert places([LARGE], {"CPU": 0.1}) == 80


@pytest.mark.parametrize(
    ("nodes", "workers", "gpu", "share"),
    [
        ([SMALL, SMALL], 1, False, 1),
        ([SMALL, SMALL], 2, False, 1),
        ([{"CPU": 4.0}], 2, False, 2),
        ([{"CPU": 4.0}, {"CPU": 2.0}], 2, False, 2),
        ([{"CPU": 4.0}, {"CPU": 2.0}], 3, False, 2),
        ([{"CPU": 16.0}, LARGE], 2, True, 4),
        ([SMALL], 3, False, 1),
    ],
)
def test_cores_are_shared_out_as_far_as_nodes_have_them(
    nodes: list[dict[str, float]], workers: int, gpu: bool, share: int
) -> None:
    assert equal_share(nodes, workers, gpu) == share


def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") in {name for _, name in socket.if_nameindex()}
    assert interface_of("192.0.2.255") is None
