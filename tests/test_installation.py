"""What `pip install` gives: a command and a library that need nothing of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from data_prep.recipes.espeak import SAMPLE_SENTENCES, read_sentences

ROOT = Path(__file__).parents[1]
FEW = ("--set", "prepare.val_share=0.2", "--set", "prepare.test_share=0.2")
SHORT = (
    "--set", "training.max_steps=2", "--set", "training.batch_size=2",
    "--set", "training.aligner.iterations=2", "--set", "ray.workers=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


Run = Callable[..., str]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program of an environment that has the wheel, and what it needs, but no checkout."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index",
         "--no-deps", "--disable-pip-version-check", str(wheel)],
        check=True,
    )  # fmt: skip
    ours = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    needed = [path for path in sys.path if Path(path).name == "site-packages"]
    (ours / "needed.pth").write_text("\n".join(needed), encoding="utf-8")
    home = tmp_path_factory.mktemp("away")
    environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "DIMTS_HOME")}

    def run(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(folder / "bin" / program), *arguments],
            cwd=home, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    return run


def top_level(names: Iterable[str]) -> set[str]:
    return {name.partition("/")[0] for name in names}


def test_only_the_library_is_installed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    version = wheel.name.split("-")[1]
    assert top_level(names) == {"dimts", "data_prep", f"dimts-{version}.dist-info"}
    assert {"dimts/py.typed", "data_prep/py.typed"} <= names
    for folder in ("jobs/configs", "search_spaces", "bases"):
        files = [f for f in (ROOT / folder).rglob("*") if f.is_file()]
        assert {f"data_prep/shipped/{f.relative_to(ROOT)}" for f in files} <= names
    library = ROOT / "platform"
    assert {str(f.relative_to(library)) for f in library.rglob("*.py")} <= names


def test_the_library_loads_nothing_until_it_is_used(installed: Run) -> None:
    code = "import sys, dimts; print(dimts.__file__, {'torch', 'numpy', 'ray'} & {*sys.modules})"
    file, loaded = installed("python", "-c", code).split(maxsplit=1)
    assert not Path(file).is_relative_to(ROOT)
    assert loaded == "set()\n"


@pytest.mark.integration
def test_an_installed_voice_is_trained_and_speaks(installed: Run, tmp_path: Path) -> None:
    """With settings and a base that are found by name."""
    assert "commands:" in installed("dimts", "--help")
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("\n".join(read_sentences(SAMPLE_SENTENCES)[:10]), encoding="utf-8")
    installed("dimts", "sample-corpus", "--sentences", str(sentences), "--engine", "espeak")
    installed("dimts", "prepare", "--config", "sample_am", *FEW)
    tiny = ("--config", "sample_am", "--config", "models/tiny", *FEW, *SHORT)
    assert "finished at step 2" in installed("dimts", "train", *tiny)
    speak = "import dimts; print(len(dimts.load('runs/sample_am').speak('ሰላም።')))"
    assert int(installed("python", "-c", speak)) > 1000
    words = ("--text", "Buenos días.", "--language", "es")
    base = ("--model", "bases/natural")
    assert "output/speech.wav" in installed("dimts", "synthesize", *base, *words)
