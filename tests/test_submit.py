"""Jobs on a cluster, by `ray job submit`: what they bring along, how they run and are stopped."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from faults.head import BIN, PATIENCE_S, RUNTIME_ENV, Head, head
from mlflow.tracking import MlflowClient
from tracking_fixtures import make_store
from tuning_fixtures import steps_of

from dimts.bundles.bundle import resolve_bundle
from dimts.training.checkpoint import LATEST

ROOT = Path(__file__).parents[1]
MAX_UPLOAD, MAX_FILE = 1_695_000, 100_000
"""Bytes, of source that is not packed, and of each of its files. More would be a corpus or a voice,
which are not to be uploaded with each job."""
SOURCE = {"data_prep", "jobs", "platform", "search_spaces"}
MODULE = re.compile(r"(?:dimts|data_prep)(?:\.\w+)+(?::\w+)?")


@pytest.fixture(scope="module")
def excludes() -> list[str]:
    patterns = yaml.safe_load((ROOT / RUNTIME_ENV).read_text(encoding="utf-8"))["excludes"]
    return [str(pattern) for pattern in patterns]


@pytest.fixture(scope="module")
def package(excludes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Ray uploads."""
    from ray._private.runtime_env.packaging import create_package

    file = tmp_path_factory.mktemp("upload") / "package.zip"
    create_package(str(ROOT), file, include_gitignore=True, excludes=excludes)
    return file


@pytest.fixture(scope="module")
def uploaded(package: Path) -> set[str]:
    with zipfile.ZipFile(package) as archive:
        return set(archive.namelist())


def test_what_is_uploaded_is_source_alone(package: Path, uploaded: set[str]) -> None:
    assert {name.split("/")[0] for name in uploaded} == SOURCE
    binary = (".pyc", ".arrow", ".wav", ".safetensors")
    assert not [name for name in uploaded if name.endswith(binary)]
    assert {"jobs/train.py", "platform/dimts/core/home.py", "search_spaces/quick.yaml"} <= uploaded
    assert package.stat().st_size <= MAX_UPLOAD
    with zipfile.ZipFile(package) as archive:
        assert max(file.file_size for file in archive.infolist()) <= MAX_FILE


def test_all_that_is_imported_is_uploaded(uploaded: set[str]) -> None:
    """Also inside functions, and by a name in a string."""
    missing = {
        f"{name} imports {needed}"
        for name in uploaded
        if name.endswith(".py")
        for needed in own_imports(ROOT / name)
        if needed not in uploaded
    }
    assert missing == set()
    jobs = {name for name in uploaded if name.startswith("jobs/") and name.endswith(".py")}
    assert {"jobs/train.py", "jobs/tune.py"} <= jobs
    assert {f"platform/dimts/commands/{Path(job).name}" for job in jobs} <= uploaded


def test_all_that_settings_include_is_uploaded(uploaded: set[str]) -> None:
    included = {
        os.path.normpath(Path(name).parent / file)
        for name in uploaded
        if name.startswith(("jobs/configs/", "search_spaces/"))
        for file in yaml.safe_load((ROOT / name).read_text(encoding="utf-8")).get("include", [])
    }
    assert included
    assert included <= uploaded


def test_what_is_not_uploaded_is_there(excludes: list[str]) -> None:
    """A file that was moved would be uploaded again."""
    left_out = [pattern for pattern in excludes[1:] if not pattern.startswith("!")]
    assert "/jobs/demo.py" in left_out
    assert [pattern for pattern in left_out if not (ROOT / pattern[1:]).is_file()] == []


