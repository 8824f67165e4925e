"""An optimizer step: gradients of each objective, its update, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from dimts.core.errors import Diverged
from dimts.training.config import TrainingConfig
from dimts.training.distributed import rank, world_size
from dimts.training.loader import ScheduledBatch
from dimts.training.memory import OutOfMemory, fits, write_parts
from dimts.training.objective import TrainedObjective
from dimts.training.progress import Seconds
from dimts.training.state import TrainingState
from dimts.training.step_result import ObjectiveResult, StepResult, reduce_flags
from dimts.training.task import Losses, Moment

T = TypeVar("T")


class Stepper:
    """Does the steps of a run; on a GPU the result of each is read while the next is computed.

    Attributes:
        stop: a rank was asked to stop.
        timed_units: trained on since the last log line.
    """

    def __init__(
        self,
        state: TrainingState,
        config: TrainingConfig,
        run_dir: Path,
        device: torch.device,
        seconds: Seconds,
        notify: Callable[[str], None],
    ):
        self.state, self.config, self.run_dir, self.device = state, config, run_dir, device
        self.seconds, self.notify = seconds, notify
        self.rank, self.world_size = rank(), world_size()
        self.timed_units, self.stop = 0, False
        self._updates: list[ObjectiveResult] = []  # of the present step
        self._pending: StepResult | None = None

    def step(self, batches: Iterator[ScheduledBatch], should_stop: Callable[[], bool]) -> bool:
        """Do the next optimizer step; False if there was not memory enough for it.

        Each objective in turn: gradients of all micro-batches, then its weights. On a GPU the CPU
        goes on to the next step without waiting for this one: the device itself leaves a bad
        step out, and `finish` reads of it a step later.

        Raises:
            OutOfMemory: there was not, and other workers wait for the gradients of this one.
            Diverged: the loss was not finite too often in a row.
        """
        progress = self.state.progress
        moment = progress.moment
        with self.seconds.of("data"):
            scheduled = self._in_memory(lambda: next(batches))
        if scheduled is None:
            return False
        stop = self.rank == 0 and should_stop()
        active = [o for o in self.state.objectives if moment.step >= o.start_step]
        with self.seconds.of("step"):
            for objective in active[len(self._updates) :]:
                losses = self._in_memory(partial(self._gradients, objective, scheduled, moment))
                if losses is None:
                    return False
                self._updates.append(self._update(objective, losses, moment, stop))
            size = scheduled.micro_batches[0].size
            self._pending = StepResult(moment.step, scheduled.ids, size, self._updates)
            self._updates = []
            self.stop |= stop and self.world_size == 1  # several ranks hear of it together
            progress.position = scheduled.after
            progress.step += 1
            if self.device.type != "cuda":
                self.finish()
        return True

    def finish(self) -> None:
        """Read how the last step went, if that is not known yet; raises `Diverged` like `step`."""
        result, self._pending = self._pending, None
        if result is None:
            return
        progress = self.state.progress
        bad, stop = result.read()
        self.stop |= stop
        if not bad:
            progress.bad_in_a_row = 0
            self.state.average.update(result.step)
            self.state.losses.add(result.objectives)
            progress.units += result.size
            self.timed_units += result.size
            return
        progress.skipped += 1
        progress.bad_in_a_row += 1
        ids = ", ".join(result.ids)
        self.notify(f"step {result.step} left out, its loss is not finite: {ids}")
        if progress.bad_in_a_row >= self.config.max_bad_steps:
            raise Diverged(
                f"the loss was not finite {progress.bad_in_a_row} steps in a row, up to step "
                f"{result.step}; lower training.optimizer.learning_rate or look at the "
                f"last batch: {ids}"
            )

    def _gradients(
        self, objective: TrainedObjective, scheduled: ScheduledBatch, moment: Moment
    ) -> Losses:
        """Gradients of the whole batch; the sum of this worker's losses, not differentiable."""
        number = self.state.objectives.index(objective)
        seed = (self.config.seed * 1_000_003 + moment.step) * 4096 + self.rank
        torch.manual_seed(seed + (number << 48))
        if not objective.module.training:  # to say it anew to every module takes a while
            objective.parallel.train()
        losses: list[Losses] = []
        for batch in scheduled.micro_batches:
            is_last = batch is scheduled.micro_batches[-1]
            with nullcontext() if is_last else objective.no_sync():
                part = objective.backward(batch, moment)
            losses.append({name: value.detach() for name, value in part.items()})
        return {name: torch.stack([part[name] for part in losses]).sum() for name in losses[0]}

    def _update(
        self, objective: TrainedObjective, losses: Losses, moment: Moment, stop: bool
    ) -> ObjectiveResult:
        """Change the objective's weights by the gradients."""
        share = self.state.learning_rate_share(objective, moment.step, self.config.max_steps)
        for group in objective.optimizer.param_groups:
            group["lr"] = objective.config.learning_rate * share
        objective.scaler.unscale_(objective.optimizer)
        norm = nn.utils.clip_grad_norm_(objective.parameters, objective.config.clip_norm)
        finite = torch.isfinite(next(iter(losses.values())))
        sound = finite & torch.isfinite(norm)
        # A gradient that overflows in fp16 is no bad step: the scaler lowers its scale.
        good = finite if self.config.amp == "fp16" else sound
        flags = reduce_flags(~sound, ~good, stop)
        # The step before, whose weights the moving average has not seen yet.
        self.finish()
        objective.optimizer.found_inf = flags[0]
        objective.optimizer.step()
        objective.scaler.update()
        # Of all: one that looks through another leaves gradients there.
        self.state.zero_gradients()
        return ObjectiveResult(objective.name, losses, norm.detach(), flags)

    def _in_memory(self, compute: Callable[[], T]) -> T | None:
        """What is computed; None if there was not memory enough, and nobody waits for this one."""
        computed = fits(compute, self.device)
        if computed is None and self.world_size > 1:
            write_parts(self.run_dir, 2 * self.state.progress.n_micro_batches)
            raise OutOfMemory(f"rank {self.rank} at step {self.state.progress.step}")
        return computed
