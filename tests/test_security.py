"""Files of strangers: nothing in them runs, nothing outside their folder is reached."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hostile_bundles import KINDS, accept_changes, detonate, edit_json, write_payload
from huggingface_fixtures import JSON
from mlflow.tracking import MlflowClient
from voice_fixtures import amharic, write_voice

from dimts.bundles.bundle import BundleError
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import export_bundle, load_bundle
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.extension.embedding_file import read_embedding
from dimts.families.acoustic.flat_start import ensure_durations, read_durations
from dimts.families.acoustic.settings import AcousticSettings
from dimts.text.huggingface import read_tokenizer
from dimts.text.language import Language
from dimts.text.tokenizer import Tokenizer
from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_model import resolve_model
from dimts.training.checkpoint import TRAINER_STATE, read_state

pytest_plugins = ("tracking_fixtures",)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "voice"
    folder.mkdir()
    (folder / TRAINER_STATE).write_bytes(b"")
    return write_voice(folder)


def refused(load: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# Pickles


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.yaml", "tokenizer.json", "manifest.json", TRAINER_STATE]
)
def test_pickle_in_the_place_of_a_bundles_file_does_not_run(
    bundle: Path, tmp_path: Path, name: str, kind: str
) -> None:
    proof, file = tmp_path / "proof", bundle / name
    write_payload(file, kind, proof)
    if name != "manifest.json":
        accept_changes(bundle)
    assert str(file) in refused(
        lambda: read_state(bundle) if name == TRAINER_STATE else load_bundle(bundle)
    )
    assert not proof.exists()
    detonate(file, kind)
    assert proof.exists(), "the payload would have run"


@pytest.mark.parametrize("kind", KINDS)
def test_pickle_in_the_place_of_what_a_base_is_made_of_does_not_run(
    tmp_path: Path, kind: str
) -> None:
    proof, file = tmp_path / "proof", tmp_path / "file"
    write_payload(file, kind, proof)
    for load in (
        lambda: read_tokenizer(file),
        lambda: Tokenizer.load(file),
        lambda: read_embedding(file, amharic()),
        lambda: load_config(VoiceConfig, [file]),
        lambda: load_config(Language, [file]),
    ):
        assert str(file) in refused(load)
    assert not proof.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_pickle_in_the_place_of_an_alignment_does_not_run(
    settings: Callable[..., AcousticSettings], tmp_path: Path, kind: str
) -> None:
    run = settings("hostile", "training.aligner.iterations=4")
    data = open_data(run)
    folder = Path(str(run.sources[0].features)) / "alignments"
    before = set(folder.glob("*")) if folder.exists() else set()
    ensure_durations(run, data)
    [file] = set(folder.glob("*")) - before
    proof = tmp_path / "proof"
    write_payload(file, kind, proof)
    try:
        with pytest.raises(UserError, match="remove it"):
            read_durations(run, data)
    finally:
        file.unlink()
    assert not proof.exists()


TAGS = (
    "!!python/object/apply:pathlib.Path.touch ['{proof}']",
    "!!python/object/new:pathlib.Path ['{proof}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object/apply:os.system ['touch {proof}']",
)


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_do_not_run(bundle: Path, tmp_path: Path, tag: str) -> None:
    proof = tmp_path / "proof"
    text = f"a: {tag.format(proof=proof)}"
    (bundle / "config.yaml").write_text(text)
    accept_changes(bundle)
    (tmp_path / "voice.yaml").write_text(text)
    assert "config.yaml: cannot be read" in refused(lambda: load_bundle(bundle))
    assert "not valid YAML" in refused(lambda: load_config(VoiceConfig, [tmp_path / "voice.yaml"]))
    assert "not valid YAML" in refused(
        lambda: load_config(VoiceConfig, [], [text.replace(": ", "=", 1)])
    )
    assert not proof.exists()


# Paths and links


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "..", "a\0b", ""])
def test_manifest_that_names_a_file_outside_is_refused(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "secret").write_text("secret")
    names = json.loads((bundle / "manifest.json").read_text())["sha256"]
    edit_json(bundle / "manifest.json", sha256=names | {name: "0"})
    for load in (lambda: load_bundle(bundle), lambda: export_bundle(bundle, tmp_path / "out", {})):
        assert "manifest.json: names a file outside the bundle" in refused(load)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("language", ["../../secret", "/etc/hostname", "{tmp}/voice.yaml"])
def test_paths_in_a_tokenizer_are_not_followed(bundle: Path, tmp_path: Path, language: str) -> None:
    """A bundle carries its language's rules; what it says of a file is a name."""
    file = bundle / "tokenizer.json"
    spec = json.loads(file.read_text())
    spec["languages"][0]["text"]["language"] = language.format(tmp=tmp_path)
    file.write_text(json.dumps(spec))
    edit_json(bundle / "manifest.json", tokenizer=Tokenizer.load(file).fingerprint)
    accept_changes(bundle)
    assert load_bundle(bundle).tokenizer.encode("ሰላም")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.yaml", "tokenizer.json", "manifest.json"]
)
def test_link_that_leads_out_of_a_bundle_is_refused(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    """Even to what would fit: whoever is handed such a bundle gets another file of their own."""
    (bundle / name).rename(tmp_path / name)
    for target in (tmp_path / name, Path("..") / name, Path("/etc/hostname"), Path("/dev/zero")):
        (bundle / name).unlink(missing_ok=True)
        (bundle / name).symlink_to(target)
        for load in (
            lambda: load_bundle(bundle),
            lambda: export_bundle(bundle, tmp_path / "o", {}),
        ):
            assert name in refused(load)
            assert "leads out of the folder" in refused(load)
    (bundle / name).unlink()
    (bundle / name).symlink_to(name)
    assert name in refused(lambda: load_bundle(bundle))


def test_links_within_and_to_a_bundle_are_followed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "config.yaml").rename(bundle / "settings.yaml")
    (bundle / "config.yaml").symlink_to("settings.yaml")
    (tmp_path / "latest").symlink_to("voice")
    assert load_bundle(tmp_path / "latest").manifest.step == 1


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "manifest.json"])
def test_pipe_or_folder_in_the_place_of_a_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    assert f"{name} is not a regular file" in refused(lambda: load_bundle(bundle))
    (bundle / name).unlink()
    (bundle / name).mkdir()
    assert f"{name} is not a regular file" in refused(lambda: load_bundle(bundle))


