"""The arithmetic of docs/scaling.md: what it prints stands there, and follows from its figures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks import scaling
from benchmarks.scaling import FILE, SIZES, Row, ScalingConfig, Size, main
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.families.acoustic.bundle import build_model
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]


def config(*overrides: str) -> ScalingConfig:
    return load_config(ScalingConfig, [FILE], list(overrides))


def values(rows: Iterable[Row], start: str) -> list[float]:
    """Of the row whose title begins like this."""
    (row,) = (row for row in rows if row.title.startswith(start))
    return list(row.values)


def test_the_page_has_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8").splitlines()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("|", "- "))]
    assert len(lines) > 40
    assert not [line for line in lines if line not in page]


def test_twice_the_hours_are_twice_the_bytes_and_not_twice_the_network() -> None:
    once, twice = config(), config("plan.hours=2000")
    for start in ("utterances", "recordings", "features", "Arrow files", "manifest"):
        (less,), (more,) = (values(scaling.data(c), start) for c in (once, twice))
        assert more == pytest.approx(2 * less)
    for start in ("gradients", "features read, all", "a step"):
        less_of, more_of = (values(scaling.training(c), start) for c in (once, twice))
        assert more_of == pytest.approx(less_of)


def test_a_ring_sends_the_gradients_once_or_nearly_twice() -> None:
    parameters = config().figures.parameters["base"].known
    sent = [scaling.all_reduced(config(), n) for n in (1, 2, 64)]
    assert sent == pytest.approx([0, 4 * parameters, 2 * 63 / 64 * 4 * parameters])


def test_one_machine_has_no_network_between_its_gpus() -> None:
    over_network = values(scaling.training(config()), "that, over")
    assert over_network[:2] == [0, 0]
    assert over_network[2] > 0


def test_gpus_share_the_time_but_not_the_bill() -> None:
    one, eight, many = values(scaling.training(config()), "20 epochs")
    assert one == pytest.approx(8 * eight) == pytest.approx(64 * many)
    (hours,) = values(scaling.cost(config()), "GPU hours of 20 epochs")
    assert hours == pytest.approx(one / 3600)


def test_what_was_not_measured_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    unmeasured = "figures.frames_a_s.tiny.value=null"
    main(["--set", "plan.size=tiny", "--set", unmeasured])
    lines = capsys.readouterr().out.splitlines()
    (step,) = (line for line in lines if line.startswith("| a step, if"))
    assert step.count("not measured") == 3
    assert math.isnan(config(unmeasured).figures.frames_a_s["tiny"].known)


@pytest.mark.parametrize("size", SIZES)
def test_the_parameters_are_those_of_the_models(size: Size) -> None:
    files = [ROOT / "jobs/configs/sample_am.yaml", ROOT / f"jobs/configs/models/{size}.yaml"]
    tokenizer = Tokenizer.from_languages([(load_language("am"), TextConfig(language="am"))])
    nothing = torch.zeros(80)
    model = build_model(load_config(VoiceConfig, files, []).model, tokenizer, nothing, nothing + 1)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    figures = config().figures
    assert figures.parameters[size].value == n_parameters
    # Weights, two moments and the average, of four bytes each.
    assert figures.checkpoint_bytes[size].known >= 4 * 4 * n_parameters


def test_machines_of_figures_are_described() -> None:
    raw = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    flat = [f for f in raw["metrics"].values() if "by" in f]
    flat += [f for of in raw["metrics"].values() if "by" not in of for f in of.values()]
    assert {f["machine"] for f in flat if "value" in f} == raw["machines"].keys()


@pytest.mark.parametrize(
    ("value", "shown"), [(999.0, "999 bytes"), (99.5e9, "99.5 GB"), (7.96e12, "7.96 TB")]
)
def test_bytes_read_well(value: float, shown: str) -> None:
    assert scaling.size(value) == shown


@pytest.mark.slow
def test_figures_of_this_machine_fit_into_the_file(
    voice_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = yaml.safe_load(voice_file.read_text(encoding="utf-8"))["prepare"]["features"]
    main(["--measure", features])
    found = yaml.safe_load(capsys.readouterr().out)
    file = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for name, figure in found["metrics"].items():
        of_sizes = [figure] if "value" in figure else figure.values()
        assert all(np.isfinite(one["value"]) and one["value"] > 0 for one in of_sizes), name
    file["machines"] |= found["machines"]
    file["metrics"] |= found["metrics"]
    again, before = ScalingConfig.model_validate(file).figures, config().figures
    for size in SIZES:
        assert again.parameters[size].value == before.parameters[size].value