def own_imports(file: Path) -> Iterator[str]:
    """Files of the project that one of them imports, wherever it does."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Constant) and MODULE.fullmatch(str(node.value)):
            modules = [str(node.value).partition(":")[0]]
        else:
            continue
        for module in modules:
            path = Path(*module.split("."))
            for top in (".", "platform"):
                for source in (path.with_suffix(".py"), path / "__init__.py"):
                    if (ROOT / top / source).is_file():
                        yield Path(top, source).as_posix()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Its user has no home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", "/dev/null")
        patch.delenv("NUMBA_CACHE_DIR", raising=False)
        with head(tmp_path_factory.mktemp("head")) as running:
            patch.undo()
            yield running


@pytest.fixture(scope="module")
def home(voice_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all nodes see, with a voice's settings, whose paths are relative to it."""
    folder = make_store(tmp_path_factory.mktemp("home"))
    settings = yaml.safe_load(voice_file.read_text(encoding="utf-8"))
    settings["prepare"] |= {"features": "features/tiny", "engine": "auto"}
    settings["run"]["storage"] = "runs"
    settings["tracking"] = {"registered_model": "tiny"}
    settings["ray"] = {"workers": 1}
    (folder / "voice.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def job(home: Path, name: str, *arguments: str) -> tuple[str, ...]:
    command = ("env", f"DIMTS_HOME={home}", "python", f"jobs/{name}.py", "--config", "voice.yaml")
    return (*command, *arguments)


@pytest.mark.integration
def test_job_runs_on_the_cluster_as_it_does_here(cluster: Head, home: Path) -> None:
    for name in ("prepare", "train"):
        done = cluster.submit(*job(home, name))
        assert done.returncode == 0, done.stdout + done.stderr
    assert "step     12" in done.stdout, "people follow it"
    assert (home / "runs" / "tiny" / LATEST).exists()
    assert not (ROOT / "runs" / "tiny").exists()
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    (model,) = client.search_registered_models()
    version = client.get_model_version_by_alias(model.name, "candidate")
    assert version.run_id is not None
    assert client.get_run(version.run_id).info.status == "FINISHED"


@pytest.mark.integration
def test_job_that_is_stopped_leaves_a_checkpoint(cluster: Head, home: Path) -> None:
    many = ("--set", "run.name=stopped", "--set", "training.max_steps=100000")
    options = ("--no-wait", "--submission-id", "stopped")
    done = cluster.submit(*job(home, "train", *many), options=options)
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir, until = home / "runs" / "stopped", time.monotonic() + PATIENCE_S
    while not steps_of(run_dir):
        assert time.monotonic() < until, cluster.ray("job", "logs", "stopped").stdout
        time.sleep(0.1)
    assert cluster.ray("job", "stop", "stopped").returncode == 0
    reached = max(steps_of(run_dir))
    assert resolve_bundle(run_dir / LATEST).name.endswith(f"_step{reached}")
    assert (
        "stopping after this step, with a checkpoint"
        in cluster.ray("job", "logs", "stopped").stdout
    )


@pytest.mark.integration
def test_job_without_a_home_says_so(cluster: Head, home: Path) -> None:
    """What it wrote would be removed with Ray's copy of the project."""
    done = cluster.submit("python", "jobs/train.py", "--config", str(home / "voice.yaml"))
    assert done.returncode == 1
    assert "set DIMTS_HOME to the folder of corpora, features and runs" in done.stdout
    assert "Traceback" not in done.stdout


CACHE_OF_A_WORKER = """
import logging, os
from dimts.core.ray_session import ray_session

with ray_session(logging.ERROR):
    import ray

    print(ray.get(ray.remote(lambda: os.environ.get("NUMBA_CACHE_DIR")).remote()))
"""


@pytest.mark.integration
def test_workers_of_a_node_without_a_home_have_caches(cluster: Head, tmp_path: Path) -> None:
    """Ray's daemon gives a worker its own environment, not that of the job."""
    script = tmp_path / "script.py"
    script.write_text(CACHE_OF_A_WORKER, encoding="utf-8")
    done = cluster.submit("python", str(script))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"dimts-cache-{os.getuid()}/numba" in done.stdout


@pytest.mark.integration
def test_nobody_submits_without_the_token(cluster: Head) -> None:
    done = cluster.ray("job", "list", RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode != 0
    assert "Authentication" in done.stdout + done.stderr


@pytest.mark.integration
def test_make_submit_reaches_this_machine_beside_a_proxy(cluster: Head) -> None:
    environment = {n: v for n, v in cluster.environment.items() if n.lower() != "no_proxy"}
    environment |= dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:9")
    venv = BIN.parent
    command = ["make", "-o", f"{venv}/installed", "submit", f"VENV={venv}"]
    command += ["JOB=evaluate", "ARGS=--help"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--model MODEL" in done.stdout


@pytest.mark.slow
def test_times_until_a_job_trains_are_a_table(
    voice_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.submit import main

    features = yaml.safe_load(voice_file.read_text(encoding="utf-8"))["prepare"]["features"]
    assert main(["--times", "1", "--features", features]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in table if line.startswith("| ")][2:] == [
        "without Ray", "on a Ray of its own", "submitted",
    ]  # fmt: skip
