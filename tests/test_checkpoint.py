"""Checkpoints: whole or not at all, and damage costs one of them, not the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from voice_fixtures import untrained, write_voice

from dimts.bundles.bundle import BundleError, read_manifest, resolve_bundle, sha256
from dimts.families.acoustic.bundle import load_bundle
from dimts.storage.pointer import read_pointer
from dimts.training.checkpoint import (
    BEST,
    LATEST,
    TRAINER_STATE,
    find_latest,
    read_state,
    save_checkpoint,
)

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a checkpoint of a step into the test's folder."""
    model, best_step = untrained(), -1

    def save_step(step: int, best: bool = False, keep: int = 2) -> Path:
        nonlocal best_step
        best_step = step if best else best_step
        state = {"step": step, "tensor": torch.full((3,), float(step))}

        def write(folder: Path) -> None:
            write_voice(folder, model, step=step)

        return save_checkpoint(tmp_path, step // 10, step, state, write, best_step, keep)

    return save_step


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_checkpoint_is_named_for_its_epoch_and_step_and_is_a_voice(
    save: Save, tmp_path: Path
) -> None:
    folder = save(20)
    assert folder == tmp_path / "checkpoint_epoch2_step20"
    assert names(folder) == {
        "model.safetensors", "config.yaml", "tokenizer.json", "manifest.json", "trainer_state.pt",
    }  # fmt: skip
    assert load_bundle(folder).manifest.step == 20
    assert TRAINER_STATE in read_manifest(folder).sha256
    assert read_state(folder)["step"] == 20


def test_latest_and_best_point_at_theirs_and_older_ones_go(save: Save, tmp_path: Path) -> None:
    save(5, best=True)
    for step in (10, 15, 20):
        save(step)
    assert read_pointer(tmp_path / LATEST) == "checkpoint_epoch2_step20"
    assert read_pointer(tmp_path / BEST) == "checkpoint_epoch0_step5"
    assert names(tmp_path) == {
        LATEST, BEST,
        "checkpoint_epoch0_step5", "checkpoint_epoch1_step15", "checkpoint_epoch2_step20",
    }  # fmt: skip
    save(25, best=True)
    assert "checkpoint_epoch0_step5" not in names(tmp_path)


def test_newest_is_by_step_and_not_by_name(save: Save, tmp_path: Path) -> None:
    save(9)
    save(100)
    latest = find_latest(tmp_path)
    assert latest is not None
    assert latest.name == "checkpoint_epoch10_step100"


def test_no_run_has_no_checkpoint(tmp_path: Path) -> None:
    assert find_latest(tmp_path) is None
    assert find_latest(tmp_path / "never_begun") is None


@pytest.mark.parametrize("file", ["model.safetensors", TRAINER_STATE, "manifest.json"])
def test_half_a_file_costs_one_checkpoint(save: Save, tmp_path: Path, file: str) -> None:
    before, damaged = save(10), save(20)
    content = (damaged / file).read_bytes()
    (damaged / file).write_bytes(content[: len(content) // 2])
    told: list[str] = []
    assert find_latest(tmp_path, told.append) == before
    assert len(told) == 1
    assert file in told[0]
    assert "going back to the checkpoint before it" in told[0]


def test_missing_file_costs_one_checkpoint(save: Save, tmp_path: Path) -> None:
    before, damaged = save(10), save(20)
    (damaged / TRAINER_STATE).unlink()
    assert find_latest(tmp_path) == before


def test_kill_while_writing_leaves_no_checkpoint_behind(save: Save, tmp_path: Path) -> None:
    before = save(10)

    def killed(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half of the")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, 20, {}, killed, 20, 2)
    assert find_latest(tmp_path) == before
    assert read_pointer(tmp_path / LATEST) == before.name
    assert not (tmp_path / BEST).exists()
    assert save(20).is_dir(), "what is left over is in the way of the next attempt"
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_checkpoint_of_the_same_step_is_replaced(save: Save, tmp_path: Path) -> None:
    """A run that went on from an earlier checkpoint comes to the same steps again."""
    first = save(10)
    (first / "stray").touch()
    second = save(10)
    assert first == second
    assert "stray" not in names(second)
    assert find_latest(tmp_path) == second


class Malicious:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.file), "w"))


def test_pickle_that_runs_code_is_refused(save: Save, tmp_path: Path) -> None:
    """With checksums that agree, as an attacker's would."""
    checkpoint, proof = save(10), tmp_path / "proof"
    state, manifest = checkpoint / TRAINER_STATE, checkpoint / "manifest.json"
    torch.save({"step": Malicious(proof)}, state)
    facts = json.loads(manifest.read_text())
    facts["sha256"][TRAINER_STATE] = sha256(state)
    manifest.write_text(json.dumps(facts))
    assert find_latest(tmp_path) == checkpoint
    with pytest.raises(BundleError, match=r"trainer_state\.pt: not the state of a training"):
        read_state(checkpoint)
    assert not proof.exists()
    torch.load(state, weights_only=False)
    assert proof.exists(), "the file was no danger at all"


def test_pointers_survive_a_move_of_the_run(save: Save, tmp_path: Path) -> None:
    save(10, best=True)
    moved = tmp_path.with_name(f"{tmp_path.name}_moved")
    shutil.copytree(tmp_path, moved)
    assert resolve_bundle(moved / BEST) == moved / "checkpoint_epoch1_step10"
