"""The cache of detector scores: all kinds of pictures, computed once, kept whole when killed."""

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmlabel.data import filling
from mmlabel.data.digests import picture_digests
from mmlabel.data.feature_store import DETECTOR_BATCH, Scores, detector_scores
from mmlabel.data.pictures import BadPicture
from mmlabel.data.row_store import stores
from mmlabel.data.sources.report_csv import read_usyd
from mmlabel.errors import UserError


class MeanColour:
    """Stands in for a detector: the scores are width, height and the mean of each colour."""

    num_labels = 5

    def __init__(self, name: str = "mean", fail_after: int | None = None) -> None:
        self.name = name
        self.seen = 0
        self.loaded = False
        self.fail_after = fail_after

    def key(self) -> dict[str, object]:
        return {"detector": self.name}

    def load(self) -> None:
        self.loaded = True

    def scores(self, pictures: list[Image.Image]) -> np.ndarray:
        assert self.loaded and all(picture.mode == "RGB" for picture in pictures)
        if self.fail_after is not None and self.seen >= self.fail_after:
            raise KeyboardInterrupt
        self.seen += len(pictures)
        means = [np.asarray(picture).mean((0, 1)) for picture in pictures]
        return np.array([[*p.size, *m] for p, m in zip(pictures, means, strict=True)], np.float32)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    files = []
    for i in range(70):
        files.append(folder / f"{i}.png")
        Image.new("RGB", (8, 6), (i, 2 * i, 3 * i)).save(files[-1])
    return files


@pytest.fixture
def score(tmp_path: Path) -> Callable:
    def run(files: list[Path], detector: MeanColour, **options: object) -> Scores:
        return detector_scores(files, detector, cache_dir=tmp_path / "cache", **options)

    return run


def expected(rows: range) -> np.ndarray:
    return np.array([[8, 6, i, 2 * i, 3 * i] for i in rows], np.float32)


def test_computed_once(pictures: list[Path], score: Callable, tmp_path: Path) -> None:
    first, second = MeanColour(), MeanColour()
    scores = score(pictures, first)
    assert np.array_equal(scores.array, expected(range(70)))
    assert scores.array.dtype == np.float32 and scores.bad == []
    assert (scores.computed, first.seen) == (70, 70)
    again = score(pictures, second)
    assert np.array_equal(again.array, scores.array)
    assert (again.computed, second.seen, second.loaded) == (0, 0, False)
    assert again.detector_seconds == pytest.approx(scores.detector_seconds)
    assert 0 < scores.detector_seconds <= scores.seconds
    assert len(stores(tmp_path / "cache")) == 1
    # Two captions a picture: the seconds are those of each picture once.
    twice = score([*pictures[:5], *pictures[:5]], second)
    assert (scores.detected, again.detected, twice.detected) == (70, 70, 5)


def test_scores_belong_to_the_decoder(pictures: list[Path], score: Callable, monkeypatch) -> None:
    detector = MeanColour()
    assert [score(pictures[:2], detector).computed for _ in range(2)] == [2, 0]
    monkeypatch.setattr("mmlabel.data.transforms.pillow_features.version", lambda name: "2")
    assert score(pictures[:2], detector).computed == 2


def test_scores_belong_to_content_and_detector(pictures: list[Path], score: Callable) -> None:
    score(pictures[:10], MeanColour())
    renamed = pictures[0].with_name("renamed.png")
    pictures[0].rename(renamed)
    Image.new("RGB", (8, 6), (69, 138, 207)).save(pictures[1])  # as pictures[69]
    detector = MeanColour()
    scores = score([renamed, pictures[1], pictures[69], pictures[1]], detector)
    assert np.array_equal(scores.array[:, 2], [0, 69, 69, 69])
    assert scores.computed == detector.seen == 1
    assert score(pictures[2:10], MeanColour("other")).computed == 8


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_a_picture_that_changes_meanwhile_is_told_and_costs_no_row(
    on_bad_image: str, pictures: list[Path], score: Callable
) -> None:
    class Changing(MeanColour):
        def scores(self, seen: list[Image.Image]) -> np.ndarray:
            Image.new("RGB", (8, 6), (200, 100, 50)).save(pictures[1])
            return super().scores(seen)

    with pytest.raises(UserError, match=r"1\.png changed while its scores were computed.*again"):
        score(pictures[:3], Changing(), on_bad_image=on_bad_image)
    assert score(pictures[:3], MeanColour()).bad == []


