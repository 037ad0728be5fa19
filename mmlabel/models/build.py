"""Networks from a run's options: which encoders, how wide, which head."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmlabel.cache import fingerprint, kept, library_versions
from mmlabel.criterion import Criterion
from mmlabel.data.batches import Batch
from mmlabel.data.transforms import Size
from mmlabel.errors import UserError
from mmlabel.models import options
from mmlabel.models.attention import ATTENTIONS
from mmlabel.models.backbone_table import BACKBONES, library_of
from mmlabel.models.backbones import Backbone, build_backbone, is_small, side_by_side
from mmlabel.models.caption_encoder import CaptionEncoder
from mmlabel.models.cross_attention import CrossAttention
from mmlabel.models.decoder import LabelDecoder
from mmlabel.models.encoder import Encoder
from mmlabel.models.engines import Engine, EngineName, Precision, build_extract, choose_engine
from mmlabel.models.ensemble import Ensemble
from mmlabel.models.frozen_weights import FrozenWeights, pack, unpack, weights_of
from mmlabel.models.fusion import Head, ImageEncoder, LateFusion, fused_features
from mmlabel.models.join import SIDE_BY_SIDE, Join
from mmlabel.models.picture_networks import BackboneInfo, backbone_info, network_with_weights
from mmlabel.models.picture_options import NamedBackbone, TimmBackbone
from mmlabel.models.text_model import TextModel
from mmlabel.models.text_options import (
    ContextualEmbedding,
    TextTransformer,
    TransformerCaption,
)
from mmlabel.models.transformer_encoder import TransformerEncoder
from mmlabel.models.weights import (
    ResolvedWeights,
    resolve_weights,
    timm_config,
    weights_digest,
)

log = logging.getLogger(__name__)


class BackboneSource:
    """A backbone that is found at once but built only when it is needed.

    A run whose features are all stored needs its name, width and digest, and not the network.

    Args:
        chosen: which backbone, with which weights.
        seed: of the run; random weights of a backbone that is trained are drawn from it.
        on_missing: what to do without pretrained weights, "error" or "continue" with random ones.
        cells: whether the network looks at the cells of its last map.
        shape: height and width of its pictures; None: 224 each.
        built_in: False: the weights will come from a checkpoint, so none are looked for.
        precision: in which what is frozen of it looks at pictures, see `Backbone`.
        digest: of the weights that will come from a checkpoint; None: that of those found.

    Raises UserError where the weights cannot be had.
    """

    def __init__(
        self,
        chosen: NamedBackbone | TimmBackbone,
        *,
        seed: int,
        on_missing: Literal["error", "continue"],
        cells: bool = False,
        shape: tuple[int, int] | None = None,
        built_in: bool = False,
        precision: Precision = "float32",
        digest: str | None = None,
    ) -> None:
        self.frozen = chosen.frozen
        self.unfreeze = chosen.unfreeze
        self.cells = cells
        self._shape = shape
        self.precision: Precision = precision
        self._digest = digest
        # A frozen network of random weights stands in for a pretrained one: the same in every run.
        self._seed = 0 if self.frozen else seed
        wanted = [(chosen.name, chosen.model_name, chosen.weights, "backbone.weights")]
        if (beside := chosen.beside) is not None:
            name, model_name = (beside, None) if beside in BACKBONES else ("timm", beside)
            if model_name is not None:
                _check_timm(beside)
            wanted.append((name, model_name, chosen.beside_weights, "backbone.beside_weights"))
        self._parts: list[tuple[BackboneInfo, ResolvedWeights]] = []
        for name, model_name, weights, option in wanted:
            found = resolve_weights(
                name=name,
                model_name=model_name,
                weights="none" if built_in else weights,
                on_missing=on_missing,
                option=option,
            )
            info = backbone_info(name=name, model_name=model_name, pooling=chosen.pooling)
            if found.kind == "file":
                # One that does not fit is told before any picture is read.
                network_with_weights(info, found, seed=self._seed)
            self._parts.append((info, found))
        self._pyramid = chosen.pyramid
        self.info = side_by_side([info for info, _ in self._parts], pyramid=self._pyramid)

    def __deepcopy__(self, memo: object) -> "BackboneSource":
        # An average of weights is of a copy of the module that has it; what is frozen is one.
        return self

    @property
    def weights(self) -> str:
        """Where they come from, in words."""
        return "; ".join(found.description for _, found in self._parts)

    @property
    def notes(self) -> list[str]:
        """Which weights are not those that were asked for."""
        return [found.note for _, found in self._parts if found.note]

    @property
    def width(self) -> int:
        """Number of features."""
        return self.info.out_features

    @property
    def maps(self) -> bool:
        """Whether a frozen one gives maps, from which the rest of it goes on."""
        return self.unfreeze > 0 or (self.frozen and self.cells)

    @cached_property
    def backbone(self) -> Backbone:
        """The network, built at the first use."""
        (info, weights), *beside = self._parts
        return build_backbone(
            name=info.name,
            model_name=info.model_name,
            pooling=info.pooling,
            weights=weights,
            beside=beside,
            pyramid=self._pyramid,
            frozen=self.frozen,
            unfreeze=self.unfreeze,
            cells=self.cells,
            shape=self._shape,
            precision=self.precision,
            seed=self._seed,
        )

    def weights_kept(self, cache_dir: Path) -> FrozenWeights:
        """The network's weights, from the cache where an earlier run has kept them.

        Those of timm's named backbones are: any other imports timm before, or torchvision, which
        takes no longer than reading them.
        """
        names = [info.name for info, _ in self._parts]
        saves_time = all(name in BACKBONES and library_of(name) == "timm" for name in names)
        key = fingerprint("backbone", 1, self._content())
        return kept(
            cache_dir / "backbones" / f"{key}.entry",
            lambda: weights_of(self.backbone),
            pack=lambda weights: pack(weights) if saves_time else None,
            unpack=unpack,
        )

    @cached_property
    def digest(self) -> str:
        """32 hex digits that change with the weights."""
        if self._digest is not None:
            return self._digest
        digests = [
            weights_digest(
                name=info.name, model_name=info.model_name, weights=weights, seed=self._seed
            )
            for info, weights in self._parts
        ]
        return digests[0] if len(digests) == 1 else fingerprint(*digests)

    def key(self, engine: Engine) -> dict[str, object]:
        """All that a feature depends on besides the picture, as plain values."""
        cut = {"trained_stages": self.unfreeze} if self.maps else {}
        return self._content() | cut | engine.key()

    def _content(self) -> dict[str, object]:
        """What tells the whole network and its weights from any other."""
        sizes = {"pyramid": self._pyramid} if self._pyramid > 1 else {}
        pooling = {"pooling": self.info.pooling} if self.info.pooling != "mean" else {}
        return {
            "backbone": self.info.title,
            "weights": self.digest,
            "libraries": library_versions(*{library_of(info.name) for info, _ in self._parts}),
            **self._colours(),
            **sizes,
            **pooling,
        }

    def _colours(self) -> dict[str, object]:
        """How pictures are normalised for timm's models, of which another version may say else."""
        infos = [info for info, _ in self._parts if info.model_name is not None]
        colours = [[list(info.mean), list(info.std)] for info in infos]
        return {"mean and deviation": colours} if colours else {}


