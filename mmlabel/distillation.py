"""Networks to learn from (`distil.teacher`): what they were trained on, and their logits of a run's
training rows, which are computed once and kept.

Hinton et al. 2015 (arXiv:1503.02531); the loss is `mmlabel.criterion.MeanOverKnown`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mmlabel.cache import file_digest, fingerprint, kept, library_versions
from mmlabel.checkpoint import SplitRecord, hashes, joined, read_checkpoint
from mmlabel.data.annotations import Annotations
from mmlabel.data.batches import TeacherLogits
from mmlabel.data.digests import digests_folder, picture_digests
from mmlabel.data.prepare import PreparedData
from mmlabel.data.sources.unlabelled import Row, Rows
from mmlabel.data.transforms import decoder_key
from mmlabel.errors import UserError
from mmlabel.models.engines import device_for, has_bfloat16
from mmlabel.predictor import BATCH, Predictor
from mmlabel.streaming import answers
from mmlabel.wording import listed

log = logging.getLogger("mmlabel")

_VERSION = 1  # of the entries in the cache


@dataclass(frozen=True)
class Teacher:
    """A network to learn from.

    Attributes:
        path: of its checkpoint.
        digest: of that file.
        model: its kind ("ensemble").
        inputs: what it looks at: "image", "caption" or both.
        label_names: of the labels that it answers.
        rows: by split, what it was trained, selected and tested on; None: it does not tell.
        seen: in hashes, the rows that it, or a teacher of its own, was trained ("train") and
            selected ("val") on; None: it does not tell.
    """

    path: Path
    digest: str
    model: str
    inputs: tuple[str, ...]
    label_names: list[str]
    rows: dict[str, SplitRecord] | None
    seen: dict[str, np.ndarray] | None


def read_teachers(paths: Sequence[str]) -> list[Teacher]:
    """The networks in these checkpoints.

    Raises UserError for what is no checkpoint, or of a network without a probability a label.
    """
    teachers = []
    for path in map(Path, paths):
        try:
            read = read_checkpoint(path)
        except UserError as error:
            raise UserError(f"distil.teacher: {str(error).removeprefix('ckpt_path: ')}") from None
        model = read.settings.model.name
        if model == "decoder":
            raise UserError(
                f"distil.teacher={path} is of model=decoder, whose probabilities are not of each"
                " label by itself; give a checkpoint of another model"
            )
        teachers.append(
            Teacher(
                path=read.path,
                digest=file_digest(read.path)[:32],
                model=model,
                inputs=read.settings.inputs,
                label_names=[name for name in read.label_names if name],
                rows=read.rows,
                seen=read.seen,
            )
        )
    return teachers


def in_words(teachers: Sequence[Teacher]) -> str:
    """Which they are, wherever their files lie: "ensemble 0f3a…"."""
    return ", ".join(f"{teacher.model} {teacher.digest}" for teacher in teachers)


def taught_by(teachers: Sequence[Teacher]) -> dict[str, np.ndarray] | None:
    """What a run's checkpoints tell of its teachers' rows, see `checkpoint.Content.taught`."""
    seen = [teacher.seen for teacher in teachers if teacher.seen is not None]
    return joined(seen) if teachers and len(seen) == len(teachers) else None


def check_teacher(teacher: Teacher, prepared: PreparedData, *, allow_seen_rows: bool) -> None:
    """See that a teacher knows the run's labels, and none of the rows that the run is scored on.

    Its own validation rows may be the run's: both are selected on them.

    Raises UserError where that is not so, or cannot be told.
    """
    ours = {name for name in prepared.label_names if name}
    if ours != (theirs := set(teacher.label_names)):
        raise UserError(
            f"distil.teacher={teacher.path} has other labels than the data:"
            f" {_differing('it lacks', ours - theirs)}{_differing('it has', theirs - ours)}"
        )
    problem = _problem(teacher, prepared)
    if problem is None:
        return
    if not allow_seen_rows:
        raise UserError(
            f"distil.teacher={teacher.path}: {problem}, so that the scores would be too high; give"
            " a teacher that was trained on the training rows of this run (the same data and"
            " data.split_seed), or distil.allow_seen_rows=true"
        )
    prepared.note(f"distil.allow_seen_rows: {problem}: the scores may be too high")


def _differing(what: str, names: set[str]) -> str:
    if not names:
        return ""
    return f" {what} {listed(sorted(names), most=5)};"


def _problem(teacher: Teacher, prepared: PreparedData) -> str | None:
    """Why this run's scores cannot be trusted with the teacher, in words."""
    if teacher.rows is None:
        return "it is of an earlier version and does not tell which rows it was trained on"
    if teacher.seen is None:
        return (
            "it has learned from a teacher of its own, and is of an earlier version that does not"
            " tell which rows that one was trained on"
        )
    ids = prepared.annotations.ids
    own = {
        split: hashes(ids[row] for row in rows) for split, rows in prepared.rows.items()
    }  # of each row (n,) int64
    trained, selected = teacher.seen["train"], teacher.seen["val"]
    known = [trained, selected, *(record.ids.numpy() for record in teacher.rows.values())]
    if not np.isin(np.concatenate([*own.values()]), np.concatenate(known)).any():
        return (
            "it knows none of this run's pictures by their names, so that it cannot be told which"
            " of them it was trained on"
        )
    seen = {split: int(np.isin(own[split], trained).sum()) for split in own}
    chosen = int(np.isin(own["test"], selected).sum())
    if seen["val"] or seen["test"] or chosen:
        return (
            f"it, or a teacher of its own, was trained on {seen['val']} of the {len(own['val'])}"
            f" validation rows and {seen['test']} of the {len(own['test'])} test rows of this run,"
            f" and selected on {chosen} of its test rows"
        )
    log.info(
        "%s was trained on %d of the %d training rows", teacher.path, seen["train"],
        len(own["train"]),
    )  # fmt: skip
    return None


