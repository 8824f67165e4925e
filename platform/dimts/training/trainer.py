"""The training loop: resume, step, log, validate, sample, checkpoint. Plain torch.

It knows neither Ray, nor MLflow, nor the model family. With `torch.distributed` initialised it is
data-parallel; what it reports goes to `Callbacks`. Randomness depends on the seed, the step and
the rank alone, so a run that goes on from a checkpoint repeats what an undisturbed one would do.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dimts.core.errors import Diverged
from dimts.core.threads import fastest_threads
from dimts.training.callbacks import Callbacks
from dimts.training.config import TrainingConfig
from dimts.training.loader import BatchLoader, ScheduledBatch
from dimts.training.machine_choices import MachineChoices, read_choices, write_choices
from dimts.training.memory import (
    OutOfMemory,
    fits,
    read_parts,
    room_for_moments,
    smaller_parts,
    write_parts,
)
from dimts.training.optimizer import MovingAverage, build_optimizer, extended_share
from dimts.training.precision import float32_precision, same_order
from dimts.training.prefetcher import Prefetcher
from dimts.training.progress import Progress, Result
from dimts.training.saver import Saver
from dimts.training.step_result import (
    LossAccumulator,
    ObjectiveResult,
    StepResult,
    any_rank,
    reduce_flags,
)
from dimts.training.task import Batch, Losses, Moment, Objective, Task
from dimts.training.trainer_state import Trained, TrainerState
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
        max_threads: of torch, of which the fastest number is found out before the first step;
            0 leaves torch as it is.

    Raises:
        UserError: the loss was not finite too often in a row, a batch cannot be shared out, there
            is nothing to validate on, one utterance does not fit into memory, or the last
            checkpoint cannot be written.
        RunTakenOver: another process goes on with this run.
        OutOfMemory: a worker of several ran out of memory in a step; to be started again.
    """
    with float32_precision(config.amp), same_order(task.device):
        return Trainer(task, config, run_dir, callbacks, max_threads).run()


