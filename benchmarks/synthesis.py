"""Speech from a command, alone and beside a process that keeps all cores busy.

    python benchmarks/synthesis.py

Each is the whole command ``jobs/synthesize.py``, its start included, and the time that it says its
sentence took. The two kinds take turns; the ratio is of a pair, its median is judged. What keeps
the cores busy is one endless loop a core, of the command's own priority.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job
from dimts.core.environment import n_cores

ROOT = Path(__file__).resolve().parents[1]
SENTENCES = {"a word": "Hola.", "a sentence": "La casa de mi abuela está cerca del mercado viejo."}
GOAL = 3.0
LOOP = "while True: pass"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bases/natural", help="voice (bases/natural)")
    parser.add_argument("--pairs", type=int, default=5, help="of each text (5)")
    options = parser.parse_args(arguments)
    facts = machine_facts(("torch",))
    lines = [
        f"| | alone, s | beside {n_cores()} busy loops, s | ratio (goal {GOAL:g}) |",
        "| --- | --- | --- | --- |",
    ]
    _speak(options.model, "Hola.")  # fills caches
    for name, text in SENTENCES.items():
        pairs = []
        for _ in range(options.pairs):
            alone = _speak(options.model, text)
            with busy():
                pairs.append((alone, _speak(options.model, text)))
        ratio = statistics.median(beside / alone for alone, beside in pairs)
        alone, beside = (statistics.median(side) for side in zip(*pairs, strict=True))
        lines.append(f"| {name} | {alone:.2f} | {beside:.2f} | {ratio:.2f} |")
    print("\n".join([*lines, "", *(f"{name}: {value}" for name, value in facts.items())]))
    return 0


def _speak(model: str, text: str) -> float:
    """Seconds of one command."""
    with tempfile.TemporaryDirectory(prefix="dimts-synthesis-") as folder:
        command = [sys.executable, str(ROOT / "jobs" / "synthesize.py"), "--model", model]
        command += ["--text", text, "--language", "es", "--out", str(Path(folder) / "a.wav")]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"}
        start = time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


@contextmanager
def busy() -> Iterator[None]:
    """Inside, every core that this process may use has an endless loop beside."""
    with ExitStack() as stack:
        for _ in range(n_cores()):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", LOOP]))
            stack.callback(process.kill)
        yield


if __name__ == "__main__":
    run_job(main)
