"""COCO's own layout: JSON files of objects and captions, folders of pictures."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from mmlabel.data.annotations import (
    REPORT_LABELS,
    Annotations,
    check_ids,
    checked_annotations,
    choose_captions,
    listing,
    note_of_passed_over,
)
from mmlabel.data.sources.json_lines import parse_json
from mmlabel.data.sources.text import read_text
from mmlabel.errors import UserError, nearest

_ALL = "data.categories=all takes the file's own"


def read_coco(
    root: Path,
    *,
    instances: str | None = None,
    captions: str | None = None,
    categories: Literal["report", "all"] = "report",
    several_captions: Literal["one", "all"] = "one",
    seed: int = 0,
    max_pictures: int | None = None,
    require_pictures: bool = True,
    require_captions: bool = True,
) -> Annotations:
    """Read COCO's own layout (2014 or 2017), reduced to the report's 18 labels, or as it stands.

    Of the report's labels, pictures with none are left out. The annotations are JSON files in
    `root/annotations`; the pictures are wherever they are found in `root`, `root/images` and
    the folders there, and are expected in `root/val2017` for `instances_val2017.json`, or beside
    a file that is not in `root/annotations`.

    Args:
        root: COCO's folder.
        instances: the instances file's name, or its path where it is not in `root/annotations`; may
            be left out if there is one alone.
        captions: the captions file's name or path; by default that of the same pictures, which is
            called captions_NAME for instances_NAME and is beside it or in `root/annotations`.
        categories: "report": its 18 labels, by COCO's numbers; "all" of the file, in the order of
            their ids, and every picture.
        several_captions: of a picture's captions "one", or "all" in training (elsewhere one).
        seed: which of a picture's captions is the one.
        max_pictures: keep the first so many pictures.
        require_pictures: whether a row without its picture file is an error.
        require_captions: whether the captions file has to be there.

    Raises:
        UserError: a missing folder, file or picture; a picture's name that several folders have; a
            file that is not COCO's; a category whose id has another name than in COCO, or with
            "all" none, another's or several; no pictures with one of the labels; objects or
            captions of which none belongs to the pictures.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(
            f"the data folder {root} does not exist: give the one that holds"
            " annotations/instances_*.json, or add data.download=true"
        )
    instances_file = _annotation_file(root, instances, "instances")
    names, image_ids, targets, label_names = _targets(instances_file, categories)
    labelled = targets.max(axis=1) > 0
    if not labelled.any():
        raise UserError(
            f"{instances_file}: no picture has one of the "
            + ("file's categories" if categories == "all" else f"report's 18 labels; {_ALL}")
        )
    kept = np.flatnonzero(labelled | (categories == "all"))[:max_pictures]
    ids = [names[row] for row in kept]
    check_ids(instances_file, ids)
    with_label = labelled[kept].sum()
    notes = [f"{instances_file.name}: {with_label:,} of {len(names):,} pictures have a label"]
    given: list[list[str]] = [[] for _ in image_ids]
    captions_file = _captions_file(root, instances_file, captions, required=require_captions)
    if captions_file is not None:
        try:
            given = _captions(captions_file, image_ids)
        except UserError as problem:
            if require_captions:
                raise
            notes.append(f"no captions are read: {problem}")
            captions_file = None
    name = captions_file.name if captions_file else ""
    if captions_file is not None:
        with_captions = sum(bool(given[row]) for row in kept)
        notes.append(f"{name}: captions for {with_captions:,} of these {len(ids):,}")
        if require_captions and not with_captions:
            raise UserError(
                f"{captions_file} has no caption for any of the {len(ids):,} pictures of "
                f"{instances_file.name}: it is of other ones; choose another (data.captions=NAME)"
            )
    chosen = choose_captions(given, several=several_captions, seed=seed)
    if several_captions == "all":
        pairs = [given[row] for row in kept], [chosen[row] for row in kept]
        notes += [f"{name}: {note}" for note in note_of_passed_over(*pairs)]
    rows = np.repeat(np.arange(len(kept)), [len(chosen[row]) for row in kept])
    pictures = _find_pictures(root, instances_file, ids, sure=require_pictures)
    return checked_annotations(
        instances_file,
        ids=[ids[row] for row in rows],
        captions=[caption for row in kept for caption in chosen[row]],
        targets=targets[kept][rows],
        label_names=label_names,
        pictures=[pictures[row] for row in rows],
        require_pictures=require_pictures,
        require_captions=require_captions,
        captions_file=captions_file,
        notes=notes,
    )


