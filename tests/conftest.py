"""What several test files share: a tiny spoken corpus, a voice's settings, one Ray."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from examples import PROFILES
from hypothesis import settings as hypothesis_settings
from shared_fixtures import shared_folder

from dimts.core.environment import NO_DASHBOARD

if TYPE_CHECKING:
    from dimts.commands.voice_config import VoiceConfig
    from dimts.families.acoustic.settings import AcousticSettings

os.environ |= {
    # Read when torch and numba are loaded, which is why the fixtures import what they need.
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "2",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_worker_niceness": "0",  # beside the other tests they would have to wait
    **NO_DASHBOARD,
}

# As if the package of the toy family were installed, here and in processes that tests start.
TOY = str(Path(__file__).parent / "contract" / "toy")
sys.path.insert(0, TOY)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TOY, os.environ.get("PYTHONPATH")]))

for profile, n_examples in PROFILES.items():
    hypothesis_settings.register_profile(profile, max_examples=n_examples, deadline=None)
hypothesis_settings.load_profile("quick")

N_SENTENCES = 32
MODEL = {
    "width": 32,
    "encoder": {"layers": 1, "heads": 2, "feed_forward": 32, "dropout": 0.0},
    "duration": {"channels": 16, "layers": 1, "dropout": 0.0},
    "decoder": {"channels": 32, "blocks": 2, "dropout": 0.0},
}
TRAINING = {
    "max_steps": 12,
    "batch_size": 4,
    "amp": "off",
    "threads": 1,
    "log_every": 1,
    "validate_every": 6,
    "sample_every": 0,
    "checkpoint_every": 0,
    "aligner": {"iterations": 3},
    "optimizer": {"warmup_steps": 4},
}
VOCODER = {
    "pitch": {"channels": 16, "hidden": 32, "blocks": 1, "classes": 48},
    "generator": {"channels": 16, "hidden": 32, "blocks": 2},
}
VOCODER_TRAINING = {
    **{key: value for key, value in TRAINING.items() if key != "aligner"},
    "optimizer": {"warmup_steps": 4, "learning_rate": 5e-3},
    "crop_frames": 16,
    "validation_frames": 24,
    "own_pitch_from": 4,
    "discriminator": {
        "start_step": 8,
        "model": {"channels": 4, "layers": 2, "frames": 12},
        "optimizer": {"warmup_steps": 1},
    },
}
CHATTERBOX = {
    "t3": {"text_vocab": 512, "speech_vocab": 6563, "hidden": 32, "layers": 2, "heads": 2,
           "feed_forward": 64, "perceiver_dropout": 0.0},
}  # fmt: skip
CHATTERBOX_TRAINING = {
    **{key: value for key, value in TRAINING.items() if key != "aligner"},
    "optimizer": {"warmup_steps": 4, "learning_rate": 1e-2},
    "generated": 2,
}
BASE_TEXTS = Path(__file__).parents[1] / "data_prep" / "base_texts"
N_BASE_SENTENCES = 20
"""Of each language of the base; from so many on, no split is left empty."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate-golden", action="store_true", help="store this machine's loss curves anew"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the tests' own Ray is left to `make test-all`, but for one try of each job.

    Files with such tests come first: short ones are left for the process that is done first.
    """
    for item in items:
        needs_ray = "ray_session" in getattr(item, "fixturenames", ())
        if needs_ray and item.path.name != "test_smoke.py":
            item.add_marker(pytest.mark.integration)
    long = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def spoken_corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An LJSpeech folder: the shortest of the sample sentences, spoken by espeak."""
    from data_prep.recipes.espeak import SAMPLE_SENTENCES, read_sentences, render_corpus

    def speak(folder: Path) -> None:
        sentences = read_sentences(SAMPLE_SENTENCES)
        shortest = sorted(sentences, key=len)[:N_SENTENCES]
        (folder / "sentences.txt").write_text("\n".join(shortest), encoding="utf-8")
        render_corpus(folder / "sentences.txt", folder / "corpus")

    with shared_folder(tmp_path_factory, "spoken", speak) as folder:
        yield folder / "corpus"


@contextmanager
def prepared(
    corpus: Path, factory: pytest.TempPathFactory, name: str, sections: dict[str, Any]
) -> Iterator[Path]:
    """The YAML of a model so small that a step takes milliseconds; its features are prepared."""
    from data_prep.pipeline import prepare
    from dimts.commands.voice_config import load_voice

    own = factory.mktemp(name)

    def write_settings(features: Path) -> Path:
        settings = {
            "corpus": {"path": str(corpus)},
            "text": {"language": "am"},
            "prepare": {
                "features": str(features),
                "engine": "local",
                "val_share": 0.12,
                "test_share": 0.08,
            },
            "tracking": {"enabled": False},
            "ray": {"workers": 0},
            "run": {"name": "tiny", "storage": str(own / "runs")},
        }
        file = own / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings | sections), encoding="utf-8")
        return file

    def extract(folder: Path) -> None:
        config: Any = load_voice([write_settings(folder / "features")])
        extractors = config.of_family.extractors(config)
        prepare(config.corpus, config.text, extractors, config.prepare)

    with shared_folder(factory, f"{name}_features", extract) as folder:
        yield write_settings(folder / "features")