@cache
def check_backbone(
    chosen: NamedBackbone | TimmBackbone, *, cells: bool, shape: tuple[int, int]
) -> None:
    """See that the network can do what is asked of it, without its weights.

    Where that is nothing out of the ordinary it is not built, which takes its library a second.
    Raises UserError for a model that there is not, stages that it does not have, a map that it does
    not pool, and pictures too small for it.
    """
    source = BackboneSource(
        chosen, seed=0, on_missing="continue", cells=cells, shape=shape, built_in=True
    )
    small = is_small(shape, pyramid=chosen.pyramid)
    if not (chosen.unfreeze or cells or small):
        return
    if not small:
        try:
            # Without storage it takes milliseconds; a few networks compute with numbers there.
            with torch.device("meta"):
                _ = source.backbone
            return
        except (RuntimeError, UserError):
            pass
    _ = source.backbone


def _check_timm(beside: str) -> None:
    try:
        timm_config(beside)
    except UserError as error:
        others = ", ".join(BACKBONES)
        raise UserError(f"backbone.beside={beside}: not one of {others}, and {error}") from error


@dataclass(frozen=True)
class FrozenFeatures:
    """A backbone's features, or its trunk's maps, as an engine computes them on a device."""

    source: BackboneSource
    engine: EngineName

    @property
    def width(self) -> int:
        """Numbers a picture."""
        trunk = self.source.backbone.trunk if self.source.maps else None
        return trunk.width if trunk else self.source.width

    @property
    def maps(self) -> bool:
        """Whether they are maps, from which the rest of the backbone goes on."""
        return self.source.maps

    def key(self, device: torch.device) -> dict[str, object]:
        """All that a stored feature depends on besides the picture, as plain values."""
        return self.source.key(self._engine_on(device))

    def extract(self, device: torch.device, *, size: Size) -> Callable[[Tensor], Tensor]:
        """A function from pictures (B, 3, H, W) uint8 on `device` to features (B, F).

        Raises UserError where the engine cannot be had, or cannot compute this backbone.
        """
        engine = self._engine_on(device)
        log.info("%s are computed by %s", "maps" if self.maps else "features", engine)
        return build_extract(self.source.backbone, engine, device=device, size=size)

    def _engine_on(self, device: torch.device) -> Engine:
        return choose_engine(self.engine, precision=self.source.precision, device=device)


