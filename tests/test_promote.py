"""From candidate to champion, end to end: voices in a real registry, compared and picked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow.tracking import MlflowClient
from tracking_fixtures import make_store, settings_of
from voice_fixtures import write_voice

from data_prep.pipeline import prepare as run_prepare
from dimts.audio.mel import MelConfig
from dimts.cli import run_job
from dimts.commands import promote, synthesize
from dimts.commands.mix_config import MixConfig
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.features.mel_extractor import MelExtractor
from dimts.launch.start import start_run
from dimts.text.normaliser import TextConfig
from dimts.tracking.config import TrackingConfig
from dimts.tracking.registry import CANDIDATE, CHAMPION, Registry
from dimts.tracking.tracker import Tracker

if TYPE_CHECKING:
    from conftest import BaseVoice

if TYPE_CHECKING:
    pass

NAME = "amharic"
Ended = tuple[int, str, str]
Job = Callable[..., Ended]
Train = Callable[..., None]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with MLflow's tables and nothing in them; making one takes seconds."""
    return (make_store(tmp_path_factory.mktemp("store")) / "mlflow.db").read_bytes()


@pytest.fixture
def tracking(tables: bytes, tmp_path: Path) -> TrackingConfig:
    (tmp_path / "mlflow.db").write_bytes(tables)
    return settings_of(tmp_path, "promote").model_copy(update={"registered_model": NAME})


