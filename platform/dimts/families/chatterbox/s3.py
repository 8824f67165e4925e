"""S3Tokenizer v2 and the voice encoder with the published weights."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dimts.audio.mel import Float32Array
from dimts.core.errors import UserError
from dimts.families.chatterbox.extractor import weights_file
from dimts.families.chatterbox.voice_encoder import VoiceEncoder

PREFIX = "tokenizer."
"""Of the tokenizer's tensors among those of S3Gen."""
CONSTANTS = ("_mel_filters", "window")
"""Stored beside them; the package computes them."""


class S3Quantiser:
    """Tokens and vectors of waves at 16 kHz, on a GPU where this process has one.

    Raises:
        UserError: the package `s3tokenizer` is not installed, or weights do not fit.
    """

    def __init__(self, model: Path):
        try:
            import s3tokenizer
            from s3tokenizer.model_v2 import S3TokenizerV2
        except ImportError:
            raise UserError(
                "tokens.kind: s3 needs a package; pip install 'dimts[chatterbox]'"
            ) from None
        self._mel = s3tokenizer.log_mel_spectrogram
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        file = weights_file(model, "s3gen")
        weights = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in read_tensors(file, PREFIX).items()
            if not name.endswith(CONSTANTS)
        }
        self._tokenizer = _loaded(S3TokenizerV2("speech_tokenizer_v2_25hz"), weights, file)
        file = weights_file(model, "ve")
        self._encoder = _loaded(VoiceEncoder(), read_tensors(file), file)
        self._tokenizer.to(self._device)
        self._encoder.to(self._device)

    def tokens(self, wave: Float32Array) -> NDArray[np.int16]:
        """Ids of a wave, 25 a second; above 30 s in windows."""
        mel = self._mel(torch.from_numpy(wave))[None].to(self._device)
        ids, n = self._tokenizer.quantize(mel, torch.tensor([mel.shape[2]], device=self._device))
        found: NDArray[np.int16] = ids[0, : int(n[0])].cpu().numpy().astype(np.int16)
        return found

    def speaker(self, wave: Float32Array) -> Float32Array:
        """The voice's vector, [256]."""
        embedding: Float32Array = self._encoder.embed(wave)
        return embedding


def read_tensors(file: Path, prefix: str = "") -> dict[str, Tensor]:
    """Tensors whose names begin with `prefix`, of a safetensors file or a ``.pt``; no pickled code
    is run.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                names = [name for name in tensors.keys() if name.startswith(prefix)]  # noqa: SIM118
                return {name: tensors.get_tensor(name) for name in names}
        mapped = is_zipfile(file)  # not as torch wrote files before 1.6
        values = torch.load(file, weights_only=True, map_location="cpu", mmap=mapped)
        values = values.get("model", values)  # as the voice encoder's trainer wrapped it
        if isinstance(values, list):
            values = values[0]
        return {name: t for name, t in values.items() if name.startswith(prefix)}
    except UnpicklingError as error:  # torch's own message says how to run it
        raise UserError(f"{file}: holds more than weights, or is damaged") from error
    except (
        OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError,
        SafetensorError,
    ) as error:  # fmt: skip
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{file}: cannot be read as weights: {first}") from error


def _loaded(module: Any, weights: dict[str, Tensor], file: Path) -> Any:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: is not of the published model: {what}") from error
    return module.eval()
