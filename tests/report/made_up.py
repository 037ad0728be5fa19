"""Made-up runs and studies, and what a page made of them shows."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from mmlabel.data.annotations import Annotations
from mmlabel.report import Score, StudyReport, VariantSummary
from mmlabel.run_folder import RunRecord, read_run

NAMES = ["", "person", "bicycle", "car & van"]
EVIL = '<script>alert("caption")</script> & <img src=x onerror=alert(1)>'
METRICS = ("f1_micro", "f1_samples", "f1_macro", "map")


def write_run(
    folder: Path, *, ids: list[str], targets: np.ndarray, probs: np.ndarray, **extra: object
) -> RunRecord:
    """A run's folder with made-up scores; `targets` and `probs` are (N, 3) for labels 1 to 3."""
    folder.mkdir(parents=True)
    answers = probs >= 0.5
    hits, said, support = (targets & answers).sum(0), answers.sum(0), targets.sum(0)
    f1 = 2 * hits / np.maximum(said + support, 1)
    micro = 2 * hits.sum() / max(said.sum() + support.sum(), 1)
    labels = {
        str(k + 1): {
            "name": NAMES[k + 1],
            "support": int(support[k]),
            "precision": float(hits[k] / max(said[k], 1)),
            "recall": float(hits[k] / support[k]),
            "f1": float(f1[k]),
        }
        for k in range(3)
        if support[k]
    }
    scores = {f"{split}/{m}": float(micro) for split in ("val", "test") for m in METRICS}
    results = {
        "scores": scores | {"val/loss": 0.21, "test/loss": 0.22},
        "threshold": 0.5,
        "rows": {"train": 2000, "val": 250, "test": len(ids)},
        "labels": labels,
        "settings": {"lstm": {"layers": 1}, "seed": 0, "embedding": {"name": "glove"}},
        "overrides": ["lstm.layers=1"],
        "data_fingerprint": "abc",
        "seconds": {"setup": 1.0, "train": 9.0, "test": 0.5, "total": 10.5},
        "epochs": 5,
        "best_epoch": 3,
        "parameters": 1234567,
        "megabytes": 4.9,
        "versions": {"torch": "2.9"},
        "pretrained": {"backbone": "none", "embedding": "glove"},
        "notes": [],
        "study": None,
        "variant": None,
        "status": "finished",
    }
    (folder / "results.json").write_text(json.dumps(results | extra))
    header = ["ImageID", *(f"target_{k}" for k in (1, 2, 3)), *(f"prob_{k}" for k in (1, 2, 3))]
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for id, truth, prob in zip(ids, targets.astype(int), probs, strict=True):
            writer.writerow([id, *truth, *prob])
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "train/loss", *(f"val/{m}" for m in (*METRICS, "loss"))])
        for epoch in range(5):
            score = micro * (1 - 0.5 ** (epoch + 1))
            # As Lightning's logger: training and validation figures on lines of their own.
            writer.writerow([epoch, 10 * epoch, "", *[score] * 4, 0.5 / (epoch + 1) + 0.1])
            writer.writerow([epoch, 10 * epoch, 0.6 / (epoch + 1), "", "", "", "", ""])
    return read_run(folder)


