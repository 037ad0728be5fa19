"""The options of what looks at pictures: backbones, their stored features, detectors.

A group's kinds are classes of their own, so that an option is only where it matters.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Field, StrictBool, model_validator

from mmlabel.errors import UserError
from mmlabel.models.backbone_table import BACKBONES, Pooling
from mmlabel.options import Count, Group, Index, Positive, Share, Text


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
    those that a learned query finds (Liu et al. 2021). A loss of their own trains them, and
    stages that are trained. Of a frozen backbone the map is stored."""

    beside: Text | None = None
    """A second backbone, whose features follow the first one's: another name of this group (but
    timm), or of timm's models."""
    beside_weights: Text = "pretrained"
    """Of the second one: pretrained (ImageNet), none (random), or a file with a state dict."""

    pooling: Pooling = "mean"
    """What becomes of a picture's last map: mean, the features as pretrained, mostly its mean over
    all cells; mean_and_top, these and each feature's mean over the sixteenth of the cells in which
    it is highest, where small objects are (k-max pooling, Durand et al. 2016)."""

    pyramid: Annotated[int, Ge(1), Le(4)] = 1
    """In how many sizes pictures are looked at: data.image_size, half of it, and so on (an image
    pyramid, Adelson et al. 1984). The features of all follow one another, the smallest first. With
    unfreeze it is the smallest size whose last stages are trained."""

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
        own = getattr(self, "model_name", None) or getattr(self, "name", None)
        named = (own in BACKBONES) == (self.beside in BACKBONES)
        if self.beside is not None and self.beside == own and named:
            raise UserError(
                f"backbone.beside={self.beside}: the first backbone is {own} already; give another"
            )
        if self.beside is not None and self.attention is not None:
            raise UserError(
                f"backbone.attention={self.attention} looks at one backbone's map, and there are"
                f" two with backbone.beside={self.beside}: leave one of the options out"
            )
        if self.pyramid > 1 and self.attention is not None:
            raise UserError(
                f"backbone.attention={self.attention} looks at one map, and backbone.pyramid="
                f"{self.pyramid} gives {self.pyramid}: leave one of the options out"
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
    """timm's name of it, such as efficientnet_lite3."""
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
    """What computes them, in predicting, too; auto: the fastest that is installed (openvino, on a
    CPU)."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of the frozen backbone's arithmetic, whatever trainer.precision is, also where there is no
    room to store what it gives; auto: bfloat16 on a processor or GPU that has it, which is faster,
    float32 on any other."""
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
                "detector=file needs detector.weights=PATH, a file or folder of weights, and not"
                f" {self.weights}"
            )
        return self


AnyDetector = Annotated[TorchvisionDetector | UltralyticsDetector, Field(discriminator="kind")]
