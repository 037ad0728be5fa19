"""COCO's own layout: JSON files of objects and captions, folders of pictures."""

import json
from pathlib import Path

import numpy as np

from mmlabel.data.annotations import (
    REPORT_LABELS,
    Annotations,
    check_ids,
    checked_annotations,
    names_in,
    read_text,
)
from mmlabel.errors import UserError, nearest


def read_coco(
    root: Path,
    *,
    instances: str | None = None,
    captions: str | None = None,
    seed: int = 0,
    max_pictures: int | None = None,
    require_pictures: bool = True,
) -> Annotations:
    """Read COCO's own layout (2014 or 2017), reduced to the report's 18 labels.

    Pictures with none of the labels are left out. The annotations are JSON files in
    `root/annotations`; the pictures are wherever they are found in `root`, `root/images` and
    the folders there, and are expected in `root/val2017` for `instances_val2017.json`.

    Args:
        root: COCO's folder.
        instances: the instances file's name; may be left out if there is one alone.
        captions: the captions file's name; by default that of the same pictures.
        seed: which of a picture's captions is taken.
        max_pictures: keep the first so many pictures.
        require_pictures: whether a row without its picture file is an error.

    Raises:
        UserError: a missing folder, file or picture; a file that is not COCO's; a category whose
            id has another name than in COCO; no pictures with one of the labels.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"the data folder {root} does not exist")
    if max_pictures is not None and max_pictures < 1:
        raise UserError(f"max_pictures is {max_pictures}; it must be 1 or more")
    instances_file = _coco_file(root, instances, "instances")
    captions_file = _coco_file(
        root, captions or instances_file.name.replace("instances_", "captions_"), "captions"
    )
    names, image_ids, targets = _coco_targets(instances_file)
    chosen = _coco_captions(captions_file, image_ids, seed)
    kept = np.flatnonzero(targets.any(axis=1))[:max_pictures]
    if not len(kept):
        raise UserError(f"{instances_file}: no picture has one of the report's 18 labels")
    ids = [names[row] for row in kept]
    check_ids(instances_file, ids)
    return checked_annotations(
        instances_file,
        ids=ids,
        captions=[chosen[row] for row in kept],
        targets=targets[kept],
        label_names=REPORT_LABELS,
        pictures=_find_pictures(root, instances_file.stem.removeprefix("instances_"), ids),
        require_pictures=require_pictures,
    )


def _coco_file(root: Path, name: str | None, kind: str) -> Path:
    """A JSON file in `root/annotations`: the one of this name, or else the only one of its kind."""
    folder = root / "annotations"
    found = sorted(file.name for file in folder.glob(f"{kind}_*.json"))
    if name is None:
        if len(found) == 1:
            return folder / found[0]
        if found:
            raise UserError(
                f"{folder} has several {kind} files: choose one of {', '.join(found)} "
                f"(data.{kind}=NAME)"
            )
        raise UserError(f"{folder} has no {kind}_*.json: this is not COCO's layout")
    if not (folder / name).is_file():
        raise UserError(f"{folder} has no {name}{nearest(name, found) if found else ''}")
    return folder / name


def _coco_targets(file: Path) -> tuple[list[str], list[int], np.ndarray]:
    """The file name and id of each picture, and its targets (N, 20)."""
    coco = _json(file)
    try:
        # A picture that is listed twice is one picture, or it could be in two splits.
        pictures = {image["id"]: image["file_name"] for image in coco["images"]}
        category_names = {category["id"]: category["name"] for category in coco["categories"]}
        pairs = {(a["image_id"], a["category_id"]) for a in coco["annotations"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is not a COCO instances file: no {error}") from None
    used = {category for _, category in pairs}
    for number, name in enumerate(REPORT_LABELS):
        found = category_names.get(number)
        if name and found != name and (number in category_names or number in used):
            raise UserError(
                f"{file}: category {number} is {found or 'not named'}, but in COCO it is {name}: "
                "these are other labels than the report's"
            )
    image_ids = list(pictures)
    row_of_image = {image_id: row for row, image_id in enumerate(image_ids)}
    targets = np.zeros((len(pictures), len(REPORT_LABELS)), dtype=np.uint8)
    for image_id, category in pairs:
        if 0 <= category < len(REPORT_LABELS) and REPORT_LABELS[category]:
            if image_id in row_of_image:
                targets[row_of_image[image_id], category] = 1
    return list(pictures.values()), image_ids, targets


def _coco_captions(file: Path, image_ids: list[int], seed: int) -> list[str]:
    """One caption for each picture, chosen by seed; an empty one for a picture that has none."""
    coco = _json(file)
    captions: dict[int, list[str]] = {image_id: [] for image_id in image_ids}
    try:
        for annotation in coco["annotations"]:
            captions.get(annotation["image_id"], []).append(annotation["caption"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is not a COCO captions file: no {error}") from None
    draws = np.random.default_rng(seed).random(len(image_ids))
    return [
        given[int(draw * len(given))] if (given := captions[image_id]) else ""
        for image_id, draw in zip(image_ids, draws, strict=True)
    ]


def _find_pictures(root: Path, subset: str, names: list[str]) -> list[Path]:
    """Where each picture is; `root/subset/NAME` for one that is nowhere."""
    expected = [root / subset, root / "images" / subset, root / "images"]
    others = [folder for parent in (root, root / "images") for folder in sorted(_folders(parent))]
    found: dict[str, Path] = {}
    for folder in dict.fromkeys([*expected, *others, root]):
        if len(found) < len(names):
            present = names_in(folder)
            found |= {name: folder for name in names if name in present and name not in found}
    return [found.get(name, expected[0]) / name for name in names]


def _folders(parent: Path) -> list[Path]:
    return [entry for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []


def _json(file: Path) -> dict:
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is no valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is not one of COCO's files: it holds no JSON object")
    return content
