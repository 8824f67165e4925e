"""How many wrong texts are among the worst of the doctor's list, on a corpus whose texts are right.

    python benchmarks/misfits.py --corpus corpora/asterisk_en --language en
    python benchmarks/misfits.py --corpus corpora/asterisk_en --language en --model bases/natural
    python benchmarks/misfits.py --corpus corpora/sample_am --language am --steps 300 --seeds 2

For each seed a share of the texts is swapped with others of similar length, and `dimts doctor`
examines the corpus so made. With `--steps` it does so by a voice that has learned the wrong texts
as the right ones: `bases/natural`, which has to lack the language, trained on that same corpus.
"""

from __future__ import annotations

import csv
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from benchmarks.machine_facts import cpu_name
from data_prep.doctor.examine import DoctorConfig, examine
from data_prep.readers import read_corpus
from data_prep.utterance import Utterance
from dimts.cli import JobParser, run_job
from dimts.core.config import build_config
from dimts.core.home import shipped
from dimts.features.config import CorpusConfig

MODEL, BASE = shipped("jobs/configs/models/small.yaml"), shipped("bases/natural")
SWAPPED, WORST = 0.05, 0.08
"""Shares of the rows: whose texts are wrong, and that are looked at."""


class Found(NamedTuple):
    """What the doctor made of one draw.

    Attributes:
        wrong: listed rows that have the text of another one.
        refused: rows with a wrong text that no list is needed for: it cannot fit the length.
        among_worst: of them, among the `WORST` of the list.
        lowest: misfit that a wrong row has at least.
        highest: misfit that a right one has at most.
        area: probability that a wrong row's misfit exceeds a right one's (area under the ROC).
    """

    wrong: int
    refused: int
    among_worst: int
    lowest: float
    highest: float
    area: float


def swap_texts(texts: list[str], share: float, seed: int) -> set[int]:
    """Swap texts of similar length in place; which ones are wrong now."""
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
    drawn, wrong = random.Random(seed), set[int]()
    while len(wrong) < share * len(texts):
        place = drawn.randrange(len(texts) - 1)
        a, b = order[place], order[place + 1]
        if texts[a] != texts[b] and not {a, b} & wrong:
            texts[a], texts[b] = texts[b], texts[a]
            wrong |= {a, b}
    return wrong


def measure(
    corpus: Path, language: str, out: Path, seed: int, model: str = "", steps: int = 0
) -> Found:
    """Swap texts of a corpus, and examine it; `out` keeps what was extracted for another seed.

    Args:
        model: voice that aligns; "" and no `steps`: a flat start.
        steps: of the training of a voice on what was swapped, which then aligns.
    """
    rows = [r for r in read_corpus(CorpusConfig(path=corpus), language)[0]
            if isinstance(r, Utterance)]  # fmt: skip
    texts = [row.text for row in rows]
    wrong = {rows[n].id for n in swap_texts(texts, SWAPPED, seed)}
    out.mkdir(parents=True, exist_ok=True)
    with (out / "swapped.csv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("audio", "text"))
        lines.writerows((row.audio.as_posix(), t) for row, t in zip(rows, texts, strict=True))
    settings: dict[str, dict[str, Any]] = {
        "corpus": {"path": out, "tables": ["swapped.csv"], "audio_folder": str(corpus.absolute()),
                   "reader": "delimited"},
        "text": {"language": language},
        "prepare": {"features": out / "features"},
    }  # fmt: skip
    if steps:
        model = learned(settings, out.absolute(), f"seed{seed}", steps)
    report = examine(build_config(DoctorConfig, settings), out, model)
    wrong = {Path(name).stem for name in wrong}
    misfit = {Path(row["id"]).stem: row["misfit"] for row in report["rows"]}
    listed = wrong & misfit.keys()
    worst = list(misfit)[: round(WORST * len(rows))]
    of_wrong = np.array([misfit[name] for name in listed])
    of_right = np.array([misfit[name] for name in misfit.keys() - wrong])
    area = float((of_wrong[:, None] > of_right).mean())
    return Found(
        len(listed), len(wrong) - len(listed), len(listed & {*worst}),
        float(of_wrong.min()), float(of_right.max()), area,
    )  # fmt: skip


def learned(settings: dict[str, dict[str, Any]], out: Path, name: str, steps: int) -> str:
    """A voice's run in `out/runs`, trained on a corpus for some steps by one thread."""
    training = {"max_steps": steps, "validate_every": steps, "threads": 1, "adversarial": None}
    of_voice = {
        **settings,
        "include": [str(MODEL)],
        "prepare": {"features": str(out / "voice"), "engine": "local"},
        "base": {"bundle": str(BASE), "start": "transliteration"},
        "run": {"name": name, "storage": str(out / "runs")},
        "training": training,
        "ray": {"workers": 0},
        "tracking": {"enabled": False},
    }
    of_voice["corpus"] = {**settings["corpus"], "path": str(out)}
    config = out / f"{name}.yaml"
    config.write_text(yaml.safe_dump(of_voice), encoding="utf-8")
    for job in ("prepare", "train"):
        command = [sys.executable, "-m", "dimts", job, f"--config={config}"]
        subprocess.run(command, check=True, stdout=2)  # stderr
    return str(out / "runs" / name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for each draw, and the sum."""
    parser = JobParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="whose texts are right")
    parser.add_argument("--language", required=True, help="code of what is spoken")
    by = parser.add_mutually_exclusive_group()
    by.add_argument("--model", default="", help="voice that aligns (default: a flat start)")
    by.add_argument("--steps", type=int, default=0, help="of a voice that learns the wrong texts")
    parser.add_argument("--seeds", type=int, default=5, help="draws (5)")
    options = parser.parse_args(arguments)
    print("| seed | wrong rows | refused | among the worst | wrong >= | right <= | area |")
    print("| --- |" + " --- |" * len(Found._fields))
    found = []
    with tempfile.TemporaryDirectory(prefix="dimts-misfits-") as folder:
        for seed in range(options.seeds):
            one = measure(
                options.corpus, options.language, Path(folder), seed, options.model, options.steps
            )
            figures = (f"{value:.3f}" if isinstance(value, float) else value for value in one)
            print(f"| {seed} | " + " | ".join(map(str, figures)) + " |", flush=True)
            found.append(one)
    wrong, worst = sum(one.wrong for one in found), sum(one.among_worst for one in found)
    print(f"\n{worst} of {wrong} wrong rows ({worst / wrong:.1%}) are among the worst {WORST:.0%};")
    print(f"{SWAPPED:.0%} of the texts of {options.corpus} swapped; {cpu_name()}")
    return 0


if __name__ == "__main__":
    run_job(main)
