"""The options of networks: backbone, detector, captions, word vectors, BiLSTM, fusion, decoder.

A group's kinds are classes of their own, so that an option is only where it matters.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Field, StrictBool, model_validator

from mmlabel.errors import UserError
from mmlabel.models.backbone_table import BACKBONES
from mmlabel.models.text_options import ContextualEmbedding
from mmlabel.options import AtLeast0, Count, Group, Index, Positive, Share, Text
from mmlabel.wording import count

# ---- Pictures -------------------------------------------------------------------------------


class Freezing(Group):
    """How much of a backbone is trained."""

    frozen: StrictBool = True
    """Neither weights nor batch-norm statistics change."""
    unfreeze: Index = 0
    """Of a frozen backbone, how many of its last stages are trained all the same; what the stages
    before them give is stored."""
    lr_scale: Positive = 0.1
    """Learning rate of the backbone, where it is trained, as a multiple of optimizer.lr: at the
    rate at which new weights learn, pretrained ones are lost (Howard & Ruder 2018)."""
    attention: Literal["residual", "query"] | None = None
    """Beside the features, the mean of all cells of a picture's last map, a score of each label by
    the cells that it looks at: residual, those that it scores highest (Zhu & Wu 2021); query,
    those that a learned query finds (Liu et al. 2021). Of a frozen backbone the map is stored."""

    beside: Text | None = None
    """A second backbone, whose features follow the first one's: another name of this group, or of
    timm's models."""
    beside_weights: Text = "pretrained"
    """Of the second one: pretrained (ImageNet), none (random), or a file with a state dict."""

    @model_validator(mode="after")
    def _frozen_or_not(self) -> Freezing:
        if self.unfreeze and not self.frozen:
            raise UserError(
                f"backbone.unfreeze={self.unfreeze} with backbone.frozen=false: all of it is"
                " trained already; leave one of the two out"
            )
        unasked = (1.0, type(self).model_fields["lr_scale"].get_default())
        if self.lr_scale not in unasked and self.frozen and not self.unfreeze:
            raise UserError(
                f"backbone.lr_scale={self.lr_scale:g}: a frozen backbone is not trained; add"
                " backbone.unfreeze=N or backbone.frozen=false"
            )
        own = [getattr(self, name, None) for name in ("name", "model_name")]
        if self.beside is not None and self.beside in own:
            raise UserError(f"backbone.beside={self.beside}: this is the first backbone, too")
        if self.beside is not None and self.attention is not None:
            raise UserError(
                f"backbone.attention={self.attention} looks at one backbone's map, and there are"
                f" two with backbone.beside={self.beside}: leave one of the options out"
            )
        return self


class NamedBackbone(Freezing):
    """A backbone that is known by its own name."""

    name: Literal[tuple(BACKBONES)]  # pyright: ignore[reportInvalidTypeForm]
    weights: Text = "pretrained"
    """pretrained (ImageNet), none (random), or a file with a state dict."""

    @property
    def model_name(self) -> None:
        """timm's name, which such a backbone does not need."""


class TimmBackbone(Freezing):
    """Any model of timm."""

    name: Literal["timm"]
    model_name: Text
    """timm's name of it."""
    weights: Text = "pretrained"
    """pretrained, none (random), or a file with a state dict."""


TORCHVISION_DETECTORS = (
    "ssdlite320_mobilenet_v3_large",
    "retinanet_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn_v2",
)
ULTRALYTICS_DETECTORS = ("yolov5s", "yolov5m", "yolov5l", "yolov5x", "yolov5x6", "file")

Backbone = Annotated[NamedBackbone | TimmBackbone, Field(discriminator="name")]


