"""What of a T3 is trained; the rest keeps its bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.core.errors import ConfigError
from dimts.families.acoustic.model.embedding import PartlyFrozenEmbedding
from dimts.families.chatterbox.model.lora import add_lora
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.settings import ModelConfig
from dimts.training.task import count_parameters

KEY = "model.freeze_until_index"


class PartlyFrozenHead(PartlyFrozenEmbedding):
    """A linear layer without bias of which some rows cannot change."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., V]."""
        return F.linear(x, self.weight)

    @property
    def weight(self) -> Tensor:
        """[V, C]: all rows in the order of ids, as a copy."""
        every_V = torch.arange(len(self.place_V), device=self.place_V.device)
        return PartlyFrozenEmbedding.forward(self, every_V)


def set_trained(model: T3, config: ModelConfig, placed: frozenset[int]) -> dict[str, int]:
    """Freeze in place what the settings do not train, before an optimizer or DDP sees it.

    Args:
        model: as it starts; gets its adapters here.
        config: what is trained.
        placed: rows of text that `dimts extend` gave to the language; they are always trained.

    Returns:
        ``trained`` and ``frozen`` values of the parameters, and ``frozen_rows`` of text.

    Raises:
        ConfigError: the index does not fit the vocabulary.
    """
    if config.mode != "full":
        model.requires_grad_(False)
        model.text_emb.requires_grad_(True)
        model.text_head.requires_grad_(True)
    if config.mode == "top_layers":
        assert config.top_layers
        if config.top_layers > (n_layers := len(model.tfmr.layers)):
            raise ConfigError(f"model.top_layers={config.top_layers}: there are {n_layers} blocks")
        for part in (*model.tfmr.layers[-config.top_layers :], model.tfmr.norm, model.speech_head):
            part.requires_grad_(True)
    if config.lora:
        add_lora(model, config.lora)
    frozen_V = _frozen_rows(config, placed, model.text_emb.weight)
    if n_frozen := int(frozen_V.sum()):
        if n_frozen == len(frozen_V):
            model.text_emb.requires_grad_(False)
            model.text_head.requires_grad_(False)
        else:
            rows = nn.Embedding.from_pretrained(model.text_head.weight.detach(), freeze=False)
            model.text_emb = PartlyFrozenEmbedding(model.text_emb, frozen_V)  # type: ignore[assignment]
            model.text_head = PartlyFrozenHead(rows, frozen_V)  # type: ignore[assignment]
    return {**count_parameters(model), "frozen_rows": n_frozen}


def _frozen_rows(config: ModelConfig, placed: frozenset[int], weight_VC: Tensor) -> Tensor:
    """Which rows of the tables of text are frozen, bool [V]."""
    n_rows, index = len(weight_VC), config.freeze_until_index
    if index == "n_base":
        if not placed:
            raise ConfigError(
                f"{KEY}=n_base: nothing says which rows are new, as the base was not extended by "
                "dimts extend; give a number of rows"
            )
        index = n_rows
    assert isinstance(index, int)
    if index > n_rows:
        raise ConfigError(f"{KEY}={index}: the vocabulary has {n_rows} rows; give at most that")
    frozen_V = weight_VC.new_zeros(n_rows).bool()
    frozen_V[:index] = True
    frozen_V[sorted(placed)] = False
    return frozen_V
