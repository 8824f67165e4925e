"""Chatterbox's T3: the published names and logits, batches, generation, adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.chatterbox_parity import drawn_row, drawn_weights, stored_logits
from dimts.families.chatterbox.model.config import (
    N_SPEECH,
    START_SPEECH,
    STOP_SPEECH,
    LoraConfig,
    T3Config,
)
from dimts.families.chatterbox.model.generation import Generated, generate
from dimts.families.chatterbox.model.lora import add_lora, merge_lora
from dimts.families.chatterbox.model.sampling import Sampling, draw
from dimts.families.chatterbox.model.t3 import T3

GOLDEN = Path(__file__).parent / "golden" / "chatterbox_tiny.json"
CONFIG = T3Config.tiny()
GREEDY = Sampling(temperature=0, cfg_weight=0, repetition_penalty=1, n_bos=1, max_tokens=12)
LAYER = {
    "self_attn.q_proj": (1024, 1024), "self_attn.k_proj": (1024, 1024),
    "self_attn.v_proj": (1024, 1024), "self_attn.o_proj": (1024, 1024),
    "mlp.gate_proj": (4096, 1024), "mlp.up_proj": (4096, 1024), "mlp.down_proj": (1024, 4096),
    "input_layernorm": (1024,), "post_attention_layernorm": (1024,),
}  # fmt: skip
PUBLISHED = {
    **{f"tfmr.layers.{n}.{k}.weight": s for n in range(30) for k, s in LAYER.items()},
    "tfmr.norm.weight": (1024,),
    "tfmr.embed_tokens.weight": (8, 1024),
    "cond_enc.spkr_enc.weight": (1024, 256),
    "cond_enc.spkr_enc.bias": (1024,),
    "cond_enc.emotion_adv_fc.weight": (1024, 1),
    "cond_enc.perceiver.pre_attention_query": (1, 32, 1024),
    "cond_enc.perceiver.attn.norm.weight": (1024,),
    "cond_enc.perceiver.attn.norm.bias": (1024,),
    **{
        f"cond_enc.perceiver.attn.{name}.{part}": (1024, 1024)[: 2 if part == "weight" else 1]
        for name in ("to_q", "to_k", "to_v", "proj_out")
        for part in ("weight", "bias")
    },
    "text_emb.weight": (2454, 1024),
    "text_head.weight": (2454, 1024),
    "speech_emb.weight": (8194, 1024),
    "speech_head.weight": (8194, 1024),
    "text_pos_emb.emb.weight": (2050, 1024),
    "speech_pos_emb.emb.weight": (4100, 1024),
}
"""Names and shapes of the multilingual model's 292 tensors."""


@pytest.fixture
def model() -> T3:
    """Tiny, with drawn weights, in evaluation mode."""
    model = T3(CONFIG)
    model.load_state_dict(drawn_weights(model))
    return model.eval()


def batch_of_two() -> dict[str, Tensor]:
    """A row, and a shorter one with another prompt, padded with ids that look valid."""
    row = drawn_row(CONFIG)
    batch = {name: torch.cat((x, x.flip(1) if x.ndim > 1 else x)) for name, x in row.items()}
    for name, length in (("text", 9), ("speech", 21), ("prompt", 30)):
        batch[f"{name}_lengths_B"] = torch.tensor([int(row[f"{name}_lengths_B"]), length])
    return batch


