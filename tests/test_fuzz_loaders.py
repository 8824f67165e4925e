"""Whatever a file holds, it is loaded and works, or is refused in one line; no file is written.

Deterministic: the same examples each time.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from examples import fuzz
from hostile_bundles import accept_changes, edit_json, safetensors
from huggingface_fixtures import JSON
from hypothesis import given
from hypothesis import strategies as st
from voice_fixtures import amharic, write_voice

from dimts.commands.sweep_config import SweepVoice
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import Config, load_config
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.extension.embedding_file import read_embedding
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.text.huggingface import read_tokenizer
from dimts.text.language import LANGUAGES, Language
from dimts.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
TEXT = "ሰላም ነው።"


STRINGS = ("", " ", "\0", "\ud800", "../../x", "/etc/passwd", "<pad>", "a" * 3000, "9" * 30, "አ")
NUMBERS = (0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"))
OTHERS: tuple[Any, ...] = (
    None,
    True,
    [],
    {},
    [[]],
    {"": {}},
    [None],
    ["a", "a"],
    {"a": [{"b": 1}]},
)
ODD = st.sampled_from([*STRINGS, *NUMBERS, *OTHERS])
VALUES = ODD | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn, original: Any) -> Any:
    """The values of a file of which one to three were deleted, replaced, doubled or moved."""
    root = [copy.deepcopy(original)]
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = root
        key: Any = 0
        while isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 5)):
            holder = holder[key]
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = draw(st.sampled_from(keys[:40]))
        kind = draw(st.sampled_from(["replace", "delete", "rename", "repeat"]))
        if kind == "replace" or holder is root:
            holder[key] = copy.deepcopy(draw(VALUES))  # is changed below, perhaps
        elif kind == "delete":
            del holder[key]
        elif kind == "rename" and isinstance(holder, dict):
            holder[draw(st.text(max_size=8))] = holder.pop(key)
        elif isinstance(holder, list):
            holder.insert(0, copy.deepcopy(holder[key]))
    return root[0]


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """Bytes of a file that were flipped, cut off, or written twice."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "repeat"]))
        if kind == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[at : at + draw(st.sampled_from([1, 7, 10**9]))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            data[at:at] = data[max(0, at - 50) : at]
    return bytes(data)


def outcome(load: Callable[[], Any]) -> Any:
    """What was loaded, or None for a refusal in one line; any other exception fails the test."""
    try:
        return load()
    except UserError as error:
        message = str(error)
        assert message.strip()
        assert len(message.splitlines()) == 1, message
        return None


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one example; nothing may appear beside it, which is the current folder."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        os.chdir(folder)
        try:
            yield folder / "in"
            assert [path.name for path in folder.iterdir()] == ["in"], "something was written"
        finally:
            os.chdir(before)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voice(tmp_path_factory.mktemp("fuzzed") / "voice")


# Settings


@fuzz(2)
@given(data=st.data())
def test_settings_of_any_values_load_or_are_refused(data: st.DataObject) -> None:
    kinds: list[type[Config]] = [VoiceConfig, SweepVoice]
    cls = data.draw(st.sampled_from(kinds))
    original = yaml.safe_load(data.draw(st.sampled_from(CONFIGS)).read_text(encoding="utf-8"))
    text = yaml.safe_dump(data.draw(mutated(original)), allow_unicode=False)
    with scratch() as folder:
        (folder / "voice.yaml").write_text(text)
        outcome(lambda: load_config(cls, [folder / "voice.yaml"]))


@fuzz(2)
@given(data=st.data())
def test_settings_of_any_bytes_load_or_are_refused(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([*CONFIGS, LANGUAGES / "es.yaml"])).read_bytes()[:1500]
    text = data.draw(damaged(original) | st.binary(max_size=200))
    with scratch() as folder:
        (folder / "any.yaml").write_bytes(text)
        outcome(lambda: load_config(VoiceConfig, [folder / "any.yaml"]))
        outcome(lambda: load_config(Language, [folder / "any.yaml"]))


MARKS = st.text(alphabet=st.sampled_from(list("ab01:-?[]{}&*!|>%@`'\"#,.~<=\t\n é")), max_size=30)


@fuzz(2)
@given(
    key=st.text(max_size=12) | st.sampled_from(["run.name", "mel", "x" + ".y" * 200]), value=MARKS
)
def test_any_override_is_taken_or_refused(key: str, value: str) -> None:
    with scratch():
        outcome(lambda: load_config(VoiceConfig, [CONFIGS[0]], [f"{key}={value}"]))


@fuzz(8)
@given(data=st.data())
def test_language_of_any_values_works_or_is_refused(data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(LANGUAGES.glob("*.yaml"))))
    values = data.draw(mutated(yaml.safe_load(file.read_text(encoding="utf-8"))))
    with scratch() as folder:
        (folder / "x.yaml").write_text(yaml.safe_dump(values, allow_unicode=False))
        outcome(lambda: load_config(Language, [folder / "x.yaml"]))


# Tokenizers


