"""Search spaces: what is refused before anything starts, and what a trial's settings are."""

from __future__ import annotations

import math
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from training_fixtures import acoustic
from tuning_fixtures import one_of

from data_prep.pipeline import prepare as run_prepare
from dimts.bundles.bundle import CONFIG, resolve_bundle
from dimts.commands.sweep_config import SweepVoice, load_sweep
from dimts.commands.voice_config import VoiceConfig
from dimts.core.errors import ConfigError, UserError
from dimts.families.acoustic.bundle import load_bundle, write_bundle
from dimts.features.mel_extractor import MelExtractor
from dimts.tuning.space import examples
from dimts.tuning.study import SweepStudy
from dimts.tuning.sweep import SHARED_INPUTS, check, prepare, run_sweep

if TYPE_CHECKING:
    from conftest import BaseVoice

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))
COMMAND = re.compile(r"^# +dimts tune (.*)$", re.MULTILINE)

LR = "training.optimizer.learning_rate"
BATCH = "training.batch_size"
STEPS = "training.optimizer.warmup_steps"
FREEZE = "model.freeze_until_index"
BLOCKS = "model.freeze_blocks.encoder"
RATE = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
FORGETTING = {"forgetting/mcd_change": "minimize"}

Build = Callable[..., SweepVoice]


@pytest.fixture
def sweep_voice(voice_file: Path, tmp_path: Path) -> Build:
    """``sweep_voice({"space": ...}, "training.max_steps=3")``: the tiny voice, to be searched."""

    def build(sweep: dict[str, Any], *overrides: str) -> SweepVoice:
        file = tmp_path / "space.yaml"
        file.write_text(yaml.safe_dump({"sweep": {"name": "t", **sweep}}), encoding="utf-8")
        where = f"run.storage={tmp_path}"
        return load_sweep([voice_file, file], [where, *overrides])

    return build


@pytest.fixture
def adapted_sweep(sweep_voice: Build, base: BaseVoice) -> Build:
    """The tiny voice, started from the tiny base."""
    features = f"base.features=[{', '.join(map(str, base.features))}]"

    def build(sweep: dict[str, Any], *overrides: str) -> SweepVoice:
        return sweep_voice(sweep, f"base.bundle={base.run_dir}", features, *overrides)

    return build


# Refused when the file is read