def second_alone(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    alone = {name: x[1:] for name, x in batch.items()}
    for ids in ("text_ids_BN", "speech_ids_BS", "prompt_ids_BP"):
        length = alone[f"{ids.split('_')[0]}_lengths_B"]
        alone[ids] = alone[ids][:, : int(length)]
    return alone


def say(model: T3, sampling: Sampling, seed: int = 0) -> Generated:
    row = drawn_row(CONFIG)
    parts = (row["text_ids_BN"][0], row["speaker_emb_BE"][0], row["prompt_ids_BP"][0])
    return generate(model, *parts, sampling=sampling, seed=seed)


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = T3(T3Config.full_multilingual()).state_dict()
    assert len(PUBLISHED) == 292
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == PUBLISHED
    assert sum(tensor.numel() for tensor in state.values()) == 535_989_248


def test_logits_are_those_of_the_published_package(model: T3) -> None:
    with torch.no_grad():
        logits = stored_logits(*model(**drawn_row(CONFIG)))
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert logits["mean_magnitude"] == pytest.approx(golden["mean_magnitude"], rel=1e-4)
    for part in ("text", "speech"):
        torch.testing.assert_close(
            torch.tensor(logits[part]), torch.tensor(golden[part]), rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def test_rows_do_not_depend_on_their_batch(model: T3) -> None:
    batch = batch_of_two()
    for together, alone in zip(model(**batch), model(**second_alone(batch)), strict=True):
        torch.testing.assert_close(together[1:, : alone.shape[1]], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_padding_of_a_prompt_is_not_heard(model: T3) -> None:
    batch = batch_of_two()
    other = {**batch, "prompt_ids_BP": batch["prompt_ids_BP"].clone()}
    other["prompt_ids_BP"][1, 30:] = 7
    shorter = {**batch, "prompt_lengths_B": torch.tensor([75, 29])}
    _, speech = model(**batch)
    assert torch.equal(model(**other)[1], speech)
    assert not torch.equal(model(**shorter)[1][1], speech[1])


@torch.no_grad()
def test_a_dropped_text_is_not_read(model: T3) -> None:
    batch = batch_of_two()
    other = {**batch, "text_ids_BN": batch["text_ids_BN"].roll(1, dims=1)}
    drop = torch.tensor([False, True])
    (_, one), (_, two) = model(**batch, drop_text_B=drop), model(**other, drop_text_B=drop)
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], two[0])


@torch.no_grad()
def test_generation_with_a_cache_is_that_without(model: T3) -> None:
    row, said = drawn_row(CONFIG), say(model, GREEDY).ids
    ids = torch.cat((torch.tensor([START_SPEECH]), said))
    row |= {"speech_ids_BS": ids[None], "speech_lengths_B": torch.tensor([len(ids)])}
    _, speech = model(**row)
    assert speech[0, :-1, :N_SPEECH].argmax(-1).tolist() == said.tolist()
    assert len(said) == GREEDY.max_tokens


def test_a_seed_says_the_same_again(model: T3) -> None:
    sampling = Sampling(max_tokens=10)
    first, again = say(model, sampling, seed=1), say(model, sampling, seed=1)
    assert first.ids.tolist() == again.ids.tolist()
    assert say(model, sampling, seed=2).ids.tolist() != first.ids.tolist()


def test_guidance_and_penalty_change_what_is_said(model: T3) -> None:
    plain = say(model, GREEDY).ids.tolist()
    guided = GREEDY.model_copy(update={"cfg_weight": 3.0})
    assert say(model, guided).ids.tolist() != plain
    unrepeated = say(model, GREEDY.model_copy(update={"repetition_penalty": 100.0})).ids
    assert len(unrepeated.unique()) == len(unrepeated)


def test_generation_ends_with_the_end_token(model: T3) -> None:
    endless = say(model, GREEDY)
    assert not endless.ended
    with torch.no_grad():  # what was said third is the end now
        head = model.speech_head.weight
        head[STOP_SPEECH] = head[endless.ids[2]] * 2
    said = say(model, GREEDY)
    assert said.ended and len(said.ids) <= 2
    assert said.ids.tolist() == endless.ids[: len(said.ids)].tolist()


def test_ids_that_s3_does_not_know_are_never_said(model: T3) -> None:
    first = say(model, GREEDY).ids[0]
    with torch.no_grad():
        head = model.speech_head.weight
        head[[START_SPEECH, STOP_SPEECH + 1, -1]] = head[first] * 2
    assert say(model, GREEDY).ids[0] == first


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"temperature": 0}, {0}),
        ({"min_p": 0.3, "temperature": 1}, {0, 1}),
        ({"min_p": 0, "top_p": 0.6, "temperature": 1}, {0, 1}),
        ({"min_p": 0, "temperature": 1}, {0, 1, 2, 3}),
    ],
)
def test_rules_leave_the_likely_tokens(rule: dict[str, float], kept: set[int]) -> None:
    logits = torch.tensor([0.5, 0.3, 0.14, 0.06]).log()
    generator = torch.Generator().manual_seed(0)
    nothing = torch.tensor([], dtype=torch.long)
    drawn = {int(draw(logits, nothing, Sampling(**rule), generator)) for _ in range(200)}
    assert drawn == kept


def test_checkpointing_changes_no_gradient(model: T3) -> None:
    gradients = []
    for checkpointing in (False, True):
        model.tfmr.checkpointing = checkpointing
        model.zero_grad()
        sum(x.logsumexp(-1).sum() for x in model(**batch_of_two())).backward()
        named = model.named_parameters()
        gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
    assert set(gradients[0]) == {n for n, _ in model.named_parameters()} - {
        "tfmr.embed_tokens.weight"
    }
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_autocast_stays_near_float32(model: T3) -> None:
    row = drawn_row(CONFIG)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        _, low = model(**row)
    with torch.no_grad():
        _, speech = model(**row)
    assert (low.float() - speech).abs().max() < 0.2 * speech.std()


def test_adapters_train_beside_frozen_layers_and_merge(model: T3) -> None:
    config = LoraConfig(rank=4, alpha=8, linears=("q_proj", "down_proj"))
    row = drawn_row(CONFIG)
    with torch.no_grad():
        _, before = model(**row)
    plain = set(model.state_dict())
    add_lora(model, config)
    with torch.no_grad():
        assert torch.equal(model(**row)[1], before)
    added = set(model.state_dict()) - plain
    assert len(added) == 2 * 2 * CONFIG.layers and plain < set(model.state_dict())
    for name, parameter in model.named_parameters():
        wrapped = name.endswith(("q_proj.weight", "down_proj.weight"))
        assert parameter.requires_grad == (not wrapped and "embed_tokens" not in name), name
        if name in added:
            torch.nn.init.normal_(parameter, std=0.1)
    merged = merge_lora(model.state_dict(), config)
    other = T3(CONFIG).eval()
    other.load_state_dict(merged)
    with torch.no_grad():
        adapted = model(**row)[1]
        torch.testing.assert_close(other(**row)[1], adapted, rtol=0, atol=1e-4)
    assert (adapted - before).abs().max() > 0.01


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 12"):
        T3Config(hidden=64, heads=6)
