"""What is frozen has the same bits after training, whatever the training does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from training_fixtures import Job, Listener, make_job, train

from dimts.bundles.bundle import resolve_bundle
from dimts.core.config import build_config
from dimts.core.errors import ConfigError
from dimts.families.acoustic.freezing import freeze, frozen_rows
from dimts.families.acoustic.model.config import FreezeBlocks, FreezeIndex, ModelConfig
from dimts.families.acoustic.model.embedding import PartlyFrozenEmbedding
from dimts.families.acoustic.model.t3 import T3
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.text.tokenizer_spec import TokenizerSpec
from dimts.training.config import OptimizerConfig
from dimts.training.optimizer import build_optimizer
from dimts.training.trainer import Trainer

if TYPE_CHECKING:
    from dimts.families.acoustic.settings import AcousticSettings
    from dimts.training.progress import Result

Settings = Callable[..., "AcousticSettings"]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

ROWS = 120
"""Of specials, space, punctuation and the first letters: every text has some of them."""
BLOCKS = FreezeBlocks(encoder=(0,), decoder=(1,))
TOKEN = "encoder.embedding.token.weight"
FROZEN_BLOCKS = ("encoder.blocks.0.", "decoder.blocks.1.")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_language(load_language("am"), TextConfig(language="am"))


def freezing(model: T3, rows: FreezeIndex = ROWS, blocks: FreezeBlocks = BLOCKS) -> T3:
    """The model, told to freeze."""
    changes = {"freeze_until_index": rows, "freeze_blocks": blocks}
    model.config = model.config.model_copy(update=changes)
    return model


def frozen_job(settings: AcousticSettings, tokenizer: Tokenizer) -> Job:
    job = make_job(settings)
    freeze(freezing(job.model), tokenizer)
    return job


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def used_factors(model: T3, i: int) -> list[int]:
    """Factor rows that the frozen tokens use."""
    return sorted({0, *model.encoder.embedding.factors_VF[:ROWS, i].tolist()})


def frozen_parts(weights: dict[str, Tensor], model: T3) -> dict[str, Tensor]:
    """What is to keep its bits: rows, their factors' rows, blocks."""
    parts = {TOKEN: weights[TOKEN][:ROWS]}
    for i in range(2):
        name = f"encoder.embedding.factor.{i}.weight"
        parts[name] = weights[name][used_factors(model, i)]
    return parts | {n: t for n, t in weights.items() if n.startswith(FROZEN_BLOCKS)}


def bits(tensor: Tensor) -> Tensor:
    """Unlike values, bits tell 0 from -0."""
    return tensor.contiguous().view(torch.int32)


def assert_held(before: dict[str, Tensor], after: dict[str, Tensor], model: T3) -> None:
    """Every bit of what is frozen, while what is not was trained."""
    was, now = frozen_parts(before, model), frozen_parts(after, model)
    assert [name for name in was if not torch.equal(bits(was[name]), bits(now[name]))] == []
    assert not torch.equal(before[TOKEN][ROWS:], after[TOKEN][ROWS:])
    assert not torch.equal(
        before["decoder.blocks.0.out.weight"], after["decoder.blocks.0.out.weight"]
    )


def adamw_on_all(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, weight_decay=0.5, fused=True)


def sgd_with_momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, weight_decay=0.1, fused=True)


CASES: dict[str, tuple[tuple[str, ...], MakeOptimizer | None]] = {
    "as-configured": ((), None),
    "weight-decay-on-all": ((), adamw_on_all),
    "momentum": ((), sgd_with_momentum),
    "average": (("training.ema_decay=0.9",), adamw_on_all),
    "accumulate": (("training.accumulate=2", "training.ema_decay=0.9"), None),
    "bf16": (("training.amp=bf16",), adamw_on_all),
    "fp16-scaler": (("training.ema_decay=0.9",), adamw_on_all),
}


def with_fp16(settings: AcousticSettings) -> AcousticSettings:
    """Half precision with a gradient scaler, which a voice's settings refuse on a CPU."""
    training = settings.training.model_copy(update={"amp": "fp16"})
    return settings.model_copy(update={"training": training})


