"""Settings: what is wrong with them is said in one line that names file, key and remedy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from examples import one_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import (
    Config,
    fingerprint,
    first_difference,
    flatten,
    load_config,
    to_yaml,
)
from dimts.core.errors import ConfigError

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
MODELS = sorted((ROOT / "jobs" / "configs" / "models").glob("*.yaml"))
STARTS = ROOT / "jobs" / "configs" / "start"
SAMPLE = ROOT / "jobs" / "configs" / "sample_am.yaml"


class Inner(Config):
    size: int = Field(3, ge=1)
    mode: Literal["fast", "slow"] = "fast"


class Outer(Config):
    name: str
    rate: float = 0.5
    inner: Inner = Inner()
    texts: tuple[str, ...] = ()


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a YAML file of the test's folder."""

    def write_file(text: str, name: str = "voice.yaml") -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return write_file


def test_later_file_and_overrides_win_key_by_key(write: Any) -> None:
    first = write("{name: a, inner: {size: 4, mode: slow}, texts: [x, y]}")
    second = write("{name: b, inner: {size: 5}, texts: [z]}", "second.yaml")
    config = load_config(Outer, [first, second], ["inner.size=6", "rate=1e-3"])
    assert config == Outer(name="b", rate=1e-3, inner=Inner(size=6, mode="slow"), texts=("z",))


def test_file_overrides_what_it_includes_relative_to_itself(write: Any) -> None:
    write("{rate: 9, inner: {size: 7}}", "models/size.yaml")
    file = write("{include: [models/size.yaml], name: a, rate: 2}")
    assert load_config(Outer, [file]) == Outer(name="a", rate=2, inner=Inner(size=7))


def test_resolved_settings_load_as_the_same_settings(write: Any) -> None:
    config = Outer(name="é: #", rate=1e-9, texts=("off", "1"))
    assert load_config(Outer, [write(to_yaml(config))]) == config


def test_settings_do_not_change_after_loading() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner().size = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: a, siez: 3}", "{file}: siez: unknown key; allowed here: inner, name, rate"),
        ("{name: a, inner: {siez: 3}}", "{file}: inner.siez: unknown key; allowed here: mode"),
        ("{name: a, inner: {size: 0}}", "{file}: inner.size: input should be greater than"),
        ("{name: a, inner: {size: big}}", "{file}: inner.size: input should be a valid integer"),
        ("{name: a, inner: {mode: quick}}", "{file}: inner.mode: input should be 'fast' or 'slow'"),
        ("{name: a, inner: 3}", "{file}: inner: input should be"),
        ("{name: a, rate: .nan}", "{file}: rate: input should be a finite number"),
        ("{name: a, 3: 4}", "{file}: must hold settings as 'key: value' lines"),
        ("{rate: 3}", "{file}: name: is required"),
        ("", "{file}: name: is required"),
        ("- a", "{file}: must hold settings as 'key: value' lines"),
        ("name: [", "{file}: not valid YAML"),
        ("name: 2001-99-99", "{file}: not valid YAML"),
        ("name: !!int x", "{file}: not valid YAML"),
        ("name: &a {b: *a}", "{file}: not valid YAML"),
        ("name: a\nname: b", "{file}: not valid YAML: key 'name' is given twice"),
        ("name: !!python/name:os.system", "{file}: not valid YAML"),
        ("include: other.yaml", "{file}: include: must be a list of YAML files"),
        ("include: [other.yaml]", "other.yaml: no such config file"),
        ("include: [voice.yaml]", "{file}: includes itself"),
    ],
)  # fmt: skip
def test_mistake_in_a_file_is_one_line_that_names_it(write: Any, text: str, message: str) -> None:
    file = write(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, [file])
    line = str(caught.value)
    assert message.format(file=file) in line
    assert len(line.splitlines()) == 1


def test_include_cycle_of_two_files_is_refused(write: Any) -> None:
    first = write("include: [b.yaml]", "a.yaml")
    write("include: [a.yaml]", "b.yaml")
    with pytest.raises(ConfigError, match=r"a\.yaml: includes itself"):
        load_config(Outer, [first])


def test_mistake_is_charged_to_the_file_that_made_it(write: Any) -> None:
    good, bad = write("name: a", "good.yaml"), write("{name: a, inner: {size: -1}}", "bad.yaml")
    with pytest.raises(ConfigError, match=r"^\S*bad\.yaml: inner\.size: "):
        load_config(Outer, [bad, good])


def test_several_mistakes_are_all_named(write: Any) -> None:
    with pytest.raises(ConfigError, match=r"rate: .*; .*inner\.size: "):
        load_config(Outer, [write("{name: a, rate: x, inner: {size: x}}")])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name", "--set name: write it as section.key=value"),
        ("=3", "--set =3: write it as"),
        ("inner.size=[", "--set inner.size=[: the value is not valid YAML"),
        ("inner.size=x", "--set: inner.size: input should be a valid integer"),
        ("inner.size.deep=3", "--set: inner.size: input should be a valid integer"),
        ("iner.size=3", "--set: iner: unknown key; allowed here: inner, name, rate, texts"),
        ("inner.=3", "--set: inner.: unknown key; allowed here: mode, size"),
    ],
)
def test_mistake_in_an_override_is_one_line(write: Any, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, [write("name: a")], [override])
    assert message in str(caught.value)


def test_missing_or_unreadable_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such config file"):
        load_config(Outer, [tmp_path / "none.yaml"])
    with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
        load_config(Outer, [tmp_path])
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read as UTF-8"):
        load_config(Outer, [tmp_path / "latin.yaml"])


