"""A training whose parts are killed at random steps ends with the bits of an undisturbed one.

Real processes, a real Ray, several raylets. How long each fault takes is measured by
`benchmarks/faults.py`, which injects them the same way.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from faults.grounds import cluster, small_disk
from faults.injection import MARK, Training
from faults.kinds import KINDS, interruption

from dimts.bundles.bundle import resolve_bundle
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.launch.start import start_run
from dimts.training.checkpoint import LATEST

EVERY = 10
STEPS = 60
SHORTER = 5
"""Steps of the tests' voice are so much shorter than the benchmark's, or more."""
HOW = (
    f"training.max_steps={STEPS}", f"training.checkpoint_every={EVERY}", "training.log_every=1",
    "model.encoder.dropout=0.1", "model.duration.dropout=0.1", "model.decoder.dropout=0.1",
    "training.ema_decay=0.9", "training.aligner.fixed_share=0.5",
)  # fmt: skip
WAYS: dict[str, tuple[str, ...]] = {
    "float32": ("training.accumulate=2", "training.patience=3", "training.validate_every=15"),
    "bf16": ("training.amp=bf16", "training.validate_every=20"),
}
Adapted = Callable[..., VoiceConfig]


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of a seed that a failure shows; DIMTS_SEED repeats it."""
    seed = int(os.environ.get("DIMTS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"DIMTS_SEED={seed}")
    return random.Random(f"{seed} {request.node.name}")


def undisturbed(config: VoiceConfig) -> bytes:
    start_run(config.launch(), config.ray)
    return weights(config.run.run_dir)


def weights(run_dir: Path) -> bytes:
    return (resolve_bundle(run_dir / LATEST) / "model.safetensors").read_bytes()


class Disturbed(NamedTuple):
    """A training to be disturbed, and all that it needs around it."""

    training: Training
    nodes: Any


@pytest.fixture
def disturbed(tmp_path: Path) -> Iterator[Callable[..., Disturbed]]:
    """``disturbed(configs, *overrides, nodes=2)``: a training that is not started yet."""
    with ExitStack() as stack:

        def build(configs: list[Path], *overrides: str, nodes: int = 0) -> Disturbed:
            environment = {MARK: tmp_path.name}
            ray = stack.enter_context(cluster(nodes, environment)) if nodes else None
            storage = [f"run.storage={tmp_path}", "run.name=disturbed"]
            run_dir = tmp_path / "disturbed"
            training = Training(configs, [*overrides, *storage], run_dir, environment)
            stack.callback(training.stop)
            return Disturbed(training, ray)

        yield build


@pytest.mark.integration
@pytest.mark.parametrize("way", ["bf16", pytest.param("float32", marks=pytest.mark.slow)])
def test_process_killed_at_any_step_goes_on_bit_for_bit(
    voice_file: Path,
    tmp_path: Path,
    disturbed: Callable[..., Disturbed],
    draw: random.Random,
    way: str,
) -> None:
    """Between checkpoints, across epochs, in both phases of the alignment."""
    how = (*HOW, *WAYS[way])
    expected = undisturbed(load_config(VoiceConfig, [voice_file], [*how, *at(tmp_path)]))
    training, _ = disturbed([voice_file], *how)
    for step in sorted(draw.sample(range(3, STEPS - 5), 2)):
        training.start()
        training.wait_for_step(step)
        training.kill_driver()
    training.start()
    assert training.wait_for_end() == 0, training.console.read_text()
    assert weights(training.run_dir) == expected
    assert training.starts == 3


def at(folder: Path) -> list[str]:
    return [f"run.storage={folder}", "run.name=undisturbed"]


@pytest.mark.slow
def test_rehearsing_process_killed_at_any_step_goes_on_bit_for_bit(
    adapted: Adapted, tmp_path: Path, disturbed: Callable[..., Disturbed], draw: random.Random
) -> None:
    """Frozen rows of a base, its languages in a part of the batches."""
    how = (*HOW, "base.rehearsal_share=0.4", "model.freeze_until_index=n_base")
    config = adapted(*how, *at(tmp_path))
    expected = undisturbed(config)
    file = tmp_path / "adapted.yaml"
    file.write_text(config.launch().settings.config_yaml, encoding="utf-8")
    training, _ = disturbed([file])
    training.start()
    training.wait_for_step(draw.randrange(3, STEPS - 5))
    training.kill_driver()
    training.start()
    assert training.wait_for_end() == 0, training.console.read_text()
    assert weights(training.run_dir) == expected


def survives(
    name: str,
    voice_file: Path,
    tmp_path: Path,
    disturbed: Callable[..., Disturbed],
    draw: random.Random,
) -> Training:
    """A fault of `tests/faults/kinds.py` at a random step, and what must hold after it."""
    kind = KINDS[name]
    how = [*HOW, *WAYS["bf16"], f"ray.workers={kind.workers}"]
    if kind.longer > 1:
        how.append(f"training.max_steps={STEPS * SHORTER * kind.longer}")
    how += ["ray.cpus_per_worker=1"] if kind.workers else []
    expected = undisturbed(load_config(VoiceConfig, [voice_file], [*how, *at(tmp_path)]))
    training, nodes = disturbed([voice_file], *how, nodes=kind.nodes)
    training.start()
    training.wait_for_step(draw.randrange(EVERY + 2, STEPS - 2 * EVERY))
    kind.inject(training, nodes)
    assert training.wait_for_end() == 0, training.console.read_text()
    assert weights(training.run_dir) == expected
    lost, _ = interruption(training, 0)
    damaged = EVERY if name == "half_checkpoint" else 0
    assert damaged <= lost <= damaged + EVERY, "what came after the last whole checkpoint"
    return training


@pytest.mark.slow
def test_one_worker_of_two_that_is_killed(
    ray_session: None,
    voice_file: Path,
    tmp_path: Path,
    disturbed: Callable[..., Disturbed],
    draw: random.Random,
) -> None:
    training = survives("second_worker", voice_file, tmp_path, disturbed, draw)
    assert training.texts("the workers died, and were started again")
    assert training.texts("going on from checkpoint_")
    assert training.starts == 1


@pytest.mark.slow
def test_node_that_is_lost_under_a_worker(
    ray_session: None,
    voice_file: Path,
    tmp_path: Path,
    disturbed: Callable[..., Disturbed],
    draw: random.Random,
) -> None:
    """Its raylet is killed; the worker may go on for a while, beside its successor."""
    assert survives("raylet", voice_file, tmp_path, disturbed, draw).starts == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in KINDS if n not in ("second_worker", "raylet", "bare")])
def test_fault_is_survived(
    ray_session: None,
    voice_file: Path,
    tmp_path: Path,
    disturbed: Callable[..., Disturbed],
    draw: random.Random,
    name: str,
) -> None:
    with ExitStack() as stack:
        if name == "full_disk":
            stack.enter_context(small_disk(tmp_path))
        survives(name, voice_file, tmp_path, disturbed, draw)
