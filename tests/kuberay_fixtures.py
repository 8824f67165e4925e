"""The manifests of `deploy/`, read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FILES = ("raycluster.yaml", "mlflow.yaml", "rayjob.yaml")

Manifest = dict[str, Any]


def manifests(*files: str) -> list[Manifest]:
    return [
        manifest
        for file in files or FILES
        for manifest in yaml.safe_load_all((ROOT / "deploy" / file).read_text(encoding="utf-8"))
    ]


def only(kind: str) -> Manifest:
    (found,) = (m for m in manifests() if m["kind"] == kind)
    return found


def containers() -> Iterator[tuple[str, Manifest, Manifest]]:
    """Each container of ours with its pod and a name."""
    cluster = only("RayCluster")["spec"]
    pods = {"head": cluster["headGroupSpec"]["template"]["spec"]}
    pods |= {g["groupName"]: g["template"]["spec"] for g in cluster["workerGroupSpecs"]}
    pods["mlflow"] = only("Deployment")["spec"]["template"]["spec"]
    for name, pod in pods.items():
        for container in pod["containers"]:
            yield name, pod, container


CONTAINERS = list(containers())
