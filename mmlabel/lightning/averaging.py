"""Averages of the weights of many steps, which are validated, kept and tested in their place.

Lightning's `WeightAveraging` keeps the average beside the weights that are trained, in single
precision whatever theirs is, puts it in their place for validation, and writes both into
checkpoints: a resumed run goes on from the one, whoever reads the checkpoint is given the other.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class AveragedWeights(WeightAveraging):
    """An average of weights that stands for them from validation on.

    Args:
        share: of the newest weights in the average, from the number of those in it already.
    """

    def __init__(self, share: Callable[[int], float]) -> None:
        super().__init__(
            avg_fn=lambda average, new, number: _moved(average, new, share(int(number)))
        )
        self._aside: list[Tensor] | None = None  # the weights that are trained, in validation

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # It may give the network a backbone, which the average is a copy of.
        pl_module.setup(stage)
        super().setup(trainer, pl_module, stage)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        # A checkpoint that is evaluated now holds the average as its weights: nothing is swapped.
        self._average_model = None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Of a resumed run that had been trained to its end Lightning begins and ends no training.
        if self._average_model is not None:
            self.on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._average_model is not None and self._average_model.n_averaged == 0:
            # There is no average yet: the weights that were validated are those of now.
            checkpoint["state_dict"] = dict(checkpoint["current_model_state"])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        # Lightning's way puts each into the other's place, where it may lose half of its bits.
        if self._average_model is None or self._average_model.n_averaged == 0:
            return
        own = list(chain(pl_module.parameters(), pl_module.buffers()))
        if self._aside is None:
            self._aside = [tensor.detach().clone() for tensor in own]
            self._copy_average_to_current(pl_module)
        else:
            for tensor, value in zip(own, self._aside, strict=True):
                tensor.data.copy_(value)
            self._aside = None

    def _copy_average_to_current(self, pl_module: pl.LightningModule) -> None:
        if self._average_model is not None and self._average_model.n_averaged > 0:
            super()._copy_average_to_current(pl_module)


def _moved(average: Tensor, new: Tensor, share: float) -> Tensor:
    # What does not change, such as a frozen backbone, stays the same to the last bit.
    return average.lerp(new.to(average.dtype), share) if average.is_floating_point() else new


class MovingAverage(AveragedWeights):
    """Exponential moving average, updated after every step.

    Args:
        decay: share of the former average that stays in a step, in 0..1. At first it is less,
            (1 + n) / (10 + n) after n steps, so that random first weights are soon forgotten.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(lambda number: 1 - min(decay, (1 + number) / (10 + number)))


class EpochAverage(AveragedWeights):
    """The mean of the weights at each epoch's end (SWA, Izmailov et al. 2018, arXiv:1803.05407).

    Batch norms' running means and variances are averaged as the weights are. Algorithm 1 of the
    paper computes them anew for the averaged weights, in one more pass over the training rows.

    Args:
        start: the first epoch that counts; before its end the weights of now stand for themselves.
    """

    def __init__(self, start: int) -> None:
        super().__init__(lambda number: 1 / (number + 1))
        self.start = start

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A checkpoint of an earlier version has an average of the epoch before it begins, too.
        if trainer.current_epoch <= self.start:
            assert self._average_model is not None
            self._average_model.n_averaged.zero_()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # At the epoch's end it would be too late: the epoch's validation comes before.
        is_last = batch_idx + 1 >= trainer.num_training_batches
        if is_last and trainer.current_epoch >= self.start:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