def _annotation_file(root: Path, name: str | None, kind: str) -> Path:
    """A JSON file in `root/annotations`: the one of this name, or else the only one of its kind."""
    folder = root / "annotations"
    present = sorted(file.name for file in folder.glob(f"{kind}_*.json"))
    if name is None:
        if len(present) == 1:
            return folder / present[0]
        if present:
            raise UserError(
                f"{folder} has several {kind} files: choose one of {', '.join(present)} "
                f"(data.{kind}=NAME)"
            )
        raise UserError(
            f"{folder} has no {kind}_*.json: this is not COCO's layout; a file elsewhere is given"
            f" with its whole path, data.{kind}=/DIR/FILE"
        )
    if not (folder / name).is_file():
        raise UserError(
            f"{folder} has no {name}{nearest(name, present) if present else ''}; data.{kind}=NAME"
            " says which, of a file elsewhere its whole path"
        )
    return folder / name


def _captions_file(
    root: Path, instances_file: Path, name: str | None, *, required: bool
) -> Path | None:
    """The JSON file of captions: the one of this name, or that of an instances file's pictures.

    None if there is none and none is required.
    """
    if name is None:
        name = instances_file.name.replace("instances_", "captions_")
        beside = instances_file.with_name(name)
        if beside == instances_file and not required:
            return None  # which may have captions beside its objects, and need not
        if beside.is_file():
            return beside
    if not required and not (root / "annotations" / name).is_file():
        return None
    return _annotation_file(root, name, "captions")


class _NotCoco(Exception):
    """Why a file is not one of COCO's."""


def _entries(content: dict[str, object], name: str) -> list[dict[str, object]]:
    entries = content.get(name)
    if entries is None:
        raise _NotCoco(f"no '{name}'")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _NotCoco(f"'{name}' is no list of objects")
    return entries


def _key(entry: dict[str, object], name: str) -> str:
    """An id as text: files that belong together have written it as a number and as text."""
    value = entry.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise _NotCoco(f"{name} is {value!r}" if name in entry else f"no '{name}' in {entry}"[:80])
    text = str(value).strip()
    return str(int(text)) if text.isdecimal() and len(text) < 20 else text


def _targets(
    file: Path, which: Literal["report", "all"]
) -> tuple[list[str], list[str], np.ndarray, list[str]]:
    """The file name and id of each picture, its targets (N, num_labels), and the labels' names."""
    content = _content(file)
    try:
        names = _names_of_pictures(_entries(content, "images"))
        categories = [
            (_key(entry, "id"), entry.get("name")) for entry in _entries(content, "categories")
        ]
        objects = [
            (_key(entry, "image_id"), _key(entry, "category_id"))
            for entry in _entries(content, "annotations")
        ]
    except _NotCoco as reason:
        raise UserError(f"{file} is not a COCO instances file: {reason}") from None
    used = {category for _, category in objects}
    if which == "report":
        _check_categories(file, categories, used)
        label_names: list[str] = list(REPORT_LABELS)
        number_of_category = {str(n): n for n, name in enumerate(label_names) if name}
    else:
        named = _own_categories(file, categories, used)
        label_names = list(named.values())
        number_of_category = {category: number for number, category in enumerate(named)}
    row_of_image = {image_id: row for row, image_id in enumerate(names)}
    if objects and not any(image_id in row_of_image for image_id, _ in objects):
        raise UserError(f"{file}: none of its {len(objects):,} objects is in one of its pictures")
    targets = np.zeros((len(names), len(label_names)), dtype=np.uint8)
    for image_id, category in objects:
        if category in number_of_category and image_id in row_of_image:
            targets[row_of_image[image_id], number_of_category[category]] = 1
    return list(names.values()), list(names), targets, label_names


def _names_of_pictures(images: Iterable[dict[str, object]]) -> dict[str, str]:
    """The file name of each image id. A picture that is listed twice is one picture."""
    names: dict[str, str] = {}
    for image in images:
        image_id, name = _key(image, "id"), image.get("file_name")
        if not isinstance(name, str) or not name.strip():
            raise _NotCoco(f"no 'file_name' of image {image_id}")
        if names.setdefault(image_id, name) != name:
            raise _NotCoco(f"image {image_id} is both {names[image_id]} and {name}")
    return names


