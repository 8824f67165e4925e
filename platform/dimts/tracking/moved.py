"""A project folder that was moved: MLflow's database still names the old place of the artifacts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

from dimts.tracking.config import TrackingConfig

_FILE = "file://"
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def moved_roots(config: TrackingConfig) -> dict[str, str]:
    """Folders of artifacts that the database names and that are gone -> where they are now.

    One counts as moved if the configured folder, an absolute path, is there and has the same name.
    """
    file, root = config.database, config.artifact_root
    if file is None or root is None or not Path(root).is_dir():
        return {}
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            named = database.execute("SELECT DISTINCT artifact_location FROM experiments")
            locations = [str(row[0]) for row in named]
    except sqlite3.Error:  # no database, or of no MLflow: whoever uses it next says so
        return {}
    gone = {}
    for old in locations:
        folder = Path(unquote(old.removeprefix(_FILE)))
        if old.startswith(_FILE) and folder.name == Path(root).name and not folder.exists():
            gone[old] = Path(root).as_uri()
    return gone


def moved_line(config: TrackingConfig) -> str | None:
    """What to say of artifacts that are no longer where the database looks; None if all is well."""
    if not (moved := moved_roots(config)):
        return None
    return (
        f"artifacts are looked for in {', '.join(moved)}, which is gone; if the project folder was "
        "moved, dimts ui --moved changes the database"
    )


def follow_move(config: TrackingConfig) -> dict[str, str]:
    """Name the configured folder in the database where one that is gone stands; all or nothing.

    Returns:
        What was changed, as of `moved_roots`.
    """
    moved = moved_roots(config)
    if config.database is None:
        return moved
    with closing(sqlite3.connect(config.database)) as database, database:
        for old, new in moved.items():
            for table, column in _COLUMNS:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
    return moved
