"""Ray Data for work of hours: quiet, and what ends it is said in one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dimts.core.environment import named_cluster
from dimts.core.errors import UserError
from dimts.core.ray_session import ray_session

GO_ON = "give the same command again, it goes on where it stopped"


def ray_is_there() -> bool:
    """Whether a cluster is named, or this process has Ray running already."""
    return bool(named_cluster()) or ("ray" in sys.modules and sys.modules["ray"].is_initialized())


@contextmanager
def ray_data(doing: str, num_cpus: int | None = None) -> Iterator[bool]:
    """Inside, Ray Data can be used; yields whether Ray is of this machine and this job alone.

    Raises:
        UserError: the cluster does not answer, or Ray has ended; with what it was `doing`.
    """
    with ray_session(logging.ERROR, num_cpus) as our_own:
        import ray
        from ray.exceptions import RayError, RayTaskError

        ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts utterances
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
        try:
            yield our_own
        except RayTaskError:  # a mistake of ours, whose traceback is wanted
            raise
        except RayError as error:  # its node is gone, or nothing can be reached
            raise UserError(
                f"Ray has ended while {doing} ({type(error).__name__}); {GO_ON}"
            ) from error
