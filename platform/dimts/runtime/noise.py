"""The noise that speech is made of: what torch draws with the seed 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 8
"""Values that share a radius with those that follow."""


def standard_normal(n: int) -> NDArray[np.float32]:
    """The first `n` of ``torch.randn`` on a CPU with the seed 0; a multiple of 16.

    Words of the Mersenne twister as 24 bits each, two by two by Box & Muller (1958).
    """
    twister = np.random.MT19937()
    twister._legacy_seeding(0)
    uniform = (twister.random_raw(n) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)
    pairs = uniform.reshape(-1, 2, BLOCK)
    radius = np.sqrt(-2 * np.log1p(-pairs[:, 0]))
    angle = np.float32(2 * np.pi) * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()