@pytest.mark.parametrize(
    ("sweep", "key", "message"),
    [
        ({"space": {}}, "space", "at least 1 item"),
        ({"space": {LR: {**RATE, "high": 1e-4}}}, LR, "the range from 0.0001 to 0.0001 is empty"),
        ({"space": {LR: {**RATE, "low": 1.0}}}, LR, "the range from 1.0 to 0.1 is empty"),
        ({"space": {LR: {**RATE, "low": 0.0}}}, LR, r"low \(0.0\) must be above 0 with log"),
        ({"space": {LR: {**RATE, "low": -1.0}}}, LR, r"low \(-1.0\) must be above 0 with log"),
        ({"space": {LR: {**RATE, "low": math.nan}}}, LR, "finite number"),
        ({"space": {LR: {**RATE, "step": 0.1}}}, LR, "log and step do not go together"),
        (
            {"space": {LR: {"type": "float", "low": 0, "high": 1, "step": 0.3}}},
            LR, "high: 1.0 is not 0.0 and a multiple of 0.3",
        ),
        (
            {"space": {BATCH: {"type": "int", "low": 1, "high": 4, "step": 9}}},
            BATCH, "high: 4 is not 1 and a multiple of 9",
        ),
        ({"space": {BATCH: {"type": "int", "low": 1.5, "high": 4}}}, BATCH, "integer"),
        ({"space": {LR: {"type": "gauss", "low": 0, "high": 1}}}, LR, "'gauss'"),
        ({"space": {LR: {**RATE, "hihg": 1}}}, f"{LR}.float.hihg", "unknown key"),
        ({"space": {BATCH: one_of()}}, BATCH, "at least 1 item"),
        ({"space": {BATCH: one_of(4, 8, 4)}}, BATCH, "the choice 4 is there twice"),
        ({"space": {BLOCKS: one_of([0], [], [0])}}, BLOCKS, r"the choice '\[0\]' is there twice"),
        (
            {"space": {BATCH: one_of(4, 8, when={LR: 1}), LR: RATE}},
            f"{BATCH}.when", f"{LR} must be a parameter that stands before it",
        ),
        (
            {"space": {BATCH: one_of(4, 8), LR: {**RATE, "when": {BATCH: [4, 5]}}}},
            f"{LR}.when.{BATCH}", r"5 is none of \[4, 8\]",
        ),
        (
            {"space": {BLOCKS: one_of([], [0]), LR: {**RATE, "when": {BLOCKS: []}}}},
            f"{LR}.when.{BLOCKS}", "holds no value",
        ),
        (
            {"space": {LR: RATE}, "known_good": [{LR: 1e-2}, {LR: 1.0}]},
            "known_good.1", f"{LR}: 1.0 is not between 0.0001 and 0.1",
        ),
        ({"space": {LR: RATE}, "known_good": [{LR: "1e-2"}]}, "known_good.0", "must be a number"),
        (
            {"space": {LR: RATE}, "known_good": [{BATCH: 8}]},
            "known_good.0", f"{BATCH} is not in the space; allowed here: {LR}",
        ),
        (
            {"space": {BATCH: one_of(4, 8)}, "known_good": [{BATCH: 5}]},
            "known_good.0", r"5 is none of \[4, 8\]",
        ),
        (
            {
                "space": {BATCH: one_of(4, 8), LR: {**RATE, "when": {BATCH: 4}}},
                "known_good": [{BATCH: 8, LR: 1e-2}],
            },
            "known_good.0", f"{LR} is not used beside the other values",
        ),
        ({"space": {LR: RATE}, "gpus_per_trial": 1.5}, "gpus_per_trial", "must be a whole number"),
        ({"space": {LR: RATE}, "trials": 1, "known_good": [{}, {}]}, "sweep", "at least as many"),
        ({"space": {LR: RATE}, "known_good_best": 2}, "sweep", "without known_good_from"),
        (
            {"space": {LR: RATE}, "objectives": {"val/los": "minimize"}},
            "objectives", "val/los is unknown; allowed here: val/total_loss",
        ),
        (
            {"space": {LR: RATE}, "objectives": {"val/mcd": "maximize"}},
            "objectives", "val/mcd is to be minimized",
        ),
        ({"space": {LR: RATE}, "objectives": {}}, "objectives", "at least 1 item"),
        ({"space": {LR: RATE}, "validations": 1}, "sweep", "must be below validations"),
        ({"space": {LR: RATE}, "limits": {"val/mcd": 1}}, "sweep", "val/mcd is no objective"),
        (
            {"space": {LR: RATE}, "limits": {"val/total_loss": 1}},
            "sweep", "no effect with one objective",
        ),
        (
            {"space": {"training.loss.mel": RATE}},
            "training.loss.mel", "changes what a loss means",
        ),
        (
            {"space": {"training.loss": one_of({"mel": 1}, {"mel": 2})}},
            "training.loss", "changes what a loss means",
        ),
        (
            {"space": {"base.held_out": one_of(1, 2)}, "objectives": FORGETTING},
            "base.held_out", "changes what forgetting/mcd_change is measured on",
        ),
    ],
)  # fmt: skip
def test_mistake_in_a_space_is_one_line_with_file_and_key(
    sweep_voice: Build, tmp_path: Path, sweep: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        sweep_voice(sweep)
    line = str(error.value)
    assert f"{tmp_path / 'space.yaml'}: sweep" in line
    assert key in line
    assert "\n" not in line


def test_spaces_of_spoken_objectives_may_weigh_losses(sweep_voice: Build) -> None:
    mcd = {"val/mcd": "minimize"}
    weights = {"training.loss.duration": {"type": "float", "low": 0.1, "high": 1.0}}
    with pytest.raises(ConfigError, match="set early_stopping to null"):
        sweep_voice({"space": weights, "objectives": mcd})
    assert sweep_voice({"space": weights, "objectives": mcd, "early_stopping": None}).plan()


# Refused before the first trial


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"training.optimizer.rate": RATE}, r"training\.optimizer\.rate: unknown key; allowed"),
        ({"training.lr.rate": RATE}, "training.lr: unknown key; allowed here: accumulate"),
        ({LR: {**RATE, "low": -1, "log": False}}, rf"{LR}: .*greater than 0"),
        ({BATCH: one_of(4, 0)}, rf"{BATCH}: .*greater than or equal to 1, got 0"),
        (
            {"base.rehearsal_share": one_of(0.0, 0.5)},
            r"section base.* add .*finetune\.yaml",
        ),
        ({f"{LR}.x": RATE}, rf"{LR}: input should be a valid number, got {{'x'"),
        ({STEPS: {"type": "float", "low": 0, "high": 40}}, rf"{STEPS}: .*integer"),
        (
            {"training.optimizer": one_of({"betas": [0.9, 0.99]}), LR: RATE},
            rf"{LR} is part of training\.optimizer",
        ),
        ({"training.max_steps": one_of(4, 8)}, "training.max_steps is set by the sweep itself"),
        ({"training.patience": one_of(1, 2)}, "training.patience is set by the sweep itself"),
        ({"training.threads": one_of(1, 2)}, "training.threads is set by the sweep itself"),
        ({"run.name": one_of("a", "b")}, "run.name cannot differ between trials"),
        ({"mel.n_mels": one_of(40, 80)}, "mel.n_mels cannot differ between trials"),
        ({"ray.workers": one_of(1, 2)}, "ray.workers cannot differ between trials; allowed here"),
    ],
)
def test_setting_that_no_trial_can_have_is_one_line(
    sweep_voice: Build, space: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        sweep_voice({"space": space}).plan()
    assert str(error.value).startswith("sweep.space: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "sizes",
    [
        one_of(4, 0), one_of(4, None), one_of(4, "eight"),
        {"type": "int", "low": 0, "high": 8}, {"type": "int", "low": -2, "high": 8},
    ],
)  # fmt: skip
def test_batch_size_that_no_trial_can_have_is_one_line_beside_utterances(
    sweep_voice: Build, sizes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=rf"^sweep\.space: {BATCH}: .*, got [^\n]*$"):
        sweep_voice({"space": {BATCH: sizes}, "utterances": 480}).plan()


@pytest.mark.parametrize("sizes", [one_of(4, 16, 32), {"type": "int", "low": 4, "high": 24}])
def test_utterances_that_trials_would_not_see_are_refused(
    sweep_voice: Build, sizes: dict[str, Any]
) -> None:
    """Both ends of the range can have them, what lies between cannot."""
    sweep = {"space": {BATCH: sizes}, "utterances": 480, "validations": 20}
    with pytest.raises(ConfigError, match=r"sweep\.utterances=480 .* sweep\.validations=20 and"):
        sweep_voice(sweep).plan()
    assert sweep_voice({**sweep, "validations": 2}).plan()


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"space": {FREEZE: one_of(0, "n_base")}}, "n_base: the tokenizer was not extended"),
        ({"space": {FREEZE: one_of(0, 9999)}}, "sweep.space: .*freeze_until_index"),
        ({"space": {LR: RATE}, "objectives": FORGETTING}, "sweep.objectives: .* needs a base"),
    ],
)
def test_mistake_that_the_features_show_leaves_nothing_behind(
    sweep_voice: Build, tmp_path: Path, sweep: dict[str, Any], message: str
) -> None:
    """Or the mended space would be refused as another one than the sweep was begun with."""
    plan = sweep_voice(sweep).plan()
    with pytest.raises(UserError, match=message) as error:
        run_sweep(plan)
    assert "\n" not in str(error.value)
    assert [f.name for f in plan.folder.iterdir()] == ["lock"]


