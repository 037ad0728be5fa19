"""Object detectors trained on COCO as multi-label classifiers (report, sections 2.3 and 4.5.1).

A label's probability is the confidence of the best box of its class, 0 without one. Nothing is
trained: a detector has COCO's classes already, and these contain the report's labels. Detectors
come from torchvision, or from ultralytics, an optional extra because its licence is AGPL-3.0.
"""

import importlib.util
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from mmlabel.cache import fingerprint
from mmlabel.errors import UserError, nearest
from mmlabel.models.backbones import _line, _read_state, _url_file

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

# Position = category id, "" for the ids that COCO's boxes do not use.
COCO_CATEGORIES = (
    ",person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,,"
    "backpack,umbrella,,,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,"
    "baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,,wine glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,"
    "couch,potted plant,bed,,dining table,,,toilet,,tv,laptop,mouse,remote,keyboard,cell phone,"
    "microwave,oven,toaster,sink,refrigerator,,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush"
).split(",")
_CATEGORY_IDS = [number for number, name in enumerate(COCO_CATEGORIES) if name]
# The names of older class lists (Pascal VOC's, which Darknet kept for COCO).
_ALIASES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "tvmonitor": "tv",
    "hairdryer": "hairdrier",
}

KINDS = ("torchvision", "ultralytics")
_ULTRALYTICS_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0/"
_RANDOM_SEED = 0
# A picture of 1000x1 px would have a side of 0 px once it is scaled to a detector's input.
_MAX_ASPECT = 128
_MOST_BOXES = 1000


class Boxes(NamedTuple):
    """What a detector finds in one picture, K boxes of the data set's labels."""

    corners: np.ndarray  # (K, 4) float32: left, top, right, bottom in pixels of the picture
    confidence: np.ndarray  # (K,) float32
    labels: np.ndarray  # (K,) int64 label numbers


class _Network(Protocol):
    """A loaded detector, whose boxes have its own class numbers."""

    class_names: Mapping[int, str]
    parameters: int

    def find(self, pictures: Sequence["Image"], classes: list[int]) -> list[Boxes]:
        """The boxes of these classes in RGB pictures of any sizes."""


class Detector:
    """Pictures to confidences per label. Make it with `load_detector`.

    The network is loaded when it is first needed: a run whose scores are all stored needs only the
    `key`.

    Attributes:
        name, kind: as in the settings.
        num_labels: width of the scores.
        weights_used: where the weights come from, for the run's record.
    """

    def __init__(
        self, *, settings: dict, path: Path | None, label_names: Sequence[str], device: str
    ) -> None:
        self.name: str = settings["name"]
        self.kind: str = settings["kind"]
        self.num_labels = len(label_names)
        self.weights_used = _describe_weights(settings["weights"], path)
        self._label_names = list(label_names)
        self._image_size: int | None = settings["image_size"]
        self._min_confidence = float(settings["min_confidence"])
        self._path = path
        self._device = device

    def key(self) -> dict[str, object]:
        """All that scores depend on besides the picture, as plain values; loads no network."""
        libraries = ["torch", "torchvision"]
        if self.kind == "ultralytics":
            # Other formats than ultralytics' own are run by another library.
            runner = "openvino" if _is_openvino(self._path) else "torch"
            libraries = ["ultralytics", runner]
        if self._path is None:
            weights = f"none, seed {_RANDOM_SEED}"
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
            "versions": {library: _version(library) for library in libraries},
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
    def _network(self) -> _Network:
        build = _Torchvision if self.kind == "torchvision" else _Ultralytics
        return build(
            name=self.name,
            path=self._path,
            image_size=self._image_size,
            min_confidence=self._min_confidence,
            device=self._device,
        )

    @cached_property
    def _labels_of_classes(self) -> dict[int, int]:
        return labels_of_classes(
            self._network.class_names,
            label_names=self._label_names,
            detector=f"{self.name} ({self.weights_used})",
        )


def load_detector(settings: dict, *, label_names: Sequence[str], device: str = "cpu") -> Detector:
    """The detector that the settings (a file of conf/detector) describe.

    Args:
        settings: `name`, of one of torchvision's detectors or of ultralytics' pretrained ones;
            `kind`, "torchvision" or "ultralytics"; `weights`, "pretrained" (trained on COCO),
            "none" (random: it answers noise) or a file (a state dict of torchvision's, or any file
            or folder that ultralytics reads); `image_size`, the longer side of ultralytics' input
            or the shorter of torchvision's in px, None for the detector's own; `min_confidence`,
            the least of a box.
        label_names: one name per label number, "" for a number that is no label. They must be
            COCO's names of its categories.
        device: torch's name of the device. Exported formats run on the CPU.

    Raises:
        UserError: labels that COCO does not have, unknown settings, a missing library, weights
            that cannot be had. What is wrong inside a file shows when the network is loaded.
    """
    kind = settings["kind"]
    if kind not in KINDS:
        raise UserError(f'unknown detector.kind "{kind}"{nearest(kind, KINDS)}')
    _category_of_labels(label_names)
    _check_numbers(settings)
    if kind == "ultralytics":
        _require_ultralytics()
    return Detector(
        settings=settings,
        path=_weights_path(settings["name"], kind, str(settings["weights"])),
        label_names=label_names,
        device=device,
    )


