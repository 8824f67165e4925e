"""The training loop: resume, step, log, validate, sample, checkpoint. Plain torch.

It knows neither Ray nor MLflow. With `torch.distributed` initialised it is data-parallel;
what it reports goes to `Callbacks`. Randomness depends on the seed, the step and the rank
alone, so a run that goes on from a checkpoint repeats what an undisturbed one would do.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dimts.core.errors import Diverged
from dimts.core.threads import fastest_threads
from dimts.families.acoustic.corpora import check_lengths
from dimts.families.acoustic.model.loss import TTSLoss, tts_loss
from dimts.training.job import Callbacks, Job, Progress, Result
from dimts.training.loader import Feed, Turn
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
from dimts.training.precision import autocast, float32_precision, same_order
from dimts.training.sampler import Batch, Prefetcher
from dimts.training.saver import Saver
from dimts.training.step_result import Verdict, Window, any_rank, send, vote
from dimts.training.trainer_state import TrainerState
from dimts.training.validation import validation_losses


def train(job: Job, callbacks: Callbacks) -> Result:
    """Train to the end, or until asked to stop, from the run's latest checkpoint if any.

    Raises:
        UserError: the loss was not finite too often in a row, a batch cannot be shared out, there
            is nothing to validate on, one utterance does not fit into memory, or the last
            checkpoint cannot be written.
        Superseded: another process goes on with this run.
        OutOfMemory: a worker of several ran out of memory in a step; to be started again.
    """
    return Trainer(job, callbacks).run()


class Trainer:
    """One run of the loop in one process."""

    def __init__(self, job: Job, callbacks: Callbacks):
        self.job, self.config, self.callbacks = job, job.config, callbacks
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.model = job.model
        self.device = job.model.mel_mean_M.device
        self.parallel: nn.Module = self.model
        if self.world_size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            # Its buffers are constants. Gradients are sent from where they lie, without a copy.
            self.parallel = DistributedDataParallel(
                self.model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.optimizer = build_optimizer(self.model, self.config.optimizer)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.average: MovingAverage | None = None
        if self.config.ema_decay:
            self.average = MovingAverage(self.model, self.config.ema_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.amp == "fp16")
        self.feed = Feed(job, self.rank, self.world_size, self.device.type == "cuda")
        self.progress = Progress()
        self.saver = Saver(
            job.run_dir, self.rank, self.device, self.config.keep_checkpoints, self._tell
        )
        self.seconds: dict[str, float] = defaultdict(float)
        self.window = Window()
        self.timed_frames = 0
        self.verdict: Verdict | None = None
        self.stop = False

    def run(self) -> Result:
        for corpus in (self.job.train, self.job.val, self.job.rehearsal):
            if corpus:
                check_lengths(corpus, self.model.config.states_per_token)
        with float32_precision(self.config.amp), same_order(self.device):
            return self._run()

    def _run(self) -> Result:
        self._resume()
        if self.progress.step < self.config.max_steps:
            self._fit_memory()
            self._choose_threads()
        if self.config.validate_every and self.progress.step == 0:
            self._validate()  # a broken validation fails now, not after an epoch
            self.progress.best = None  # of no checkpoint: the first one that is trained is better
        status = self._steps()
        self._settle()
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
            self.progress.frames,
        )

    def _steps(self) -> Literal["finished", "stopped", "early_stopped"]:
        turns_ahead = self._turns_ahead()
        started = time.perf_counter()
        try:
            while self.progress.step < self.config.max_steps:
                if self.config.patience and self.progress.since_best >= self.config.patience:
                    return "early_stopped"
                self.saver.check()
                if not self._computed(turns_ahead):
                    turns_ahead.close()
                    self._smaller_parts()
                    turns_ahead = self._turns_ahead()
                    continue
                if self._looks():
                    with self._timed("step"):
                        self._settle()  # the device may not have finished it
                if self._due(self.config.log_every):
                    self._log(time.perf_counter() - started)
                    started = time.perf_counter()
                before = time.perf_counter()
                self._after_step()
                started += time.perf_counter() - before  # frames per second are of steps
                if self.stop:
                    return "stopped"
        finally:
            turns_ahead.close()
        return "finished"

    def _turns_ahead(self) -> Prefetcher:
        return self.feed.ahead(self.progress.position, self.progress.parts)

    def _computed(self, turns_ahead: Prefetcher) -> bool:
        """Do the next step; False if there was not memory enough for it.

        Raises:
            OutOfMemory: so it was, and other workers wait for the gradients of this one.
        """
        computed: list[tuple[Turn, TTSLoss]] = []

        def compute() -> None:
            with self._timed("data"):
                turn = cast(Turn, turns_ahead.next())
            with self._timed("step"):
                computed.append((turn, self._gradients(turn.micro_batches)))

        if not fits(compute, self.device):
            if self.world_size > 1:
                write_parts(self.job.run_dir, 2 * self.progress.parts)
                raise OutOfMemory(f"rank {self.rank} at step {self.progress.step}")
            return False
        [(turn, losses)] = computed
        with self._timed("step"):
            self._update(turn, losses)
        self.progress.position = turn.after
        self.progress.step += 1
        return True

    def _gradients(self, micro_batches: list[Batch]) -> TTSLoss:
        """Gradients of the whole batch; the sum of this worker's losses, not differentiable."""
        step, config = self.progress.step, self.config
        torch.manual_seed((config.seed * 1_000_003 + step) * 4096 + self.rank)
        if not self.model.training:  # to say it anew to every module takes a while
            self.parallel.train()
        losses = []
        for number, batch in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            with nullcontext() if last or self.world_size == 1 else self._no_sync():
                loss = self._loss(self.parallel, batch.to(self.device), step)
                self.scaler.scale(loss.total).backward()
            losses.append(TTSLoss(*(part.detach() for part in loss)))
        return TTSLoss(*(torch.stack(parts).sum() for parts in zip(*losses, strict=True)))

    def _update(self, turn: Turn, loss: TTSLoss) -> None:
        """Change the weights by the gradients.

        On a GPU the CPU goes on to the next step without waiting for this one: the device itself
        leaves a bad step out, and `_settle` hears of it a step later.
        """
        step, config = self.progress.step, self.config
        progress = self.progress
        share = extended_share(
            step, config.max_steps, config.optimizer, progress.extended_at, progress.share_before
        )
        for group in self.optimizer.param_groups:
            group["lr"] = config.optimizer.learning_rate * share
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, config.optimizer.clip_norm)
        finite = torch.isfinite(loss.total)
        sound = finite & torch.isfinite(norm)
        # A gradient that overflows in fp16 is no bad step: the scaler lowers its scale.
        good = finite if config.amp == "fp16" else sound
        stop = self.rank == 0 and self.callbacks.should_stop()
        votes = vote(~sound, ~good, stop)
        self._settle()  # the step before, whose weights the moving average has not seen yet
        self.optimizer.found_inf = votes[0]
        self.optimizer.step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        frames = turn.micro_batches[0].total_frames
        self.verdict = Verdict(step, turn.ids, frames, loss, norm.detach(), *send(votes))
        self.stop |= stop and self.world_size == 1  # several ranks hear of it together
        if self.device.type != "cuda":
            self._settle()

    def _settle(self) -> None:
        """Hear how the last step went, if that is not known yet."""
        verdict, self.verdict = self.verdict, None
        if verdict is None:
            return
        bad, stop = verdict.read()
        self.stop |= stop
        if bad:
            self._skip(verdict)
            return
        self.progress.bad_in_a_row = 0
        if self.average:
            self.average.update(self.model, verdict.step)
        self.window.add(verdict)
        self.progress.frames += verdict.n_frames
        self.timed_frames += verdict.n_frames

    def _loss(self, model: nn.Module, batch: Batch, step: int) -> TTSLoss:
        mel_BTM = self.model.normalise(batch.mel_BTM)
        fixed = step < self.progress.fixed_steps
        with autocast(self.device, self.config.amp):
            output = model(
                batch.tokens_BN,
                batch.n_tokens_B,
                mel_BTM,
                batch.n_frames_B,
                batch.durations_BNS if fixed else None,
            )
        return tts_loss(
            output,
            mel_BTM,
            self.model.mel_std_M,
            self.config.loss,
            n_frames=batch.total_frames / self.world_size,
            n_tokens=batch.total_tokens / self.world_size,
        )

    def _no_sync(self) -> Any:
        assert isinstance(self.parallel, DistributedDataParallel)
        return self.parallel.no_sync()

    def _skip(self, verdict: Verdict) -> None:
        self.progress.skipped += 1
        self.progress.bad_in_a_row += 1
        ids = ", ".join(verdict.ids)
        self._tell(f"step {verdict.step} left out, its loss is not finite: {ids}")
        if self.progress.bad_in_a_row >= self.config.max_bad_steps:
            raise Diverged(
                f"the loss was not finite {self.progress.bad_in_a_row} steps in a row, up to step "
                f"{verdict.step}; lower training.optimizer.learning_rate or look at the "
                f"last batch: {ids}"
            )

    def _tell(self, text: str) -> None:
        if self.rank == 0:
            self.callbacks.tell(text)

    def _fit_memory(self) -> None:
        """Before the first step, cut batches until the longest that could be is computed."""
        with self._timed("memory"):
            self.parallel.train()
            while any_rank(not fits(self._longest_batches, self.device), self.device):
                self._smaller_parts()
            if self.world_size > 1:
                self._settle_order()
            self.optimizer.zero_grad(set_to_none=True)

    def _settle_order(self) -> None:
        """Backwards once with all workers: the first time tells DDP in which order gradients come,
        and from then on it adds them up in another one, which a run that goes on would not have."""
        batch = self.job.train.batch([0], [0], self.device.type == "cuda").to(self.device)
        self._loss(self.parallel, batch, self.progress.step).total.backward()

    def _longest_batches(self) -> None:
        """Forwards and backwards; no weight changes, and nobody waits for other workers."""
        room = room_for_moments(self.parameters, self.optimizer)
        self._forwards_and_backwards(self.feed.longest(self.progress.parts))
        del room

    def _forwards_and_backwards(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            batch.durations_BNS = None  # to search for them takes more memory
            self._loss(self.model, batch.to(self.device), self.progress.step).total.backward()

    def _choose_threads(self) -> None:
        """Find out how many threads a step is fastest with, where nobody has said so."""
        if not (most := self.job.max_threads):
            return
        with self._timed("memory"):
            batches = list(self.feed.usual(self.progress.parts))
            threads = fastest_threads(lambda: self._forwards_and_backwards(batches), most)
            self.optimizer.zero_grad(set_to_none=True)
        threads = self.saver.of_rank_0(threads)
        torch.set_num_threads(threads)
        choices = read_choices(self.job.run_dir) or MachineChoices(amp=self.config.amp)
        if self.rank == 0:
            write_choices(self.job.run_dir, choices.model_copy(update={"threads": threads}))
        self._tell(f"training.threads: {threads}, the fastest of up to {most}")

    def _smaller_parts(self) -> None:
        """Cut batches into more micro-batches from now on."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = smaller_parts(self.progress.parts, self.feed.most_parts())
        self._tell(
            f"out of memory at step {self.progress.step}: each batch is computed in {parts} "
            f"micro-batches from now on; training.accumulate={parts} says so beforehand"
        )
        self.progress.parts = parts

    def _log(self, seconds: float) -> None:
        """Means over the steps since the last call that were not left out."""
        values = self.window.means()
        values |= {
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
            "train/frames_per_second": self.timed_frames / seconds,
            "train/data_wait_share": self.seconds["data"]
            / (self.seconds["data"] + self.seconds["step"]),
            "train/skipped_steps": self.progress.skipped,
            "train/epoch": self._epoch(),
            "train/frames": self.progress.frames,
        }
        self.window.clear()
        self.timed_frames = 0
        if self.rank == 0:
            self.callbacks.log(values, self.progress.step)

    def _epoch(self) -> float:
        epoch, batch, _ = self.progress.position
        return epoch + batch / self.feed.sampler.batches_per_epoch

    def _after_step(self) -> None:
        config, improved = self.config, False
        if self._due(self.config.validate_every):
            improved = self._validate()
        if self._due(self.config.sample_every) and self.rank == 0:
            with self._timed("sample"), self._averaged():
                self.model.eval()
                self.callbacks.sample(self.model, self.progress.step)
        unasked = self._due(config.log_every) and self.callbacks.should_save()
        if improved or unasked or self._due(self.config.checkpoint_every):
            self._save(improved)
        elif self._due(self.config.validate_every):
            self.callbacks.report(self.progress.latest or {}, None)

    def _looks(self) -> bool:
        """Whether something is due that needs to know how this step went."""
        config = self.config
        intervals = (config.validate_every, config.sample_every, config.checkpoint_every)
        return any(map(self._due, (config.log_every, *intervals)))

    def _due(self, every: int) -> bool:
        return bool(every) and self.progress.step % every == 0

    def _validate(self) -> bool:
        """Loss of the weights that would ship, on the validation split; whether it is the best."""
        with self._timed("validation"), self._averaged():
            self.model.eval()
            values = validation_losses(self.job.val, self._validation_loss, self.device)
        if self.rank == 0:
            self.callbacks.log(values, self.progress.step)
        self.progress.latest = values
        best = self.progress.best
        total = values["val/total_loss"]
        better = math.isfinite(total) and (best is None or total < best["val/total_loss"])
        self.progress.validated = self.progress.step
        if better:
            self.progress.best = values
        self.progress.since_best = 0 if better else self.progress.since_best + 1
        return better

    def _validation_loss(self, batch: Batch) -> TTSLoss:
        return self._loss(self.model, batch, self.progress.step)

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

    def _save(self, best: bool = False, must: bool = False) -> None:
        """A checkpoint by rank 0; every rank reports it. Unvalidated, the latest is the best.

        Raises:
            UserError: it could not be written although it `must`.
        """
        if best := best or not self.config.validate_every:
            self.progress.best_step = self.progress.step
        with self._timed("checkpoint"):
            failure = self.saver.save(self._parts(), self.progress, self._write_bundle, best)
        # Of rank 0 alone: Ray refuses two, and the others have seen none but that they began with.
        checkpoint = self.saver.checkpoint if self.rank == 0 and not failure else None
        if failure:
            # What is best has to be there.
            self.progress.best, self.progress.best_step = self.saver.best, self.saver.best_step
        self.callbacks.report(self.progress.latest or {}, checkpoint)
        if failure and must:
            raise self.saver.refused(self.progress.step, failure)
        if failure:
            self._tell(f"{self.saver.missing(self.progress.step, failure)}; training goes on")

    def _write_bundle(self, folder: Path) -> None:
        facts = {
            "step": self.progress.step,
            "epoch": self.progress.position.epoch,
            "metrics": {k: v for k, v in (self.progress.latest or {}).items() if math.isfinite(v)},
        }
        with self._averaged():
            self.job.write_bundle(folder, dict(self.model.state_dict()), facts)

    def _resume(self) -> None:
        self.progress = self.saver.resume(self._parts()) or Progress()
        needed = min(read_parts(self.job.run_dir), self.feed.most_parts())
        self.progress.parts = max(self.config.accumulate, self.progress.parts, needed)
        if self.progress.parts > self.config.accumulate:
            self._tell(f"each batch is computed in {self.progress.parts} micro-batches, as before")
        self._extend()

    def _extend(self) -> None:
        """Begin the schedule of `max_steps`, or a longer one than that of the steps so far."""
        progress, wanted = self.progress, self.config.max_steps
        before = progress.max_steps
        if before == 0:  # a checkpoint of earlier versions does not say
            progress.fixed_steps = math.ceil(self.config.aligner.fixed_share * wanted)
        elif wanted > before:
            progress.share_before = extended_share(
                progress.step, before, self.config.optimizer,
                progress.extended_at, progress.share_before,
            )  # fmt: skip
            progress.extended_at, progress.since_best = progress.step, 0
            self._tell(
                f"{wanted} steps instead of {before}: from step {progress.step} on the learning "
                f"rate goes to that of a run of {wanted}, in "
                f"{self.config.optimizer.warmup_steps} steps"
            )
        progress.max_steps = wanted

    def _parts(self) -> TrainerState:
        return TrainerState(self.model, self.optimizer, self.scaler, self.average, self.window)
