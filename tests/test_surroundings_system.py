"""Terminals, users and folders that people have: work is done, or one line says what to do."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from test_jobs import JOBS
from user_fixtures import ROOT, command, needs_another_user, one_line, somebody
from voice_fixtures import write_voice

from dimts.core.environment import _folder_of_this_user

SYNTHESIZE, TRAIN = ROOT / "jobs" / "synthesize.py", ROOT / "jobs" / "train.py"
WORD = "ሰላም"
SPOKEN = ("--text", WORD, "--vocoder", "griffin-lim")
ESCAPED = WORD.encode("ascii", "backslashreplace")
NOT_ACTIVATED = {"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": None}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voice(tmp_path_factory.mktemp("voice") / "bundle")


# The terminal


@pytest.mark.integration
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_speech_on_a_terminal_without_utf8(bundle: Path, tmp_path: Path, encoding: str) -> None:
    environment = {"PYTHONIOENCODING": encoding}
    out = tmp_path / f"{WORD}.wav"
    spoken = (*SPOKEN, "--model", bundle, "--out", out)
    done = command(SYNTHESIZE, *spoken, cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert out.is_file()
    assert done.stdout.rstrip().endswith(b" s   " + ESCAPED)


@pytest.mark.integration
def test_mistakes_are_told_on_a_terminal_without_utf8(tmp_path: Path) -> None:
    environment = {"PYTHONIOENCODING": "ascii"}
    done = command(TRAIN, "--config", f"{WORD}.yaml", cwd=tmp_path, environment=environment)
    assert done.returncode == 2
    assert one_line(done).endswith(".yaml: no such config file")
    usage = command(TRAIN, "--config", "a", f"--{WORD}", cwd=tmp_path, environment=environment)
    assert usage.returncode == 2
    assert b"train.py: error: unrecognized arguments: --" in usage.stderr


PRINTS = """
import threading
from pathlib import Path
from dimts.cli import run_job

def say():
    for i in range(2000):
        print("line", i, flush=True)

def main():
    thread = threading.Thread(target=say)
    thread.start()
    say()
    thread.join()
    Path("done").touch()

run_job(main)
"""


def test_a_job_outlives_its_reader(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PRINTS], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdout.readline()
        job.stdout.close()
        assert job.stderr.read() == b""
        assert job.wait() == 0
    assert (tmp_path / "done").exists()


def test_a_job_without_a_console_works(tmp_path: Path) -> None:
    shell = '"$0" -c "$1" >&- 2>&-'
    done = subprocess.run(["sh", "-c", shell, sys.executable, PRINTS], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert (tmp_path / "done").exists()


# The user


@needs_another_user
@pytest.mark.integration
@pytest.mark.parametrize("home", [None, "/", "/nonexistent"], ids=["unset", "root", "missing"])
def test_a_user_without_a_home_speaks(bundle: Path, tmp_path: Path, home: str | None) -> None:
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    for folder in (work, temporary):
        folder.mkdir()
    environment = {"HOME": home, "TMPDIR": str(temporary), "USER": None, "LOGNAME": None}
    done = command(
        *(SYNTHESIZE, *SPOKEN, "--model", bundle),
        cwd=work, environment=environment, user=somebody(work, temporary),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert [file.name for file in work.iterdir()] == ["output"], "nothing but the speech, no ~"
    assert (temporary / "dimts-cache-12345" / "numba").is_dir()


@needs_another_user
@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_without_a_home_trains(voice_file: Path, tmp_path: Path, workers: int) -> None:
    settings = yaml.safe_load(voice_file.read_text(encoding="utf-8"))
    settings["prepare"]["features"] = "features"
    settings["tracking"] = {}
    settings["run"]["storage"] = "runs"
    settings["ray"]["workers"] = workers
    settings["training"]["sample_every"] = 6
    file = tmp_path / "voice.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    work = tmp_path / "work"
    work.mkdir()
    for job in ("prepare.py", "train.py"):
        done = command(
            *(ROOT / "jobs" / job, "--config", file),
            cwd=work, environment={**NOT_ACTIVATED, "HOME": None, "USER": None, "LOGNAME": None},
            user=somebody(work),
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b""), done.stdout
    assert b"no samples" not in done.stdout
    assert sorted(file.name for file in work.iterdir()) == [
        "features", "mlartifacts", "mlflow.db", "runs",
    ]  # fmt: skip


IMPORTS = """
import os, sys
before = dict(os.environ)
import dimts, dimts.cli, dimts.families.acoustic.speaker, dimts.commands.voice_config
print(before == dict(os.environ))
"""


@pytest.mark.integration
def test_an_import_sets_no_environment_variable(tmp_path: Path) -> None:
    for home in (str(tmp_path), "/dev/null"):
        done = command("-c", IMPORTS, cwd=tmp_path, environment={"HOME": home})
        assert (done.stdout, done.stderr) == (b"True\n", b"")


def test_a_cache_of_someone_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours = _folder_of_this_user()
    assert (ours, stat.S_IMODE(ours.stat().st_mode)) == (_folder_of_this_user(), 0o700)
    ours.chmod(0o777)  # as anyone can make it before us
    other = _folder_of_this_user()
    assert other != ours
    assert stat.S_IMODE(other.stat().st_mode) == 0o700


# The folders


@pytest.mark.integration
@needs_another_user
def test_a_folder_that_cannot_be_written_is_named(voice_file: Path, tmp_path: Path) -> None:
    config = ("--config", voice_file, "--set")
    for job, setting, folder in (
        ("train.py", "run.storage=runs", tmp_path / "runs"),
        ("ui.py", "tracking.uri=sqlite:///new.db", tmp_path / "new.db"),
    ):
        more = ["--new"] if job == "ui.py" else []
        done = command(
            *(ROOT / "jobs" / job, *config, setting, *more), cwd=tmp_path, user=somebody()
        )
        assert done.returncode == 2
        assert str(folder) in one_line(done)
        assert "DIMTS_HOME" in one_line(done)


def test_others_may_read_a_voice_as_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        voice = write_voice(tmp_path / "bundle")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in voice.iterdir()} == {0o644}


# The system


UNDER_UV = """
import sys
import dimts.launch
import ray

ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=1)
print(sys.executable, sorted(ray.get_runtime_context().runtime_env))
"""


@pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "uv").exists(), reason="the tests' environment is not .venv"
)
@pytest.mark.integration
def test_uv_run_takes_the_installation_as_it_is() -> None:
    versions = (ROOT / ".venv", ROOT / "pyproject.toml")
    before = [place.stat().st_mtime_ns for place in versions]
    done = subprocess.run(
        [str(ROOT / ".venv" / "bin" / "uv"), "run", "--offline", "python", "-c", UNDER_UV],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [str(ROOT / ".venv" / "bin" / "python"), "[]"], done.stderr
    assert [place.stat().st_mtime_ns for place in versions] == before
    assert not (ROOT / "uv.lock").exists()


BLOCKED = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "fcntl":
            raise ModuleNotFoundError("No module named 'fcntl'", name="fcntl")

sys.modules.pop("fcntl", None)
sys.meta_path.insert(0, Blocker())
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.parametrize("job", ["demo", "prepare", "train", "ui"])
def test_windows_is_one_line(job: str, tmp_path: Path) -> None:
    assert job in JOBS
    done = command("-c", BLOCKED, ROOT / "jobs" / f"{job}.py", "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert one_line(done) == (
        "error: dimts runs on Linux and macOS; on Windows use WSL: docs/troubleshooting.md"
    )
