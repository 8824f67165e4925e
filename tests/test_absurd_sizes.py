"""Files that claim to be huge, or unfold to it, are refused in little memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hostile_bundles import accept_changes, edit_json, safetensors
from voice_fixtures import untrained, write_voice

from dimts.core.errors import UserError
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.text.tokenizer import Tokenizer

ROOM = 3 * 2**29
"""Bytes that a child may take beyond what it has when all is imported."""

CHILD = """
import resource, sys
from pathlib import Path
import torch
from dimts.families.acoustic.bundle import load_bundle
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.text.huggingface import read_tokenizer
from dimts.text.language import Language
from dimts.commands.voice_config import VoiceConfig

torch.set_num_threads(1)
folder, room = Path(sys.argv[1]), int(sys.argv[2])
used = 1024 * int(next(line.split()[1] for line in open('/proc/self/status') if 'VmSize' in line))
resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
loads = {
    'bundle': [load_bundle],
    'speaks': [lambda path: AcousticSpeaker.load(path).mel('ሰላም ነው።')],
    'config': [lambda path: load_config(VoiceConfig, [path])],
    'language': [lambda path: load_config(Language, [path])],
    'tokenizer': [read_tokenizer],
}
for path in sorted(folder.iterdir()):
    for load in loads[path.name.split('-')[0]]:
        try:
            load(path)
            outcome = 'loaded'
        except BaseException as error:
            name = 'UserError' if isinstance(error, UserError) else type(error).__name__
            outcome = f'{name}: {error}'
        print(f'{path.name}\\t{outcome}', flush=True)
