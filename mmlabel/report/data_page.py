"""The page of a data set."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from mmlabel.data.annotations import MissingPictures
from mmlabel.data.overview import Captions, Labels, Pictures, splits_of
from mmlabel.report.charts import Series, line_chart
from mmlabel.report.gallery import PICTURE_BUDGET, thumbnail
from mmlabel.report.pages import Section, render, write_page
from mmlabel.wording import count

MOST_LINES = 200  # of a table
MOST_TOGETHER = 25  # labels in the table of those that occur together
MOST_COPIES = 30  # groups that are shown with their pictures


@dataclass(frozen=True)
class DataSet:
    """What was found in a data set; see `mmlabel.data.overview`.

    Attributes:
        name: of the source.
        rows: by split.
        total: of all rows.
        labels, captions, pictures: None where the model does not look at them.
        notes: what a reader must know.
        missing: what a run says of pictures that are not there.
    """

    name: str
    rows: dict[str, int]
    total: int
    labels: Labels
    captions: Captions | None
    pictures: Pictures | None
    notes: list[str]
    missing: MissingPictures | None = None


def write_data_page(path: Path, found: DataSet, *, command: Sequence[str]) -> Path:
    """Write the page of a data set and return its path; `command` is what made it."""
    warnings, pictures = [], found.pictures
    if pictures is not None and pictures.leaks:
        warnings.append(
            f"{count(len(pictures.leaks), 'picture stands', 'pictures stand')} in several"
            f" splits: {_harm(pictures)}."
        )
    if pictures is not None and pictures.unreadable:
        warnings.append(f"{count(len(pictures.unreadable), 'picture')} cannot be read.")
    facts = [count(found.total, "row"), *(f"{n:,} {split}" for split, n in found.rows.items())]
    header = render(
        "header.html",
        kind="Data set",
        title=f"What data={found.name} holds",
        css="run",
        facts=facts,
        command=shlex.join(command),
        warnings=warnings,
        notes=found.notes,
    )
    sections = [
        Section("labels", "Labels", _labels(found.labels, found.rows)),
        Section("together", "Labels that occur together", _together(found.labels)),
    ]
    if found.captions is not None:
        sections.append(Section("captions", "Captions", _captions(found.captions)))
    if pictures is not None:
        sections.append(Section("pictures", "Pictures", _pictures(pictures)))
        sections.append(Section("copies", "The same picture twice", _copies(pictures)))
    return write_page(path, title=f"data={found.name}", header=header, sections=sections)


def _harm(pictures: Pictures) -> str:
    """What is wrong with scores where the same picture stands in several splits."""
    kinds = {"train": "training", "val": "validation", "test": "test"}
    shared = [splits_of(group) for group in pictures.leaks]
    return "; ".join(
        f"scores on the {kinds[later]} rows are partly those of {kinds[earlier]} rows"
        for earlier, later in (("train", "test"), ("val", "test"), ("train", "val"))
        if any({earlier, later} <= splits for splits in shared)
    )


def _labels(labels: Labels, rows: dict[str, int]) -> Markup:
    most = max(1, int(labels.together.diagonal().max(initial=1)))
    lines = [
        {
            "name": labels.names[place],
            "rows": int(labels.together[place, place]),
            "share": labels.together[place, place] / most,
            "counts": [int(labels.counts[split][place]) for split in rows],
        }
        for place in labels.commonest_first
    ]
    per_row = np.bincount(labels.per_row).tolist()
    return render(
        "data/labels.html",
        splits=list(rows),
        lines=lines,
        per_row={f"{n}": f"{rows:,}" for n, rows in enumerate(per_row) if rows},
        unknown=labels.unknown,
    )


def _together(labels: Labels) -> Markup:
    kept = labels.commonest_first[:MOST_TOGETHER]
    counts = labels.together[np.ix_(kept, kept)].toarray()
    # A share of the row's label: the commonest label would otherwise outshine all others.
    own = np.maximum(1, counts.diagonal())[:, None]
    shares = np.where(np.eye(len(kept), dtype=bool), 0, counts / own)
    lines = [
        {
            "name": labels.names[kept[i]],
            "rows": int(counts[i, i]),
            "cells": [None if i == j else (int(counts[i, j]), shares[i, j]) for j in columns],
        }
        for columns in [range(len(kept))]
        for i in columns
    ]
    if not (shares > 0).any():
        return Markup("")
    return render(
        "data/together.html",
        names=[labels.names[place] for place in kept],
        lines=lines,
        left_out=len(labels.names) - len(kept),
    )


def _captions(captions: Captions) -> Markup:
    lengths = np.bincount(captions.lengths)
    shown = np.arange(min(len(lengths), int(np.percentile(captions.lengths, 99.5)) + 2))
    chart = line_chart(
        id="caption-lengths",
        heading="Length of captions",
        note="",
        series=[Series("rows", shown.tolist(), lengths[shown].tolist(), 0)],
        x_label="words",
        y_label="rows",
    )
    middle, most = captions.usual
    rarer, which = {}, "Of these"
    if captions.rarer:
        rarer = {"Of these rarer than captions.min_count": f"{captions.rarer:,}"}
        which = "Of the others"
    lacking = captions.without_vector
    without = "no ready-made vectors are asked for"
    if captions.asked_for:
        without = "the ready-made vectors could not be had, see the notes"
    if lacking is not None:
        share = f"{100 * captions.share_without:.1f} % of the text"
        share += " with the rarer" if captions.rarer else ""
        without = f"{len(lacking):,}, {share} ({captions.source})"
    return render(
        "data/captions.html",
        chart=chart,
        facts={
            "Words of a caption in the middle": f"{middle:,}",
            "Words that 95 % have at most": f"{most:,}",
            "Words of the longest": f"{captions.lengths.max():,}",
            "Empty captions": f"{lengths[0]:,}",
            "Rows whose caption another row has, too": f"{captions.repeated:,}",
            "Different words in the training captions": f"{captions.words:,}",
            **rarer,
            f"{which} without a vector": without,
        },
        lacking=(lacking or [])[:MOST_LINES],
        of=len(lacking or []),
    )


def _pictures(pictures: Pictures) -> Markup:
    return render(
        "data/pictures.html",
        count=pictures.count,
        sizes=[(f"{w} × {h}", n) for (w, h), n in pictures.sizes[:MOST_LINES]],
        of=len(pictures.sizes),
        unreadable=pictures.unreadable[:MOST_LINES],
        bad=len(pictures.unreadable),
    )


def _copies(pictures: Pictures) -> Markup:
    leaks = {id(group) for group in pictures.leaks}
    others = {id(group) for group in pictures.contradictions}
    # Leaks first, as they spoil scores; then groups whose labels contradict each other.
    ordered = sorted(
        pictures.copies, key=lambda group: (id(group) not in leaks, id(group) not in others)
    )
    budget, groups = PICTURE_BUDGET, []
    for group in ordered[:MOST_COPIES]:
        picture = thumbnail(group[0].path, budget, upright=pictures.upright)
        budget -= len(picture or "")
        groups.append(
            {
                "picture": picture,
                "leak": id(group) in leaks,
                "labels_differ": id(group) in others,
                "copies": group,
            }
        )
    return render(
        "data/copies.html",
        groups=groups,
        of=len(pictures.copies),
        leaks=len(leaks),
        others=len(others),
    )
