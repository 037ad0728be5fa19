"""Detectors: boxes to scores by hand, classes to labels, and the real libraries end to end."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlabel import network
from mmlabel.data.annotations import REPORT_LABELS
from mmlabel.errors import UserError
from mmlabel.models.detectors import (
    COCO_CATEGORIES,
    Boxes,
    Detector,
    best_confidences,
    labels_of_classes,
    load_detector,
)
from mmlabel.models.detectors.ultralytics import import_ultralytics

SSDLITE = "ssdlite320_mobilenet_v3_large"
COCO80 = dict(enumerate(name for name in COCO_CATEGORIES if name))
needs_ultralytics = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None,
    reason="ultralytics is not installed (pip install -e .[yolo]): left out",
)


def settings(**changes: object) -> dict:
    return {
        "name": SSDLITE,
        "kind": "torchvision",
        "weights": "none",
        "image_size": None,
        "min_confidence": 0.01,
        **changes,
    }


def loaded(**changes: object) -> Detector:
    return load_detector(**settings(**changes), label_names=REPORT_LABELS)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def boxes(confidence: list[float], labels: list[int]) -> Boxes:
    return Boxes(
        np.zeros((len(labels), 4), np.float32),
        np.array(confidence, np.float32),
        np.array(labels, np.int64),
    )


def test_a_labels_score_is_its_best_boxs_confidence() -> None:
    found = [
        boxes([0.3, 0.9, 0.5, 0.2], [1, 3, 1, 19]),
        boxes([], []),
        boxes([0.25], [0]),
    ]
    expected = np.zeros((3, 20), np.float32)
    expected[0, [1, 3, 19]] = [0.5, 0.9, 0.2]
    expected[2, 0] = 0.25
    scores = best_confidences(found, num_labels=20)
    assert scores.dtype == np.float32
    assert np.array_equal(scores, expected)


class TestClasses:
    def test_categories_are_cocos(self) -> None:
        from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights as Weights

        theirs = Weights.COCO_V1.meta["categories"]
        assert [name.replace("N/A", "") for name in theirs[1:]] == COCO_CATEGORIES[1:]
        assert COCO_CATEGORIES[:20] == REPORT_LABELS
        assert len(COCO80) == 80

    def test_eighty_classes_count_past_the_missing_ids(self) -> None:
        mapping = labels_of_classes(COCO80, label_names=REPORT_LABELS, detector="d")
        # Category 12 does not exist, hence classes from 11 on are two behind their ids.
        assert mapping == {**{i: i + 1 for i in range(11)}, **{i: i + 2 for i in range(11, 18)}}
        assert {COCO80[number]: REPORT_LABELS[label] for number, label in mapping.items()} == {
            name: name for name in REPORT_LABELS if name
        }

    def test_ninety_one_classes_are_category_ids(self) -> None:
        names = {i: name or "N/A" for i, name in enumerate(COCO_CATEGORIES)}
        mapping = labels_of_classes(names, label_names=REPORT_LABELS, detector="d")
        assert mapping == {i: i for i, name in enumerate(REPORT_LABELS) if name}

    def test_labels_in_an_order_of_their_own(self) -> None:
        mapping = labels_of_classes(COCO80, label_names=["toothbrush", "", "Cat"], detector="d")
        assert mapping == {79: 0, 15: 2}

    def test_older_names_of_classes(self) -> None:
        names = {**COCO80, 3: "motorbike", 4: "aeroplane", 9: "traffic_light"}
        mapping = labels_of_classes(names, label_names=REPORT_LABELS, detector="d")
        assert mapping == labels_of_classes(COCO80, label_names=REPORT_LABELS, detector="d")

    def test_names_in_another_order_are_refused(self) -> None:
        names = {**COCO80, 14: "cat", 15: "bird"}
        with pytest.raises(UserError, match='class 14 is "cat" instead of "bird"'):
            labels_of_classes(names, label_names=REPORT_LABELS, detector="mine.pt")

    def test_another_class_list_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"mine.pt: its 2 classes \(mask, no mask, ...\)"):
            labels_of_classes(
                {0: "mask", 1: "no mask"}, label_names=REPORT_LABELS, detector="mine.pt"
            )

    @pytest.mark.parametrize("names", [["cat", "mask"], ["", ""]])
    def test_labels_that_coco_lacks_are_refused(self, names: list[str]) -> None:
        with pytest.raises(UserError, match="labels named (mask|nothing); use another model"):
            load_detector(**settings(), label_names=names)


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"name": "fasterrcnn_resnet50"}, 'did you mean "fasterrcnn_resnet50_fpn'),
            ({"weights": "pretraind"}, 'there is no such file; did you mean "pretrained"'),
        ],
    )
    def test_mistakes(self, changes: dict, message: str) -> None:
        with pytest.raises(UserError, match=message):
            loaded(**changes)

    @pytest.mark.parametrize(
        ("name", "kind", "file"),
        [
            (SSDLITE, "torchvision", f"{SSDLITE}_coco-a79551df.pth"),
            pytest.param("yolov5x6", "ultralytics", "yolov5x6u.pt", marks=needs_ultralytics),
            pytest.param("yolov8n", "ultralytics", "yolov8n.pt", marks=needs_ultralytics),
        ],
    )
    def test_weights_that_cannot_be_fetched(
        self, name: str, kind: str, file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def fail(url: str, *_: object, **__: object) -> None:
            raise network.NetworkError(f"no way to {url.split('/')[2]}")

        monkeypatch.setattr(network, "fetch_file", fail)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        with pytest.raises(UserError) as caught:
            loaded(name=name, kind=kind, weights="pretrained")
        message = str(caught.value)
        assert f"put the file at {tmp_path}/checkpoints/{file}" in message
        assert "no way to" in message and "detector.weights=FILE" in message

    def test_without_ultralytics(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ultralytics", None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install -e .\[yolo\] .*AGPL-3.0"):
            loaded(name="yolov5s", kind="ultralytics")


def random_ssdlite() -> torch.nn.Module:
    """Random weights which find the report's labels, some more and some less likely."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, score_thresh=0.01, detections_per_img=1000
        ).eval()
        for branch in network.head.classification_head.module_list:
            bias = branch[-1].bias.data.view(-1, 91)
            bias[:, 1:20] += 2 + torch.randn(bias[:, 1:20].shape)
    return network


