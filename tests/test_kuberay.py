"""`deploy/`: what KubeRay, Kubernetes and Ray take of it, and what ours must not forget.

No cluster is asked. The fields of RayCluster and RayJob are held to `kuberay_fields.yaml`, what is
Kubernetes' own to its schema (`kubernetes-validate`, strict), the options of ``ray start`` to the
installed command. What Ray's autoscaler makes of it: test_kuberay_autoscaler.py.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kuberay_fixtures import CONTAINERS, FILES, ROOT, Manifest, manifests, only

from dimts.commands.ui import UiConfig
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config

FIELDS = Path(__file__).with_name("kuberay_fields.yaml")
KUBERNETES = "1.30"
"""The oldest Kubernetes that is promised; what is new in later ones is refused."""


def check(manifest: Manifest) -> None:
    """Refuse what one of the three would not take, with the name of the field in the message."""
    if manifest["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    fields = yaml.safe_load(FIELDS.read_text(encoding="utf-8"))
    schema = {"$ref": f"#/$defs/{manifest['kind']}", "$defs": fields["$defs"]}
    jsonschema.Draft202012Validator(schema).validate(manifest)
    if manifest["kind"] == "RayCluster":
        check_ray(manifest["spec"])


def check_ray(spec: Manifest) -> None:
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        check_start_options(group["rayStartParams"])
    own = {"idleTimeoutSeconds", "upscalingMode", "version"}
    sidecar = {k: v for k, v in spec["autoscalerOptions"].items() if k not in own}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod"},
        "spec": {"containers": [{"name": "autoscaler", "image": "image", **sidecar}]},
    }
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def check_start_options(options: dict[str, str]) -> None:
    """`ray start` itself reads them, and does not start."""
    from ray.scripts.scripts import start

    start.make_context("ray start", [f"--{name}={value}" for name, value in options.items()])


@pytest.mark.parametrize(
    "manifest", manifests(), ids=lambda m: f"{m['kind']} {m['metadata']['name']}"
)
def test_each_is_taken(manifest: Manifest) -> None:
    check(manifest)


def worker(manifest: Manifest) -> Manifest:
    spec: Manifest = manifest["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    return spec


WRONG: dict[str, tuple[str, Callable[[Manifest], object], str]] = {
    "a misspelled field of KubeRay": (
        "RayCluster", lambda m: m["spec"].update(enableInTreeAutoscaler=True), "enableInTreeAutosc",
    ),
    "a wrong type": (
        "RayCluster", lambda m: m["spec"]["workerGroupSpecs"][0].update(maxReplicas="8"), "'8'",
    ),
    "a number where ray start takes text": (
        "RayCluster",
        lambda m: m["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        "is not of type 'string'",
    ),
    "an option that ray start has not": (
        "RayCluster",
        lambda m: m["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpu": "0"}),
        "--num-cpu",
    ),
    "a misspelled field of a pod": (
        "RayCluster", lambda m: worker(m).update(nodeSelectors={}), "nodeSelectors",
    ),
    "a misspelled field of a container": (
        "RayCluster", lambda m: worker(m)["containers"][0].update(volumeMount=[]), "volumeMount",
    ),
    "a misspelled field of the autoscaler's container": (
        "RayCluster",
        lambda m: m["spec"]["autoscalerOptions"]["securityContext"].update(readOnly=True),
        "readOnly",
    ),
    "no such way to submit": (
        "RayJob", lambda m: m["spec"].update(submissionMode="Kubernetes"), "Kubernetes",
    ),
    "a job without a cluster": (
        "RayJob", lambda m: m["spec"].pop("clusterSelector"), "not valid under any",
    ),
    "a misspelled field of a deployment": (
        "Deployment", lambda m: m["spec"].update(replica=2), "replica",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused(case: str) -> None:
    kind, spoil, named = WRONG[case]
    manifest = copy.deepcopy(only(kind))
    check(manifest)
    spoil(manifest)
    with pytest.raises(Exception, match=named):
        check(manifest)


@pytest.mark.parametrize(("name", "pod", "container"), CONTAINERS, ids=[c[0] for c in CONTAINERS])
def test_nothing_runs_as_root_or_without_bounds(
    name: str, pod: Manifest, container: Manifest
) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys()
    may_ask_kubernetes = pod.get("automountServiceAccountToken", True)
    assert may_ask_kubernetes == (name == "head"), "Ray's autoscaler alone has business there"


def test_secrets_are_referred_to_and_never_written() -> None:
    text = "".join((ROOT / "deploy" / file).read_text(encoding="utf-8") for file in FILES)
    assert not [m for m in manifests() if m["kind"] == "Secret"]
    for _, _, container in CONTAINERS:
        for variable in container["env"]:
            if re.search("PASSWORD|TOKEN|KEY", variable["name"]):
                assert "value" not in variable
    assert "--set=tracking.uri=sqlite:///" in text, "no address with a password in it"
    assert only("RayCluster")["spec"]["authOptions"] == {"mode": "token"}


def pinned(package: str) -> str:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = (line.split("==")[1] for line in lines if line.startswith(f"{package}=="))
    return version


def test_versions_are_the_pinned_ones() -> None:
    ray = pinned("ray")
    dockerfile = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    assert re.search(rf"^FROM rayproject/ray:{re.escape(ray)}-py311$", dockerfile, re.M)
    assert "--constraint constraints.txt" in dockerfile
    assert only("RayCluster")["spec"]["rayVersion"] == ray
    assert {container["image"] for _, _, container in CONTAINERS} == {f"REGISTRY/dimts:ray{ray}"}
    assert f"--tag REGISTRY/dimts:ray{ray}" in dockerfile


def test_the_image_has_what_is_there() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    copied = [line.split()[2:-1] for line in dockerfile.splitlines() if line.startswith("COPY")]
    names = {name for line in copied for name in line}
    assert {"platform", "data_prep", "jobs", "search_spaces", "bases"} <= names
    assert not [name for name in names if not (ROOT / name).exists()]
    extras = yaml.safe_load(re.search(r'"\.(\[.*\])"', dockerfile)[1])  # type: ignore[index]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not [extra for extra in extras if f"\n{extra} = [" not in project]


def test_the_job_is_one_that_there_is_and_its_settings_are_valid() -> None:
    job = only("RayJob")["spec"]
    assert job["clusterSelector"] == {"ray.io/cluster": only("RayCluster")["metadata"]["name"]}
    env, folder, python, script, *words = shlex.split(job["entrypoint"])
    assert (env, folder, python) == ("env", "--chdir=/home/ray/dimts", "python")
    assert (ROOT / script).is_file()
    pairs = list(zip(words[::2], words[1::2], strict=True))
    files = [ROOT / value for option, value in pairs if option == "--config"]
    settings = [value for option, value in pairs if option == "--set"]
    assert len(files) + len(settings) == len(pairs)
    config = load_config(VoiceConfig, files, settings)
    assert config.ray.gpu and config.ray.autoscaled
    service = only("Service")
    port = service["spec"]["ports"][0]["port"]
    assert config.tracking.uri == f"http://{service['metadata']['name']}:{port}"
    workers = only("RayCluster")["spec"]["workerGroupSpecs"][0]
    cores = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert config.ray.cpus_per_worker <= cores
    assert config.ray.workers <= workers["maxReplicas"]


def test_mlflow_is_asked_by_names_that_it_answers_to() -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    server = only("Deployment")["spec"]["template"]["spec"]["containers"][0]
    python, script, *words = server["command"]
    assert python == "python"
    assert (ROOT / Path(script).relative_to("/home/ray/dimts")).is_file()
    settings = [w.removeprefix("--set=") for w in words if w.startswith("--set=")]
    tracking = load_config(UiConfig, [], settings).tracking
    assert str(tracking.artifacts).startswith("s3://")
    assert {"--new", "--auth"} <= set(words)
    (hosts,) = (e["value"] for e in server["env"] if e["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS")
    allowed = [host.strip() for host in hosts.split(",")]
    for asked in ("dimts-mlflow:5000", "localhost:5001", "127.0.0.1:5000"):
        assert is_allowed_host_header(allowed, asked), asked
    assert not is_allowed_host_header(allowed, "example.org")


def test_mlflow_is_reached_from_the_cluster_alone() -> None:
    labels = only("Deployment")["spec"]["template"]["metadata"]["labels"]
    policy, service = only("NetworkPolicy")["spec"], only("Service")["spec"]
    assert policy["podSelector"]["matchLabels"] == service["selector"] == labels
    assert service["type"] == "ClusterIP"
    (rule,) = policy["ingress"]
    cluster = only("RayCluster")["metadata"]["name"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"ray.io/cluster": cluster}}}]


@pytest.mark.parametrize(("name", "pod", "container"), CONTAINERS, ids=[c[0] for c in CONTAINERS])
def test_volumes_and_accounts_that_are_named_are_there(
    name: str, pod: Manifest, container: Manifest
) -> None:
    volumes = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]}
    claims = {m["metadata"]["name"] for m in manifests() if m["kind"] == "PersistentVolumeClaim"}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    assert set(volumes.values()) <= claims
    assert pod["serviceAccountName"] == only("ServiceAccount")["metadata"]["name"]
    homes = [e["value"] for e in container["env"] if e["name"] == "DIMTS_HOME"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert homes == ([] if name == "mlflow" else mounts)


def test_the_notice_of_a_worker_is_a_command_that_ray_has() -> None:
    from ray.scripts.scripts import drain_node

    for group in only("RayCluster")["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        bash, c, line = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert (bash, c) == ("bash", "-c")
        command, rest = line.split(" && ")
        ray, name, *options = shlex.split(command)
        assert (ray, name) == ("ray", drain_node.name)
        given = drain_node.make_context("ray drain-node", options).params
        assert rest == f"sleep {given['deadline_remaining_seconds']}; ray stop"
        assert given["deadline_remaining_seconds"] < pod["terminationGracePeriodSeconds"]
