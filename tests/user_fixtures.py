"""Jobs as commands in surroundings of their own: another terminal, another user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOMEBODY = 12345
"""A user id that no account has."""
OWN_CACHES = ("DIMTS_CACHE", "DIMTS_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
needs_another_user = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="only root may become another user, by util-linux's setpriv",
)


def command(
    *arguments: object,
    cwd: Path,
    environment: Mapping[str, str | None] | None = None,
    user: Sequence[str] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Run Python with the arguments; a variable that is None is not set."""
    given = {name: value for name, value in os.environ.items() if name not in OWN_CACHES}
    changed = {**given, **(environment or {})}
    return subprocess.run(
        [*user, sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        check=False,
        timeout=300,
    )


def somebody(*folders: Path) -> list[str]:
    """What runs a command as a user without an account, who owns these folders and may read all.

    Python itself may be in a home that others cannot look into; what matters is writing.
    """
    for folder in folders:
        os.chown(folder, SOMEBODY, SOMEBODY)
    reads = "+dac_read_search"
    return [
        *("setpriv", "--reuid", str(SOMEBODY), "--regid", str(SOMEBODY), "--clear-groups"),
        *("--inh-caps", reads, "--ambient-caps", reads),
    ]


def one_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """What a command that failed had to say, which was one line and no traceback."""
    text = done.stderr.decode()
    assert len(text.splitlines()) == 1, text
    return text.rstrip("\n")
