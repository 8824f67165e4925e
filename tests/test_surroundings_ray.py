"""Surroundings in which Ray hangs or ends by itself: work done all the same, or one line."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.head import free_port
from surroundings_fixtures import connected, http_server, job, jobs_on_ray, run

from dimts.core import ray_session as session
from dimts.core.errors import UserError
from dimts.core.ray_session import check_ray

RAYS_PATIENCE_S = 100
"""Shorter than Ray looks for a cluster that is gone."""


@pytest.fixture
def jobs(voice_file: Path, tmp_path: Path) -> dict[str, list[str]]:
    return jobs_on_ray(voice_file, tmp_path)


@pytest.fixture
def server() -> Iterator[int]:
    """The port of an HTTP server that is no Ray."""
    with http_server() as port:
        yield port


# A cluster that is gone


@pytest.mark.parametrize(
    "name",
    ["prepare", "train", "demo", "pretrain", pytest.param("tune", marks=pytest.mark.integration)],
)
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


def test_ray_address_auto_without_a_cluster_is_one_line(
    jobs: dict[str, list[str]], tmp_path: Path
) -> None:
    """`auto` takes any that runs on this machine, so this is a place with no processes."""
    alone = ["unshare", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"]).returncode:
        pytest.skip("needs leave for a namespace of processes (unshare --pid)")
    code, line = run(
        [*alone, *jobs["prepare"]], tmp_path, RAY_ADDRESS="auto", RAY_TMPDIR=str(tmp_path)
    )
    assert code == "2"
    assert line.startswith("error: RAY_ADDRESS=auto: no Ray cluster runs here; start the cluster")


@pytest.mark.parametrize(
    "address",
    ["ray://127.0.0.1:10001", "http://127.0.0.1:8265", "127.0.0.1", "127.0.0.1:port"],
)
def test_ray_address_that_names_no_cluster_is_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=r"^RAY_ADDRESS=.*: must be HOST:PORT .*unset RAY_"):
        check_ray()


def test_ray_address_of_another_server_is_one_line(
    server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the dashboard's, where jobs are submitted."""
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server}")
    with pytest.raises(UserError, match=r"\(what listens there is not Ray\)"):
        check_ray()


def test_ray_address_of_a_server_that_says_nothing_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that was stopped, or behind a firewall that drops what it gets."""
    monkeypatch.setattr(session, "ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match=r"no Ray cluster answers .*\(timed out\)"):
            check_ray()


def test_ray_address_of_a_cluster_that_is_there_is_taken(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    check_ray()


# Folders


@pytest.fixture
def long_folder(tmp_path: Path) -> Path:
    folder = tmp_path / ("x" * 60) / ("y" * 60)
    folder.mkdir(parents=True)
    return folder


def test_ray_that_does_not_start_in_time_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # As Ray does.

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    told = pytest.raises(UserError, match="did not start in the half a minute")
    with told, session.ray_session(logging_level=30):
        pass


@pytest.mark.integration
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


@pytest.mark.integration
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
    """Ray says that it would spill no objects, and that its store is not in shared memory.

    Of the two the preparation of data is the one that keeps objects in that store.
    """
    assert mounted(jobs[name], tmp_path, 382) == ["0"]
    assert (tmp_path / {"prepare": "features", "train": "tiny/checkpoint_best"}[name]).exists()
