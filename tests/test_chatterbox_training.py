"""A T3 is trained on whole rows with the prompt of another utterance, and what is frozen stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_fixtures import Listener

from dimts.bundles.bundle import WEIGHTS, resolve_bundle
from dimts.commands.report import metrics_table
from dimts.commands.voice_config import load_voice
from dimts.core.errors import UserError
from dimts.families.chatterbox.bundle import load_bundle
from dimts.families.chatterbox.data import Data, held_out_rows, open_data
from dimts.families.chatterbox.dataset import Voices
from dimts.families.chatterbox.extractor import PROMPT, SPEAKER
from dimts.families.chatterbox.family import FAMILY, ChatterboxLimits
from dimts.families.chatterbox.held_out import aggregate_metrics, evaluate
from dimts.families.chatterbox.model.config import START_SPEECH, STOP_SPEECH, T3Config
from dimts.families.chatterbox.model.sampling import Sampling
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.objective import SpeechObjective, row_losses
from dimts.families.chatterbox.placed import PLACED
from dimts.families.chatterbox.settings import ChatterboxSettings, ChatterboxTraining
from dimts.families.chatterbox.stock import write_stock
from dimts.families.chatterbox.task import chatterbox_task
from dimts.families.registry import load_speaker
from dimts.features.feature_set import FeatureSet
from dimts.launch.training_run import run_training
from dimts.training.checkpoint import BEST, find_latest
from dimts.training.task import Moment

Build = Callable[..., ChatterboxSettings]
TABLES = ("text_emb.weight", "text_head.weight")
MOMENT = Moment(0, 1)


@pytest.fixture
def build(chatterbox_file: Path, tmp_path: Path) -> Build:
    """``build("model.mode=lora")``: settings of a small model, its runs in the test's folder."""

    def settings(*overrides: str) -> ChatterboxSettings:
        config = load_voice([chatterbox_file], [f"run.storage={tmp_path}", *overrides])
        found = config.launch().settings
        assert isinstance(found, ChatterboxSettings)
        return found

    return settings


@pytest.fixture
def data(build: Build) -> Data:
    return open_data(build())


def trained(settings: ChatterboxSettings, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    """Weights of the latest checkpoint after a training."""
    run_training(settings, Listener(stop_after))
    latest = find_latest(settings.run_dir)
    assert latest
    return load_file(latest / WEIGHTS)


def small(seed: int = 0) -> T3:
    torch.manual_seed(seed)
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "feed_forward": 64}
    return T3(T3Config(text_vocab=512, speech_vocab=6563, perceiver_dropout=0.0, **sizes))


