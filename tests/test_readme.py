"""Every command that the README and docs/ show does what they say, with fewer steps."""

from __future__ import annotations

import json
import lzma
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from machine_fixtures import AVX2

from dimts.cli import COMMANDS

ROOT = Path(__file__).parents[1]
SHORT = [
    "--set",
    "training.max_steps=4",
    "--set",
    "training.batch_size=4",
    "--set",
    "training.aligner.iterations=2",
    "--set",
    "ray.workers=0",
]
TINY = ["--config", str(ROOT / "jobs/configs/models/tiny.yaml"), *SHORT]
FROM_BASE = [*SHORT, "--set", "base.held_out=1"]
"""The sizes are then those of the base."""
SMALL_SWEEP = [
    "--set", "sweep.trials=2", "--set", "sweep.utterances=32", "--set", "sweep.validations=2",
    "--set", "sweep.parallel=1",
]  # fmt: skip
NO_LIMITS = ["--length-tolerance", "9", "--max-forgetting", "99", "--max-of-mean-mel", "9"]
"""A voice of four steps keeps no time."""
COMMAND = re.compile(
    r"^ +(?:PYTHONPATH=\S+ )?(?:\.venv/bin/)?(?:python (?=benchmarks/)|(?=dimts ))(.*)$"
)
ELSEWHERE = {
    "dimts asterisk-corpus": "needs Debian's package server: tests/test_asterisk_recipe.py",
    "dimts segment": "tests/test_segment.py",
    "benchmarks/segment.py": "tests/test_segment.py",
    "benchmarks/misfits.py": "tests/test_doctor.py",
    "benchmarks/pieces.py": "tests/test_pieces.py",
    "benchmarks/mel.py": "tests/test_mel.py and tests/test_benchmarks.py",
    "benchmarks/loop.py": "tests/test_benchmarks.py",
    "benchmarks/gpu.py": "tests/test_benchmarks.py",
    "benchmarks/precision.py": "tests/test_benchmarks.py",
    "benchmarks/synthesis.py": "tests/test_benchmarks.py",
    "benchmarks/gpu_voice.py": "needs a GPU: tests/test_benchmarks.py",
    "benchmarks/loop_slices.py": "tests/test_benchmarks.py",
    "benchmarks/transfer.py": "tests/test_benchmarks.py",
    "benchmarks/tune.py": "tests/test_tune_benchmark.py",
    "benchmarks/faults.py": "tests/test_faults.py",
    "benchmarks/soak.py": "tests/test_soak.py",
    "benchmarks/prepare_faults.py": "tests/test_prepare_killed.py",
    "benchmarks/tracking_away.py": "tests/test_tracking_away_benchmark.py",
    "benchmarks/submit.py": "tests/test_submit.py",
    "benchmarks/scaling.py": "tests/test_scaling.py",
    "benchmarks/cleaning.py": "tests/test_cleaning.py",
    "benchmarks/prepare.py": "tests/test_prepare_engines.py",
    "benchmarks/two_nodes.py": "tests/test_nodes.py",
    "benchmarks/chatterbox_parity.py": "tests/test_chatterbox_parity.py",
    "benchmarks/chatterbox.py": "tests/test_chatterbox_way.py",
    "dimts extend --base chatterbox": "tests/test_chatterbox_vocabulary.py",
    "dimts prepare --config chatterbox/": "tests/test_chatterbox_way.py",
    "dimts train --config chatterbox/": "tests/test_chatterbox_way.py",
    "dimts tune --config chatterbox/": "tests/test_chatterbox_way.py",
    "dimts promote --config chatterbox/": "tests/test_chatterbox_way.py",
    "dimts synthesize --model runs/chatterbox_tiny": "tests/test_chatterbox_way.py",
    "dimts export --model": "tests/test_chatterbox_way.py",
    "benchmarks/runtime.py": "tests/test_export_elsewhere.py",
    "benchmarks/serve.py": "tests/test_serving_ray.py",
    "benchmarks/new_languages.py": "tests/test_language_draft.py",
    "dimts serve": "tests/test_serving_ray.py",
    "dimts sample-corpus --engine espeak --voice ka": "tests/test_language_draft.py",
    "dimts sample-corpus --voice en": "tests/test_natural_corpus.py",
    "dimts language new ka": "tests/test_language_draft.py",
    "dimts prepare --config configs/ka.yaml": "tests/test_language_draft.py",
    "dimts train --config configs/ka.yaml": "tests/test_language_draft.py",
    "dimts synthesize --model runs/ka": "tests/test_language_draft.py",
    "dimts evaluate --config configs/ka.yaml": "tests/test_judges.py",
    "dimts train --config recogniser/sample_am": "tests/test_recogniser.py",
    "dimts evaluate --config sample_am_finetune": "tests/test_recogniser.py",
    "benchmarks/vocoder_quality.py": "tests/test_benchmarks.py",
    "benchmarks/judges.py": "tests/test_judges.py",
    "dimts ui --auth": "tests/test_loopback.py",
    "dimts studio": "tests/test_studio_browser.py",
    "dimts pretrain --config jobs/configs/mix/natural.yaml --export": "tests/test_pretrain.py",
    "dimts tune --config jobs/configs/sample_am_finetune.yaml": (
        "tests/test_space.py and tests/test_tune_job.py"
    ),
}


def shown_commands() -> list[str]:
    """Commands in the order of the documents, each once."""
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for d in documents for line in d.read_text(encoding="utf-8").splitlines()]
    found = [m[1] for line in lines if (m := COMMAND.match(line)) and "MODEL" not in line]
    return list(dict.fromkeys(found))


