"""A corpus whose rows are in several languages: each is read, learned and spoken by its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from prepare_fixtures import MEL, RATE, TEXT, TEXTS, run_prepare, tone
from training_fixtures import run
from voice_fixtures import MODEL, untrained, write_voice

from dimts.bundles.bundle import resolve_bundle
from dimts.core.errors import UserError
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.family import FAMILY
from dimts.families.acoustic.settings import (
    AcousticSettings,
    AcousticTrainingConfig,
    BaseConfig,
    Source,
)
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.features.config import CorpusConfig
from dimts.features.feature_set import FeatureSet

READ = {"languages": ["en"], "columns": {"language": "locale"}, "tables": ["t.csv"]}


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Of 16 rows, every other one English, and one of Tigrinya that is refused."""
    lines = ["audio,text,locale"]
    for n in range(17):
        soundfile.write(tmp_path / f"u{n:02d}.wav", tone(n), RATE)
        text, locale = ("It is 2.", "en-US") if n % 2 else (TEXTS[n % len(TEXTS)], "am")
        lines.append(f"u{n:02d}.wav,{text},{locale if n < 16 else 'ti'}")
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    manifest = run_prepare(
        tmp_path, tmp_path / "features", read=READ, val_share=0.3, test_share=0.3
    )
    assert manifest.corpus.languages == ("am", "en")
    assert manifest.quarantined == {"other_language": 1}
    return tmp_path / "features"


def settings_of(features: Path, base: BaseConfig | None = None) -> AcousticSettings:
    corpus = CorpusConfig.model_validate({"path": features.parent, **READ})
    training = {"max_steps": 2, "validate_every": 2, "amp": "off", "threads": 1}
    return AcousticSettings(
        sources=(Source.of(corpus, TEXT, features),),
        run_dir=features.parent / "run",
        mel=MEL,
        model=MODEL,
        training=AcousticTrainingConfig.model_validate(training),
        base=base,
        config_yaml=f"{{model: {MODEL.model_dump_json()}, mel: {MEL.model_dump_json()}}}",
    )


def test_each_row_is_read_learned_and_spoken_in_its_language(features: Path) -> None:
    summary = (features / "summary.txt").read_text(encoding="utf-8")
    assert "languages 2\n  am " in summary
    split = FeatureSet.open(features).split("train")
    assert {text for text, code in zip(split.texts, split.languages, strict=True) if code == "en"} \
        == {"it is two."}  # fmt: skip
    settings = settings_of(features)
    data = open_data(settings)
    assert data.language == data.tokenizer.languages[-1] == "am"
    starts = [data.tokenizer.start_ids[code] for code in split.languages]
    assert [int(ids[0]) for ids in data.train.tokens] == starts
    run(settings)
    bundle = resolve_bundle(settings.run_dir)
    metrics, _ = FAMILY.held_out(settings, bundle, torch.device("cpu"))
    assert {"test/mcd_am", "test/mcd_en"} <= metrics.keys()
    speaker = AcousticSpeaker.load(bundle)
    english = speaker.tokenizer.encode("It is 2.", "en")
    assert len(speaker.mel("It is 2.", language="en").durations_NS) == len(english)
    assert np.isfinite(speaker.mel("ሰላም ነው።").mel_TM).all()


def test_languages_of_features_have_to_be_configured(features: Path, tmp_path: Path) -> None:
    settings = settings_of(features)
    (source,) = settings.sources
    alone = settings.model_copy(update={"sources": (source.model_copy(update={"languages": ()}),)})
    with pytest.raises(UserError, match=r"features: has rows in en; name it in corpus\.languages"):
        open_data(alone)
    base = BaseConfig(bundle=str(write_voice(tmp_path / "base", untrained())), start="random")
    with pytest.raises(UserError, match=r"corpus\.languages: en is not one of the base's lang"):
        open_data(settings_of(features, base))
