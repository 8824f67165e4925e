"""How many examples hypothesis looks at a property with: few by default, many in `make test-all`.

`conftest.py` registers the profiles; `pytest --hypothesis-profile thorough` takes the other one.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

PROFILES = {"quick": 40, "thorough": 250}


def one_in(n: int) -> int:
    """Examples of a property that takes `n` times as long as others do."""
    return max(3, settings().max_examples // n)


def fuzz(n: int = 1) -> settings:
    """The same examples each time, one in `n`, however long and large they are."""
    return settings(
        max_examples=one_in(n),
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
