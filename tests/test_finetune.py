"""A voice that starts from a base: it learns a language and keeps those that it has."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from base_fixtures import copied, rewrite, write_base
from torch import Tensor
from training_fixtures import Listener, acoustic, with_a_long_test

from dimts.bundles.bundle import read_manifest, read_weights, resolve_bundle, sha256
from dimts.commands.report import print_result
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.dataset import join, load_corpus
from dimts.families.acoustic.extension.extended import write_extended_bundle
from dimts.families.acoustic.extension.rows import FACTOR, TOKEN, Extension
from dimts.families.acoustic.flat_start import ensure_durations, read_durations
from dimts.families.acoustic.held_out import aggregate_metrics, evaluate
from dimts.families.acoustic.measurements import held_out
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.acoustic.task import initial_model
from dimts.launch.start import start_run
from dimts.launch.training_run import run_training
from dimts.text.language import load_language
from dimts.text.merging import merge
from dimts.text.normaliser import TextConfig
from dimts.training.checkpoint import BEST
from dimts.training.progress import Result

if TYPE_CHECKING:
    from conftest import BaseVoice

Adapted = Callable[..., VoiceConfig]
SAYINGS = {"es": "Buenos días.", "sw": "Habari ya asubuhi.", "am": "ሰላም ነው።"}
REHEARSED = ("base.rehearsal_share=0.5", "model.freeze_until_index=n_base")
QUICK = ("training.max_steps=2", "training.validate_every=0")


class Run(NamedTuple):
    """One that has ended."""

    config: VoiceConfig
    result: dict[str, Any]
    printed: str

    @property
    def bundle(self) -> Path:
        return Path(self.result["best"])


@pytest.fixture(scope="module")
def rehearsed(base: BaseVoice, voice_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Adapted to Amharic with rehearsal, the base's rows frozen; as `jobs/train.py` does it."""
    overrides = [
        f"run.storage={tmp_path_factory.mktemp('rehearsed')}",
        f"base.bundle={base.run_dir}",
        f"base.features=[{', '.join(map(str, base.features))}]",
        *REHEARSED,
    ]
    config = load_config(VoiceConfig, [voice_file], overrides)
    printed = StringIO()
    with redirect_stdout(printed):
        result = start_run(config.launch(), config.ray)
        print_result(config.of_family, config.run.run_dir, result)
    return Run(config, result, printed.getvalue())


def trained(config: VoiceConfig, stop_after: int | None = None) -> tuple[Listener, Result]:
    listener = Listener(stop_after)
    return listener, run_training(config.launch().settings, listener)


def bundle_of(result: Result) -> Path:
    assert result.checkpoint is not None
    return result.checkpoint


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32)


# What comes out


def test_adapted_voice_speaks_old_and_new_languages(rehearsed: Run, base: BaseVoice) -> None:
    voice = AcousticSpeaker.load(rehearsed.bundle)
    assert voice.tokenizer.languages == ("es", "sw", "am")
    n_base = load_bundle(base.run_dir / BEST).tokenizer.n_vocab
    assert voice.tokenizer.n_base == n_base < voice.tokenizer.n_vocab
    for code, text in SAYINGS.items():
        wave = voice.speak(text, language=code)
        assert len(wave) > 1000
        assert np.isfinite(wave).all()
    amharic = voice.mel(SAYINGS["am"])[0]
    assert np.array_equal(amharic, voice.mel(SAYINGS["am"], language="am")[0])


def test_frozen_rows_keep_their_bits_while_the_rest_learns(rehearsed: Run, base: BaseVoice) -> None:
    before, after = (
        read_weights(resolve_bundle(base.run_dir / BEST)),
        read_weights(rehearsed.bundle),
    )
    n_base = len(before[TOKEN])
    assert torch.equal(bits(after[TOKEN][:n_base]), bits(before[TOKEN]))
    settings = acoustic(rehearsed.config.launch())
    start = initial_model(settings, open_data(settings)).state_dict()
    moved = {name for name in start if not torch.equal(start[name], after[name])}
    assert {TOKEN, FACTOR.format(0), FACTOR.format(1)} <= moved, "new rows are trained"
    others = {n for n in start if not n.startswith(("encoder.embedding", "mel_"))}
    assert others <= moved, "and everything behind them"