class Features(Group):
    """A frozen backbone's features, computed once and kept on disk."""

    mode: Literal["auto", "on", "off"] = "auto"
    """auto: where possible; on: an error where not; off: the backbone runs in every epoch."""
    engine: Literal["auto", "torch", "openvino"] = "auto"
    """What computes them; auto: the fastest that is installed (openvino, on a CPU)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone's arithmetic while extracting."""
    storage: Literal["auto", "float32", "float16"] = "auto"
    """On disk; float16 takes half the space; auto: float32, maps (backbone.unfreeze) in float16."""
    max_gigabytes: Positive = 50.0
    """Of disk for one store (10^9 bytes); what needs more is computed in every epoch instead, or
    with features=on an error."""
    batch_size: Count = 64
    """Pictures a step of the extraction."""
    workers: Annotated[int, Ge(0), Le(256)] | None = None
    """Processes that decode, no more than there are cores; null: chosen from their number."""


class Detector(Group):
    """What every detector has."""

    image_size: Annotated[int, Ge(32)] | None = None
    """Side in px of the detector's input; null: the detector's own."""
    min_confidence: Share = 0.01
    """Boxes below it do not count."""


class TorchvisionDetector(Detector):
    """One of torchvision's detectors."""

    kind: Literal["torchvision"]
    name: Literal[TORCHVISION_DETECTORS]  # pyright: ignore[reportInvalidTypeForm]
    """Which of torchvision's."""
    weights: Text = "pretrained"
    """pretrained (on COCO), none (random: it answers noise), or a file with a state dict."""


class UltralyticsDetector(Detector):
    """Any detector that ultralytics reads."""

    kind: Literal["ultralytics"]
    name: Literal[ULTRALYTICS_DETECTORS]  # pyright: ignore[reportInvalidTypeForm]
    """Which of ultralytics', or file."""
    weights: Text = "pretrained"
    """pretrained (on COCO), none (random: it answers noise), or a file or folder."""

    @model_validator(mode="after")
    def _names_its_file(self) -> UltralyticsDetector:
        if self.name == "file" and self.weights in ("pretrained", "none"):
            raise UserError(
                f"detector.weights={self.weights}: detector=file needs a file or folder of weights"
            )
        return self


AnyDetector = Annotated[TorchvisionDetector | UltralyticsDetector, Field(discriminator="kind")]


# ---- Captions -------------------------------------------------------------------------------


class Captions(Group):
    """From a caption to word numbers."""

    lemmas: Literal["wordnet", "none"] = "wordnet"
    """Words are lemmatised, as in the report, or kept as they are spelt."""
    min_count: Count = 1
    """Rarer words of the training split count as unknown."""
    max_length: Count | None = 128
    """Longer captions are cut to so many words; null: to 10,000."""
    group_by_length: StrictBool = False
    """Train on batches of captions of similar length, which is faster on a CPU."""


class GloveEmbedding(Group):
    """Vectors through gensim's downloader (report §4.1)."""

    kind: Literal["glove"]
    name: Text = "glove-wiki-gigaword-100"
    """Any name that gensim's downloader knows."""
    frozen: StrictBool = True
    """Whether the vectors stay as they are."""
    dropout: Share = 0.0
    """Share of whole words left out in training."""


class FileEmbedding(Group):
    """Vectors from a file, word2vec or GloVe text (also .gz) or word2vec .bin."""

    kind: Literal["file"]
    file: Text
    """The file of vectors."""
    frozen: StrictBool = True
    """Whether the vectors stay as they are."""
    dropout: Share = 0.0
    """Share of whole words left out in training."""


class Word2VecEmbedding(Group):
    """gensim's Word2Vec, trained on the training captions."""

    kind: Literal["word2vec"]
    dim: Count = 100
    """Numbers a word."""
    frozen: StrictBool = True
    """Whether the vectors stay as they are."""
    dropout: Share = 0.0
    """Share of whole words left out in training."""


class LearnedEmbedding(Group):
    """Vectors learned with the rest of the network, from random ones."""

    kind: Literal["learned"]
    dim: Count = 100
    """Numbers a word."""
    dropout: Share = 0.0
    """Share of whole words left out in training."""


