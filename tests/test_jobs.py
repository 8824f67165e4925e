"""What people run: help, errors of one line, and the way from a run to figures and speech."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from base_fixtures import write_base
from training_fixtures import with_a_long_test

from data_prep.recipes.espeak import SAMPLE_SENTENCES, read_sentences
from dimts.cli import COMMANDS, config_parser, run_job
from dimts.commands.demo import SENTENCE, naturalness, print_next_steps
from dimts.commands.report import metrics_table, print_result
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.families.registry import get_family
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
ACOUSTIC = get_family("acoustic")
CONFIGS = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
JOBS = sorted(name.replace("-", "_") for name in COMMANDS)
Ended = tuple[int, str, str]
Run = Callable[..., Ended]


def command_of(job: str) -> Any:
    return importlib.import_module(f"dimts.commands.{job}")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a job, or any function, as a command: its exit code and what it printed."""

    def command(job: str | Callable[[], int | None], *arguments: str) -> Ended:
        main = command_of(job).main if isinstance(job, str) else job
        monkeypatch.setattr(sys, "argv", [f"{job}.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_job(main)
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return command


@pytest.mark.parametrize("job", JOBS)
def test_every_job_explains_itself(run: Run, job: str) -> None:
    code, out, err = run(job, "--help")
    assert code == 0
    assert err == ""
    assert out.startswith("usage: ")
    description = command_of(job).__doc__ or "no description"
    assert " ".join(description.split()[:8]) in " ".join(out.split())


@pytest.mark.parametrize("job", JOBS)
def test_every_job_refuses_what_it_does_not_know(run: Run, job: str) -> None:
    code, out, err = run(job, "--colour", "red")
    assert code == 2
    assert out == ""
    assert "--colour" in err or "required" in err or "invalid choice" in err


# Errors


def test_user_error_is_one_line_and_exit_2(run: Run) -> None:
    def job() -> None:
        raise UserError("no such corpus; name another")

    assert run(job) == (2, "", "error: no such corpus; name another\n")


def test_what_an_error_quotes_cannot_drive_the_terminal(run: Run) -> None:
    def job() -> None:
        raise UserError("no such corpus: \x1b[2J\nerror: none\u202e")

    assert run(job) == (2, "", "error: no such corpus: \\x1b[2J\\nerror: none\\u202e\n")


def test_other_error_is_one_line_and_its_traceback_is_kept(run: Run) -> None:
    def job() -> None:
        raise ZeroDivisionError("by\nzero")

    code, out, err = run(job)
    assert (code, out) == (1, "")
    assert err.startswith("error: ZeroDivisionError: by (traceback: ")
    log = Path(err.rstrip(")\n").rsplit(" ", 1)[1])
    assert "raise ZeroDivisionError" in log.read_text()
    log.unlink()


def test_ctrl_c_is_no_traceback(run: Run) -> None:
    def job() -> None:
        raise KeyboardInterrupt

    assert run(job) == (130, "", "stopped\n")


def test_exit_code_is_the_jobs(run: Run) -> None:
    assert run(lambda: 3)[0] == 3
    assert run(lambda: None)[0] == 0


def test_config_may_be_required_or_have_a_default() -> None:
    assert config_parser("").parse_args(["--config", "a", "--config", "b"]).config == ["a", "b"]
    with pytest.raises(SystemExit):
        config_parser("").parse_args([])
    assert config_parser("", default="x").parse_args(["--set", "a=1"]).overrides == ["a=1"]


# What is shipped


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_sample_texts_can_be_said_and_are_not_trained_on(file: Path) -> None:
    config = load_config(VoiceConfig, [file])
    tokenizer = Tokenizer.from_language(load_language(config.text.language), config.text)
    trained_on = read_sentences(SAMPLE_SENTENCES)
    assert config.training.sample_texts
    for text in config.training.sample_texts:
        assert tokenizer.encode(text)
        assert text not in trained_on


def test_sentence_of_the_demo_is_not_trained_on() -> None:
    config = load_config(VoiceConfig, [ROOT / "jobs" / "configs" / "sample_am.yaml"])
    tokenizer = Tokenizer.from_language(load_language("am"), config.text)
    said = tokenizer.encode(SENTENCE)
    trained_on = read_sentences(SAMPLE_SENTENCES)
    assert said not in [tokenizer.encode(text) for text in trained_on]


def test_demo_names_the_place_of_its_voice(capsys: pytest.CaptureFixture[str]) -> None:
    file = ROOT / "jobs" / "configs" / "sample_am.yaml"
    config = load_config(VoiceConfig, [file], ["run.storage=s3://voices/runs"])
    heard = {"test/naturalness": 3.0, "test/recorded_naturalness": 4.5}
    print_next_steps(config, 1.0, 1.0, naturalness(heard))
    printed = capsys.readouterr().out
    assert "--model s3://voices/runs/sample_am --text" in printed
    assert "studio --model s3://voices/runs/sample_am, then http://" in printed
    assert "3.00 of 5 by DistillMOS; the recordings have 4.50" in printed
    assert "dimts evaluate --judges" in naturalness({})


# What a run ends with


def test_table_has_a_column_for_each_split() -> None:
    figures = {f"{split}/mcd": 1.5 for split in ("val", "test")}
    figures |= {f"{split}/utterances": 27.0 for split in ("val", "test")}
    header, mcd, utterances = metrics_table(ACOUSTIC, figures).splitlines()
    assert header.split() == ["held-out", "metrics", "val", "test"]
    assert mcd.split()[-2:] == ["1.500", "1.500"]
    assert utterances.split()[-2:] == ["27", "27"]
    assert metrics_table(ACOUSTIC, {"val/total_loss": 1.0}) == ""


@pytest.mark.parametrize(
    ("status", "best", "last_line"),
    [
        ("finished", "x", "voice: runs/a/checkpoint_best"),
        ("early_stopped", "x", "voice: runs/a/checkpoint_best"),
        ("stopped", "x", "start it again to go on from the checkpoint"),
        ("finished", None, "finished at step 7"),
    ],
)
def test_result_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], status: str, best: str | None, last_line: str
) -> None:
    print_result(
        ACOUSTIC, Path("runs/a"), {"status": status, "step": 7, "metrics": {}, "best": best}
    )
    assert capsys.readouterr().out.splitlines()[-1] == last_line


