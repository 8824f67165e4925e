"""Typed configuration: YAML files, merged left to right, then ``section.key=value`` overrides.

Every component owns a small frozen subclass of `Config`; a job's configuration is one
`Config` whose fields are those. Errors name the file, the key and what is allowed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from dimts.errors import ConfigError

INCLUDE = "include"


class Config(BaseModel):
    """Base of all settings: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def load_config(cls: type[C], files: Sequence[str | Path], overrides: Sequence[str] = ()) -> C:
    """Build a `cls` from YAML files (later ones win) and ``a.b=value`` overrides.

    A file may hold ``include: [other.yaml]``, paths relative to itself, which it overrides.

    Raises:
        ConfigError: one line naming the file or the override, the key and what is allowed.
    """
    merged: dict[str, Any] = {}
    origins: dict[tuple[str, ...], str] = {}
    for file in files:
        _merge(merged, _read(Path(file)), origins)
    for override in overrides:
        _merge(merged, {"--set": _parse_override(override)}, origins)
    return build_config(cls, merged, origins)


def build_config(
    cls: type[C], values: Mapping[str, Any], origins: Mapping[tuple[str, ...], str] | None = None
) -> C:
    """Validate `values`; `origins` maps a key path to the file that set it."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        message = "; ".join(_describe(cls, e, origins or {}) for e in error.errors())
        raise ConfigError(message) from error


def to_yaml(config: Config) -> str:
    """The resolved configuration, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def fingerprint(*parts: Any) -> str:
    """16 hex digits of the SHA-256 of the parts' canonical JSON; configs are dumped first."""
    plain = [p.model_dump(mode="json") if isinstance(p, BaseModel) else p for p in parts]
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(file: Path, seen: tuple[Path, ...] = ()) -> dict[str, dict[str, Any]]:
    """A file and what it includes, as ``{origin: values}`` in the order of merging."""
    if file.resolve() in seen:
        raise ConfigError(f"{file}: includes itself")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{file}: must hold settings as 'key: value' lines")
    includes = values.pop(INCLUDE, [])
    if not isinstance(includes, list) or not all(isinstance(name, str) for name in includes):
        raise ConfigError(f"{file}: {INCLUDE}: must be a list of YAML files")
    parts: dict[str, dict[str, Any]] = {}
    for name in includes:
        for origin, part in _read(file.parent / name, (*seen, file.resolve())).items():
            parts.setdefault(origin, part)
    parts[str(file)] = values
    return parts


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {text}: write it as section.key=value")
    try:
        parsed: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML") from error
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return parsed


def _merge(
    into: dict[str, Any],
    parts: Mapping[str, Mapping[str, Any]],
    origins: dict[tuple[str, ...], str],
) -> None:
    for origin, values in parts.items():
        _merge_one(into, values, origins, origin, ())


def _merge_one(
    into: dict[str, Any],
    values: Mapping[str, Any],
    origins: dict[tuple[str, ...], str],
    origin: str,
    path: tuple[str, ...],
) -> None:
    for key, value in values.items():
        here = (*path, str(key))
        origins[here] = origin
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge_one(into[key], value, origins, origin, here)
        elif isinstance(value, Mapping):
            into[key] = {}
            _merge_one(into[key], value, origins, origin, here)
        else:
            into[key] = value


def _describe(
    cls: type[Config], error: ErrorDetails, origins: Mapping[tuple[str, ...], str]
) -> str:
    """One pydantic error as ``FILE: key: what is wrong (what is allowed)``."""
    path = tuple(str(part) for part in error["loc"])
    origin = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), None)
    key = ".".join(path) or "settings"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key; allowed here: {', '.join(_allowed(cls, path[:-1]))}"
    elif error["type"] == "missing":
        message = "is required"
    else:
        message = f"{message[:1].lower()}{message[1:]}, got {error['input']!r:.80}"
    return f"{origin}: {key}: {message}" if origin else f"{key}: {message}"


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
