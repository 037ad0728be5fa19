"""A detector trained on COCO as a multi-label classifier (report, sections 2.3 and 4.5.1)."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmlabel.cache import fingerprint, library_versions
from mmlabel.errors import UserError, first_line
from mmlabel.models.detectors import torchvision, ultralytics
from mmlabel.models.detectors.boxes import RANDOM_SEED, Boxes, Network, best_confidences
from mmlabel.models.detectors.coco_categories import category_of_labels, labels_of_classes
from mmlabel.models.weights import download_path, downloaded, weights_file
from mmlabel.network import NetworkError

if TYPE_CHECKING:
    from PIL.Image import Image

# A picture of 1000x1 px would have a side of 0 px once it is scaled to a detector's input.
_MAX_ASPECT = 128


class Detector:
    """Pictures to confidences per label. Make it with `load_detector`.

    The network is loaded when it is first needed: a run whose scores are all stored needs only the
    `key`.

    Attributes:
        name, kind: as for `load_detector`.
        num_labels: width of the scores.
        weights_used: where the weights come from, for the run's record.
    """

    def __init__(
        self,
        *,
        name: str,
        kind: str,
        path: Path | None,
        weights_used: str,
        image_size: int | None,
        min_confidence: float,
        label_names: Sequence[str],
    ) -> None:
        self.name = name
        self.kind = kind
        self.num_labels = len(label_names)
        self.weights_used = weights_used
        self._label_names = list(label_names)
        self._image_size = image_size
        self._min_confidence = float(min_confidence)
        self._path = path

    def key(self) -> dict[str, object]:
        """All that scores depend on besides the picture, as plain values; loads no network."""
        libraries = ["torch", "torchvision"]
        if self.kind == "ultralytics":
            # Other formats than ultralytics' own are run by another library.
            runner = "openvino" if ultralytics.is_openvino(self._path) else "torch"
            libraries = ["ultralytics", runner]
        if self._path is None:
            weights = f"none, seed {RANDOM_SEED}"
        else:
            weights = fingerprint(*_weight_files(self._path))
        # A file of ultralytics' holds its network, too; a name beside it is only a name.
        named = self.kind == "torchvision" or self._path is None
        return {
            "detector": self.name if named else None,
            "kind": self.kind,
            "weights": weights,
            "image_size": self._image_size,
            "min_confidence": self._min_confidence,
            "labels": self._label_names,
            "versions": library_versions(*libraries),
        }

    def load(self) -> None:
        """Load the network now; raises UserError if it does not fit its file or the labels."""
        _ = self._labels_of_classes

    def boxes(self, pictures: Sequence["Image"]) -> list[Boxes]:
        """The boxes of the data set's labels in RGB pictures of any sizes, best first.

        The answer for a picture does not depend on its company. Boxes of less than the least
        confidence are left out.
        """
        labels_of = self._labels_of_classes
        fitting = [_within_aspect(picture) for picture in pictures]
        found = []
        for picture, fitted, boxes in zip(
            pictures, fitting, self._network.find(fitting, sorted(labels_of)), strict=True
        ):
            order = np.argsort(-boxes.confidence, kind="stable")
            scale = np.divide(picture.size, fitted.size, dtype=np.float32)
            labels = np.array([labels_of[number] for number in boxes.labels.tolist()], np.int64)
            found.append(
                Boxes(
                    boxes.corners[order] * np.tile(scale, 2),
                    boxes.confidence[order],
                    labels[order],
                )
            )
        return found

    def scores(self, pictures: Sequence["Image"]) -> np.ndarray:
        """(N, num_labels) float32 in 0..1: each label's best box in each RGB picture."""
        return best_confidences(self.boxes(pictures), num_labels=self.num_labels)

    @property
    def parameters(self) -> int:
        """Number of weights, quantised ones too; 0 for an exported format that does not tell."""
        return self._network.parameters

    @property
    def megabytes(self) -> float:
        """Size of the weights on disk, or in memory where there is no file."""
        if self._path is None:
            return self.parameters * 4 / 1e6
        return sum(file.stat().st_size for file in _weight_files(self._path)) / 1e6

    @cached_property
    def _network(self) -> Network:
        by_torchvision = self.kind == "torchvision"
        build = torchvision.TorchvisionNetwork if by_torchvision else ultralytics.UltralyticsNetwork
        return build(
            name=self.name,
            path=self._path,
            image_size=self._image_size,
            min_confidence=self._min_confidence,
        )

    @cached_property
    def _labels_of_classes(self) -> dict[int, int]:
        return labels_of_classes(
            self._network.class_names,
            label_names=self._label_names,
            detector=f"{self.name} ({self.weights_used})",
        )


def load_detector(
    *,
    name: str,
    kind: Literal["torchvision", "ultralytics"],
    weights: str = "pretrained",
    image_size: int | None = None,
    min_confidence: float = 0.01,
    label_names: Sequence[str],
) -> Detector:
    """A detector by its name or its file, on the CPU; loaded when it is first needed.

    Args:
        name: of one of torchvision's detectors or of ultralytics' pretrained ones.
        kind: the library.
        weights: "pretrained" (trained on COCO), "none" (random: it answers noise) or a file (a
            state dict of torchvision's, or any file or folder that ultralytics reads).
        image_size: the longer side of ultralytics' input or the shorter of torchvision's in px,
            None for the detector's own.
        min_confidence: the least of a box, 0 to less than 1.
        label_names: one name per label number, "" for a number that is no label. They must be
            COCO's names of its categories.

    Raises:
        UserError: labels that COCO does not have, a missing library, an unknown name, weights that
            cannot be had. What is wrong inside a file shows when the network is loaded.
    """
    category_of_labels(label_names)
    if kind == "ultralytics":
        ultralytics.require_ultralytics()
        url = ultralytics.weights_url(name)
    else:
        url = torchvision.weights_url(name)
    path = _weights_path(name, url, weights)
    return Detector(
        name=name,
        kind=kind,
        path=path,
        weights_used=_describe_weights(weights, path),
        image_size=image_size,
        min_confidence=min_confidence,
        label_names=label_names,
    )


def detector_digest(key: Mapping[str, object]) -> str:
    """32 hex digits that change with a detector's key, but for the versions of its libraries."""
    return fingerprint({name: value for name, value in key.items() if name != "versions"})


def _within_aspect(picture: "Image") -> "Image":
    """The picture, its shorter side stretched where it is too thin for any detector."""
    least = math.ceil(max(picture.size) / _MAX_ASPECT)
    if min(picture.size) >= least:
        return picture
    return picture.resize((max(picture.width, least), max(picture.height, least)))


def _weights_path(name: str, url: str, weights: str) -> Path | None:
    if weights == "none":
        return None
    if weights != "pretrained":
        path = weights_file(weights, option="detector.weights")
        if path.is_dir() and not _weight_files(path):
            raise UserError(f"detector.weights={weights}: there is nothing in this folder")
        return path
    try:
        return downloaded(url)
    except (NetworkError, OSError) as error:
        place = download_path(url)
        raise UserError(
            f"the pretrained weights of {name} could not be downloaded from {url}: "
            f"{first_line(error)}. Ways out: put the file at {place}, or detector.weights=FILE (a "
            f"copy of {place.name}), or detector=file detector.weights=FILE (any other COCO "
            "detector that ultralytics reads)"
        ) from error


def _describe_weights(weights: str, path: Path | None) -> str:
    if path is None:
        return "none (random weights)"
    return f"pretrained ({path.name})" if weights == "pretrained" else f"file {path}"


def _weight_files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
