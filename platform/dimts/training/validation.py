"""The losses on held-out utterances."""

from __future__ import annotations

from functools import partial

import torch
from torch import distributed as dist
from torch import nn

from dimts.core.errors import UserError
from dimts.training.distributed import from_rank_0, rank, world_size
from dimts.training.memory import fits, smaller_parts
from dimts.training.task import Dataset, Losses, Moment

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
    order = dataset.lengths.argsort(kind="stable").tolist()
    whole = range(len(dataset))
    names: list[str] = []
    sums = torch.zeros(1, device=device)
    parts = 1

    def compute(own: list[int]) -> Losses:
        batch = dataset.collate(own, whole, pad_to_multiple=device.type == "cuda").to(device)
        losses: Losses = module(batch, moment.at_the_end)
        return losses

    for start in range(0, len(order), VALIDATION_BATCH * world_size()):
        own = order[start : start + VALIDATION_BATCH * world_size()][rank() :: world_size()]
        while own:
            size = VALIDATION_BATCH // parts
            losses = fits(partial(compute, own[:size]), device)
            if losses is None:
                parts = smaller_parts(parts, VALIDATION_BATCH)
                continue
            names, own = list(losses), own[size:]
            sums = sums + torch.stack(list(losses.values()))
    if world_size() > 1:
        names = from_rank_0(names, device)  # a rank without an utterance does not know them
        sums = sums.expand(len(names)).contiguous()
        dist.all_reduce(sums)
    return {f"val/{name}": value for name, value in zip(names, sums.tolist(), strict=True)}
