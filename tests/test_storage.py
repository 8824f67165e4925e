"""Object storage as a place: files, mirrors, features by fingerprint, bundles."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from faults.head import free_port
from prepare_fixtures import make_corpus, run_prepare
from s3_fixtures import another_machine, names, put

from dimts.bundles.bundle import resolve_bundle
from dimts.bundles.fetch import local_bundle
from dimts.core.config import Config, build_config
from dimts.core.errors import ConfigError, UserError
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import MANIFEST
from dimts.storage.mirror import Mirror
from dimts.storage.paths import AnyPath, StorageError, StoragePath, cache_folder, transfer
from dimts.storage.pointer import read_pointer, write_pointer

pytest_plugins = ("s3_fixtures",)


class Somewhere(Config):
    place: AnyPath


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 12 recordings, in several shards."""
    folder = tmp_path_factory.mktemp("features")
    corpus = make_corpus(folder / "corpus", 12)
    run_prepare(corpus, folder / "features", shard_mb=0.01)
    return folder / "features"


@pytest.mark.parametrize("text", ["runs", "/data/runs", "s3://voices", "gs://voices/am/run 1"])
def test_place_is_written_as_it_was_read(text: str) -> None:
    place = build_config(Somewhere, {"place": text})
    assert place.model_dump(mode="json") == {"place": text}
    assert Somewhere.model_validate(place.model_dump()) == place
    assert isinstance(place.place, Path) == ("://" not in text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://voices/am", "s3://BUCKET/PREFIX"),
        ("s3://", "s3://BUCKET/PREFIX"),
        ("s3://voices/../other", "s3://BUCKET/PREFIX"),
        ("s3://key:secret@voices/am", "credentials"),
        ("s3://voices/am?endpoint_override=host", "AWS_ENDPOINT_URL"),
    ],
)
def test_place_that_is_none_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"place: .*{why}") as raised:
        build_config(Somewhere, {"place": text})
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["s3://MY-BUCKET/run", "s3://voices/../x", "gs://a:secret@b/c"])
def test_bundle_of_no_place_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"(s3|gs)://.*: (must be|a place holds no)") as raised:
        local_bundle(text)
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