def test_flat_keys_are_those_of_the_overrides() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}}) == {"a.b.c": 1, "a.d": [2]}


def test_setting_that_the_other_side_lacks_differs() -> None:
    assert first_difference({"a": {"b": 1}, "c": 2}, {"c": 2}) == ("a.b", 1, None)


def test_fingerprint_changes_with_any_value_and_with_nothing_else() -> None:
    assert fingerprint(Inner(size=1), "x") == fingerprint(Inner(size=1), "x")
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(Inner(size=1)) != fingerprint(Inner(size=2))
    assert fingerprint("x", "y") != fingerprint("xy")


# The voice's settings


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_voice_loads_and_resolves(
    file: Path, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # a base that ships is named as seen from there
    config = load_config(VoiceConfig, [file])
    again = load_config(VoiceConfig, [write(to_yaml(config))])
    assert again == config
    recorded = config.launch().settings.config_yaml
    sized = config.model_copy(update={"model": config.resolved().model})
    assert recorded == to_yaml(sized)
    assert load_config(VoiceConfig, [write(recorded)]).launch().settings.config_yaml == recorded


@pytest.mark.parametrize("voice", SHIPPED, ids=lambda file: file.name)
def test_shipped_start_goes_on_top_of_a_voice(voice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    finetune, from_scratch = (
        load_config(VoiceConfig, [voice, STARTS / name])
        for name in ("finetune.yaml", "from_scratch.yaml")
    )
    person = load_config(VoiceConfig, [voice, STARTS / "person.yaml"])
    assert finetune.base is not None
    assert person.base is not None
    assert {*finetune.base.features} < {*person.base.features}
    assert person.training.aligner.fixed_share == 0
    assert finetune.resolved().model.encoder.language_everywhere
    assert from_scratch.base is None
    assert finetune.text == from_scratch.text
    assert {file.stem for file in STARTS.glob("*.yaml")} == {"finetune", "from_scratch", "person"}


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.name)
def test_shipped_size_loads_on_top_of_a_voice(file: Path) -> None:
    config = load_config(VoiceConfig, [SAMPLE, file])
    assert config.model.width == yaml.safe_load(file.read_text())["model"]["width"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.amp=fp16"], "training.amp: fp16 needs ray.gpu"),
        (
            ["training.amp=float8"],
            "training.amp: input should be 'auto', 'off', 'tf32', 'bf16' or 'fp16'",
        ),
        (["training.batch_size=2", "ray.workers=3"], "training.batch_size (2) must be at least"),
        (["training.seed=4294967296"], "training.seed: input should be less"),
        (["training.accumulate=9"], "accumulate (9) must not exceed batch_size"),
        (["training.patience=2", "training.validate_every=0"], "patience has no effect"),
        (["ray.workers=0", "ray.cpus_per_worker=1"], "cpus_per_worker has no effect"),
        (["training.optimizer.betas=[0.9, 1]"], "training.optimizer.betas.1: input should be less"),
        (["training.loss.prior=-1"], "training.loss.prior: input should be greater"),
        (["model.encoder.heads=5"], "width (192) must be a multiple of 2 and of encoder.heads (5)"),
        (["model.width=0"], "model.width: input should be greater"),
        (["model.encoder.kernel=2"], "model.encoder.kernel: must be odd"),
        (["model.decoder.dropout=1"], "model.decoder.dropout: input should be less"),
        (["model.states_per_token=0"], "model.states_per_token: input should be greater"),
        (["run.name=../x"], "run.name: string should match pattern"),
    ],
)  # fmt: skip
def test_voice_that_cannot_work_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(VoiceConfig, [SAMPLE], overrides).launch()
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_amp_off_may_be_written_as_a_bare_word(write: Any) -> None:
    """YAML reads a bare ``off`` as false."""
    assert load_config(VoiceConfig, [SAMPLE], ["training.amp=off"]).training.amp == "off"


KEYS = st.sampled_from(
    [*flatten(load_config(VoiceConfig, [SAMPLE]).model_dump()), "training", "run", "x.y", "mel.x"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)


def load_or_error(
    cls: type[Config], files: list[Path], overrides: Sequence[str] = ()
) -> Config | str:
    """The settings or what is wrong with them; no other exception passes."""
    try:
        return load_config(cls, files, overrides)
    except ConfigError as error:
        return str(error)


@settings(max_examples=one_in(3))
@given(changes=st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=3))
def test_any_value_anywhere_loads_or_is_one_line(changes: list[tuple[str, Any]]) -> None:
    overrides = [f"{key}={yaml.safe_dump(value)}" for key, value in changes]
    outcome = load_or_error(VoiceConfig, [SAMPLE], overrides)
    assert not isinstance(outcome, str) or len(outcome.splitlines()) == 1


@settings(max_examples=one_in(2), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.sampled_from(list("ab01:-?[]{}&*!|>%@`'\"#,.~<=\t\n \x00é")))
       | st.text())  # fmt: skip
def test_any_text_loads_or_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "any.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    outcome = load_or_error(Outer, [file])
    if isinstance(outcome, str):
        assert str(file) in outcome
        assert len(outcome.splitlines()) == 1


# The jobs


def job(name: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["prepare", "train"])
def test_job_says_a_mistake_in_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / "voice.yaml"
    file.write_text("include: [" + str(SAMPLE) + "]\ntraining: {max_stesp: 3}\n")
    done = job(name, "--config", str(file), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {file}: training.max_stesp: unknown key; allowed here: ")
    assert "max_steps" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [file], "something was made before the settings were read"
