"""Logged and registered voices, against real MLflow: found again, picked by alias, spoken with."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from mlflow.tracking import MlflowClient
from tracking_fixtures import inside, settings_of, write_checkpoint

from dimts.audio.mel import MelConfig
from dimts.core.errors import UserError
from dimts.launch.promotion import OUTCOME, PENDING, finish_promotion, save_promotion
from dimts.tracking.config import TrackingConfig
from dimts.tracking.cursor import CURSOR
from dimts.tracking.listeners import comparison_tags
from dimts.tracking.mlflow_model import resolve_model
from dimts.tracking.mlflow_thread import sync
from dimts.tracking.registry import CANDIDATE, CHAMPION, Registry, Version, register
from dimts.tracking.tracker import Tracker

pytest_plugins = ("tracking_fixtures",)


@pytest.fixture
def config(store: Path, request: pytest.FixtureRequest) -> TrackingConfig:
    """Settings with an experiment and a registered model of the test's own."""
    name = request.node.name
    return settings_of(store, name).model_copy(update={"registered_model": name})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run"))


def log(config: TrackingConfig, run_dir: Path, bundle: Path, mcd: float = 1.8784) -> Tracker:
    """A run that records a bundle."""
    tracker = Tracker(config, run_dir)
    tracker.start(run_dir.name, {}, "")
    tracker.log_model(inside(run_dir, bundle), {"test/mcd": mcd, "test/utterances": 43.0}, step=7)
    tracker.finish("FINISHED")
    return tracker


def registry(config: TrackingConfig) -> Registry:
    assert config.registered_model is not None
    return Registry(config, config.registered_model)