def test_four_rows_are_learned_by_heart(data: Data) -> None:
    torch.manual_seed(0)
    model = T3(T3Config.tiny(512).model_copy(update={"perceiver_dropout": 0.0}))
    objective = SpeechObjective(model, ChatterboxTraining(amp="off"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch = data.train.collate(data.train.lengths.argsort()[:4].tolist())
    for _ in range(100):
        losses = objective(batch, MOMENT)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["speech_loss"] < 0.05
    assert losses["eos_recall"] == 1


def test_row_is_text_and_all_of_its_speech(data: Data) -> None:
    batch = data.train.collate([3, 4])
    for row, index in enumerate((3, 4)):
        n_text, n_speech = int(batch.n_text_B[row]), int(batch.n_speech_B[row])
        ids = batch.tokens_BL[row].tolist()
        assert ids[:n_text] == data.train.texts[index].tolist()
        assert ids[n_text] == START_SPEECH
        assert ids[n_text + n_speech - 1] == STOP_SPEECH
        assert not any(ids[n_text + n_speech :])
    assert batch.n_speech_targets == int((batch.n_speech_B - 1).sum())


def test_prompt_is_of_another_utterance_of_the_training(data: Data) -> None:
    split = data.features.split("train")
    vectors = np.stack([split.column(SPEAKER, n) for n in range(len(split))])
    for index in range(len(split)):
        drawn = [data.train.prompt(index, (0, epoch)) for epoch in range(20)]
        which = {int((vectors == vector).all(1).nonzero()[0][0]) for _, vector in drawn}
        assert index not in which
        assert len(which) > 1
        ids, vector = drawn[0]
        other = int((vectors == vector).all(1).nonzero()[0][0])
        assert np.array_equal(ids, split.column(PROMPT, other))


def test_prompt_is_never_of_another_set_that_has_a_speaker_of_the_same_name(
    data: Data, tmp_path: Path
) -> None:
    other = shutil.copytree(data.features.folder, tmp_path / "other")
    splits = [data.features.split("train"), FeatureSet.open(other).split("train")]
    voices = Voices(splits)
    for split in splits:
        (speaker,) = set(split.values("speaker"))
        n_others = voices.n_others(split, 0, speaker)
        assert n_others == len(split) - 1
        found = [voices.other(split, 0, speaker, number) for number in range(n_others)]
        assert [(of.folder, n) for of, n in found] == [
            (split.folder, n) for n in range(1, len(split))
        ]


def test_a_tenth_of_the_texts_is_not_shown_and_is_no_target(data: Data) -> None:
    n = len(data.train)
    shares = []
    for epoch in range(40):
        batch = data.train.collate(range(n), seed=(0, epoch))
        shares.append(batch.drop_text_B.float().mean().item())
        shown = batch.n_text_B[~batch.drop_text_B]
        assert batch.n_text_targets == int((shown - 1).sum())
    assert np.mean(shares) == pytest.approx(0.1, abs=0.03)
    assert not data.val.collate(range(len(data.val))).drop_text_B.any()


def test_speech_that_is_not_shown_is_foretold_all_the_same(build: Build, data: Data) -> None:
    rows = open_data(build("training.drop_speech=0.4")).train
    whole, seed = list(range(6)), (0, 3)
    batch = rows.collate(whole, seed=seed)
    plain = data.train.collate(whole, seed=seed)
    assert batch.shown_BL is not None and plain.shown_BL is None
    assert torch.equal(batch.tokens_BL, plain.tokens_BL)
    assert batch.n_speech_targets == plain.n_speech_targets
    hidden_BL = batch.shown_BL != batch.tokens_BL
    assert (batch.shown_BL[hidden_BL] == START_SPEECH).all()
    assert hidden_BL.sum() / batch.n_speech_targets == pytest.approx(0.4, abs=0.05)
    for row, n_text in enumerate(batch.n_text_B.tolist()):
        assert not hidden_BL[row, : n_text + 1].any()
    objective = SpeechObjective(small(), ChatterboxTraining(amp="off")).eval()
    losses = objective(batch, MOMENT)
    assert losses["speech_loss"] != objective(plain, MOMENT)["speech_loss"]
    parts = [
        objective(rows.collate(part, whole, seed=seed), MOMENT) for part in ([0, 1], [2, 3, 4, 5])
    ]
    together = sum(part["speech_loss"] for part in parts)
    torch.testing.assert_close(together, losses["speech_loss"], rtol=1e-5, atol=1e-5)


def test_row_costs_alone_what_it_costs_in_a_batch(data: Data) -> None:
    model = small().eval()
    order = data.val.lengths.argsort()
    pair = [int(order[0]), int(order[-1])]
    with torch.no_grad():
        together = row_losses(model, data.val.collate(pair, pad_to_multiple=True), "off")
        alone = [row_losses(model, data.val.collate([index]), "off") for index in pair]
    for name in ("speech", "text"):
        expected = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-5, atol=1e-4)


def test_losses_of_micro_batches_add_up_to_those_of_the_batch(data: Data) -> None:
    objective = SpeechObjective(small(), ChatterboxTraining(amp="off")).eval()
    whole, seed = list(range(6)), (0, 3)
    losses = objective(data.train.collate(whole, seed=seed), MOMENT)
    parts = [
        objective(data.train.collate(part, whole, seed=seed), MOMENT)
        for part in ([0, 1], [2, 3, 4, 5])
    ]
    for name, value in losses.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, rtol=1e-5, atol=1e-5)


