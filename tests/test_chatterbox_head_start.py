"""A T3 that starts from nothing looks at its text."""

from __future__ import annotations

import torch
from torch import Tensor

from dimts.families.chatterbox.model.config import T3Config
from dimts.families.chatterbox.model.head_start import look_at_the_text
from dimts.families.chatterbox.model.llama import Block
from dimts.families.chatterbox.model.rope import rotate
from dimts.families.chatterbox.model.t3 import T3


def looked_at(model: T3, n_text: int, n_speech: int) -> Tensor:
    """Letter that half of the heads of the first block look at most, of each speech token."""
    ids = torch.Generator().manual_seed(0)
    text = torch.randint(0, 400, (1, n_text), generator=ids)
    speech = torch.randint(0, 400, (1, n_speech), generator=ids)
    x = torch.cat((model.embed_text(text), model.embed_speech(speech)), 1)
    block = model.tfmr.layers[0]
    assert isinstance(block, Block)
    table = model.tfmr.rotations()[:, : x.shape[1]]
    query, key = (
        rotate(part(block.input_layernorm(x)).unflatten(-1, (4, -1)).transpose(1, 2), table)
        for part in (block.self_attn.q_proj, block.self_attn.k_proj)
    )
    logits = query[0, :2, n_text:] @ key[0, :2].transpose(1, 2)
    sees = torch.ones(n_speech, n_text + n_speech, dtype=torch.bool).tril(n_text)
    return logits.masked_fill(~sees, -1e9).softmax(-1).mean(0)[:, :n_text].argmax(1)


@torch.no_grad()
def test_model_from_nothing_looks_at_the_letters_that_are_being_said() -> None:
    n_text, pace = 40, 2.5
    n_speech = round(pace * (n_text - 3))
    said = 2 + torch.arange(n_speech) / pace

    def near(model: T3) -> float:
        return float(((looked_at(model, n_text, n_speech) - said).abs() < 4).float().mean())

    torch.manual_seed(0)
    model = T3(T3Config(text_vocab=512, speech_vocab=6563, hidden=64, layers=2, heads=4,
                        feed_forward=128))  # fmt: skip
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert near(model) < 0.4
    look_at_the_text(model, pace)
    assert near(model) > 0.7
    changed = {n for n, weight in model.state_dict().items() if not torch.equal(weight, before[n])}
    block = "tfmr.layers.0.self_attn"
    assert changed == {
        "text_pos_emb.emb.weight", "speech_pos_emb.emb.weight", f"{block}.q_proj.weight",
        f"{block}.k_proj.weight",
    }  # fmt: skip
    others = before[f"{block}.q_proj.weight"][32:]
    assert torch.equal(model.state_dict()[f"{block}.q_proj.weight"][32:], others)
