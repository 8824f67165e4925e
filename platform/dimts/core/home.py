"""Where relative paths of a job lie: the folder it was started in, or ``DIMTS_HOME``.

``ray job submit`` runs a job in a copy of the project, which Ray unpacks for it and removes later.
What a job reads and writes lies elsewhere then: in the folder that ``DIMTS_HOME`` names, which all
nodes see.
"""

from __future__ import annotations

import os
from pathlib import Path

from dimts.core.errors import UserError

HOME = "DIMTS_HOME"
STARTED_IN = Path.cwd()
RAYS_COPIES = "working_dir_files"
"""The folder of a node in which Ray unpacks what a job brings along."""


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
    """A file that is named on the command line, such as settings: where the job was started, if it
    is there, or else at home."""
    here = STARTED_IN / file
    return str(here) if os.environ.get(HOME) and here.exists() else file
