"""`deploy/rayservice.yaml` and the images: what KubeRay, Ray Serve, Docker and pip take of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from kuberay_fixtures import ROOT, Manifest, manifests, only
from test_kuberay import check, check_ray, pinned

from dimts.core.config import build_config
from dimts.serving.config import ServingConfig
from dimts.serving.connections import proxy_environment

IMAGES = ("Dockerfile", "Dockerfile.serve")


@pytest.fixture(scope="module")
def service() -> Manifest:
    (found,) = (m for m in manifests("rayservice.yaml") if m["kind"] == "RayService")
    return found


@pytest.fixture(scope="module")
def serve_config(service: Manifest) -> Any:
    return yaml.safe_load(service["spec"]["serveConfigV2"])


def test_kuberay_and_kubernetes_take_it(service: Manifest) -> None:
    for manifest in manifests("rayservice.yaml"):
        check(manifest)
    check_ray(service["spec"]["rayClusterConfig"])


def test_ray_serve_takes_its_configuration(serve_config: Any) -> None:
    from ray.serve.schema import ServeDeploySchema

    import dimts.serving.ray_serve as module

    ServeDeploySchema.model_validate(serve_config)
    (app,) = serve_config["applications"]
    assert app["import_path"] == f"{module.__name__}:{module.build.__name__}"
    assert app["name"] == module.APP
    config = build_config(ServingConfig, app["args"])
    assert config.timeout_s == serve_config["http_options"]["request_timeout_s"]


def test_replicas_fit_into_the_machines(service: Manifest, serve_config: Any) -> None:
    spec = service["spec"]["rayClusterConfig"]
    (group,) = spec["workerGroupSpecs"]
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    args = serve_config["applications"][0]["args"]
    for_replicas = int(container["resources"]["limits"]["cpu"]) - 1
    assert args["replicas"] <= group["minReplicas"] * for_replicas
    assert args["max_replicas"] <= group["maxReplicas"] * for_replicas
    assert args["timeout_s"] < pod["terminationGracePeriodSeconds"]
    assert args["timeout_s"] < service["spec"]["rayClusterDeletionDelaySeconds"]
    assert spec["rayVersion"] == pinned("ray")


def test_the_service_keeps_the_rules_of_the_cluster(service: Manifest) -> None:
    spec = service["spec"]["rayClusterConfig"]
    assert spec["authOptions"] == {"mode": "token"}
    labels: dict[str, str] = {}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        labels = group["template"]["metadata"]["labels"]
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["serviceAccountName"] == only("ServiceAccount")["metadata"]["name"]
        (container,) = pod["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["image"] == f"REGISTRY/dimts-serve:ray{pinned('ray')}"
        secret = {e["name"] for e in container["env"] if "valueFrom" in e}
        assert "DIMTS_SERVE_TOKEN" in secret
    (policy,) = (m["spec"] for m in manifests("rayservice.yaml") if m["kind"] == "NetworkPolicy")
    assert policy["podSelector"] == only("NetworkPolicy")["spec"]["podSelector"]
    assert policy["ingress"][0]["from"] == [{"podSelector": {"matchLabels": labels}}]


def test_proxies_guard_connections_by_the_settings(service: Manifest, serve_config: Any) -> None:
    spec = service["spec"]["rayClusterConfig"]
    config = build_config(ServingConfig, serve_config["applications"][0]["args"])
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        given = {e["name"]: e.get("value") for e in container["env"]}
        assert proxy_environment(config).items() <= given.items()


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_pinned_and_not_of_root(name: str) -> None:
    lines = (ROOT / "deploy" / name).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    (base,) = (rest[0] for kind, *rest in words if kind == "FROM")
    assert re.fullmatch(r"[\w/]+:\d+\.\d+\.\d+[\w.-]*", base)
    assert [rest[0] for kind, *rest in words if kind == "USER"][-1] == "1000:100"
    (install,) = (line for line in lines if "pip install" in line)
    assert "--constraint constraints.txt" in install
    (extras,) = re.findall(r'"\.\[([a-z,]*)\]"', install)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not [extra for extra in extras.split(",") if f"\n{extra} = [" not in project]
    copied = {source for kind, *rest in words if kind == "COPY" for source in rest[:-1]}
    assert {"platform", "data_prep", "jobs", "search_spaces", "bases"} <= copied
    assert not [source for source in copied if not (ROOT / source).exists() and "=" not in source]