@pytest.mark.integration
@pytest.mark.parametrize("store_is", ["database", "server"])
def test_the_logged_model_is_the_bundle_and_speaks(
    store_is: str,
    config: TrackingConfig,
    bundle: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    name = f"amharic-{store_is}"
    config = config.model_copy(update={"registered_model": name})
    if store_is == "server":
        server = request.getfixturevalue("server")
        config = config.model_copy(update={"uri": server, "artifacts": None})
    for _ in range(2):  # The second session logs nothing new.
        tracker = log(config, tmp_path / "run", bundle)
    client = MlflowClient(config.uri)
    assert tracker.run_id is not None
    recorded = client.get_run(tracker.run_id)
    assert recorded.data.metrics["best/test/mcd"] == 1.8784
    assert recorded.outputs is not None
    [output] = recorded.outputs.model_outputs
    [version] = client.search_model_versions(f"name = '{name}'")
    candidate = Registry(config, name).get(CANDIDATE)
    assert (candidate.number, candidate.run_id) == (str(version.version), tracker.run_id)
    assert candidate.tags == {"test/mcd": "1.878", "test/utterances": "43"}
    card = str(version.description)
    place = f"#/experiments/{recorded.info.experiment_id}/runs/{tracker.run_id}/artifacts"
    assert f"| Listen | [samples of the run]({place}) |" in card
    assert "| Languages | am |" in card and "tracking.licence" in card
    assert "| test/mcd | 1.878 |" in card and "No listeners have compared it yet." in card
    for uri in (
        f"runs:/{tracker.run_id}",
        f"runs:/{tracker.run_id}/voice",
        f"models:/{output.model_id}",
        f"models:/{name}@candidate",
        candidate.uri,
        str(bundle),
    ):
        found = resolve_model(uri, config)
        names = {path.name for path in found.iterdir()} - {"trainer_state.pt"}
        assert names == {"model.safetensors", "config.yaml", "tokenizer.json", "manifest.json"}
        for file in names - {"manifest.json"}:
            assert (found / file).read_bytes() == (bundle / file).read_bytes()
    if store_is == "database":
        _speaks(config, f"models:/{output.model_id}", tmp_path)


def _speaks(config: TrackingConfig, uri: str, elsewhere: Path) -> None:
    """In a process of its own: MLflow puts the library that is inside the model on the path, and
    the vocoder that ships is there as well."""
    code = (
        "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model(sys.argv[2])\n"
        "said = [{'text': 'ሰላም።'}, {'text': 'እንዴት ነህ?', 'language': 'am', 'speed': 1.5}]\n"
        "print('\\n'.join(model.predict(said)))\n"
        "try: model.predict([{'text': 'ሰላም።', 'voice': 'nobody'}])\n"
        "except mlflow.MlflowException as error: assert 'voice nobody' in str(error)\n"
        "else: sys.exit('spoken by nobody')\n"
        "from dimts.audio.mel import MelConfig\n"
        "from dimts.families.registry import shipped_vocoder\n"
        "assert shipped_vocoder(MelConfig()), 'by Griffin-Lim'\n"
        "assert not {'librosa', 'soxr', 'ray', 'torchaudio'} & sys.modules.keys(), 'not required'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, config.uri, uri],
        cwd=elsewhere, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for line in done.stdout.split():
        wave, rate = soundfile.read(io.BytesIO(base64.b64decode(line)))
        assert rate == MelConfig().sample_rate
        assert len(wave) > 0
    assert len(done.stdout.split()) == 2


# Aliases


def test_a_newer_voice_is_the_candidate_and_the_champion_stays(
    config: TrackingConfig, bundle: Path, tmp_path: Path
) -> None:
    log(config, tmp_path / "first", bundle)
    of_first = registry(config).get(CANDIDATE)
    registry(config).set_alias(CHAMPION, of_first)
    name, client = str(config.registered_model), MlflowClient(config.uri)
    written = str(client.get_model_version(name, "1").description)
    client.update_model_version(name, "1", written.replace("not stated", "CC0"))
    outcome = {"promotion.outcome": "promoted", "promotion.compared_with": "none"}
    outcome["promotion.at"] = "2026-11-30T21:00:00+00:00"
    registry(config).set_tags(of_first, outcome)
    registry(config).set_tags(of_first, comparison_tags(f"{name}/7", "points", 4, 1.5, 6.5, 9))
    card = str(client.get_model_version(name, "1").description)
    assert "CC0" in card, "what a person has written stays"
    assert "Promotion, 2026-11-30: promoted; compared with version none." in card
    assert "- 9 listeners, beside " in card and "points above 4.000 (95 %: 1.500 to 6.500)" in card
    assert card.count("## How it was judged") == 1 and "No listeners" not in card
    second = log(config, tmp_path / "second", write_checkpoint(tmp_path / "other", seed=1), 1.5)
    candidate, champion = registry(config).get(CANDIDATE), registry(config).get(CHAMPION)
    assert (candidate.number, champion.number) == ("2", "1")
    assert (candidate.run_id, candidate.tags["test/mcd"]) == (second.run_id, "1.5")
    assert champion.tags["promotion.outcome"] == "promoted"
    assert registry(config).version("1") == champion
    registry(config).set_alias(CHAMPION, candidate)
    assert registry(config).find(CHAMPION) == candidate


class Killed(Registry):
    """Of a process that is killed before it moves an alias, or right after that."""

    after = False

    def set_alias(self, alias: str, version: Version) -> None:
        if self.after:
            super().set_alias(alias, version)
        raise KeyboardInterrupt


@pytest.mark.integration
def test_a_promotion_that_was_killed_calls_nothing_promoted_and_is_finished_later(
    config: TrackingConfig, bundle: Path, tmp_path: Path
) -> None:
    whole, name = registry(config), str(config.registered_model)
    killed = Killed(config, name)
    log(config, tmp_path / "first", bundle)
    save_promotion(whole, whole.get(CANDIDATE), None, {}, 5, None, ())
    before = whole.get(CHAMPION)
    assert before.tags[OUTCOME] == "promoted"
    log(config, tmp_path / "second", write_checkpoint(tmp_path / "other", seed=1))
    for killed.after in (False, True):
        with pytest.raises(KeyboardInterrupt):
            save_promotion(killed, whole.get(CANDIDATE), before, {}, 5, None, ())
        assert whole.get(CANDIDATE).tags[OUTCOME] == PENDING
        assert whole.get(CHAMPION).number == ("2" if killed.after else "1")
    finish_promotion(whole, whole.get(CHAMPION))
    assert whole.get(CHAMPION).tags[OUTCOME] == "promoted"
    assert whole.version("1").tags["promotion.followed_by"] == "2"


def test_a_voice_that_was_registered_by_a_killed_process_is_not_registered_twice(
    config: TrackingConfig, bundle: Path, tmp_path: Path
) -> None:
    tracker = log(config.model_copy(update={"registered_model": None}), tmp_path / "run", bundle)
    client = MlflowClient(config.uri)
    assert tracker.run_id is not None and config.registered_model is not None
    recorded = client.get_run(tracker.run_id)
    assert recorded.outputs is not None
    model_id = recorded.outputs.model_outputs[0].model_id
    made = [
        register(client, config.registered_model, model_id, tracker.run_id, {"test/mcd": "2"})
        for _ in range(2)
    ]
    assert made[0] == made[1] == registry(config).get(CANDIDATE)


def test_an_old_voice_that_is_sent_again_does_not_take_the_alias_from_a_newer_one(
    config: TrackingConfig, bundle: Path, tmp_path: Path
) -> None:
    """As where the cursor of its run was lost."""
    log(config, tmp_path / "old", bundle)
    newer = log(config, tmp_path / "newer", bundle, mcd=1.5)
    (tmp_path / "old" / CURSOR).unlink()
    assert sync(config, tmp_path / "old") == 4
    assert registry(config).get(CANDIDATE).run_id == newer.run_id
    assert config.registered_model is not None
    found = MlflowClient(config.uri).search_model_versions(f"name = '{config.registered_model}'")
    assert len(found) == 2


# What is not there


def test_an_alias_that_no_version_has_is_one_line_that_says_how_to_get_one(
    config: TrackingConfig, bundle: Path, tmp_path: Path
) -> None:
    assert registry(config).find(CHAMPION) is None
    with pytest.raises(UserError) as no_model:
        registry(config).get(CANDIDATE)
    assert f"no voice {config.registered_model}@candidate" in str(no_model.value)
    assert f"--set tracking.registered_model={config.registered_model}" in str(no_model.value)
    log(config, tmp_path / "run", bundle)
    assert registry(config).find(CHAMPION) is None
    with pytest.raises(UserError, match=r"dimts promote makes it champion"):
        registry(config).get(CHAMPION)
    with pytest.raises(UserError, match="version=7") as no_version:
        registry(config).version("7")
    assert "\n" not in f"{no_model.value}{no_version.value}"


def test_a_store_that_is_away_is_one_line_without_credentials() -> None:
    away = TrackingConfig(uri="http://bob:hunter2@127.0.0.1:1")
    with pytest.raises(UserError, match=r"^http://\*\*\*@127\.0\.0\.1:1: ") as error:
        Registry(away, "voice").find(CHAMPION)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


def test_to_look_into_a_database_that_is_not_there_does_not_make_it(tmp_path: Path) -> None:
    config = TrackingConfig(uri=f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(UserError, match=r"none\.db: no run was recorded here yet"):
        Registry(config, "voice")
    with pytest.raises(UserError, match=r"none\.db: no run was recorded here yet"):
        resolve_model("models:/voice@champion", config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nowhere", "no such bundle or run folder"),
        ("models:/nobody@champion", "cannot be had"),
        ("runs:/0123456789abcdef0123456789abcdef", "cannot be had"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(
    config: TrackingConfig, uri: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        resolve_model(uri, config)
    assert "\n" not in str(error.value)
