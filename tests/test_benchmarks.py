"""The benchmarks of the loop run and measure what they say; figures are not judged here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from benchmarks import listen, person
from benchmarks.flops import flops_a_frame, peak_flops
from benchmarks.synthetic import synthetic_corpus
from dimts.audio.mel import MelConfig
from dimts.families.acoustic.bundle import build_model
from dimts.families.acoustic.dataset import Corpus
from dimts.families.acoustic.model.config import ModelConfig
from dimts.features.feature_set import FeatureSet
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from conftest import BaseVoice

ROOT = Path(__file__).parents[1]
ABSENT = [
    *("ray", "mlflow", "optuna", "matplotlib", "tqdm", "pandas"),
    *("soundfile", "soxr", "librosa", "espeakng_loader"),
]
WITHOUT = "import runpy, sys; [sys.modules.__setitem__(n, None) for n in {names}]; " + (
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def run(*command: str) -> str:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": "platform:."}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_language(load_language("am"), TextConfig(language="am"))


@pytest.fixture(scope="module")
def corpus(tokenizer: Tokenizer) -> Corpus:
    return synthetic_corpus(40, tokenizer, MelConfig(), n_states=2)


@pytest.mark.slow
def test_gpu_benchmark_runs_on_a_cpu_with_torch_and_small_wheels_only(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    script = WITHOUT.format(names=ABSENT)
    table = run("-c", script, "benchmarks/gpu.py", "--quick", "--json", str(file))
    result = json.loads(file.read_text(encoding="utf-8"))
    cases = [(row["case"][2], row["case"][3]) for row in result["loop"]]
    assert cases == [(a, d) for a in ("off", "bf16") for d in ("given", "searched")]
    for row in result["loop"]:
        assert row["frames_per_second"] > 0
        assert 0 <= row["data_wait_share"] < 1
        assert (row["search_ms"] is not None) == (row["case"][3] == "searched")
        assert (row["peak_gib"] is None) == (not torch.cuda.is_available())
        assert row["flops_a_frame"] > 1e5
    assert all(mel["max_abs"] < 1e-3 for mel in result["mel"].values())
    assert result["failed"] == {}
    assert "| tiny | 4 | bf16 | searched |" in table


@pytest.mark.integration
def test_precision_benchmark_measures_what_auto_takes(tmp_path: Path) -> None:
    file = tmp_path / "precision.json"
    table = run("benchmarks/precision.py", "--quick", "--json", str(file))
    result = json.loads(file.read_text(encoding="utf-8"))
    (row,) = result["rows"]
    seconds = row["seconds"]
    assert row["size"] == "tiny"
    assert {"off", "bf16"} <= seconds.keys()
    assert all(value > 0 for value in seconds.values())
    ratio = seconds[result["auto"]] / min(seconds.values())
    [line] = [line for line in table.splitlines() if line.startswith("| tiny |")]
    assert f"| {ratio:.2f}" in line


@pytest.mark.slow
def test_synthesis_benchmark_pairs_both_sides() -> None:
    table = run("benchmarks/synthesis.py", "--pairs", "1")
    rows = [line for line in table.splitlines() if line.startswith("| a ")]
    assert len(rows) == 2
    for row in rows:
        _, _, alone, beside, ratio, _ = (cell.strip() for cell in row.split("|"))
        assert float(ratio) == pytest.approx(float(beside) / float(alone), abs=0.02)


@pytest.mark.integration
def test_vocoder_benchmark_has_a_row_for_each_way_to_speak() -> None:
    table = run("benchmarks/vocoder.py", "--seconds", "1", "--rounds", "1")
    rows = dict(line.strip("| ").split(" | ") for line in table.splitlines() if "|" in line)
    assert {"whole", "F0 given", "in chunks", "Griffin-Lim"} < rows.keys()
    assert float(rows["whole"]) > 0


@pytest.mark.integration
def test_copies_of_a_vocoder_are_judged_beside_recordings(spoken_corpus: Path) -> None:
    words = ("--model", "bases/vocoder", "--speech", str(spoken_corpus), "--sentences", "2")
    table = run("benchmarks/vocoder_quality.py", *words, "--judges", "naturalness")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if "(2)" in line]
    scores = {row[1]: float(row[2].split()[0]) for row in rows}
    vocoder = next(name for name in scores if name.startswith("vocoder, step "))
    assert scores.keys() == {"recordings", vocoder, "Griffin-Lim"}
    assert scores["Griffin-Lim"] < scores[vocoder]


@pytest.mark.integration
def test_samples_are_of_each_sentence_in_five_ways(
    base: BaseVoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    manifest = FeatureSet.open(base.features[0]).manifest
    config, out = tmp_path / "voice.yaml", tmp_path / "samples"
    sections = {"corpus": {"path": str(manifest.corpus.path)}, "text": {"language": "es"}}
    sections |= {"prepare": {"features": str(base.features[0])}, "run": {"name": "any"}}
    config.write_text(yaml.safe_dump(sections), encoding="utf-8")
    words = ["--config", str(config), "--sentences", "1", "--out", str(out)]
    voices = ["--old", str(base.run_dir), "--new", str(base.exported)]
    monkeypatch.setattr(sys, "argv", ["listen.py", *words, *voices])
    listen.main()
    rates = {file.name: soundfile.info(file).samplerate for file in out.glob("*.ogg")}
    assert rates.keys() == {f"1_{kind}.ogg" for kind in listen.KINDS}
    assert {*rates.values()} == {manifest.mel.sample_rate}
    table = capsys.readouterr().out
    assert all(f"](samples/{name})" in table for name in rates)


@pytest.mark.integration
@pytest.mark.skipif(torch.cuda.is_available(), reason="would train for minutes")
def test_gpu_voice_says_in_one_line_that_it_needs_a_gpu() -> None:
    command = ["benchmarks/gpu_voice.py", "--config", "jobs/configs/sample_am.yaml"]
    environment = {**os.environ, "PYTHONPATH": "platform:."}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "error: torch finds no CUDA device\n")


@pytest.mark.slow
def test_loop_benchmark_trains_the_same_bare_and_on_ray(tmp_path: Path) -> None:
    file = tmp_path / "loop.json"
    table = run("benchmarks/loop.py", "--quick", "--json", str(file))
    result = json.loads(file.read_text(encoding="utf-8"))
    (bare,), (ray,) = result["runs"]["bare"], result["runs"]["ray"]
    assert len(bare["losses"]) == 8
    assert bare["losses"] == ray["losses"]
    for of_side in (bare, ray):
        check_clocks(of_side)
    assert result["overhead"]["step"] == [ray["step"] / bare["step"] - 1]
    assert "| a step, the loop's clock, ms |" in table


@pytest.mark.slow
def test_slices_compare_the_same_steps_bare_and_on_ray(voice_file: Path) -> None:
    features = yaml.safe_load(voice_file.read_text("utf-8"))["prepare"]["features"]
    line = run(
        "benchmarks/loop_slices.py", "--config", str(voice_file), "--features", features,
        "--steps", "6", "--warmup", "2", "--threads", "1", "--slice-s", "0.5",
    )  # fmt: skip
    assert re.match(r"Ray adds [+-]\d+\.\d\d% to a step \(95 % interval .*; 6 steps of ", line)


@pytest.mark.slow
def test_transfer_benchmark_compares_arms_on_equal_terms(
    base: BaseVoice, voice_file: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start.yaml"
    start.write_text(
        yaml.safe_dump(
            {"base": {"bundle": str(base.run_dir), "features": [*map(str, base.features)]}}
        )
    )
    out = tmp_path / "out"
    command = [
        "benchmarks/transfer.py", "--quick", "--config", str(voice_file), "--config", str(start),
        "--out", str(out), "--set", "training.amp=auto",
    ]  # fmt: skip
    table = run(*command)
    results = {f.name.split("-")[0]: json.loads(f.read_text("utf-8")) for f in out.iterdir()}
    assert results.keys() == {"scratch", "rehearsal_50_rows"}
    scratch, rehearsed = results["scratch"], results["rehearsal_50_rows"]
    assert scratch["test/utterances"] == rehearsed["test/utterances"] > 0
    assert scratch["test/mcd"] != rehearsed["test/mcd"]
    assert "forgetting/mcd" not in scratch
    change = rehearsed["forgetting/mcd"] - rehearsed["before/forgetting/mcd"]
    assert rehearsed["forgetting/mcd_change"] == pytest.approx(change)
    assert rehearsed["rows_moved"] == 0, "they are frozen"
    assert f"| from scratch | {scratch['test/mcd']:.2f} |" in table
    assert f"| rehearsal 0.5 + rows frozen | {rehearsed['test/mcd']:.2f} |" in table

    before = {f.name: f.stat().st_mtime_ns for f in out.iterdir()}
    assert run(*command).splitlines()[:5] == table.splitlines()[:5]
    assert {f.name: f.stat().st_mtime_ns for f in out.iterdir()} == before, "kept, not repeated"


def check_clocks(run: dict[str, Any]) -> None:
    in_loop = 6 * run["loop"]
    assert 0 < 6 * run["step"] < in_loop
    # Two steps are not counted; the second of them lies between the two spans.
    assert run["first_step"] + in_loop + run["after"] < run["total"]


@pytest.mark.integration
def test_loop_benchmark_refuses_a_wrong_setting_in_one_line() -> None:
    command = [sys.executable, "benchmarks/loop.py", "--features=x", "--set=training.speed=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --set: training.speed: unknown key")
    assert done.stderr.count("\n") == 1


def test_synthetic_utterances_can_be_aligned(corpus: Corpus, tokenizer: Tokenizer) -> None:
    assert corpus.durations is not None
    hop_s = MelConfig().hop_length / MelConfig().sample_rate
    for i, (ids, durations) in enumerate(zip(corpus.tokens, corpus.durations, strict=True)):
        n_frames = corpus.utterances.n_frames[i]
        assert corpus.utterances.mel(i).shape == (n_frames, MelConfig().n_mels)
        assert durations.sum() == n_frames
        assert durations.min() >= 1
        assert durations.shape == (len(ids), 2)
        assert ids.max() < tokenizer.n_vocab
        assert 1.4 < n_frames * hop_s < 10.1


def test_synthetic_utterances_depend_on_the_seed_alone(tokenizer: Tokenizer) -> None:
    corpora = [synthetic_corpus(5, tokenizer, MelConfig(), 2, seed) for seed in (0, 0, 1)]
    same, other = (
        all(np.array_equal(a.utterances.mel(i), b.utterances.mel(i)) for i in range(5))
        for a, b in pairwise(corpora)
    )
    assert same
    assert not other


def test_flops_of_a_wider_decoder_grow_as_its_matrices_do(
    corpus: Corpus, tokenizer: Tokenizer
) -> None:
    def flops(channels: int) -> float:
        config = ModelConfig.model_validate(
            {"width": 16, "encoder": {"layers": 1, "heads": 1, "feed_forward": 16},
             "duration": {"channels": 8}, "decoder": {"channels": channels, "blocks": 2}}
        )  # fmt: skip
        model = build_model(config, tokenizer, torch.zeros(80), torch.ones(80))
        return flops_a_frame(model, corpus.collate([0, 1]))

    def decoder(channels: int) -> int:
        """Multiply-adds count twice; backward is forward for the inputs and for the weights."""
        blocks = 2 * (channels * 2 * channels * 5 + channels * channels)
        return 3 * 2 * (16 * channels + blocks + channels * 80)

    assert flops(64) - flops(32) == pytest.approx(decoder(64) - decoder(32), rel=1e-6)


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_flops(torch.device("cpu"), "float32") is None


def test_errors_in_several_sets_of_sentences_count_by_their_letters() -> None:
    short = {"yes": {"cer": 10.0, "characters": 10.0, "naturalness": 4.0}}
    long = {"a sentence": {"cer": 2.0, "characters": 30.0}}
    assert person.mean({"heard": short, "unheard": long}, "cer") == pytest.approx(4.0)
    assert person.mean({"heard": short, "unheard": long}, "naturalness") == 4.0
    assert person.mean({"unheard": long}, "naturalness") is None