@pytest.fixture
def registry(tracking: TrackingConfig) -> Registry:
    return Registry(tracking, NAME)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Job:
    """Runs a job as a command: its exit code and what it printed."""

    def command(main: Callable[[], int | None], *arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["job.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_job(main)
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return command


@pytest.fixture(scope="module")
def features(spoken_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the tiny voice, with a test split of more than a sentence."""
    folder = tmp_path_factory.mktemp("features")
    prepare = PrepareConfig(features=folder, engine="local", val_share=0.1, test_share=0.3)
    corpus, text = CorpusConfig(path=spoken_corpus), TextConfig(language="am")
    run_prepare(corpus, text, [MelExtractor(MelConfig())], prepare)
    return folder


@pytest.fixture
def promoted(
    run: Job, voice_file: Path, features: Path, tracking: TrackingConfig, tmp_path: Path
) -> Job:
    """Runs `jobs/promote.py` on the tiny voice's configuration."""
    of_voice = [
        f"run.storage={tmp_path}", f"tracking.uri={tracking.uri}", f"run.name={NAME}",
        f"prepare.features={features}",
    ]  # fmt: skip

    def command(*arguments: str, overrides: tuple[str, ...] = ()) -> Ended:
        settings = [part for o in (*of_voice, *overrides) for part in ("--set", o)]
        # So small a voice, trained so briefly, keeps no time yet, and is none.
        tolerant = ["--length-tolerance", "0.9", "--max-of-mean-mel", "9"]
        return run(promote.main, "--config", str(voice_file), *settings, *tolerant, *arguments)

    return command


@pytest.fixture
def trained(tracking: TrackingConfig, features: Path) -> Callable[[VoiceConfig], None]:
    """Trains a voice, which is registered at its end."""

    def train(config: VoiceConfig) -> None:
        prepare = config.prepare.model_copy(update={"features": features})
        config = config.model_copy(update={"tracking": tracking, "prepare": prepare})
        launch = config.launch().model_copy(
            update={"title": f"voice {config.run.name}", "tags": {"voice": config.run.name}}
        )
        start_run(launch, config.ray)

    return train


def row(out: str, title: str) -> list[str]:
    """Cells of the one line of a table that begins so."""
    [line] = [line for line in out.splitlines() if line.startswith(title)]
    return line.removeprefix(title).split()


def test_a_voice_becomes_champion_only_if_it_is_better_and_is_spoken_with(
    voice: Callable[..., VoiceConfig],
    trained: Callable[[VoiceConfig], None],
    promoted: Job,
    registry: Registry,
    tracking: TrackingConfig,
    run: Job,
    tmp_path: Path,
) -> None:
    trained(voice("run.name=short", "training.max_steps=6"))
    code, out, err = promoted()
    assert (code, err) == (0, ""), out
    assert f"version 1 is now models:/{NAME}@champion" in out
    assert registry.get(CHAMPION).tags["promotion.compared_with"] == "none"

    trained(voice("run.name=long", "training.max_steps=60"))
    code, out, err = promoted()
    assert (code, err) == (0, ""), out
    long, short = map(float, row(out, "mel-cepstral distortion, dB")[:2])
    assert long < short
    first, second = registry.version("1"), registry.get(CHAMPION)
    assert second == registry.get(CANDIDATE)._replace(tags=second.tags)
    assert first.tags["promotion.followed_by"] == second.number == "2"
    found = {key.removeprefix("promotion."): value for key, value in second.tags.items()}
    assert (found["outcome"], found["compared_with"]) == ("promoted", "1")
    assert float(found["mcd_difference"]) == pytest.approx(long - short, abs=0.002)
    assert float(found["mcd_difference_low"]) <= float(found["mcd_difference"])
    assert float(found["mcd"]) == float(second.tags["test/mcd"]), "the figure of the training"

    command = out.partition("dimts synthesize ")[2].split()
    assert command[:4] == ["--model", f"models:/{NAME}@champion", "--tracking-uri", tracking.uri]
    for number, model in enumerate((f"models:/{NAME}@champion", str(tmp_path / "long"))):
        spoken = ["--tracking-uri", tracking.uri, "--out", str(tmp_path / f"{number}.wav")]
        assert run(synthesize.main, "--model", model, "--text", "ሰላም።", *spoken)[0] == 0
    assert (tmp_path / "0.wav").read_bytes() == (tmp_path / "1.wav").read_bytes()


def test_a_voice_that_is_not_better_leaves_the_champion(
    voice: Callable[..., VoiceConfig],
    trained: Callable[[VoiceConfig], None],
    promoted: Job,
    registry: Registry,
) -> None:
    trained(voice("run.name=long", "training.max_steps=60"))
    assert promoted()[0] == 0
    before = registry.get(CHAMPION)
    code, out, _ = promoted()
    assert (code, out.splitlines()[0]) == (0, f"version 1 is models:/{NAME}@champion already")

    trained(voice("run.name=short", "training.max_steps=6"))
    code, out, err = promoted("--dry-run")
    assert (code, err) == (1, "")
    assert "promotion.outcome" not in registry.get(CANDIDATE).tags
    code, out, err = promoted()
    assert (code, err) == (1, "")
    assert "version 2 is not promoted: its mean MCD differs" in out
    assert "version 1 stays the champion" in out
    assert registry.get(CHAMPION) == before
    assert registry.get(CANDIDATE).tags["promotion.outcome"].startswith("its mean MCD differs")
    assert registry.get(CANDIDATE).tags["promotion.compared_with"] == "1"


@pytest.mark.integration
def test_a_margin_is_asked_for_and_a_dry_run_changes_nothing(
    voice: Callable[..., VoiceConfig],
    trained: Callable[[VoiceConfig], None],
    promoted: Job,
    registry: Registry,
) -> None:
    for name, steps in (("short", 6), ("long", 60)):
        trained(voice(f"run.name={name}", f"training.max_steps={steps}"))
    assert promoted("--version", "1")[0] == 0
    before = registry.get(CHAMPION), registry.get(CANDIDATE)
    assert before[0].number == "1"
    code, out, _ = promoted("--dry-run", "--margin", "50")
    assert (code, "below -50 is asked for" in out) == (1, True)
    code, out, _ = promoted("--dry-run", "--length-tolerance", "0.0001")
    assert (code, "times as long as recorded" in out) == (1, True)
    code, out, _ = promoted("--dry-run")
    assert (code, "version 2 would be models:/" in out) == (0, True)
    assert before == (registry.get(CHAMPION), registry.get(CANDIDATE))


@pytest.mark.integration
def test_a_voice_that_forgets_more_than_the_limit_is_refused(
    voice: Callable[..., VoiceConfig],
    base: BaseVoice,
    trained: Callable[[VoiceConfig], None],
    promoted: Job,
    registry: Registry,
    tmp_path: Path,
) -> None:
    """Beside a champion that never spoke the base's languages and so has none to forget."""
    of_base = [f"run.storage={tmp_path}", "training.max_steps=100"]
    mix = load_config(MixConfig, [base.file], of_base)
    start_run(mix.launch(), mix.ray)  # A base that has learned something that can be forgotten.
    features = ", ".join(map(str, base.features))
    from_base = f"base.bundle={mix.run.run_dir}", f"base.features=[{features}]"
    trained(voice("run.name=scratch", "training.max_steps=6"))
    code, out, _ = promoted(overrides=from_base[:1])
    assert (code, "what was forgotten is not measured" in out) == (0, True)
    trained(voice("run.name=adapted", "training.max_steps=60", *from_base))
    recorded = registry.get(CANDIDATE).tags
    change = float(recorded["forgetting/mcd_change"])
    limits = str(change / 2), str(change * 2)
    for settings in ((), from_base[:1]):
        code, out, err = promoted(overrides=settings)
        assert (code, err) == (1, ""), out
        assert "it was adapted from a base, and what it forgot is not measured; configure" in out
    code, out, _ = promoted("--dry-run", "--without-forgetting")
    assert (code, "version 2 would be models:/" in out) == (0, True), out

    code, out, err = promoted("--max-forgetting", limits[0], overrides=from_base)
    assert (code, err) == (1, ""), out
    [why] = [line for line in out.splitlines() if line.startswith("version 2 is not promoted")]
    assert f": the base's languages changed by {change:+.2f}" in why
    assert registry.get(CHAMPION).number == "1"
    code, out, err = promoted("--max-forgetting", limits[1], overrides=from_base)
    assert (code, err) == (0, ""), out
    ours, theirs = row(out, "languages of the base, dB")
    assert float(ours) == pytest.approx(float(recorded["forgetting/mcd"]), rel=1e-3)
    assert theirs == "-"
    promotion = registry.get(CHAMPION).tags["promotion.forgetting"]
    assert promotion == recorded["forgetting/mcd_change"]


def test_a_voice_of_another_base_is_not_measured_against_this_one(
    voice: Callable[..., VoiceConfig],
    base: BaseVoice,
    trained: Callable[[VoiceConfig], None],
    promoted: Job,
) -> None:
    trained(voice("run.name=scratch", "training.max_steps=2"))
    from_base = f"base.bundle={base.run_dir}", f"base.features=[{base.features[0]}]"
    code, out, err = promoted(overrides=from_base)
    assert (code, out) == (2, "")
    assert "version 1: was adapted from no base, not from base.bundle" in err


def test_without_a_candidate_it_is_said_how_to_get_one(promoted: Job, tmp_path: Path) -> None:
    code, out, err = promoted("--margin", "-1")
    assert (code, out, err) == (
        2,
        "",
        "error: margin: input should be greater than or equal to 0, got -1.0\n",
    )
    code, out, err = promoted()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"--set tracking.registered_model={NAME}" in err
    code, _, err = promoted("--name", "nobody", "--version", "3")
    assert (code, err.count("\n")) == (2, 1)
    assert "nobody" in err
    code, _, err = promoted(overrides=(f"tracking.uri=sqlite:///{tmp_path}/none.db",))
    assert (code, "no run was recorded here yet" in err) == (2, True)
    assert not (tmp_path / "none.db").exists()


def test_a_voice_of_another_mel_is_refused(
    promoted: Job, tracking: TrackingConfig, tmp_path: Path
) -> None:
    tracker = Tracker(tracking, tmp_path / "other")
    tracker.start("other", {}, "")
    tracker.log_model(write_voice(tmp_path / "other" / "bundle"), {})
    tracker.finish("FINISHED")
    code, out, err = promoted()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "version 1: was trained with mel.n_mels=20" in err


def test_a_run_is_recorded_with_its_title_and_tags(
    voice: Callable[..., VoiceConfig],
    trained: Callable[[VoiceConfig], None],
    tracking: TrackingConfig,
    registry: Registry,
) -> None:
    trained(voice("run.name=first", "training.max_steps=2"))
    run_id = registry.get(CANDIDATE).run_id
    assert run_id is not None
    recorded = MlflowClient(tracking.uri).get_run(run_id)
    assert (recorded.info.run_name, recorded.data.tags["voice"]) == ("voice first", "first")
