"""Jobs on a cluster of several machines: they spread over them, and come to what one makes.

The machines are namespaces of this one, with a network between them (`tests/faults/machines.py`).
Their host names resolve to 127.0.1.1, as Debian and Ubuntu have it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.claims import read_claim
from faults.machines import Nodes, lacking, ray_nodes
from safetensors.numpy import load_file
from tuning_fixtures import LR, study_of, write_space

from benchmarks.two_nodes import main as two_nodes
from dimts.bundles.bundle import resolve_bundle
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.launch.start import start_run
from dimts.tracking.event_log import EVENTS
from dimts.training.checkpoint import LATEST

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(lacking()), reason=f"no machines to be had: {lacking()}"),
]

STEPS = 12
HOW = (
    f"training.max_steps={STEPS}", "training.log_every=1", "model.decoder.dropout=0",
)  # fmt: skip
"""Without dropout, whose random numbers are each worker's own."""
SAME_LOSS = 1e-5
"""Relative. A batch in two halves is the same sum in another order, of numbers of 24 bits, whose
rounding is 6e-8: 3e-7 was seen. Half a batch more or less, or a mean of means, would be 1e-2."""
SAME_WEIGHTS = 1e-3
"""Of a parameter's largest entry, root mean square over it. 1e-7 was seen, but 5e-5 where the true
gradient is zero, of the keys' bias: there AdamW makes whole steps of rounding errors."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two of one core each, and a head with none."""
    with ray_nodes(2, tmp_path_factory.mktemp("nodes")) as cluster:
        yield cluster


@pytest.fixture
def begun(nodes: Nodes) -> Callable[[str], list[int]]:
    """``begun("RayTrainWorker")``: how many of those each node has begun during this test."""
    before = [node.started() for node in nodes.workers]

    def count(name: str) -> list[int]:
        return [
            sum(n for task, n in (now.started() - old).items() if name in task)
            for now, old in zip(nodes.workers, before, strict=True)
        ]

    return count


@pytest.fixture(scope="module")
def alone(voice_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process without Ray."""
    storage = f"run.storage={tmp_path_factory.mktemp('alone')}"
    config = load_config(VoiceConfig, [voice_file], [*HOW, storage])
    start_run(config.launch(), config.ray)
    return config.run.run_dir


def trained(nodes: Nodes, voice_file: Path, storage: Path, *more: str) -> Path:
    overrides = [*HOW, f"run.storage={storage}", "ray.report_interval_s=0.2", *more]
    done = nodes.job("train", f"--config={voice_file}", *(f"--set={text}" for text in overrides))
    assert done.returncode == 0, done.stdout + done.stderr
    return storage / "tiny"


def losses(run_dir: Path) -> dict[str, float]:
    """Of each step, by name; those of the validations as well."""
    events = [json.loads(line) for line in (run_dir / EVENTS).read_text().splitlines()]
    return {
        f"{name} {event['step']}": value
        for event in events
        for name, value in event.get("values", {}).items()
        if name.endswith(("_loss", "mel_mse"))
    }


def test_two_workers_on_two_nodes_learn_what_one_does(
    nodes: Nodes, alone: Path, voice_file: Path, tmp_path: Path, begun: Callable[[str], list[int]]
) -> None:
    """Each has half of every batch. Placed by Ray: a node has a core for one of them."""
    run_dir = trained(nodes, voice_file, tmp_path, "ray.workers=2")
    assert begun("RayTrainWorker") == [1, 1]
    claim = read_claim(run_dir)
    assert claim is not None
    assert claim["host"] in {node.name for node in nodes.workers}
    one, two = losses(alone), losses(run_dir)
    assert sum(name.startswith("train/total_loss") for name in one) == STEPS
    assert two == pytest.approx(one, rel=SAME_LOSS)
    before, after = (
        load_file(resolve_bundle(d / LATEST) / "model.safetensors") for d in (alone, run_dir)
    )
    assert before.keys() == after.keys()
    for name, weight in before.items():
        error = math.sqrt(((after[name] - weight) ** 2).mean())
        assert error <= SAME_WEIGHTS * abs(weight).max(), name


@pytest.mark.slow
def test_one_worker_has_the_cores_of_one_node(
    nodes: Nodes, alone: Path, voice_file: Path, tmp_path: Path, begun: Callable[[str], list[int]]
) -> None:
    """By default it has all cores, but those of another machine are not to be had."""
    run_dir = trained(nodes, voice_file, tmp_path, "ray.workers=1")
    assert sorted(begun("RayTrainWorker")) == [0, 1]
    assert losses(run_dir) == losses(alone), "to the bit"


@pytest.mark.slow
def test_worker_that_is_larger_than_any_node_is_refused(nodes: Nodes, voice_file: Path) -> None:
    """Ray would wait for ever."""
    large = ("--set=ray.workers=1", "--set=ray.cpus_per_worker=2")
    done = nodes.job("train", f"--config={voice_file}", *large)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: ray.workers=1 with 2 CPU each: on the cluster's nodes there is room for 0, as none "
        "is spread over two; lower ray.workers or ray.cpus_per_worker, or set ray.autoscaled if "
        "the cluster starts nodes for what it is asked"
    )


@pytest.mark.slow
def test_preparation_spreads_and_makes_the_same_features(
    nodes: Nodes, voice_file: Path, tmp_path: Path, begun: Callable[[str], list[int]]
) -> None:
    """Of bytes that are the same, though two machines have made them."""
    local = Path(str(load_config(VoiceConfig, [voice_file]).prepare.features))
    overrides = (f"prepare.features={tmp_path}", "prepare.engine=ray", "prepare.chunk=2")
    done = nodes.job("prepare", f"--config={voice_file}", *(f"--set={t}" for t in overrides))
    assert done.returncode == 0, done.stdout + done.stderr
    assert min(begun("_extract_batch")) >= 1
    assert sum(begun("_extract_batch")) >= 16, "32 recordings, two at a time"
    names = sorted(file.name for file in local.iterdir() if file.suffix == ".arrow")
    assert len(names) >= 3
    for name in [*names, "manifest.json", "quarantine.csv"]:
        assert (tmp_path / name).read_bytes() == (local / name).read_bytes(), name


@pytest.mark.slow
def test_sweep_has_trials_on_both_nodes(
    nodes: Nodes, voice_file: Path, tmp_path: Path, begun: Callable[[str], list[int]]
) -> None:
    space = write_space(tmp_path, trials=4, parallel=0)
    overrides = [f"run.storage={tmp_path}", f"training.max_steps={STEPS}"]
    configs = [f"--config={voice_file}", f"--config={space}"]
    done = nodes.job("tune", *configs, *(f"--set={text}" for text in overrides))
    assert done.returncode == 0, done.stdout + done.stderr
    trials = study_of([voice_file, space], overrides).trials
    assert len(trials) == 4
    assert all(LR in trial.params for trial in trials)
    folders = sorted((tmp_path / "tiny-small" / "trials").iterdir())
    claims = [read_claim(folder) for folder in folders]
    assert {claim["host"] for claim in claims if claim} == {n.name for n in nodes.workers}


@pytest.mark.slow
def test_what_a_second_node_adds_is_a_table(
    voice_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = load_config(VoiceConfig, [voice_file]).prepare.features
    assert two_nodes(["--quick", f"--features={features}"]) == 0
    table = capsys.readouterr().out
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| ")][2:]
    assert [[int(cell) for cell in row] for row in rows] == [[1, 4, 4], [2, 4, 2], [2, 8, 4]]
    assert "The two were on node1 and node2;" in table