class TrainedObjective:
    """An objective with its optimizer, its gradient scaler and, for several workers, its DDP."""

    def __init__(self, objective: Objective, device: torch.device, world_size: int, fp16: bool):
        self.name, self.module = objective.name, objective.module
        self.config, self.start_step = objective.optimizer, objective.start_step
        self.parallel: nn.Module = self.module
        if world_size > 1:
            ids = [device.index] if device.type == "cuda" else None
            # Its buffers are constants. Gradients are sent from where they lie, without a copy.
            self.parallel = DistributedDataParallel(
                self.module, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.optimizer = build_optimizer(self.module, self.config)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.scaler = torch.amp.GradScaler(device.type, enabled=fp16)

    def no_sync(self, last: bool) -> AbstractContextManager[Any]:
        """Inside, gradients stay with this worker until the last micro-batch."""
        if last or not isinstance(self.parallel, DistributedDataParallel):
            return nullcontext()
        return self.parallel.no_sync()


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
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.model, self.device = task.model, task.device
        fp16 = config.amp == "fp16"
        self.objectives = [
            TrainedObjective(o, self.device, self.world_size, fp16) for o in task.objectives
        ]
        self.average: MovingAverage | None = None
        if config.ema_decay:
            self.average = MovingAverage(self.model, config.ema_decay)
        on_gpu = self.device.type == "cuda"
        self.loader = BatchLoader(task, config, self.rank, self.world_size, on_gpu)
        self.progress = Progress()
        self.saver = Saver(run_dir, self.rank, self.device, config.keep_checkpoints, self._notify)
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
        elif self.saver.step != self.progress.step:
            self._save(must=True)
        return Result(
            status,
            self.progress.step,
            self.progress.best or {},
            self.saver.checkpoint,
            dict(self.seconds),
            self.progress.skipped,
            self.progress.units,
        )

    # Steps

    def _steps(self) -> Literal["finished", "stopped", "early_stopped"]:
        batches = self._batches_ahead()
        started = time.perf_counter()
        try:
            while self.progress.step < self.config.max_steps:
                if self.config.patience and self.progress.since_best >= self.config.patience:
                    return "early_stopped"
                self.saver.check()
                if not self._train_step(batches):
                    batches.close()
                    self._cut_smaller()
                    batches = self._batches_ahead()
                    continue
                if self._needs_sync():
                    with self._timed("step"):
                        self._finish_pending_step()  # the device may not have finished it
                if self._due(self.config.log_every):
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

    def _train_step(self, batches: Prefetcher) -> bool:
        """Do the next optimizer step; False if there was not memory enough for it.

        Each objective in turn: gradients of all micro-batches, then its weights. On a GPU the CPU
        goes on to the next step without waiting for this one: the device itself leaves a bad
        step out, and `_finish_pending_step` reads of it a step later.

        Raises:
            OutOfMemory: there was not, and other workers wait for the gradients of this one.
        """
        moment = self.progress.moment
        with self._timed("data"):
            scheduled = self._in_memory(lambda: cast(ScheduledBatch, batches.next()))
        if scheduled is None:
            return False
        stop = self.rank == 0 and self.callbacks.should_stop()
        active = [o for o in self.objectives if moment.step >= o.start_step]
        with self._timed("step"):
            for objective in active[len(self.updates) :]:
                compute = partial(self._gradients, objective, scheduled, moment)
                losses = self._in_memory(compute)
                if losses is None:
                    return False
                self.updates.append(self._update(objective, losses, moment, stop))
            size = scheduled.micro_batches[0].size
            self.pending = StepResult.of(moment.step, scheduled.ids, size, self.updates)
            self.updates = []
            self.stop |= stop and self.world_size == 1  # several ranks hear of it together
            self.progress.position = scheduled.after
            self.progress.step += 1
            if self.device.type != "cuda":
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
        for n, batch in enumerate(scheduled.micro_batches):
            with objective.no_sync(last=n == len(scheduled.micro_batches) - 1):
                part = self._backward(objective, objective.parallel, batch, moment)
            losses.append({name: value.detach() for name, value in part.items()})
        return {name: torch.stack([part[name] for part in losses]).sum() for name in losses[0]}

    def _backward(
        self, objective: TrainedObjective, module: nn.Module, batch: Batch, moment: Moment
    ) -> Losses:
        losses: Losses = module(batch.to(self.device), moment)
        minimised = next(iter(losses.values()))
        # Losses are shares of the whole batch, and DDP takes the mean over the workers.
        scaled = minimised * self.world_size if self.world_size > 1 else minimised
        objective.scaler.scale(scaled).backward()
        return losses

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
        for other in self.objectives:  # one that looks through another leaves gradients there
            other.optimizer.zero_grad(set_to_none=True)
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
        if self.average:
            self.average.update(self.model, result.step)
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
        computed: list[T] = []
        if fits(lambda: computed.append(compute()), self.device):
            return computed[0]
        if self.world_size > 1:
            write_parts(self.run_dir, 2 * self.progress.n_micro_batches)
            raise OutOfMemory(f"rank {self.rank} at step {self.progress.step}")
        return None

    def _fit_memory(self) -> None:
        """Before the first step, cut batches until the longest that could be is computed."""
        with self._timed("memory"):
            for objective in self.objectives:
                objective.parallel.train()
            while any_rank(not fits(self._longest_batches, self.device), self.device):
                self._cut_smaller()
            if self.world_size > 1:
                self._fix_gradient_order()
            self._zero_gradients()

    def _fix_gradient_order(self) -> None:
        """Backwards once with all workers: the first time tells DDP in which order gradients come,
        and from then on it adds them up in another one, which a run that goes on would not have."""
        batch = self.task.train.collate([0], [0], pad_to_multiple=self.device.type == "cuda")
        for objective in self.objectives:
            self._backward(objective, objective.parallel, batch, self.progress.moment)

    def _longest_batches(self) -> None:
        """Forwards and backwards; no weight changes, and nobody waits for other workers."""
        room = [room_for_moments(o.parameters, o.optimizer) for o in self.objectives]
        self._forwards_and_backwards(self.loader.longest(self.progress.n_micro_batches))
        del room

    def _forwards_and_backwards(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            for objective in self.objectives:
                # At the end of a run, when nothing is given that takes memory to be found.
                moment = self.progress.moment.at_the_end
                self._backward(objective, objective.module, batch, moment)

    def _choose_threads(self) -> None:
        """Find out how many threads a step is fastest with, where nobody has said so."""
        if not (most := self.max_threads):
            return
        with self._timed("memory"):
            batches = list(self.loader.usual(self.progress.n_micro_batches))
            threads = fastest_threads(lambda: self._forwards_and_backwards(batches), most)
            self._zero_gradients()
        threads = self.saver.of_rank_0(threads)
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

    def _batches_ahead(self) -> Prefetcher:
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
            with self._timed("sample"), self._averaged():
                self.objectives[0].module.eval()
                self.callbacks.sample(self.task, self.progress.step)
        unasked = self._due(config.log_every) and self.callbacks.should_save()
        if improved or unasked or self._due(config.checkpoint_every):
            self._save(improved)
        elif self._due(config.validate_every):
            self.callbacks.report(self.progress.latest or {}, None)

    def _needs_sync(self) -> bool:
        """Whether something is due that needs to know how this step went."""
        config = self.config
        intervals = (config.validate_every, config.sample_every, config.checkpoint_every)
        return any(map(self._due, (config.log_every, *intervals)))

    def _due(self, every: int) -> bool:
        return bool(every) and self.progress.step % every == 0

    def _validate(self) -> bool:
        """Losses of the weights that would ship, on the validation split; whether the best."""
        with self._timed("validation"), self._averaged():
            module = self.objectives[0].module.eval()
            moment = self.progress.moment
            values = validation_losses(self.task.val, module, moment, self.device)
        if self.rank == 0:
            self.callbacks.log(values, self.progress.step)
        self.progress.latest = values
        best, metric = self.progress.best, self.task.selection
        begun = max(objective.start_step for objective in self.objectives)
        if self.progress.best_step <= begun < self.progress.step:
            best = None  # of a phase without that objective, which the metric may know nothing of
        value = values[metric.name]
        better = math.isfinite(value) and (best is None or metric.better(value, best[metric.name]))
        self.progress.validated = self.progress.step
        if better:
            self.progress.best = values
        self.progress.since_best = 0 if better else self.progress.since_best + 1
        return better

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the model holds the averaged weights, if there are any."""
        if self.average:
            self.average.swap(self.model)
        try:
            yield
        finally:
            if self.average:
                self.average.swap(self.model)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start

    def _notify(self, text: str) -> None:
        if self.rank == 0:
            self.callbacks.notify(text)

    # Checkpoints

    def _save(self, best: bool = False, must: bool = False) -> None:
        """A checkpoint by rank 0; every rank reports it. Unvalidated, the latest is the best.

        Raises:
            UserError: it could not be written although it `must`.
        """
        if best or not self.config.validate_every:
            self.progress.best_step = self.progress.step
        with self._timed("checkpoint"):
            failure = self.saver.save(self._state(), self.progress, self._write_bundle)
        # Of rank 0 alone: Ray refuses two, and the others have seen none but that they began with.
        checkpoint = self.saver.checkpoint if self.rank == 0 and not failure else None
        if failure:
            # What is best has to be there.
            self.progress.best, self.progress.best_step = self.saver.best, self.saver.best_step
        self.callbacks.report(self.progress.latest or {}, checkpoint)
        if failure and must:
            raise self.saver.refused(self.progress.step, failure)
        if failure:
            self._notify(f"{self.saver.missing(self.progress.step, failure)}; training goes on")

    def _write_bundle(self, folder: Path) -> None:
        facts = {
            "step": self.progress.step,
            "epoch": self.progress.position.epoch,
            "metrics": {k: v for k, v in (self.progress.latest or {}).items() if math.isfinite(v)},
        }
        with self._averaged():
            weights: dict[str, Tensor] = dict(self.model.state_dict())
            self.task.write_bundle(folder, weights, facts)

    def _resume(self) -> None:
        self.progress = self.saver.resume(self._state()) or Progress()
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

    def _state(self) -> TrainerState:
        trained = {o.name: Trained(o.module, o.optimizer, o.scaler) for o in self.objectives}
        return TrainerState(trained, self.average, self.losses, self.device)
