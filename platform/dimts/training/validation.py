"""The loss on held-out utterances."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import distributed as dist

from dimts.core.errors import UserError
from dimts.families.acoustic.model.loss import TTSLoss
from dimts.training.memory import fits, smaller_batch
from dimts.training.sampler import Batch, Corpus

VALIDATION_BATCH = 16


@torch.no_grad()
def validation_losses(
    corpus: Corpus, loss_of: Callable[[Batch], TTSLoss], device: torch.device
) -> dict[str, float]:
    """``val/*`` of all utterances together, each rank computing its share.

    Durations are searched by the model itself, whatever the phase of training. A batch that does
    not fit into memory is computed in parts.

    Args:
        corpus: the validation split.
        loss_of: the loss of a batch on `device`, divided by the frames and tokens it names.
        device: of the model.

    Raises:
        UserError: the split is empty, or one utterance of it does not fit into memory.
    """
    if not len(corpus):
        raise UserError(
            "no utterance is held out to validate on; raise prepare.val_share and run "
            "dimts prepare again, or set training.validate_every=0"
        )
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    order = corpus.utterances.n_frames.argsort(kind="stable").tolist()
    sums = torch.zeros(len(TTSLoss._fields), device=device)
    size = VALIDATION_BATCH

    def add(own: list[int]) -> None:
        batch = corpus.batch(own, range(len(corpus)), device.type == "cuda").to(device)
        batch.durations_BNS = None
        batch.total_frames *= world_size
        batch.total_tokens *= world_size
        sums.add_(torch.stack(list(loss_of(batch))))

    for start in range(0, len(order), VALIDATION_BATCH * world_size):
        own = order[start : start + VALIDATION_BATCH * world_size][rank::world_size]
        while own:
            if fits(partial(add, own[:size]), device):
                own = own[size:]
            else:
                size = smaller_batch(size)
    if world_size > 1:
        dist.all_reduce(sums)
    values = {f"val/{n}_loss": m for n, m in zip(TTSLoss._fields, sums.tolist(), strict=True)}
    values["val/mel_mse"] = values.pop("val/mel_mse_loss")
    return values