def test_forgetting_without_sentences_of_the_base_is_refused(adapted_sweep: Build) -> None:
    sweep = {"space": {LR: RATE}, "objectives": FORGETTING}
    with pytest.raises(UserError, match=r"validation sentences in base\.features"):
        run_sweep(adapted_sweep(sweep, "base.features=[]").plan())
    plan = adapted_sweep(sweep).plan()
    facts = check(plan).facts
    assert facts["set of the base's features"].count("+") == 1, "of two languages"


@pytest.mark.integration
def test_sweep_does_not_go_on_with_other_features_or_another_base(
    adapted_sweep: Build, adapted: Callable[..., VoiceConfig], base: BaseVoice, tmp_path: Path
) -> None:
    """Its losses would be of two kinds; the settings are the same."""
    features, bundle = tmp_path / "features", tmp_path / "base"
    shutil.copytree(resolve_bundle(base.run_dir), bundle)
    where = (f"base.bundle={bundle}", f"prepare.features={features}")
    config, sweep = adapted(*where), adapted_sweep({"space": {LR: RATE}}, *where)
    run_prepare(config.corpus, config.text, [MelExtractor(config.mel)], config.prepare)
    plan = sweep.plan()
    plan.folder.mkdir()
    study = SweepStudy(plan.sweep, plan.folder).study
    for _ in range(2):
        prepare(plan, check(plan), study)

    found = load_bundle(bundle)
    other = {name: weight * 1.01 for name, weight in found.weights.items()}
    facts = {"step": 1, "epoch": 0, "metrics": {}, "features": "f"}
    write_bundle(bundle, other, found.tokenizer, (bundle / CONFIG).read_text(), facts)
    with pytest.raises(UserError, match=r"with another base than .* another sweep\.name"):
        run_sweep(plan)
    run_prepare(
        config.corpus, config.text, [MelExtractor(config.mel)],
        config.prepare.model_copy(update={"val_share": 0.3}),
    )  # fmt: skip
    with pytest.raises(UserError, match="with another set of features than") as error:
        run_sweep(plan)
    assert f"or remove {plan.folder}" in str(error.value)
    assert f"--set sweep.name=t-2 --set sweep.known_good_from={plan.folder} " in str(error.value)
    assert "\n" not in str(error.value)
    study.set_user_attr(SHARED_INPUTS, None)  # as one has it that was begun before this was kept
    prepare(plan, check(plan), study)


