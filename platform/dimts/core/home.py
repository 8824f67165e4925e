"""Where relative paths of a job lie: the folder it was started in, or ``DIMTS_HOME``.

``ray job submit`` runs a job in a copy of the project, which Ray removes later. What a job reads
and writes lies in the folder that ``DIMTS_HOME`` names then, which all nodes see.
"""

from __future__ import annotations

import os
from pathlib import Path

from dimts.core.errors import UserError

HOME = "DIMTS_HOME"
STARTED_IN = Path.cwd()
RAYS_COPIES = "working_dir_files"
"""The folder of a node in which Ray unpacks what a job brings along."""

_LIBRARY = Path(__file__).parents[2]
SHIPPED = (_LIBRARY / "data_prep" / "shipped", _LIBRARY, _LIBRARY.parent)
"""Where settings and bases are that dimts brings along: once installed, or in a checkout."""
SETTINGS = ("jobs/configs", "search_spaces")


def go_home() -> None:
    """Make the home, if one is named, the current folder.

    Raises:
        UserError: it is not a folder, or there is none and what the job writes would be removed.
    """
    home = os.environ.get(HOME)
    if not home:
        if RAYS_COPIES in Path.cwd().parts:
            raise UserError(
                f"this job runs in a copy of the project, which Ray removes: set {HOME} to the "
                "folder of corpora, features and runs, e.g. ray job submit ... -- "
                f"env {HOME}=/shared python jobs/train.py ..."
            )
        return
    if "PYTHONPATH" in os.environ:  # of processes that this one starts
        paths = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths))
    try:
        os.chdir(home)
    except OSError as error:
        raise UserError(f"{HOME}={home}: {error.strerror}; name a folder that is there") from error


def shipped(file: str) -> str:
    """Find a named file or folder where the job was started, at home, or among what dimts brings
    along; what is nowhere stays as it was named."""
    started_in = os.path.join(STARTED_IN, file)
    if os.environ.get(HOME) and os.path.exists(started_in):
        return started_in
    return file if os.path.exists(file) else brought_along(file) or file


def brought_along(name: str) -> str | None:
    """The path of what dimts brings along, if it is that.

    ``sample_am`` is ``jobs/configs/sample_am.yaml``, and ``quick`` is ``search_spaces/quick.yaml``.
    """
    for place in (root / folder for root in SHIPPED for folder in ("", *SETTINGS)):
        for found in (place / name, place / f"{name}.yaml"):
            if os.path.exists(found):
                return str(found)
    return None
