"""Plots and the samples page: what they show, on a machine without fonts of its own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.image import imread

from dimts.launch.samples_page import write_samples_page
from dimts.plotting.mel import mel_plot
from dimts.training.task import Sample

ETHIOPIC = "ሰላም ለዓለም።"


def mel(n_frames: int, seed: int = 0) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(-5, 2, (n_frames, 80)).astype(np.float32)


def picture(path: Path) -> npt.NDArray[np.float32]:
    return np.asarray(imread(path)[..., :3], dtype=np.float32)


def test_the_reference_is_drawn_below_the_prediction(tmp_path: Path) -> None:
    mel_plot(tmp_path / "alone.png", mel(50))
    mel_plot(tmp_path / "new folder" / "pair.png", mel(50), mel(60, seed=1), ETHIOPIC)
    alone, pair = picture(tmp_path / "alone.png"), picture(tmp_path / "new folder" / "pair.png")
    assert pair.shape[0] > alone.shape[0]
    assert pair.shape[1] == alone.shape[1]


def test_a_border_moves_with_the_durations(tmp_path: Path) -> None:
    same = np.full((20, 80), -3, dtype=np.float32)
    for name, durations in (("early", [5, 15]), ("late", [15, 5])):
        mel_plot(tmp_path / f"{name}.png", same, durations_N=durations, tokens=["ሰ", "ላ"])
    early, late = picture(tmp_path / "early.png"), picture(tmp_path / "late.png")
    columns = [int(np.argmax(p[p.shape[0] // 2, 150:-30].sum(axis=-1))) for p in (early, late)]
    assert columns[0] < columns[1]


def test_ethiopic_is_drawn_and_not_shown_as_boxes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    durations = [2] * len(ETHIOPIC)
    mel_plot(tmp_path / "a.png", mel(18), None, ETHIOPIC, 0.01, durations, list(ETHIOPIC))
    assert not [w for w in recwarn if "missing from" in str(w.message)]
    assert not caplog.records


def test_the_samples_page_needs_no_other_file(tmp_path: Path) -> None:
    wav, plot = tmp_path / "a.wav", tmp_path / "a.png"
    wav.write_bytes(b"RIFF of a sound")
    plot.write_bytes(b"PNG of a plot")
    samples = [Sample(step, f"{ETHIOPIC} <{step}>", wav, (plot,)) for step in (250, 500)]
    write_samples_page(tmp_path / "samples.html", "a & b", samples)
    page = (tmp_path / "samples.html").read_text(encoding="utf-8")
    assert page.index("step 500") < page.index("step 250")
    assert page.count("<audio") == 2
    assert page.count("<img") == 1, "pictures of the newest step only"
    assert "&lt;500&gt;" in page
    assert "a &amp; b" in page
    sources = re.findall(r"(?:src=|url\()'([^']*)'", page)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "font/ttf" in page
