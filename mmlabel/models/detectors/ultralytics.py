"""Detectors that ultralytics runs, from its own checkpoints or exported formats.

ultralytics is an optional extra because its licence is AGPL-3.0.
"""

import importlib.util
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmlabel.errors import UserError, first_line
from mmlabel.models.detectors.boxes import (
    MOST_BOXES,
    RANDOM_SEED,
    Boxes,
    count_parameters,
)
from mmlabel.models.detectors.coco_categories import CATEGORY_IDS, COCO_CATEGORIES

if TYPE_CHECKING:
    from PIL.Image import Image

_ASSETS = "https://github.com/ultralytics/assets/releases/download/v8.4.0/"


class UltralyticsNetwork:
    """A detector that ultralytics runs, from its own checkpoint or an exported format."""

    def __init__(
        self,
        *,
        name: str,
        path: Path | None,
        image_size: int | None,
        min_confidence: float,
    ) -> None:
        from PIL import Image

        yolo_class = import_ultralytics()
        self._exported = path is not None and path.suffix != ".pt"
        self._options = {
            "conf": min_confidence,
            "max_det": MOST_BOXES,
            "device": "cpu",
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
        self.class_names: Mapping[int, str] = dict(result.names)
        if path is not None and is_openvino(path):
            self.parameters = _count_openvino(path)
        elif self._exported:
            self.parameters = 0
        else:
            self.parameters = count_parameters(self._yolo.model)

    def find(self, pictures: Sequence["Image"], classes: list[int]) -> list[Boxes]:
        """See `Network`."""
        found = []
        for picture in pictures:
            (result,) = self._yolo.predict([picture], classes=classes, **self._options)
            boxes = result.boxes.numpy()
            found.append(
                Boxes(
                    boxes.xyxy.astype(np.float32),
                    boxes.conf.astype(np.float32),
                    boxes.cls.astype(np.int64),
                )
            )
        return found


def weights_url(name: str) -> str:
    """Where the weights trained on COCO are."""
    # Of YOLOv5, ultralytics has versions for its present library, marked by a "u".
    return f"{_ASSETS}{name}{'u' if name.startswith('yolov5') else ''}.pt"


def require_ultralytics() -> None:
    """Raise UserError if the extra is not installed."""
    if importlib.util.find_spec("ultralytics") is None:
        raise UserError(
            "this detector needs ultralytics, an optional part: pip install -e .[yolo] (its "
            "licence is AGPL-3.0, see the README). torchvision's detectors need nothing more: "
            "detector=fasterrcnn_resnet50_fpn_v2"
        )


def is_openvino(path: Path | None) -> bool:
    """Whether a file or folder is an export to OpenVINO, which then runs it."""
    return path is not None and (path.suffix == ".xml" or any(path.glob("*.xml")))


def _count_openvino(path: Path) -> int:
    """The numbers in the constants of a graph; its integers of 32 and 64 bits are shapes."""
    from mmlabel.models.engines import openvino_core

    file = path if path.is_file() else next(path.glob("*.xml"))
    constants = [op for op in openvino_core().read_model(file).get_ops() if _is_weight(op)]
    return sum(math.prod(op.get_output_shape(0)) for op in constants)


def _is_weight(op: Any) -> bool:
    if op.get_type_name() != "Constant":
        return False
    kinds = ("f16", "bf16", "f32", "i8", "u8", "i4", "u4")
    return op.get_output_element_type(0).get_type_name() in kinds


def import_ultralytics() -> Any:
    """ultralytics' YOLO class, which carries no types.

    Without these variables, its import looks for a network, and the library reports its use,
    installs packages by itself and keeps settings in the home folder. A checkpoint of its kind is
    a pickle, which could run any code; the last variable makes it build known classes only. Of a
    detector that was exported to OpenVINO it imports that, which reports its use, too.
    """
    from PIL import Image

    from mmlabel.models.engines import without_telemetry

    without_telemetry()
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


def _random_yolo(yolo_class: Any, name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)
        yolo = yolo_class(f"{name}.yaml", task="detect")
    yolo.model.names = dict(enumerate(COCO_CATEGORIES[category] for category in CATEGORY_IDS))
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
        reason = re.sub(r"^ERROR\W+", "", first_line(error))
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