Embedding = Annotated[
    GloveEmbedding | FileEmbedding | Word2VecEmbedding | LearnedEmbedding | ContextualEmbedding,
    Field(discriminator="kind"),
]


class Lstm(Group):
    """The caption's BiLSTM (report §3.1.2, A.2)."""

    layers: Annotated[int, Ge(1), Le(64)] = 1
    """Stacked layers."""
    hidden: Count = 128
    """Numbers a direction."""
    dropout: Share = 0.0
    """Between layers."""
    bidirectional: StrictBool = True
    """false: from left to right only."""
    pooling: Literal["max", "last"] = "max"
    """max: of all states over the words; last: the last of each direction, as in the report."""


# ---- The network ----------------------------------------------------------------------------


class Head(Group):
    """The two fully connected layers."""

    hidden: Count = 512
    """Width between them."""
    dropout: Share = 0.5
    """Before the second."""
    batch_norm: StrictBool = True
    """Before each of them."""


class Mixing(Group):
    """What the networks with a loss of independent labels are trained on."""

    mixup: AtLeast0 = 0.0
    """Rows of a batch are mixed in pairs in training, by a share from Beta(this, this): pictures or
    what is stored of them, captions' encodings, targets (Zhang et al. 2018; 0.2); 0: not."""


class BothHalves(Mixing):
    """How a model that looks at pictures and captions joins the two."""

    head: Head = Head()
    fusion: Literal["concat", "gated", "bilinear"] = "concat"
    """concat: side by side; gated: a gate chooses between them, number by number (Arevalo et al.
    2017); bilinear: the product of both (Kim et al. 2016). The latter two are model.head.hidden
    wide."""
    image_scale: Positive | None = None
    """With model.fusion=concat: each half is standardised, the picture's then multiplied by this,
    so that its many columns do not drown the caption's few (0.3); null: as they are."""
    auxiliary_loss: AtLeast0 = 0.0
    """Weight of the loss of a linear classifier on each half, added in training; 0: none."""
    modality_dropout: Share = 0.0
    """Share of the training rows from which the picture's or the caption's half is hidden."""

    @model_validator(mode="after")
    def _scale_is_of_columns(self) -> BothHalves:
        if self.image_scale is not None and self.fusion != "concat":
            raise UserError(
                f"model.image_scale={self.image_scale:g} with model.fusion={self.fusion}: only"
                " halves that stand side by side are scaled; leave one of the two out"
            )
        return self

    @property
    def standardised(self) -> bool:
        """Whether the halves have to be of one scale before they meet."""
        asked = (self.image_scale, self.auxiliary_loss, self.modality_dropout)
        return self.fusion != "concat" or any(asked)


class Fusion(BothHalves):
    """Late fusion: features beside the caption, two layers, two batch norms (report §3.1.2)."""

    name: Literal["fusion"]
    image_projection: Count | None = None
    """Width to which a layer brings the picture's features first (good on few rows); null: none."""


