"""What a run takes for settings that are `auto`, kept in its folder so that it stays so."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from dimts.core.config import Config
from dimts.core.errors import UserError
from dimts.storage.files import write_text

CHOICES_FILE = "machine.json"


class MachineChoices(Config):
    """Settings as they were found out on the machine that began the run.

    Attributes:
        amp: precision, see `training.amp`.
        threads: of torch on the CPU in each worker; 0 where that was not found out.
    """

    amp: Literal["off", "tf32", "bf16", "fp16"]
    threads: int = 0


def read_choices(run_dir: Path) -> MachineChoices | None:
    """What a run was begun with; None if it has not begun.

    Raises:
        UserError: the file there says nothing of the kind.
    """
    file = run_dir / CHOICES_FILE
    try:
        return MachineChoices.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise UserError(f"{file}: holds no choices of a run; remove it") from error


def write_choices(run_dir: Path, choices: MachineChoices) -> None:
    """Keep them with the run; on a disk without room they are found out anew at the next start."""
    with suppress(OSError):
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(run_dir / CHOICES_FILE, choices.model_dump_json() + "\n")