def best_confidences(boxes: Sequence[Boxes], *, num_labels: int) -> np.ndarray:
    """(N, num_labels) float32: for each picture and label the highest confidence, 0 for no box."""
    scores = np.zeros((len(boxes), num_labels), np.float32)
    for row, found in zip(scores, boxes, strict=True):
        np.maximum.at(row, found.labels, found.confidence)
    return scores


def labels_of_classes(
    class_names: Mapping[int, str], *, label_names: Sequence[str], detector: str
) -> dict[int, int]:
    """For each class number of a detector that is a label of the data set: the label's number.

    The class list must be COCO's, either its 80 categories in order or 91 entries by category id;
    a label's class is found by its category id, and then its name must be COCO's, too. Raises
    UserError otherwise; `detector` is for its message.
    """
    if len(class_names) == len(_CATEGORY_IDS):
        class_of = {category: i for i, category in enumerate(_CATEGORY_IDS)}
    elif len(class_names) == len(COCO_CATEGORIES):
        class_of = {category: category for category in _CATEGORY_IDS}
    else:
        shown = ", ".join(list(class_names.values())[:5])
        raise UserError(
            f"detector {detector}: its {len(class_names)} classes ({shown}, ...) are not COCO's 80 "
            "categories, so that its boxes cannot be mapped to labels; use a detector trained on "
            "COCO"
        )
    found, wrong = {}, []
    for label, category in _category_of_labels(label_names).items():
        number, name = class_of[category], COCO_CATEGORIES[category]
        if _plain(class_names.get(number, "")) == _plain(name):
            found[number] = label
        else:
            wrong.append(f'class {number} is "{class_names.get(number, "")}" instead of "{name}"')
    if wrong:
        raise UserError(
            f"detector {detector}: its classes are not COCO's: {'; '.join(wrong[:3])}"
            + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            + "; use a detector trained on COCO"
        )
    return found


class _Torchvision:
    """A detector of torchvision, whose class numbers are COCO's category ids."""

    def __init__(
        self,
        *,
        name: str,
        path: Path | None,
        image_size: int | None,
        min_confidence: float,
        device: str,
    ) -> None:
        from torchvision.models import get_model, get_model_weights

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_RANDOM_SEED)
            network = get_model(name, weights=None, weights_backbone=None)
        if path is not None:
            _load_state(network, path, name)
        # The limits belong to the second stage where there is one. The usual number of boxes would
        # leave out a label's weak box in a picture with a crowd of another.
        head = getattr(network, "roi_heads", network)
        head.score_thresh = min_confidence
        head.detections_per_img = _MOST_BOXES
        if image_size is not None:
            _resize_input(network.transform, image_size)
        # A state dict has no class names: that it fits the shapes of COCO's head has to do.
        categories = next(iter(get_model_weights(name))).meta["categories"]
        self.class_names = dict(enumerate(categories))
        self.parameters = _count_parameters(network)
        self._network = network.eval().to(device)
        self._device = device

    @torch.inference_mode()
    def find(self, pictures: Sequence["Image"], classes: list[int]) -> list[Boxes]:
        found: list[Boxes | None] = [None] * len(pictures)
        wanted = torch.tensor(classes, device=self._device)
        for rows in _batches(pictures, 1 if self._device == "cpu" else 16):
            batch = [self._tensor(pictures[row]) for row in rows]
            for row, result in zip(rows, self._network(batch), strict=True):
                keep = torch.isin(result["labels"], wanted)
                values = (result[name][keep].cpu() for name in ("boxes", "scores", "labels"))
                found[row] = Boxes(*(value.numpy() for value in values))
        return found

    def _tensor(self, picture: "Image") -> torch.Tensor:
        pixels = torch.from_numpy(np.array(picture)).to(self._device)
        return pixels.permute(2, 0, 1).float() / 255  # (3, H, W)


