"""Surroundings in which Ray hangs or ends by itself: work done all the same, or one line."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from mlflow.tracking import MlflowClient
from tracking_fixtures import make_store
from tuning_fixtures import TuneJob, descendants, steps_of, study_of, wait_until, write_space

from benchmarks.head import free_port
from dimts import ray_session as session
from dimts.errors import UserError
from dimts.proxies import EXCEPTIONS, PROXIES, bypass_proxies
from dimts.ray_session import check_cluster
from dimts.training.checkpoint import LATEST
from dimts.tuning.outcomes import outcome

ROOT = Path(__file__).parents[1]
HANGS_S = 240
"""Longer than anything here takes on a busy machine."""
RAYS_PATIENCE_S = 100
"""Shorter than Ray looks for a cluster that is gone."""
ON_RAY = ("--set", "ray.workers=1", "--set", "ray.cpus_per_worker=1")


def run(command: list[str], folder: Path, limit: float = HANGS_S, **changes: str) -> list[str]:
    """What a command says on standard error; its exit status comes first."""
    own = {n: v for n, v in os.environ.items() if n not in ("RAY_ADDRESS", "RAY_TMPDIR")}
    done = subprocess.run(
        command, cwd=folder, env={**own, **changes}, capture_output=True, text=True, timeout=limit
    )
    return [str(done.returncode), *done.stderr.splitlines()]


def job(name: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *map(str, arguments)]


@pytest.fixture
def jobs(voice_file: Path, tmp_path: Path) -> dict[str, list[str]]:
    """A command of each job that uses Ray; they write to the test's folder."""
    voice = ("--config", voice_file, "--set", f"run.storage={tmp_path}")
    features = ("--set", f"prepare.features={tmp_path / 'features'}")
    return {
        "prepare": job("prepare", *voice[:2], *features, "--set", "prepare.engine=ray"),
        "train": job("train", *voice, *ON_RAY),
        "tune": job("tune", *voice, "--config", write_space(tmp_path)),
        "demo": job("demo"),
        "pretrain": job("pretrain", "--config", ROOT / "jobs/configs/mix/latin.yaml"),
    }


# A cluster that is gone


@pytest.mark.parametrize("name", ["prepare", "train", "tune", "demo", "pretrain"])
def test_ray_address_of_a_cluster_that_is_gone_is_one_line(
    name: str, jobs: dict[str, list[str]], tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    code, line = run(jobs[name], tmp_path, RAYS_PATIENCE_S, RAY_ADDRESS=address)
    assert code == "2"
    assert line == (
        f"error: RAY_ADDRESS={address}: no Ray cluster answers at {address} (Connection refused); "
        "start the cluster, or unset RAY_ADDRESS to use this machine alone"
    )


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://127.0.0.1:{port}", "no Ray cluster answers at 127.0.0.1:{port} .*refused"),
        ("ray://127.0.0.1:{port}/?x=1", "no Ray cluster answers at 127.0.0.1:{port} .*refused"),
        ("http://127.0.0.1:8265", "must be HOST:PORT of a cluster"),
        ("127.0.0.1", "must be HOST:PORT of a cluster"),
        ("127.0.0.1:port", "must be HOST:PORT of a cluster"),
    ],
)
def test_ray_address_that_names_no_cluster_is_one_line(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("RAY_ADDRESS", address.format(port=port))
    with pytest.raises(UserError, match=f"^RAY_ADDRESS=.*: {said.format(port=port)}.*unset RAY_"):
        check_cluster()


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[int]:
    """The port of an HTTP server that is no Ray."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.server_address[1]
        listening.shutdown()


def test_ray_address_of_another_server_is_one_line(
    server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the dashboard's, where jobs are submitted."""
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server}")
    with pytest.raises(UserError, match=r"\(what listens there is not Ray\)"):
        check_cluster()


