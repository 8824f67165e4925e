"""The text embedding of another system's model as a base: its rows, in a model of our own.

Chatterbox's T3, for one, keeps it as ``text_emb.weight``, [n_vocab, 1024].
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dimts.core.errors import UserError
from dimts.families.acoustic.extension.rows import TOKEN, std_of
from dimts.text.tokenizer import Tokenizer

PROJECTION = "encoder.embedding.projection.weight"
TENSOR = "text_emb.weight"


def read_embedding(path: str | Path, tokenizer: Tokenizer, tensor: str = TENSOR) -> Tensor:
    """Rows of the tokenizer's ids, float32 [n_vocab, row width], from a ``.safetensors`` file.

    Raises:
        UserError: no such file or tensor, or it does not fit the tokenizer; says what is there.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if tensor not in file.keys():  # noqa: SIM118  # not a mapping
                tables = [n for n in file.keys() if len(file.get_slice(n).get_shape()) == 2]  # noqa: SIM118
                tables.sort(key=lambda name: ("emb" not in name.lower(), name))
                there = ", ".join(tables[:5]) or "none"
                raise UserError(f"{path}: has no tensor {tensor}; its matrices: {there}")
            shape = tuple(file.get_slice(tensor).get_shape())
            if len(shape) != 2 or shape[0] != tokenizer.n_vocab:
                raise UserError(
                    f"{path}: {tensor} is {shape}; the tokenizer has {tokenizer.n_vocab} tokens "
                    f"and asks for that many rows: give the tokenizer that belongs to it"
                )
            rows_VE: Tensor = file.get_tensor(tensor).float()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {error}") from error
    if not rows_VE.isfinite().all():
        raise UserError(f"{path}: {tensor} holds values that are not finite")
    return rows_VE


def embedding_weights(rows_VE: Tensor, width: int, seed: int) -> dict[str, Tensor]:
    """What a model of `width` takes from the rows, as entries of its state dict.

    Rows of that width are scaled to the standard deviation of an untrained embedding, which is
    width**-0.5. Others stay as they are, and the projection behind them starts as a scaled isometry
    of their principal directions, as many as there is room for. A random rotation by `seed` spreads
    what the first of them hold over all channels, since positions are added channel by channel.
    """
    if rows_VE.shape[1] == width:
        return {TOKEN: rows_VE * (width**-0.5 / std_of(rows_VE))}
    centred_VE = rows_VE - rows_VE.mean(0)
    # Of [V, E] a decomposition of the [E, E] covariance is far cheaper than one of the rows.
    _, directions_EE = torch.linalg.eigh(centred_VE.double().T @ centred_VE.double())
    n = min(width, rows_VE.shape[1])
    principal_NE = directions_EE.flip(1).T[:n]
    generator = torch.Generator().manual_seed(seed)
    noise_DN = torch.randn(width, n, generator=generator, dtype=torch.float64)
    rotation_DN, _ = torch.linalg.qr(noise_DN)
    projection_DE = (rotation_DN @ principal_NE).float()
    projection_DE *= width**-0.5 / std_of(rows_VE @ projection_DE.T)
    return {TOKEN: rows_VE, PROJECTION: projection_DE}