@pytest.fixture(scope="module")
def ssdlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("hub") / "checkpoints" / f"{SSDLITE}_coco-a79551df.pth"
    file.parent.mkdir()
    torch.save(random_ssdlite().state_dict(), file)
    return file


@pytest.fixture(scope="module")
def ssdlite(ssdlite_file: Path) -> Detector:
    return loaded(weights=str(ssdlite_file))


class TestTorchvision:
    def test_scores_are_those_of_the_library(self, ssdlite: Detector) -> None:
        image = picture(120, 90)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        with torch.inference_mode():
            result = random_ssdlite()([tensor])[0]
        expected = np.zeros(20, np.float32)
        for label, score in zip(result["labels"].tolist(), result["scores"].tolist(), strict=True):
            if label < 20 and REPORT_LABELS[label]:
                expected[label] = max(expected[label], score)
        assert (expected > 0).sum() > 3
        assert np.allclose(ssdlite.scores([image])[0], expected, atol=1e-6)

    def test_boxes_best_first_within_the_picture(self, ssdlite: Detector) -> None:
        found = ssdlite.boxes([picture(1000, 4)])[0]
        assert len(found.labels) > 0
        assert (np.diff(found.confidence) <= 0).all() and found.confidence.min() >= 0.01
        assert (found.corners >= 0).all()
        assert (found.corners <= np.array([1000, 4, 1000, 4]) + 1e-3).all()

    def test_company_does_not_matter(self, ssdlite: Detector) -> None:
        shapes = [(1, 1), (64, 48), (3000, 20), (48, 64), (64, 48), (1200, 900)]
        images = [picture(*shape, seed=i) for i, shape in enumerate(shapes)]
        together = ssdlite.scores(images)
        assert together.shape == (6, 20) and together.dtype == np.float32
        assert np.isfinite(together).all()
        for image, scores in zip(images, together, strict=True):
            assert np.allclose(ssdlite.scores([image])[0], scores, atol=1e-6)

    def test_no_boxes(self, ssdlite_file: Path) -> None:
        detector = loaded(weights=str(ssdlite_file), min_confidence=0.999)
        assert detector.scores([picture(50, 50)]).tolist() == [[0] * 20]

    def test_input_size(self, ssdlite: Detector, ssdlite_file: Path) -> None:
        small = loaded(weights=str(ssdlite_file), image_size=96)
        assert small.key() != ssdlite.key()
        assert not np.allclose(small.scores([picture(64, 64)]), ssdlite.scores([picture(64, 64)]))

    def test_random_weights_leave_the_callers_randomness_alone(self) -> None:
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        loaded().load()
        assert torch.equal(torch.rand(3), expected)

    def test_the_download_folder_is_looked_into(
        self, ssdlite: Detector, ssdlite_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(ssdlite_file.parents[1]))
        pretrained = loaded(weights="pretrained")
        assert pretrained.key() == ssdlite.key() != loaded().key()
        assert pretrained.weights_used == f"pretrained ({ssdlite_file.name})"
        image = picture(80, 60)
        assert np.array_equal(pretrained.scores([image]), ssdlite.scores([image]))

    def test_size_in_numbers(self, ssdlite: Detector, ssdlite_file: Path) -> None:
        assert ssdlite.parameters == 3_440_060  # as published
        assert ssdlite.megabytes == pytest.approx(ssdlite_file.stat().st_size / 1e6)
        assert loaded().megabytes == pytest.approx(3.44006 * 4)

    def test_files_that_do_not_fit(self, tmp_path: Path) -> None:
        torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
        (tmp_path / "text.pth").write_text("no weights")
        with pytest.raises(UserError, match="other.pth: does not fit ssdlite320.*Missing key"):
            loaded(weights=str(tmp_path / "other.pth")).load()
        with pytest.raises(UserError, match="text.pth: cannot be read"):
            loaded(weights=str(tmp_path / "text.pth")).load()

    @pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn"])
    def test_threshold_of_one_and_two_stages(self, name: str) -> None:
        for least, some in [(0.0, True), (0.5, False)]:
            detector = loaded(name=name, min_confidence=least, image_size=64)
            assert detector.scores([picture(40, 30)]).any() == some


