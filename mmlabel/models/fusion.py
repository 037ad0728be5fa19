"""Late fusion: an encoder per half of the input, concatenated, and a head (report section 3.1)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmlabel.criterion import Criterion
from mmlabel.data.batches import Batch
from mmlabel.errors import UserError
from mmlabel.models.attention import LabelAttention
from mmlabel.models.backbones import Backbone
from mmlabel.models.cross_attention import CrossAttention
from mmlabel.models.encoder import Encoder, own_losses
from mmlabel.models.join import HALVES, Join
from mmlabel.models.mixup import Mix, draw_mix


class ImageEncoder(Encoder):
    """The image half: pictures go through the backbone, features that are ready go past it.

    Args:
        features: F, the backbone's width.
        backbone: None when every batch will hold features.
        attention: scores of labels from the backbone's cells, which then stand beside the features.
        columns: those of ready features that it looks at; None: all.
        projection: P, a width to which the features are brought by a fully connected layer;
            None: they go on as they are, as in the report.
        dropout: on both sides of the projection.
        batch_norm: before the projection.

    Attributes:
        seen: F, and L more with attention, or as many as `columns`: what goes on to the projection.
        out_features: P, or `seen` without a projection.
    """

    def __init__(
        self,
        *,
        features: int,
        backbone: Backbone | None,
        attention: LabelAttention | None = None,
        columns: Sequence[int] | None = None,
        projection: int | None = None,
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if backbone is not None and backbone.out_features != features:
            raise ValueError(f"backbone of width {backbone.out_features}, not {features}")
        self.features = features
        self._given = features + (attention.num_labels if attention else 0)
        self.seen = self._given if columns is None else len(columns)
        # Goes with the others to a GPU, and into no checkpoint.
        chosen = None if columns is None else torch.tensor(columns)
        self._columns: Tensor | None
        self.register_buffer("_columns", chosen, persistent=False)
        self.out_features = projection or self.seen
        self.backbone = backbone
        self.attention = attention
        self._scores: Tensor | None = None  # of the last batch of training, see `own_loss`
        self.batch_norm = projection is not None and batch_norm
        self.projection = nn.Identity()
        if projection is not None:
            self.projection = nn.Sequential(
                nn.BatchNorm1d(self.seen) if batch_norm else nn.Identity(),
                nn.Dropout(dropout),
                nn.Linear(self.seen, projection),
                nn.ReLU(),
                nn.Dropout(dropout),
            )

    def forward(self, image: Tensor | None) -> Tensor:
        """Pictures (B, 3, H, W) in 0..255 or stored rows to (B, out_features) float32.

        Stored rows are features (B, F), or what the trunk of the backbone gives (B, trunk.width).
        """
        return self.look(image)[0]

    def look(self, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What `forward` gives, and the cells (B, C, H', W') of a backbone that has them."""
        features, cells = self._look_at(image)  # (B, seen)
        if self.training and self.batch_norm:
            _check_statistics(features)
        return self.projection(features), cells  # (B, out_features)

    def features_of(self, image: Tensor | None) -> Tensor:
        """What `forward` takes to the backbone's features, and scores beside them (B, seen)."""
        return self._look_at(image)[0]

    def as_stored(self, image: Tensor | None) -> Tensor | None:
        """What a store has of live pictures of a frozen backbone; anything else as it is."""
        if image is None or image.ndim != 4 or self.backbone is None or not self.backbone.frozen:
            return image
        return self.backbone.as_stored(image)

    def _look_at(self, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        image = self.as_stored(image)
        if image is None:
            raise UserError("this model looks at pictures, but the batch has none")
        trunk = self.backbone.trunk if self.backbone else None
        if image.ndim == 4 or (trunk and image.shape[1:] == (trunk.width,)):
            if self.backbone is None:
                raise UserError(
                    "this network was built for ready-made features and has no backbone: build it "
                    "with one to give it pictures"
                )
            if not self.backbone.cell_features:
                return self.backbone(image), None  # (B, F)
            features, cells = self.backbone.look(image)  # (B, F), (B, C, H', W')
            if self.attention is None:
                return features, cells
            assert cells is not None
            scores = self.attention(cells)  # (B, L)
            if self.training:
                self._scores = scores
            # From here they learn nothing: norms that follow make the slopes of scores, which
            # differ little at first, so steep that they would destroy the backbone's weights.
            return torch.cat([features, scores.detach()], dim=1), cells
        if image.ndim != 2 or image.shape[1] != self._given:
            raise UserError(
                f"image features of shape {tuple(image.shape)} for a backbone with "
                f"{self._given} features: they belong to another backbone"
            )
        return (image if self._columns is None else image[:, self._columns]).float(), None

    def own_loss(self, criterion: Criterion, *truth: Tensor | None) -> Tensor | float:
        """With attention, the criterion's loss of its scores, which learn by nothing else.

        Through it a trained backbone learns where in the picture a label is.
        """
        scores, self._scores = self._scores, None
        return 0.0 if scores is None else criterion(scores, *truth)


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
        standardised: whether what it classifies needs no batch norm of its own.
    """

    def __init__(
        self,
        *,
        in_features: int,
        num_labels: int,
        hidden: int = 512,
        dropout: float = 0.0,
        batch_norm: bool = True,
        standardised: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.num_labels = num_labels
        self.batch_norm = batch_norm
        self.layers = nn.Sequential(
            nn.BatchNorm1d(in_features) if batch_norm and not standardised else nn.Identity(),
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


def ready_to_mix(batch: Batch, encoders: nn.ModuleDict) -> Batch:
    """The batch with what a store would have in the place of live pictures.

    A mixture of pictures has other features than the mixture of theirs, so that training would
    depend on whether there is a store.
    """
    if "image" not in encoders:
        return batch
    return batch._replace(image=encoders["image"].as_stored(batch.image))  # pyright: ignore


class LateFusion(nn.Module):
    """Label logits from a picture, its caption, or both.

    Args:
        encoders: "image" (called with `Batch.image`), "caption" (called with `Batch.tokens` and
            `Batch.lengths`) or both; each has `out_features`.
        head: maps what the halves are joined to, to logits.
        join: makes one vector of both encodings; None: they are concatenated as they are.
        cross: has each word look for its cells in the picture, for a join that takes what is found.
        auxiliary_loss: weight of the loss of a linear classifier on each half, beside the head's:
            each half then learns to tell the labels alone, too. They serve training only. Needs
            `join`, which standardises what they see.
        mixup: alpha of `mmlabel.models.mixup`, in training; 0: rows are not mixed.
    """

    def __init__(
        self,
        *,
        encoders: Mapping[str, Encoder],
        head: Head,
        join: Join | None = None,
        cross: CrossAttention | None = None,
        auxiliary_loss: float = 0.0,
        mixup: float = 0.0,
    ) -> None:
        super().__init__()
        if not encoders or not set(encoders) <= set(HALVES):
            raise ValueError(f"encoders for one or both of {HALVES}, not {tuple(encoders)}")
        width = join.out_features if join else fused_features(encoders)
        if width != head.in_features:
            raise ValueError(f"a head for {head.in_features} features on encoders with {width}")
        if join is None and auxiliary_loss:
            raise ValueError("auxiliary classifiers need a join")
        self.encoders = nn.ModuleDict({half: encoders[half] for half in HALVES if half in encoders})
        self.head = head
        self.join = join
        self.cross = cross
        self.auxiliary_loss = auxiliary_loss
        self.mixup = mixup
        self.auxiliary = nn.ModuleDict(
            {
                half: nn.Linear(encoders[half].out_features, head.num_labels)
                for half in self.encoders
                if auxiliary_loss
            }
        )

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_labels)."""
        return self._logits(self._encodings(batch))

    def _encodings(self, batch: Batch, mix: Mix | None = None) -> list[Tensor]:
        """Of each half (B, width), and of what words have found in the picture where they look.

        They are standardised where there is a join. What captions have part in is mixed here.
        """
        inputs = {"image": (batch.image,), "caption": (batch.tokens, batch.lengths)}
        if self.cross is not None:
            encodings = self._looked(self.cross, batch, mix)
        else:
            encodings = [encoder(*inputs[half]) for half, encoder in self.encoders.items()]
        if mix is not None and "caption" in self.encoders:
            captions = len(self.encoders) - 1
            mixed = mix.rows(encodings[captions])
            # Of a network whose weights are in another precision (trainer.precision=bf16-true).
            encodings[captions] = mixed.to(torch.get_default_dtype())
        if self.join is None:
            return encodings
        if self.training and self.join.batch_norm:
            _check_statistics(encodings[0])
        return self.join.standardised(encodings)

    def _looked(self, cross: CrossAttention, batch: Batch, mix: Mix | None) -> list[Tensor]:
        image, caption = self.encoders.values()
        features, cells = image.look(batch.image)  # pyright: ignore
        encoding, states = caption.read(batch.tokens, batch.lengths)  # pyright: ignore
        cells = batch.cells if cells is None else cells
        if cells is None:
            raise UserError("words are to look at pictures' cells, but the batch has none")
        found = cross(cells, states, batch.lengths)
        if mix is not None:
            # The words of both captions look at one picture, which is mixed already: in that of the
            # other row there is a third one.
            theirs = cross(cells, states[mix.order], batch.lengths[mix.order])
            found = mix.between(found, theirs)
        return [features, encoding, found]

    def _logits(self, encodings: list[Tensor]) -> Tensor:
        fused = torch.cat(encodings, dim=1) if self.join is None else self.join(*encodings)
        return self.head(fused)  # (B, num_labels)

    def loss(self, batch: Batch, criterion: Criterion, mix: Mix | None = None) -> Tensor:
        """What training lowers: the criterion's loss of the batch, and of what only trains beside.

        With `mix` all of the batch but its captions has been mixed so already.
        """
        if mix is None and self.mixup and self.training:
            mix = draw_mix(len(batch.rows), alpha=self.mixup)
            batch = mix.inputs(ready_to_mix(batch, self.encoders))
        encodings = self._encodings(batch, mix)
        truth = (batch.targets, batch.known, batch.teacher)
        loss = criterion(self._logits(encodings), *truth)
        loss = loss + own_losses(self.encoders, criterion, *truth)
        for classifier, half in zip(self.auxiliary.values(), encodings, strict=False):
            alone = criterion(classifier(half), *truth)
            loss = loss + self.auxiliary_loss * alone
        return loss

    def evaluate(self, batch: Batch, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """Logits (B, num_labels) and their loss, without that of auxiliary classifiers."""
        logits = self(batch)
        return logits, criterion(logits, batch.targets, batch.known)
