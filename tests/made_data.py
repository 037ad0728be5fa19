"""A small set of captioned pictures, the same on every machine, in each form that is read."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

ROWS = 72
# Number, name in COCO and colour of the labels; the picture shows some, the caption names some.
LABELS = ((1, "person", (220, 40, 40)), (3, "car", (40, 200, 60)), (17, "cat", (40, 60, 230)))
WORDS = "a the two some small on near old street grass sofa morning".split()


def write_made_data(folder: Path) -> None:
    """Fill `folder` with data/N.jpg, train.csv, rows.csv and annotations/*.json.

    They are what data=usyd, data=csv (its columns have their default names) and data=coco read.
    """
    random = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    (folder / "annotations").mkdir()
    rows = [_row(folder / "data" / f"{number}.jpg", random) for number in range(ROWS)]
    for name, header, picture in (
        ("train.csv", ("ImageID", "Labels", "Caption"), "{}.jpg"),
        ("rows.csv", ("picture", "labels", "caption"), "data/{}.jpg"),
    ):
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for number, (numbers, caption) in enumerate(rows):
                writer.writerow([picture.format(number), " ".join(map(str, numbers)), caption])
    _write_coco(folder / "annotations", rows)


def _row(path: Path, random: np.random.Generator) -> tuple[list[int], str]:
    pixels = random.integers(60, 140, (36, 44, 3), dtype=np.uint8)
    words = random.choice(WORDS, 4).tolist()
    present = random.random(len(LABELS)) < 0.45
    present[random.integers(len(LABELS))] = True
    for place, (_, name, colour) in enumerate(LABELS):
        if not present[place]:
            continue
        if random.random() < 0.8:
            pixels[6:30, 4 + 13 * place : 14 + 13 * place] = colour
        if random.random() < 0.7:
            words.insert(int(random.integers(5)), name)
    # The report's names with lossless content, which every version of every library reads alike.
    Image.fromarray(pixels).save(path, format="PNG")
    return [LABELS[place][0] for place in np.flatnonzero(present)], " ".join(words)


def _write_coco(folder: Path, rows: list[tuple[list[int], str]]) -> None:
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 44, "height": 36} for n in range(ROWS)]
    boxes = [(n, label) for n, (numbers, _) in enumerate(rows) for label in numbers]
    instances = {
        "images": images,
        "categories": [{"id": number, "name": name} for number, name, _ in LABELS],
        "annotations": [
            {"id": i, "image_id": n, "category_id": label, "bbox": [4, 6, 10, 24], "iscrowd": 0}
            for i, (n, label) in enumerate(boxes)
        ],
    }
    captions = {
        "images": images,
        "annotations": [
            {"id": n, "image_id": n, "caption": caption} for n, (_, caption) in enumerate(rows)
        ],
    }
    (folder / "instances_val.json").write_text(json.dumps(instances))
    (folder / "captions_val.json").write_text(json.dumps(captions))


def random_split(seed: int, rows: int = 300, labels: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and targets (rows, labels) of a network that is often right."""
    rng = np.random.default_rng(seed)
    targets = rng.random((rows, labels)) < rng.random(labels) * 0.5
    targets[:, 12] = False  # a label number that does not exist
    noise = rng.normal(size=(rows, labels))
    probabilities = 1 / (1 + np.exp(-(2 * targets - 1 + 1.5 * noise)))
    # Coarse values make ties, which average precision must treat as one step.
    return np.round(probabilities, 2).astype(np.float32), targets
