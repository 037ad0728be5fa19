"""The plain Lightning way: what a user of a template would write, on the same rows.

The frozen backbone is inside the module, a DataLoader's workers decode pictures with torchvision's
transforms, captions run as packed sequences, and early stopping watches validation.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MultilabelF1Score
from torchvision import transforms

from benchmarks.captions import encode_packed
from benchmarks.runs import run, some_rows
from benchmarks.table import Bench
from mmlabel.data.captions import EncodedCaptions
from mmlabel.models.backbones import build_backbone
from mmlabel.models.caption_encoder import CaptionEncoder
from mmlabel.models.fusion import Head
from mmlabel.models.weights import resolve_weights
from mmlabel.parts import prepare

BACKBONE = "efficientnet_lite0"


def measure(bench: Bench) -> None:
    """Our first and second run, command to files, against the plain way's fit and test."""
    if bench.level == "quick":
        bench.left_out.append("template: of the few rows of QUICK=1 imports are nearly all")
        return
    rows = bench.pick(tiny=40, quick=0, usual=400, full=None)
    most = bench.pick(tiny=1, quick=0, usual=3, full=10)
    options = [f"backbone={BACKBONE}", f"trainer.max_epochs={most}", *some_rows(bench, rows)]
    options += ["trainer.accelerator=cpu", "logger=csv"]
    first = run(bench, *options, cache="template", folder="ours1").seconds
    second = run(bench, *options, cache="template", folder="ours2").seconds
    plain = _plain(bench, options, most)
    note = f"{plain:.1f} s without the imports; {rows or 3600:,} rows, at most {most} epochs"
    bench.add("template", "plain Lightning over our first run", plain / first, "x", note=note)
    bench.add("template", "plain Lightning over our second run", plain / second, "x", note=note)


class Item(NamedTuple):
    """A row, or a batch of rows."""

    image: Tensor
    tokens: Tensor
    length: Tensor
    targets: Tensor


class Rows(Dataset):
    """Rows decoded one by one."""

    def __init__(
        self,
        pictures: Sequence[Path],
        captions: EncodedCaptions,
        targets: np.ndarray,
        *,
        size: int,
        training: bool,
    ) -> None:
        self.pictures = pictures
        self.captions = captions
        self.targets = torch.from_numpy(targets.astype(np.float32))
        self.transform = transforms.Compose(
            [
                transforms.Resize(size),
                *([transforms.RandomHorizontalFlip()] if training else []),
                transforms.CenterCrop(size),
                transforms.PILToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> Item:
        with Image.open(self.pictures[row]) as picture:
            image = self.transform(picture.convert("RGB"))
        tokens = torch.from_numpy(self.captions.pad(np.array([row]))[0])
        return Item(image, tokens, torch.tensor(len(tokens)), self.targets[row])


def collate(items: list[Item]) -> Item:
    """Stack rows; captions are padded to the longest."""
    image, tokens, length, targets = zip(*items, strict=True)
    padded = nn.utils.rnn.pad_sequence(list(tokens), batch_first=True)
    return Item(torch.stack(image), padded, torch.stack(length), torch.stack(targets))


class Plain(pl.LightningModule):
    """Backbone, BiLSTM and head."""

    def __init__(self, num_words: int, num_labels: int) -> None:
        super().__init__()
        weights = resolve_weights(name=BACKBONE, weights="pretrained")
        self.backbone = build_backbone(name=BACKBONE, weights=weights, frozen=True)
        self.captions = CaptionEncoder(num_words=num_words, embedding_dim=50)
        width = self.backbone.out_features + self.captions.out_features
        self.head = Head(in_features=width, num_labels=num_labels)
        self.criterion = nn.BCEWithLogitsLoss()
        self.f1 = MultilabelF1Score(num_labels, average="micro")

    def forward(self, batch: Item) -> Tensor:
        with torch.no_grad():
            image = self.backbone(batch.image)
        caption = encode_packed(self.captions, batch.tokens, batch.length.cpu())
        return self.head(torch.cat([image, caption], dim=1))

    def training_step(self, batch: Item, batch_idx: int) -> Tensor:
        loss = self.criterion(self(batch), batch.targets)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Item, batch_idx: int) -> None:
        self.f1(self(batch).sigmoid(), batch.targets.long())
        self.log("val/f1", self.f1)

    def test_step(self, batch: Item, batch_idx: int) -> None:
        self.f1(self(batch).sigmoid(), batch.targets.long())
        self.log("test/f1", self.f1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-3)


def _plain(bench: Bench, options: list[str], most: int) -> float:
    """Seconds of the plain way, from reading the data to the scores of the test split."""
    start = time.perf_counter()
    settings = bench.settings(*options, cache="plain")
    side = settings.data.image_size
    assert isinstance(side, int)
    prepared = prepare(settings, None)
    loaders = {}
    for split, rows in prepared.rows.items():
        part = prepared.annotations.take(rows)
        training = split == "train"
        dataset = Rows(
            part.pictures,
            prepared.captions.take(rows),
            part.targets,
            size=side,
            training=training,
        )
        loaders[split] = DataLoader(
            dataset,
            batch_size=settings.data.batch_size,
            shuffle=training,
            drop_last=training and len(dataset) > settings.data.batch_size,
            num_workers=os.cpu_count() or 1,
            persistent_workers=True,
            collate_fn=collate,
        )
    module = Plain(len(prepared.vocabulary), prepared.annotations.num_labels)
    best = ModelCheckpoint(bench.folder / "plain", monitor="val/f1", mode="max")
    trainer = pl.Trainer(
        max_epochs=most,
        accelerator="cpu",
        callbacks=[best, EarlyStopping("val/f1", mode="max", patience=5)],
        logger=False,
        default_root_dir=bench.folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loaders["train"], loaders["val"])
    trainer.test(module, loaders["test"], ckpt_path="best", verbose=False, weights_only=True)
    return time.perf_counter() - start