def test_a_picture_that_cannot_be_read_once_is_told(
    pictures: list[Path], score: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = [True]

    def digests(chosen: list[Path], memo: Path) -> list[bytes | None]:
        found = picture_digests(chosen, memo)
        return [None, *found[1:]] if once and once.pop() else found

    monkeypatch.setattr(filling, "picture_digests", digests)
    with pytest.raises(UserError, match=r"0\.png changed .* or could not be read meanwhile"):
        score(pictures[:3], MeanColour())
    assert score(pictures[:3], MeanColour()).bad == []


def test_of_damaged_copies_each_is_left_out(pictures: list[Path], score: Callable) -> None:
    for path in pictures[1:3]:
        path.write_bytes(pictures[0].read_bytes()[:40])
    assert score(pictures[:4], MeanColour(), on_bad_image="skip").bad == [1, 2]


def test_interrupted_work_is_kept(pictures: list[Path], score: Callable) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(pictures, MeanColour(fail_after=DETECTOR_BATCH))
    detector = MeanColour()
    assert np.array_equal(score(pictures, detector).array, expected(range(70)))
    assert detector.seen == 70 - DETECTOR_BATCH


def test_a_killed_job_leaves_what_it_wrote(
    pictures: list[Path], score: Callable, tmp_path: Path
) -> None:
    program = f"""
import os, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]!r}
from pathlib import Path
from mmlabel.data import filling
from mmlabel.data.feature_store import DETECTOR_BATCH, detector_scores
from test_detector_scores import MeanColour

class Killed(MeanColour):
    def scores(self, pictures):
        if self.seen == 2 * DETECTOR_BATCH:
            os._exit(9)
        return super().scores(pictures)

filling.COMMIT_SECONDS = 0
files = [Path(name) for name in {[str(p) for p in pictures]!r}]
detector_scores(files, Killed(), cache_dir=Path({str(tmp_path / "cache")!r}))
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 9
    detector = MeanColour()
    assert np.array_equal(score(pictures, detector).array, expected(range(70)))
    assert detector.seen == 70 - 2 * DETECTOR_BATCH


def test_a_damaged_store_is_computed_anew(
    pictures: list[Path], score: Callable, tmp_path: Path
) -> None:
    score(pictures, MeanColour())
    [store] = stores(tmp_path / "cache")
    for name in ("features.bin", "checksums.bin", "entries.bin"):
        file = store.folder / name
        file.write_bytes(bytes(b ^ 16 for b in file.read_bytes()))
        scores = score(pictures, MeanColour())
        assert scores.computed == 70 and np.array_equal(scores.array, expected(range(70)))


def test_a_second_job_waits_and_uses_the_result(
    pictures: list[Path], score: Callable, capfd: pytest.CaptureFixture
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(MeanColour):
        def scores(self, pictures: list[Image.Image]) -> np.ndarray:
            begun.set()
            assert go_on.wait(20)
            return super().scores(pictures)

    class Told(MeanColour):
        def load(self) -> None:
            super().load()
            threading.Timer(0.3, go_on.set).start()

    first = threading.Thread(target=score, args=(pictures, Slow()))
    first.start()
    assert begun.wait(20)
    second = Told()
    assert np.array_equal(score(pictures, second).array, expected(range(70)))
    first.join()
    assert second.seen == 0
    assert "another job computes them" in capfd.readouterr().err


def test_a_cache_that_cannot_be_written(
    pictures: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    for _ in range(2):
        scores = detector_scores(pictures, MeanColour(), cache_dir=tmp_path / "file")
        assert scores.computed == 70 and np.array_equal(scores.array, expected(range(70)))
    assert "detections: scores are not kept" in capfd.readouterr().err


def test_progress_goes_to_standard_error(
    pictures: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    detector_scores(pictures, MeanColour(), cache_dir=tmp_path / "cache")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("detections: 70 of 70 pictures, ") and " a second" in err


class TestPictures:
    def test_all_kinds_become_rgb(self, tmp_path: Path, score: Callable) -> None:
        red = Image.new("RGB", (8, 6), (200, 10, 10))
        files = {}
        for name, mode in [("grey.png", "L"), ("cmyk.jpg", "CMYK"), ("palette.gif", "P")]:
            files[name] = tmp_path / name
            red.convert(mode).save(files[name])
        files["alpha.png"] = tmp_path / "alpha.png"
        red.convert("RGBA").save(files["alpha.png"])
        array = score(list(files.values()), MeanColour()).array
        grey, *colours = array[:, 2:]
        assert np.ptp(grey) == 0 and grey[0] == pytest.approx(67, abs=2)
        assert np.allclose(colours, [200, 10, 10], atol=8)

    def test_turned_upright(self, tmp_path: Path, score: Callable) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # lies on its left side
        Image.new("RGB", (8, 6)).save(tmp_path / "lying.jpg", exif=exif)
        assert score([tmp_path / "lying.jpg"], MeanColour()).array[0, :2].tolist() == [6, 8]

    def test_bad_pictures(self, pictures: list[Path], tmp_path: Path, score: Callable) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "whole.jpg")
        cut = tmp_path / "cut.jpg"
        cut.write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
        (tmp_path / "text.jpg").write_text("no picture")
        files = [pictures[0], cut, pictures[1], tmp_path / "gone.jpg", tmp_path / "text.jpg"]
        for bad in files[1], *files[3:]:
            with pytest.raises(BadPicture, match=bad.name):
                score([pictures[0], bad], MeanColour())
        for _ in range(2):
            scores = score(files, MeanColour(), on_bad_image="skip")
            assert scores.bad == [1, 3, 4]
            assert not scores.array[scores.bad].any()
            assert np.array_equal(scores.array[[0, 2]], expected(range(2)))

    def test_no_pictures(self, score: Callable) -> None:
        scores = score([], MeanColour())
        assert scores.array.shape == (0, 5) and scores.computed == 0


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("ultralytics", "openvino")),
    reason="ultralytics and openvino are not installed (pip install -e .[yolo]): left out",
)
def test_a_real_detector_on_real_rows(shared: Path, cache: Path) -> None:
    from sklearn.metrics import f1_score

    from mmlabel.models.detectors import load_detector

    folder = shared / "weights" / "yolov8n_int8_openvino_model"
    if not folder.is_dir():
        pytest.skip(f"no detector at {folder}: left out")
    rows = read_usyd(shared / "data" / "usyd").take(range(0, 3600, 75))
    settings = {
        "name": "file",
        "kind": "ultralytics",
        "weights": str(folder),
        "image_size": None,
        "min_confidence": 0.01,
    }
    detector = load_detector(**settings, label_names=rows.label_names)
    scores = detector_scores(rows.pictures, detector, cache_dir=cache)
    assert scores.computed == 48 and os.environ.get("YOLO_OFFLINE") is None
    assert detector.parameters == pytest.approx(3.18e6, rel=0.01)
    assert f1_score(rows.targets, scores.array >= 0.25, average="micro") > 0.65
    fresh = load_detector(**settings, label_names=rows.label_names)
    again = detector_scores(rows.pictures, fresh, cache_dir=cache)
    assert again.computed == 0 and np.array_equal(again.array, scores.array)
