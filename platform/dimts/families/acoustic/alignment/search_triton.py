"""`search` on a GPU: one program an utterance, and the CPU does not wait for it.

It adds and compares the same float32 numbers in the same order as `search_one`, so the paths are
the same. A state may be passed over only where the one before it may not, as `skippable_states`
has it.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from dimts.families.acoustic.alignment.search import skippable_states

log = logging.getLogger(__name__)


@triton.jit(do_not_specialize=["n_frames", "n_states"])  # type: ignore[untyped-decorator]
def _search(  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    scores_BTJ,
    came_from_BTJ,
    durations_BJ,
    n_frames_B,
    n_states_B,
    skippable_J,
    n_frames,
    n_states,
    BLOCK: tl.constexpr,
):
    FORBIDDEN: tl.constexpr = -1e30
    b = tl.program_id(0)
    frames, states = tl.load(n_frames_B + b), tl.load(n_states_B + b)
    scores_TJ = scores_BTJ + b.to(tl.int64) * n_frames * n_states
    came_from_TJ = came_from_BTJ + b.to(tl.int64) * n_frames * n_states
    j = tl.arange(0, BLOCK)
    real = j < states
    skips = tl.load(skippable_J + j - 1, mask=(j > 0) & real, other=0) != 0
    score = tl.load(scores_TJ + j, mask=real, other=0.0)
    best = tl.where((j == 0) | (skips & (j == 1)), score, FORBIDDEN)
    score = tl.load(scores_TJ + n_states + j, mask=real & (frames > 1), other=0.0)
    for t in range(1, frames):
        # Asked for a frame ahead: the loop waits for memory otherwise.
        ahead = tl.load(scores_TJ + (t + 1) * n_states + j, mask=real & (t + 1 < frames), other=0.0)
        one_before = tl.where(j > 0, tl.gather(best, tl.maximum(j - 1, 0), 0), FORBIDDEN)
        two_before = tl.where(j > 1, tl.gather(best, tl.maximum(j - 2, 0), 0), FORBIDDEN)
        passes = skips & (two_before > one_before)
        enter = tl.where(passes, two_before, one_before)
        enters = enter > best
        best = tl.where(enters, enter, best)
        best = tl.where(best > FORBIDDEN, best + score, FORBIDDEN)
        step = tl.where(enters, tl.where(passes, 2, 1), 0).to(tl.int8)
        tl.store(came_from_TJ + t * n_states + j, step, mask=real)
        score = ahead
    last = states - 1
    end = tl.sum(tl.where(j == last, best, 0.0))
    before = tl.sum(tl.where(j == last - 1, best, 0.0))
    if (last > 0) & (tl.load(skippable_J + last) != 0) & (before > end):
        last -= 1
        end = before
    tl.debug_barrier()  # what one thread has stored, another one reads
    if end > FORBIDDEN:
        run = 0
        for back in range(frames):
            t = frames - 1 - back
            step = tl.load(came_from_TJ + t * n_states + last, mask=t > 0, other=0).to(tl.int32)
            run += 1
            tl.store(durations_BJ + b * n_states + last, run, mask=(step > 0) | (t == 0))
            run = tl.where(step > 0, 0, run)
            last -= step


def search_on_device(
    scores_BTJ: Tensor, n_frames_B: Tensor, n_states_B: Tensor, states_per_token: int
) -> Tensor:
    """Frames in each state, int32 [B, J], on the scores' device.

    Unlike `search` it does not look whether an utterance is too short for its states, which
    would make the CPU wait: such a one gets no frames at all.

    Args:
        scores_BTJ: float32, log-likelihood of frame t in state j.
        n_frames_B, n_states_B: int64, lengths without padding.
        states_per_token: what `skippable_states` makes of the states.
    """
    b, t, j = scores_BTJ.shape
    came_from_BTJ = torch.empty(b, t, j, dtype=torch.int8, device=scores_BTJ.device)
    durations_BJ = torch.zeros(b, j, dtype=torch.int32, device=scores_BTJ.device)
    skippable_J = _skippable(j // states_per_token, states_per_token, scores_BTJ.device)
    _search[(b,)](
        scores_BTJ.contiguous(),
        came_from_BTJ,
        durations_BJ,
        n_frames_B,
        n_states_B,
        skippable_J,
        t,
        j,
        BLOCK=max(64, triton.next_power_of_2(j)),
        num_warps=2,
    )
    return durations_BJ


@lru_cache(maxsize=256)
def _skippable(n_tokens: int, n_states: int, device: torch.device) -> Tensor:
    return torch.from_numpy(skippable_states(n_tokens, n_states)).to(device, torch.int8)


@lru_cache(maxsize=1)
def works() -> bool:
    """Whether Triton compiles here; it needs a C compiler, and not every GPU will do."""
    try:
        two = torch.full((1,), 2, device="cuda")
        return bool(search_on_device(torch.zeros(1, 2, 2, device="cuda"), two, two, 1).all())
    except Exception as error:  # whatever it is, the search on the CPU goes on without it
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning("alignment is searched on the CPU, as Triton does not work here: %s", first)
        return False