def train_with(job: Job, make_optimizer: MakeOptimizer | None) -> Result:
    """The loop, with an optimizer that is handed every parameter, frozen or not."""
    trainer = Trainer(job.task, job.config, job.run_dir, Listener())
    if make_optimizer:
        optimizer = make_optimizer(job.model.parameters())
        trainer.state.objectives[0].optimizer = optimizer  # type: ignore[assignment]
    return trainer.run()


@pytest.mark.parametrize("case", CASES)
def test_frozen_rows_and_blocks_keep_their_bits(
    settings: Settings, tokenizer: Tokenizer, case: str
) -> None:
    """In the model and in the bundle that would ship, while the same run unfrozen moves them."""
    how, make_optimizer = CASES[case]
    how = (*how, "training.max_steps=6")

    def settings_of(name: str) -> AcousticSettings:
        if case != "fp16-scaler":
            return settings(name, *how)
        return with_fp16(settings(name, *how))

    job = frozen_job(settings_of("frozen"), tokenizer)
    before = state(job.model)
    result = train_with(job, make_optimizer)
    assert (result.step, result.skipped) == (6, 0)
    assert result.checkpoint is not None
    assert_held(before, state(job.model), job.model)
    assert_held(before, load_file(result.checkpoint / "model.safetensors"), job.model)

    free = make_job(settings_of("free"))
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in free.model.state_dict().items()
    )
    train_with(free, make_optimizer)
    was, now = frozen_parts(before, free.model), frozen_parts(state(free.model), free.model)
    same = [name for name in was if torch.equal(was[name], now[name])]
    assert same == [], "training would move every one of them"


def test_negative_zero_stays_negative(settings: Settings, tokenizer: Tokenizer) -> None:
    """An average of equal values turns -0 into 0 once its decay is above a half, so what is
    frozen has no average."""
    job = make_job(settings("zero", "training.max_steps=12", "training.ema_decay=0.9"))
    with torch.no_grad():
        job.model.encoder.embedding.token.weight[10] = -0.0
        job.model.encoder.blocks[0].norm_attention.bias.fill_(-0.0)  # type: ignore[union-attr,operator]
    freeze(freezing(job.model), tokenizer)
    before = state(job.model)
    result = train_with(job, None)
    assert result.checkpoint is not None
    assert_held(before, load_file(result.checkpoint / "model.safetensors"), job.model)


def test_stopped_run_goes_on_with_the_same_rows_frozen(
    settings: Settings, tokenizer: Tokenizer
) -> None:
    how = ("training.max_steps=8", "training.ema_decay=0.9", "training.accumulate=2")
    whole = train(frozen_job(settings("whole", *how), tokenizer), Listener())
    first = frozen_job(settings("parts", *how), tokenizer)
    before = state(first.model)
    assert train(first, Listener(stop_after=3)).status == "stopped"
    second = frozen_job(settings("parts", *how), tokenizer)
    resumed = train(second, Listener())
    assert (resumed.status, resumed.step) == ("finished", 8)
    assert whole.checkpoint is not None
    assert resumed.checkpoint is not None
    shipped, expected = (
        (r.checkpoint / "model.safetensors").read_bytes()  # type: ignore[operator]
        for r in (resumed, whole)
    )
    assert shipped == expected
    assert_held(before, load_file(resumed.checkpoint / "model.safetensors"), second.model)


