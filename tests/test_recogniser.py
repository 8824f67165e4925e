"""A recogniser learns to read a corpus, and tells a text that was said from one that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from family_fixtures import Listener

from dimts.commands.voice_config import load_voice
from dimts.core.config import build_config
from dimts.core.errors import ConfigError, UserError
from dimts.evaluation.judges.config import JudgesConfig
from dimts.evaluation.judges.judge import Clip
from dimts.evaluation.judges.metrics import MISREAD
from dimts.evaluation.judges.panel import judge_clips, load_judges
from dimts.families.recogniser.data import Masked, open_data
from dimts.families.recogniser.model import CtcObjective, Recogniser, written
from dimts.families.recogniser.reader import Reader
from dimts.families.recogniser.settings import ModelConfig, RecogniserSettings
from dimts.families.recogniser.task import initial_model
from dimts.families.registry import get_family
from dimts.features.feature_set import FeatureSet
from dimts.launch.training_run import run_training
from dimts.training.task import Moment

Build = Callable[..., RecogniserSettings]
CPU = torch.device("cpu")


def settings_of(file: Path, folder: Path, *overrides: str) -> RecogniserSettings:
    config = load_voice([file], (f"run.storage={folder}", *overrides))
    settings = config.launch().settings
    assert isinstance(settings, RecogniserSettings)
    return settings


@pytest.fixture
def build(recogniser_file: Path, tmp_path: Path) -> Build:
    return lambda *overrides: settings_of(recogniser_file, tmp_path, *overrides)


@pytest.fixture(scope="module")
def learned(recogniser_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RecogniserSettings:
    """A run that knows its few training sentences by heart."""
    settings = settings_of(
        recogniser_file, tmp_path_factory.mktemp("learned"), "training.max_steps=300",
        "training.masks=0", "training.validate_every=300", "training.batch_size=8",
        "training.optimizer.learning_rate=5e-3", "training.optimizer.warmup_steps=10",
        "model.width=48", "model.hidden=96",
    )  # fmt: skip
    run_training(settings, Listener())
    return settings


@pytest.mark.integration
def test_another_text_is_misread_and_the_one_that_was_said_is_not(
    learned: RecogniserSettings, spoken_corpus: Path
) -> None:
    features = FeatureSet.open(learned.source.features)
    train = features.split("train")
    reader = Reader.load(learned.run_dir)
    heard = [reader.read_mel(train.mel(i)) for i in range(len(train))]
    right = [reader.misread(h, t) for h, t in zip(heard, train.texts, strict=True)]
    others = [*train.texts[1:], train.texts[0]]
    wrong = [reader.misread(h, t) for h, t in zip(heard, others, strict=True)]
    assert np.mean(right) < 15, (np.mean(right), np.mean(wrong))
    assert np.mean(wrong) > 60
    measured = get_family("recogniser").scores(learned, learned.run_dir, "val", CPU)
    assert measured.metrics["misread"] == pytest.approx(measured.values.mean())
    assert measured.metrics["utterances"] == len(measured.ids) > 1


@pytest.mark.integration
def test_judge_hears_what_is_left_out_and_what_is_said_twice(
    learned: RecogniserSettings, spoken_corpus: Path
) -> None:
    train = FeatureSet.open(learned.source.features).split("train")
    raw, files = train.values("raw_text"), train.values("audio")
    judges = load_judges(JudgesConfig(names=("reading",), reader=str(learned.run_dir)), CPU)

    def misread(change: Callable[[Any], Any]) -> float:
        clips = []
        for name, text in zip(files[:8], raw, strict=False):
            wave, rate = soundfile.read(spoken_corpus / name, dtype="float32")
            clips.append(Clip(change(wave), rate, text, "am"))
        scores = judge_clips(judges, clips).scores
        return float(np.mean([score[MISREAD.name] for score in scores]))

    whole = misread(lambda wave: wave)
    assert whole < 20
    assert misread(lambda wave: wave[: len(wave) // 2]) > whole + 25
    assert misread(lambda wave: np.concatenate([wave, wave])) > whole + 50
    german = [Clip(np.zeros(9000, np.float32), 22050, "ja", "de")]
    assert "does not read de" in judge_clips(judges, german).objections[0]


def test_judge_that_reads_needs_a_reader() -> None:
    with pytest.raises(ConfigError, match="reading needs reader"):
        build_config(JudgesConfig, {"names": ["reading"]})
    with pytest.raises(ConfigError, match="reader has no effect"):
        build_config(JudgesConfig, {"reader": "runs/x"})
    config = JudgesConfig(names=("reading",), reader="bases/vocoder")
    with pytest.raises(UserError, match=r"judges\.reader=bases/vocoder: is of no recogniser"):
        load_judges(config, CPU)


def test_a_row_costs_alone_what_it_costs_beside_longer_ones(build: Build) -> None:
    data = open_data(build("training.masks=0"))
    torch.manual_seed(0)
    model = Recogniser(ModelConfig(width=16, hidden=32, blocks=2), 500, torch.zeros(80),
                       torch.ones(80)).eval()  # fmt: skip
    objective = CtcObjective(model, "off")
    order = data.val.lengths.argsort().tolist()
    whole = objective(data.val.collate(order), Moment(0, 1))["loss"]
    alone = sum(objective(data.val.collate([i], order), Moment(0, 1))["loss"] for i in order)
    assert len(order) > 1
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-5)


def test_masks_hide_the_training_split_alone_and_follow_the_seed(build: Build) -> None:
    data = open_data(build("training.masks=3"))
    assert isinstance(data.train, Masked)
    assert not isinstance(data.val, Masked)
    plain = open_data(build("training.masks=0")).train.collate([3], seed=(0, 1)).mel_BTM
    one, again, other = (data.train.collate([3], seed=(0, seed)).mel_BTM for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    hidden = one != plain
    mean = torch.tensor(data.features.manifest.mel_mean).expand_as(one[0])
    assert 0 < hidden.float().mean() < 0.7
    assert torch.equal(one[0][hidden[0]], mean[hidden[0]])


def test_path_becomes_tokens() -> None:
    path = [4, 4, 9, 4, 2, 2, 9, 9, 1]
    scores = np.zeros((len(path), 10), np.float32)
    scores[np.arange(len(path)), path] = 1
    assert written(scores) == [4, 4, 2, 1]


@pytest.mark.integration
def test_letters_of_a_base_keep_their_rows(
    learned: RecogniserSettings, build: Build, tmp_path: Path
) -> None:
    sizes = ("model.width=48", "model.hidden=96")
    given = (*sizes, f"base.bundle={learned.run_dir}", "model.freeze=[0]")
    adapted = build(*given)
    run_training(build(*given, "training.max_steps=1", "run.name=other"), Listener())
    with pytest.raises(UserError, match="was trained with another base than there is now"):
        run_training(build(*sizes, "training.max_steps=1", "run.name=other"), Listener())
    model = initial_model(adapted, open_data(adapted))
    base = Reader.load(learned.run_dir).model.state_dict()
    assert all(torch.equal(base[name], value) for name, value in model.state_dict().items())
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        name for name, _ in model.named_parameters() if name.startswith("blocks.0.")
    }


def test_speech_too_short_for_its_text_is_named(build: Build) -> None:
    settings = build()
    split = FeatureSet.open(settings.source.features).split("train")
    split.n_frames[2] = 3
    from dimts.families.recogniser import data

    with pytest.raises(UserError, match=rf"{split.ids[2]}: 3 frames are too few for its text"):
        data._letters(split, open_data(settings).tokenizer)


@pytest.mark.integration
def test_a_recogniser_says_that_it_does_not_speak(learned: RecogniserSettings) -> None:
    with pytest.raises(UserError, match=r"name it as judges\.reader"):
        Reader.load(learned.run_dir).speak("ሰላም")


def test_sample_configuration_is_a_recogniser_of_the_voices_features() -> None:
    recogniser, voice = (
        yaml.safe_load(Path("jobs/configs", name).read_text(encoding="utf-8"))
        for name in ("recogniser/sample_am.yaml", "sample_am.yaml")
    )
    assert load_voice([Path("jobs/configs/recogniser/sample_am.yaml")]).family == "recogniser"
    assert recogniser["prepare"] == voice["prepare"]
    assert recogniser["corpus"] == voice["corpus"]