@pytest.mark.parametrize("inside", ["../../../secret", "/etc", "{tmp}/secret", "link"])
def test_mlflow_model_that_names_a_bundle_outside_is_refused(
    store: Path, tmp_path: Path, inside: str
) -> None:
    config = TrackingConfig(uri=f"sqlite:///{store}/mlflow.db", artifacts=str(store / "artifacts"))
    write_voice(tmp_path / "secret")
    model = tmp_path / "model"
    (model / "artifacts").mkdir(parents=True)
    if inside == "link":
        (model / "artifacts" / "link").symlink_to(tmp_path / "secret")
    path = {"path": inside.format(tmp=tmp_path)}
    flavours = {"python_function": {"artifacts": {"bundle": path}}}
    (model / "MLmodel").write_text(yaml.safe_dump({"flavors": flavours}))
    client = MlflowClient(config.uri)
    experiment = client.create_experiment(tmp_path.name, (store / tmp_path.name).as_uri())
    run = client.create_run(experiment).info
    shutil.copytree(
        model, Path(str(run.artifact_uri).removeprefix("file://")) / "voice", symlinks=True
    )
    message = refused(lambda: resolve_model(f"runs:/{run.run_id}/voice", config))
    # A link out of the artifacts MLflow itself refuses, before the bundle is looked for.
    by_mlflow, ours = "outside the artifact directory", "was not logged by dimts"
    assert (by_mlflow if inside == "link" else ours) in message


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": "(a+)+$"},
                        "behavior": "Isolated",
                        "invert": False,
                    }
                ],
            }
        },
    ],
)
def test_tokenizer_with_a_program_in_it_is_refused(tmp_path: Path, part: dict[str, object]) -> None:
    """A regular expression may take for ever, a damaged table ends the process."""
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(JSON | part))
    assert "not read" in refused(lambda: read_tokenizer(file))


def test_bundle_error_is_a_users_error() -> None:
    assert issubclass(BundleError, UserError)
