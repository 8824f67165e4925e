"""`ray_cluster.yaml` and its like: what Ray's own schema allows, and what ours must not forget."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "ray_cluster.yaml", ROOT / "docs" / "ray_cluster_gcp.yaml"]
COMMANDS = (
    "setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip


@pytest.fixture(params=FILES, ids=lambda file: file.name)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    values = yaml.safe_load(request.param.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def test_ray_takes_the_file(cluster: dict[str, Any]) -> None:
    """Its keys and types by the schema, its node types and their numbers by the autoscaler."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_a_key_that_ray_does_not_know_is_found(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(cluster | {"idle_timeout": 5})


def test_clouds_differ_in_their_machines_alone() -> None:
    aws, gcp = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in FILES)
    for part in (*COMMANDS, "file_mounts", "rsync_exclude", "idle_timeout_minutes"):
        private = str(gcp[part]).replace("10.0.0.0/8", "172.31.0.0/16")
        assert private == str(aws[part]), part
    assert aws["available_node_types"].keys() == gcp["available_node_types"].keys()


def test_commands_are_shell(cluster: dict[str, Any]) -> None:
    commands = [command for part in COMMANDS for command in cluster[part]]
    assert len(commands) > 8
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_head_trains_nothing_and_workers_end_when_they_idle(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    gpu = {name: t for name, t in types.items() if t["resources"].get("GPU")}
    assert {t["resources"]["GPU"] for t in gpu.values()} == {1}
    assert len(gpu) == 2, "spot, and on demand where there is none"
    spot, on_demand = sorted(gpu.values(), key=lambda t: -t["priority"])
    assert spot["node_config"] != on_demand["node_config"]
    assert not any(t.get("min_workers") for t in types.values())
    assert cluster["idle_timeout_minutes"] <= 15


@pytest.mark.parametrize("part", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_asks_for_the_token_and_knows_the_home(
    cluster: dict[str, Any], part: str
) -> None:
    start = " ".join(cluster[part])
    assert "RAY_AUTH_MODE=token" in start
    assert "DIMTS_HOME=/shared" in start
    assert "0.0.0.0" not in start
    assert "/home/ubuntu/.ray/auth_token" in cluster["file_mounts"]


def test_versions_are_the_pinned_ones(cluster: dict[str, Any]) -> None:
    install = next(command for command in cluster["setup_commands"] if "pip install" in command)
    assert "--constraint ~/dimts/constraints.txt" in install


def test_secrets_are_on_no_command_line(cluster: dict[str, Any]) -> None:
    for part in COMMANDS:
        for command in cluster[part]:
            assert "PASSWORD=$(" not in command, "everybody reads the list of processes"