class Ensemble(BothHalves):
    """The mean of several networks' logits, trained side by side on one backbone."""

    name: Literal["ensemble"]
    fusion_networks: Annotated[int, Ge(0), Le(64)] = 1
    """How many of model=fusion, each with the options of this group."""
    image_networks: Annotated[int, Ge(0), Le(64)] = 0
    """How many of model=image_only."""
    caption_networks: Annotated[int, Ge(0), Le(64)] = 1
    """How many of model=caption_only."""
    image_weight: Annotated[float, Ge(0), Le(1)] = 1.0
    """How much each network of pictures alone counts in the mean, a network of both halves being 1;
    0: it has no say, and does no more than train the backbone."""
    caption_weight: Annotated[float, Ge(0), Le(1)] = 1.0
    """The same of each network of captions alone; above 0, as it trains nothing but itself."""
    image_projection: Count | None = None
    """Width to which a layer of each network brings the picture's features first; null: none."""

    @property
    def members(self) -> list[tuple[str, float]]:
        """Which model each of its networks is, and how much it counts in the mean."""
        counts = [
            ("fusion", 1.0, self.fusion_networks),
            ("image_only", self.image_weight, self.image_networks),
            ("caption_only", self.caption_weight, self.caption_networks),
        ]
        return [(name, weight) for name, weight, count in counts for _ in range(count)]

    @model_validator(mode="after")
    def _several_of_both_halves(self) -> Ensemble:
        total = len(self.members)
        if total < 2:
            raise UserError(
                f"model=ensemble with {count(total, 'network')}: give"
                " model.fusion_networks, model.image_networks and model.caption_networks that"
                " make at least 2, or choose model=fusion"
            )
        if not self.fusion_networks and not (self.image_networks and self.caption_networks):
            half = "captions" if self.image_networks else "pictures"
            raise UserError(
                f"model=ensemble without a network that looks at {half}: add"
                f" model.{'caption' if self.image_networks else 'image'}_networks=1 or"
                " model.fusion_networks=1"
            )
        for half, networks in (("image", self.image_networks), ("caption", self.caption_networks)):
            weight = getattr(self, f"{half}_weight")
            if weight < 1 and not networks:
                raise UserError(
                    f"model.{half}_weight={weight:g} without a network of that half alone: add"
                    f" model.{half}_networks=1, or leave it out"
                )
            if weight == 0 and (half == "caption" or not self.fusion_networks):
                raise UserError(
                    f"model.{half}_weight=0: nothing would be learned from the {half}s that"
                    f" answers use; give more than 0, or model.{half}_networks=0"
                )
        if not self.fusion_networks and self.standardised:
            raise UserError(
                "model.fusion_networks=0: model.fusion, model.image_scale, model.auxiliary_loss and"
                " model.modality_dropout are of networks that see both halves; leave them out, or"
                " add model.fusion_networks=1"
            )
        return self


class ImageOnly(Mixing):
    """The same network without captions."""

    name: Literal["image_only"]
    head: Head = Head()
    image_projection: Count | None = None
    """Width to which a layer brings the picture's features first; null: none."""


class CaptionOnly(Mixing):
    """The same network without pictures, of which none is read."""

    name: Literal["caption_only"]
    head: Head = Head()


class DecoderModel(Group):
    """Labels named one after another by an LSTM that sees the picture (report §4.5.2)."""

    name: Literal["decoder"]


class DetectorModel(Group):
    """Labels from the boxes of a detector trained on COCO; nothing is trained (report §4.5.1)."""

    name: Literal["detector"]


class DetectorFusion(BothHalves):
    """The detector's score of each label stands where features stand in model=fusion."""

    name: Literal["detector_fusion"]
    image_projection: Count | None = None
    """Width to which a layer brings the detector's scores first; null: none."""


Model = Annotated[
    Fusion | Ensemble | ImageOnly | CaptionOnly | DecoderModel | DetectorModel | DetectorFusion,
    Field(discriminator="name"),
]


class Decoder(Group):
    """The label decoder of model=decoder (Wang et al. 2016, CNN-RNN)."""

    caption: StrictBool = False
    """The caption's encoding beside the picture's features."""
    order: Literal["frequent_first", "rare_first", "as_given", "random"] = "rare_first"
    """In which order labels are named."""
    embedding_dim: Count = 64
    """Numbers a label."""
    hidden: Count = 256
    """Width of the LSTM."""
    layers: Annotated[int, Ge(1), Le(64)] = 1
    """Of the LSTM."""
    dropout: Share = 0.5
    """On the features and on the LSTM's output."""
    beam_width: Count = 5
    """Hypotheses kept while decoding; 1: greedy."""
    length_penalty: AtLeast0 = 0.5
    """Score: log-probability / length ** this; higher favours more labels."""
    max_labels: Count | None = None
    """The most labels an answer may have; null: any number."""
