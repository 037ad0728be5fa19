"""`python -m mmlabel.data OPTION=VALUE…`: what a data set holds, and what is wrong with it."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from mmlabel.cache import cache_folder
from mmlabel.cli import command_settings
from mmlabel.commands import OPTIONS, Parser, check_file, path_of, run_command
from mmlabel.data.annotations import Annotations, MissingPictures
from mmlabel.data.captions import Vocabulary, note_on_symbols, tokenise
from mmlabel.data.embeddings import load_embeddings
from mmlabel.data.labels import (
    labels_of_every_row,
    labels_that_look_alike,
    labels_that_occur_once,
    labels_without_rows,
)
from mmlabel.data.overview import (
    Captions,
    Copy,
    Labels,
    Pictures,
    captions_of,
    labels_of,
    pictures_of,
)
from mmlabel.data.splits import note_of_left_out
from mmlabel.errors import UserError, together
from mmlabel.models.options import Captions as CaptionOptions
from mmlabel.report.data_page import DataSet, write_data_page
from mmlabel.settings import Settings
from mmlabel.terminal import console, printable
from mmlabel.wording import count, listed

HELP = """\
What a data set holds, before anything is trained on it: rows and splits, labels with counts and
what they occur with, lengths of captions, words without a vector, sizes of pictures, pictures that
are there twice (also across splits, which is a leak) and files that are not there or cannot be
read: with these the exit code is 1, unless data.on_bad_image=skip leaves out what cannot be read.

Options are those of train.py (python train.py --help):

  python -m mmlabel.data                                      the built-in data set
  python -m mmlabel.data data=usyd data.root=DIR --out data.html
  python -m mmlabel.data data=csv data.file=FILE model=image_only"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(lambda: _show(_parser().parse_intermixed_args(arguments)))


def _show(options: argparse.Namespace) -> None:
    if options.out is not None:
        check_file(options.out, command="mmlabel.data")
    settings = command_settings(options.options)
    found = look_at(settings)
    _print(found)
    if options.out is not None:
        command = ["python", "-m", "mmlabel.data", *options.options]
        try:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_data_page(options.out, found, command=command)
        except OSError as error:
            raise UserError(f"--out {options.out}: {error.strerror}") from None
        print(f"the page is {options.out}")
    wrong = [str(found.missing)] if found.missing else []
    absent = found.missing.ids if found.missing else set()
    unreadable = [id for id, _ in found.pictures.unreadable] if found.pictures else []
    bad = sum(id not in absent for id in unreadable)
    if bad and settings.data.on_bad_image == "error":
        wrong.append(
            f"{count(bad, 'picture')} cannot be read, see above: replace the files, or leave their"
            " rows out with data.on_bad_image=skip"
        )
    if wrong:
        raise UserError(together(wrong))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m mmlabel.data", description=HELP)
    parser.add_argument("options", nargs="*", metavar=OPTIONS, help="as train.py takes them")
    parser.add_argument(
        "--out",
        type=path_of,
        metavar="FILE",
        help="write a page there, as HTML: a new file, or an earlier page",
    )
    return parser


def look_at(settings: Settings) -> DataSet:
    """Read and measure the data set that settings name.

    Raises UserError for rows that cannot be read or divided.
    """
    data, cache_dir = settings.data, cache_folder(settings.cache_dir)
    captioned, pictured = ("caption" in settings.inputs), ("image" in settings.inputs)
    read, missing = partial(data.read, cache_dir=cache_dir, require_captions=captioned), None
    try:
        annotations = read(require_pictures=pictured)
    except MissingPictures as error:
        annotations, missing = read(require_pictures=False), error
    rows = data.divide(annotations, cache_dir=cache_dir)
    left_out = note_of_left_out(annotations.ids, rows)
    # A picture has its labels once, however many captions it has.
    first = np.array(list(annotations.first_rows.values()))
    once = annotations.take(first)
    once_in = {split: np.flatnonzero(np.isin(first, own)) for split, own in rows.items()}
    doubtful = [
        *labels_that_look_alike(once),
        *labels_of_every_row(once),
        *labels_that_occur_once(once),
        *labels_without_rows(once, once_in),
    ]
    several = len(annotations) > len(once) and [
        f"the {len(annotations):,} rows are captions of {len(once):,} pictures, which training sees"
        " with each of theirs, validation and test with one; labels are counted by picture"
    ]
    captions, notes = _captions(settings, annotations, rows["train"]) if captioned else (None, [])
    pictures = None
    if pictured:
        pictures = pictures_of(annotations, rows, upright=settings.upright)
    return DataSet(
        name=data.name,
        rows={split: len(own) for split, own in rows.items()},
        total=len(annotations),
        labels=labels_of(once, once_in),
        captions=captions,
        pictures=pictures,
        notes=[
            *annotations.notes,
            *(several or []),
            *([left_out] if left_out else []),
            *doubtful,
            *notes,
        ],
        missing=missing,
    )