def test_rows_that_are_not_frozen_move_in_rehearsal(adapted: Adapted, base: BaseVoice) -> None:
    """Or the test above would hold whatever the freezing does."""
    _, result = trained(adapted("base.rehearsal_share=0.5", *QUICK))
    before, after = (
        read_weights(resolve_bundle(base.run_dir / BEST)),
        read_weights(bundle_of(result)),
    )
    spoken = [load_bundle(base.run_dir / BEST).tokenizer.tokens.index(c) for c in "aeo"]
    assert not (after[TOKEN][spoken] == before[TOKEN][spoken]).any()


def test_statistics_are_those_that_the_base_was_trained_with(
    rehearsed: Run, base: BaseVoice
) -> None:
    before, after = (
        read_weights(resolve_bundle(base.run_dir / BEST)),
        read_weights(rehearsed.bundle),
    )
    data = open_data(acoustic(rehearsed.config.launch()))
    for name in ("mel_mean_M", "mel_std_M"):
        assert torch.equal(after[name], before[name])
        assert np.array_equal(getattr(data, name), before[name]), "what the aligner goes by"


def test_bundle_says_where_it_comes_from(rehearsed: Run, base: BaseVoice) -> None:
    source = resolve_bundle(base.run_dir / BEST)
    assert read_manifest(rehearsed.bundle).origin == {
        "base": source.name,
        "base_sha256": sha256(source / "model.safetensors"),
        "start": "transliteration",
        "language": "am",
    }


def test_bundle_names_the_voice_that_it_was_adapted_from(
    adapted: Adapted, rehearsed: Run, base: BaseVoice
) -> None:
    """Not the base of that one, although nothing was added to its vocabulary."""
    config = adapted(*QUICK, "base.features=[]", f"base.bundle={rehearsed.bundle}")
    _, result = trained(config)
    manifest = read_manifest(bundle_of(result), verify=False)
    assert manifest.origin["base"] == rehearsed.bundle.resolve().name
    assert manifest.origin["base_sha256"] == sha256(rehearsed.bundle / "model.safetensors")


def test_bundle_of_a_base_that_was_extended_names_what_it_was_made_from(
    adapted: Adapted, base: BaseVoice, tmp_path: Path
) -> None:
    source = resolve_bundle(base.run_dir / BEST)
    tokenizer = load_bundle(source).tokenizer
    merged = merge(tokenizer, load_language("am"), TextConfig(language="am"))
    extension = Extension(tokenizer, merged, "mean", None, seed=1)
    write_extended_bundle(source, extension, tmp_path / "extended")
    _, result = trained(adapted(*QUICK, "base.features=[]", f"base.bundle={tmp_path / 'extended'}"))
    origin = read_manifest(bundle_of(result)).origin
    assert (origin["base"], origin["start"]) == (source.name, "mean")
    assert origin["base_sha256"] == sha256(source / "model.safetensors")


def test_record_names_the_base_as_it_was_given(rehearsed: Run, base: BaseVoice) -> None:
    settings = yaml.safe_load((rehearsed.bundle / "config.yaml").read_text(encoding="utf-8"))
    assert settings["base"]["bundle"] == str(base.run_dir)
    launch = rehearsed.config.launch()
    assert launch.params["base.bundle"] == str(base.run_dir)
    started_from = acoustic(launch).base
    assert started_from is not None
    assert started_from.bundle == str(resolve_bundle(base.run_dir / BEST))


# What was forgotten