class DetectorScores(nn.Module):
    """The network of model=detector: passes the detector's scores through, as logits."""

    def forward(self, batch: Batch) -> Tensor:
        """Scores (B, num_labels) in 0..1 to logits of the same shape."""
        assert batch.image is not None
        return torch.logit(batch.image.float(), eps=1e-6)

    def evaluate(self, batch: Batch, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """Logits (B, num_labels) and their loss."""
        logits = self(batch)
        return logits, criterion(logits, batch.targets, batch.known)


def caption_encoders(
    lstm: options.Lstm | None,
    *,
    num_words: int = 0,
    embedding_dim: int | None = None,
    embeddings: Tensor | None = None,
    freeze_embeddings: bool = False,
    embedding_dropout: float = 0.0,
    text: TextModel | None = None,
    text_options: TextTransformer | None = None,
) -> Callable[[], Encoder] | None:
    """A function that makes a new encoder of captions at each call; None: no captions are read.

    Args:
        lstm: None: there is none, or a transformer that is trained in its place.
        num_words: size of the vocabulary, padding and unknown included.
        embedding_dim: numbers a word.
        embeddings: (num_words, embedding_dim) word vectors to begin with, or None for random ones.
        freeze_embeddings: whether they stay as they are.
        embedding_dropout: share of whole words left out in training.
        text: a pretrained transformer that reads captions, or None.
        text_options: how: trained itself, or frozen and read by the BiLSTM.
    """
    if lstm is None and text_options is None:
        return None
    if isinstance(text_options, TransformerCaption):
        assert text is not None
        layers, pooling = text_options.unfreeze, text_options.pooling
        return lambda: TransformerEncoder(text.build(layers=layers), pooling=pooling)
    assert lstm is not None
    encoder = partial(CaptionEncoder, embedding_dropout=embedding_dropout, **lstm.model_dump())
    if isinstance(text_options, ContextualEmbedding):
        assert text is not None
        # All networks of an ensemble read the states of this one.
        frozen = text.build(layers=0)
        return partial(encoder, transformer=frozen, states=getattr(torch, text_options.storage))
    assert embedding_dim is not None
    return partial(
        encoder,
        num_words=num_words,
        embedding_dim=embedding_dim,
        embeddings=embeddings,
        freeze_embeddings=freeze_embeddings,
    )


def build_network(
    model: options.Model,
    *,
    num_labels: int,
    image_features: int | None,
    size_columns: Sequence[Sequence[int]] = (),
    backbone: Backbone | None,
    attention: str | None = None,
    caption_encoder: Callable[[], Encoder] | None,
    decoder: options.Decoder | None,
    label_frequency: np.ndarray | None = None,
    given_order: Tensor | None = None,
) -> nn.Module:
    """The network of a run.

    Args:
        model: which, with its options.
        num_labels: logits.
        image_features: F, the width of the backbone or of the detector's scores; None: the model
            looks at no pictures.
        size_columns: see `BackboneInfo`; for an ensemble of which each network looks at one size.
        backbone: None when the image half of every batch holds features or scores.
        attention: of labels over the backbone's cells, one of ATTENTIONS; None: none.
        caption_encoder: makes one for each network, see `caption_encoders`; None: none is needed.
        decoder: options of model=decoder.
        label_frequency: (num_labels,) of the training split; for model=decoder.
        given_order: (N, num_labels) of the training split, see `LabelDecoder`; for model=decoder.
    """
    if isinstance(model, options.DetectorModel):
        return DetectorScores()

    over_cells = None
    if attention is not None:
        assert backbone is not None
        over_cells = ATTENTIONS[attention](features=backbone.cell_features, num_labels=num_labels)

    if isinstance(model, options.DecoderModel):
        assert decoder is not None and image_features is not None
        encoders: dict[str, Encoder] = {
            "image": ImageEncoder(features=image_features, backbone=backbone, attention=over_cells)
        }
        if caption_encoder is not None:
            encoders["caption"] = caption_encoder()
        return LabelDecoder(
            encoders=encoders,
            num_labels=num_labels,
            label_frequency=label_frequency,
            given_order=given_order,
            **decoder.model_dump(exclude={"caption"}),
        )

    def member(
        name: str,
        looking: ImageEncoder | None = None,
        columns: Sequence[int] | None = None,
    ) -> LateFusion:
        """One network; `looking` gives it the picture's features, in place of its own backbone, of
        which it sees the columns given."""
        encoders: dict[str, Encoder] = {}
        if name != "caption_only":
            assert image_features is not None
            encoders["image"] = ImageEncoder(
                features=looking.seen if looking else image_features,
                backbone=None if looking else backbone,
                attention=None if looking else over_cells,
                columns=columns,
                projection=getattr(model, "image_projection", None),
                dropout=model.head.dropout,
                batch_norm=model.head.batch_norm,
            )
        if name != "image_only":
            assert caption_encoder is not None
            encoders["caption"] = caption_encoder()
        cells = backbone.cell_features if backbone else 0
        return late_fusion(encoders, model, num_labels=num_labels, cells=cells)

    if not isinstance(model, options.Ensemble):
        network = member(model.name)
        network.mixup = model.mixup
        return network
    assert image_features is not None
    image = ImageEncoder(features=image_features, backbone=backbone, attention=over_cells)
    # By turns, and from the first again where there are more networks than sizes.
    turns = size_columns if model.one_size_each else [None]
    return Ensemble(
        image=image,
        members=[member(name, image, turns[n % len(turns)]) for name, _, n in model.members],
        weights=[weight for _, weight, _ in model.members],
        mixup=model.mixup,  # rather than each member, whose mixtures would differ
    )


def late_fusion(
    encoders: dict[str, Encoder],
    model: options.BothHalves | options.ImageOnly | options.CaptionOnly,
    *,
    num_labels: int,
    cells: int = 0,
) -> LateFusion:
    """A network of one or both halves, joined as the options say; `cells`: numbers of each."""
    options_of_head = {"num_labels": num_labels, **model.head.model_dump()}
    if not isinstance(model, options.BothHalves) or len(encoders) < 2 or not model.standardised:
        return LateFusion(
            encoders=encoders,
            head=Head(in_features=fused_features(encoders), **options_of_head),
        )
    join = Join(
        model.fusion,
        image=encoders["image"].out_features,
        caption=encoders["caption"].out_features,
        width=model.head.hidden,
        image_scale=model.image_scale,
        modality_dropout=model.modality_dropout,
        batch_norm=model.head.batch_norm,
    )
    cross = None
    if model.fusion == "attention":
        cross = CrossAttention(
            cells=cells, states=encoders["caption"].out_features, width=model.head.hidden
        )
    # Of halves side by side the head's own norm would undo the scale.
    scaled = model.fusion in SIDE_BY_SIDE
    return LateFusion(
        encoders=encoders,
        head=Head(in_features=join.out_features, standardised=scaled, **options_of_head),
        join=join,
        cross=cross,
        auxiliary_loss=model.auxiliary_loss,
    )