def write_yolo(path: Path, names: dict[int, str] = COCO80) -> Path:
    """A detector with random weights, but not so small that it finds the same everywhere."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yolo = import_ultralytics()("yolov8n.yaml", task="detect")
    generator = torch.Generator().manual_seed(0)
    for branch in yolo.model.model[-1].cv3:
        last = branch[-1]
        last.weight.data = 1e4 * torch.randn(last.weight.shape, generator=generator)
        last.bias.data = 0.01 * torch.randn(80, generator=generator)
        last.bias.data[18:] = -20  # everything it finds is one of the report's labels
    yolo.model.names = names
    yolo.save(path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yolo(tmp_path_factory.mktemp("yolo") / "small.pt")


@needs_ultralytics
class TestUltralytics:
    def test_scores_are_those_of_the_library(self, file: Path) -> None:
        detector = loaded(name="file", kind="ultralytics", weights=str(file), image_size=160)
        image = picture(120, 90)
        result = import_ultralytics()(file).predict(
            image, imgsz=160, conf=0.01, max_det=1000, verbose=False, device="cpu"
        )[0]
        number_of = {name: label for label, name in enumerate(REPORT_LABELS) if name}
        expected = np.zeros(20, np.float32)
        for number, score in zip(
            result.boxes.cls.tolist(), result.boxes.conf.tolist(), strict=True
        ):
            if label := number_of.get(result.names[int(number)]):
                expected[label] = max(expected[label], score)
        assert (expected > 0).sum() > 3
        assert np.allclose(detector.scores([image])[0], expected, atol=1e-6)

    def test_openvino_would_report_its_use_to_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
        import_ultralytics()
        assert sys.modules["openvino_telemetry"] is None  # so that it cannot be imported

    def test_company_and_shape_do_not_matter(self, file: Path) -> None:
        detector = loaded(name="file", kind="ultralytics", weights=str(file), image_size=160)
        shapes = [(1, 1), (64, 48), (3000, 20), (48, 64), (64, 48), (1200, 900)]
        images = [picture(*shape, seed=i) for i, shape in enumerate(shapes)]
        together = detector.scores(images)
        for image, scores in zip(images, together, strict=True):
            assert np.allclose(detector.scores([image])[0], scores, atol=1e-6)
        corners = detector.boxes([images[2]])[0].corners
        assert (corners <= np.array([3000, 20, 3000, 20]) + 1e-2).all()

    def test_size_in_numbers(self, file: Path) -> None:
        detector = loaded(name="file", kind="ultralytics", weights=str(file))
        assert detector.parameters == pytest.approx(3_157_200, rel=0.001)  # as published
        assert detector.megabytes == pytest.approx(file.stat().st_size / 1e6)

    def test_key_follows_content_and_settings_not_names(self, file: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy.pt"
        copy.write_bytes(file.read_bytes())
        key = loaded(name="file", kind="ultralytics", weights=str(file)).key()
        assert loaded(name="mine", kind="ultralytics", weights=str(copy)).key() == key
        changes = {"image_size": 320, "min_confidence": 0.1}
        for name, value in changes.items():
            other = loaded(name="file", kind="ultralytics", weights=str(file), **{name: value})
            assert other.key() != key

    def test_yolov5_without_weights(self) -> None:
        detector = loaded(name="yolov5s", kind="ultralytics")
        detector.load()
        assert detector.parameters == pytest.approx(9_100_000, rel=0.01)  # as published

    def test_files_that_are_no_coco_detectors(self, tmp_path: Path) -> None:
        names = {i: f"thing {i}" for i in range(80)}
        other = write_yolo(tmp_path / "things.pt", names)
        torch.save({"model": torch.zeros(3)}, tmp_path / "state.pt")
        (tmp_path / "text.pt").write_text("no weights")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "readme").write_text("no weights")
        for weights, message in [
            (other, 'things.pt.*class 0 is "thing 0" instead of "person".* and 15 more'),
            (tmp_path / "state.pt", "state.pt: ultralytics cannot use it"),
            (tmp_path / "text.pt", "text.pt: ultralytics cannot use it"),
            (tmp_path / "folder", "folder: ultralytics cannot use it"),
        ]:
            with pytest.raises(UserError, match=message):
                loaded(name="file", kind="ultralytics", weights=str(weights)).load()

    def test_a_checkpoint_cannot_run_code(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple:
                return os.mkdir, (str(tmp_path / "done"),)

        torch.save({"model": Evil()}, tmp_path / "evil.pt")
        with pytest.raises(UserError, match="evil.pt: ultralytics cannot use it"):
            loaded(name="file", kind="ultralytics", weights=str(tmp_path / "evil.pt")).load()
        assert not (tmp_path / "done").exists()

    def test_nothing_else_is_touched(self, file: Path, tmp_path: Path) -> None:
        """No network, no files, no changed process: the library does all of these by default."""
        program = f"""
import os, socket, sys, torch
from PIL import Image

def refuse(*args, **kwargs):
    sys.exit("asked for the network")

socket.getaddrinfo = socket.socket.connect = refuse
torch.set_num_threads(2)
before = dict(os.environ), torch.save, Image.open
from mmlabel.models.detectors import load_detector
settings = {settings(name="file", kind="ultralytics", weights=str(file), image_size=64)!r}
detector = load_detector(**settings, label_names={REPORT_LABELS!r})
assert detector.scores([Image.new("RGB", (30, 20))]).shape == (1, 20)
assert before == (dict(os.environ), torch.save, Image.open)
assert torch.get_num_threads() == 2
"""
        home = tmp_path / "home"
        home.mkdir()
        path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {
            **{k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
            "HOME": str(home),
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
        }
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert [p for p in home.rglob("*") if p.is_file()] == []
