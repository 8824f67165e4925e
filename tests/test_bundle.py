"""A bundle is all that speaking needs; one that does not fit is refused with the reason."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from voice_fixtures import MODEL, Settings, amharic, untrained, write_voice

from dimts.audio.mel import MelConfig
from dimts.bundles.bundle import PLAIN_NAME, read_weights, sha256
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import export_bundle, load_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_voice(tmp_path / "voice", metrics={"val/mel_mse": 0.5})


def edit_manifest(bundle: Path, **changes: Any) -> None:
    file = bundle / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def accept_changes(bundle: Path) -> None:
    """Write the checksums anew, as someone would who puts a bundle together by hand."""
    names = json.loads((bundle / "manifest.json").read_text())["sha256"]
    edit_manifest(bundle, sha256={name: sha256(bundle / name) for name in names})


@torch.no_grad()
def test_what_was_written_is_what_is_read(bundle: Path) -> None:
    model, loaded = untrained(), load_bundle(bundle)
    assert loaded.tokenizer == amharic()
    assert loaded.mel == Settings().mel
    assert loaded.manifest.metrics == {"val/mel_mse": 0.5}
    assert not loaded.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name
    tokens = torch.tensor([amharic().encode("ሰላም ነው።")])
    count = torch.tensor([tokens.shape[1]])
    assert torch.equal(model(tokens, count).mel_BTM, loaded.model(tokens, count).mel_BTM)


def test_bundle_loads_from_anywhere(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle, tmp_path / "elsewhere")
    shutil.rmtree(bundle)
    monkeypatch.chdir("/")
    assert load_bundle(tmp_path / "elsewhere").manifest.step == 1


def refused(bundle: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_bundle(bundle)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_bundle_of_another_family_is_refused(bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"acoustic"', '"vocoder"'))
    assert "is of the family vocoder, not acoustic" in refused(bundle)


def test_no_bundle_at_all_is_refused(tmp_path: Path) -> None:
    assert "not a bundle" in refused(tmp_path)
    assert "not a bundle" in refused(tmp_path / "none")


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "tokenizer.json"])
def test_damaged_or_missing_file_is_refused(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    assert f"{name} is damaged" in refused(bundle)
    (bundle / name).unlink()
    assert f"{name} is missing" in refused(bundle)


def test_other_format_version_is_refused(bundle: Path) -> None:
    edit_manifest(bundle, format_version=2)
    assert "bundle format 2; this version of dimts reads format 1" in refused(bundle)


def test_manifest_of_something_else_is_refused(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("{}")
    assert "manifest.json: cannot be read" in refused(bundle)


def test_manifest_may_not_leave_out_a_checksum(bundle: Path) -> None:
    edit_manifest(bundle, sha256={})
    assert "has no checksum of model.safetensors" in refused(bundle)


def test_manifest_may_not_point_outside(bundle: Path) -> None:
    names = json.loads((bundle / "manifest.json").read_text())["sha256"]
    edit_manifest(bundle, sha256=names | {"../secret": "0"})
    assert "names a file outside the bundle" in refused(bundle)


def test_name_of_any_length_is_read_once() -> None:
    before = time.process_time()
    for name in ("a" * 200_000 + "/", "." * 200_000, "." * 200_000 + "\0"):
        assert not PLAIN_NAME.fullmatch(name)
    assert PLAIN_NAME.fullmatch("." * 200_000 + "a")
    assert time.process_time() - before < 5


def test_tokenizer_of_another_voice_is_refused(bundle: Path) -> None:
    file = bundle / "tokenizer.json"
    spec = json.loads(file.read_text())
    text = spec["languages"][0]["text"]
    text["fold_homophones"] = not text["fold_homophones"]
    file.write_text(json.dumps(spec))
    accept_changes(bundle)
    assert "not the tokenizer that the model was trained with" in refused(bundle)


def test_other_vocabulary_is_refused(bundle: Path) -> None:
    weights = dict(untrained().state_dict())
    name = "encoder.embedding.token.weight"
    weights[name] = weights[name][:-1].clone()
    write_voice(bundle, weights=weights)
    n = amharic().n_vocab
    message = refused(bundle)
    assert f"tensor {name} is ({n - 1}, {MODEL.width})" in message
    assert f"ask for ({n}, {MODEL.width})" in message


def test_other_mel_is_refused(bundle: Path) -> None:
    write_voice(bundle, settings=Settings(mel=MelConfig(n_mels=40)))
    assert "ask for (40" in refused(bundle)


def test_other_size_of_model_is_refused(bundle: Path) -> None:
    write_voice(bundle, settings=Settings(model=MODEL.model_copy(update={"width": 32})))
    assert "tensor " in refused(bundle)


def test_missing_and_unexpected_tensors_are_named(bundle: Path) -> None:
    weights = dict(untrained().state_dict())
    kept = {name: tensor for name, tensor in weights.items() if name != "mel_mean_M"}
    write_voice(bundle, weights=kept)
    assert "lacks tensor mel_mean_M" in refused(bundle)
    write_voice(bundle, weights=weights | {"zoo": torch.zeros(1)})
    assert "has an unexpected tensor zoo" in refused(bundle)


def test_weights_that_are_no_safetensors_are_refused(bundle: Path) -> None:
    torch.save(untrained().state_dict(), bundle / "model.safetensors")
    accept_changes(bundle)
    assert "model.safetensors: cannot be read" in refused(bundle)


@pytest.mark.parametrize("text", ["", "[", "model: {}", "model: {}\nmel: {n_mels: x}"])
def test_settings_that_say_nothing_are_refused(bundle: Path, text: str) -> None:
    (bundle / "config.yaml").write_text(text)
    accept_changes(bundle)
    assert refused(bundle)


def test_settings_of_a_bundle_are_not_code(bundle: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (bundle / "config.yaml").write_text(f"a: !!python/object/apply:pathlib.Path.touch [{proof}]")
    accept_changes(bundle)
    assert "config.yaml: cannot be read" in refused(bundle)
    assert not proof.exists()


def test_further_files_are_checked_too(bundle: Path) -> None:
    save_file({"x": torch.zeros(1)}, bundle / "more.safetensors")
    write_voice(bundle)
    (bundle / "more.safetensors").write_bytes(b"")
    assert "more.safetensors is damaged" in refused(bundle)


# Exported


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@torch.no_grad()
def test_exported_bundle_has_matrices_in_half_precision(bundle: Path, tmp_path: Path) -> None:
    size = export_bundle(bundle, tmp_path / "out" / "voice", {"test/mcd": 3.5})
    exported = tmp_path / "out" / "voice"
    assert size == (exported / "model.safetensors").stat().st_size
    full, stored = read_weights(bundle), read_weights(exported)
    for name, tensor in full.items():
        half = tensor.ndim > 1
        assert stored[name].dtype == (torch.float16 if half else torch.float32), name
        assert torch.equal(stored[name], tensor.half() if half else tensor), name
    loaded = load_bundle(exported)
    assert {tensor.dtype for tensor in loaded.model.parameters()} == {torch.float32}
    tokens = torch.tensor([amharic().encode("ሰላም ነው።")])
    count = torch.tensor([tokens.shape[1]])
    durations = torch.full((1, tokens.shape[1], MODEL.states_per_token), 3)
    mels = [v.model(tokens, count, durations_BNS=durations).mel_BTM
            for v in (loaded, load_bundle(bundle))]  # fmt: skip
    torch.testing.assert_close(*mels, atol=0.02, rtol=0)


def test_exported_bundle_says_what_it_was_exported_from(tmp_path: Path) -> None:
    origin = {"base": "latin", "base_sha256": "0", "start": "mean", "language": "am"}
    source = write_voice(tmp_path / "voice", origin=origin, step=7, epoch=2, features="abc")
    export_bundle(source, tmp_path / "out", {"test/mcd": 3.5, "test/odd": float("nan")})
    manifest = load_bundle(tmp_path / "out").manifest
    assert (manifest.step, manifest.epoch, manifest.features) == (7, 2, "abc")
    assert manifest.origin == origin
    assert manifest.metrics == {"test/mcd": 3.5}, "what is no number cannot be read again"


def test_export_leaves_the_trainers_state_behind(bundle: Path, tmp_path: Path) -> None:
    (bundle / "trainer_state.pt").write_bytes(b"state")
    write_voice(bundle)
    before = files(bundle)
    export_bundle(bundle, tmp_path / "out", {})
    assert set(files(tmp_path / "out")) == set(before) - {"trainer_state.pt"}
    assert files(bundle) == before


def test_export_replaces_an_older_export_only(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_bundle(bundle, out, {"a": 1})
    export_bundle(write_voice(tmp_path / "newer", step=9), out, {"a": 2})
    assert (load_bundle(out).manifest.step, load_bundle(out).manifest.metrics) == (9, {"a": 2})
    (tmp_path / "link").symlink_to(out)
    for folder, further in (
        (bundle, None), (out, "trainer_state.pt"), (tmp_path / "notes", "notes.txt"),
        (tmp_path / "file", None), (tmp_path / "link", None),
    ):  # fmt: skip
        if further:
            folder.mkdir(exist_ok=True)
            (folder / further).write_text("mine")
        elif not folder.exists():
            folder.write_text("mine")
        before = files(folder) if folder.is_dir() else {}
        source = out if folder.name == "link" else bundle
        with pytest.raises(UserError, match=f"{folder}: exists and is not an exported bundle"):
            export_bundle(source, folder, {})
        assert before == (files(folder) if folder.is_dir() else {})


def test_nothing_is_exported_from_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a bundle"):
        export_bundle(tmp_path, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