def test_gap_is_what_the_speech_costs_after_the_text_of_another(data: Data) -> None:
    batch = data.val.collate(range(len(data.val)))
    assert batch.other_BL is not None and batch.n_other_B is not None
    texts = [ids[:n].tolist() for ids, n in zip(batch.other_BL, batch.n_other_B, strict=True)]
    own = [text.tolist() for text in data.val.texts]
    assert all(text in own and text != own[row] for row, text in enumerate(texts))
    swapped = copy(data.val)
    swapped.texts = [np.array(text) for text in texts]
    swapped.n_text = np.array([len(text) for text in texts])
    objective = SpeechObjective(small(), ChatterboxTraining(amp="off")).eval()
    with torch.no_grad():
        losses = objective(batch, MOMENT)
        wrong = objective(swapped.collate(range(len(data.val))), MOMENT)
    gap = wrong["speech_loss"] - losses["speech_loss"]
    torch.testing.assert_close(losses["text_gap"], gap, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_frozen_rows_of_text_keep_their_bits_and_others_learn(build: Build, mode: str) -> None:
    settings = build(f"model.mode={mode}", "model.freeze_until_index=20", "training.max_steps=3")
    task = chatterbox_task(settings, torch.device("cpu"))
    before = {name: task.model.state_dict()[name].clone() for name in TABLES}
    after = trained(settings)
    for name in TABLES:
        assert torch.equal(before[name][:20], after[name][:20])
        assert not torch.equal(before[name][20:], after[name][20:])


def test_top_layers_train_the_last_blocks_and_the_tables_of_text(build: Build) -> None:
    overrides = ("model.mode=top_layers", "model.top_layers=1", "training.max_steps=2")
    settings = build(*overrides)
    before = chatterbox_task(settings, torch.device("cpu")).model.state_dict()
    before = {name: weight.clone() for name, weight in before.items()}
    changed = {n for n, weight in trained(settings).items() if not torch.equal(weight, before[n])}
    assert {*TABLES, "speech_head.weight", "tfmr.norm.weight"} <= changed
    blocks = {name.split(".")[2] for name in changed if name.startswith("tfmr.layers.")}
    assert blocks == {"1"}
    assert "speech_emb.weight" not in changed


def test_adapters_go_on_bit_for_bit(build: Build) -> None:
    lora = ("model.mode=lora", "model.lora.rank=4")
    whole = trained(build("run.name=whole", *lora))
    parts = build("run.name=parts", *lora)
    half = trained(parts, stop_after=5)
    rest = trained(parts)
    adapters = [name for name in whole if name.endswith(".lora_b")]
    assert len(adapters) == 14
    assert any(not torch.equal(half[name], rest[name]) for name in adapters)
    assert whole.keys() == rest.keys()
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


def test_run_with_adapters_is_a_base_that_computes_the_same(build: Build) -> None:
    first = build("run.name=first", "model.mode=lora", "training.max_steps=4")
    trained(first)
    bundle = load_bundle(resolve_bundle(first.run_dir / BEST))
    second = build(f"base.bundle={first.run_dir}", "run.name=second")
    model = chatterbox_task(second, torch.device("cpu")).model.eval()
    assert isinstance(model, T3)
    batch = open_data(second).val.collate([0, 1])
    with torch.no_grad():
        expected, found = (row_losses(m, batch, "off").speech for m in (bundle.model(), model))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert not any("lora" in name for name in model.state_dict())


def published(folder: Path, data: Data, rows: Mapping[str, int]) -> Path:
    """A folder as `dimts extend` leaves it, in which a language was given rows of text."""
    folder.mkdir()
    model = small(1)
    write_stock(
        folder, model.state_dict(), model.config, data.tokenizer, "t3_mtl23ls_v2.safetensors", None
    )
    (folder / PLACED).write_text(json.dumps({"rows": rows}), encoding="utf-8")
    return folder


def test_n_base_freezes_all_rows_but_those_that_the_language_was_given(
    build: Build, data: Data, tmp_path: Path
) -> None:
    given = dict(list(data.tokenizer.ids.items())[5:60])
    folder = published(tmp_path / "am", data, given)
    settings = build(
        f"base.bundle={folder}", "model.freeze_until_index=n_base", "training.max_steps=2"
    )
    after = trained(settings)
    new = torch.zeros(512, dtype=torch.bool)
    new[list(given.values())] = True
    before = small(1).state_dict()
    for name in TABLES:
        assert torch.equal(before[name][~new], after[name][~new])
        assert not torch.equal(before[name][new], after[name][new])
    assert (resolve_bundle(settings.run_dir / BEST) / PLACED).is_file()


def test_what_the_model_knew_is_rehearsed(build: Build, data: Data, tmp_path: Path) -> None:
    folder = published(tmp_path / "stock", data, {})
    settings = build(
        f"base.bundle={folder}",
        f"base.features=[{data.features.folder}]",
        "base.rehearsal_share=0.5",
        "training.max_steps=4",
    )
    task = chatterbox_task(settings, torch.device("cpu"))
    assert task.rehearsal and list(task.rehearsal.ids) == list(data.train.ids)
    trained(settings)
    best, cpu = settings.run_dir / BEST, torch.device("cpu")
    metrics, before = FAMILY.held_out(settings, best, cpu)
    # What is rehearsed here is the corpus itself.
    lost = metrics["forgetting/speech_loss"]
    assert metrics["test/utterance_loss"] == pytest.approx(lost)
    assert metrics["forgetting/speech_loss_am"] == lost < before["forgetting/speech_loss"]
    change = metrics["forgetting/speech_loss_change"]
    assert change == pytest.approx(lost - before["forgetting/speech_loss"])
    assert f"{lost:.3f}   ({change:+.3f} against before" in metrics_table(FAMILY, metrics)
    promoted = dict(FAMILY.for_promotion(settings, cpu)(best, "it", True).metrics)
    assert promoted["forgetting"] == change
    limits = ChatterboxLimits(min_text_gap=-9)
    assert not FAMILY.objections(promoted, limits)
    (objection,) = FAMILY.objections(promoted | {"forgetting": 0.3}, limits)
    assert "changed by +0.300 nats a token" in objection
    with pytest.raises(UserError, match="rehearsal_share needs features"):
        build(f"base.bundle={folder}", "base.rehearsal_share=0.5")


def test_one_text_does_not_tell_whether_it_is_read(data: Data) -> None:
    rows = held_out_rows(data.features, data.tokenizer, "test")
    assert len(rows) == 1
    metrics = aggregate_metrics(evaluate(small().eval(), rows, 0))
    assert metrics["utterance_loss"] > 8 and "text_gap" not in metrics
    (objection,) = FAMILY.objections(metrics, ChatterboxLimits())
    assert "needs two utterances of different texts" in objection
    assert not FAMILY.objections(metrics, ChatterboxLimits(min_text_gap=-1))
    assert not FAMILY.objections(metrics | {"text_gap": 0.2}, ChatterboxLimits())


def test_who_speaks_is_asked_for_where_nothing_says_it(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    FAMILY.prepare_inputs(build())
    assert "name corpus.columns.speaker" in caplog.text


def test_n_base_is_refused_where_nothing_says_which_rows_are_new(
    build: Build, data: Data, tmp_path: Path
) -> None:
    folder = published(tmp_path / "plain", data, {})
    (folder / PLACED).unlink()
    settings = build(f"base.bundle={folder}", "model.freeze_until_index=n_base")
    with pytest.raises(UserError, match="nothing says which rows are new"):
        chatterbox_task(settings, torch.device("cpu"))


def test_rows_that_the_text_does_not_have_are_refused(
    build: Build, data: Data, tmp_path: Path
) -> None:
    folder = published(tmp_path / "am", data, {"ሀ": 512})
    with pytest.raises(UserError, match=r"vocabulary\.json: .*ሀ: 512 is none of the 512 rows"):
        open_data(build(f"base.bundle={folder}"))


def test_features_of_other_tokens_are_refused(build: Build) -> None:
    with pytest.raises(UserError, match=r"prepared with tokens\.digits=4.* says 6"):
        open_data(build("tokens.digits=6"))


def test_text_that_the_tokenizer_cannot_read_names_its_utterance(
    build: Build, data: Data, tmp_path: Path
) -> None:
    values = json.loads(json.dumps(data.tokenizer.values))
    vocabulary = values["model"]["vocab"]
    vocabulary["[gone]"] = vocabulary.pop("ም")
    stock = type(data.tokenizer)(values)
    folder = published(tmp_path / "am", data._replace(tokenizer=stock), {})
    with pytest.raises(UserError, match=r"am_\d+: no row for 'ም'.*dimts extend"):
        open_data(build(f"base.bundle={folder}"))


def test_speech_of_s3_tokens_ends_in_tokens_and_says_what_is_missing(build: Build) -> None:
    settings = build("training.max_steps=1")
    run_training(settings, Listener())
    bundle = resolve_bundle(settings.run_dir / BEST)
    speaker = load_speaker(bundle)
    (tokens,) = speaker.speech_tokens("ሰላም")  # type: ignore[attr-defined]
    (shorter,) = speaker.speech_tokens("ሰላም", sampling=Sampling(max_tokens=4))  # type: ignore[attr-defined]
    assert shorter.tolist() == tokens[:3].tolist()  # the last one is left out
    speaker._tokens = "s3"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=rf"^{len(tokens)} speech tokens .* S3Gen.*dimts export"):
        speaker.speak("ሰላም")
