"""Vocoders of others, as ONNX files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from dimts.audio.mel import MelConfig
from dimts.bundles.bundle import BundleError
from dimts.core.errors import UserError
from dimts.families.registry import load_vocoder

MEL = MelConfig()
FLOAT, INT64 = 1, 7


def field(number: int, value: int | bytes | str) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    head = b""
    while value > 127:
        head += bytes([value & 127 | 128])
        value >>= 7
    return head + bytes([value])


def tensor_type(name: str, *sizes: int | str) -> bytes:
    dims = b"".join(field(1, field(1 if isinstance(n, int) else 2, n)) for n in sizes)
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, dims)))


def node(kind: str, inputs: list[str], output: str, attribute: bytes = b"") -> bytes:
    ports = b"".join(field(1, name) for name in inputs) + field(2, output)
    return field(1, ports + field(4, kind) + attribute)


def loudest_bin(n_mels: int) -> bytes:
    """A network that holds each frame's loudest bin for two samples, as an ONNX file."""
    axes = field(5, field(1, "axes") + field(20, 7) + field(8, 1))
    repeats = field(1, 3) + field(2, INT64) + field(8, "repeats")
    repeats += field(9, np.array([1, 1, 2], np.int64).tobytes())
    graph = node("ReduceMax", ["mel"], "loudest", axes)
    graph += node("Tile", ["loudest", "repeats"], "wave") + field(2, "graph") + field(5, repeats)
    graph += field(11, tensor_type("mel", 1, n_mels, "frames"))
    graph += field(12, tensor_type("wave", 1, 1, "samples"))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "vocoder.onnx"
    path.write_bytes(loudest_bin(MEL.n_mels))
    return path


def test_onnx_file_makes_the_samples(file: Path) -> None:
    mel_TM = np.random.default_rng(0).normal(0, 0.3, (5, MEL.n_mels)).astype(np.float32)
    vocoder = load_vocoder(file, MEL)
    expected = np.tile(np.clip(mel_TM.max(1), -1, 1), 2)
    np.testing.assert_array_equal(vocoder(mel_TM), expected)
    np.testing.assert_array_equal(next(iter(vocoder.chunks(mel_TM))), expected)


def test_network_of_another_mel_is_refused(file: Path) -> None:
    with pytest.raises(BundleError, match=r"must have one input, a log mel \[1, 100, T\]"):
        load_vocoder(file, MelConfig(n_mels=100))


def test_file_that_is_no_network_is_refused(file: Path) -> None:
    file.write_bytes(b"no protocol buffer")
    with pytest.raises(BundleError, match="cannot be read as ONNX"):
        load_vocoder(file, MEL)
    with pytest.raises(BundleError, match="cannot be read as ONNX"):
        load_vocoder(file.with_name("none.onnx"), MEL)


def test_samples_that_are_no_numbers_are_refused(file: Path) -> None:
    with pytest.raises(UserError, match="gives samples that are no numbers"):
        load_vocoder(file, MEL)(np.full((5, MEL.n_mels), np.nan, np.float32))


def test_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="needs a package; pip install onnxruntime"):
        load_vocoder(tmp_path / "vocoder.onnx", MEL)
