"""Models of several speakers: a row each, figures each, further speakers on a base."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from shared_fixtures import shared_folder
from torch import Tensor
from training_fixtures import Listener, acoustic, make_job, run
from voice_fixtures import MEL, MODEL, amharic, untrained, write_voice

from data_prep.pipeline import prepare
from dimts.bundles.bundle import read_manifest, read_weights, resolve_bundle
from dimts.commands import pretrain
from dimts.commands.mix_config import MixConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.core.metric import of_speaker
from dimts.families.acoustic.balance import balanced
from dimts.families.acoustic.bundle import build_model, load_bundle
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.dataset import AcousticBatch, pick
from dimts.families.acoustic.extension.nearest_speaker import start_speakers
from dimts.families.acoustic.extension.speakers import (
    ROWS,
    STATISTICS,
    speakers_of,
    unnamed_speaker,
    with_speakers,
)
from dimts.families.acoustic.model.config import PitchConfig
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.acoustic.task import initial_model
from dimts.families.registry import get_family
from dimts.features.feature_set import FeatureSet
from dimts.launch.training_run import run_training
from dimts.training.sampler import BucketSampler

if TYPE_CHECKING:
    from conftest import BaseVoice

    from dimts.commands.voice_config import VoiceConfig

Settings = Callable[..., AcousticSettings]
TEXT, SWAHILI = "Buenos días.", "Habari ya asubuhi."


class Two(NamedTuple):
    """A base of two speakers, made by `dimts pretrain`.

    Attributes:
        file: its YAML.
        run_dir: of its training.
        features: of Ana and of Juma.
        eva: features of Ana's recordings under another name.
        printed: what the command said.
    """

    file: Path
    run_dir: Path
    features: tuple[Path, Path]
    eva: Path
    printed: str


@pytest.fixture(scope="module")
def two(base: BaseVoice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Ana speaks Spanish and Juma Swahili; the model predicts pitch."""

    def make(folder: Path) -> None:
        settings = yaml.safe_load(base.file.read_text(encoding="utf-8"))
        for part, name in zip(settings["parts"], ("ana", "juma"), strict=True):
            part["corpus"]["speaker"] = name
            part["prepare"]["features"] = str(folder / f"features_{name}")
        settings["model"] |= {"pitch": {"channels": 8}}
        settings["training"] |= {"max_steps": 6, "validate_every": 3, "speaker_temperature": 4.0}
        settings["run"] = {"name": "two", "storage": str(folder / "runs")}
        (folder / "two.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
            patch.setattr(sys, "argv", ["pretrain", "--config", str(folder / "two.yaml")])
            pretrain.main()
        config = load_config(MixConfig, [folder / "two.yaml"])
        part = config.parts[0]
        eva = part.corpus.model_copy(update={"speaker": "eva"})
        there = part.prepare.model_copy(update={"features": folder / "features_eva"})
        prepare(eva, part.text, get_family("acoustic").extractors(config), there)
        (folder / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")

    with shared_folder(tmp_path_factory, "two_speakers", make) as folder:
        features = folder / "features_ana", folder / "features_juma"
        printed = (folder / "printed.txt").read_text(encoding="utf-8")
        run_dir, eva = folder / "runs" / "two", folder / "features_eva"
        yield Two(folder / "two.yaml", run_dir, features, eva, printed)


@pytest.fixture
def third(voice: Callable[..., VoiceConfig], two: Two) -> Settings:
    """``third("training.max_steps=2")``: Eva on the base of two; her recordings are Ana's."""

    def build(*overrides: str) -> AcousticSettings:
        own = (
            "text.language=es", "corpus.language=es", f"prepare.features={two.eva}",
            "model.pitch.channels=8", f"base.bundle={two.run_dir}",
            f"base.features=[{two.features[0]}, {two.features[1]}]",
        )  # fmt: skip
        return acoustic(voice(*own, *overrides).launch())

    return build


def rows_of(bundle: Path) -> Tensor:
    return read_weights(resolve_bundle(bundle))[ROWS]


# A table of speakers


def test_each_speaker_has_a_row_and_a_pitch_of_their_own(two: Two) -> None:
    bundle = load_bundle(two.run_dir)
    assert bundle.speakers == ("ana", "juma")
    assert bundle.weights[ROWS].shape == (2, bundle.config.width)
    data = open_data(acoustic(load_config(MixConfig, [two.file]).launch()))
    assert data.train.speakers is not None and data.train.f0 is not None
    for row, mean in enumerate(bundle.weights["source.mean"]):
        own = [f0 for f0, who in zip(data.train.f0, data.train.speakers, strict=True) if who == row]
        f0 = np.concatenate(own)
        assert float(mean) == pytest.approx(float(np.log(f0[f0 > 0]).mean()), abs=1e-4)
    assert len(set(bundle.weights["source.mean"].tolist())) == 2


def test_voice_decides_who_speaks(two: Two) -> None:
    speaker = AcousticSpeaker.load(two.run_dir)
    assert speaker.voices == ["ana", "juma"]
    ana, juma = (speaker.speak(TEXT, language="es", voice=name) for name in speaker.voices)
    assert not np.array_equal(ana, juma)
    assert np.array_equal(ana, speaker.speak(TEXT, language="es")), "the first one, if not named"
    with pytest.raises(UserError, match=r"^voice eva: there is none; there are ana, juma$"):
        speaker.speak(TEXT, language="es", voice="eva")


def test_held_out_table_has_a_line_of_each_speaker(two: Two) -> None:
    lines = [line.split() for line in two.printed.splitlines()]
    first = next(n for n, line in enumerate(lines) if line[:2] == ["mel-cepstral", "distortion,"])
    assert [line[0] for line in lines[first + 1 : first + 3]] == ["ana", "juma"]
    of_all, *of_each = (float(line[-1]) for line in lines[first : first + 3])
    assert min(of_each) < of_all < max(of_each)


def test_metric_of_a_speaker_has_a_name_that_mlflow_takes() -> None:
    assert of_speaker("አበበ (b/2)", "mcd") == "speaker/አበበ -b-2-/mcd"


def test_bundle_of_one_speaker_has_no_table(base: BaseVoice, tmp_path: Path) -> None:
    assert read_manifest(resolve_bundle(base.run_dir)).speakers == ()
    assert not [name for name in read_weights(resolve_bundle(base.run_dir)) if "speaker" in name]
    one = AcousticSpeaker.load(write_voice(tmp_path))
    assert one.voices == []
    with pytest.raises(UserError, match=r"^voice ana: there is one only; leave it out$"):
        one.speak("ሰላም", voice="ana")


def test_all_parts_of_the_model_see_who_speaks() -> None:
    config = MODEL.model_copy(update={"pitch": PitchConfig(channels=8)})
    torch.manual_seed(0)
    model = build_model(config, amharic(), torch.zeros(MEL.n_mels), torch.ones(MEL.n_mels), 2)
    torch.nn.init.normal_(model.duration.out.weight)
    ids = torch.tensor([amharic().encode("ሰላም ነው።", "am")] * 2)
    with torch.no_grad():
        said = model.eval()(ids, torch.tensor([ids.shape[1]] * 2), speakers_B=torch.arange(2))
    assert said.pitch is not None
    for seen in (said.mel_BTM, said.log_durations_BNS, said.means_BNSM, said.pitch.z_BT):
        assert not torch.allclose(seen[0], seen[1])


# Balance


def test_temperature_evens_out_who_is_heard(two: Two) -> None:
    data = open_data(acoustic(load_config(MixConfig, [two.file]).launch()))
    assert data.train.speakers is not None
    few = int((data.train.speakers == 1).sum()) // 3
    kept = [i for i, who in enumerate(data.train.speakers) if who == 0]
    kept += [i for i, who in enumerate(data.train.speakers) if who == 1][:few]
    corpus = pick(data.train, kept)
    assert corpus.speakers is not None
    shares = []
    for temperature in (1.0, 2.0, 1e6):
        repeats = balanced(corpus, temperature)
        visits = repeats if repeats is not None else np.ones(len(corpus))
        frames_S = np.bincount(corpus.speakers, weights=corpus.lengths * visits)
        shares.append(float(frames_S[1] / frames_S.sum()))
        assert visits.min() == 1, "who has most is visited once"
    ratio = shares[0] / (1 - shares[0])
    assert shares[1] / (1 - shares[1]) == pytest.approx(ratio**0.5)
    assert shares[2] == pytest.approx(0.5, abs=1e-3)


def test_epochs_visit_as_often_as_is_asked_for() -> None:
    lengths, repeats = np.arange(10, 50), np.repeat([1.0, 2.3], 20)
    for budget in (0, 200):
        sampler = BucketSampler(lengths, 4, 1, budget, repeats)
        visits = np.array(
            [np.bincount(np.concatenate(sampler.batches(e)), minlength=40) for e in range(100)]
        )
        assert {*visits.sum(axis=1)} == {66}
        assert (visits[:, :20] == 1).all()
        assert {*visits[:, 20:].ravel()} == {2, 3}
        assert visits[:, 20:].mean(axis=0) == pytest.approx(np.full(20, 2.3), abs=0.2)
    sampler = BucketSampler(lengths, 4, 1, repeats=repeats)
    assert lengths[sampler.longest_batch()].tolist() == [49, 49, 49, 48], "as often as may come"


def test_balance_without_several_speakers_is_refused(settings: Settings) -> None:
    with pytest.raises(UserError, match=r"^training\.speaker_temperature=2: there is one speaker"):
        make_job(settings("once", "training.speaker_temperature=2"))


# A further speaker


def test_new_speaker_starts_as_the_nearest_of_the_base_whose_rows_stay(
    two: Two, third: Settings
) -> None:
    overrides = ("base.rehearsal_share=0.5", "model.freeze_until_index=n_vocab")
    listener = Listener()
    result = run_training(third(*overrides, "training.max_steps=6"), listener)
    assert result.checkpoint is not None
    [note] = [text for text in listener.told if text.startswith("speaker eva starts as ")]
    before, after = rows_of(two.run_dir), rows_of(result.checkpoint)
    start = before.mean(0)
    if find_spec("resemblyzer"):
        assert "starts as ana, the most alike of the base's (1.00)" in note
        start = before[0]
    else:
        assert "pip install --no-deps resemblyzer" in note
    assert read_manifest(result.checkpoint).speakers == ("ana", "juma", "eva")
    assert torch.equal(after[:2].view(torch.int32), before.view(torch.int32))
    assert 0 < (after[2] - start).norm() < 0.3 * start.norm(), "it began there and is trained"
    weights, theirs = read_weights(result.checkpoint), read_weights(resolve_bundle(two.run_dir))
    for name in STATISTICS:
        assert torch.equal(weights[name][:2], theirs[name])
    assert weights["source.mean"][2] == pytest.approx(float(theirs["source.mean"][0]), abs=1e-3)


def test_rows_of_the_base_move_in_rehearsal_if_nothing_is_frozen(two: Two, third: Settings) -> None:
    _, result = run(third("base.rehearsal_share=0.5", "training.max_steps=6"))
    assert result.checkpoint is not None
    assert not (rows_of(result.checkpoint)[:2] == rows_of(two.run_dir)).any()


def test_without_recordings_of_the_base_a_row_starts_as_the_mean(two: Two, third: Settings) -> None:
    settings = third("base.features=[]")
    data = open_data(settings)
    model = initial_model(settings, data)
    [note] = start_speakers(model, data, settings.mel)
    assert note.startswith("speaker eva starts as the mean of the base's speakers: ")
    assert torch.allclose(model.state_dict()[ROWS][2], rows_of(two.run_dir).mean(0))


def test_two_people_without_a_name_are_said_to_be_one(settings: Settings) -> None:
    opened = [FeatureSet.open(settings("unnamed").sources[0].features)]
    assert speakers_of(opened) == ["speaker"]
    assert unnamed_speaker(opened, ("ana",)) == []
    [note] = unnamed_speaker(opened, ("ana", "speaker"))
    assert note.startswith("corpus.speaker: the base knows a 'speaker', who is taken for the same")


def test_base_adapted_to_one_of_its_speakers_speaks_as_they_do(two: Two, third: Settings) -> None:
    again = (
        "text.language=sw", "corpus.language=sw", f"prepare.features={two.features[1]}",
        "base.features=[]", "training.max_steps=2",
    )  # fmt: skip
    _, result = run(third(*again))
    assert result.checkpoint is not None
    speaker = AcousticSpeaker.load(result.checkpoint)
    assert load_bundle(result.checkpoint).speakers == ("ana", "juma")
    assert speaker.voices == ["juma", "ana"]
    juma, ana = (speaker.speak(SWAHILI, voice=name) for name in speaker.voices)
    assert np.array_equal(speaker.speak(SWAHILI), juma)
    assert not np.array_equal(ana, juma)


def test_rehearsal_shows_the_pitch_of_the_bases_speakers(third: Settings) -> None:
    job = make_job(third("base.rehearsal_share=0.5"))
    rehearsal = job.task.rehearsal
    assert rehearsal is not None
    batch = rehearsal.collate([0, len(rehearsal) - 1])
    assert isinstance(batch, AcousticBatch)
    assert batch.f0_BT is not None and batch.speakers_B is not None
    assert (batch.f0_BT > 0).any(dim=1).all()
    assert batch.speakers_B.tolist() == [0, 1]


def test_rehearsal_without_pitch_is_refused(third: Settings, base: BaseVoice) -> None:
    plain = f"base.features=[{base.features[0]}]"
    with pytest.raises(UserError, match=rf"^model\.pitch: {base.features[0]}: .* no F0; run dimts"):
        open_data(third(f"base.bundle={base.run_dir}", plain, "base.rehearsal_share=0.5"))


def test_features_of_somebody_whom_the_base_does_not_know_are_refused(
    third: Settings, base: BaseVoice
) -> None:
    with pytest.raises(UserError, match=r"is spoken by speaker, whom the base does not know; it"):
        open_data(third(f"base.features=[{base.features[0]}]"))


def test_base_of_one_speaker_begins_as_it_was_with_several() -> None:
    """Whoever of them speaks: their rows are zero."""
    one = untrained()
    torch.manual_seed(1)
    several = build_model(MODEL, amharic(), one.mel_mean_M, one.mel_std_M, 3).eval()
    several.load_state_dict(with_speakers(one.state_dict(), several.state_dict(), 1))
    ids = torch.tensor([amharic().encode("ሰላም", "am")])
    count = torch.tensor([ids.shape[1]])
    with torch.no_grad():
        expected = one(ids, count).mel_BTM
        for row in range(3):
            assert torch.equal(
                several(ids, count, speakers_B=torch.tensor([row])).mel_BTM, expected
            )
