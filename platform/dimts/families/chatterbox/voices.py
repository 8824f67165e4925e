"""The voices that a bundle speaks in: a prompt and a vector of each speaker of the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dimts.bundles.bundle import BundleError, file_of
from dimts.families.chatterbox.dataset import Ids, Rows, Voices
from dimts.families.chatterbox.model.config import (
    MAX_PROMPT,
    MAX_SPEECH,
    N_SPEECH,
    SPEAKER_WIDTH,
)

FILE = "voices.safetensors"
MAX_VOICES = 1000
PROMPT, SPEAKER = "prompt:", "vector:"
PACE = "tokens_per_text_id"


class Voice(NamedTuple):
    """Prompt ids and the voice encoder's vector of one utterance."""

    prompt: Ids
    speaker: NDArray[np.float32]


class BundledVoices(NamedTuple):
    """What `FILE` holds.

    Attributes:
        voices: by name.
        pace: speech tokens for each id of the text in the slowest row of the training.
    """

    voices: dict[str, Voice]
    pace: float


def write_voices(folder: Path, voices: Voices, rows: Rows) -> None:
    """Write the longest prompt of each speaker into a bundle's folder."""
    tensors = {PACE: torch.tensor((rows.n_speech / rows.n_text).max(), dtype=torch.float32)}
    for name in voices.names[:MAX_VOICES]:
        prompt, speaker = voices.longest(name)
        tensors[PROMPT + name] = torch.from_numpy(prompt)
        tensors[SPEAKER + name] = torch.tensor(speaker)
    save_file(tensors, folder / FILE)


def read_voices(folder: Path) -> BundledVoices:
    """The voices of a bundle.

    Raises:
        BundleError: they cannot be read, or are none.
    """
    try:
        tensors = load_file(file_of(folder, FILE))
        names = [key.removeprefix(PROMPT) for key in tensors if key.startswith(PROMPT)]
        voices = {
            name: Voice(tensors[PROMPT + name].numpy(), tensors[SPEAKER + name].numpy())
            for name in names
        }
        pace = float(tensors[PACE])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BundleError(f"{folder / FILE}: cannot be read: {error}") from error
    for name, voice in voices.items():
        if not _is_voice(voice):
            raise BundleError(f"{folder / FILE}: {name}: is no voice")
    if not voices:
        raise BundleError(f"{folder / FILE}: holds no voice")
    if not 0 < pace < MAX_SPEECH:
        raise BundleError(f"{folder / FILE}: {PACE}: {pace} is no pace")
    return BundledVoices(voices, pace)


def _is_voice(voice: Voice) -> bool:
    prompt, speaker = voice
    return bool(
        speaker.shape == (SPEAKER_WIDTH,)
        and speaker.dtype == np.float32
        and np.isfinite(speaker).all()
        and prompt.ndim == 1
        and 1 <= prompt.size <= MAX_PROMPT
        and prompt.dtype == np.int64
        and 0 <= prompt.min() <= prompt.max() < N_SPEECH
    )
