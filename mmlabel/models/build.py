"""Networks from a run's settings: which encoders, how wide, which head."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from mmlabel.data.batch import Batch
from mmlabel.errors import UserError, nearest
from mmlabel.models.backbones import Backbone, backbone_info, build_backbone
from mmlabel.models.caption_encoder import CaptionEncoder
from mmlabel.models.decoder import LabelDecoder
from mmlabel.models.fusion import Head, ImageEncoder, LateFusion, fused_features
from mmlabel.models.weights import resolve_weights, weights_digest

MODELS = ("fusion", "image_only", "caption_only", "decoder", "detector", "detector_fusion")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class BackboneSource:
    """The backbone of a run's settings, found at once but built only when it is needed.

    A run whose features are all stored needs its name, width and digest, and not the network.
    Raises UserError where the weights cannot be had.
    """

    def __init__(self, settings: dict) -> None:
        chosen = settings["backbone"]
        self.frozen = chosen["frozen"]
        self._names = {"name": chosen["name"], "model_name": chosen["model_name"]}
        # A frozen network of random weights stands in for a pretrained one: the same in every run.
        self._seed = 0 if self.frozen else settings["seed"]
        self.info = backbone_info(**self._names)
        self.weights = resolve_weights(
            **self._names,
            weights=chosen["weights"],
            on_missing=settings["data"]["on_missing"],
        )

    @property
    def width(self) -> int:
        """Number of features."""
        return self.info.out_features

    @cached_property
    def backbone(self) -> Backbone:
        """The network, built at the first use."""
        return build_backbone(
            **self._names, weights=self.weights, frozen=self.frozen, seed=self._seed
        )

    def key(self, precision: str) -> dict[str, object]:
        """All that a stored feature depends on besides the picture, as plain values."""
        digest = weights_digest(**self._names, weights=self.weights, seed=self._seed)
        name = self._names["model_name"] or self._names["name"]
        return {
            "backbone": name,
            "weights": digest,
            "precision": precision,
            "torch": torch.__version__,
        }

    def extract(self, precision: str, device: torch.device) -> Callable[[Tensor], Tensor]:
        """A function from pictures (B, 3, S, S) uint8 on `device` to features (B, F)."""
        if precision not in PRECISIONS:
            hint = nearest(precision, PRECISIONS)
            raise UserError(f'unknown features.precision "{precision}"{hint}')
        network = self.backbone.to(device, memory_format=torch.channels_last)
        lower = PRECISIONS[precision] != torch.float32

        def features(pictures: Tensor) -> Tensor:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower):
                return network(pictures)

        return features


def network_inputs(settings: dict) -> list[str]:
    """What the model of `settings` looks at: "image", "caption" or both.

    Raises UserError for an unknown model.
    """
    name = settings["model"]["name"]
    if name not in MODELS:
        raise UserError(f'unknown model.name "{name}"{nearest(name, MODELS)}')
    if name == "decoder" and settings["decoder"]["caption"]:
        return ["image", "caption"]
    return list(settings["model"]["inputs"])


def uses_detector(settings: dict) -> bool:
    """Whether a detector's scores (B, num_labels) are the image half of the batches."""
    return settings["model"]["name"] in ("detector", "detector_fusion")


class DetectorScores(nn.Module):
    """The network of model=detector: passes the detector's scores through, as logits."""

    def forward(self, batch: Batch) -> Tensor:
        """Scores (B, num_labels) in 0..1 to logits of the same shape."""
        return torch.logit(batch.image.float(), eps=1e-6)

    def evaluate(self, batch: Batch, criterion: nn.Module) -> tuple[Tensor, Tensor]:
        """Logits (B, num_labels) and their loss."""
        logits = self(batch)
        return logits, criterion(logits, batch.targets)


def build_network(
    settings: dict,
    *,
    num_words: int,
    num_labels: int,
    embeddings: Tensor | None,
    embedding_dim: int | None,
    freeze_embeddings: bool,
    backbone: Backbone | None,
    label_frequency: np.ndarray | None = None,
    given_order: Tensor | None = None,
) -> nn.Module:
    """The network of `settings` (the run's resolved configuration).

    Args:
        num_words: size of the vocabulary, padding and unknown included.
        embeddings: (num_words, embedding_dim) word vectors to begin with, or None for random ones.
        freeze_embeddings: whether they stay as they are.
        backbone: None when the image half of every batch holds the backbone's features.
        label_frequency: (num_labels,) of the training split; for model=decoder.
        given_order: (N, num_labels) of the training split, see `LabelDecoder`; for model=decoder.

    Raises UserError for an unknown model or backbone, or a width, share or the like out of range.
    """
    model, inputs = settings["model"], network_inputs(settings)
    if model["name"] == "detector":
        return DetectorScores()
    encoders: dict[str, nn.Module] = {}
    projection = {}
    if model["name"] != "decoder":
        projection = {"projection": model["image_projection"]}
        projection |= {name: model["head"][name] for name in ("dropout", "batch_norm")}
    if model["name"] == "detector_fusion":
        encoders["image"] = ImageEncoder(features=num_labels, backbone=None, **projection)
    elif "image" in inputs:
        chosen = settings["backbone"]
        info = backbone_info(name=chosen["name"], model_name=chosen["model_name"])
        encoders["image"] = ImageEncoder(
            features=info.out_features, backbone=backbone, **projection
        )
    if "caption" in inputs:
        encoders["caption"] = CaptionEncoder(
            num_words=num_words,
            embedding_dim=embedding_dim,
            embeddings=embeddings,
            freeze_embeddings=freeze_embeddings,
            embedding_dropout=settings["embedding"]["dropout"],
            **settings["lstm"],
        )
    if model["name"] == "decoder":
        options = {key: value for key, value in settings["decoder"].items() if key != "caption"}
        return LabelDecoder(
            encoders=encoders,
            num_labels=num_labels,
            label_frequency=label_frequency,
            given_order=given_order,
            **options,
        )
    head = Head(in_features=fused_features(encoders), num_labels=num_labels, **model["head"])
    return LateFusion(encoders=encoders, head=head, auxiliary=model["auxiliary"])
