"""The LightningModule: trains, scores and saves a network over captioned pictures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from mmlabel.cache import atomic_write
from mmlabel.data.batch import Batch
from mmlabel.data.captions import Vocabulary
from mmlabel.errors import UserError
from mmlabel.losses import build_loss
from mmlabel.metrics import best_threshold, best_thresholds, score
from mmlabel.models.build import BackboneSource, build_network, network_inputs, uses_detector
from mmlabel.optimizers import build_optimizer, build_scheduler

CALIBRATED = ("auto", "per_label")  # values of `threshold` that are found on validation
BACKBONE = "network.encoders.image.backbone."  # where a checkpoint's state dict keeps it


class Classifier(pl.LightningModule):
    """A network with its loss, optimizer and scores.

    A checkpoint of it holds `settings`, `vocabulary` and `label_names`, all plain Python values, so
    that it loads with `weights_only=True` and predicts with nothing beside it.

    Args:
        network: maps a `Batch` to logits (B, num_labels); `loss(batch, criterion)` is what training
            lowers, and `evaluate(batch, criterion)` gives logits and loss at once.
        settings: the resolved configuration of the run.
        vocabulary: the words that token numbers stand for.
        label_names: name of each label number, "" for a number that does not exist.
        pretrained: where the weights of backbone and word vectors come from, in words.
        pos_weight: (num_labels,) weight of positives for loss=bce_pos_weight.
        backbone: where the network's backbone is to be had when it was built without one, because
            stored features stand in for pictures.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        settings: dict,
        vocabulary: Vocabulary,
        label_names: list[str],
        pretrained: dict[str, str],
        pos_weight: np.ndarray | None = None,
        backbone: BackboneSource | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.vocabulary = vocabulary
        self.label_names = label_names
        self.pretrained = pretrained
        self.backbone = backbone
        self.criterion = build_loss(**settings["loss"], pos_weight=pos_weight)
        # A number or one for each label; replaced by what is best on validation if that is asked
        # for.
        chosen = settings["threshold"]
        self.threshold: float | list[float] = 0.5 if chosen in CALIBRATED else chosen
        self._seen: list[tuple[Tensor, ...]] = []
        self.scores: dict[str, float] = {}  # "val/f1_micro" and so on, of each split's last pass
        # Of the split evaluated last, in its order: probabilities and targets (n, num_labels).
        self.evaluated: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_labels)."""
        return self.network(batch)

    def setup(self, stage: str) -> None:
        # The feature store may turn out to be of no use (a full disk): then pictures are coming.
        if self.backbone is not None and self.trainer.datamodule.features is None:
            self.network.encoders["image"].backbone = self.backbone.backbone
            self.backbone = None

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        # Dropout then depends on the seed and the epoch alone: a run that is killed and resumed
        # goes on exactly as it would have. (At the epoch's start would be too early: a loader
        # draws a number of its own, and in a resumed run it does so before.)
        if index == 0:
            torch.manual_seed(self.settings["seed"] * 1_000_003 + self.current_epoch)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = self.network.loss(batch, self.criterion)
        self.log(
            "train/loss",
            loss,
            on_step=False,
            on_epoch=True,
            batch_size=len(batch.rows),
            sync_dist=self.trainer.world_size > 1,
        )
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("lr", self.optimizers().param_groups[0]["lr"])

    def validation_step(self, batch: Batch, _: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: Batch, _: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    def _evaluate(self, batch: Batch) -> None:
        logits, loss = self.network.evaluate(batch, self.criterion)
        probabilities = logits.float().sigmoid()
        self._seen.append((batch.rows, probabilities, batch.targets, loss.expand(len(logits))))

    def _finish(self, split: str) -> None:
        """Score the whole split at once, over all processes, each row once."""
        columns = [torch.cat(column) for column in zip(*self._seen, strict=True)]
        self._seen.clear()
        if self.trainer.world_size > 1:
            columns = [torch.cat(gather_all_tensors(column.contiguous())) for column in columns]
        rows, probabilities, targets, losses = (column.cpu() for column in columns)
        order = rows.argsort()
        self.evaluated = probabilities[order], targets[order]
        self.scores[f"{split}/loss"] = losses.double().mean().item()
        self._score(split)
        own = {name: value for name, value in self.scores.items() if name.startswith(split)}
        self.log_dict(own, sync_dist=self.trainer.world_size > 1)

    def _score(self, split: str) -> None:
        threshold = torch.tensor(self.threshold)
        if threshold.ndim:
            threshold = threshold[self._label_numbers]
        scores = score(*self._existing_labels(), threshold)
        self.scores |= {f"{split}/{name}": value for name, value in scores.items()}

    @property
    def _label_numbers(self) -> list[int]:
        """Without those that do not exist (0 and 12 in the report's data), which are no answers."""
        return [number for number, name in enumerate(self.label_names) if name]

    def _existing_labels(self) -> list[Tensor]:
        return [columns[:, self._label_numbers] for columns in self.evaluated]

    def calibrate(self) -> None:
        """Set the threshold that is best on validation, which must have been evaluated last."""
        found = self._existing_labels()
        if self.settings["threshold"] == "per_label":
            thresholds = torch.full((len(self.label_names),), 0.5)
            thresholds[self._label_numbers] = best_thresholds(*found)
            self.threshold = [round(value, 2) for value in thresholds.tolist()]
        else:
            self.threshold = best_threshold(*found)
        self._score("val")

    def configure_optimizers(self) -> dict:
        trainable = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = build_optimizer(trainable, **self.settings["optimizer"])
        scheduler = build_scheduler(
            optimizer,
            **self.settings["scheduler"],
            steps=self.trainer.estimated_stepping_batches,
            monitor=self.settings["monitor"],
            mode="min" if self.settings["monitor"].endswith("/loss") else "max",
        )
        if scheduler is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["mmlabel"] = {
            "settings": self.settings,
            "vocabulary": self.vocabulary.words,
            "forms": self.vocabulary.forms,
            "label_names": self.label_names,
            "pretrained": self.pretrained,
            "threshold": self.threshold,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        # While features come from the store, the network has no backbone and its checkpoints
        # lack one until the run ends. A frozen backbone's weights are the same either way.
        saved, own = checkpoint["state_dict"], self.state_dict()
        for key in [key for key in saved if key.startswith(BACKBONE) and key not in own]:
            del saved[key]
        for key in _missing(saved, own):
            saved[key] = own[key]
        self.threshold = checkpoint["mmlabel"]["threshold"]


def _missing(saved: dict, own: dict) -> Iterator[str]:
    return (key for key in own if key.startswith(BACKBONE) and key not in saved)


def read_checkpoint(path: Path) -> dict:
    """The content of a checkpoint file of this project, read with `weights_only=True`.

    Raises UserError if there is no such file, or it is not such a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"ckpt_path: there is no file {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint["mmlabel"]["vocabulary"]
    except Exception as error:
        raise UserError(
            f"ckpt_path: {path} is not a checkpoint of mmlabel, or is damaged"
            f" ({type(error).__name__})"
        ) from None
    return checkpoint


def load_classifier(path: Path) -> Classifier:
    """A classifier as it was saved, ready to predict; see `read_checkpoint` for the errors."""
    checkpoint = read_checkpoint(path)
    saved, state = checkpoint["mmlabel"], checkpoint["state_dict"]
    settings = saved["settings"]
    backbone = None
    if "image" in network_inputs(settings) and not uses_detector(settings):
        # A run that was killed before its end has no backbone in its checkpoint: fetch it anew.
        complete = any(key.startswith(BACKBONE) for key in state)
        chosen = settings["backbone"] | ({"weights": "none"} if complete else {})
        backbone = BackboneSource(settings | {"backbone": chosen}).backbone
    weights = state.get("criterion.pos_weight")
    classifier = Classifier(
        network=build_network(
            settings,
            num_words=len(saved["vocabulary"]),
            num_labels=len(saved["label_names"]),
            embeddings=None,
            embedding_dim=_embedding_dim(state),
            freeze_embeddings=False,
            backbone=backbone,
        ),
        settings=settings,
        vocabulary=Vocabulary(saved["vocabulary"], saved["forms"]),
        label_names=saved["label_names"],
        pretrained=saved["pretrained"],
        pos_weight=None if weights is None else weights.numpy(),
    )
    classifier.on_load_checkpoint(checkpoint)
    classifier.load_state_dict(checkpoint["state_dict"])
    return classifier.eval()


def _embedding_dim(state: dict) -> int | None:
    key = "network.encoders.caption.embedding.weight"
    return state[key].shape[1] if key in state else None


def complete_checkpoint(path: Path, classifier: Classifier) -> None:
    """Give a finished run's checkpoint its final threshold, and the backbone if it lacks one."""
    checkpoint = read_checkpoint(path)
    if classifier.backbone is not None:
        weights = classifier.backbone.backbone.state_dict()
        checkpoint["state_dict"] |= {f"{BACKBONE}{key}": value for key, value in weights.items()}
    checkpoint["mmlabel"]["threshold"] = classifier.threshold
    with atomic_write(path) as temporary:
        torch.save(checkpoint, temporary)