def test_forgetting_is_of_each_language_before_and_after(rehearsed: Run, base: BaseVoice) -> None:
    figures = rehearsed.result["metrics"]
    data = open_data(acoustic(rehearsed.config.launch()))
    voices = [load_bundle(base.run_dir / BEST), load_bundle(rehearsed.bundle)]
    both = [join([load_corpus(f, v.tokenizer, "test") for f in data.base_features]) for v in voices]
    before, after = (
        aggregate_metrics(evaluate(v.model, corpus)) for v, corpus in zip(voices, both, strict=True)
    )
    assert figures["forgetting/mcd"] == pytest.approx(after["mcd"])
    for key in ("mcd", "aligned_mel_mse"):
        change = after[key] - before[key]
        assert figures[f"forgetting/{key}_change"] == pytest.approx(change, abs=1e-6)
        assert change != 0
    for features, code in zip(data.base_features, ("es", "sw"), strict=True):
        one = evaluate(voices[1].model, load_corpus(features, voices[1].tokenizer, "test"))
        assert figures[f"forgetting/mcd_{code}"] == pytest.approx(aggregate_metrics(one)["mcd"])


def test_table_names_what_was_forgotten(rehearsed: Run) -> None:
    line = next(x for x in rehearsed.printed.splitlines() if x.startswith("languages of the base"))
    figures = rehearsed.result["metrics"]
    change = figures["forgetting/mcd_change"]
    assert f"{figures['forgetting/mcd']:.3f}" in line
    assert f"({change:+.3f} against before" in line
    assert "mel-cepstral distortion, dB" in rehearsed.printed


def test_a_sentence_of_the_base_that_could_not_be_measured_is_refused_beforehand(
    adapted: Adapted, base: BaseVoice, tmp_path: Path
) -> None:
    long = with_a_long_test(base.features[0], tmp_path / "features")
    with pytest.raises(UserError, match=rf"^{long}: \d+ frames are too few"):
        open_data(acoustic(adapted(f"base.features=[{tmp_path}/features]").launch()))


def test_forgetting_is_measured_on_so_many_sentences_at_most(
    adapted: Adapted, base: BaseVoice, tmp_path: Path
) -> None:
    settings = acoustic(adapted("base.held_out=1").launch())
    data = open_data(settings)
    bundle = write_base(tmp_path / "adapted", data.tokenizer)
    after, before = held_out(settings, bundle, torch.device("cpu"))
    voice = load_bundle(bundle)
    rows = []
    for features in data.base_features:
        of_one = evaluate(voice.model, load_corpus(features, voice.tokenizer, "test"))
        code = features.manifest.text.language
        assert after[f"forgetting/mcd_{code}"] in [row.mcd for row in of_one]
        rows += of_one
    assert len(rows) > 2
    assert before["forgetting/mcd"] != after["forgetting/mcd"]


def test_without_features_of_the_base_nothing_is_said_of_forgetting(adapted: Adapted) -> None:
    config = adapted("base.features=[]", *QUICK)
    result = start_run(config.launch(), config.ray)
    assert result["metrics"]["test/mcd"] > 0
    assert not [key for key in result["metrics"] if key.startswith("forgetting/")]


# Starting


