"""Before the first step: how much of a batch fits into memory, how many threads are fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch

from dimts.core.threads import fastest_threads
from dimts.training.config import TrainingConfig
from dimts.training.distributed import any_rank, from_rank_0, rank, world_size
from dimts.training.loader import BatchLoader
from dimts.training.machine_choices import MachineChoices, read_choices, write_choices
from dimts.training.memory import fits, smaller_parts
from dimts.training.state import TrainingState
from dimts.training.task import Batch, Task

Notify = Callable[[str], None]


def fit_memory(task: Task, state: TrainingState, loader: BatchLoader, notify: Notify) -> None:
    """Cut batches until the longest that could be is computed.

    Raises:
        UserError: one utterance does not fit.
    """
    for objective in state.objectives:
        objective.parallel.train()
    longest = partial(_longest_batches, state, loader)
    while any_rank(fits(longest, task.device) is None, task.device):
        cut_smaller(state, loader, notify)
    if world_size() > 1:
        # Backwards once with all workers: the first time tells DDP in which order gradients come,
        # and from then on it adds them up in another one, which a run that goes on would not have.
        batch = task.train.collate([0], [0], pad_to_multiple=loader.on_gpu)
        for objective in state.objectives:
            objective.backward(batch, state.progress.moment)
    state.zero_gradients()


def cut_smaller(state: TrainingState, loader: BatchLoader, notify: Notify) -> None:
    """Cut batches into more micro-batches from now on; raises like `fit_memory`."""
    state.zero_gradients()
    progress = state.progress
    n = smaller_parts(progress.n_micro_batches, loader.max_micro_batches())
    notify(
        f"out of memory at step {progress.step}: each batch is computed in {n} "
        f"micro-batches from now on; training.accumulate={n} says so beforehand"
    )
    progress.n_micro_batches = n


def choose_threads(
    state: TrainingState,
    loader: BatchLoader,
    most: int,
    run_dir: Path,
    config: TrainingConfig,
    notify: Notify,
) -> None:
    """Find out how many threads, `most` or fewer, a step is fastest with; kept with the run."""
    usual = list(loader.longest(state.progress.n_micro_batches, shorter_than=0.5))
    threads = fastest_threads(lambda: _forwards_and_backwards(state, usual), most)
    state.zero_gradients()
    threads = from_rank_0(threads, torch.device("cpu"))
    torch.set_num_threads(threads)
    choices = read_choices(run_dir) or MachineChoices(amp=config.amp)
    if rank() == 0:
        write_choices(run_dir, choices.model_copy(update={"threads": threads}))
    notify(f"training.threads: {threads}, the fastest of up to {most}")


def _longest_batches(state: TrainingState, loader: BatchLoader) -> bool:
    """Forwards and backwards; no weight changes, and nobody waits for other workers."""
    # AdamW has none of its two moments of each weight before its first step.
    new = [p for o in state.objectives if not o.optimizer.state for p in o.parameters]
    room = [torch.empty_like(parameter) for parameter in (*new, *new)]
    _forwards_and_backwards(state, loader.longest(state.progress.n_micro_batches))
    del room
    return True


def _forwards_and_backwards(state: TrainingState, batches: Iterable[Batch]) -> None:
    for batch in batches:
        for objective in state.objectives:
            # At the end of a run, when nothing is given that takes memory to be found.
            objective.backward(batch, state.progress.moment.at_the_end, alone=True)
