"""A vocoder of others, as an ONNX file, such as an exported HiFi-GAN."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dimts.audio.mel import Float32Array, MelConfig
from dimts.bundles.bundle import BundleError
from dimts.core.errors import UserError


class OnnxVocoder:
    """Waves by a network that takes a natural-log mel [1, M, T] and gives samples.

    Nothing in such a file says which mel it was trained for, but the number of bins: that is left
    to who names it.

    Args:
        file: with one input; the first output counts.
        mel: spec of the mels that it will be given.

    Raises:
        BundleError: the file cannot be read, or takes something else.
        UserError: the package `onnxruntime` is not installed.
    """

    def __init__(self, file: Path, mel: MelConfig):
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{file}: needs a package; pip install onnxruntime") from None
        self.mel = mel
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            content = file.read_bytes()
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of a kind for each way in which a file can be wrong
            first = str(error).strip().splitlines()[0]
            raise BundleError(f"{file}: cannot be read as ONNX: {first}") from error
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if len(shape) != 3 or (isinstance(shape[1], int) and shape[1] != mel.n_mels):
            raise BundleError(f"{file}: must have one input, a log mel [1, {mel.n_mels}, T]")
        self._input = inputs[0].name

    def __call__(
        self, mel_TM: NDArray[np.float32], f0_T: NDArray[np.float32] | None = None
    ) -> Float32Array:
        """Samples in [-1, 1] of a natural-log mel; F0 is not asked for.

        Raises:
            UserError: the network fails, or gives no finite samples.
        """
        given = np.ascontiguousarray(mel_TM.T[None], np.float32)
        try:
            wave = np.asarray(self._session.run(None, {self._input: given})[0]).reshape(-1)
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"the ONNX vocoder fails: {first}") from error
        if not np.isfinite(wave).all():
            raise UserError("the ONNX vocoder gives samples that are no numbers")
        return np.clip(wave, -1, 1).astype(np.float32)

    def chunks(
        self, mel_TM: NDArray[np.float32], f0_T: NDArray[np.float32] | None = None,
        soon: bool = True,
    ) -> Iterator[Float32Array]:  # fmt: skip
        """The samples of a call, in one piece."""
        yield self(mel_TM, f0_T)