def _captions(
    settings: Settings, annotations: Annotations, training: np.ndarray
) -> tuple[Captions, list[str]]:
    # Of captions that go to a transformer as they are written, the words are of interest, too.
    cache_dir, chosen = cache_folder(settings.cache_dir), settings.captions or CaptionOptions()
    # What cannot be had is a note here: the rest is worth knowing all the same.
    tokenised = tokenise(
        annotations.captions, lemmas=chosen.lemmas, cache_dir=cache_dir, on_missing="continue"
    )
    similar = chosen.unknown_words == "similar"
    vocabulary = Vocabulary.build(tokenised, training, min_count=chosen.min_count, similar=similar)
    embeddings, notes = None, list(tokenised.notes)
    if settings.embedding and settings.embedding.kind in ("glove", "file"):
        embeddings = load_embeddings(
            vocabulary,
            **settings.embedding.model_dump(exclude={"frozen", "dropout"}),
            seed=settings.seed,
            cache_dir=cache_dir,
            on_missing="continue",
        )
        notes += [embeddings.note] if embeddings.note else []
    if settings.captions and (note := note_on_symbols(annotations.captions)):
        notes.append(note)
    return captions_of(annotations.captions, tokenised, vocabulary, embeddings, training), notes


# ---- On the terminal ---------------------------------------------------------------------------


def _print(found: DataSet) -> None:
    output = console()
    splits = ", ".join(f"{split} {number:,}" for split, number in found.rows.items())
    output.print(f"rows: {found.total:,} ({splits})")
    _print_labels(found.labels, found.rows)
    lines = [*_label_lines(found.labels)]
    lines += _caption_lines(found.captions) if found.captions else []
    lines += _picture_lines(found.pictures) if found.pictures else []
    for line in [*lines, *(f"Note: {note}" for note in found.notes)]:
        output.print(printable(line))


def _print_labels(labels: Labels, rows: dict[str, int]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("label", "name", "rows", *rows, "most often with"):
        words = heading in ("name", "most often with")
        table.add_column(heading, justify="left" if words else "right", no_wrap=True)
    for place in labels.commonest_first:
        other = labels.companion(place)
        beside = ""
        if other is not None:
            beside = f"{labels.names[other]} ({labels.together[place, other]:,})"
        counts = [labels.counts[split][place] for split in rows]
        cells = [f"{number:,}" for number in (labels.together[place, place], *counts)]
        name = printable(labels.names[place])
        table.add_row(str(labels.numbers[place]), name, *cells, printable(beside))
    console().print(table)


def _label_lines(labels: Labels) -> Iterator[str]:
    per_row = labels.per_row
    known = "known labels a row" if labels.unknown else "labels a row"
    line = f"{known}: {per_row.mean():.2f} on average, at most {per_row.max():,}"
    none, one = (per_row == 0).sum(), (per_row == 1).sum()
    yield f"{line}; {count(none, 'row has', 'rows have')} none, {count(one, 'has', 'have')} one"
    if labels.unknown:
        yield f"not known: {labels.unknown:,} of {labels.per_row.size * len(labels.names):,} cells"


def _caption_lines(captions: Captions) -> Iterator[str]:
    lengths = captions.lengths
    middle, most = captions.usual
    yield (
        f"captions: {count(middle, 'word')} in the middle, 95 % have up to {most}, the longest"
        f" {lengths.max():,}; {(lengths == 0).sum():,} have no word, {captions.repeated:,} rows"
        " have one that another row has, too"
    )
    words, which = f"words: {captions.words:,} in the training captions", "of them"
    if captions.rarer:
        words += f", {captions.rarer:,} of them rarer than captions.min_count"
        which = "of the others"
    if captions.without_vector is None:
        yield words
        return
    lacking = captions.without_vector
    share = f"{captions.share_without:.1%} of the text{' with the rarer' if captions.rarer else ''}"
    yield (
        f"{words}, {len(lacking):,} {which} ({share}) without a vector in {captions.source}"
        + (f": {_up_to_five(f'{word} ({n:,})' for word, n in lacking)}" if lacking else "")
    )


def _picture_lines(pictures: Pictures) -> Iterator[str]:
    sizes = _up_to_five(f"{w}x{h} ({count:,})" for (w, h), count in pictures.sizes)
    yield f"pictures: {pictures.count:,}, of {count(len(pictures.sizes), 'size')}: {sizes}"
    again = sum(len(group) for group in pictures.copies)
    others = _groups(pictures.contradictions)
    yield f"the same pixels as another: {again:,}, with other labels in {others}"
    if pictures.leaks:
        yield (
            f"LEAK: the same pictures in several splits, {_groups(pictures.leaks)}: "
            + _up_to_five(map(_alike, pictures.leaks))
        )
    if pictures.unreadable:
        bad = _up_to_five(f"{id} ({reason})" for id, reason in pictures.unreadable)
        yield f"UNREADABLE: {len(pictures.unreadable):,}: {bad}"


def _alike(group: Sequence[Copy]) -> str:
    """The copies of a picture; of many the first of each split, which is where the leak is."""
    shown = list(group)
    if len(group) > 5:
        first = {copy.split: copy for copy in reversed(group)}
        shown = [copy for copy in group if copy is first[copy.split]]
    more = len(group) - len(shown)
    text = " = ".join(f"{copy.id} ({copy.split})" for copy in shown)
    return f"{text} and {more:,} more" if more else text


def _groups(groups: Sequence) -> str:
    return count(len(groups), "group")


def _up_to_five(texts: Iterable[str]) -> str:
    return listed(list(texts), most=5)


if __name__ == "__main__":
    sys.exit(main())
