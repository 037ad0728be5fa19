"""The page of mistakes and of labels that are probably wrong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from markupsafe import Markup

from mmlabel.data.annotations import Annotations
from mmlabel.label_errors import AnsweredRows, Suspicion
from mmlabel.report.gallery import (
    Card,
    Chip,
    Line,
    answer_chips,
    label_name,
    seen_upright,
    thumbnail,
)
from mmlabel.report.pages import Section, about, render, write_page
from mmlabel.run_folder import RunRecord
from mmlabel.wording import count

PICTURE_BUDGET = 8_000_000  # characters of base64: more than other pages, which show fewer


@dataclass(frozen=True)
class Mistakes:
    """Mistakes of runs and doubts about labels, with what the rows show.

    Attributes:
        rows: what the runs answered.
        suspected: which labels are probably wrong; None: not looked for.
        annotations: captions and pictures; None: not to be had.
        names: label number -> name.
        notes: what a reader must know.
    """

    rows: AnsweredRows
    suspected: Suspicion | None
    annotations: Annotations | None
    names: dict[int, str]
    notes: list[str]

    def caption(self, row: int) -> str:
        """The row's caption, "" if it is not known."""
        return self.caption_and_picture(row)[0]

    def caption_and_picture(self, row: int) -> tuple[str, Path | None]:
        """The row's caption and picture file, "" and None if they are not known."""
        if self.annotations is None:
            return "", None
        return self.annotations.caption_and_picture(self.rows.ids[row])

    def suspects(self) -> list[int]:
        """Rows with a suspected label, the least likely labels first."""
        if self.suspected is None:
            return []
        rows = np.flatnonzero(self.suspected.cells.any(axis=1))
        return rows[np.argsort(self.suspected.quality[rows], kind="stable")].tolist()

    def mistaken(self) -> list[int]:
        """Rows with a mistake, the surest first."""
        rows = np.flatnonzero(self.rows.wrong.any(axis=1))
        return rows[np.argsort(-self.rows.sureness[rows], kind="stable")].tolist()

    def in_order(self) -> list[int]:
        """Both, the suspects first."""
        return list(dict.fromkeys([*self.suspects(), *self.mistaken()]))

    @cached_property
    def label_names(self) -> list[str]:
        """(K) names of the labels."""
        return [label_name(self.names, number) for number in self.rows.labels]

    def names_of(self, which: np.ndarray) -> list[str]:
        """The names of the labels that are true in (K,)."""
        return [self.label_names[k] for k in np.flatnonzero(which)]

    def doubted(self, row: int) -> tuple[list[str], list[str]]:
        """The labels of a row that are probably missing, and those that are probably not there."""
        if self.suspected is None:
            return [], []
        given, cells = self.rows.targets[row], self.suspected.cells[row]
        return self.names_of(cells & ~given), self.names_of(cells & given)


def write_mistakes_page(
    path: Path, found: Mistakes, *, runs: Sequence[RunRecord], most: int, command: str
) -> Path:
    """Write the page and return its path; `most` pictures at most, half of them suspects."""
    wrong = found.rows.wrong
    facts = [
        count(len(found.rows.ids), "row"),
        f"{wrong.any(axis=1).sum():,} with a mistake",
    ]
    if found.suspected is not None:
        facts.append(f"{found.suspected.cells.any(axis=1).sum():,} with a label that may be wrong")
    header = render(
        "header.html",
        kind=count(len(runs), "run"),
        title="Mistakes and probable label errors",
        css="run",
        facts=facts,
        about=about(runs),
        command=command,
        notes=found.notes,
    )
    sections = [
        Section("by-label", "Label by label", _by_label(found)),
        Section("gallery", "Look at them", _gallery(found, most, upright=seen_upright(runs))),
    ]
    return write_page(path, title="Mistakes", header=header, sections=sections)


def _by_label(found: Mistakes) -> Markup:
    rows, wrong = found.rows, found.rows.wrong
    cells = np.zeros_like(wrong) if found.suspected is None else found.suspected.cells
    lines = [
        {
            "name": found.label_names[k],
            "rows": int(rows.targets[:, k].sum()),
            "counts": [
                int(part[:, k].sum())
                for part in (
                    wrong & rows.targets,
                    wrong & ~rows.targets,
                    cells & rows.targets,
                    cells & ~rows.targets,
                )
            ],
        }
        for k in np.argsort(-wrong.sum(axis=0), kind="stable")
    ]
    return render("mistakes/labels.html", lines=lines, suspected=found.suspected is not None)


def _gallery(found: Mistakes, most: int, *, upright: bool) -> Markup:
    suspects, mistaken = found.suspects(), found.mistaken()
    first = suspects[: max(most // 2, most - len(mistaken))]
    chosen = [*first, *[row for row in mistaken if row not in set(first)][: most - len(first)]]
    budget, cards = PICTURE_BUDGET, []
    for row in chosen:
        caption, path = found.caption_and_picture(row)
        picture = path and thumbnail(path, budget, upright=upright)
        budget -= len(picture or "")
        cards.append(_card(found, row, caption, picture))
    times = Counter(label for card in cards for label in card.labels)
    summary = f"Below are {count(len(first), 'row')} whose labels are least likely to be right, "
    summary += "least likely first, then mistakes that the model was surest of, surest first."
    if found.suspected is None:
        summary = "Below are the mistakes that the model was surest of, surest first."
    return render(
        "gallery.html",
        labels=[(n, label_name(found.names, n), times[n]) for n in found.rows.labels if times[n]],
        summary=summary,
        several=False,
        kinds={"all": "All", "suspect": "Probable label errors", "wrong": "Mistakes"},
        cards=cards,
    )


def _card(found: Mistakes, row: int, caption: str, picture: str | None) -> Card:
    rows = found.rows
    given, answered, wrong = rows.targets[row], rows.answered[row], rows.wrong[row]
    chips = answer_chips(answered, given, rows.probabilities[row], found.label_names)
    lines = [Line("Model", not wrong.any(), chips)]
    missing, not_there = found.doubted(row)
    if found.suspected is not None and (missing or not_there):
        doubts = [Chip("", f"add {name}") for name in missing]
        doubts += [Chip("", f"remove {name}") for name in not_there]
        quality = found.suspected.quality[row]
        lines.append(Line(f"Labels (quality {quality:.2f}), perhaps", False, doubts))
    concerned = given | wrong | answered
    kinds = [*(["suspect"] if missing or not_there else []), *(["wrong"] if wrong.any() else [])]
    return Card(
        id=rows.ids[row],
        kinds=kinds,
        labels=[rows.labels[k] for k in np.flatnonzero(concerned)],
        caption=caption,
        picture=picture,
        truth=found.names_of(given),
        lines=lines,
    )
