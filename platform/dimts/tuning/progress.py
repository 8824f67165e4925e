"""What a person sees of a sweep: a line for each trial that ended, and how it stands."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

REFRESH_S = 1.0
WIDTH = 150


class Progress:
    """The state of a sweep in words.

    Args:
        trials: in all.
        counts: how the trials ended that an earlier start of the sweep ran.
        best: the best of those, in words.
    """

    def __init__(self, trials: int, counts: Counter[str], best: str = ""):
        self.trials, self.counts, self.best = trials, counts, best
        self.running = 0
        self._ended = 0
        self._began = time.monotonic()
        self._guard = threading.Lock()

    def introduce(self, title: str, *more: str) -> None:
        """Say what begins, or goes on, and more that is to be known, a line each."""
        ended = sum(self.counts.values())
        before = f", {ended} of them ended before" if ended else ""
        print(f"{title}: {self.trials} trials{before}", *filter(None, more), sep="\n", flush=True)

    def began(self) -> None:
        """A trial was handed out."""
        self.running += 1

    def ended(self, outcome: str, line: str, best: str = "") -> None:
        """A trial ended: what to print of it, and the best so far if that has changed."""
        with self._guard:
            self.running -= 1
            self._ended += 1
            self.counts[outcome] += 1
            self.best = best or self.best
            self._clear()
            done = sum(self.counts.values())
            print(f"{done:>4}/{self.trials}  {line}", flush=True)

    def release(self) -> None:
        """A trial was interrupted."""
        self.running -= 1

    def state(self) -> str:
        """One line: running, ended, best so far, time left."""
        parts = [f"{self.running} running"]
        parts += [f"{n} {outcome}" for outcome, n in self.counts.items() if n]
        if self.best:
            parts.append(f"best {self.best}")
        left = self.trials - sum(self.counts.values())
        if self._ended and left > 0:
            seconds = (time.monotonic() - self._began) / self._ended * left
            parts.append(f"about {_duration(seconds)} left")
        return ", ".join(parts)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the state stands in a terminal's last line."""
        if not sys.stdout.isatty():
            yield
            return
        done = threading.Event()
        thread = threading.Thread(target=self._refresh, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._clear()

    def _refresh(self, done: threading.Event) -> None:
        while not done.wait(REFRESH_S):
            with self._guard:
                self._clear()
                print(self.state()[:WIDTH], end="", flush=True)

    def _clear(self) -> None:
        if sys.stdout.isatty():
            print("\r\x1b[K", end="")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
