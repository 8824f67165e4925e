"""From nothing to speech: sample corpus -> features -> voice -> wav, by the commands' own parts.

The voice is adapted from the base that ships, which speaks other languages; what it forgets of
them is measured, too.

dimts demo
dimts demo --set training.max_steps=200
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import dimts
from data_prep.pipeline import prepare
from data_prep.recipes.espeak import HIBARI, SAMPLE_SENTENCES, render_corpus
from dimts.audio.files import write_wav
from dimts.cli import config_parser
from dimts.commands.mix_config import MixConfig
from dimts.commands.pretrain import prepare_parts
from dimts.commands.report import print_result
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.environment import n_cores
from dimts.core.home import shipped
from dimts.core.ray_session import check_ray
from dimts.features.manifest import SUMMARY
from dimts.storage.paths import require_local

CONFIG, BASE = "jobs/configs/sample_am_finetune.yaml", "jobs/configs/mix/natural.yaml"
SENTENCE = "ሰላም! እኔ ከድምፅ የተማርኩ አዲስ አማርኛ ተናጋሪ ነኝ።"
"""Stands in no text that the voice is trained on; a test holds that."""
OUT = Path("output/demo.wav")


def main() -> None:
    """Run the demo and say what came out and where to go on."""
    arguments = config_parser(__doc__ or "", default=CONFIG).parse_args()
    judge = ["judges.names=[naturalness]"] if find_spec("distillmos") else []
    overrides = [*judge, *arguments.overrides]
    if not (arguments.config or any(one.startswith("ray.") for one in overrides)):
        # Two processes share a batch a third faster than two threads do.
        overrides.append(f"ray.workers={min(2, n_cores())}")
    config = load_config(VoiceConfig, arguments.config or [shipped(CONFIG)], overrides)
    if config.ray.workers:
        check_ray()  # before minutes of work that need none
    from dimts.launch.ray_train import connected
    from dimts.launch.start import start_run

    start = time.monotonic()
    with stage("1/4 corpora: sample sentences, and those of the base, spoken by hibari"):
        corpus = require_local(config.corpus.path, "the sentences are spoken into a folder")
        language = config.corpus.language or "am"
        render_corpus(SAMPLE_SENTENCES, corpus, language, engine=HIBARI)
        if config.base and config.base.features:  # to rehearse, and to measure
            base = load_config(MixConfig, [shipped(BASE)])
            wanted = {folder.absolute() for folder in config.base.features}
            prepare_parts(base, [p for p in base.parts if p.prepare.features.absolute() in wanted])
    with connected(config.ray) if config.ray.workers else nullcontext():
        with stage("2/4 features: log-mel in Arrow"):
            prepare(config.corpus, config.text, config.of_family.extractors(config), config.prepare)
            print((config.prepare.features / SUMMARY).read_text(encoding="utf-8"), end="")
        with stage(f"3/4 training: {config.training.max_steps} steps"):
            result = start_run(config.launch(), config.ray)
    print_result(config.of_family, config.run.place, result)
    if result["status"] == "stopped":
        return
    with stage("4/4 speech"):
        speaker = dimts.load(str(config.run.place))
        wave = speaker.speak(SENTENCE)
        write_wav(OUT, wave, speaker.sample_rate)
    seconds = len(wave) / speaker.sample_rate
    print_next_steps(config, seconds, time.monotonic() - start, naturalness(result["metrics"]))


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    print(f"\n{title}", flush=True)
    start = time.monotonic()
    yield
    print(f"took {time.monotonic() - start:.0f} s", flush=True)


def naturalness(metrics: Mapping[str, float]) -> str:
    """How natural the voice is beside its recordings, or how that can be heard."""
    if "test/naturalness" not in metrics:
        return 'pip install "dimts[judges]", then dimts evaluate --judges naturalness'
    ours, theirs = metrics["test/naturalness"], metrics["test/recorded_naturalness"]
    return f"{ours:.2f} of 5 by DistillMOS; the recordings have {theirs:.2f}"


def print_next_steps(config: VoiceConfig, seconds: float, total: float, natural: str) -> None:
    """The end of the demo."""
    run = config.run.place
    command = "dimts" if which("dimts") else os.path.relpath(Path(sys.executable).parent / "dimts")
    print(
        f"""
Done in {total:.0f} s.
  hear it   {OUT}  ({seconds:.1f} s)  {SENTENCE}
  natural   {natural}
  see it    {run}/samples/samples.html
  the run   make ui, then http://127.0.0.1:5000
  say more  {command} synthesize --model {run} --text "..."
  studio    {command} studio --model {run}, then http://127.0.0.1:7860

Your own corpus: a folder with metadata.csv (id|text) and wavs/. Copy
{shipped(CONFIG)}
name your folder in it, then run {command} prepare and {command} train
with --config YOURS.yaml."""
    )
