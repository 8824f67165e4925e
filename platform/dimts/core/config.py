"""Typed configuration: YAML files, merged left to right, then ``section.key=value`` overrides.

Every component owns a small frozen subclass of `Config`; a job's configuration is one
`Config` whose fields are those. Errors name the file, the key and what is allowed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from dimts.core.errors import ConfigError
from dimts.core.home import brought_along
from dimts.core.masking import mask_secrets
from dimts.core.untrusted import MAX_DEPTH, MAX_YAML_BYTES, parse_yaml, read_bytes

INCLUDE = "include"
MAX_ERRORS = 10
"""That are told at once."""


class Config(BaseModel):
    """Base of all settings: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("must be odd")
    return kernel


OddKernel = Annotated[int, Field(ge=1, le=1001), AfterValidator(_odd)]
"""Width of a convolution that keeps the length of what it is given."""

MAX_WIDTH, MAX_LAYERS = 65_536, 1000
"""Channels and layers of a model, at most: beyond them it is a mistake, or meant to do harm."""

C = TypeVar("C", bound=Config)


def load_config(
    cls: type[C],
    files: Sequence[str | Path],
    overrides: Sequence[str] = (),
    including: bool = True,
) -> C:
    """Build a `cls` from YAML files (later ones win) and ``a.b=value`` overrides.

    A file may hold ``include: [other.yaml]``, paths relative to itself or to the settings that
    dimts brings along, which it overrides, where `including`.

    Raises:
        ConfigError: one line naming the file or the override, the key and what is allowed.
    """
    values, origins = read_settings(files, overrides, including)
    return build_config(cls, values, origins)


def read_settings(
    files: Sequence[str | Path], overrides: Sequence[str] = (), including: bool = True
) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """What `load_config` builds a configuration from: the values, and where each key was set."""
    merged: dict[str, Any] = {}
    origins: dict[tuple[str, ...], str] = {}
    for file in files:
        own = _read(Path(file)) if including else {str(file): _values(Path(file))}
        for origin, values in own.items():
            _merge(merged, values, origins, origin)
    for override in overrides:
        _merge(merged, _parse_override(override), origins, "--set")
    if files:  # what no key is to blame for, such as a section that none of them has
        origins[()] = ", ".join(map(str, files))
    return merged, origins


def build_config(
    cls: type[C], values: Mapping[str, Any], origins: Mapping[tuple[str, ...], str] | None = None
) -> C:
    """Validate `values`; `origins` maps a key path to the file that set it.

    Raises:
        ConfigError: one line naming the origin, the key and what is allowed.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        errors = [_describe(cls, e, origins or {}) for e in error.errors()[:MAX_ERRORS]]
        if (more := error.error_count() - MAX_ERRORS) > 0:
            errors.append(f"and {more} more")
        raise ConfigError("; ".join(errors)) from error


def to_yaml(config: Config) -> str:
    """The resolved configuration, every default written out, secrets masked."""
    values = _masked(config.model_dump(mode="json"))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def put(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.b.c`` in nested settings; a section that is missing, or is none, is made."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(settings.get(section), dict):
            settings[section] = {}
        settings = settings[section]
    settings[name] = value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def first_difference(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> tuple[str, Any, Any] | None:
    """The first of some settings that differs: its key, as ``mel.f_max``, our value and theirs."""
    there = flatten(theirs)
    return next(((k, v, there.get(k)) for k, v in flatten(ours).items() if v != there.get(k)), None)


def fingerprint(*parts: Any) -> str:
    """16 hex digits of the SHA-256 of the parts' canonical JSON; configs are dumped first."""
    plain = [p.model_dump(mode="json") if isinstance(p, BaseModel) else p for p in parts]
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, dict):
        return {key: _masked(part) for key, part in value.items()}
    return [_masked(part) for part in value] if isinstance(value, list) else value


def _read(
    file: Path, including: tuple[Path, ...] = (), read: set[Path] | None = None
) -> dict[str, dict[str, Any]]:
    """A file and what it includes, as ``{origin: values}`` in the order of merging.

    Args:
        file: to be read.
        including: files that include it, directly or not.
        read: files that were read before it; named again they change nothing.
    """
    here = Path(os.path.realpath(file))
    read = set() if read is None else read
    if here in including:
        raise ConfigError(f"{file}: includes itself")
    if here in read:
        return {}
    read.add(here)
    values = _values(file)
    includes = values.pop(INCLUDE, [])
    if not isinstance(includes, list) or not all(isinstance(name, str) for name in includes):
        raise ConfigError(f"{file}: {INCLUDE}: must be a list of YAML files")
    parts: dict[str, dict[str, Any]] = {}
    for name in includes:
        included = file.parent / name
        if not os.path.exists(included):
            included = Path(brought_along(name) or included)
        parts |= _read(included, (*including, here), read)
    parts[str(file)] = values
    return parts


def _values(file: Path) -> dict[str, Any]:
    """What a file itself holds."""
    try:
        text = read_bytes(file, MAX_YAML_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{file}: must hold settings as 'key: value' lines")
    return values


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    shown = f"--set {' '.join(text.split())}"
    if not separator or not key.strip():
        raise ConfigError(f"{shown}: write it as section.key=value")
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        raise ConfigError(f"{shown}: the value is not valid YAML: {error}") from error
    parts = key.strip().split(".")
    if len(parts) > MAX_DEPTH:
        raise ConfigError(f"{mask_secrets(shown)[:80]}: deeper than {MAX_DEPTH} levels")
    for part in reversed(parts):
        parsed = {part: parsed}
    return parsed


def _merge(
    into: dict[str, Any],
    values: Mapping[str, Any],
    origins: dict[tuple[str, ...], str],
    origin: str,
    path: tuple[str, ...] = (),
) -> None:
    for key, value in values.items():
        here = (*path, str(key))
        origins[here] = origin
        if isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value, origins, origin, here)
        else:
            into[key] = value


def _describe(
    cls: type[Config], error: ErrorDetails, origins: Mapping[tuple[str, ...], str]
) -> str:
    """One pydantic error as ``FILE: key: what is wrong (what is allowed)``."""
    path = tuple(str(part) for part in error["loc"])
    prefixes = (path[:n] for n in range(len(path), -1, -1))
    origin = next((origins[prefix] for prefix in prefixes if prefix in origins), None)
    key = ".".join(path) or "settings"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key; allowed here: {', '.join(_allowed(cls, path[:-1]))}"
    elif error["type"] == "missing":
        message = "is required"
    elif error["type"] == "value_error" and isinstance(error["input"], Mapping | BaseModel):
        pass  # settings that do not fit together: the message says which
    else:
        message = f"{message[:1].lower()}{message[1:]}, got {_short(error['input'])}"
    line = f"{origin}: {key}: {message}" if origin else f"{key}: {message}"
    return " ".join(line.splitlines())


def _short(value: Any) -> str:
    """As Python writes it; masked before it is cut, as half of a secret is not known as one."""
    return mask_secrets(repr(value))[:80]


def _allowed(cls: type[Config], path: Sequence[str]) -> list[str]:
    """The keys of the section at `path`."""
    section: Any = cls
    for part in path:
        field = section.model_fields.get(part)
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, Config)):
            return []
        section = annotation
    return sorted(section.model_fields)