class _Ultralytics:
    """A detector that ultralytics runs, from its own checkpoint or an exported format."""

    def __init__(
        self,
        *,
        name: str,
        path: Path | None,
        image_size: int | None,
        min_confidence: float,
        device: str,
    ) -> None:
        from PIL import Image

        yolo_class = _import_ultralytics()
        self._exported = path is not None and path.suffix != ".pt"
        self._options = {
            "conf": min_confidence,
            "max_det": _MOST_BOXES,
            "device": "cpu" if self._exported else device,
            "verbose": False,
            **({} if image_size is None else {"imgsz": image_size}),
        }
        with _as_user_error(path or name), _same_threads():
            if path is None:
                self._yolo = _random_yolo(yolo_class, name)
            else:
                # A checkpoint knows its task, other formats may not.
                self._yolo = yolo_class(str(path), **({"task": "detect"} if self._exported else {}))
            # The first picture makes ultralytics set up the network, and the number of threads.
            result = self._yolo.predict([Image.new("RGB", (64, 64))], **self._options)[0]
        if result.boxes is None:
            raise UserError(
                f"{path or name}: a network for the task {self._yolo.task}, which finds no boxes; "
                "use a detector trained on COCO"
            )
        self.class_names = dict(result.names)
        if _is_openvino(path):
            self.parameters = _count_openvino(path)
        elif self._exported:
            self.parameters = 0
        else:
            self.parameters = _count_parameters(self._yolo.model)

    def find(self, pictures: Sequence["Image"], classes: list[int]) -> list[Boxes]:
        found: list[Boxes | None] = [None] * len(pictures)
        size = 1 if self._options["device"] == "cpu" else 32
        for rows in _batches(pictures, size):
            batch = [pictures[row] for row in rows]
            results = self._yolo.predict(batch, classes=classes, **self._options)
            for row, result in zip(rows, results, strict=True):
                boxes = result.boxes.cpu().numpy()
                found[row] = Boxes(
                    boxes.xyxy.astype(np.float32),
                    boxes.conf.astype(np.float32),
                    boxes.cls.astype(np.int64),
                )
        return found


def _batches(pictures: Sequence["Image"], size: int) -> Iterator[list[int]]:
    """Row numbers of pictures of one shape, at most `size` together.

    Both libraries pad pictures of several shapes to a common one, which changes what is found.
    """
    shapes: dict[tuple[int, int], list[int]] = {}
    for row, picture in enumerate(pictures):
        shapes.setdefault(picture.size, []).append(row)
    for rows in shapes.values():
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def _within_aspect(picture: "Image") -> "Image":
    """The picture, its shorter side stretched where it is too thin for any detector."""
    least = math.ceil(max(picture.size) / _MAX_ASPECT)
    if min(picture.size) >= least:
        return picture
    return picture.resize((max(picture.width, least), max(picture.height, least)))


def _category_of_labels(label_names: Sequence[str]) -> dict[int, int]:
    """COCO's category id of each label number that has a name."""
    ids = {_plain(COCO_CATEGORIES[category]): category for category in _CATEGORY_IDS}
    names = {label: name for label, name in enumerate(label_names) if name}
    unknown = [name for name in names.values() if _plain(name) not in ids]
    if unknown or not names:
        raise UserError(
            "a detector trained on COCO answers COCO's categories only, but this data set has "
            f"labels named {', '.join(unknown[:10]) or 'nothing'}; use another model, or give its "
            "labels COCO's names"
        )
    return {label: ids[_plain(name)] for label, name in names.items()}


def _plain(name: str) -> str:
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return _ALIASES.get(letters, letters)


def _check_numbers(settings: dict) -> None:
    size, least = settings["image_size"], settings["min_confidence"]
    if size is not None and (not isinstance(size, int) or size < 32):
        raise UserError(f"detector.image_size={size}: give a size of at least 32 px, or null")
    if not isinstance(least, int | float) or not 0 <= least < 1:
        raise UserError(f"detector.min_confidence={least}: give a number from 0 to less than 1")


def _weights_path(name: str, kind: str, weights: str) -> Path | None:
    if kind == "torchvision":
        url = _torchvision_url(name)
    else:
        # Of YOLOv5, ultralytics has versions for its present library, marked by a "u".
        url = f"{_ULTRALYTICS_URL}{name}{'u' if name.startswith('yolov5') else ''}.pt"
    if weights == "none":
        return None
    if weights != "pretrained":
        path = Path(weights).expanduser()
        if not path.exists():
            hint = nearest(weights, ["pretrained", "none"])
            raise UserError(f"detector.weights={weights}: there is no such file{hint}")
        if path.is_dir() and not _weight_files(path):
            raise UserError(f"detector.weights={weights}: there is nothing in this folder")
        return path
    try:
        return _url_file(url)
    except Exception as error:  # the disk and urllib raise kinds of their own
        file = url.rsplit("/", 1)[-1]
        place = Path(torch.hub.get_dir()) / "checkpoints" / file
        raise UserError(
            f"the pretrained weights of {name} could not be downloaded from {url}: {_line(error)}. "
            f"Ways out: put the file at {place}, or detector.weights=FILE (a copy of {file}), or "
            "detector=file detector.weights=FILE (any other COCO detector that ultralytics reads)"
        ) from error


