"""`ray_cluster.yaml` and its like: what Ray's own schema allows, and what ours must not forget."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from dimts.commands.sweep_config import SweepVoice, load_sweep
from dimts.commands.ui import UiConfig
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config

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
        same = str(gcp[part]).replace("10.0.0.0/8", "172.31.0.0/16").replace("gs://", "s3://")
        assert same == str(aws[part]), part
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
    (extras,) = re.findall(r"dimts\[([a-z,]*)\]", install)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not [extra for extra in extras.split(",") if f"\n{extra} = [" not in project]


def words_after(command: str, program: str) -> list[str]:
    """The arguments of a program within a shell command, variables as they stand."""
    words = shlex.split(command)
    return words[words.index(program) + 1 :]


def test_ray_start_knows_its_options(cluster: dict[str, Any]) -> None:
    from ray.scripts.scripts import start

    head, worker = (
        next(c for c in cluster[part] if "ray start" in c)
        for part in ("head_start_ray_commands", "worker_start_ray_commands")
    )
    given = start.make_context("ray start", words_after(head, "~/venv/bin/ray")[1:]).params
    assert given["head"] and given["block"] and given["dashboard_host"] == "127.0.0.1"
    given = start.make_context("ray start", words_after(worker, "ray")[1:]).params
    assert given["address"] == f"$RAY_HEAD_IP:{given['port'] or 6379}"


def test_a_head_whose_ray_fails_starts_it_again(cluster: dict[str, Any]) -> None:
    """With ``--block`` a process that fails ends ``ray start``, which is what systemd sees."""
    stops, ends, *starts = cluster["head_start_ray_commands"]
    assert ends == "ray stop"
    for unit, restart in (("dimts-ray", "on-failure"), ("dimts-mlflow", "always")):
        (command,) = (c for c in starts if f"--unit={unit}" in c)
        assert f"--property=Restart={restart}" in command
        assert unit in stops, "`ray up` once more replaces what runs"
    assert "ray health-check" in starts[-1], "`ray up` ends when Ray answers, or tells that not"


def test_what_ray_says_of_the_head_reaches_it(cluster: dict[str, Any], tmp_path: Path) -> None:
    """It says so by variables of the command's shell, as `ray up` does it here."""
    from ray.autoscaler._private.command_runner import _with_environment_variables
    from ray.autoscaler._private.util import with_envs

    told = {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": "i-1"}
    (command,) = (c for c in cluster["head_start_ray_commands"] if "--unit=dimts-ray" in c)
    exported = "".join(with_envs([command], told))
    resources = cluster["available_node_types"]["head"]["resources"]
    whole = _with_environment_variables(exported, {"RAY_OVERRIDE_RESOURCES": resources})
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    sudo.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/home/ubuntu"}
    done = subprocess.run(
        ["bash", "-c", whole], env=environment, capture_output=True, text=True, check=True
    )
    words = [word for word in done.stdout.splitlines() if word.startswith("--setenv=")]
    passed = dict(word.removeprefix("--setenv=").split("=", 1) for word in words)
    assert json.loads(passed["RAY_OVERRIDE_RESOURCES"]) == {"CPU": 0}
    assert passed.items() >= told.items()
    assert "RAY_NODE_TYPE_NAME" not in passed, "what was not said is not set"


def test_nodes_get_the_whole_source_and_no_data(cluster: dict[str, Any]) -> None:
    """As rsync reads patterns: with a slash in front from the top, else any part of a path."""
    patterns = [pattern.removesuffix("/") for pattern in cluster["rsync_exclude"]]

    def excluded(path: str) -> bool:
        parts = path.split("/")
        return any(
            fnmatch(f"/{parts[0]}", pattern)
            if pattern.startswith("/")
            else any(fnmatch(part, pattern) for part in parts)
            for pattern in patterns
        )

    folders = ("platform", "data_prep", "jobs", "deploy", "bases", "search_spaces")
    files = [str(p.relative_to(ROOT)) for name in folders for p in (ROOT / name).rglob("*.*")]
    assert not [file for file in files if excluded(file) and "__pycache__" not in file]
    data = ("corpora/a/wavs/1.wav", "features/a/train-0.arrow", "runs/a/x", "mlflow.db-wal")
    assert not [file for file in (*data, ".git/config", ".venv/bin/ray") if not excluded(file)]


def test_mlflows_artifacts_are_on_object_storage(cluster: dict[str, Any]) -> None:
    (command,) = (c for c in cluster["head_start_ray_commands"] if "jobs/ui.py" in c)
    words = words_after(command, "~/dimts/jobs/ui.py")
    settings = [words[n + 1] for n, word in enumerate(words) if word == "--set"]
    scheme = {"aws": "s3", "gcp": "gs"}[cluster["provider"]["type"]]
    tracking = load_config(UiConfig, [], settings).tracking.absolute()
    assert tracking.artifacts == f"{scheme}://YOUR-BUCKET/mlflow"


def test_workers_may_use_the_bucket_and_start_no_machines(cluster: dict[str, Any]) -> None:
    key = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}[cluster["provider"]["type"]]
    types = cluster["available_node_types"]
    accounts = {name: str(t["node_config"].get(key)) for name, t in types.items()}
    head = accounts.pop(cluster["head_node_type"])
    (workers,) = set(accounts.values())
    assert "dimts-worker" in workers
    assert workers != head


