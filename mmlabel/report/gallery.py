"""Test pictures with their captions, their labels and what the models answered."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmlabel.former_settings import completed
from mmlabel.label_errors import sureness
from mmlabel.report.pages import Section, render
from mmlabel.run_folder import Predictions, RunRecord
from mmlabel.wording import count

if TYPE_CHECKING:
    from mmlabel.data.annotations import Annotations

RUN_PICTURES = 60
STUDY_PICTURES = 60
# Characters of base64: with it and everything else a page stays below 3 MB.
PICTURE_BUDGET = 2_200_000
THUMBNAIL = 320  # px, of the longer side


@dataclass(frozen=True, eq=False)
class Answers:
    """What every variant says about the test rows that all runs share, with the same labels."""

    ids: list[str]
    labels: list[int]
    targets: np.ndarray  # (N, K) bool
    names: list[str]  # V variants
    answers: np.ndarray  # (V, N, K) bool
    probs: np.ndarray | None  # (N, K) probabilities, of a single run

    @cached_property
    def right(self) -> np.ndarray:
        """(V, N) bool: exactly the labels of the picture."""
        return (self.answers == self.targets).all(axis=2)

    @cached_property
    def differ(self) -> np.ndarray:
        """(N,) bool: not all variants give the same answer."""
        return (self.answers != self.answers[:1]).any(axis=(0, 2))


class Chip(NamedTuple):
    """One label in an answer: "" if it is right, or "missed", or "extra"."""

    kind: str
    text: str


class Line(NamedTuple):
    """The answer that some variants have in common."""

    who: str
    right: bool
    chips: list[Chip]


class Card(NamedTuple):
    """One test picture; `kinds` and `labels` (numbers) are what the page's reader chooses by."""

    id: str
    kinds: list[str]
    labels: list[int]
    caption: str
    picture: str | None
    truth: list[str]
    lines: list[Line]


def gallery(
    variants: Sequence[tuple[str, list[RunRecord]]],
    annotations: "Annotations | None",
    names: dict[int, str],
    limit: int,
) -> list[Section]:
    """The gallery's section, or none without annotations or shared test rows.

    Args:
        variants: name and runs of each.
        annotations: rows that include the test split, for captions and pictures.
        names: label number -> name.
        limit: how many pictures.
    """
    shared = _collect(variants)
    if annotations is None or shared is None:
        return []
    upright = seen_upright([run for _, runs in variants for run in runs])
    labels = [label_name(names, number) for number in shared.labels]
    budget, cards = PICTURE_BUDGET, []
    for row in _choose(shared, limit):
        caption, path = annotations.caption_and_picture(shared.ids[row])
        picture = path and thumbnail(path, budget, upright=upright)
        budget -= len(picture or "")
        cards.append(_card(shared, row, caption, picture, labels))
    several = len(shared.names) > 1
    kinds = {"all": "All", "wrong": "Wrong", "right": "Right"}
    if several:
        kinds = {"all": "All", "wrong": "Any wrong", "differ": "Variants differ"}
        kinds |= {"right": "All right"}
    chosen = Counter(label for card in cards for label in card.labels)
    body = render(
        "gallery.html",
        labels=[(n, label_name(names, n), chosen[n]) for n in shared.labels if chosen[n]],
        summary=_summary(shared, len(cards)),
        several=several,
        kinds=kinds,
        cards=cards,
    )
    return [Section("gallery", "Test pictures", body)]


def _collect(variants: Sequence[tuple[str, list[RunRecord]]]) -> Answers | None:
    """Align all runs by image id; None if they share no test rows or have other labels.

    A row whose labels were read otherwise (data.uncertain) is none that they share.
    With several seeds a variant's answer has the labels that more than half of its runs give.
    """
    variants = [(name, runs) for name, runs in variants if runs]
    everyone = [run.predictions for _, runs in variants for run in runs]
    if not everyone or any(one.labels != everyone[0].labels for one in everyone):
        return None
    shared = set.intersection(*(set(one.ids) for one in everyone))
    first = everyone[0]
    ids = [id for id in first.ids if id in shared]

    def rows(one: Predictions) -> list[int]:
        place = {id: row for row, id in enumerate(one.ids)}
        return [place[id] for id in ids]

    alike = np.ones(len(ids), dtype=bool)
    for one in everyone[1:]:
        ours, theirs = rows(first), rows(one)
        alike &= (first.targets[ours] == one.targets[theirs]).all(axis=1)
        alike &= (first.known[ours] == one.known[theirs]).all(axis=1)
    ids = [id for id, kept in zip(ids, alike, strict=True) if kept]
    if not ids:
        return None
    votes = [
        np.mean([run.answers[rows(run.predictions)] for run in runs], axis=0)
        for _, runs in variants
    ]
    return Answers(
        ids=ids,
        labels=first.labels,
        targets=first.targets[rows(first)],
        names=[name for name, _ in variants],
        answers=np.stack(votes) > 0.5,
        probs=variants[0][1][0].probabilities[rows(first)] if len(everyone) == 1 else None,
    )