def test_documents_show_commands() -> None:
    commands = shown_commands()
    assert {"prepare", "train", "synthesize"} <= {
        c.split()[1] for c in commands if c.startswith("dimts ")
    }
    for start in ELSEWHERE:
        assert any(c.startswith(start) for c in commands), f"{start}: no document shows it"
    for program, *words in map(str.split, commands):
        there = words[0] in COMMANDS if program == "dimts" else (ROOT / program).is_file()
        assert there, f"{program} {words} is shown, but is not there"


def add_base(folder: Path) -> None:
    """The base that ships, and some of the sentences that it was made from."""
    from data_prep.recipes.espeak import read_sentences

    (folder / "bases").symlink_to(ROOT / "bases")
    texts = folder / "data_prep" / "base_texts"
    texts.mkdir(parents=True)
    for file in (ROOT / "data_prep" / "base_texts").iterdir():
        some = "\n".join(read_sentences(file)[:24]).encode()
        (texts / file.name).write_bytes(lzma.compress(some) if file.suffix == ".xz" else some)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory, spoken_corpus: Path) -> Path:
    """A folder in which a newcomer works, with the corpora that the shipped voices name."""
    folder = tmp_path_factory.mktemp("newcomer")
    add_base(folder)
    (folder / "corpora").mkdir()
    (folder / "corpora" / "sample_am").symlink_to(spoken_corpus)
    (folder / "recording.wav").symlink_to(next((spoken_corpus / "wavs").iterdir()))
    return folder


def program(command: str) -> list[str]:
    """A shown command as ``sys.argv``, with what makes it short."""
    script, *arguments = shlex.split(command)
    words = [script]
    if script == "dimts":
        script = arguments.pop(0)
        words.append(script)
    has_base = "finetune" in command or "sample_ti" in command
    if script in ("prepare", "train", "tune", "benchmarks/voices.py"):
        arguments += FROM_BASE if has_base else TINY
    if script == "tune":
        arguments += SMALL_SWEEP
    if script == "judge":
        arguments += ["--judges", "pitch"]  # tests/test_judges.py has all of them listen
    if script == "promote":
        arguments += NO_LIMITS
    if script == "sample-corpus" and "--sentences" not in arguments:
        arguments += ["--sentences", "sentences.txt", "--out", "corpora/two"]
    if script == "benchmarks/voices.py":
        words = [str(ROOT / script)]
        arguments += ["--seeds", "1", "--set", "tracking.enabled=false"]
    return [*words, *arguments]


ONE_AFTER_THE_OTHER = """
import io, json, runpy, sys
from contextlib import redirect_stdout
from pathlib import Path

from dimts.cli import main

said = []
for sys.argv in json.load(sys.stdin):
    with redirect_stdout(io.StringIO()) as printed:
        try:
            main() if sys.argv[0] == "dimts" else runpy.run_path(sys.argv[0], run_name="__main__")
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
    said.append(printed.getvalue())
    if status:
        sys.exit(f"{sys.argv}: {status}")
Path("said.json").write_text(json.dumps(said), encoding="utf-8")
"""
"""One process, as starting one takes longer than most of the commands."""


@pytest.mark.integration
def test_shown_commands_run_one_after_the_other(newcomer: Path) -> None:
    """Those that train, prepare and tune start as processes in tests/test_surroundings_ray.py."""
    commands = [c for c in shown_commands() if "asterisk" not in c]
    commands = [c for c in commands if not c.startswith(tuple(ELSEWHERE))]
    (newcomer / "sentences.txt").write_text("ሰላም ነው።\nዛሬ ዝናብ ጥሏል።\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER],
        cwd=newcomer,
        input=json.dumps([program(command) for command in commands]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads((newcomer / "said.json").read_text(encoding="utf-8"))
    outputs = dict(zip(commands, said, strict=True))
    assert (newcomer / "features" / "sample_am" / "manifest.json").is_file()
    assert (newcomer / "runs" / "sample_am" / "checkpoint_best").is_file()
    assert (newcomer / "mlflow.db").is_file()
    spoken = [c for c in commands if c.startswith("dimts synthesize")]
    assert spoken
    assert (newcomer / "output" / "speech.wav").stat().st_size > 10_000
    adapted = next(out for c, out in outputs.items() if "sample_am_finetune" in c)
    assert "languages of the base, dB" in adapted
    table = next(out for c, out in outputs.items() if c.startswith("benchmarks/voices.py"))
    assert "| MCD / untrained |" in table
    swept = next(out for c, out in outputs.items() if c.startswith("dimts tune"))
    assert "models:/sample_am@candidate" in swept
    promoted = next(out for c, out in outputs.items() if c.startswith("dimts promote"))
    assert "models:/sample_am@champion" in promoted


def test_demo_sentence_is_in_no_training_text() -> None:
    from data_prep.recipes.espeak import SAMPLE_SENTENCES, read_sentences
    from dimts.commands.demo import SENTENCE

    assert SENTENCE not in read_sentences(SAMPLE_SENTENCES)


@pytest.mark.integration
def test_demo_goes_from_nothing_to_speech_on_any_cpu(tmp_path: Path) -> None:
    """With the real Amharic sentences and every part of it, but few steps, as on a CPU that has
    AVX2 alone."""
    add_base(tmp_path)
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs/demo.py"), *FROM_BASE],
        cwd=tmp_path,
        env={**os.environ, **AVX2},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [took] = [line for line in done.stdout.splitlines() if line.startswith("training.amp: ")]
    assert took.startswith("training.amp: off, as ONEDNN")
    assert "mel-cepstral distortion, dB" in done.stdout
    assert "languages of the base, dB" in done.stdout
    assert (tmp_path / "output" / "demo.wav").stat().st_size > 10_000
