"""The training loop: resume, step, log, validate, sample, checkpoint. Plain torch.

It knows neither Ray, nor MLflow, nor the model family. With `torch.distributed` initialised it is
data-parallel; what it reports goes to `Callbacks`. Randomness depends on the seed, the step and
the rank alone, so a run that goes on from a checkpoint repeats what an undisturbed one would do.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from dimts.bundles.bundle import BundleError
from dimts.core.errors import Diverged, UserError
from dimts.core.threads import fastest_threads
from dimts.storage.paths import remove_files
from dimts.training.callbacks import Callbacks
from dimts.training.checkpoint import (
    NotWritten,
    find_latest,
    point_to,
    read_state,
    save_checkpoint,
)
from dimts.training.config import TrainingConfig
from dimts.training.distributed import any_rank, from_rank_0, rank, world_size
from dimts.training.loader import BatchLoader, ScheduledBatch
from dimts.training.machine_choices import MachineChoices, read_choices, write_choices
from dimts.training.memory import (
    OutOfMemory,
    fits,
    read_parts,
    smaller_parts,
    write_parts,
)
from dimts.training.objective import TrainedObjective
from dimts.training.optimizer import MovingAverage, extended_share
from dimts.training.ownership import Claim
from dimts.training.precision import same_arithmetic
from dimts.training.progress import Progress, Result
from dimts.training.sampler import Position
from dimts.training.step_result import LossAccumulator, ObjectiveResult, StepResult, reduce_flags
from dimts.training.task import Batch, Losses, Moment, Task
from dimts.training.validation import validation_losses

T = TypeVar("T")


def train(
    task: Task,
    config: TrainingConfig,
    run_dir: Path,
    callbacks: Callbacks,
    max_threads: int = 0,
) -> Result:
    """Train to the end, or until asked to stop, from the run's latest checkpoint if any.

    Args:
        task: what is trained on what.
        config: of the loop.
        run_dir: where checkpoints go.
        callbacks: are notified of what happens.
        max_threads: of which the number that is fastest is found out before the first step; 0
            leaves torch as it is.

    Raises:
        UserError: the loss was not finite too often in a row, a batch cannot be shared out, there
            is nothing to validate on, one utterance does not fit into memory, or the last
            checkpoint cannot be written.
        RunTakenOver: another process goes on with this run.
        OutOfMemory: a worker of several ran out of memory in a step; to be started again.
    """
    with same_arithmetic(task.device, config.amp):
        return Trainer(task, config, run_dir, callbacks, max_threads).run()


class Trainer:
    """One run of the loop in one process; see `train`."""

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        run_dir: Path,
        callbacks: Callbacks,
        max_threads: int = 0,
    ):
        self.task, self.config, self.run_dir, self.callbacks = task, config, run_dir, callbacks
        self.max_threads = max_threads
        self.rank, self.world_size = rank(), world_size()
        self.model, self.device = task.model, task.device
        fp16 = config.amp == "fp16"
        self.objectives = [
            TrainedObjective(o, self.device, self.world_size, fp16) for o in task.objectives
        ]
        self.average = MovingAverage(self.model, config.ema_decay)
        self.on_gpu = self.device.type == "cuda"
        self.loader = BatchLoader(task, config, self.rank, self.world_size, self.on_gpu)
        self.progress = Progress()
        self.saved = Progress(step=-1)  # where the last checkpoint stands
        self.checkpoint: Path | None = None
        self.claim = Claim(run_dir) if self.rank == 0 else None
        self.seconds: dict[str, float] = defaultdict(float)
        self.losses = LossAccumulator()
        self.timed_units = 0
        self.updates: list[ObjectiveResult] = []  # of the present step
        self.pending: StepResult | None = None
        self.stop = False

    def run(self) -> Result:
        self._resume()
        if self.progress.step < self.config.max_steps:
            self._fit_memory()
            self._choose_threads()
        if self.config.validate_every and self.progress.step == 0:
            self._validate()  # a broken validation fails now, not after an epoch
            self.progress.best = None  # of no checkpoint: the first one that is trained is better
        status = self._steps()
        self._finish_pending_step()
        unseen = self.progress.validated != self.progress.step and bool(self.config.validate_every)
        if status == "finished" and unseen:
            self._save(self._validate(), must=True)
        elif self.saved.step != self.progress.step:
            self._save(must=True)
        return Result(
            status,
            self.progress.step,
            self.progress.best or {},
            self.checkpoint,
            dict(self.seconds),
            self.progress.skipped,
            self.progress.units,
        )

    # Steps

    def _steps(self) -> Literal["finished", "stopped", "early_stopped"]:
        config, batches = self.config, self._batches_ahead()
        intervals = (config.log_every, config.validate_every, config.sample_every)
        started = time.perf_counter()
        try:
            while self.progress.step < config.max_steps:
                if config.patience and self.progress.since_best >= config.patience:
                    return "early_stopped"
                self._check_claim()
                if not self._train_step(batches):
                    batches.close()
                    self._cut_smaller()
                    batches = self._batches_ahead()
                    continue
                if self._due(*intervals, config.checkpoint_every):
                    with self._timed("step"):
                        self._finish_pending_step()  # the device may not have finished it
                if self._due(config.log_every):
                    self._log(time.perf_counter() - started)
                    started = time.perf_counter()
                before = time.perf_counter()
                self._after_step()
                started += time.perf_counter() - before  # units per second are of steps
                if self.stop:
                    return "stopped"
        finally:
            batches.close()
        return "finished"

    def _train_step(self, batches: Iterator[ScheduledBatch]) -> bool:
        """Do the next optimizer step; False if there was not memory enough for it.

        Each objective in turn: gradients of all micro-batches, then its weights. On a GPU the CPU
        goes on to the next step without waiting for this one: the device itself leaves a bad
        step out, and `_finish_pending_step` reads of it a step later.

        Raises:
            OutOfMemory: there was not, and other workers wait for the gradients of this one.
        """
        moment = self.progress.moment
        with self._timed("data"):
            scheduled = self._in_memory(lambda: next(batches))
        if scheduled is None:
            return False
        stop = self.rank == 0 and self.callbacks.should_stop()
        active = [o for o in self.objectives if moment.step >= o.start_step]
        with self._timed("step"):
            for objective in active[len(self.updates) :]:
                losses = self._in_memory(partial(self._gradients, objective, scheduled, moment))
                if losses is None:
                    return False
                self.updates.append(self._update(objective, losses, moment, stop))
            size = scheduled.micro_batches[0].size
            self.pending = StepResult(moment.step, scheduled.ids, size, self.updates)
            self.updates = []
            self.stop |= stop and self.world_size == 1  # several ranks hear of it together
            self.progress.position = scheduled.after
            self.progress.step += 1
            if not self.on_gpu:
                self._finish_pending_step()
        return True

    def _gradients(
        self, objective: TrainedObjective, scheduled: ScheduledBatch, moment: Moment
    ) -> Losses:
        """Gradients of the whole batch; the sum of this worker's losses, not differentiable."""
        number = self.objectives.index(objective)
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
        share = self._learning_rate_share(objective, moment.step, self.config.max_steps)
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
        self._finish_pending_step()
        objective.optimizer.found_inf = flags[0]
        objective.optimizer.step()
        objective.scaler.update()
        self._zero_gradients()  # of all: one that looks through another leaves gradients there
        return ObjectiveResult(objective.name, losses, norm.detach(), flags)

    def _learning_rate_share(self, objective: TrainedObjective, step: int, max_steps: int) -> float:
        """Share of the learning rate at a step, on the schedule of `max_steps`."""
        progress, since = self.progress, objective.start_step
        return extended_share(
            step - since,
            max_steps - since,
            objective.config,
            progress.extended_at - since if progress.extended_at >= 0 else -1,
            progress.shares_before.get(objective.name, 0.0),
        )

    def _finish_pending_step(self) -> None:
        """Read how the last step went, if that is not known yet."""
        result, self.pending = self.pending, None
        if result is None:
            return
        bad, stop = result.read()
        self.stop |= stop
        if bad:
            self._skip(result)
            return
        self.progress.bad_in_a_row = 0
        self.average.update(result.step)
        self.losses.add(result.objectives)
        self.progress.units += result.size
        self.timed_units += result.size

    def _skip(self, result: StepResult) -> None:
        self.progress.skipped += 1
        self.progress.bad_in_a_row += 1
        ids = ", ".join(result.ids)
        self._notify(f"step {result.step} left out, its loss is not finite: {ids}")
        if self.progress.bad_in_a_row >= self.config.max_bad_steps:
            raise Diverged(
                f"the loss was not finite {self.progress.bad_in_a_row} steps in a row, up to step "
                f"{result.step}; lower training.optimizer.learning_rate or look at the "
                f"last batch: {ids}"
            )

    # Memory and threads, before the first step

    def _in_memory(self, compute: Callable[[], T]) -> T | None:
        """What is computed; None if there was not memory enough.

        Raises:
            OutOfMemory: there was not, and other workers wait for this one.
        """
        computed = fits(compute, self.device)
        if computed is None and self.world_size > 1:
            write_parts(self.run_dir, 2 * self.progress.n_micro_batches)
            raise OutOfMemory(f"rank {self.rank} at step {self.progress.step}")
        return computed

    def _fit_memory(self) -> None:
        """Before the first step, cut batches until the longest that could be is computed."""
        with self._timed("memory"):
            for objective in self.objectives:
                objective.parallel.train()
            while any_rank(fits(self._longest_batches, self.device) is None, self.device):
                self._cut_smaller()
            if self.world_size > 1:
                # Backwards once with all workers: the first time tells DDP in which order gradients
                # come, and from then on it adds them up in another one, which a run that goes on
                # would not have.
                batch = self.task.train.collate([0], [0], pad_to_multiple=self.on_gpu)
                for objective in self.objectives:
                    objective.backward(batch, self.progress.moment)
            self._zero_gradients()

    def _longest_batches(self) -> bool:
        """Forwards and backwards; no weight changes, and nobody waits for other workers."""
        # AdamW has none of its two moments of each weight before its first step.
        new = [p for o in self.objectives if not o.optimizer.state for p in o.parameters]
        room = [torch.empty_like(parameter) for parameter in (*new, *new)]
        self._forwards_and_backwards(self.loader.longest(self.progress.n_micro_batches))
        del room
        return True

    def _forwards_and_backwards(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            for objective in self.objectives:
                # At the end of a run, when nothing is given that takes memory to be found.
                objective.backward(batch, self.progress.moment.at_the_end, alone=True)

    def _choose_threads(self) -> None:
        """Find out how many threads a step is fastest with, where nobody has said so."""
        if not (most := self.max_threads):
            return
        with self._timed("memory"):
            usual = list(self.loader.longest(self.progress.n_micro_batches, shorter_than=0.5))
            threads = fastest_threads(lambda: self._forwards_and_backwards(usual), most)
            self._zero_gradients()
        threads = from_rank_0(threads, self.device)
        torch.set_num_threads(threads)
        choices = read_choices(self.run_dir) or MachineChoices(amp=self.config.amp)
        if self.rank == 0:
            write_choices(self.run_dir, choices.model_copy(update={"threads": threads}))
        self._notify(f"training.threads: {threads}, the fastest of up to {most}")

    def _cut_smaller(self) -> None:
        """Cut batches into more micro-batches from now on."""
        self._zero_gradients()
        n = smaller_parts(self.progress.n_micro_batches, self.loader.max_micro_batches())
        self._notify(
            f"out of memory at step {self.progress.step}: each batch is computed in {n} "
            f"micro-batches from now on; training.accumulate={n} says so beforehand"
        )
        self.progress.n_micro_batches = n

    def _zero_gradients(self) -> None:
        for objective in self.objectives:
            objective.optimizer.zero_grad(set_to_none=True)

    def _batches_ahead(self) -> Generator[ScheduledBatch]:
        return self.loader.ahead(self.progress.position, self.progress.n_micro_batches)

    # Around the steps

    def _log(self, seconds: float) -> None:
        """Means over the steps since the last call that were not left out."""
        unit = self.task.unit
        epoch, batch, _ = self.progress.position
        values = self.losses.means()
        values |= {
            "train/learning_rate": self.objectives[0].optimizer.param_groups[0]["lr"],
            f"train/{unit}_per_second": self.timed_units / seconds,
            "train/data_wait_share": self.seconds["data"]
            / (self.seconds["data"] + self.seconds["step"]),
            "train/skipped_steps": self.progress.skipped,
            "train/epoch": epoch + batch / self.loader.sampler.batches_of(epoch),
            f"train/{unit}": self.progress.units,
        }
        self.losses.clear()
        self.timed_units = 0
        if self.rank == 0:
            self.callbacks.log(values, self.progress.step)

    def _after_step(self) -> None:
        config, improved = self.config, False
        if self._due(config.validate_every):
            improved = self._validate()
        if self._due(config.sample_every) and self.rank == 0:
            with self._timed("sample"), self.average.applied():
                self.objectives[0].module.eval()
                self.callbacks.sample(self.task, self.progress.step)
        unasked = self._due(config.log_every) and self.callbacks.should_save()
        if improved or unasked or self._due(config.checkpoint_every):
            self._save(improved)
        elif self._due(config.validate_every):
            self.callbacks.report(self.progress.latest or {}, None)

    def _due(self, *intervals: int) -> bool:
        """Whether one of the intervals ends with this step; 0 never does."""
        return any(every and self.progress.step % every == 0 for every in intervals)

    def _validate(self) -> bool:
        """Losses of the weights that would ship, on the validation split; whether the best."""
        with self._timed("validation"), self.average.applied():
            module = self.objectives[0].module.eval()
            values = validation_losses(self.task.val, module, self.progress.moment, self.device)
        if self.rank == 0:
            self.callbacks.log(values, self.progress.step)
        self.progress.latest = values
        best, metric = self.progress.best, self.task.selection
        value = values[metric.name]
        better = math.isfinite(value) and (best is None or metric.better(value, best[metric.name]))
        self.progress.validated = self.progress.step
        if better:
            self.progress.best = values
        self.progress.since_best = 0 if better else self.progress.since_best + 1
        return better

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start

    def _notify(self, text: str) -> None:
        if self.rank == 0:
            self.callbacks.notify(text)

    # Checkpoints

    def _check_claim(self) -> None:
        if self.claim:
            self.claim.check()

    def _save(self, best: bool = False, must: bool = False) -> None:
        """A checkpoint by rank 0; every rank reports it. Unvalidated, the latest is the best.

        Where it cannot be written, those before it stay.

        Raises:
            UserError: it could not be written although it `must`.
        """
        progress, checkpoint, failure = self.progress, None, ""
        if best or not self.config.validate_every:
            progress.best_step = progress.step
        with self._timed("checkpoint"):
            state = self._state_dict()
            if self.rank == 0:
                self._check_claim()
                try:
                    checkpoint = save_checkpoint(
                        self.run_dir,
                        progress.position.epoch,
                        progress.step,
                        state,
                        self._write_bundle,
                        progress.best_step,
                        self.config.keep_checkpoints,
                        self._check_claim,
                    )
                except NotWritten as error:
                    failure = f"{self.run_dir}: no checkpoint of step {progress.step}: {error}"
            failure = from_rank_0(failure, self.device)
        if failure:  # what is best has to be there
            progress.best, progress.best_step = self.saved.best, self.saved.best_step
        else:
            self.checkpoint, self.saved = checkpoint or self.checkpoint, replace(progress)
        # Of rank 0 alone: Ray refuses two, and the others have seen none but that they began with.
        self.callbacks.report(progress.latest or {}, checkpoint)
        if failure and must:
            raise UserError(f"{failure}; make room and start the run again")
        if failure:
            self._notify(f"{failure}; training goes on")

    def _write_bundle(self, folder: Path) -> None:
        facts = {
            "step": self.progress.step,
            "epoch": self.progress.position.epoch,
            "metrics": {k: v for k, v in (self.progress.latest or {}).items() if math.isfinite(v)},
        }
        with self.average.applied():
            weights: dict[str, Tensor] = dict(self.model.state_dict())
            self.task.write_bundle(folder, weights, facts)

    def _resume(self) -> None:
        """Go on from the latest checkpoint that is whole, if there is one.

        What rank 0 sees is what all go on from, whatever a shared disk shows the others.

        Raises:
            BundleError: its state is not one of this training.
        """
        latest = None
        if self.rank == 0:
            remove_files(self.run_dir, ".checkpoint_")  # of writes that were killed
            latest = find_latest(self.run_dir, self._notify)
        if name := from_rank_0(latest and latest.name, self.device):
            self.checkpoint = self.run_dir / name
            try:
                self._load_state_dict(read_state(self.checkpoint))
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                why = " ".join(str(error).split())[:200] or type(error).__name__
                raise BundleError(
                    f"{self.checkpoint}: is not a state of this training: {why}"
                ) from error
            self.saved = replace(self.progress)
            if self.rank == 0:
                point_to(self.checkpoint, self.progress.best_step)
            self._notify(f"going on from {name}")
        needed = min(read_parts(self.run_dir), self.loader.max_micro_batches())
        n = max(self.config.accumulate, self.progress.n_micro_batches, needed)
        self.progress.n_micro_batches = n
        if n > self.config.accumulate:
            self._notify(f"each batch is computed in {n} micro-batches, as before")
        self._extend()

    def _extend(self) -> None:
        """Begin the schedule of `max_steps`, or a longer one than that of the steps so far."""
        progress, wanted = self.progress, self.config.max_steps
        before = progress.max_steps
        if before == 0:
            progress.planned_steps = wanted
        elif wanted > before:
            progress.shares_before = {
                o.name: self._learning_rate_share(o, progress.step, before) for o in self.objectives
            }
            progress.extended_at, progress.since_best = progress.step, 0
            warmup = self.objectives[0].config.warmup_steps
            self._notify(
                f"{wanted} steps instead of {before}: from step {progress.step} on the learning "
                f"rate goes to that of a run of {wanted}, in {warmup} steps"
            )
        progress.max_steps = wanted

    def _state_dict(self) -> dict[str, Any]:
        """All that a step changes: tensors and plain values only; called on every rank."""
        return {
            "progress": {**vars(self.progress), "position": list(self.progress.position)},
            "objectives": {o.name: o.state_dict() for o in self.objectives},
            "average": self.average.weights or None,
            "losses": self.losses.state_dict(),
        }

    @torch.no_grad()
    def _load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `_state_dict` gave, on whatever device."""
        for objective in self.objectives:
            objective.load_state_dict(state["objectives"][objective.name])
        for name, weight in self.average.weights.items():
            weight.copy_(state["average"][name])
        self.losses.load_state_dict(state["losses"], self.device)
        progress = state["progress"]
        self.progress = Progress(**{**progress, "position": Position(*progress["position"])})