@pytest.fixture(scope="session")
def voice_file(spoken_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    sections = {"model": MODEL, "training": TRAINING}
    with prepared(spoken_corpus, tmp_path_factory, "voice", sections) as file:
        yield file


@pytest.fixture(scope="session")
def vocoder_file(spoken_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    sections = {"family": "vocoder", "model": VOCODER, "training": VOCODER_TRAINING}
    with prepared(spoken_corpus, tmp_path_factory, "vocoder", sections) as file:
        yield file


@pytest.fixture(scope="session")
def recogniser_file(voice_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a recogniser so small that a step takes milliseconds, on a voice's features."""
    settings = yaml.safe_load(voice_file.read_text(encoding="utf-8"))
    training = {key: value for key, value in VOCODER_TRAINING.items() if key in TRAINING}
    settings |= {"family": "recogniser", "training": training}
    settings["model"] = {"width": 16, "hidden": 32, "blocks": 2, "kernel": 5, "dropout": 0.0}
    file = tmp_path_factory.mktemp("recogniser") / "recogniser.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def chatterbox_file(
    spoken_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The YAML of a T3 so small that a step takes milliseconds; its features are prepared."""
    from data_prep.pipeline import prepare
    from dimts.commands.voice_config import load_voice

    def write_settings(features: Path, folder: Path) -> Path:
        settings = {
            "family": "chatterbox",
            "corpus": {"path": str(spoken_corpus)},
            "text": {"language": "am"},
            "tokens": {"kind": "random_projection", "digits": 4},
            "prepare": {
                "features": str(features),
                "engine": "local",
                "val_share": 0.12,
                "test_share": 0.08,
            },
            "model": CHATTERBOX,
            "training": CHATTERBOX_TRAINING,
            "tracking": {"enabled": False},
            "ray": {"workers": 0},
            "run": {"name": "tiny", "storage": str(folder / "runs")},
        }
        file = folder / "chatterbox.yaml"
        file.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return file

    own = tmp_path_factory.mktemp("chatterbox")

    def extract(folder: Path) -> None:
        config: Any = load_voice([write_settings(folder / "features", own)])
        extractors = config.of_family.extractors(config)
        prepare(config.corpus, config.text, extractors, config.prepare)

    with shared_folder(tmp_path_factory, "chatterbox_features", extract) as folder:
        yield write_settings(folder / "features", own)


@pytest.fixture
def voice(voice_file: Path, tmp_path: Path) -> Callable[..., VoiceConfig]:
    """``voice("training.max_steps=3")``: the tiny voice with its runs in the test's folder."""
    from dimts.commands.voice_config import VoiceConfig
    from dimts.core.config import load_config

    def build(*overrides: str) -> VoiceConfig:
        return load_config(VoiceConfig, [voice_file], [f"run.storage={tmp_path}", *overrides])

    return build


@pytest.fixture
def settings(voice: Callable[..., VoiceConfig]) -> Callable[..., AcousticSettings]:
    """``settings("once", "training.max_steps=3")``: what trains the run of that name."""

    def build(name: str, *overrides: str) -> AcousticSettings:
        from training_fixtures import acoustic

        return acoustic(voice(f"run.name={name}", *overrides).launch())

    return build


class BaseVoice(NamedTuple):
    """A base voice of Spanish and Swahili, made by `jobs/pretrain.py`.

    Attributes:
        file: its YAML.
        features: prepared folders of its languages, in their order.
        run_dir: of its training.
        exported: the bundle that was written beside it.
        printed: what the job said.
    """

    file: Path
    features: tuple[Path, ...]
    run_dir: Path
    exported: Path
    printed: str


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseVoice]:
    """A base as tiny as the voice, of the shortest of its languages' sentences."""
    from dimts.commands.pretrain import main

    codes = ("es", "sw")

    def pretrain(folder: Path) -> None:
        settings = yaml.safe_dump(base_settings(folder, codes))
        (folder / "base.yaml").write_text(settings, encoding="utf-8")
        command = ["pretrain.py", "--config", str(folder / "base.yaml")]
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
            patch.setattr(sys, "argv", [*command, "--export", str(folder / "exported")])
            main()
        (folder / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")

    with shared_folder(tmp_path_factory, "base", pretrain) as folder:
        features = tuple(folder / f"features_{code}" for code in codes)
        printed = (folder / "printed.txt").read_text(encoding="utf-8")
        run_dir, exported = folder / "runs" / "base", folder / "exported"
        yield BaseVoice(folder / "base.yaml", features, run_dir, exported, printed)


def base_settings(folder: Path, codes: tuple[str, ...]) -> dict[str, object]:
    """Settings of a base that is to be made in `folder`; its sentences are written there."""
    from data_prep.recipes.espeak import read_sentences

    parts = []
    for code in codes:
        lines = read_sentences(BASE_TEXTS / f"{code}.txt.xz")
        sentences = folder / f"{code}.txt"
        shortest = sorted(lines, key=len)[:N_BASE_SENTENCES]
        sentences.write_text("\n".join(shortest), encoding="utf-8")
        part = {
            "corpus": {"path": str(folder / f"corpus_{code}")},
            "text": {"language": code},
            "prepare": {
                "features": str(folder / f"features_{code}"),
                "engine": "local",
                "val_share": 0.1,
                "test_share": 0.15,
            },
            "sentences": str(sentences),
        }
        parts.append(part)
    return {
        "parts": parts,
        "model": MODEL,
        "training": {**TRAINING, "max_steps": 10, "validate_every": 5},
        "tracking": {"enabled": False},
        "ray": {"workers": 0},
        "run": {"name": "base", "storage": str(folder / "runs")},
    }


@pytest.fixture
def adapted(voice: Callable[..., VoiceConfig], base: BaseVoice) -> Callable[..., VoiceConfig]:
    """``adapted("base.rehearsal_share=0.5")``: the tiny voice, started from the tiny base."""
    features = f"base.features=[{', '.join(map(str, base.features))}]"

    def build(*overrides: str) -> VoiceConfig:
        return voice(f"base.bundle={base.run_dir}", features, *overrides)

    return build


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray of two CPUs for all tests that need it."""
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    yield
    ray.shutdown()
