"""What a base voice is worth, by corpus size: the tables of docs/transfer.md.

    python benchmarks/transfer.py                        # all: hours on two cores
    python benchmarks/transfer.py --sizes 50 --seeds 1 --arms scratch everything_trained
    python benchmarks/transfer.py --quick                # does it run at all?

Every arm fine-tunes the same base on the same utterances for the same number of steps; a step of
rehearsal is a step. Figures are of held-out sentences, durations as predicted; with --sentences
judges hear them, too, which the extra `judges` has. Runs that have ended are kept in --out and not
repeated, so the command goes on where it stopped. It runs a process for each core, each with one
thread. Features must have been prepared:

    python jobs/sample_corpus.py && python jobs/prepare.py --config jobs/configs/sample_am.yaml
    python jobs/pretrain.py --config jobs/configs/mix/natural.yaml --prepare-only
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmarks.machine_facts import machine_facts
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import fingerprint, load_config
from dimts.core.environment import n_cores
from dimts.training.callbacks import Callbacks

if TYPE_CHECKING:
    from dimts.families.acoustic.data import Data
    from dimts.families.acoustic.settings import AcousticSettings
    from dimts.features.feature_set import FeatureSet

ROOT = Path(__file__).resolve().parents[1]
VOICE = ROOT / "jobs/configs/sample_am.yaml"
FINETUNE = ROOT / "jobs/configs/start/finetune.yaml"
FROZEN = "model.freeze_until_index=n_base"
ALONE = "base.rehearsal_share=0"
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "scratch": ("from scratch", ()),
    "everything_trained": ("all trainable", (ALONE,)),
    "rows": ("rows below n_base frozen", (ALONE, FROZEN)),
    "rows_1_block": ("rows + 1 block", (ALONE, FROZEN, "model.freeze_blocks.encoder=[0]")),
    "rows_2_blocks": ("rows + 2 blocks", (ALONE, FROZEN, "model.freeze_blocks.encoder=[0, 1]")),
    "start_mean": ("start: mean + spread", (ALONE, "base.start=mean")),
    "start_nearest": ("start: nearest letter", (ALONE, "base.start=nearest")),
    "start_random": ("start: random", (ALONE, "base.start=random")),
    "rehearsal_50": ("rehearsal 0.5", ("base.rehearsal_share=0.5",)),
    "rehearsal_50_rows": ("rehearsal 0.5 + rows frozen", ("base.rehearsal_share=0.5", FROZEN)),
    "rehearsal_50_mean": (
        "rehearsal 0.5, start: mean + spread",
        ("base.rehearsal_share=0.5", "base.start=mean"),
    ),
    "rehearsal_50_nearest": (
        "rehearsal 0.5, start: nearest letter",
        ("base.rehearsal_share=0.5", "base.start=nearest"),
    ),
    "rehearsal_50_random": (
        "rehearsal 0.5, start: random",
        ("base.rehearsal_share=0.5", "base.start=random"),
    ),
    "decay": ("weight decay 0.5 on rows", (ALONE, "training.optimizer.embedding_decay=0.5")),
    "decay_rows": (
        "the same, rows frozen",
        (ALONE, FROZEN, "training.optimizer.embedding_decay=0.5"),
    ),
}
"""Name -> title and settings. `ALONE` is without rehearsal; the start is by transliteration."""
SIZES = (20, 50, 100, 300)


class Task(NamedTuple):
    """One run."""

    arm: str
    size: int
    seed: int
    overrides: tuple[str, ...]
    splits: tuple[Literal["val", "test"], ...]
    sentences: int
    file: Path
    configs: tuple[Path, ...] = (VOICE, FINETUNE)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    tasks = [_task(options, a, n, s) for s in range(options.seeds) for n in options.sizes
             for a in options.arms]  # fmt: skip
    todo = [task for task in tasks if not task.file.exists()]
    options.out.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.parallel, mp_context=spawn) as pool:
        for n, line in enumerate(pool.map(run, todo), start=1):
            print(f"{n}/{len(todo)} {line}", file=sys.stderr, flush=True)
    results = {task[:3]: json.loads(task.file.read_text(encoding="utf-8")) for task in tasks}
    print(tables(results, options))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="utterances")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120, help="of every run (120)")
    parser.add_argument(
        "--config", action="append", type=Path, metavar="FILE", dest="configs",
        help="a voice that starts from a base; may be given more than once",
    )  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--parallel", type=int, default=n_cores(), help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"), help="of all results")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="of Amharic")
    parser.add_argument(
        "--sentences", type=int, default=0, help="of each set that judges hear; 0: none (default)"
    )
    parser.add_argument("--quick", action="store_true", help="two arms, a few steps")
    options = parser.parse_args(arguments)
    if options.quick:
        options.arms, options.sizes = ["scratch", "rehearsal_50_rows"], [20]
        options.seeds, options.steps, options.parallel = 1, 4, 1
    return options


def _task(options: argparse.Namespace, arm: str, size: int, seed: int) -> Task:
    configs = tuple(options.configs or (VOICE, FINETUNE))
    overrides = (
        f"training.max_utterances={size}",
        f"training.seed={seed}",
        f"training.max_steps={options.steps}",
        *ARMS[arm][1],
        *options.overrides,
    )
    texts = [config.read_text(encoding="utf-8") for config in configs]
    # Other settings are other results.
    key = fingerprint(overrides, texts, options.split, options.sentences)
    file = options.out / f"{arm}-{size}-{seed}-{key}.json"
    return Task(arm, size, seed, overrides, (options.split,), options.sentences, file, configs)


_heard_before: dict[str, dict[str, float]] = {}
_before: dict[str, dict[str, float]] = {}
"""Figures of each base before any training; its own languages do not depend on the arm."""


def run(task: Task) -> str:
    """Train and evaluate one run; its figures go into `task.file`."""
    import torch

    from dimts.families.acoustic.bundle import load_bundle
    from dimts.families.acoustic.data import open_data
    from dimts.families.acoustic.dataset import load_corpus
    from dimts.families.acoustic.held_out import aggregate_metrics, evaluate
    from dimts.families.acoustic.measurements import base_metrics
    from dimts.families.acoustic.settings import AcousticSettings
    from dimts.families.acoustic.task import initial_model
    from dimts.launch.machine import resolve_on_machine
    from dimts.launch.training_run import run_training

    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dimts-transfer-") as folder:
        launch = _config(task, Path(folder)).launch()
        launch.run_dir.mkdir(parents=True)
        settings = resolve_on_machine(launch, torch.device("cpu"))[0].settings
        assert isinstance(settings, AcousticSettings)
        data = open_data(settings)
        result = run_training(settings, Callbacks())
        assert result.checkpoint is not None
        model = load_bundle(result.checkpoint).model
        figures = _heard(task, settings, data, result.checkpoint) if task.sentences else {}
    for split in task.splits:
        held_out = load_corpus(data.features[0], data.tokenizer, split, data.speakers)
        figures |= {
            f"{split}/{k}": v for k, v in aggregate_metrics(evaluate(model, held_out)).items()
        }
    if settings.base:
        initial, limit = initial_model(settings, data), settings.base.held_out
        if settings.base.bundle not in _before:
            _before[settings.base.bundle] = base_metrics(initial, data, limit)
        before, after = _before[settings.base.bundle], base_metrics(model, data, limit)
        figures |= after | {f"before/{key}": value for key, value in before.items()}
        for key in ("forgetting/mcd", "forgetting/aligned_mel_mse"):
            figures[f"{key}_change"] = after[key] - before[key]
        figures["rows_moved"] = _rows_moved(initial, model, data.tokenizer.n_base)
    figures["seconds"] = time.monotonic() - start
    partial = task.file.with_suffix(".partial")
    partial.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    partial.replace(task.file)
    return (
        f"{task.arm} {task.size} utterances, seed {task.seed}: "
        f"{figures[f'{task.splits[0]}/mcd']:.2f} dB, base "
        f"{figures.get('forgetting/mcd_change', float('nan')):+.2f} dB, {figures['seconds']:.0f} s"
    )


def _heard(task: Task, settings: AcousticSettings, data: Data, bundle: Path) -> dict[str, float]:
    """What judges say of the new voice and, with a base, of its languages before and after."""
    from dimts.bundles.fetch import local_bundle

    [split] = task.splits
    figures = {f"{split}/{k}": v for k, v in _judged(task, data.features, bundle, split).items()}
    if settings.base and data.base_features:
        name = settings.base.bundle
        if name not in _heard_before:
            folder = local_bundle(name)
            _heard_before[name] = _judged(task, data.base_features, folder, "test")
        after, before = _judged(task, data.base_features, bundle, "test"), _heard_before[name]
        figures |= {f"before/{key}": value for key, value in before.items()}
        figures |= {f"forgetting/{key}_change": after[key] - before[key] for key in after}
    return figures


def _judged(
    task: Task, features: Sequence[FeatureSet], bundle: Path, split: Literal["val", "test"]
) -> dict[str, float]:
    """Naturalness and, in languages that the recogniser knows, CER, by the vocoder that ships."""
    import torch

    from dimts.evaluation.judges.config import JudgesConfig
    from dimts.evaluation.judges.recognition import KNOWN
    from dimts.evaluation.judges.sources import VOICE
    from dimts.evaluation.judges.voice import judge_voice
    from dimts.families.acoustic.data import language_of
    from dimts.families.acoustic.speaker import AcousticSpeaker
    from dimts.families.registry import use_shipped_vocoder

    speaker = AcousticSpeaker.load(bundle)
    use_shipped_vocoder(speaker)
    known = all(language_of(of_set) in KNOWN for of_set in features)
    names = ("naturalness", "recognition") if known else ("naturalness",)
    config = JudgesConfig(names=names, sentences=task.sentences)
    report = judge_voice(config, features, split, speaker, torch.device("cpu"), 1, (VOICE,))
    means = {name: report.mean(VOICE, name) for name in ("naturalness", "cer")}
    return {name: mean.mean for name, mean in means.items() if mean}


def _config(task: Task, folder: Path) -> VoiceConfig:
    fixed = (
        f"run.storage={folder}",
        "run.name=run",
        "training.threads=1",
        "training.validate_every=0",
        "training.checkpoint_every=0",
        "training.sample_every=0",
        "tracking.enabled=false",
        "ray.workers=0",
    )
    overrides = [*fixed, *task.overrides]
    finetune = load_config(VoiceConfig, task.configs, [*overrides, "training.sample_texts=[]"])
    if task.arm != "scratch":
        return finetune
    # The sizes of the base, so that nothing but what was learned before is different.
    model = finetune.resolved().model
    return finetune.model_copy(update={"base": None, "model": model})


def _rows_moved(before: Any, after: Any, n_base: int) -> float:
    """Largest change of a token's vector below n_base, as a share of the mean vector's length."""
    import torch

    ids = torch.arange(1, n_base)[None]
    with torch.no_grad():
        was, now = (model.encoder.embedding(ids)[0] for model in (before, after))
        return float((now - was).norm(dim=1).max() / was.norm(dim=1).mean())


def tables(results: dict[tuple[str, int, int], Any], options: argparse.Namespace) -> str:
    """Median of the seeds, least and greatest in brackets, in Markdown."""
    lines = []
    for title, key, digits in (
        ("New voice, naturalness", f"{options.split}/naturalness", 2),
        ("New voice, CER in %", f"{options.split}/cer", 1),
        ("New voice, held-out MCD in dB", f"{options.split}/mcd", 2),
        ("New voice, length ratio", f"{options.split}/length_ratio", 2),
        ("Languages of the base, change of naturalness", "forgetting/naturalness_change", 2),
        ("Languages of the base, change of CER in %", "forgetting/cer_change", 1),
        ("Languages of the base, change of held-out MCD in dB", "forgetting/mcd_change", 2),
        ("Languages of the base, change of mel MSE", "forgetting/aligned_mel_mse_change", 3),
        ("Largest change of an old token's vector, share of a vector's length", "rows_moved", 3),
    ):
        lines += ["", f"**{title}**", "", "| | " + " | ".join(map(str, options.sizes)) + " |"]
        lines.append("| --- |" + " --- |" * len(options.sizes))
        for arm in options.arms:
            values = [[results[arm, n, s].get(key) for s in range(options.seeds)]
                      for n in options.sizes]  # fmt: skip
            if None not in values[0]:
                cells = (_cell(of_size, digits) for of_size in values)
                lines.append(f"| {ARMS[arm][0]} | " + " | ".join(cells) + " |")
    befores = [r["before/forgetting/mcd"] for r in results.values() if "forgetting/mcd" in r]
    facts = ", ".join(map(str, machine_facts(["torch"]).values()))
    lines += ["", f"{options.steps} steps a run, {options.seeds} seeds; {facts}"]
    if befores:
        lines.append(f"The base's languages before: {median(befores):.2f} dB")
    return "\n".join(lines).strip()


def _cell(values: Sequence[float], digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


if __name__ == "__main__":
    sys.exit(main())
