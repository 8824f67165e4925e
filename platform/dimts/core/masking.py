"""Secrets are kept out of whatever is printed or written.

A secret is known by the place it stands in, such as the password of an address, or by being the
value of an environment variable that programs take secrets from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

MASK = "***"
SHORTEST_SECRET = 6
"""Of a secret from the environment: a shorter one would be found in words that are none."""

_NAMES = (
    r"pass(?:word|wd|phrase)?|pwd|secret|client_secret|(?:secret_?)?access_?key(?:_?id)?"
    r"|aws_?(?:access_?key_?id|secret_?access_?key|session_?token)|api_?key|private_?key"
    r"|(?:access|auth|refresh|session|security|id|ray_auth|mlflow_tracking)_?token"
    r"|account_?key|shared_?access_?key|mlflow_tracking_password"
)
_IN_QUERY = r"odbc_connect|token|key|sig|signature|auth|authorization|code|credentials?|sas"
_OF_VENDOR = r"x-(?:amz|goog|ms)-(?:signature|credential|security-token|algorithm|sas)"
_VALUE = r"[^\s&;,'\"<>(){}\[\]#]+"
_VALUE_IN_QUERY = r"[^\s&'\"]+"
_QUOTED = "|".join(
    (
        *(r"'(?:[^'\\]|\\.)*'", r'"(?:[^"\\]|\\.)*"'),
        *("'[^']*'", '"[^"]*"'),  # where a backslash escapes nothing
    )
)

_PATTERNS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    # user:password@ of an address; a password with a slash is none that is allowed, but one.
    # Where no @ follows, all up to the last slash stays, and is looked at once only.
    (
        re.compile(
            r"(?<=[\w+.-]://)"
            r"(?:[^/\s]*@|[^/\s:@]*:(?!\d+/)(?:[^\s'\"<>]*@|(?P<none>[^\s'\"<>]*/)))"
        ),
        lambda match: match[0] if match["none"] else f"{MASK}@",
    ),
    (
        re.compile(
            rf"([?&;](?:{_NAMES}|{_IN_QUERY}|{_OF_VENDOR})=){_VALUE_IN_QUERY}", re.IGNORECASE
        ),
        rf"\1{MASK}",
    ),
    (re.compile(rf"((?<![\w-])(?:{_NAMES})=['\"]?){_VALUE}", re.IGNORECASE), rf"\1{MASK}"),
    (  # a mapping, as JSON or Python write it
        re.compile(rf"(['\"](?:{_NAMES}|token)['\"]\s*:\s*)(?:{_QUOTED})", re.IGNORECASE),
        rf"\1'{MASK}'",
    ),
    (
        re.compile(
            r"((?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?)"
            r"(?:(?:basic|bearer|token|digest|aws4-hmac-sha256)\s+)?[^'\"\r\n]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|(?:hf|gh[pousr])_[A-Za-z0-9]{20,})\b"), MASK),
)

_ENVIRONMENT = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "HF_TOKEN",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RAY_AUTH_TOKEN",
    "RAY_REDIS_PASSWORD",
)


def mask_secrets(text: str) -> str:
    """`text` with ``***`` for credentials in addresses, tokens, passwords and keys."""
    for name in _ENVIRONMENT:
        value = os.environ.get(name, "")
        if len(value) >= SHORTEST_SECRET:
            text = text.replace(value, MASK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def mask_uri(uri: str) -> str:
    """`uri` like `mask_secrets`, its whole query as ``***``: a driver may have any name for a
    password."""
    return re.sub(r"\?.+", f"?{MASK}", mask_secrets(uri))
