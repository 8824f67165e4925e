"""What a job may use of its machine: cores, precision, threads; and what it takes of that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from machine_fixtures import AVX2
from training_fixtures import Listener

from dimts.bundles.bundle import resolve_bundle
from dimts.commands.voice_config import VoiceConfig
from dimts.core import threads
from dimts.core.errors import UserError
from dimts.core.threads import fastest_threads, one_thread
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.launch.machine import resolve_on_machine
from dimts.launch.start import start_run
from dimts.launch.training_run import run_training
from dimts.training.checkpoint import BEST
from dimts.training.machine_choices import MachineChoices, read_choices, write_choices
from dimts.training.precision import choose_amp, slow_amp

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
Voice = Callable[..., VoiceConfig]
Settings = Callable[..., AcousticSettings]


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"platform{os.pathsep}.", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_are_those_that_affinity_leaves() -> None:
    code = "import os; os.sched_setaffinity(0, {0}); from dimts.core.environment import n_cores"
    assert python(f"{code}; print(n_cores())") == "1"


# Precision


def test_emulated_avx2_takes_float32_and_says_why() -> None:
    code = (
        "import torch; from dimts.training.precision import choose_amp; "
        "print(*choose_amp(torch.device('cpu')), sep='|')"
    )
    amp, reason = python(code, **AVX2).split("|")
    assert amp == "off"
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in reason


@pytest.mark.parametrize(("has_bf16", "amp"), [(True, "bf16"), (False, "off")])
def test_precision_is_what_the_cpu_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, amp: str
) -> None:
    for name in AVX2:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bf16})
    assert choose_amp(CPU).amp == amp
    assert bool(slow_amp(CPU, "bf16")) is not has_bf16


def test_run_keeps_the_precision_it_took_and_stores_it(voice: Voice) -> None:
    config = voice("training.amp=auto", "training.max_steps=4", "training.validate_every=2")
    start_run(config.launch(), config.ray)
    run_dir = config.run.run_dir
    choices = read_choices(run_dir)
    assert choices is not None
    assert choices.amp == choose_amp(CPU).amp
    # What a person wrote, and what it was to this run.
    written = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    shipped = yaml.safe_load(
        (resolve_bundle(run_dir / BEST) / "config.yaml").read_text(encoding="utf-8")
    )
    assert written["training"]["amp"] == "auto"
    assert shipped["training"]["amp"] == choices.amp
    assert any(line.startswith(f"training.amp: {choices.amp}, as ") for line in told(run_dir))


@pytest.mark.integration
def test_run_gone_on_with_elsewhere_keeps_its_precision_and_says_that_it_is_slow(
    voice: Voice, tmp_path: Path
) -> None:
    config = voice("training.amp=auto", "training.max_steps=4", "run.name=moved")
    run_dir = config.run.run_dir
    run_dir.mkdir()
    write_choices(run_dir, MachineChoices(amp="bf16"))  # of a machine where that was fast
    file = tmp_path / "voice.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    command = [sys.executable, "jobs/train.py", "--config", str(file)]
    environment = {**os.environ, **AVX2, "DIMTS_CACHE": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = f"platform{os.pathsep}."
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "training.amp: bf16, as the run was begun with, is slow here: " in done.stdout
    assert f"base.bundle={run_dir}" in done.stdout
    shipped = yaml.safe_load(
        (resolve_bundle(run_dir / BEST) / "config.yaml").read_text(encoding="utf-8")
    )
    assert shipped["training"]["amp"] == "bf16"


def test_what_auto_took_may_be_given_by_name_and_nothing_else(voice: Voice) -> None:
    steps = ("training.max_steps=2", "training.validate_every=2")
    config = voice("training.amp=auto", *steps)
    start_run(config.launch(), config.ray)
    choices = read_choices(config.run.run_dir)
    assert choices is not None
    other = "off" if choices.amp == "bf16" else "bf16"
    with pytest.raises(UserError, match=rf"begun with training\.amp=auto, not {other}; .*base\.b"):
        start_run(voice(f"training.amp={other}", *steps).launch(), config.ray)
    for amp in (choices.amp, "auto"):  # also back: the run's settings have its name now
        assert start_run(voice(f"training.amp={amp}", *steps).launch(), config.ray)["step"] == 2


def test_run_of_before_there_was_auto_goes_on_in_its_precision(voice: Voice) -> None:
    steps = ("training.max_steps=2", "training.validate_every=2")
    other = "off" if choose_amp(CPU).amp == "bf16" else "bf16"
    config = voice(f"training.amp={other}", *steps)
    start_run(config.launch(), config.ray)
    (config.run.run_dir / "machine.json").unlink()
    now = voice("training.amp=auto", *steps)
    assert start_run(now.launch(), now.ray)["status"] == "finished"
    choices = read_choices(config.run.run_dir)
    assert choices is not None
    assert choices.amp == other


def test_recorded_parameters_name_the_precision(voice: Voice) -> None:
    launch, line = resolve_on_machine(voice("training.amp=auto").launch(), CPU)
    assert launch.params["training.amp"] == launch.settings.training.amp != "auto"
    assert line.startswith(f"training.amp: {launch.settings.training.amp}, as ")
    again, _ = resolve_on_machine(voice("training.amp=auto").launch(), CPU)
    assert again.settings.training == launch.settings.training


def test_damaged_choices_are_one_line_that_names_the_file(voice: Voice) -> None:
    config = voice("training.max_steps=1")
    config.run.run_dir.mkdir()
    for text in ("[]", "{", '{"amp": "fast"}'):
        (config.run.run_dir / "machine.json").write_text(text)
        with pytest.raises(UserError, match=r"machine\.json"):
            start_run(config.launch(), config.ray)


# Threads


@pytest.mark.parametrize(
    ("seconds", "most", "expected"),
    [
        ({1: 1.0, 2: 0.6, 4: 0.4, 8: 0.39}, 8, 4),  # the last doubling saves nothing
        ({1: 1.0, 2: 0.95}, 2, 1),  # not worth a second core
        ({1: 1.0, 2: 20.0}, 2, 1),  # other work is there
        ({1: 1.0, 2: 0.6, 3: 0.4}, 3, 3),
        ({1: 1.0}, 1, 1),
    ],
)
def test_threads_are_added_while_they_pay(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], most: int, expected: int
) -> None:
    monkeypatch.setattr(threads, "_seconds", lambda _, counts: [seconds[n] for n in counts])
    with one_thread():
        assert fastest_threads(lambda: None, most) == expected
        assert torch.get_num_threads() == expected


def test_one_thread_is_for_what_is_inside_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_found_out_are_kept_with_the_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr("dimts.launch.machine.n_cores", lambda: 2)
    before, listener = torch.get_num_threads(), Listener(stop_after=2)
    try:
        run_training(settings("found", "training.threads=0"), listener)
        choices = read_choices(settings("found").run_dir)
        assert choices is not None
        assert choices.threads in (1, 2)
        assert f"training.threads: {choices.threads}, the fastest of up to 2" in listener.told
        other = 3 - choices.threads
        write_choices(settings("found").run_dir, choices.model_copy(update={"threads": other}))
        again = Listener(stop_after=1)
        run_training(settings("found", "training.threads=0"), again)
        assert torch.get_num_threads() == other
        assert not any("training.threads" in line for line in again.told)
    finally:
        torch.set_num_threads(before)


def test_threads_that_spin_are_not_added(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr("dimts.launch.machine.n_cores", lambda: 2)
    with one_thread():
        run_training(settings("spins", "training.threads=0"), Listener(stop_after=1))
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize("job", ["train", "demo", "pretrain"])
def test_threads_of_a_job_sleep_while_they_wait(job: str) -> None:
    """OpenMP reads it when torch is loaded, so no job that trains may load torch before."""
    code = (
        f"import runpy, sys; runpy.run_path('{ROOT}/jobs/{job}.py')\n"
        "from dimts.cli import run_job\n"
        "look = lambda: print('torch' in sys.modules, __import__('os').environ['OMP_WAIT_POLICY']);"
        "run_job(look)"
    )
    assert python(code) == "False PASSIVE"


def test_speaking_takes_one_thread(voice: Voice, voice_file: Path) -> None:
    config = voice("training.max_steps=1", "training.validate_every=1")
    result = start_run(config.launch(), config.ray)
    synthesizer = AcousticSpeaker.load(result["best"])
    seen: list[int] = []
    synthesizer.model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        synthesizer.speak("ሰላም")
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def told(run_dir: Path) -> list[str]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["text"] for line in lines if "text" in (event := json.loads(line))]
