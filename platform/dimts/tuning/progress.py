"""What a person sees of a sweep: a line for each trial that ended, and how it stands."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm import tqdm


class Progress:
    """A line for each trial that ended; in a terminal a bar below them, with the best so far.

    Args:
        trials: in all.
        counts: how the trials ended that an earlier start of the sweep ran.
        best: the best of those, in words.
    """

    def __init__(self, trials: int, counts: Counter[str], best: str = ""):
        self.trials, self.counts, self.best = trials, counts, best
        self.running = 0
        self._bar: tqdm[NoReturn] | None = None

    def introduce(self, title: str, *more: str) -> None:
        """Say what begins, or goes on, and more that is to be known, a line each."""
        ended = self.counts.total()
        before = f", {ended} of them ended before" if ended else ""
        print(f"{title}: {self.trials} trials{before}", *filter(None, more), sep="\n", flush=True)

    def began(self) -> None:
        """A trial was handed out."""
        self.running += 1
        self._refresh()

    def ended(self, outcome: str, line: str, best: str = "") -> None:
        """A trial ended: what to print of it, and the best so far if that has changed."""
        self.running -= 1
        self.counts[outcome] += 1
        self.best = best or self.best
        with tqdm.external_write_mode(file=sys.stdout):
            print(f"{self.counts.total():>4}/{self.trials}  {line}", flush=True)
        self._refresh(ended=1)

    def release(self) -> None:
        """A trial was interrupted."""
        self.running -= 1
        self._refresh()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, how the sweep stands is in a terminal's last line."""
        bar: tqdm[NoReturn] = tqdm(
            total=self.trials, initial=self.counts.total(), disable=None, file=sys.stdout,
            unit="trial", leave=False, dynamic_ncols=True,
        )  # fmt: skip
        with bar as self._bar:
            yield
        self._bar = None

    def _refresh(self, ended: int = 0) -> None:
        if self._bar is not None:
            self._bar.update(ended)
            ways = ", ".join(f"{n} {outcome}" for outcome, n in self.counts.items() if n)
            best = f"best {self.best}" if self.best else ""
            parts = filter(None, (f"{self.running} running", ways, best))
            self._bar.set_postfix_str(", ".join(parts))