def pictures(folder: Path, captions: list[str]) -> Annotations:
    """An annotated picture per caption; the labels are not used by the page."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    ids = [f"{n}.jpg" for n in range(len(captions))]
    for id in ids:
        blocks = random.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(40, 0).repeat(40, 1)
        Image.fromarray(blocks).save(folder / id)
    return Annotations(
        ids=ids,
        captions=captions,
        targets=np.zeros((len(ids), len(NAMES)), np.uint8),
        label_names=NAMES,
        pictures=[folder / id for id in ids],
    )


def random_run(folder: Path, *, rows: int, seed: int, noise: float) -> RunRecord:
    targets = np.random.default_rng(0).random((rows, 3)) < (0.8, 0.3, 0.2)
    shaken = targets + np.random.default_rng(seed).normal(0, noise, targets.shape)
    probs = np.clip(0.1 + 0.8 * shaken, 0, 1).round(4)
    return write_run(folder, ids=[f"{n}.jpg" for n in range(rows)], targets=targets, probs=probs)


def make_study(folder: Path, *, rows: int = 90) -> StudyReport:
    """Three variants, two seeds each, one published figure missing, one failed run."""
    variants = []
    for place, (name, noise) in enumerate([("layers_1", 0.3), ("layers_2", 0.32), ("8", 0.7)]):
        runs = [
            random_run(folder / name / str(seed), rows=rows, seed=10 * place + seed, noise=noise)
            for seed in range(2)
        ]
        scores = {}
        for metric in METRICS:
            values = [run.results["scores"][f"test/{metric}"] for run in runs]
            mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
            scores[f"test/{metric}"] = Score(mean, std, mean - 0.02, mean + 0.019)
        better_by = (
            None
            if not place
            else scores["test/f1_micro"][0] - variants[0].scores["test/f1_micro"][0]
        )
        variants.append(
            VariantSummary(
                name=name,
                label=["1 layer", "2 layers | wide", "8 layers <deep>"][place],
                runs=runs,
                scores=scores,
                published=[0.831, 0.81, None][place],
                verdict=["", "no difference shown", "worse"][place],
                explanation="" if not place else "in a sentence",
                difference=better_by,
                difference_interval=None if not place else (better_by - 0.02, better_by + 0.02),
                p_value=[None, 0.43, 0.0002][place],
                parameters=1234567 * (place + 1),
                megabytes=4.94 * (place + 1),
                seconds=10.5 + place,
                extra={"loss at the start": 0.69 + place},
            )
        )
    return StudyReport(
        title="LSTM layers",
        question="Does depth hurt?",
        baseline="layers_1",
        variants=variants,
        metric="test/f1_micro",
        published_label="Report",
        command="python train.py -m lstm.layers=1,2,8 seed=0,1",
        method="Paired bootstrap (Koehn 2004).",
        notes=["Pictures are drawn."],
        failed=[("lstm.layers=4", "<b>out of memory</b>")],
        annotations=pictures(
            folder / "pictures", [f"Caption {n}" for n in range(rows - 1)] + [EVIL]
        ),
    )


class Page(HTMLParser):
    """Checks that tags are closed in order, and notes what the tests ask for."""

    VOID = {"meta", "link", "img", "br", "input"}

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def figures(html: str, table: str) -> list[dict[str, str]]:
    """The marked figures of each row of a table, without grouping commas."""
    body = html.split(f'<table id="{table}">')[1].split("</table>")[0]
    return [
        {
            name: text.replace(",", "")
            for name, text in re.findall(r'data-column="([^"]*)">([^<]*)<', row)
        }
        for row in body.split("<tr")[2:]
    ]


def read_csv(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def cards(html: str) -> dict[str, tuple[set[str], str]]:
    """Image id -> kinds and HTML of its card."""
    found = re.findall(r'<li data-id="([^"]*)" data-kinds="([^"]*)">(.*?)</li>', html, re.S)
    return {id: (set(kinds.split()), body) for id, kinds, body in found}


def odd_pictures(folder: Path) -> Annotations:
    """Two rows: a ramp of 16 bits, left to right, and a photo that lies on its side."""
    found = pictures(folder, ["a ramp", "a photo"])
    ramp = np.tile(np.linspace(0, 65535, 60).astype(np.uint16), (40, 1))
    Image.fromarray(ramp).save(folder / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    halves = np.zeros((400, 600, 3), np.uint8)
    halves[:, :300] = 255
    Image.fromarray(halves).save(folder / "1.jpg", exif=exif)
    found.pictures[0] = folder / "0.png"
    return found


def assert_shown_as_seen(found: list[Image.Image], *, upright: bool) -> None:
    """Pictures of `odd_pictures` are shown as a network sees them, but for scale and JPEG."""
    ramp, photo = (np.asarray(one.convert("L"), float) for one in found)
    np.testing.assert_allclose(ramp, np.tile(np.linspace(0, 255, 60), (40, 1)), atol=8)
    assert (photo.shape[0] > photo.shape[1]) == upright
    half = photo.shape[0] // 2 if upright else photo.shape[1] // 2
    bright, dark = np.split(photo if upright else photo.T, [half])
    assert bright[:-3].min() > 240 and dark[3:].max() < 15


def pictures_shown(html: str) -> list[Image.Image]:
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]*)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]
