"""The contract is held against the families that ship, and one of an outside package."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TOY = Path(__file__).parent / "toy"

# As if its package were installed, here and in the processes that tests start.
sys.path.insert(0, str(TOY))
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(TOY), *filter(None, [os.environ.get("PYTHONPATH")])]
)
