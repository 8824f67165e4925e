"""A trained T3 as a folder that the stock package loads, compared with what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from dimts.bundles.fetch import new_folder
from dimts.core.errors import UserError
from dimts.families.chatterbox.bundle import ChatterboxBundle
from dimts.families.chatterbox.model.config import (
    MAX_PROMPT,
    N_SPEECH,
    SPEAKER_WIDTH,
    START_SPEECH,
    START_TEXT,
    STOP_TEXT,
)
from dimts.families.chatterbox.model.lora import merge_lora
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.placed import write_placed
from dimts.families.chatterbox.stock import (
    MULTILINGUAL,
    STOCK_ROWS,
    TOKENIZERS,
    open_stock,
    write_stock,
)

MAX_DIFFERENCE = 1e-3
"""Of logits, at most: merging adapters rounds."""


class Exported(NamedTuple):
    """What was written.

    Attributes:
        t3_file: name of the T3's file.
        difference: largest one of logits, exported and trained.
        loads: whether the stock package loads the folder as it is.
    """

    t3_file: str
    difference: float
    loads: bool


def export(bundle: ChatterboxBundle, out: Path, beside: Path | None) -> Exported:
    """Write a bundle's T3 and tokenizer under the published names, and compare.

    Args:
        bundle: of the T3; its adapters are merged.
        out: folder to make.
        beside: stock folder whose other parts (voice encoder, speech decoder, default voice) are
            put there, too, and whose T3 gives the name of the file.

    Raises:
        UserError: `out` is there, `beside` is no stock folder or another model's, or what was
            written computes something else than what was trained.
    """
    folder = new_folder(out)
    kinds = [
        name
        for name, file in TOKENIZERS.items()
        if (file == MULTILINGUAL) == bundle.tokenizer.multilingual
    ]
    t3_file = open_stock(beside).t3_file if beside else kinds[0]
    if t3_file not in kinds:
        raise UserError(f"{beside}: holds {t3_file}; the trained model is not of that kind")
    merged = merge_lora(bundle.weights, bundle.lora) if bundle.lora else bundle.weights
    with folder as draft:
        write_stock(draft, merged, bundle.config, bundle.tokenizer, t3_file, beside)
        write_placed(draft, bundle.placed)
        written = open_stock(draft)
        if written.tokenizer.values != bundle.tokenizer.values:
            raise UserError(f"{out}: the tokenizer was not written as it is")
        difference = logits_apart(bundle, draft / t3_file)
        if not difference <= MAX_DIFFERENCE:
            raise UserError(
                f"{out}: logits of what was written differ by {difference:.2g} from the trained "
                f"model's, more than {MAX_DIFFERENCE:g}; nothing is kept"
            )
    loads = bundle.tokenizer.n_vocab == STOCK_ROWS[TOKENIZERS[t3_file]]
    return Exported(t3_file, difference, loads)


@torch.inference_mode()
def logits_apart(bundle: ChatterboxBundle, file: Path) -> float:
    """Largest difference of logits between the bundle's model and a file's."""
    batch = _batch(bundle.config.text_vocab)
    expected = bundle.model()(*batch)
    model = T3(bundle.config)
    model.load_state_dict(load_file(file))
    actual = model.eval()(*batch)
    pairs = zip(expected, actual, strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


def _batch(text_vocab: int) -> tuple[Tensor, ...]:
    """One row of drawn text, speech, speaker and prompt: what `T3.forward` takes."""
    generator = torch.Generator().manual_seed(0)
    n_text, n_speech = 24, 48

    def ids(most: int, size: int) -> Tensor:
        return torch.randint(1, most, (1, size), generator=generator)

    text_1N, speech_1S = ids(text_vocab, n_text), ids(N_SPEECH, n_speech)
    text_1N[:, 0], text_1N[:, -1], speech_1S[:, 0] = START_TEXT, STOP_TEXT, START_SPEECH
    lengths = (torch.tensor([n]) for n in (n_text, n_speech, MAX_PROMPT))
    text_length_1, speech_length_1, prompt_length_1 = lengths
    speaker_1E = torch.rand(1, SPEAKER_WIDTH, generator=generator)
    prompt_1P = ids(N_SPEECH, MAX_PROMPT)
    return (
        text_1N, text_length_1, speech_1S, speech_length_1,
        speaker_1E, prompt_1P, prompt_length_1, torch.tensor([0.5]),
    )  # fmt: skip
