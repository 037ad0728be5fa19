"""Text transformers whose weights a finished checkpoint keeps in half precision.

They are most of what such a network weighs. What is scored are the weights that are kept: they are
rounded before the last validation and the test.
"""

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

TRANSFORMER = "encoders.caption.transformer.model."  # before the names of its weights


def text_in_half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the weights of its text transformers as float16."""
    return {
        name: value.half() if TRANSFORMER in name and value.is_floating_point() else value
        for name, value in state.items()
    }


class RoundedText(Callback):
    """Rounds the weights of text transformers to float16 when training is over."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn is not TrainerFn.VALIDATING:
            return  # within an epoch, which goes on with the weights as they are
        with torch.no_grad():
            for name, weights in pl_module.named_parameters():
                if TRANSFORMER in name:
                    weights.copy_(weights.half())
