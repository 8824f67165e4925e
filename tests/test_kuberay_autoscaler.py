"""`deploy/raycluster.yaml`, as the autoscaler of the installed Ray reads it and starts workers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from kuberay_fixtures import only


def read_by_ray() -> dict[str, Any]:
    """What Ray's own code, which runs in the head's pod, makes of the RayCluster."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    cluster = only("RayCluster")
    cluster["metadata"]["namespace"] = "default"
    config: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(cluster)
    return config


def started(bundle: dict[str, float], n: int, not_to_be_had: Iterable[str] = ()) -> dict[str, int]:
    """Groups and numbers of the workers that Ray starts for `n` times what is asked for."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = AutoscalingConfig(read_by_ray(), skip_content_hash=True)
    lost = dict.fromkeys(not_to_be_had, 0.0)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(bundle) for _ in range(n)]
        ),
        cloud_resource_availabilities=lost,
        recoverable_resource_availabilities=lost,
    )
    reply = ResourceDemandScheduler().schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def test_ray_reads_the_groups_that_are_meant() -> None:
    config = read_by_ray()
    groups = config["available_node_types"]
    assert config["idle_timeout_minutes"] == 10
    head = groups[config["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["max_workers"] == 0
    assert not any(group["min_workers"] for group in groups.values())
    resources = {
        name: (group["resources"]["CPU"], group["resources"].get("GPU"), group.get("priority"))
        for name, group in groups.items()
        if name != config["head_node_type"]
    }
    assert resources == {
        "gpu-spot": (7, 1, 2), "gpu-on-demand": (7, 1, 1), "cpu-spot": (15, None, 3),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bundle", "n", "not_to_be_had", "groups"),
    [
        ({"CPU": 4, "GPU": 1}, 4, (), {"gpu-spot": 4}),
        ({"CPU": 4, "GPU": 1}, 4, ("gpu-spot",), {"gpu-on-demand": 4}),
        ({"CPU": 4, "GPU": 1}, 12, (), {"gpu-spot": 8, "gpu-on-demand": 4}),
        ({"CPU": 1}, 30, (), {"cpu-spot": 2}),
    ],
    ids=["spot first", "on demand where there is no spot", "more than spot", "cores alone"],
)
def test_ray_starts_what_is_meant(
    bundle: dict[str, float], n: int, not_to_be_had: tuple[str, ...], groups: dict[str, int]
) -> None:
    assert started(bundle, n, not_to_be_had) == groups


def test_on_demand_is_another_machine_and_preparation_takes_no_gpus() -> None:
    spot, on_demand, cpu = (
        g["template"]["spec"] for g in only("RayCluster")["spec"]["workerGroupSpecs"]
    )
    assert spot["nodeSelector"] != on_demand["nodeSelector"]
    assert spot["containers"] == on_demand["containers"]
    assert spot["tolerations"] and not cpu["tolerations"]
    assert "nvidia.com/gpu" not in cpu["containers"][0]["resources"]["limits"]
