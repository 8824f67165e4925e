"""What cannot be adapted is refused before any training, in one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from base_fixtures import copied, rewrite, write_base
from training_fixtures import Listener

from dimts.bundles.bundle import read_weights
from dimts.commands.voice_config import VoiceConfig
from dimts.core.errors import UserError
from dimts.launch.start import start_run
from dimts.launch.training_run import run_training
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from conftest import BaseVoice

Adapted = Callable[..., VoiceConfig]
QUICK = ("training.max_steps=2", "training.validate_every=0")


def refused(config: Callable[[], VoiceConfig]) -> str:
    """What a run says that cannot begin; as `jobs/train.py` begins it."""

    def begin() -> None:
        run_training(config().launch().settings, Listener())

    with pytest.raises(UserError) as caught:
        begin()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_missing_base_is_refused(adapted: Adapted, tmp_path: Path) -> None:
    none = tmp_path / "none"
    message = refused(lambda: adapted(f"base.bundle={none}"))
    assert message.startswith(f"{none}: no such bundle or run folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "not a bundle" in refused(lambda: adapted(f"base.bundle={empty}"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "tokenizer.json"])
def test_damaged_base_is_refused(
    adapted: Adapted, base: BaseVoice, tmp_path: Path, name: str
) -> None:
    bundle = copied(base, tmp_path)
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    message = refused(lambda: adapted(f"base.bundle={bundle}"))
    assert message == f"{bundle}: {name} is damaged, its checksum differs"


def test_base_that_lacks_a_tensor_is_refused(
    adapted: Adapted, base: BaseVoice, tmp_path: Path
) -> None:
    bundle = copied(base, tmp_path)
    weights = read_weights(bundle)
    name = next(name for name in weights if name.startswith("decoder."))
    rewrite(bundle, weights={n: tensor for n, tensor in weights.items() if n != name})
    message = refused(lambda: adapted(f"base.bundle={bundle}"))
    assert message == f"{bundle}: model.safetensors lacks tensor {name}"


def test_base_of_another_mel_is_refused(adapted: Adapted, base: BaseVoice, tmp_path: Path) -> None:
    bundle = copied(base, tmp_path)
    rewrite(bundle, mel={"f_max": 7000.0})
    message = refused(lambda: adapted(f"base.bundle={bundle}"))
    assert "mel.f_max=7000.0, the configuration says 8000.0" in message
    assert "prepare the features as the base needs them" in message


def test_features_of_another_mel_than_the_base_needs_are_refused(adapted: Adapted) -> None:
    message = refused(lambda: adapted("mel.f_max=7000"))
    assert "was prepared with mel.f_max=8000.0, the configuration says 7000.0" in message


def test_base_that_reads_the_language_by_other_rules_is_refused(
    adapted: Adapted, tmp_path: Path
) -> None:
    languages = [
        (load_language("es"), TextConfig(language="es")),
        (load_language("sw"), TextConfig(language="sw")),
        (load_language("am"), TextConfig(language="am", fold_homophones=True)),
    ]
    bundle = write_base(tmp_path / "folds", Tokenizer.from_languages(languages))
    message = refused(lambda: adapted(f"base.bundle={bundle}"))
    assert "reads አማርኛ (am) by other rules" in message
    assert "use the base's rules, or start from another base" in message


def test_base_features_of_a_language_that_it_lacks_are_refused(
    adapted: Adapted, base: BaseVoice, tmp_path: Path
) -> None:
    spanish = Tokenizer.from_language(load_language("es"), TextConfig(language="es"))
    bundle = write_base(tmp_path / "es", spanish)
    message = refused(lambda: adapted(f"base.bundle={bundle}"))
    expected = f"base.features: {base.features[1]} is of sw, which is not a language of the base"
    assert message == f"{expected}: es"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width=64", "model.width=64: the base has 32; leave the sizes of the model out"),
        ("model.decoder.blocks=3", "model.decoder.blocks=3: the base has 2"),
        ("base.features=[]", "rehearsal_share needs features"),
        ("base.transliteration=am", "transliteration has no effect with start: mean"),
        ("base.start=spelling", "base.start: input should be 'transliteration', 'mean'"),
        ("base.rehearsal_share=1", "base.rehearsal_share: input should be less than 1"),
        ("base.features=[none]", "none: no such folder of features"),
        ("model.freeze_blocks.encoder=[1]", "freeze_blocks.encoder"),
        ("model.freeze_until_index=100000", "model.freeze_until_index=100000: the vocabulary has"),
    ],
)
def test_setting_that_does_not_fit_the_base_is_refused(
    adapted: Adapted, override: str, message: str
) -> None:
    others = ["base.rehearsal_share=0.5"]
    if "transliteration=" in override:
        others.append("base.start=mean")
    assert message in refused(lambda: adapted(*others, override))


def test_transliteration_of_another_language_is_refused(adapted: Adapted) -> None:
    message = refused(lambda: adapted("base.transliteration=ti"))
    assert "language: is ti, not am" in message
    assert "there is no transliteration of 'xx'" in refused(
        lambda: adapted("base.transliteration=xx")
    )


def test_rows_of_a_base_are_not_frozen_without_one(voice: Callable[..., VoiceConfig]) -> None:
    message = refused(lambda: voice("model.freeze_until_index=n_base"))
    assert message.startswith("model.freeze_until_index=n_base: the tokenizer was not extended")
    assert "start from a base" in message


def test_run_cannot_go_on_from_another_base(
    adapted: Adapted, base: BaseVoice, tmp_path: Path
) -> None:
    config = adapted(*QUICK, "base.features=[]")
    start_run(config.launch(), config.ray)
    other = adapted(*QUICK, "base.features=[]", f"base.bundle={copied(base, tmp_path)}")
    with pytest.raises(UserError, match=r"was begun with base\.bundle="):
        start_run(other.launch(), other.ray)
