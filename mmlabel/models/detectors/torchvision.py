"""Detectors of torchvision, whose class numbers are COCO's category ids."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmlabel.errors import UserError, nearest
from mmlabel.models.detectors.boxes import (
    MOST_BOXES,
    RANDOM_SEED,
    Boxes,
    count_parameters,
)
from mmlabel.models.weights import read_state

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn


class TorchvisionNetwork:
    """A detector by its name in torchvision, with the state dict of a file or random."""

    def __init__(
        self,
        *,
        name: str,
        path: Path | None,
        image_size: int | None,
        min_confidence: float,
    ) -> None:
        from torchvision.models import get_model, get_model_weights

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(RANDOM_SEED)
            # Which attributes it has depends on the name.
            network: Any = get_model(name, weights=None, weights_backbone=None)
        if path is not None:
            _load_state(network, path, name)
        # The limits belong to the second stage where there is one.
        head = getattr(network, "roi_heads", network)
        head.score_thresh = min_confidence
        head.detections_per_img = MOST_BOXES
        if image_size is not None:
            _resize_input(network.transform, image_size)
        # A state dict has no class names: that it fits the shapes of COCO's head has to do.
        categories = next(iter(get_model_weights(name))).meta["categories"]
        self.class_names: Mapping[int, str] = dict(enumerate(categories))
        self.parameters = count_parameters(network)
        self._network = network.eval()

    @torch.inference_mode()
    def find(self, pictures: Sequence["Image"], classes: list[int]) -> list[Boxes]:
        """See `Network`."""
        found, wanted = [], torch.tensor(classes)
        for picture in pictures:
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255  # (3, H, W)
            (result,) = self._network([pixels])
            keep = torch.isin(result["labels"], wanted)
            values = (result[name][keep].numpy() for name in ("boxes", "scores", "labels"))
            found.append(Boxes(*values))
        return found


def weights_url(name: str) -> str:
    """Where the weights trained on COCO are; raises UserError for an unknown name."""
    import torchvision.models.detection as detection
    from torchvision.models import get_model_weights, list_models

    names = list_models(module=detection)
    if name not in names:
        raise UserError(f'torchvision has no detector "{name}"{nearest(name, names)}')
    return next(iter(get_model_weights(name))).url


def _load_state(network: "nn.Module", path: Path, name: str) -> None:
    try:
        network.load_state_dict(read_state(path))
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UserError(f"{path}: does not fit {name} with COCO's classes: {reason}") from error


def _resize_input(transform: Any, size: int) -> None:
    if transform.fixed_size is not None:
        transform.fixed_size = (size, size)
        return
    transform.max_size = round(transform.max_size * size / transform.min_size[-1])
    transform.min_size = (size,)