def test_parameter_counts_are_logged_once(rehearsed: Run) -> None:
    """As metrics of step 0, of what is trained and what is not."""
    lines = (rehearsed.config.run.run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
    events = [event for event in map(json.loads, lines) if "values" in event]
    counts = [e for e in events if any(k.startswith("parameters/") for k in e["values"])]
    assert [event["step"] for event in counts] == [0]
    values = counts[0]["values"]
    voice = load_bundle(rehearsed.bundle)
    frozen_rows = voice.tokenizer.n_base
    assert values["parameters/frozen_rows"] == frozen_rows
    total = sum(p.numel() for p in voice.model.parameters())
    assert values["parameters/trained"] + values["parameters/frozen"] == total
    assert values["parameters/frozen"] >= frozen_rows * voice.model.config.width
    assert values["parameters/trained"] > total / 2


def test_parameter_counts_are_not_logged_again_by_a_run_that_goes_on(adapted: Adapted) -> None:
    config = adapted("training.max_steps=6", "training.validate_every=0")
    first, stopped = trained(config, stop_after=3)
    assert stopped.status == "stopped"
    assert first.values[0].keys() == {
        "parameters/trained", "parameters/frozen", "parameters/frozen_rows",
    }  # fmt: skip
    assert first.values[0]["parameters/frozen"] == 0
    second, whole = trained(config)
    assert whole.step == 6
    assert not [k for values in second.values.values() for k in values if "parameters" in k]


STARTS = ("transliteration", "mean", "nearest", "random")


def test_every_start_of_new_rows_trains(adapted: Adapted, base: BaseVoice) -> None:
    n_base = load_bundle(base.run_dir / BEST).tokenizer.n_vocab
    new_rows = []
    for start in STARTS:
        config = adapted(f"base.start={start}", *QUICK, f"run.name={start}")
        listener, result = trained(config)
        assert all(np.isfinite(listener.curve("train/total_loss"))), start
        bundle = bundle_of(result)
        assert read_manifest(bundle).origin["start"] == start
        voice = load_bundle(bundle)
        ids = torch.arange(n_base, voice.tokenizer.n_vocab)[None]
        new_rows.append(voice.model.encoder.embedding(ids).detach())
    for i, one in enumerate(new_rows):
        assert not any(torch.allclose(one, other, atol=1e-2) for other in new_rows[i + 1 :])


def test_seed_decides_how_new_rows_are_drawn(adapted: Adapted) -> None:
    rows = []
    for seed in (1, 1, 2):
        settings = acoustic(adapted("base.start=random", f"training.seed={seed}").launch())
        rows.append(initial_model(settings, open_data(settings)).state_dict()[TOKEN])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_transliteration_may_be_a_file(adapted: Adapted, tmp_path: Path) -> None:
    table = tmp_path / "mine.yaml"
    table.write_text("{language: am, letters: {ሰ: z}}", encoding="utf-8")
    rows = []
    for further in ((), (f"base.transliteration={table}",)):
        settings = acoustic(adapted(*further).launch())
        data = open_data(settings)
        ids = torch.tensor([[data.tokenizer.tokens.index(c) for c in "ሰz"]])
        rows.append(initial_model(settings, data).encoder.embedding(ids)[0].detach())
    (shipped, z), (mine, same_z) = rows
    assert torch.equal(z, same_z)
    assert torch.allclose(mine, z, atol=1e-5)
    assert not torch.allclose(shipped, z, atol=1e-2)


def test_language_of_the_base_is_taken_without_extension(adapted: Adapted, base: BaseVoice) -> None:
    """As for another speaker of it."""
    spanish = (
        "text.language=es", "corpus.language=es", f"prepare.features={base.features[0]}",
        "base.features=[]",
    )  # fmt: skip
    config = adapted(*spanish, *QUICK, "run.name=spanish")
    _, result = trained(config)
    voice, before = load_bundle(bundle_of(result)), load_bundle(base.run_dir / BEST)
    assert voice.tokenizer == before.tokenizer
    assert voice.manifest.origin["language"] == "es"
    settings = acoustic(config.launch())
    start = initial_model(settings, open_data(settings)).state_dict()
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(start[name], tensor), name


def test_durations_that_were_found_for_one_base_are_not_anothers(
    adapted: Adapted, base: BaseVoice, tmp_path: Path
) -> None:
    """They depend on the statistics that the mels are normalised with."""
    other = copied(base, tmp_path)
    weights = read_weights(other)
    weights["mel_mean_M"] += torch.linspace(-2, 2, len(weights["mel_mean_M"]))
    weights["mel_std_M"] *= torch.linspace(0.2, 3, len(weights["mel_std_M"]))
    rewrite(other, weights=weights)
    found = []
    for overrides in ((), (f"base.bundle={other}",), ()):
        settings = acoustic(adapted(*overrides).launch())
        data = open_data(settings)
        ensure_durations(settings, data)
        found.append(read_durations(settings, data))
    same = [np.array_equal(a, b) for a, b in zip(found[0], found[1], strict=True)]
    assert not all(same)
    assert all(np.array_equal(a, b) for a, b in zip(found[0], found[2], strict=True))
