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
from dimts.core.machine import cpu_quota
from dimts.core.threads import fastest_threads, one_thread
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.launch.machine import resolve_on_machine
from dimts.launch.start import start_run
from dimts.launch.training_run import run_training
from dimts.training.checkpoint import BEST
from dimts.training.machine_choices import MachineChoices, read_choices, write_choices
from dimts.training.precision import FAST_ENOUGH, SLOW, bf16_share, choose_amp

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
CGROUP_1 = Path("/sys/fs/cgroup/cpu")
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
    code = "import os; os.sched_setaffinity(0, {0}); from dimts.core.machine import n_cores"
    assert python(f"{code}; print(n_cores())") == "1"


@pytest.mark.skipif(not os.access(CGROUP_1, os.W_OK), reason="no control groups to be made here")
def test_cores_are_those_that_a_real_quota_pays_for() -> None:
    group = CGROUP_1 / f"dimts-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("100000")
        code = (
            f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()));"
            "from dimts.core.machine import n_cores, cpu_quota; print(n_cores(), cpu_quota())"
        )
        assert python(code) == "1 1.0"
    finally:
        group.rmdir()


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/", {"cpu.max": "250000 100000"}, 2.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/host/path", {"cpu.max": "50000 100000"}, 0.5),  # a container sees its own root
        ("4:cpu,cpuacct:/x", {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000",
                              "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 4.0),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("7:memory:/m", {"memory/m/cpu.max": "1 1"}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_quotas_of_both_versions_are_read(
    tmp_path: Path, cgroup: str, files: dict[str, str], quota: float | None
) -> None:
    (tmp_path / "cgroup").write_text(f"{cgroup}\n" if cgroup else "")
    for name, text in files.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert cpu_quota(tmp_path, tmp_path / "fs") == quota


# Precision


def test_emulated_avx2_takes_float32_and_says_why(tmp_path: Path) -> None:
    code = (
        "import torch; from dimts.training.precision import choose_amp; "
        "print(*choose_amp(torch.device('cpu')), sep='|')"
    )
    amp, reason = python(code, **AVX2, DIMTS_CACHE=str(tmp_path)).split("|")
    assert amp == "off"
    assert reason.startswith("bf16 convolutions take ")
    (file,) = tmp_path.rglob("bf16_share")
    assert float(file.read_text()) > SLOW


def test_choice_is_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMTS_CACHE", str(tmp_path))
    bf16_share.cache_clear()
    share = bf16_share()
    assert choose_amp(CPU).amp == ("bf16" if share <= FAST_ENOUGH else "off")
    (file,) = tmp_path.rglob("bf16_share")
    file.write_text("123.0")  # measured once a machine: the next process takes it from there
    code = "from dimts.training.precision import bf16_share; print(bf16_share())"
    assert python(code) == "123.0"
    other = python(code, ONEDNN_MAX_CPU_ISA="AVX512_CORE")
    assert other != "123.0"  # where something else is allowed it is another machine
    bf16_share.cache_clear()


def test_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code = "from dimts.training.precision import bf16_share; print(bf16_share())"
    assert float(python(code, DIMTS_CACHE=str(tmp_path / "file"))) > 0


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
    again = resolve_on_machine(voice("training.amp=auto").launch(), CPU)
    assert again.launch.settings.training == launch.settings.training


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
    monkeypatch.setattr("dimts.launch.training_run.n_cores", lambda: 2)
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
    monkeypatch.setattr("dimts.launch.training_run.n_cores", lambda: 2)
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
