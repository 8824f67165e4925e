"""How much of something fits onto a cluster's nodes: what is one process is on one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

ROUNDING = 1e-9


def places(nodes: Iterable[Mapping[str, float]], needs: Mapping[str, float]) -> int:
    """How many processes fit that each need so much.

    Args:
        nodes: what each node has, by Ray's names: ``CPU``, ``GPU``.
        needs: of one process, likewise; a share of a GPU is of a single one.
    """

    def times(there: float, need: float, whole: bool) -> int:
        if whole and need < 1:
            return int(there + ROUNDING) * int(1 / need + ROUNDING)
        return int(there / need + ROUNDING)

    return sum(
        min(times(node.get(name, 0), need, name == "GPU") for name, need in needs.items() if need)
        for node in nodes
    )


def equal_share(nodes: list[dict[str, float]], workers: int, gpu: bool) -> int:
    """The most cores that so many workers can have each, beside a GPU; 1 if there are too few."""
    cores = int(sum(node.get("CPU", 0) for node in nodes))
    for share in range(cores // max(1, workers), 1, -1):
        if places(nodes, {"CPU": share, "GPU": int(gpu)}) >= workers:
            return share
    return 1
