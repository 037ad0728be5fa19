"""Networks small enough to be built for each test, and a batch of made-up rows for them."""

from typing import Any

import torch
from torch import Tensor

from mmlabel.criterion import MeanOverKnown
from mmlabel.data.batches import Batch
from mmlabel.losses import Bce
from mmlabel.models import options
from mmlabel.models.backbones import Backbone
from mmlabel.models.build import build_network, caption_encoders

LABELS = 5
CRITERION = MeanOverKnown(Bce(name="bce"))


def network_of(model: options.Model, *, backbone: Backbone | None = None) -> Any:
    """The network of these options, with 12 features a picture where there is no backbone."""
    torch.manual_seed(0)
    return build_network(
        model,
        num_labels=LABELS,
        image_features=12 if backbone is None else backbone.out_features,
        size_columns=() if backbone is None else backbone.info.size_columns,
        backbone=backbone,
        caption_encoder=caption_encoders(options.Lstm(hidden=4), num_words=30, embedding_dim=7),
        decoder=None,
    )


def batch_of(rows: int = 6, image: Tensor | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        image=torch.randn(rows, 12, generator=generator) if image is None else image,
        tokens=torch.randint(1, 30, (rows, 5), generator=generator),
        lengths=torch.full((rows,), 5),
        targets=torch.randint(0, 2, (rows, LABELS), generator=generator).float(),
        rows=torch.arange(rows),
        ids=[f"{row}.jpg" for row in range(rows)],
    )