def test_run_is_trained_measured_and_heard(run: Run, voice_file: Path, tmp_path: Path) -> None:
    voice = ["--config", str(voice_file), "--set", f"run.storage={tmp_path}"]
    code, out, err = run("train", *voice, "--set", "training.log_every=6")
    assert (code, err) == (0, "")
    assert "step     12   loss" in out
    assert "finished at step 12" in out
    assert out.rstrip().endswith(f"voice: {tmp_path / 'tiny' / 'checkpoint_best'}")

    table = tmp_path / "figures.csv"
    model = ["--model", str(tmp_path / "tiny")]
    code, measured, _ = run("evaluate", *voice, *model, "--csv", str(table))
    assert code == 0
    assert same_row(measured, out, "mel-cepstral distortion")
    assert same_row(measured, out, "total length")
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert {row["split"] for row in rows} == {"val", "test"}
    assert len({row["id"] for row in rows}) == len(rows)

    code, out, _ = run("synthesize", *model, "--text", "ሰላም።", "--out", str(tmp_path / "a.wav"))
    assert code == 0
    assert out.startswith(str(tmp_path / "a.wav"))
    assert (tmp_path / "a.wav").stat().st_size > 1000


def test_voice_that_reads_otherwise_than_the_features_is_not_measured(
    run: Run, voice_file: Path, tmp_path: Path
) -> None:
    folds = TextConfig(language="am", fold_homophones=True)
    model = write_base(tmp_path / "folds", Tokenizer.from_language(load_language("am"), folds))
    code, _, err = run("evaluate", "--config", str(voice_file), "--model", str(model))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "trained with text.fold_homophones=True" in err


def test_utterance_too_short_to_be_measured_is_one_line(
    run: Run, voice_file: Path, tmp_path: Path
) -> None:
    features = load_config(VoiceConfig, [voice_file]).prepare.features
    assert isinstance(features, Path)
    long = with_a_long_test(features, tmp_path / "features")
    tokenizer = Tokenizer.from_language(load_language("am"), TextConfig(language="am"))
    model = write_base(tmp_path / "voice", tokenizer)
    there = ["--config", str(voice_file), "--set", f"prepare.features={tmp_path}/features"]
    code, _, err = run("evaluate", *there, "--model", str(model), "--split", "test")
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"{long}: " in err
    assert "frames are too few" in err


def same_row(one: str, other: str, title: str) -> bool:
    """Whether two outputs hold the same line that begins with `title`."""
    first, second = ([x for x in out.splitlines() if x.startswith(title)] for out in (one, other))
    return len(first) == 1 and first == second


def test_quiet_console(run: Run, voice_file: Path, tmp_path: Path) -> None:
    """Nothing but progress and the result: no warning of a library, no banner."""
    quiet = ["--config", str(voice_file), "--set", f"run.storage={tmp_path}"]
    _, out, err = run("train", *quiet, "--set", "training.max_steps=2")
    assert err == ""
    kinds = (
        "step ", "finished", "held-out", "voice: ", "mel-cep", "  the same", "distortion /",
        "total length", "duration error", "log-mel MSE", "utterances",
    )  # fmt: skip
    assert [line for line in out.splitlines() if line and not line.startswith(kinds)] == []