def one_of_two(rank: int, settings: AcousticSettings, meeting: Path, folder: Path) -> None:
    """A worker of a run on two."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    tokenizer = Tokenizer.from_language(load_language("am"), TextConfig(language="am"))
    job = frozen_job(settings, tokenizer)
    torch.save(state(job.model), folder / f"before_{rank}.pt")
    train_with(job, adamw_on_all)
    torch.save(state(job.model), folder / f"after_{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.integration
def test_two_workers_keep_the_bits(
    settings: Settings, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    how = ("training.max_steps=4", "training.accumulate=2", "training.ema_decay=0.9")
    parallel = settings("two", *how)
    model = make_job(parallel).model  # also computes the durations, once
    torch.multiprocessing.spawn(  # type: ignore[attr-defined,no-untyped-call]
        one_of_two, (parallel, tmp_path / "meeting", tmp_path), nprocs=2
    )
    for rank in range(2):
        before, after = (torch.load(tmp_path / f"{n}_{rank}.pt") for n in ("before", "after"))
        assert_held(before, after, model)
    weights = load_file(
        resolve_bundle(parallel.run_dir / "checkpoint_latest") / "model.safetensors"
    )
    assert_held(before, weights, model)


# Frozen tokens, and the model around them


def test_vector_of_a_frozen_token_stays(settings: Settings, tokenizer: Tokenizer) -> None:
    """Its factors' rows too: other letters of the same consonant or vowel are trained."""
    job = frozen_job(settings("vectors", "training.max_steps=4"), tokenizer)
    ids = torch.arange(tokenizer.n_vocab)[None]
    with torch.no_grad():
        before = job.model.encoder.embedding(ids)
    train_with(job, adamw_on_all)
    with torch.no_grad():
        after = job.model.encoder.embedding(ids)
    assert torch.equal(before[:, :ROWS], after[:, :ROWS])
    assert (before[:, ROWS:] != after[:, ROWS:]).any(-1).all()


def test_frozen_model_is_any_model_to_who_loads_it(
    settings: Settings, tokenizer: Tokenizer
) -> None:
    job = frozen_job(settings("loaded", "training.max_steps=4"), tokenizer)
    train_with(job, None)
    free = make_job(settings("plain")).model
    assert free.state_dict().keys() == job.model.state_dict().keys()
    assert not any(tensor.requires_grad for tensor in job.model.state_dict().values())
    free.load_state_dict(job.model.state_dict())
    again = frozen_job(settings("again"), tokenizer).model
    again.load_state_dict(free.state_dict())
    ids = torch.tensor([tokenizer.encode("ሰላም ለዓለም።")])
    n = torch.tensor([ids.shape[1]])
    with torch.no_grad():
        spoken = [m.eval()(ids, n).mel_BTM for m in (job.model, free, again)]
    assert torch.equal(spoken[0], spoken[1])
    assert torch.equal(spoken[0], spoken[2])


def test_every_parameter_is_counted_once(settings: Settings, tokenizer: Tokenizer) -> None:
    model = make_job(settings("counted")).model
    n = sum(p.numel() for p in model.parameters())
    factor_rows = sum(len(used_factors(model, i)) for i in range(2))
    counts = freeze(freezing(model), tokenizer)
    in_blocks = sum(
        p.numel() for block in (model.encoder.blocks[0], model.decoder.blocks[1])
        for p in block.parameters()
    )  # fmt: skip
    frozen = (ROWS + factor_rows) * model.config.width + in_blocks
    assert counts == {"trained": n - frozen, "frozen": frozen, "frozen_rows": ROWS}
    optimizer = build_optimizer(model, OptimizerConfig())
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sum(p.numel() for p in held) == counts["trained"]
    rows = {id(m.trained) for m in model.modules() if isinstance(m, PartlyFrozenEmbedding)}
    assert len(rows) == 2, "tokens and consonants; every vowel is frozen"
    assert rows <= {id(p) for p in optimizer.param_groups[1]["params"]}, "without weight decay"
    assert optimizer.param_groups[1]["weight_decay"] == 0


def test_nothing_to_freeze_changes_nothing(settings: Settings, tokenizer: Tokenizer) -> None:
    model = make_job(settings("nothing")).model
    names = [name for name, _ in model.named_parameters()]
    counts = freeze(model, tokenizer)
    assert (counts["frozen"], counts["frozen_rows"]) == (0, 0)
    assert [name for name, _ in model.named_parameters()] == names


def test_whole_vocabulary_frozen(settings: Settings, tokenizer: Tokenizer) -> None:
    model = make_job(settings("all")).model
    counts = freeze(freezing(model, "n_vocab", FreezeBlocks()), tokenizer)
    assert counts["frozen_rows"] == tokenizer.n_vocab
    assert not any(p.requires_grad for p in model.encoder.embedding.parameters())
    assert counts["frozen"] == sum(p.numel() for p in model.encoder.embedding.parameters())


