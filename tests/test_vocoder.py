"""A vocoder of the tests' corpus: training, bundle, speech, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from training_fixtures import Listener
from vocoder_fixtures import HOP

import dimts
from data_prep.recipes.espeak import ENGINES
from dimts.audio.files import read_audio
from dimts.bundles.bundle import WEIGHTS, BundleError, read_manifest, resolve_bundle
from dimts.commands import synthesize
from dimts.commands.voice_config import load_voice
from dimts.core.errors import UserError
from dimts.core.untrusted import open_regular
from dimts.families.registry import (
    GRIFFIN_LIM,
    get_family,
    load_speaker,
    load_vocoder,
    shipped_vocoder,
    use_vocoder,
)
from dimts.families.vocoder.bundle import export_bundle
from dimts.families.vocoder.data import open_data
from dimts.families.vocoder.dataset import Recording
from dimts.families.vocoder.metrics import SELECTION
from dimts.families.vocoder.settings import VocoderSettings
from dimts.families.vocoder.speaker import NeuralVocoder
from dimts.families.vocoder.task import vocoder_task
from dimts.launch.training_run import run_training
from dimts.training.checkpoint import BEST
from dimts.training.task import Moment
from dimts.training.trainer import train

pytest_plugins = ("vocoder_fixtures",)

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "jobs" / "configs" / "vocoder").glob("*.yaml"))


@pytest.fixture
def settings(vocoder_settings: Any) -> Any:
    return vocoder_settings


def read(recording: Path) -> NDArray[np.float32]:
    with open_regular(recording) as descriptor:
        return read_audio(descriptor, 22_050)


def trained(settings: VocoderSettings) -> Path:
    run_training(settings, Listener())
    return resolve_bundle(settings.run_dir / BEST)


def test_discriminators_are_heard_of_from_their_step_on(settings: Any) -> None:
    task = vocoder_task(settings(), torch.device("cpu"))
    generator, critic = (objective.module for objective in task.objectives)
    batch = task.train.collate([0, 1])
    early, late = (generator(batch, Moment(step, 12)) for step in (7, 8))
    assert "adversarial" not in early
    assert {"adversarial", "features"} <= late.keys()
    assert not generator.eval()(batch, Moment(12, 12)).keys() & {"adversarial", "features"}
    critic(batch, Moment(8, 12))["discriminator"].backward()
    assert all(p.grad is None for p in task.model.parameters())
    assert any(p.grad is not None for p in critic.parameters())
    assert task.objectives[1].start_step == 8


@pytest.mark.parametrize(("start_step", "best"), [(8, 12), (20, 6)])
def test_best_is_one_that_discriminators_have_heard(
    settings: Any, start_step: int, best: int
) -> None:
    """Though the metric says the contrary, which for once is the better the larger."""
    of_run = settings(f"training.discriminator.start_step={start_step}")
    contrary = SELECTION._replace(direction="maximize")
    task = replace(vocoder_task(of_run, torch.device("cpu")), selection=contrary)
    train(task, of_run.training, of_run.run_dir, Listener())
    assert read_manifest(resolve_bundle(of_run.run_dir / BEST)).step == best


def test_bundle_is_small_and_names_its_mel(settings: Any) -> None:
    bundle = trained(settings("training.max_steps=2"))
    weights = (bundle / WEIGHTS).stat().st_size
    count = sum(p.numel() for p in NeuralVocoder.load(bundle).model.parameters())
    assert weights < 2.2 * count + 10_000
    vocoder = NeuralVocoder.load(bundle)
    assert vocoder.mel == settings().mel
    data = open_data(settings())
    assert float(vocoder.model.mel_mean) == pytest.approx(data.mel_mean, rel=1e-5)


def test_exported_bundle_speaks_the_same_beside_a_model_card(settings: Any, tmp_path: Path) -> None:
    source, folder = trained(settings("training.max_steps=2")), tmp_path / "exported"
    folder.mkdir()
    (folder / "README.md").write_text("a card", encoding="utf-8")
    assert export_bundle(source, folder) == (folder / WEIGHTS).stat().st_size
    (folder / "README.md").write_text("another card", encoding="utf-8")
    names = {file.name for file in folder.iterdir()}
    assert names == {"README.md", "config.yaml", "manifest.json", WEIGHTS}
    kept, exported = (NeuralVocoder.load(place).model.state_dict() for place in (source, folder))
    assert all(torch.equal(weight, exported[name]) for name, weight in kept.items())
    assert read_manifest(folder).step == 2


def test_recording_is_spoken_again_by_the_command_alone(
    settings: Any, spoken_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = trained(settings("training.max_steps=2"))
    recording, out = next(iter((spoken_corpus / "wavs").iterdir())), tmp_path / "copy.wav"

    def command(*more: str) -> None:
        words = ["synthesize.py", "--model", str(bundle), "--out", str(out), *more]
        monkeypatch.setattr(sys, "argv", words)
        synthesize.main()

    command("--text", str(recording))
    recorded = read(recording)
    assert len(recorded) - HOP < len(read(out)) <= len(recorded)
    with pytest.raises(UserError, match="hello: No such file or directory; a vocoder speaks"):
        command("--text", "hello")
    with pytest.raises(UserError, match="leave out all but their name"):
        command("--text", str(recording), "--speed", "1.5")
    with pytest.raises(UserError, match="a vocoder speaks recordings again, no texts"):
        load_speaker(bundle).speak(str(recording))


def test_vocoder_is_measured_beside_griffin_lim(settings: Any) -> None:
    of_run = settings("training.max_steps=2")
    metrics, _ = get_family("vocoder").held_out(of_run, trained(of_run), torch.device("cpu"))
    for split in ("val", "test"):
        assert metrics[f"{split}/utterances"] > 0
        assert metrics[f"{split}/stft_distance"] > 0
        assert metrics[f"{split}/griffin_lim_stft_distance"] > 0


def test_fine_tuning_starts_from_the_weights_of_the_base(settings: Any) -> None:
    base = trained(settings("run.name=base", "training.max_steps=2"))
    tuned = settings(
        "run.name=tuned", f"base.bundle={base}", "model.generator.channels=99",
        "training.max_steps=2",
    )  # fmt: skip
    assert tuned.model.generator.channels == 16
    task = vocoder_task(tuned, torch.device("cpu"))
    kept = NeuralVocoder.load(base).model.state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in task.model.state_dict().items())
    assert read_manifest(trained(tuned)).origin["base"] == base.name


def test_samples_are_recordings_spoken_again(settings: Any, tmp_path: Path) -> None:
    task = vocoder_task(settings(), torch.device("cpu"))
    samples = task.sample(tmp_path / "samples", 3).samples
    assert [sample.text for sample in samples] == list(task.val.ids[:2])
    assert all(sample.wav.exists() and sample.plots[0].exists() for sample in samples)


def test_run_does_not_go_on_with_another_base(settings: Any) -> None:
    base = trained(settings("run.name=base", "training.max_steps=2"))
    trained(settings("run.name=tuned", "training.max_steps=2"))
    with pytest.raises(UserError, match="was trained with another base"):
        trained(settings("run.name=tuned", f"base.bundle={base}"))


def test_bundle_of_a_voice_is_no_vocoder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is of the family acoustic, not vocoder"):
        NeuralVocoder.load(ROOT / "bases" / "natural")


def test_voice_speaks_by_a_vocoder(
    settings: Any, voice: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    spoken = trained_voice(voice)
    vocoder = trained(settings("training.max_steps=2"))
    named = (vocoder, None, GRIFFIN_LIM)
    waves = [dimts.load(spoken, vocoder=place).speak("ሰላም") for place in named]
    assert len({len(wave) for wave in waves}) == 1
    assert not any(np.array_equal(one, other) for one, other in combinations(waves, 2))
    out = tmp_path / "speech.wav"
    command = ["synthesize.py", "--model", str(spoken), "--vocoder", str(vocoder)]
    monkeypatch.setattr(sys, "argv", [*command, "--text", "ሰላም", "--out", str(out)])
    synthesize.main()
    assert np.abs(read(out) - waves[0]).max() < 1e-3


def test_vocoder_that_ships_is_left_out_with_a_line_where_the_mel_is_another(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mel = settings().mel
    vocoder = shipped_vocoder(mel)
    assert vocoder and vocoder.mel == mel
    assert not caplog.records
    assert shipped_vocoder(mel.model_copy(update={"floor": 1e-3})) is None
    assert [record.message for record in caplog.records] == [
        "bases/vocoder takes another mel: Griffin-Lim makes the waves"
    ]


def test_vocoder_that_ships_gives_the_samples_that_it_speaks_in_chunks(settings: Any) -> None:
    vocoder = shipped_vocoder(settings().mel)
    assert vocoder
    mel_TM = Recording(open_data(settings()).features[0].split("train"), 3, HOP).mel_TM
    whole = vocoder(mel_TM)
    pieces = list(vocoder.chunks(mel_TM))
    assert len(pieces) > 1
    streamed = np.concatenate(pieces)
    assert len(streamed) == len(whole)
    assert np.abs(streamed - whole).max() < 1e-3


def test_loading_a_vocoder_leaves_the_random_numbers_of_a_training() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    NeuralVocoder.load(ROOT / "bases" / "vocoder")
    assert torch.equal(torch.rand(3), expected)


def test_vocoder_of_another_mel_is_refused(settings: Any, voice: Any) -> None:
    vocoder = trained(settings("training.max_steps=2"))
    takes = settings().mel
    assert load_vocoder(vocoder, takes).mel == takes
    with pytest.raises(UserError, match=r"was trained for mel.floor=1e-05, 0.001 is asked for"):
        load_vocoder(vocoder, takes.model_copy(update={"floor": 1e-3}))
    with pytest.raises(BundleError, match="is no vocoder; name one, or griffin-lim"):
        load_vocoder(trained_voice(voice), takes)
    with pytest.raises(UserError, match="makes its waves without a vocoder"):
        use_vocoder(load_speaker(vocoder), vocoder)


def test_vocoder_learns_from_what_a_voice_predicts(settings: Any, voice: Any) -> None:
    of_voice = f"training.voice={trained_voice(voice)}"
    plain, tuned = (open_data(settings(*more)) for more in ((), (of_voice,)))
    crops = [data.train.collate(range(8), seed=(1, 2, 3)) for data in (plain, tuned)]
    assert torch.equal(crops[0].wave_BS, crops[1].wave_BS)
    assert 0 < (crops[0].mel_BTM == crops[1].mel_BTM).all((1, 2)).sum() < 8
    assert not torch.equal(plain.val.collate([0]).mel_BTM, tuned.val.collate([0]).mel_BTM)
    bundle = trained(settings(of_voice, "training.max_steps=2"))
    assert read_manifest(bundle).origin["voice_sha256"]
    with pytest.raises(UserError, match="was trained with another voice"):
        trained(settings("training.max_steps=4"))


def trained_voice(voice: Any) -> Path:
    of_run = voice("run.name=voice", "training.max_steps=2").launch().settings
    run_training(of_run, Listener())
    return resolve_bundle(of_run.run_dir / BEST)


def test_vocoder_that_ships_is_made_of_what_its_settings_name() -> None:
    lines = (ROOT / "bases" / "vocoder" / "make.sh").read_text(encoding="utf-8").splitlines()
    spoken = [line.split()[1:3] for line in lines if line.startswith("speak ")]
    assert {engine for engine, _ in spoken} <= ENGINES.keys()
    made = {"asterisk_en", *("_".join(words) for words in spoken)}
    settings = load_voice([ROOT / "jobs" / "configs" / "vocoder" / "universal.yaml"], [])
    assert {Path(place).name for place in settings.model_dump()["features"]} == made
    prepared = " ".join(lines).partition("for name in ")[2].partition(";")[0].replace("\\", "")
    assert set(prepared.split()) == made


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.stem))
def test_shipped_settings_are_read(file: Path) -> None:
    overrides = ["corpus.path=c", "text.language=en", "prepare.features=f", "run.name=r"]
    config = load_voice([file], overrides)
    assert config.family == "vocoder"
