"""Every command that the README and docs/ show does what they say, with fewer steps."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = [
    "--config",
    str(ROOT / "jobs/configs/models/tiny.yaml"),
    "--set",
    "training.max_steps=4",
    "--set",
    "training.batch_size=4",
    "--set",
    "training.aligner.iterations=2",
    "--set",
    "ray.workers=0",
]
COMMAND = re.compile(r"^ +(?:PYTHONPATH=\S+ )?(?:\.venv/bin/)?python ((?:jobs|benchmarks)/.*)$")
ELSEWHERE = {
    "jobs/asterisk_corpus.py": "needs Debian's package server: tests/test_asterisk_recipe.py",
    "benchmarks/mel.py": "tests/test_mel.py and tests/test_benchmarks.py",
    "benchmarks/loop.py": "tests/test_benchmarks.py",
    "benchmarks/gpu.py": "tests/test_benchmarks.py",
}


def shown_commands() -> list[str]:
    """Commands in the order of the documents, each once."""
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for d in documents for line in d.read_text(encoding="utf-8").splitlines()]
    found = [m[1] for line in lines if (m := COMMAND.match(line)) and "MODEL" not in line]
    return list(dict.fromkeys(found))


def test_documents_show_commands() -> None:
    scripts = {command.split()[0] for command in shown_commands()}
    assert {"jobs/prepare.py", "jobs/train.py", "jobs/synthesize.py"} <= scripts
    assert scripts >= ELSEWHERE.keys(), "a command is explained away that no document shows"
    for script in scripts:
        assert (ROOT / script).is_file(), f"{script} is shown, but is not there"


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory, spoken_corpus: Path) -> Path:
    """A folder in which a newcomer works, with the corpora that the shipped voices name."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "corpora").mkdir()
    (folder / "corpora" / "sample_am").symlink_to(spoken_corpus)
    return folder


def run(folder: Path, command: str) -> str:
    script, *arguments = shlex.split(command)
    arguments = [str(ROOT / a) if a.startswith("jobs/configs/") else a for a in arguments]
    if script in ("jobs/prepare.py", "jobs/train.py", "benchmarks/voices.py"):
        arguments += TINY
    if script == "jobs/sample_corpus.py":
        sentences = folder / "sentences.txt"
        sentences.write_text("ሰላም ነው።\nዛሬ ዝናብ ጥሏል።\n", encoding="utf-8")
        arguments += ["--sentences", str(sentences), "--out", str(folder / "corpora" / "two")]
    if script == "benchmarks/voices.py":
        arguments += ["--seeds", "1", "--set", "tracking.enabled=false"]
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_shown_commands_run_one_after_the_other(newcomer: Path) -> None:
    commands = [c for c in shown_commands() if "asterisk" not in c]
    outputs = {c: run(newcomer, c) for c in commands if c.split()[0] not in ELSEWHERE}
    assert (newcomer / "features" / "sample_am" / "manifest.json").is_file()
    assert (newcomer / "runs" / "sample_am" / "checkpoint_best" / "model.safetensors").is_file()
    assert (newcomer / "mlflow.db").is_file()
    spoken = [c for c in commands if c.startswith("jobs/synthesize.py")]
    assert spoken
    assert (newcomer / "output" / "speech.wav").stat().st_size > 10_000
    table = next(out for c, out in outputs.items() if c.startswith("benchmarks/voices.py"))
    assert "| MCD / untrained |" in table


def test_demo_sentence_is_in_no_training_text() -> None:
    from data_prep.recipes.espeak import SAMPLE_SENTENCES
    from jobs.demo import SENTENCE

    assert SENTENCE not in SAMPLE_SENTENCES.read_text(encoding="utf-8").splitlines()


def test_demo_goes_from_nothing_to_speech(tmp_path: Path) -> None:
    """With the real sentences and every part of it, but a tiny voice of few steps."""
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "jobs/demo.py"),
            "--config",
            str(ROOT / "jobs/configs/sample_am.yaml"),
            *TINY,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "mel-cepstral distortion, dB" in done.stdout
    assert (tmp_path / "output" / "demo.wav").stat().st_size > 10_000