class Cloud(BaseHTTPRequestHandler):
    """What a machine hears of its cloud: of AWS, or of Google, once it is to be taken away."""

    taken: dict[str, bool]
    asked: list[str]

    def do_PUT(self) -> None:
        aws = "aws" in self.taken and self.path == "/latest/api/token"
        self._answer(aws and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers, "secret")

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/latest/meta-data/spot/instance-action":
            knows = self.headers.get("X-aws-ec2-metadata-token") == "secret"
            self._answer(knows and self.taken.get("aws", False), '{"action": "terminate"}')
        elif self.path == "/computeMetadata/v1/instance/preempted":
            knows = "google" in self.taken and self.headers.get("Metadata-Flavor") == "Google"
            self._answer(knows, str(self.taken.get("google")).upper())
        else:
            self._answer(False, "")

    def _answer(self, found: bool, text: str) -> None:
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["aws", "google"])
def cloud(request: pytest.FixtureRequest) -> Iterator[tuple[type[Cloud], str]]:
    handler = type("Of", (Cloud,), {"taken": {request.param: False}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_spot_machine_that_is_taken_away_says_so_once(cloud: tuple[type[Cloud], str]) -> None:
    handler, url = cloud
    script = [str(ROOT / "deploy/spot_notice.sh"), "echo", "it goes"]
    environment = os.environ | {"METADATA_URL": url, "POLL_S": "0.05"}
    with subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout
        while len(handler.asked) < 6:
            assert watch.poll() is None, "it said so before"
        handler.taken = dict.fromkeys(handler.taken, True)
        assert watch.stdout.read() == "it goes\n"
    assert watch.returncode == 0


def test_the_notice_is_a_command_that_ray_has(cluster: dict[str, Any]) -> None:
    from ray.scripts.scripts import drain_node

    (command,) = (c for c in cluster["worker_start_ray_commands"] if "spot_notice.sh" in c)
    ray, name, *options = words_after(command, "~/dimts/deploy/spot_notice.sh")
    assert (ray, name) == ("ray", drain_node.name)
    drain_node.make_context("ray drain-node", options)
    assert os.access(ROOT / "deploy/spot_notice.sh", os.X_OK)


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting of a configuration, by its place."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind, f"{prefix}{name}.")


def test_the_page_names_jobs_and_settings_that_there_are() -> None:
    page = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    known = {*keys(VoiceConfig), *keys(SweepVoice)}
    named = re.findall(r"--set ([a-z_.]+)=", page)
    assert len(named) > 8
    assert not [key for key in named if key not in known]
    files = re.findall(r"(?:jobs|search_spaces|deploy|docs|tests|benchmarks)/[\w./]+\w", page)
    mine = "jobs/configs/mine.yaml"
    assert mine in files
    assert not [file for file in files if file != mine and not (ROOT / file).exists()]


def test_the_pages_own_voice_can_be_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^ +include: \[.+\n(?: +\w+: \{.+\n)+", page, re.MULTILINE)
    values = yaml.safe_load(block)
    values["include"] = [str(ROOT / "jobs/configs" / file) for file in values["include"]]
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(values), encoding="utf-8")
    (space,) = re.findall(r"--config (search_spaces/\S+)", page)
    voice = load_sweep([str(mine), str(ROOT / space)])
    assert voice.base, "of whose rows the space freezes a share"
    monkeypatch.chdir(ROOT)
    assert f"/shared/runs/{voice.plan().title}/" in page, "what is fetched before the end"


def test_scripts_are_shell() -> None:
    for script in sorted((ROOT / "deploy").glob("*.sh")):
        subprocess.run(["bash", "-n", script], check=True)


def test_secrets_are_on_no_command_line(cluster: dict[str, Any]) -> None:
    for part in COMMANDS:
        for command in cluster[part]:
            assert "PASSWORD=$(" not in command, "everybody reads the list of processes"
