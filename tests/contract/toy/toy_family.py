"""A family without mel and without text: a generator of waves and its critic, on random crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dimts.bundles import bundle as bundles
from dimts.core.config import Config, build_config
from dimts.core.metric import Metric
from dimts.families.protocol import Family, Measured, Sections
from dimts.training.config import RunSettings
from dimts.training.task import Batch, Losses, Moment, Objective, Seed, Task

SELECTION = Metric("val/agreement", "samples foretold", direction="maximize", short="agreement")
MEASURED = Metric("val/share", "samples foretold", direction="maximize", when="measured")
SHARE = Metric("share", "samples foretold", direction="maximize", tables=("held_out", "promotion"))
UTTERANCES = {"train": 32, "val": 8, "test": 8}


class ToyModel(Config):
    width: int = 8
    crop: int = 40
    freeze: bool = False


class ToySections(Sections):
    model: ToyModel = ToyModel()


class ToySettings(RunSettings):
    model: ToyModel


@dataclass(frozen=True)
class ToyBatch(Batch):
    wave_BT: Tensor


class ToyData:
    """Sine waves, each with a frequency of its own, of which a batch has random crops."""

    def __init__(self, split: str, crop: int):
        self.ids = [f"{split}_{n}" for n in range(UTTERANCES[split])]
        self.lengths = np.arange(len(self.ids), dtype=np.int64) * 3 + 60
        self._crop, self._detune = crop, 0.003 * len(split)

    def __len__(self) -> int:
        return len(self.ids)

    def collate(
        self, indices: Sequence[int], whole: Sequence[int] | None = None, *,
        seed: Seed = (0,), pad_to_multiple: bool = False,
    ) -> ToyBatch:  # fmt: skip
        waves = [self._crop_of(index, seed) for index in indices]
        size = len(indices if whole is None else whole) * self._crop
        return ToyBatch([self.ids[i] for i in indices], size, torch.stack(waves))

    def _crop_of(self, index: int, seed: Seed) -> Tensor:
        start = np.random.default_rng((*seed, index)).integers(self.lengths[index] - self._crop)
        return torch.sin((start + torch.arange(self._crop)) * (0.2 + 0.02 * index + self._detune))


class Generator(nn.Module):  # foretells each sample from the two before it
    def __init__(self, config: ToyModel):
        super().__init__()
        self.first = nn.Conv1d(1, config.width, 2).requires_grad_(not config.freeze)
        self.last = nn.Conv1d(config.width, 1, 1)

    def forward(self, wave_BT: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(wave_BT[:, None, :-1])))[:, 0]


class Loss(nn.Module):
    def __init__(self, trained: nn.Module, other: nn.Module):
        super().__init__()
        self.trained, self._other = trained, [other]  # in a list torch does not register it


class GeneratorLoss(Loss):
    def forward(self, batch: ToyBatch, moment: Moment) -> Losses:
        told, heard = self.trained(batch.wave_BT), batch.wave_BT[:, 2:]
        error = (told - heard).square().sum() - 0.01 * self._other[0](told[..., None]).sum()
        near = ((told.detach() - heard).abs() < 0.2).sum()
        return {"loss": error / batch.size, "agreement": near / batch.size}


class CriticLoss(Loss):
    def forward(self, batch: ToyBatch, moment: Moment) -> Losses:
        with torch.no_grad():
            told = self._other[0](batch.wave_BT)
        real, made = self.trained(batch.wave_BT[:, 2:, None]), self.trained(told[..., None])
        return {"critic_loss": ((1 - real).square().sum() + made.square().sum()) / batch.size}


class ToySpeaker:
    sample_rate, languages, voices = 8000, ("toy",), ()

    def __init__(self, model: Generator):
        self.model = model

    @torch.no_grad()
    def speak(self, text: str, **_: Any) -> NDArray[np.float32]:
        return self.model(torch.sin(torch.arange(100.0 * len(text)))[None])[0].numpy()


class ToyFamily(Family):
    name, decides, metrics = "toy", SHARE, (SELECTION, MEASURED, SHARE)
    Sections, Settings = ToySections, ToySettings

    def task(self, settings: ToySettings, device: torch.device) -> Task:
        torch.manual_seed(settings.training.seed)
        model, critic = Generator(settings.model).to(device), nn.Linear(1, 1).to(device)
        train, val = (ToyData(split, settings.model.crop) for split in ("train", "val"))
        rate = settings.training.optimizer
        objectives = (
            Objective("generator", GeneratorLoss(model, critic), rate),
            Objective("critic", CriticLoss(critic, model), rate, start_step=2),
        )

        def write(folder: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
            own = {"family": "toy", "features": "toy"}
            bundles.write_bundle(folder, weights, settings.config_yaml, {**facts, **own})

        return Task(model, objectives, train, val, SELECTION, "samples", write)

    def load(self, bundle: Path, device: str | torch.device = "cpu") -> ToySpeaker:
        bundles.read_manifest(bundle)
        settings = bundles.read_settings(bundle, ("model",))
        model = Generator(build_config(ToyModel, settings["model"]))
        bundles.load_weights(model, bundles.read_weights(bundle), bundle)
        return ToySpeaker(model.to(device).eval())

    def scores(self, settings: Any, bundle: Path, split: str, device: torch.device) -> Measured:
        data, loss = ToyData(split, 40), GeneratorLoss(self.load(bundle).model, nn.Linear(1, 1))
        with torch.no_grad():
            told = [loss(data.collate([n]), Moment(0, 1))["agreement"] for n in range(len(data))]
        return Measured(data.ids, np.array(told), {"share": float(np.mean(told))})


FAMILY = ToyFamily()