"""

Make = Callable[[Path], None]


def bomb(levels: int = 12) -> str:
    """A billion laughs: each line holds the one before it nine times."""
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merge_bomb(levels: int = 12) -> str:
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


def long_string_bomb() -> str:
    return f"a: &a {'x' * 500_000}\nb: [{', '.join(['*a'] * 50_000)}]"


YAMLS = {
    "laughs": bomb(),
    "merged-laughs": merge_bomb(),
    "strings": long_string_bomb(),
    "deep-brackets": "a: " + "[" * 100_000,
    "deep-braces": "{a: " * 100_000,
    "deep-indent": "".join(" " * n + "a:\n" for n in range(1000)),
    "itself": "a: &a [*a]",
    "sixty": f"a: 1{':1' * 200_000}",
    "digits": f"a: {'9' * 500_000}",
    "hex": f"a: 0x{'f' * 500_000}",
    "keys": "".join(f"k{n}: 1\n" for n in range(10_000)),
    "large": "# " + "x" * 2**21,
}


def bundle_with(**files: Any) -> Make:
    """A whole bundle of which some files were replaced and the checksums made right again."""

    def make(folder: Path) -> None:
        write_voice(folder)
        for name, content in files.items():
            file = folder / name.replace("_", ".", 1)
            file.write_bytes(content if isinstance(content, bytes) else str(content).encode())
        accept_changes(folder)

    return make


def sizes(section: str, **values: Any) -> Make:
    """A bundle whose settings claim other sizes than its weights have."""

    def make(folder: Path) -> None:
        write_voice(folder)
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        part = settings["model"]
        for key in filter(None, section.split(".")):
            part = part[key]
        part.update(values)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        accept_changes(folder)

    return make


def tokenizer_json(**changes: Any) -> Make:
    def make(folder: Path) -> None:
        write_voice(folder)
        edit_json(folder / "tokenizer.json", **changes)
        accept_changes(folder)

    return make


def voice_that_says(log_frames: float) -> Make:
    """A voice that expects each state to last exp(log_frames) frames."""

    def make(folder: Path) -> None:
        model = untrained()
        with torch.no_grad():
            model.duration.out.bias.fill_(log_frames)
        write_voice(folder, model)

    return make


def text_file(text: str | bytes) -> Make:
    def make(path: Path) -> None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return make


TERABYTES = {"x": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}
EMPTY = {"x": {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}}
OVERFLOWS = {"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]}}
NESTED = {"deep": b'{"a":' * 100_000, "brackets": b"[" * 1_000_000}
SYLLABLES = {"letters": ["\u0100-\U000fffff"] * 5000}

REFUSED: dict[str, Make] = {
    "bundle-terabytes": bundle_with(model_safetensors=safetensors(TERABYTES)),
    "bundle-header-of-exabytes": bundle_with(model_safetensors=safetensors({}, size=2**62)),
    "bundle-empty-tensor": bundle_with(model_safetensors=safetensors(EMPTY)),
    "bundle-overflow": bundle_with(model_safetensors=safetensors(OVERFLOWS)),
    "bundle-deep-header": bundle_with(model_safetensors=safetensors(NESTED["deep"])),
    "bundle-width": sizes("", width=10**9),
    "bundle-width-allowed": sizes("", width=65_536),
    "bundle-layers": sizes("encoder", layers=10**9),
    "bundle-layers-allowed": sizes("encoder", layers=1000, feed_forward=65_536),
    "bundle-kernel": sizes("decoder", kernel=10**9 + 1),
    "bundle-states": sizes("", states_per_token=10**9),
    "bundle-tokens": bundle_with(tokenizer_json=b'{"tokens": [' + b'"a",' * 10**7 + b'"a"]}'),
    "bundle-many-tokens": tokenizer_json(tokens=["<pad>"] + [f"{n:x}" for n in range(10**6)]),
    "bundle-many-characters": tokenizer_json(tokens=[chr(n) for n in range(256, 0xD000)] * 9),
    "language-alphabet": text_file(
        yaml.safe_dump({"name": "x", "code": "x", "punctuation": ".", **SYLLABLES})
    ),
    **{f"bundle-yaml-{name}": bundle_with(config_yaml=text) for name, text in YAMLS.items()},
    **{f"config-{name}.yaml": text_file(text) for name, text in YAMLS.items()},
    **{f"bundle-json-{name}": bundle_with(tokenizer_json=text) for name, text in NESTED.items()},
    **{f"tokenizer-{name}": text_file(text) for name, text in NESTED.items()},
    "tokenizer-large": text_file(b'{"a": "' + b"x" * 2**25 + b'"}'),
}
LOADED: dict[str, Make] = {
    "speaks-for-ever": voice_that_says(80.0),
    "speaks-infinitely": voice_that_says(1e30),
    "speaks-never": voice_that_says(-1e30),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What came of each file, in one child whose memory is limited."""
    folder = tmp_path_factory.mktemp("absurd")
    for name, make in (REFUSED | LOADED).items():
        make(folder / name)
    for name, content in NESTED.items():
        write_voice(folder / f"bundle-manifest-{name}")
        (folder / f"bundle-manifest-{name}" / "manifest.json").write_bytes(content)
    command = [sys.executable, "-c", CHILD, str(folder), str(ROOM)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, outcome = line.partition("\t")
        assert outcome, f"more than one line: {line}"
        found.setdefault(name, []).append(outcome)
    return found


@pytest.mark.integration
@pytest.mark.parametrize("name", [*REFUSED, *(f"bundle-manifest-{name}" for name in NESTED)])
def test_absurd_file_is_refused_in_one_line(outcomes: dict[str, list[str]], name: str) -> None:
    assert outcomes[name]
    for outcome in outcomes[name]:
        assert outcome.startswith("UserError: "), outcome


@pytest.mark.integration
@pytest.mark.parametrize("name", LOADED)
def test_voice_of_absurd_durations_speaks_within_bounds(
    outcomes: dict[str, list[str]], name: str
) -> None:
    assert outcomes[name] == ["loaded"]


def test_rules_that_swell_a_text_are_refused(tmp_path: Path) -> None:
    """Each of a bundle's rules may lengthen a text, and the next one may do it again."""
    folder = write_voice(tmp_path / "voice")
    file = folder / "tokenizer.json"
    spec = json.loads(file.read_text())
    spec["languages"][0]["language"]["replacements"] = {"ሰ": "ሰለ" * 500, "ለ": "ለሰ" * 500}
    file.write_text(json.dumps(spec))
    edit_json(folder / "manifest.json", tokenizer=Tokenizer.load(file).fingerprint)
    accept_changes(folder)
    with pytest.raises(UserError, match="rules that swell it"):
        AcousticSpeaker.load(folder).speak("ሰላም")