def test_ray_address_of_a_server_that_says_nothing_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that was stopped, or behind a firewall that drops what it gets."""
    monkeypatch.setattr(session, "ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match=r"no Ray cluster answers .*\(timed out\)"):
            check_cluster()


def test_ray_address_of_a_cluster_that_is_there_is_taken(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    check_cluster()


# Folders


CONNECTED = """
import signal, sys
from dimts.launch.ray_train import connected
from dimts.launch.settings import RayConfig

signals = []
with connected(RayConfig(workers=1)):
    import ray

    signal.signal(signal.SIGTERM, lambda *_: signals.append("SIGTERM"))
    print(ray._private.worker._global_node.get_session_dir_path(), flush=True)
    sys.stdin.readline()
    print(signals, ray.get(ray.remote(lambda: "Ray works").remote()), flush=True)
"""


@contextmanager
def connected(folder: Path, **changes: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has started Ray as jobs do, and a group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", CONNECTED], cwd=folder, env={**os.environ, **changes}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def long_folder(tmp_path: Path) -> Path:
    folder = tmp_path / ("x" * 60) / ("y" * 60)
    folder.mkdir(parents=True)
    return folder


def test_ray_with_a_long_tmpdir_takes_a_short_folder_and_removes_it(
    long_folder: Path, tmp_path: Path
) -> None:
    with connected(tmp_path, TMPDIR=str(long_folder)) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip()).parents[1]
        assert folder.parent == Path("/tmp")
        assert folder.stat().st_mode & 0o077 == 0
        out, _ = process.communicate("\n")
        assert out == "[] Ray works\n"
        assert process.returncode == 0
    assert not folder.exists()


def test_pool_with_a_long_tmpdir_extracts(
    voice_file: Path, long_folder: Path, tmp_path: Path
) -> None:
    features = tmp_path / "features"
    engine = ("prepare.engine=pool", "prepare.workers=2", f"prepare.features={features}")
    chosen = [part for setting in engine for part in ("--set", setting)]
    command = job("prepare", "--config", voice_file, *chosen)
    assert run(command, tmp_path, TMPDIR=str(long_folder))[0] == "0"
    assert (features / "manifest.json").exists()


IN_A_CONTAINER = """
set -e
mount -t tmpfs -o size=64m tmpfs /dev/shm
mount -t tmpfs -o size=400m tmpfs "$TMPDIR"
head -c "$FILLED" /dev/zero > "$TMPDIR/filled"
exec "$@"
"""
"""Mounts that this process and its children alone see."""


def mounted(command: list[str], folder: Path, filled_mb: int) -> list[str]:
    """Run a command where `TMPDIR` has 400 MB, of which so many are taken, and shared memory 64."""
    if (
        not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /dev/shm"], capture_output=True
        ).returncode
    ):
        pytest.skip("needs leave to mount file systems for one process (unshare --mount)")
    small = folder / "t"
    small.mkdir(exist_ok=True)
    inside = ["unshare", "--mount", "sh", "-c", IN_A_CONTAINER, "sh", *command]
    # By a short name; with the test's own, Ray would be given another folder.
    short = Path(f"/tmp/dimts-test-{os.getpid()}")
    short.symlink_to(small)
    try:
        return run(inside, folder, TMPDIR=str(short), FILLED=f"{filled_mb * 2**20}")
    finally:
        short.unlink()


@pytest.mark.parametrize("name", ["prepare", "train"])
def test_full_disk_under_rays_folder_is_one_line(
    name: str, jobs: dict[str, list[str]], tmp_path: Path
) -> None:
    code, line = mounted(jobs[name], tmp_path, 399)
    assert code == "2"
    assert line.startswith("error: /tmp/dimts-test-")
    assert line.endswith(
        ": has 1 MB free, and Ray needs 16 MB for its sockets and logs; make room, or set TMPDIR "
        "to another folder"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prepare", "train"])
def test_disk_over_95_percent_and_little_shared_memory_do_no_harm(
    name: str, jobs: dict[str, list[str]], tmp_path: Path
) -> None:
    """Ray says that it would spill no objects, and that its store is not in shared memory."""
    assert mounted(jobs[name], tmp_path, 382) == ["0"]
    assert (tmp_path / {"prepare": "features", "train": "tiny/checkpoint_best"}[name]).exists()


# Signals


@pytest.mark.skipif(sys.platform != "linux", reason="Ray ends its daemons by their group there")
def test_signal_to_the_group_of_a_job_leaves_its_ray_alone(tmp_path: Path) -> None:
    with connected(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        os.killpg(process.pid, signal.SIGTERM)
        out, _ = process.communicate("\n", timeout=HANGS_S)
        assert out == "['SIGTERM'] Ray works\n"


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["process", "group"])
def test_sweep_that_gets_sigterm_ends_with_a_checkpoint_and_goes_on(
    whom: str, voice_file: Path, tmp_path: Path
) -> None:
    configs = (voice_file, write_space(tmp_path, trials=2))
    how = [f"run.storage={tmp_path}", "training.max_steps=400", "training.log_every=1"]
    how += ["training.validate_every=100"]
    trial = tmp_path / "tiny-small" / "trials" / "000"
    sweep = TuneJob(configs, *how)
    wait_until(lambda: max(steps_of(trial), default=0) >= 5, sweep)
    {"process": os.kill, "group": os.killpg}[whom](sweep.process.pid, signal.SIGTERM)
    code, out, err = sweep.result()
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "stopped; give the same command again to go on"
    assert (trial / LATEST).resolve().name.endswith(f"_step{max(steps_of(trial))}")
    assert descendants(sweep.process.pid) == []
    code, _, err = TuneJob(configs, *how).result()
    assert code == 0, err
    assert {outcome(one) for one in study_of(configs, how).trials} == {"finished"}
    steps = steps_of(trial)
    assert steps == list(range(1, 401)), "no step is done twice"


# Proxies

PROXY = "http://127.0.0.1:9"
"""Where nothing listens."""


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that reaches the internet by a proxy alone."""
    for name in PROXIES:
        monkeypatch.setenv(name, PROXY)
        monkeypatch.setenv(name.upper(), PROXY)
    for name in EXCEPTIONS:
        monkeypatch.setenv(name, "")


