"""Late fusion: an encoder per half of the input, concatenated, and a head (report section 3.1)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmlabel.criterion import Criterion
from mmlabel.data.batches import Batch
from mmlabel.errors import UserError
from mmlabel.models.backbones import Backbone
from mmlabel.models.encoder import Encoder

HALVES = ("image", "caption")  # in the order in which they are concatenated


class ImageEncoder(Encoder):
    """The image half: pictures go through the backbone, features that are ready go past it.

    Args:
        features: F, the backbone's width.
        backbone: None when every batch will hold features.
        projection: P, a width to which the features are brought by a fully connected layer;
            None: they go on as they are, as in the report.
        dropout: on both sides of the projection.
        batch_norm: before the projection.

    Attributes:
        out_features: P, or F without a projection.
    """

    def __init__(
        self,
        *,
        features: int,
        backbone: Backbone | None,
        projection: int | None = None,
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if backbone is not None and backbone.out_features != features:
            raise ValueError(f"backbone of width {backbone.out_features}, not {features}")
        self.features = features
        self.out_features = projection or features
        self.backbone = backbone
        self.batch_norm = projection is not None and batch_norm
        self.projection = nn.Identity()
        if projection is not None:
            self.projection = nn.Sequential(
                nn.BatchNorm1d(features) if batch_norm else nn.Identity(),
                nn.Dropout(dropout),
                nn.Linear(features, projection),
                nn.ReLU(),
                nn.Dropout(dropout),
            )

    def forward(self, image: Tensor | None) -> Tensor:
        """Pictures (B, 3, S, S) in 0..255 or features (B, F) to (B, out_features) float32."""
        features = self._features(image)  # (B, F)
        if self.training and self.batch_norm:
            _check_statistics(features)
        return self.projection(features)  # (B, out_features)

    def _features(self, image: Tensor | None) -> Tensor:
        if image is None:
            raise UserError("this model looks at pictures, but the batch has none")
        if image.ndim == 4:
            if self.backbone is None:
                raise UserError(
                    "this network was built for ready-made features and has no backbone: build it "
                    "with one to give it pictures"
                )
            return self.backbone(image)  # (B, F)
        if image.ndim != 2 or image.shape[1] != self.features:
            raise UserError(
                f"image features of shape {tuple(image.shape)} for a backbone with "
                f"{self.features} features: they belong to another backbone"
            )
        return image.float()  # (B, F)


class Head(nn.Module):
    """The report's two fully connected layers with two batch norms (section 3.1.2).

    Batch norm comes before each linear layer: the first one brings image features and caption
    states, which differ in scale, to the same one.

    Args:
        in_features: width of what it classifies, see `fused_features`.
        num_labels: logits.
        hidden: width between the layers.
        dropout: before the second layer.
        batch_norm: False leaves both norms out.
    """

    def __init__(
        self,
        *,
        in_features: int,
        num_labels: int,
        hidden: int = 512,
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.num_labels = num_labels
        self.batch_norm = batch_norm
        self.layers = nn.Sequential(
            nn.BatchNorm1d(in_features) if batch_norm else nn.Identity(),
            nn.Linear(in_features, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden) if batch_norm else nn.Identity(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_labels),
        )

    def forward(self, fused: Tensor) -> Tensor:
        """(B, in_features) to logits (B, num_labels)."""
        if self.training and self.batch_norm:
            _check_statistics(fused)
        return self.layers(fused)


def _check_statistics(batch: Tensor) -> None:
    if len(batch) == 1:
        raise UserError(
            "a training batch of one row has no batch statistics: choose a batch size of at "
            "least 2 that does not leave one row over, or turn the head's batch_norm off"
        )


def fused_features(encoders: Mapping[str, Encoder]) -> int:
    """Width of the concatenated encodings: what the head's `in_features` must be."""
    return sum(encoder.out_features for encoder in encoders.values())


class LateFusion(nn.Module):
    """Label logits from a picture, its caption, or both.

    Args:
        encoders: "image" (called with `Batch.image`), "caption" (called with `Batch.tokens` and
            `Batch.lengths`) or both; each has `out_features`.
        head: maps the concatenated encodings to logits.
    """

    def __init__(self, *, encoders: Mapping[str, Encoder], head: Head) -> None:
        super().__init__()
        if not encoders or not set(encoders) <= set(HALVES):
            raise ValueError(f"encoders for one or both of {HALVES}, not {tuple(encoders)}")
        if fused_features(encoders) != head.in_features:
            raise ValueError(
                f"a head for {head.in_features} features on encoders with "
                f"{fused_features(encoders)}"
            )
        self.encoders = nn.ModuleDict({half: encoders[half] for half in HALVES if half in encoders})
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_labels)."""
        inputs = {"image": (batch.image,), "caption": (batch.tokens, batch.lengths)}
        encodings = [encoder(*inputs[half]) for half, encoder in self.encoders.items()]
        return self.head(torch.cat(encodings, dim=1))  # (B, num_labels)

    def loss(self, batch: Batch, criterion: Criterion) -> Tensor:
        """The criterion's loss of the batch, a scalar."""
        return self.evaluate(batch, criterion)[1]

    def evaluate(self, batch: Batch, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """Logits (B, num_labels) and their loss."""
        logits = self(batch)
        return logits, criterion(logits, batch.targets, batch.known)
