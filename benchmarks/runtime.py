"""Text to wave on one core: an exported voice beside other speech synthesisers.

    dimts export --model runs/MODEL --out output/fp32
    dimts export --model runs/MODEL --out output/int8 --precision int8
    python benchmarks/runtime.py output/fp32 output/int8

Each speaks in a process of its own that is held on one core. `x real time` is seconds of speech by
seconds of CPU time, the first sound is CPU time until the first samples of the longest sentence are
there, the start is that of the process until the first samples of a word, its imports included: CPU
time is what stays comparable on a machine that others use. Peers that are not installed are left
out; Piper needs a voice (--piper FILE.onnx).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job

ROOT = Path(__file__).resolve().parents[1]
WORD = {"am": "ሰላም።", "en": "Hello."}
SENTENCES = {
    "am": (
        "እንኳን ደህና መጣችሁ፣ ይህ ድምፅ ከኮምፒውተር ነው።",
        "የዛሬው ዜና ምን ይላል?",
        "ትናንት ማታ ከባድ ዝናብ ስለ ዘነበ መንገዱ ሁሉ በውሃ ተሞልቶ ነበር፣ ስለዚህም ልጆቹ ወደ ትምህርት ቤት መሄድ "
        "አልቻሉም፣ አባታቸውም ወደ ሥራው የደረሰው ከቀኑ በአምስት ሰዓት ነው።",
    ),
    "en": (
        "Welcome, this is the voice of a computer.",
        "What is in the news of today?",
        "Last night it rained so heavily that all of the road was full of water, and so the "
        "children could not walk to their school, and their father came to work at eleven o'clock.",
    ),
}
"""The last one is about ten seconds long."""
ROUNDS = 5
Stream = Callable[[str], Iterator[Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("voices", nargs="*", type=Path, help="folders of dimts export")
    parser.add_argument("--piper", type=Path, help="voice of Piper, whose .json lies beside it")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    kinds = [*map(str, options.voices), "hibari-tts", "espeak-ng"]
    kinds += [f"piper:{options.piper}"] if options.piper else []
    print("| | MB | x real time | first sound, ms | of s | start, s | memory, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in kinds:
        print(_line(kind), flush=True)
    print("\n".join(f"{name}: {fact}" for name, fact in machine_facts(("onnxruntime",)).items()))
    return 0


def _line(kind: str) -> str:
    """A row of the table, measured in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__)), "--one", kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return f"| {kind} | not measured: {(done.stderr.strip().splitlines() or ['?'])[-1]:.80} |"
    m = json.loads(done.stdout.splitlines()[-1])
    return (
        f"| {Path(kind).name} | {m['size'] / 1e6:.1f} | {m['speed']:.0f} | {1e3 * m['first']:.0f} "
        f"| {m['longest']:.1f} | {m['start']:.2f} | {m['memory'] / 1e6:.0f} |"
    )


def measure(kind: str) -> dict[str, float]:
    """What this process measures of one synthesiser, held on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    language, rate, stream, size = _synthesiser(kind)
    next(stream(WORD[language]))
    start = time.process_time()
    seconds, best, first, longest = 0.0, 0.0, float("inf"), 0.0
    for _ in range(ROUNDS):
        seconds, begin = 0.0, time.process_time()
        for text in SENTENCES[language]:
            own = time.process_time()
            pieces = stream(text)
            samples = len(next(pieces))
            since = time.process_time() - own
            samples += sum(map(len, pieces))
            seconds += samples / rate
        longest, first = samples / rate, min(first, since)
        best = max(best, seconds / (time.process_time() - begin))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "speed": best, "first": first, "longest": longest, "start": start, "memory": memory,
        "size": size,
    }  # fmt: skip


def _synthesiser(kind: str) -> tuple[str, int, Stream, int]:
    """Language, sample rate, a function from a text to pieces of its wave, and bytes on disk."""
    if kind == "hibari-tts":
        import hibari

        from data_prep.recipes import hibari_voice

        return _whole(hibari_voice.speak, hibari)
    if kind == "espeak-ng":
        import espeakng_loader

        from data_prep.recipes import espeak_library

        return _whole(espeak_library.speak, espeakng_loader)
    if kind.startswith("piper:"):
        from piper import PiperVoice

        file = Path(kind.removeprefix("piper:"))
        voice = PiperVoice.load(file)

        def pieces(text: str) -> Iterator[Any]:
            return (np.asarray(chunk.audio_float_array) for chunk in voice.synthesize(text))

        return "en", voice.config.sample_rate, pieces, file.stat().st_size
    from dimts.runtime import Voice

    own = Voice(kind)
    size = sum(file.stat().st_size for file in Path(kind).iterdir() if file.is_file())
    return "am", own.sample_rate, own.stream, size


def _whole(speak: Callable[[str], Any], package: Any) -> tuple[str, int, Stream, int]:
    """A synthesiser of this project's recipes, which gives a whole wave, from a package."""
    rate = speak(WORD["am"]).sample_rate
    size = _bytes(Path(package.__file__).parent)
    return "am", rate, lambda text: iter([speak(text).samples]), size


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    run_job(main)