def test_loopback_is_reached_whatever_proxy_is_set(server: int, proxied: None) -> None:
    pages = [f"http://{host}:{server}" for host in ("127.0.0.1", "localhost")]
    for page in pages:
        with pytest.raises(requests.exceptions.ProxyError):
            requests.get(page)
    bypass_proxies()
    for page in pages:
        assert requests.get(page).text == "ok"
        with urllib.request.urlopen(page) as answer:
            assert answer.read() == b"ok"
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get("http://192.0.2.1/")  # of an address for documentation: not one of ours


def test_hosts_that_need_no_proxy_are_kept_and_the_clusters_is_added(
    proxied: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "intranet, 10.1.1.1")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head.example:10001")
    bypass_proxies()
    hosts = "intranet,10.1.1.1,localhost,127.0.0.1,::1,head.example"
    assert [os.environ[name] for name in EXCEPTIONS] == [hosts, hosts]


def test_without_a_proxy_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    before = dict(os.environ)
    bypass_proxies()
    assert dict(os.environ) == before


@pytest.mark.slow
def test_ray_tracking_and_ui_work_beside_a_proxy(
    jobs: dict[str, list[str]], tmp_path: Path, proxied: None
) -> None:
    store, port = make_store(tmp_path), free_port()
    command = job("ui", "--port", f"{port}")
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        try:
            while line := ui.stdout.readline():
                if line.startswith("MLflow: "):
                    break
            assert line.startswith(f"MLflow: http://127.0.0.1:{port}")
            uri = f"tracking.uri=http://127.0.0.1:{port}"
            track = ("--set", "tracking.enabled=true", "--set", uri)
            assert run([*jobs["train"], *track], tmp_path) == ["0"]
        finally:
            ui.send_signal(signal.SIGTERM)
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    [recorded] = client.search_runs(experiments)
    assert recorded.info.status == "FINISHED"
    assert len(client.get_metric_history(recorded.info.run_id, "train/total_loss")) == 12
