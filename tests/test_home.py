"""Where the relative paths of a job lie."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import ConfigError

ROOT = Path(__file__).parents[1]
SHOW = """
import os, sys
from dimts.cli import config_parser, run_job

def main():
    print(os.getcwd(), *config_parser("shows where it is").parse_args().config, sep="\\n")
    print(os.environ["PYTHONPATH"])

run_job(main)
"""


def show(folder: Path, *config: str, **environment: str) -> tuple[int, list[str], str]:
    """Its folder, its files of settings and its PYTHONPATH, as a job that is started in `folder`
    sees them."""
    own = {n: v for n, v in os.environ.items() if n != "DIMTS_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", SHOW, *(part for file in config for part in ("--config", file))],
        cwd=folder, env={**own, "PYTHONPATH": "platform", **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_without_a_home_paths_are_as_they_are_given(tmp_path: Path) -> None:
    assert show(tmp_path, "a.yaml") == (0, [str(tmp_path), "a.yaml", "platform"], "")


def test_a_job_goes_home_with_the_settings_that_it_brought_along(tmp_path: Path) -> None:
    home, started_in = tmp_path / "home", tmp_path / "started"
    for folder, file in ((home, "at_home.yaml"), (started_in, "brought.yaml")):
        folder.mkdir()
        (folder / file).touch()
        (folder / "both.yaml").touch()
    code, lines, _ = show(
        started_in, "at_home.yaml", "brought.yaml", "both.yaml", DIMTS_HOME=str(home)
    )
    assert code == 0
    assert lines == [
        str(home), "at_home.yaml", str(started_in / "brought.yaml"), str(started_in / "both.yaml"),
        str(started_in / "platform"),
    ]  # fmt: skip


def test_a_home_that_is_not_there_is_named(tmp_path: Path) -> None:
    code, _, err = show(tmp_path, "a.yaml", DIMTS_HOME=str(tmp_path / "nowhere"))
    assert code == 2
    assert err == (
        f"error: DIMTS_HOME={tmp_path / 'nowhere'}: No such file or directory; "
        "name a folder that is there\n"
    )


def test_what_a_job_writes_is_not_left_in_rays_copy(tmp_path: Path) -> None:
    copy = tmp_path / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    code, _, err = show(copy, "a.yaml")
    assert code == 2
    assert err.startswith("error: this job runs in a copy of the project, which Ray removes")
    assert len(err.splitlines()) == 1


def test_what_dimts_brings_along_is_found_by_name(tmp_path: Path) -> None:
    names = ("sample_am", "jobs/configs/sample_am.yaml", "models/tiny", "quick", "none")
    code, lines, _ = show(tmp_path, *names)
    assert code == 0
    settings = ROOT / "jobs" / "configs"
    sample, tiny = settings / "sample_am.yaml", settings / "models" / "tiny.yaml"
    assert lines[1:-1] == [
        str(sample), str(sample), str(tiny), str(ROOT / "search_spaces" / "quick.yaml"), "none",
    ]  # fmt: skip


def test_a_voice_elsewhere_includes_what_dimts_brings_along(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("include: [sample_am.yaml]\nrun: {name: mine}\n", encoding="utf-8")
    config = load_config(VoiceConfig, [file])
    assert (config.run.name, config.corpus.language) == ("mine", "am")
    (tmp_path / "sample_am.yaml").write_text("include: [nowhere.yaml]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"^{tmp_path}/nowhere.yaml: no such config file"):
        load_config(VoiceConfig, [file])