def _check_categories(file: Path, categories: list[tuple[str, object]], used: set[str]) -> None:
    named: dict[str, list[object]] = {}
    for category, name in categories:
        named.setdefault(category, []).append(name)
    for number, name in enumerate(REPORT_LABELS):
        given = named.get(str(number), ["not named"] if str(number) in used else [])
        if name and (wrong := [other for other in given if other != name]):
            raise UserError(
                f"{file}: category {number} is {wrong[0]}, but in COCO it is {name}: "
                f"these are other labels than the report's; {_ALL}"
            )


def _own_categories(
    file: Path, categories: list[tuple[str, object]], used: set[str]
) -> dict[str, str]:
    """The name of each category, in the order of their ids."""
    named: dict[str, str] = {}
    for category, name in categories:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{file}: category {category} has no name")
        name = name.strip()
        if named.setdefault(category, name) != name:
            raise UserError(f"{file}: category {category} is both {named[category]} and {name}")
        if twice := [other for other in named if named[other] == name and other != category]:
            raise UserError(f"{file}: categories {twice[0]} and {category} are both {name}")
    if unnamed := sorted(used - set(named)):
        raise UserError(f"{file}: there are objects of category {unnamed[0]}, which has no name")

    def place(category: str) -> tuple[int, str]:
        return (int(category), "") if category.isdecimal() else (2**63, category)

    return {category: named[category] for category in sorted(named, key=place)}


def _captions(file: Path, image_ids: list[str]) -> list[list[str]]:
    """The captions of each picture; those that are null are none."""
    captions: dict[str, list[str]] = {image_id: [] for image_id in image_ids}
    try:
        for entry in _entries(_content(file), "annotations"):
            image_id, caption = _key(entry, "image_id"), entry.get("caption")
            if "caption" not in entry:
                raise _NotCoco(f"no 'caption' in {entry}"[:80])
            if caption is not None and not isinstance(caption, str):
                raise _NotCoco(f"the caption {caption!r} of image {image_id} is no text")
            if caption is not None and image_id in captions:
                captions[image_id].append(caption)
    except _NotCoco as reason:
        raise UserError(
            f"{file} is not a COCO captions file: {reason}; data.captions=NAME says which is"
        ) from None
    return list(captions.values())


def _content(file: Path) -> dict[str, object]:
    text, _ = read_text(file)
    content = parse_json(file, text)
    if not isinstance(content, dict):
        raise UserError(f"{file} is not one of COCO's files: it holds no JSON object")
    return content


def _find_pictures(root: Path, file: Path, names: list[str], *, sure: bool) -> list[Path]:
    """Where each picture of an instances file is; where it is expected for one that is nowhere.

    A name may begin with folders, which may be there or not. With `sure` a name that is in several
    folders, none of which it is expected in, raises UserError.
    """
    subset = file.stem.removeprefix("instances_")
    expected = [root / subset, root / "images" / subset, root / "images"]
    if file.parent != root / "annotations":
        expected.insert(0, file.parent)
    parents = (root, root / "images")
    others = [*(folder for parent in parents for folder in sorted(_folders(parent))), root]
    paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
    present: dict[Path, set[str]] = {}

    def holds(folder: Path, name: PurePosixPath) -> bool:
        parent = (folder / name).parent
        if parent not in present:
            present[parent] = listing(parent)
        return name.name in present[parent]

    def find(name: PurePosixPath) -> Path | None:
        for folder in expected:
            if holds(folder, name):
                return folder / name
        found = [folder / name for folder in others if holds(folder, name)]
        if sure and len({path.resolve() for path in found}) > 1:
            folders = ", ".join(str(path.parent) for path in found)
            raise UserError(
                f"{file}: which {name} is meant? There is one in each of {folders}: write the"
                " folder before the names in that file, or name it instances_FOLDER.json"
            )
        return found[0] if found else None

    # Without its folder a name must still be that of one picture alone.
    unique = len({path.name for path in paths}) == len(paths)
    return [
        find(path) or (find(PurePosixPath(path.name)) if unique else None) or expected[0] / path
        for path in paths
    ]


def _folders(parent: Path) -> list[Path]:
    return [entry for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