def teacher_logits(
    teachers: Sequence[Teacher],
    prepared: PreparedData,
    *,
    cache_dir: Path,
    on_bad_image: Literal["error", "skip"],
) -> TeacherLogits:
    """The mean of the teachers' logits of the training rows, each computed once and kept.

    A label number that does not exist has logits of -infinity. With `on_bad_image` "skip" rows
    whose pictures cannot be read are left out of the run; each run tries to read them anew.

    Raises UserError for such a picture otherwise.
    """
    rows = prepared.rows["train"]
    part = prepared.annotations.take(rows)
    mean = np.zeros((len(rows), len(prepared.label_names)), dtype=np.float32)
    numbers = {name: number for number, name in enumerate(prepared.label_names) if name}
    mean[:, [number for number, name in enumerate(prepared.label_names) if not name]] = -np.inf
    for teacher in teachers:
        found = _logits_of(
            teacher, part, cache_dir=cache_dir, on_bad_image=on_bad_image, note=prepared.note
        )
        mean[:, [numbers[name] for name in teacher.label_names]] += found / len(teachers)
    bad = np.isnan(mean).any(axis=1)
    prepared.leave_out(rows[bad], "as the teacher cannot read their pictures")
    return TeacherLogits(rows, mean)


def _logits_of(
    teacher: Teacher,
    part: Annotations,
    *,
    cache_dir: Path,
    on_bad_image: Literal["error", "skip"],
    note: Callable[[str], None],
) -> np.ndarray:
    """(n, L) float32 of these rows; not a number in the row of a picture that cannot be read."""
    content: list[object] = []
    if "image" in teacher.inputs:
        digests = picture_digests(part.pictures, digests_folder(cache_dir))
        content.append(b"".join(digest or b"-" for digest in digests))
    if "caption" in teacher.inputs:
        content.append(part.captions)
    key = fingerprint("teacher", _VERSION, teacher.digest, _computed_by(teacher), *content)
    lacking: list[str] = []

    def computed(some: Annotations) -> np.ndarray:
        return _computed(
            teacher.path, some.pictures, some.captions, on_bad_image=on_bad_image, lacking=lacking
        )

    found = kept(
        cache_dir / "teachers" / f"{key}.entry",
        lambda: computed(part),
        # Without WordNet captions are read otherwise than another time with it.
        pack=lambda logits: None if lacking else {"logits": logits},
        unpack=lambda arrays: arrays["logits"],
    )
    # What is kept may be of a run that left rows out, or of a failure that has passed.
    again = np.flatnonzero(np.isnan(found).any(axis=1))
    if len(again):
        found[again] = computed(part.take(again))
    for text in dict.fromkeys(lacking):
        note(f"distil.teacher={teacher.path}: {text}")
    return found


def _computed_by(teacher: Teacher) -> dict[str, object]:
    """What a teacher's logits depend on besides its checkpoint and the rows."""
    key: dict[str, object] = dict(library_versions("torch"))
    if "image" in teacher.inputs:
        key |= {**decoder_key(), **library_versions("torchvision", "timm", "openvino")}
        key["bfloat16"] = has_bfloat16(device_for("auto"))  # without it one in it is in float32
    if teacher.model.startswith("detector"):
        key |= library_versions("ultralytics")
    if "caption" in teacher.inputs:
        key |= library_versions("nltk", "transformers", "tokenizers")
    return key


def _computed(
    path: Path,
    pictures: Sequence[Path],
    captions: Sequence[str],
    *,
    on_bad_image: Literal["error", "skip"],
    lacking: list[str],
) -> np.ndarray:
    """What `_logits_of` gives; what captions had to go without is added to `lacking`."""
    predictor = Predictor(path, fastest=True)
    for note in predictor.weights_notes:
        log.warning("distil.teacher=%s: %s", path, note)
    log.info("the logits of %s for %d training rows are computed", path, len(captions))
    each = [
        Row(str(number), picture, caption)
        for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True))
    ]
    found = answers(
        predictor,
        Rows(each, len(each), has_captions=True, notes=[]),
        batch_size=BATCH,
        on_bad_image=on_bad_image,
        logits=True,
    )
    none = np.full(len(predictor.label_names), np.nan, dtype=np.float32)
    rows = [none if row.problem else row.probabilities for row in found]
    lacking += predictor.lacking
    return np.stack(rows)  # type: ignore[arg-type]
