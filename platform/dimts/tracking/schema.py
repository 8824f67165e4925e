"""Databases that an older or a newer MLflow has made than the one that is installed."""

from __future__ import annotations

import re
import sqlite3
import sys
from contextlib import closing
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from dimts.core.errors import UserError
from dimts.tracking.config import SQLITE, TrackingConfig

_REFUSED = re.compile(r"database schema \(found version (\w+), but expected")
_REVISION = re.compile(r"^(down_)?revision = \"(\w+)\"", re.MULTILINE)


def schema_advice(problem: str, uri: str) -> str | None:
    """What to do where MLflow refuses a database for its version; None if that is not the problem.

    Args:
        problem: MLflow's message.
        uri: of the database.
    """
    found = _REFUSED.search(problem)
    return _advice(found[1], uri) if found else None


def check_schema(config: TrackingConfig) -> None:
    """Refuse an SQLite file that MLflow refuses, before its server says so at length.

    An older one MLflow upgrades by itself where tables are missing, so it is asked then.

    Raises:
        UserError: it is of another version; says what to do.
    """
    file = Path(config.uri.removeprefix(SQLITE))
    if not (config.uri.startswith(SQLITE) and file.exists()):
        return
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            found = [str(row[0]) for row in database.execute("SELECT * FROM alembic_version")]
    except sqlite3.Error:  # no database, or of no MLflow yet: MLflow says so itself
        return
    revisions, parents = _revisions()
    if not found or found[0] in revisions - parents:
        return
    if found[0] not in revisions or _is_refused(config.uri):
        raise UserError(f"{config.shown}: {_advice(found[0], config.shown)}")


def _is_refused(uri: str) -> bool:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        return _REFUSED.search(str(error)) is not None
    return False


def _advice(found: str, uri: str) -> str:
    if found in _revisions()[0]:
        return (
            "an older MLflow has made this database; copy it, then run "
            f"{sys.executable} -m mlflow db upgrade {uri}"
        )
    return (
        f"a newer MLflow than the installed {version('mlflow')} has made this database; "
        "install that one, or name another database by tracking.uri"
    )


def _revisions() -> tuple[set[str], set[str]]:
    """The versions of a database that the installed MLflow knows, and those that have a later one.

    They are read from its source, as loading it takes seconds.
    """
    package = find_spec("mlflow")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "store" / "db_migrations" / "versions"
    found = [
        match
        for file in folder.glob("*.py")
        for match in _REVISION.findall(file.read_text(encoding="utf-8"))
    ]
    return {name for down, name in found if not down}, {name for down, name in found if down}