def _choose(shared: Answers, limit: int) -> list[int]:
    """Rows for the gallery.

    Of a single run two thirds are the mistakes that it was surest of, surest first. Of several
    variants half are rows on which they differ, a quarter rows that any has wrong, in file order;
    where none differ, half are wrong. The others are taken evenly over the file, so that nobody
    picks the nice ones.
    """
    wrong = ~shared.right.all(axis=0)
    if shared.probs is not None:
        right, mistakes = np.flatnonzero(~wrong), np.flatnonzero(wrong)
        answers = shared.answers[0]
        sure = sureness(shared.probs, answers, answers != shared.targets)
        mistakes = mistakes[np.argsort(-sure[mistakes], kind="stable")]
        taken = mistakes[: max(limit - len(right), 2 * limit // 3)]
        return [*taken.tolist(), *_evenly(right, limit - len(taken))]
    kinds = [shared.differ, wrong & ~shared.differ, ~wrong]
    groups = [np.flatnonzero(kind) for kind in kinds]
    shares = [limit // 2, limit // 4, limit // 4]
    if not shared.differ.any():
        shares = [0, limit // 2, limit // 2]
    sizes = [min(len(group), share) for group, share in zip(groups, shares, strict=True)]
    for place, group in enumerate(groups):
        sizes[place] += min(len(group) - sizes[place], limit - sum(sizes))
    chosen: list[int] = []
    for group, size in zip(groups, sizes, strict=True):
        chosen += _evenly(group, size)
    return sorted(chosen)


def _evenly(rows: np.ndarray, size: int) -> list[int]:
    """At most `size` of the rows, evenly over all of them."""
    size = min(size, len(rows))
    return rows[np.linspace(0, len(rows) - 1, size).astype(int)].tolist() if size else []


def _summary(shared: Answers, shown: int) -> str:
    right = shared.right
    counts, more = f"{_share(right[0])} are answered without any mistake", "mistakes"
    if len(shared.names) > 1:
        counts = (
            f"every variant is right on {_share(np.all(right, axis=0))}, none on "
            f"{_share(~np.any(right, axis=0))}, and variants differ on {_share(shared.differ)}"
        )
        more = "mistakes and disagreements"
    below = f"Below are {shown}, evenly over the file but with more {more} than their share."
    if shared.probs is not None:
        below = (
            f"Below are {shown}: first the mistakes that the model was surest of, surest first, "
            "then right answers, evenly over the file."
        )
    elif shown == len(shared.ids):
        below = "All of them are below."
    return (
        f"Of {count(len(shared.ids), 'test picture')}, {counts}. Right means exactly the labels of "
        f"the picture. {below}"
    )


def _share(which: np.ndarray) -> str:
    return f"{which.sum():,} ({100 * which.mean():.0f} %)"


def _card(shared: Answers, row: int, caption: str, picture: str | None, labels: list[str]) -> Card:
    kinds = ["right" if shared.right[:, row].all() else "wrong"]
    kinds += ["differ"] if shared.differ[row] else []
    # Variants that agree share a line, so that a disagreement is what meets the eye.
    agreeing: dict[bytes, list[int]] = {}
    for variant in range(len(shared.names)):
        agreeing.setdefault(shared.answers[variant, row].tobytes(), []).append(variant)
    concerned = shared.targets[row] | shared.answers[:, row].any(axis=0)
    return Card(
        id=shared.ids[row],
        kinds=kinds,
        labels=[shared.labels[k] for k in np.flatnonzero(concerned)],
        caption=caption,
        picture=picture,
        truth=[labels[k] for k in np.flatnonzero(shared.targets[row])],
        lines=[_line(shared, row, group, labels) for group in agreeing.values()],
    )


def _line(shared: Answers, row: int, group: list[int], labels: list[str]) -> Line:
    answer, truth = shared.answers[group[0], row], shared.targets[row]
    probs = None if shared.probs is None else shared.probs[row]
    chips = answer_chips(answer, truth, probs, labels)
    who = ", ".join(shared.names[variant] for variant in group)
    if len(shared.names) == 1:
        who = "Answer"
    elif len(group) == len(shared.names):
        who = "All variants"
    return Line(who, bool((answer == truth).all()), chips)


def answer_chips(
    answer: np.ndarray, truth: np.ndarray, probs: np.ndarray | None, labels: list[str]
) -> list[Chip]:
    """The (K,) labels of an answer and those that it missed, with their probabilities if given."""
    return [
        Chip(
            "" if answer[k] and truth[k] else "extra" if answer[k] else "missed",
            labels[k] if probs is None else f"{labels[k]} {probs[k]:.2f}",
        )
        for k in np.flatnonzero(answer | truth)
    ]


def label_name(names: dict[int, str], number: int) -> str:
    """The label's name, or its number where it has none."""
    return names.get(number) or f"label {number}"


def label_names(runs: Sequence[RunRecord], annotations: "Annotations | None") -> dict[int, str]:
    """Label number -> name, as the runs recorded it.

    Today's data may have other labels under the same numbers; they are asked for the names that no
    run has recorded, if they agree with those that one has.
    """
    names = {number: name for run in runs for number, name in run.label_names.items()}
    if annotations is None:
        return names
    today = {n: name for n, name in enumerate(annotations.label_names) if name}
    return names | today if names.items() <= today.items() else names


def seen_upright(runs: Sequence[RunRecord]) -> bool:
    """Whether the first of the runs saw pictures turned as their EXIF data says.

    A page shows each picture once, also where the others of its runs saw it otherwise.
    """
    settings = completed(runs[0].results.get("settings", {})) if runs else {}
    # As `Settings.upright`, of records that this version may not understand in all else.
    return bool(settings.get("detector") or settings.get("data", {}).get("upright"))


def thumbnail(path: Path, budget: int, *, upright: bool) -> str | None:
    """The picture as a small JPEG in a data URI; None if unreadable or larger than the budget."""
    from mmlabel.data import pictures

    try:
        small = pictures.thumbnail(path, THUMBNAIL, upright=upright)
    except pictures.BadPicture:
        return None
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=70, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
    return uri if len(uri) <= budget else None
