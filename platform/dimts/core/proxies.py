"""Keeps what stays on this machine, or inside its cluster, away from a proxy for the internet."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
EXCEPTIONS = ("no_proxy", "NO_PROXY")
"""Libraries read one or the other, and those that read both do not agree on which one wins."""


def bypass_proxies() -> None:
    """Except loopback and the host of `RAY_ADDRESS` from the proxy, if one is set.

    To be called before processes are started, which take it over.
    """
    if not any(name.lower() in PROXIES and value for name, value in os.environ.items()):
        return
    direct = [os.environ.get(name, "") for name in EXCEPTIONS]
    listed = [host.strip() for part in direct for host in part.split(",")]
    hosts = ",".join(dict.fromkeys(host for host in (*listed, *_own_hosts()) if host))
    os.environ.update(dict.fromkeys(EXCEPTIONS, hosts))


def _own_hosts() -> Iterator[str]:
    yield from LOOPBACK
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        host = urllib.parse.urlsplit(address if "://" in address else f"//{address}").hostname
    except ValueError:  # what is wrong with it is said where Ray is started
        return
    if host:
        yield host