def _torchvision_url(name: str) -> str:
    import torchvision.models.detection as detection
    from torchvision.models import get_model_weights, list_models

    names = list_models(module=detection)
    if name not in names:
        raise UserError(f'torchvision has no detector "{name}"{nearest(name, names)}')
    return next(iter(get_model_weights(name))).url


def _describe_weights(weights: str, path: Path | None) -> str:
    if path is None:
        return "none (random weights)"
    return f"pretrained ({path.name})" if weights == "pretrained" else f"file {path}"


def _weight_files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _is_openvino(path: Path | None) -> bool:
    return path is not None and (path.suffix == ".xml" or any(path.glob("*.xml")))


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:  # a source checkout, or it is reported when it is needed
        return None


def _load_state(network: "nn.Module", path: Path, name: str) -> None:
    try:
        network.load_state_dict(_read_state(path))
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UserError(f"{path}: does not fit {name} with COCO's classes: {reason}") from error


def _resize_input(transform: "nn.Module", size: int) -> None:
    if transform.fixed_size is not None:
        transform.fixed_size = (size, size)
        return
    transform.max_size = round(transform.max_size * size / transform.min_size[-1])
    transform.min_size = (size,)


def _count_parameters(network: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _count_openvino(path: Path) -> int:
    """The numbers in the constants of a graph; its integers of 32 and 64 bits are shapes."""
    import openvino

    file = path if path.is_file() else next(path.glob("*.xml"))
    constants = [op for op in openvino.Core().read_model(file).get_ops() if _is_weight(op)]
    return sum(math.prod(op.get_output_shape(0)) for op in constants)


def _is_weight(op: object) -> bool:
    if op.get_type_name() != "Constant":
        return False
    kinds = ("f16", "bf16", "f32", "i8", "u8", "i4", "u4")
    return op.get_output_element_type(0).get_type_name() in kinds


def _require_ultralytics() -> None:
    if importlib.util.find_spec("ultralytics") is None:
        raise UserError(
            "this detector needs ultralytics, an optional part: pip install -e .[yolo] (its "
            "licence is AGPL-3.0, see the README). torchvision's detectors need nothing more: "
            "detector=fasterrcnn_resnet50_fpn_v2"
        )


def _import_ultralytics() -> type:
    """ultralytics' YOLO class.

    Without these variables, its import looks for a network, and the library reports its use,
    installs packages by itself and keeps settings in the home folder. A checkpoint of its kind is
    a pickle, which could run any code; the last variable makes it build known classes only.
    """
    from PIL import Image

    before, save, open_picture = dict(os.environ), torch.save, Image.open
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            YOLO_OFFLINE="true",
            YOLO_AUTOINSTALL="false",
            YOLO_VERBOSE="false",
            YOLO_CONFIG_DIR=folder,
        )
        os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "true")
        try:
            from ultralytics import YOLO
        finally:
            # It also sets OMP_NUM_THREADS for every process started later, and puts functions of
            # its own in the place of these two.
            os.environ.clear()
            os.environ.update(before)
            torch.save, Image.open = save, open_picture
    return YOLO


def _random_yolo(yolo_class: type, name: str) -> object:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_RANDOM_SEED)
        yolo = yolo_class(f"{name}.yaml", task="detect")
    yolo.model.names = dict(enumerate(COCO_CATEGORIES[category] for category in _CATEGORY_IDS))
    return yolo


@contextmanager
def _as_user_error(source: Path | str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{source}: reading it needs a package that is not installed: pip install {error.name}"
        ) from error
    except UserError:
        raise
    except Exception as error:  # the kind depends on the format and on what is wrong with it
        reason = re.sub(r"^ERROR\W+", "", _line(error))
        raise UserError(
            f"{source}: ultralytics cannot use it as a detector ({reason}); give one of its "
            "checkpoints (.pt; those of the older yolov5 repository are of another format) or an "
            "exported folder under the name it was exported to (NAME_openvino_model)"
        ) from error


@contextmanager
def _same_threads() -> Iterator[None]:
    """ultralytics sets the number of threads for the whole process, on 2 cores to 1."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
