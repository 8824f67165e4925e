"""Bundles that someone puts together to do harm, with checksums that agree."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dimts.bundles.bundle import sha256

KINDS = ("pickle", "torch", "numpy")


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.proof), "w"))


def write_payload(file: Path, kind: str, proof: Path) -> None:
    """Write a file that makes `proof` when an unsafe loader reads it."""
    if kind == "pickle":
        file.write_bytes(pickle.dumps({"a": Payload(proof)}))
    elif kind == "torch":
        torch.save({"a": Payload(proof)}, file)
    else:
        with file.open("wb") as stream:
            np.save(stream, np.array([Payload(proof)], dtype=object), allow_pickle=True)


def detonate(file: Path, kind: str) -> None:
    """Read the file as no loader of ours may."""
    if kind == "pickle":
        pickle.loads(file.read_bytes())
    elif kind == "torch":
        torch.load(io.BytesIO(file.read_bytes()), weights_only=False)
    else:
        np.load(file, allow_pickle=True)


def edit_json(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def accept_changes(bundle: Path) -> None:
    """Write the checksums anew, as someone would who puts a bundle together by hand."""
    manifest = bundle / "manifest.json"
    names = json.loads(manifest.read_text())["sha256"]
    edit_json(manifest, sha256={name: sha256(bundle / name) for name in names})


def safetensors(
    header: dict[str, Any] | bytes, data: bytes = b"", size: int | None = None
) -> bytes:
    """A file with any header; `size` is what it claims for the header's length."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if size is None else size).to_bytes(8, "little") + raw + data