def test_files_come_back_as_they_were_sent(bucket: StoragePath, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(np.random.default_rng(0).bytes(11_000_000))  # more than one part
    place = bucket / "some where" / "ድምፅ?@.bin"
    place.upload(large)
    place.download(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    (bucket / "small").write_bytes(b"0123")
    assert (bucket / "small").read_bytes(2) == b"23"
    with pytest.raises(ValueError, match="larger"):
        (bucket / "small").read_bytes(most=3)
    assert names(bucket) == ["small", "some where/ድምፅ?@.bin"]
    assert names(bucket / "some where") == ["ድምፅ?@.bin"]
    (bucket / "small").unlink()
    (bucket / "small").unlink()
    assert (bucket / "small").entry() is None
    assert names(bucket / "nothing") == []
    with pytest.raises(FileNotFoundError):
        (bucket / "small").download(tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["back", "large"]


def test_storage_that_refuses_says_so_in_one_line(
    bucket: StoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/run: .*not exist") as raised:
        StoragePath("s3://no-such-bucket/run").write_bytes(b"")
    assert "\n" not in str(raised.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        StoragePath("s3://another-bucket/run").read_bytes()


def test_full_disk_is_not_blamed_on_the_storage(bucket: StoragePath, tmp_path: Path) -> None:
    (bucket / "large").write_bytes(bytes(10_000))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, unlimited[1]))
        with pytest.raises(
            UserError, match=f"^{tmp_path}/large: cannot be written: File too large"
        ):
            (bucket / "large").download(tmp_path / "large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert not list(tmp_path.glob("*large*"))


def test_file_that_cannot_be_read_to_its_end_is_not_there_in_part(
    bucket: StoragePath, tmp_path: Path
) -> None:
    unreadable = Path("/proc/self/mem")  # opens, and then gives an error
    with pytest.raises(OSError, match="Input/output error"):
        (bucket / "half").upload(unreadable)
    assert names(bucket) == []
    (tmp_path / "whole").write_bytes(b"1")
    (bucket / "half").upload(tmp_path / "whole")
    assert (bucket / "half").read_bytes() == b"1"


def interrupt() -> None:
    """As Ctrl-C, which would end what runs the tests as well."""
    raise KeyboardInterrupt


def fail() -> None:
    raise StorageError("it refuses")


@pytest.mark.parametrize(("ends", "raised"), [(interrupt, KeyboardInterrupt), (fail, StorageError)])
def test_transfer_that_cannot_end_well_leaves_the_rest_out(
    bucket: StoragePath, ends: Callable[[], None], raised: type[BaseException]
) -> None:
    writes = [partial((bucket / str(n)).write_bytes, b"") for n in range(200)]
    with pytest.raises(raised):
        transfer([partial((bucket / "long").write_bytes, bytes(30_000_000)), ends, *writes])
    assert "long" in names(bucket)  # what had begun is not left half done
    assert len(names(bucket)) < 100


def shared(name: str) -> bool:
    return name != "ours"


def test_mirror_copies_what_differs_and_removes_what_is_gone(
    bucket: StoragePath, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    (here / "a" / "b").mkdir(parents=True)
    (here / "a" / "b" / "file").write_text("1")
    (here / ".hidden").touch()
    (here / "ours").touch()
    mirror = Mirror(here, bucket / "copy", shared)
    mirror.push()
    assert names(bucket / "copy") == ["a/b/file"]
    untouched = (bucket / "copy" / "a" / "b" / "file").entry()
    (here / "new").write_text("2")
    mirror.push()
    assert (bucket / "copy" / "a" / "b" / "file").entry() == untouched
    shutil.rmtree(here / "a")
    mirror.push()
    assert names(bucket / "copy") == ["new"]

    there = tmp_path / "there"
    there.mkdir()
    (there / "stale").touch()
    (there / "ours").touch()
    other = Mirror(there, bucket / "copy", shared)
    other.pull()
    assert sorted(p.name for p in there.iterdir()) == ["new", "ours"]
    assert (there / "new").read_text() == "2"
    (there / "new").unlink()
    other.push()
    assert names(bucket / "copy") == []


def test_mirror_sends_manifests_and_pointers_when_the_rest_is_there(
    bucket: StoragePath, tmp_path: Path
) -> None:
    place, folder = bucket / "copy", tmp_path / "whole"
    folder.mkdir()
    for name in ("a-manifest", "weights", "z-weights"):
        (folder / name).touch()
    write_pointer(tmp_path / "latest", "whole")
    mirror = Mirror(tmp_path, place, lambda name: "cache" not in name, "a-manifest", ("latest",))
    (folder / "weights").unlink()
    (folder / "weights").symlink_to("/proc/self/mem")  # a file, which cannot be read
    with pytest.raises(OSError, match="Input/output error"):
        mirror.push()
    assert not {"whole/a-manifest", "latest"} & set(names(place))
    (folder / "weights").unlink()
    mirror.push()
    assert names(place) == ["latest", "whole/a-manifest", "whole/z-weights"]
    assert read_pointer(place / "latest") == "whole"


@pytest.mark.parametrize("name", ["../../etc", "/etc", "a/../b", ".", "", "a\nb", "a" * 2000])
def test_pointer_does_not_lead_out_of_its_folder(
    bucket: StoragePath, tmp_path: Path, name: str
) -> None:
    (bucket / "pointer").write_bytes(name.encode())
    (tmp_path / "pointer").write_text(name)
    assert read_pointer(bucket / "pointer") == read_pointer(tmp_path / "pointer") == ""


def test_links_of_older_versions_are_read_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoint_1").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint_1" / "manifest.json").touch()
    (tmp_path / "run" / "checkpoint_best").symlink_to("checkpoint_1")
    (tmp_path / "best").symlink_to("run")
    assert resolve_bundle(tmp_path / "run").samefile(tmp_path / "run" / "checkpoint_1")
    assert resolve_bundle(tmp_path / "best").samefile(tmp_path / "run" / "checkpoint_1")
    write_pointer(tmp_path / "run" / "checkpoint_best", "checkpoint_1")
    assert not (tmp_path / "run" / "checkpoint_best").is_symlink()


def test_voice_of_a_sweep_is_found_by_each_name_of_it(tmp_path: Path) -> None:
    bundle = tmp_path / "trials" / "007" / "checkpoint_epoch0_step1"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").touch()
    write_pointer(bundle.parent / "checkpoint_best", bundle.name)
    write_pointer(tmp_path / "best", "trials/007")
    for path in (tmp_path / "best", tmp_path / "best" / "checkpoint_best", bundle.parent, bundle):
        assert resolve_bundle(path) == bundle
    write_pointer(tmp_path / "endless", "endless")
    assert resolve_bundle(tmp_path / "endless") == tmp_path / "endless"


def test_features_are_fetched_once_by_fingerprint(
    bucket: StoragePath, features: Path, tmp_path: Path
) -> None:
    place = put(features, bucket / "features")
    with ThreadPoolExecutor(3) as pool:
        opened = list(pool.map(FeatureSet.open, [place] * 3))
    assert len({one.folder for one in opened}) == 1
    ours, theirs = FeatureSet.open(features).split("train"), opened[0].split("train")
    assert theirs.ids == ours.ids
    assert all(np.array_equal(ours.mel(n), theirs.mel(n)) for n in range(len(ours)))
    for entry in place.entries():  # what was fetched is not asked for again
        if entry.name != MANIFEST:
            (place / entry.name).unlink()
    assert FeatureSet.open(place).folder == opened[0].folder


def test_shards_that_stay_are_not_fetched_again(bucket: StoragePath, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 12)
    run_prepare(corpus, tmp_path / "features", shard_mb=0.01)
    place = put(tmp_path / "features", bucket / "features")
    FeatureSet.open(place)
    kept = cache_folder("features") / "shards"
    before = {file.name: file.stat().st_ino for file in kept.iterdir()}
    with (corpus / "metadata.csv").open("a", encoding="utf-8") as file:
        shutil.copy(corpus / "wavs" / "u003.wav", corpus / "wavs" / "u900.wav")
        file.write("u900|ሰላም ነው።\n")
    run_prepare(corpus, tmp_path / "features", shard_mb=0.01)
    put(tmp_path / "features", place)
    assert FeatureSet.open(place).manifest.n_utterances == 13
    after = {file.name: file.stat().st_ino for file in kept.iterdir()}
    assert before.items() <= after.items()
    assert 0 < len(after) - len(before) < len(before)


def test_features_that_are_not_those_of_their_manifest_are_refused(
    bucket: StoragePath, features: Path
) -> None:
    place = put(features, bucket / "features")
    (place / "train-00000.arrow").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"features/train-00000.arrow: is not the file"):
        FeatureSet.open(place)
    (place / "train-00000.arrow").unlink()
    with pytest.raises(UserError, match=r"features/train-00000.arrow: missing"):
        FeatureSet.open(place)
    with pytest.raises(UserError, match=r"^s3://.*/nothing: no such folder of features"):
        FeatureSet.open(bucket / "nothing")


def test_manifest_of_others_does_not_lead_out_of_the_cache(
    bucket: StoragePath, features: Path
) -> None:
    place = put(features, bucket / "features")
    values = json.loads((features / MANIFEST).read_bytes())
    values["splits"]["train"]["shards"][0]["sha256"] = "../../" + "0" * 58
    (place / MANIFEST).write_bytes(json.dumps(values).encode())
    with pytest.raises(UserError, match="sha256"):
        FeatureSet.open(place)


def test_another_machine_fetches_its_own(
    bucket: StoragePath, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = put(features, bucket / "features")
    first = FeatureSet.open(place)
    another_machine(monkeypatch, tmp_path / "other")
    second = FeatureSet.open(place)
    assert second.folder.is_relative_to(tmp_path / "other")
    assert second.manifest == first.manifest