def test_trained_rows_get_the_gradient_of_a_plain_embedding() -> None:
    torch.manual_seed(0)
    plain = nn.Embedding(9, 4, padding_idx=0)
    frozen_V = torch.tensor([True, False, True, True, False, False, True, False, True])
    partly = PartlyFrozenEmbedding(plain, frozen_V)
    ids, slope = torch.randint(9, (5, 30)), torch.randn(5, 30, 4)
    assert torch.equal(partly(ids), plain(ids))
    for embedding in (plain, partly):
        (embedding(ids) * slope).sum().backward()
    assert plain.weight.grad is not None
    assert torch.equal(partly.trained.grad, plain.weight.grad[~frozen_V])  # type: ignore[arg-type]
    assert partly.frozen.grad is None


@pytest.mark.parametrize("shape", [(8, 4), (9, 3)])
def test_rows_of_another_shape_are_refused(shape: tuple[int, int]) -> None:
    partly = PartlyFrozenEmbedding(nn.Embedding(9, 4), torch.arange(9) < 3)
    with pytest.raises(RuntimeError, match=r"size mismatch|Unexpected key"):
        partly.load_state_dict({"weight": torch.zeros(shape)})
    with pytest.raises(RuntimeError, match="Missing key"):
        partly.load_state_dict({})


# Settings


@pytest.fixture(scope="session")
def extended() -> Tokenizer:
    """English extended by Amharic."""
    english, amharic = (load_language(code) for code in ("en", "am"))
    base = Tokenizer.from_language(english, TextConfig(language="en"))
    both = Tokenizer.from_languages(
        [(english, TextConfig(language="en")), (amharic, TextConfig(language="am"))]
    )
    tokens = tuple(dict.fromkeys((*base.tokens, *both.tokens)))
    values = both.spec.model_copy(update={"tokens": tokens, "n_base": base.n_vocab})
    return Tokenizer(TokenizerSpec.model_validate(values.model_dump()))


def test_index_says_how_many_rows(tokenizer: Tokenizer, extended: Tokenizer) -> None:
    assert frozen_rows(0, tokenizer) == 0
    assert frozen_rows(135, tokenizer) == 135
    assert frozen_rows("n_vocab", tokenizer) == tokenizer.n_vocab
    assert frozen_rows("n_base", extended) == extended.n_base
    assert frozen_rows(0.5, extended) == round(extended.n_base / 2)
    assert frozen_rows("n_vocab", extended) == extended.n_vocab > extended.n_base > 0


def test_index_that_does_not_fit_is_refused(tokenizer: Tokenizer) -> None:
    n = tokenizer.n_vocab
    with pytest.raises(ConfigError, match=f"freeze_until_index={n + 1}: .* has {n} tokens"):
        frozen_rows(n + 1, tokenizer)
    for index in ("n_base", 0.5):
        with pytest.raises(ConfigError, match=f"={index}: the tokenizer was not extended"):
            frozen_rows(index, tokenizer)


@pytest.mark.parametrize("value", [0, 135, 0.5, "n_base", "n_vocab"])
def test_index_is_read_as_it_was_written(value: FreezeIndex) -> None:
    read = build_config(ModelConfig, {"freeze_until_index": value}).freeze_until_index
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("value", [-1, 1.5, 0.0, 1.0, True, "all", None, [3]])
def test_index_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="freeze_until_index: must be a number of rows, a share"):
        build_config(ModelConfig, {"freeze_until_index": value})


def test_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"freeze_blocks.encoder: .* no block 4; allowed: 0 to 3"):
        build_config(ModelConfig, {"freeze_blocks": {"encoder": [1, 4]}})
    with pytest.raises(ConfigError, match=r"freeze_blocks.decoder: .* no block -1"):
        build_config(ModelConfig, {"freeze_blocks": {"decoder": [-1]}})