def read_and_use(file: Path) -> None:
    tokenizer = outcome(lambda: read_tokenizer(file))
    if tokenizer is not None:
        for text in (TEXT, "the cat 12%", "\0"):
            ids = outcome(lambda text=text: tokenizer.encode(text))  # type: ignore[misc]
            if ids is not None:
                tokenizer.decode(ids)
        tokenizer.save(file)
        assert Tokenizer.load(file) == tokenizer


@fuzz(3)
@given(data=st.data())
def test_tokenizer_of_any_values_works_or_is_refused(data: st.DataObject) -> None:
    ours = amharic().spec.model_dump(mode="json")
    values = data.draw(mutated(data.draw(st.sampled_from([ours, JSON]))))
    with scratch() as folder:
        (folder / "tokenizer.json").write_text(json.dumps(values))
        read_and_use(folder / "tokenizer.json")


@fuzz(5)
@given(data=st.data())
def test_tokenizer_of_any_bytes_works_or_is_refused(data: st.DataObject) -> None:
    raw = data.draw(damaged(json.dumps(JSON).encode()) | st.binary(max_size=100))
    with scratch() as folder:
        (folder / "tokenizer.json").write_bytes(raw)
        read_and_use(folder / "tokenizer.json")


# Bundles


@contextmanager
def copy_of(voice: Path) -> Iterator[Path]:
    with scratch() as folder:
        yield Path(shutil.copytree(voice, folder / "voice"))


def load_and_speak(bundle: Path) -> None:
    """With what it says of itself made to agree, as the author of such a bundle would."""
    before = tree(bundle)
    outcome(lambda: load_bundle(bundle))
    voice = outcome(lambda: AcousticSpeaker.load(bundle))
    if voice is not None:
        outcome(lambda: voice.mel(TEXT))
    assert tree(bundle) == before


@fuzz(6)
@given(data=st.data())
def test_bundle_of_any_bytes_is_refused(voice: Path, data: st.DataObject) -> None:
    """Unless a file is the same after all, or the manifest says the same in other bytes."""
    with copy_of(voice) as bundle:
        file = bundle / data.draw(st.sampled_from(sorted(p.name for p in voice.iterdir())))
        file.write_bytes(data.draw(damaged(file.read_bytes())))
        load_and_speak(bundle)


@fuzz(6)
@given(data=st.data())
def test_bundle_of_any_bytes_with_the_right_checksums(voice: Path, data: st.DataObject) -> None:
    names = ("model.safetensors", "config.yaml", "tokenizer.json")
    with copy_of(voice) as bundle:
        file = bundle / data.draw(st.sampled_from(names))
        file.write_bytes(data.draw(damaged(file.read_bytes())))
        accept_changes(bundle)
        load_and_speak(bundle)


@fuzz(4)
@given(data=st.data())
def test_bundle_of_any_values_works_or_is_refused(voice: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["config.yaml", "tokenizer.json", "manifest.json"]))
    with copy_of(voice) as bundle:
        file = bundle / name
        values = data.draw(mutated(yaml.safe_load(file.read_text(encoding="utf-8"))))
        write = yaml.safe_dump if name == "config.yaml" else json.dumps
        file.write_text(write(values))
        if name != "manifest.json":
            accept_changes(bundle)
        if name == "tokenizer.json" and (read := outcome(lambda: Tokenizer.load(file))):
            edit_json(bundle / "manifest.json", tokenizer=read.fingerprint)
        load_and_speak(bundle)


def header_of(file: Path) -> tuple[Any, bytes]:
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


@fuzz(4)
@given(data=st.data())
def test_weights_of_any_header_work_or_are_refused(voice: Path, data: st.DataObject) -> None:
    header, tensors = header_of(voice / "model.safetensors")
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(header.keys() - {"__metadata__"})))
        kinds = ["F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "C64", "F4", "X"]
        header[name]["dtype"] = data.draw(st.sampled_from(kinds))
    else:
        header = data.draw(mutated(header))
    size = data.draw(st.none() | st.integers(0, 2**64 - 1))
    with copy_of(voice) as bundle:
        file = bundle / "model.safetensors"
        file.write_bytes(safetensors(header, tensors, size))
        accept_changes(bundle)
        load_and_speak(bundle)
        outcome(lambda: read_embedding(file, amharic(), "encoder.embedding.token.weight"))


@fuzz(8)
@given(data=st.data())
def test_weights_of_any_numbers_speak_or_are_refused(voice: Path, data: st.DataObject) -> None:
    header, tensors = header_of(voice / "model.safetensors")
    noise = data.draw(st.binary(min_size=4, max_size=64))
    at = data.draw(st.integers(0, len(tensors) - 64))
    n = data.draw(st.sampled_from([1, 50, 1000]))
    changed = (tensors[:at] + noise * n + tensors[at + len(noise) * n :])[: len(tensors)]
    with copy_of(voice) as bundle:
        file = bundle / "model.safetensors"
        file.write_bytes(safetensors(header, changed.ljust(len(tensors), b"\0")))
        accept_changes(bundle)
        load_and_speak(bundle)
