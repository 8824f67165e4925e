"""A language's file that is edited, named by another path, or seen from another folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from base_fixtures import write_base
from training_fixtures import acoustic

from dimts.commands.mix_config import MixConfig
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.task import initial_model
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SPLITS
from dimts.text.language import LANGUAGES, load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.text.transliteration import TRANSLITERATIONS

if TYPE_CHECKING:
    from conftest import BaseVoice

Voice = Callable[..., VoiceConfig]


def edited(code: str, file: Path, text: str) -> str:
    """A copy of a language's file that leaves out a letter of `text`; its path."""
    values = yaml.safe_load((LANGUAGES / f"{code}.yaml").read_text(encoding="utf-8"))
    values["replacements"] = {**values["replacements"], text[0]: text[1]}
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return str(file)


def refused(config: VoiceConfig) -> str:
    with pytest.raises(UserError) as caught:
        open_data(acoustic(config.launch()))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_texts_that_an_edited_file_reads_otherwise_are_refused(
    voice: Voice, tmp_path: Path
) -> None:
    features = FeatureSet.open(voice().prepare.features)
    parts = [features.split(name) for name in SPLITS]
    rows = [row for part in parts for row in zip(part.ids, part.texts, strict=True)]
    file = edited("am", tmp_path / "am.yaml", rows[-1][1])
    first = next(utterance_id for utterance_id, text in rows if rows[-1][1][0] in text)
    assert refused(voice(f"text.language={file}")) == (
        f"{features.folder}: {first}: its text was read by other rules than text.language's file "
        "has now; run dimts prepare again"
    )


def test_text_that_a_file_refuses_by_now_is_refused(voice: Voice, tmp_path: Path) -> None:
    values = yaml.safe_load((LANGUAGES / "am.yaml").read_text(encoding="utf-8"))
    values |= {"punctuation": "!", "replacements": {}}
    file = tmp_path / "am.yaml"
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    assert "its text was read by other rules" in refused(voice(f"text.language={file}"))


def test_texts_of_the_base_that_it_reads_otherwise_are_refused(
    adapted: Voice, base: BaseVoice, tmp_path: Path
) -> None:
    text = FeatureSet.open(base.features[1]).split("train").texts[0]
    swahili = load_language(edited("sw", tmp_path / "sw.yaml", text))
    languages = [
        (load_language("es"), TextConfig(language="es")),
        (swahili, TextConfig(language="sw")),
    ]
    bundle = write_base(tmp_path / "edited", Tokenizer.from_languages(languages))
    message = refused(adapted(f"base.bundle={bundle}"))
    assert message.startswith(f"{base.features[1]}: ")
    assert message.endswith("than the base has; prepare base.features by the base's rules, or "
                            "leave them out")  # fmt: skip


def test_files_are_found_from_any_folder_and_recorded_as_given(
    adapted: Voice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray's workers stand in a copy of the project."""
    shutil.copy(LANGUAGES / "am.yaml", tmp_path / "am.yaml")
    shutil.copy(TRANSLITERATIONS / "am.yaml", tmp_path / "spelled.yaml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    launch = adapted("text.language=am.yaml", "base.transliteration=spelled.yaml").launch()
    recorded = yaml.safe_load(launch.settings.config_yaml)
    assert recorded["text"]["language"] == launch.params["text.language"] == "am.yaml"
    assert recorded["base"]["transliteration"] == "spelled.yaml"
    monkeypatch.chdir(tmp_path / "elsewhere")
    data = open_data(acoustic(launch))
    initial_model(acoustic(launch), data)
    # Named as the features name it, so that a run that was begun elsewhere goes on.
    assert data.tokenizer.spec.languages[-1].text == data.features[0].manifest.text
    assert data.tokenizer == open_data(acoustic(adapted().launch())).tokenizer


def test_one_language_by_two_paths_is_one(
    base: BaseVoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(LANGUAGES / "es.yaml", tmp_path / "es.yaml")
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load(base.file.read_text(encoding="utf-8"))
    spanish, swahili = settings["parts"]
    copy = {**spanish, "text": {"language": "es.yaml"}}
    copy["prepare"] = {**spanish["prepare"], "features": str(tmp_path / "features")}
    shutil.copytree(base.features[0], tmp_path / "features")
    settings["parts"] = [spanish, swahili, copy]
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    mixed = acoustic(load_config(MixConfig, ["mix.yaml"]).launch())
    assert mixed.sources[2].text.language == str(tmp_path / "es.yaml")
    assert open_data(mixed).tokenizer.languages == ("es", "sw")


def test_base_may_name_its_language_by_a_file_that_is_gone(
    adapted: Voice, base: BaseVoice, tmp_path: Path
) -> None:
    languages = [
        (load_language(code), TextConfig(language=f"gone/{code}.yaml")) for code in ("es", "sw")
    ]
    bundle = write_base(tmp_path / "moved", Tokenizer.from_languages(languages))
    data = open_data(acoustic(adapted(f"base.bundle={bundle}").launch()))
    assert [features.folder for features in data.base_features] == list(base.features)
