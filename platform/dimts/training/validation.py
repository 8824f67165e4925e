"""The losses on held-out utterances."""

from __future__ import annotations

from functools import partial

import torch
from torch import distributed as dist
from torch import nn

from dimts.core.errors import UserError
from dimts.training.memory import fits, smaller_batch
from dimts.training.task import Dataset, Moment

VALIDATION_BATCH = 16


@torch.no_grad()
def validation_losses(
    dataset: Dataset, module: nn.Module, moment: Moment, device: torch.device
) -> dict[str, float]:
    """``val/*`` of all utterances together, each rank computing its share.

    A batch that does not fit into memory is computed in parts.

    Args:
        dataset: the validation split.
        module: of the objective, in eval mode on `device`.
        moment: of the run; the losses are those of its end, whatever the phase of training.
        device: of the module.

    Raises:
        UserError: the split is empty, or one utterance of it does not fit into memory.
    """
    if not len(dataset):
        raise UserError(
            "no utterance is held out to validate on; raise prepare.val_share and run "
            "dimts prepare again, or set training.validate_every=0"
        )
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    order = dataset.lengths.argsort(kind="stable").tolist()
    whole = range(len(dataset))
    names: list[str] = []
    sums = torch.zeros(0, device=device)
    size = VALIDATION_BATCH

    def add(own: list[int]) -> None:
        nonlocal names, sums
        batch = dataset.collate(own, whole, pad_to_multiple=device.type == "cuda").to(device)
        losses = module(batch, moment.at_the_end)
        names = list(losses)
        sums = (sums if len(sums) else sums.new_zeros(len(names))) + torch.stack(
            list(losses.values())
        )

    for start in range(0, len(order), VALIDATION_BATCH * world_size):
        own = order[start : start + VALIDATION_BATCH * world_size][rank::world_size]
        while own:
            if fits(partial(add, own[:size]), device):
                own = own[size:]
            else:
                size = smaller_batch(size)
    if world_size > 1:
        # A rank without an utterance does not know the names.
        shared = [names]
        dist.broadcast_object_list(shared, device=device if device.type == "cuda" else None)
        names = shared[0]
        sums = sums if len(sums) else sums.new_zeros(len(names))
        dist.all_reduce(sums)
    return {f"val/{name}": value for name, value in zip(names, sums.tolist(), strict=True)}