def test_freeze_index_of_the_space_fits_the_vocabulary(adapted_sweep: Build) -> None:
    plan = adapted_sweep({"space": {FREEZE: one_of(0, 0.5, "n_base", "n_vocab")}}).plan()
    check(plan)
    plan = adapted_sweep({"space": {FREEZE: one_of(0, 9999)}}).plan()
    with pytest.raises(ConfigError, match=r"sweep\.space: model\.freeze_until_index=9999"):
        check(plan)


# A trial's settings


def test_trial_is_the_voice_with_its_values(sweep_voice: Build) -> None:
    sweep = {
        "space": {LR: RATE, BATCH: one_of(2, 4), BLOCKS: one_of([], [0])},
        "utterances": 60,
        "validations": 4,
    }
    plan = sweep_voice(sweep, "training.patience=3", "training.sample_every=5").plan()
    launch = plan.launch(7, {LR: 0.02, BATCH: 2, BLOCKS: [0]})
    training = launch.settings.training
    assert launch.name == "007"
    assert launch.run_dir == plan.folder / "trials" / "007"
    assert training.optimizer.learning_rate == 0.02
    assert training.optimizer.warmup_steps == 4, "as the voice has it"
    assert acoustic(launch).model.freeze_blocks.encoder == (0,)
    assert (training.max_steps, training.validate_every, training.checkpoint_every) == (32, 8, 8)
    assert (training.patience, training.sample_every, training.keep_checkpoints) == (0, 0, 1)
    other = plan.launch(8, {BATCH: 4}).settings.training
    assert (other.max_steps, other.validate_every) == (16, 4), "as many utterances in larger steps"


def test_threads_of_a_trial_are_the_cores_that_it_has(sweep_voice: Build) -> None:
    sweep = {"space": {LR: RATE}, "cpus_per_trial": 2}
    for workers, threads in ((0, 2), (1, 2), (2, 3)):
        how = [f"ray.workers={workers}", f"ray.cpus_per_worker={3 if workers else 0}"]
        plan = sweep_voice(sweep, "training.threads=0", *how).plan()
        assert plan.launch(0, {}).settings.training.threads == threads


def test_password_of_the_store_reaches_the_trials_and_no_file(sweep_voice: Build) -> None:
    uri = "http://user:secret@localhost:1"
    plan = sweep_voice({"space": {LR: RATE}}, f"tracking.uri={uri}").plan()
    assert plan.tracking.uri == plan.launch(0, {LR: 0.1}).tracking.uri == uri
    assert "secret" not in plan.config_yaml
    assert "secret" not in str(plan.params)


# What ships


def commands(file: Path) -> list[str]:
    """The configs that a space's comment names, of the command it shows."""
    shown = COMMAND.search(file.read_text(encoding="utf-8"))
    assert shown, f"{file}: shows no command"
    words = shlex.split(shown[1])
    assert set(words[::2]) == {"--config"}
    return words[1::2]


# The base of the other one is to be downloaded: tests/test_chatterbox_way.py searches with it.
WITH_A_BASE_HERE = [file for file in SHIPPED if file.stem != "chatterbox"]


@pytest.mark.parametrize("file", WITH_A_BASE_HERE, ids=lambda f: f.stem)
def test_shipped_space_fits_the_voice_that_its_comment_names(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    configs = commands(file)
    assert file.relative_to(ROOT).as_posix() in configs
    config = load_sweep(configs)
    plan = config.plan()
    assert plan.folder.name == f"{config.run.name}-{file.stem}"
    for point in (*plan.sweep.known_good, *examples(plan.sweep.space)):
        launch = plan.launch(0, point)
        assert launch.settings.training.max_steps >= plan.sweep.validations


def test_spaces_that_ship_are_known_by_their_names() -> None:
    assert {f.stem for f in SHIPPED} >= {"transfer", "quick", "adaptation"}
    searched = yaml.safe_load((ROOT / "search_spaces/transfer.yaml").read_text())["sweep"]["space"]
    assert set(searched) == {FREEZE, LR, BATCH}
