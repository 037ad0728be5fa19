"""The LightningModule: trains, scores and saves a network over captioned pictures."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics.utilities.distributed import gather_all_tensors

from mmlabel.criterion import MeanOverKnown, terms_of_a_process
from mmlabel.data.batches import Batch
from mmlabel.errors import no_numbers
from mmlabel.metrics import score
from mmlabel.optimizers import step_plateau
from mmlabel.thresholds import FINDERS, Raised

if TYPE_CHECKING:
    from mmlabel.models.build import BackboneSource

BACKBONE = "network.encoders.image.backbone."  # where a checkpoint's state dict keeps it


@dataclass(frozen=True)
class Evaluated:
    """What the network answered to the rows of one split, in the split's order.

    Attributes:
        rows: (n,) positions within the split; all of it, unless Lightning was told to limit it.
        probabilities, targets: (n, num_labels).
        known: (n, num_labels) bool, which of the targets are; None: all.
    """

    rows: Tensor
    probabilities: Tensor
    targets: Tensor
    known: Tensor | None


def _nobody(note: str) -> None:
    """Takes what no user has to know; a lambda could not be pickled."""


class Classifier(pl.LightningModule):
    """A network with its loss, optimizer and scores.

    Args:
        network: maps a `Batch` to logits (B, num_labels); `loss(batch, criterion)` is what training
            lowers, and `evaluate(batch, criterion)` gives logits and loss at once. Where
            this is not the mean over known targets, `terms(batch)` says (B,) of how many terms of
            each row it is.
        criterion: of logits and targets.
        label_names: name of each label number, "" for a number that does not exist.
        threshold: a number, one for each label, or how to find it on validation, see
            `mmlabel.thresholds.FINDERS`.
        threshold_metric: the score that is highest there.
        seed: of dropout.
        configure: the optimizer and schedule of this network for so many steps, as Lightning
            takes them; None: the network is not trained.
        content: what a checkpoint of this run keeps besides weights and threshold, as plain values;
            see `mmlabel.checkpoint`.
        backbone: where the network's backbone is to be had when it was built without one, because
            stored features stand in for pictures.
        note: takes what a user has to know of how training went.

    Attributes:
        scores: "val/f1_micro" and so on, of each split's last pass.
        evaluated: answers of each split's last pass, by split.
        rows_trained: training rows seen in an epoch, by all processes; some twice where their
            number is no multiple of the processes'. Of an epoch that was ended within
            (trainer.max_steps) there are fewer than of a whole one, which counts.
        validated: whether the epoch that is trained has been.
        step_loss: of the last batch that was trained on.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        criterion: MeanOverKnown,
        label_names: list[str],
        threshold: float | list[float] | str,
        threshold_metric: Raised = "f1_micro",
        seed: int = 0,
        configure: Callable[[nn.Module, int], Any] | None = None,
        content: dict[str, Any] | None = None,
        backbone: "BackboneSource | None" = None,
        note: Callable[[str], None] = _nobody,
    ) -> None:
        super().__init__()
        self.network = network
        self.criterion = criterion
        self.label_names = label_names
        self.calibration = threshold if isinstance(threshold, str) else None
        self.threshold: float | list[float] = 0.5 if isinstance(threshold, str) else threshold
        self.threshold_metric: Raised = threshold_metric
        self.seed = seed
        self.configure = configure
        self.content = content
        self.backbone = backbone
        self.note = note
        self.scores: dict[str, float] = {}
        self.evaluated: dict[str, Evaluated] = {}
        self.rows_trained = 0
        self._rows_of_epoch = 0
        self._seen: list[tuple[Tensor, ...]] = []
        self.validated = False
        self.step_loss: Tensor | None = None
        self._collapsed = False

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_labels)."""
        return self.network(batch)

    def setup(self, stage: str) -> None:
        # The feature store may turn out to be of no use (a full disk): then pictures are coming.
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.backbone is not None and data.features is None:
            self.network.encoders["image"].backbone = self.backbone.backbone  # type: ignore[index]
            self.backbone = None
        # The data may have left rows out since network and loss were made of them.
        if stage == "fit":
            targets = data.prepared.training_targets
            self.criterion.weigh(targets, data.prepared.training_known)
            if hasattr(self.network, "count_labels"):
                self.network.count_labels(targets.sum(axis=0))  # type: ignore[operator]
        if getattr(self.network, "given_order", None) is not None:
            order = torch.from_numpy(data.prepared.training_label_order)
            self.network.given_order = order.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout then depends on the seed and the epoch alone: a run that is killed and resumed
        # goes on exactly as it would have. (At the epoch's start would be too early: a loader
        # draws a number of its own, and in a resumed run it does so before.)
        if batch_idx == 0:
            own = self.global_rank * 10_007  # the rows of no two processes lose the same units
            torch.manual_seed(self.seed * 1_000_003 + own + self.current_epoch)
            self._rows_of_epoch = 0
            self.validated = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.network.loss(batch, self.criterion)  # type: ignore[operator]
        self.step_loss = loss.detach()
        self._rows_of_epoch += len(batch.rows) * self.trainer.world_size
        self.rows_trained = max(self.rows_trained, self._rows_of_epoch)
        self.log(
            "train/loss",
            loss,
            on_step=False,
            on_epoch=True,
            logger=False,  # see `on_train_epoch_end`
            batch_size=self._weight(batch),
            sync_dist=self.trainer.world_size > 1,
        )
        # Lightning divides by trainer.accumulate_grad_batches, also where fewer batches are left.
        batches, every = self.trainer.num_training_batches, self.trainer.accumulate_grad_batches
        left = int(batches) % every
        return loss * (every / left) if batch_idx >= batches - left else loss

    def on_train_epoch_end(self) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, Optimizer)
        # Here, before the epoch's checkpoint: Lightning would do both after, and a run that ends
        # in between lack the line, and a resumed one the step.
        loss = self.trainer.callback_metrics["train/loss"].item()
        figures = {"train/loss": loss, "lr": optimizer.param_groups[0]["lr"]}
        for logger in self.loggers:
            logger.log_metrics({**figures, "epoch": self.current_epoch}, step=self.global_step - 1)
        for config in self.trainer.lr_scheduler_configs if self.validated else ():
            if isinstance(config.scheduler, ReduceLROnPlateau):
                reached = self.trainer.callback_metrics[str(config.monitor)]
                step_plateau(config.scheduler, reached, epoch=self.current_epoch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:
            self._warn_of_collapse(batch)
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    def _warn_of_collapse(self, batch: Batch) -> None:
        """Say so where training has brought a backbone to tell pictures apart no more."""
        encoders = getattr(self.network, "encoders", {})
        image: Any = encoders["image"] if "image" in encoders else None
        if self._collapsed or image is None or not _is_trained(image.backbone):
            return
        assert batch.image is not None
        if torch.equal(batch.image, batch.image[:1].expand_as(batch.image)):
            return  # one picture with several captions
        features = image.features_of(batch.image)  # (B, F)
        if features.std(dim=0).max() <= 1e-4 * features.abs().max():
            self._collapsed = True
            self.note(
                "the backbone gives every picture the same features: too high a learning rate has"
                " destroyed its weights, and the model no longer sees pictures; lower"
                " backbone.lr_scale or optimizer.lr"
            )

    def _weight(self, batch: Batch) -> Any:
        """What the loss of a training batch counts for among the epoch's: its terms, or its rows
        where all have equally many. A tensor is as good to Lightning, and no GPU waits for it."""
        if batch.known is None and getattr(self.network, "terms", None) is None:
            return len(batch.rows)
        # Not 0, of which there may be nothing else.
        return terms_of_a_process(self._terms(batch).sum().float(), training=True, least=1e-6)

    def _terms(self, batch: Batch) -> Tensor:
        """(B,) of how many terms of each row the loss is the mean."""
        terms = getattr(self.network, "terms", None)
        if terms is not None:
            return terms(batch)
        known = torch.ones_like(batch.targets) if batch.known is None else batch.known
        return known.sum(dim=1)

    def _evaluate(self, batch: Batch) -> None:
        logits, loss = self.network.evaluate(batch, self.criterion)  # type: ignore[operator]
        probabilities = logits.float().sigmoid()
        known = torch.ones_like(batch.targets, dtype=torch.bool)
        if batch.known is not None:
            known = batch.known
        each = loss.expand(len(logits))
        terms = self._terms(batch)
        self._seen.append((batch.rows, probabilities, batch.targets, known, each, terms))

    def _finish(self, split: str) -> None:
        """Score what was seen of the split at once, over all processes, each row once."""
        if not self._seen:
            return
        columns = [torch.cat(column) for column in zip(*self._seen, strict=True)]
        self._seen.clear()
        if self.trainer.world_size > 1:
            columns = [torch.cat(gather_all_tensors(column.contiguous())) for column in columns]
        rows, probabilities, targets, known, losses, terms = (column.cpu() for column in columns)
        if probabilities.isnan().any() and self.trainer.state.fn != "fit":
            raise no_numbers(f"the answers to the {split} rows")
        order = rows.argsort()
        self.evaluated[split] = Evaluated(
            rows[order],
            probabilities[order],
            targets[order],
            None if known.all() else known[order],
        )
        self.scores[f"{split}/loss"] = _mean_loss(losses.double(), terms)
        self._score(split)
        # The pass that scores the selected checkpoint is no point of the learning curves.
        if split == "test" or self.trainer.state.fn == "fit":
            own = {name: value for name, value in self.scores.items() if name.startswith(split)}
            # Test scores are those of the epoch that was kept, which is known outside of this one.
            logged = False if split == "test" else None
            self.log_dict(own, sync_dist=self.trainer.world_size > 1, logger=logged)
            self.validated = True

    def _score(self, split: str) -> None:
        threshold = torch.tensor(self.threshold)
        if threshold.ndim:
            threshold = threshold[self._label_numbers]
        probabilities, targets, known = self._existing_labels(split)
        scores = score(probabilities, targets, threshold, known)
        self.scores |= {f"{split}/{name}": value for name, value in scores.items()}

    @property
    def _label_numbers(self) -> list[int]:
        """Without those that do not exist (0 and 12 in the report's data), which are no answers."""
        return [number for number, name in enumerate(self.label_names) if name]

    def _existing_labels(self, split: str) -> tuple[Tensor, Tensor, Tensor | None]:
        found, numbers = self.evaluated[split], self._label_numbers
        known = None if found.known is None else found.known[:, numbers]
        return found.probabilities[:, numbers], found.targets[:, numbers], known

    def answer_at(self, threshold: float | str, metric: Raised = "f1_micro") -> None:
        """Answer at another threshold, or find it on validation, see `Classifier`."""
        self.calibration = threshold if isinstance(threshold, str) else None
        self.threshold = 0.5 if isinstance(threshold, str) else threshold
        self.threshold_metric = metric

    def calibrate(self) -> None:
        """Set the threshold that is to be found on validation, which must have been evaluated."""
        find = FINDERS[self.calibration or "auto"]
        found = torch.as_tensor(find(*self._existing_labels("val"), raised=self.threshold_metric))
        if found.ndim:
            thresholds = torch.full((len(self.label_names),), 0.5)
            thresholds[self._label_numbers] = found.float()
            self.threshold = [round(value, 2) for value in thresholds.tolist()]
        else:
            self.threshold = round(found.item(), 2)
        self._score("val")

    def configure_optimizers(self) -> Any:
        assert self.configure is not None
        steps = self.trainer.estimated_stepping_batches  # infinite where only time ends a run
        return self.configure(self.network, int(steps) if math.isfinite(steps) else 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mmlabel"] = {
            **(self.content or {}),
            "threshold": self.threshold,
            "calibrated": self.calibration is None,
        }
        checkpoint["rows_trained"] = self.rows_trained

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A run may go on for less than an epoch. One of an earlier version has no such number.
        self.rows_trained = max(self.rows_trained, checkpoint.get("rows_trained", 0))
        # While features come from the store, the network has no backbone and its checkpoints
        # lack one until the run ends. A frozen backbone's weights are the same either way.
        own = self.state_dict()
        # Beside averaged weights there are those that training goes on from.
        for saved in (checkpoint["state_dict"], checkpoint.get("current_model_state", {})):
            for key in [key for key in saved if key.startswith(BACKBONE) and key not in own]:
                del saved[key]
            for key in [key for key in own if key.startswith(BACKBONE) and key not in saved]:
                saved[key] = own[key]


def _is_trained(backbone: nn.Module | None) -> bool:
    return backbone is not None and any(w.requires_grad for w in backbone.parameters())


def _mean_loss(losses: Tensor, terms: Tensor) -> float:
    """The mean over all terms, of losses (n,) each of which is its batch's, of terms (n,) a row."""
    if (terms == terms[0]).all():
        return losses.mean().item()
    return ((losses * terms).sum() / terms.sum().clamp(min=1)).item()
