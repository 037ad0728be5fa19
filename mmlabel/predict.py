"""`python -m mmlabel.predict CHECKPOINT WHAT`: label pictures and captions with a finished run."""

import argparse
import filecmp
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mmlabel import __version__
from mmlabel.answer_files import (
    SHOWN,
    Answers,
    check_answers,
    form_of,
    remember_answers,
    write_parquet,
)
from mmlabel.cache import file_digest, library_versions
from mmlabel.commands import Parser, check_name, path_of, run_command
from mmlabel.data.pictures import BadPicture
from mmlabel.data.sources.unlabelled import JSON_LINES, TABLES, Columns, Row, Rows, open_rows
from mmlabel.errors import UserError, not_utf_8
from mmlabel.large_imports import import_large
from mmlabel.partial_file import resumable
from mmlabel.progress import say
from mmlabel.run_folder import is_of_a_run
from mmlabel.terminal import printable
from mmlabel.wording import count, listed

if TYPE_CHECKING:
    from mmlabel.data.options import DataSource
    from mmlabel.predictor import Predictor
    from mmlabel.streaming import Answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(lambda: predict(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m mmlabel.predict", description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=path_of, help="best.ckpt of a run")
    add("what", type=path_of, help="a CSV or TSV, JSON lines (.jsonl), a folder, or one picture")
    add("--caption", help="of one picture; those of a table are in a column of it")
    add(
        "--pictures",
        type=path_of,
        help="folder of a table's pictures (default: as in training: data.root of data=csv, the"
        " folder data.pictures of data=usyd beside the table, or else the table's own)",
    )
    add("--picture-column", help="of a table (default: as in training)")
    add("--caption-column", help="of a table (default: as in training)")
    add("--encoding", help="of a table (default: found out)")
    add(
        "--out",
        type=path_of,
        help="a .csv, .jsonl or .parquet file, a new one or the answers of an earlier call"
        " (default: predictions.csv; for one picture the terminal)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on where the same call was interrupted, if it was; the file is then the same",
    )
    add("--labels", choices=["names", "numbers"], help="default: numbers for the report's labels")
    add(
        "--threshold",
        type=_probability,
        metavar="P",
        help="answer each label from this probability on, also with model=decoder, which answers"
        " with the best set of labels that it finds otherwise (default: as in the run)",
    )
    add("--probabilities", action="store_true", help="write the probability of every label too")
    add(
        "--on-bad-image",
        choices=["error", "skip"],
        default="error",
        help="skip: the row of a picture that cannot be read is named on the terminal and has no"
        " labels (JSON lines and parquet say why) (default: %(default)s)",
    )
    add("--batch-size", type=_at_least(1), default=64, help="rows at a time (default: %(default)s)")
    add("--workers", type=_at_least(0), help="processes that decode, at most one a core")
    return parser


def _at_least(lowest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise ValueError
        return value

    number.__name__ = f"whole number, at least {lowest},"  # as argparse names it in its message
    return number


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


_probability.__name__ = "number from 0 to 1"  # as argparse names it in its message


def predict(options: argparse.Namespace) -> None:
    """Write the labels of every row to `options.out`; those of one picture, if it is None, are
    printed.

    Raises UserError for a checkpoint, a table or a picture that cannot be read, and for a file
    that cannot be written.
    """
    form_of(options.out)
    if options.what.exists():
        _check_options(options)
    # Torch is not needed to say what is wrong with the options.
    import_large("mmlabel.lean_torchmetrics", "mmlabel.predictor")
    from mmlabel.predictor import Predictor

    predictor = Predictor(options.checkpoint, fastest=True)
    if options.threshold is not None:
        predictor.answer_at(options.threshold)
    _check_halves(predictor, options)
    rows = _open(predictor, options)
    rows.notes.extend(predictor.cautions)
    if predictor.looks_at_captions and not rows.has_captions:
        if not predictor.looks_at_pictures:
            hint = ": name their column with --caption-column" if _is_table(options.what) else ""
            raise UserError(
                f"this model looks at captions alone, and {options.what} has none{hint}"
            )
        rows.notes.append("there are no captions: pictures alone decide")
    for note in rows.notes:
        say(printable(note))
    try:
        _label(predictor, rows, options)
    except BadPicture as error:
        row = next((n for n, row in enumerate(rows.rows, 1) if row.picture == error.path), None)
        place = f"{options.what}: row {row}: " if row and _is_table(options.what) else ""
        raise UserError(
            f"{place}{error.path} is not a readable picture ({error.reason}): replace the file, or"
            " leave such rows without an answer with --on-bad-image skip"
        ) from error


def _check_options(options: argparse.Namespace) -> None:
    """Raise UserError for options that would do nothing, or harm to a run."""
    what, out = options.what, _out(options)
    if options.caption is not None and what.is_dir():
        raise UserError(f"--caption is of one picture, and {what} is a folder: leave it out")
    if options.caption is not None and _is_table(what):
        raise UserError(
            f"--caption is of one picture, and {what} is a table: name the column that its captions"
            " are in with --caption-column, or leave --caption out"
        )
    given = _given(options, "pictures", "picture_column", "caption_column", "encoding")
    if given and not _is_table(what):
        kind = "a folder" if what.is_dir() else "one picture"
        are = "is for a table" if len(given) == 1 else "are for a table"
        raise UserError(f"{listed(given)} {are}, and {what} is {kind}: leave out what is not used")
    if out is None and options.resume:
        raise UserError("--resume goes on with a file: give --out, or leave it out")
    if out is not None and is_of_a_run(out):
        raise UserError(
            f"{out} is a file of the run in {out.parent.absolute()}: give the answers another name"
            " with --out"
        )
    if out is not None and out.exists() and out.samefile(what):
        raise UserError(f"--out {out} is what is to be labelled: give another file")
    one = what.is_file() and not _is_table(what)
    if one and out is not None and (problem := not_utf_8(what.name)):
        raise UserError(f"{what} {problem}: its answer cannot be written to {out}")
    if out is not None:
        check_name(out, f"--out {out}")
    check_answers(out)


def _check_halves(predictor: "Predictor", options: argparse.Namespace) -> None:
    """Raise UserError for an option about what the model does not look at."""
    for looks, names, other in (
        (predictor.looks_at_captions, ("caption", "caption_column"), "pictures"),
        (predictor.looks_at_pictures, ("pictures",), "captions"),
    ):
        given = _given(options, *names)
        if given and not looks:
            raise UserError(f"this model looks at {other} alone: leave {given[0]} out")


def _given(options: argparse.Namespace, *names: str) -> list[str]:
    """Those of the options that the command line has, as it has them."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]


def _out(options: argparse.Namespace) -> Path | None:
    """The file of the answers; None: they are printed."""
    if options.out or not (options.what.is_dir() or _is_table(options.what)):
        return options.out
    return Path("predictions.csv")


def _is_table(what: Path) -> bool:
    return what.is_file() and what.suffix.lower() in (*TABLES, *JSON_LINES)


def _label(predictor: "Predictor", rows: Rows, options: argparse.Namespace) -> None:
    if predictor.looks_at_pictures and options.on_bad_image == "error":
        _check_files(rows.rows)
    out = _out(options)
    if out is None:
        found = list(_answers(predictor, rows, options))  # or it fails, and nothing is printed
        written = Answers(sys.stdout, form="csv", **_columns(predictor, options))
        written.write(found)
        _say_notes(predictor, rows)
        return
    try:
        written = _write(out, predictor, rows, options)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    _say_notes(predictor, rows)
    if bad := written.unreadable:
        say(f"{count(bad, 'picture')} cannot be read, without an answer: named above")
    print(f"{count(rows.count, 'row')} in {out}")


def _say_notes(predictor: "Predictor", rows: Rows) -> None:
    for note in predictor.notes if rows.has_captions else []:
        say(printable(note))


def _open(predictor: "Predictor", options: argparse.Namespace) -> Rows:
    data = predictor.settings.data
    if data.name == "csv":
        picture, caption = data.picture_column, data.caption_column
    else:
        picture, caption = "ImageID", "Caption"
    given = options.picture_column, options.caption_column
    usual = [picture, "ImageID", "picture"], [caption, "Caption", "caption"]
    pictures, captions = (
        [name] if name else [column for column in columns if column]
        for name, columns in zip(given, usual, strict=True)
    )
    folder = options.pictures or _pictures(data, options.what.parent)
    rows = open_rows(
        options.what,
        columns=Columns(
            picture=pictures,
            caption=captions if predictor.looks_at_captions else [],
            need_picture=predictor.looks_at_pictures or given[0] is not None,
            need_caption=given[1] is not None,
        ),
        pictures=folder,
        caption=options.caption,
        encoding=options.encoding,
        delimiter=data.delimiter if data.name == "csv" else None,
        caption_seed=data.caption_seed if data.name == "csv" else 0,
    )
    beside = options.what.parent
    if predictor.looks_at_pictures and options.pictures is None and _is_table(options.what):
        if folder.is_dir() and not folder.samefile(beside):
            _check_one_place(rows.rows, folder, beside)
            if data.name == "csv" and options.what.resolve() != path_of(data.file).resolve():
                rows.notes.append(
                    f"pictures are read from {folder}, where those of training are: --pictures"
                    " FOLDER says otherwise"
                )
    return rows


def _check_one_place(rows: Iterable[Row], folder: Path, beside: Path) -> None:
    """Raise UserError for a picture of training's folder that is another one beside the table."""
    for row in rows:
        here, there = beside / row.id, folder / row.id
        if here.is_file() and there.is_file() and not filecmp.cmp(here, there, shallow=False):
            raise UserError(
                f"{row.id} is one picture in {folder}, where those of training are, and another in"
                f" {beside}, beside the table: say which with --pictures FOLDER"
            )


def _pictures(data: "DataSource", beside: Path) -> Path:
    """Where the pictures of a table in the folder `beside` are, as in training.

    A data.root that is no longer there, or is not on this machine, is passed over.
    """
    if data.name == "csv":
        root = None if data.root is None else path_of(data.root)
        return root if root is not None and root.is_dir() else beside
    if data.name == "coco":
        return beside
    return beside / (data.pictures if data.name == "usyd" else "data")


def _check_files(rows: Iterable[Row]) -> None:
    """Raise BadPicture for the first picture that is not there, before any work is done."""
    for row in rows:
        if row.picture is not None and not os.path.exists(row.picture):
            raise BadPicture(row.picture, "there is no such file")


# ---- Answers to a file ---------------------------------------------------------------------

_SKIPPING = "--resume --on-bad-image skip"


class _Columns(TypedDict):
    names: list[str]
    probabilities: bool


def _columns(predictor: "Predictor", options: argparse.Namespace) -> _Columns:
    by_number = options.labels == "numbers"
    if options.labels is None:
        by_number = not predictor.settings.data.own_labels
    numbers = [str(number) for number in predictor.label_numbers]
    names = numbers if by_number else predictor.label_names
    return {"names": names, "probabilities": options.probabilities}


def _answers(predictor: "Predictor", rows: Rows, options: argparse.Namespace) -> "Iterator[Answer]":
    from mmlabel.streaming import answers

    return answers(
        predictor,
        rows,
        batch_size=options.batch_size,
        workers=options.workers,
        on_bad_image=options.on_bad_image,
    )


def _write(out: Path, predictor: "Predictor", rows: Rows, options: argparse.Namespace) -> Answers:
    """Write the answers to all rows, or with --resume those that an interrupted call has left."""
    form, columns = form_of(out), _columns(predictor, options)
    finish = partial(write_parquet, **columns) if form == "parquet" else os.replace
    call = _call(predictor, rows, options, columns)
    with resumable(out, call, resume=options.resume, finish=finish) as file:
        before = file.carried or None
        written = Answers(file, form=form, **columns, before=before)
        if file.rows:
            say(f"going on after {file.rows:,} of {count(rows.count, 'row')}")
        if bad := written.unreadable:
            more = f" and {bad - SHOWN:,} more" if bad > SHOWN else ""
            shown = printable(", ".join(written.examples))
            say(f"{count(bad, 'row')} of them without an answer: {shown}{more}")
        if written.unreadable and options.on_bad_image == "error":
            file.again = _SKIPPING
            raise UserError(
                f"--resume: {count(written.unreadable, 'row')} so far without an answer, as the"
                " interrupted call had --on-bad-image skip: give that again"
            )
        found = _answers(predictor, rows.after(file.rows), options)
        # Cut where the network's batches end: after a kill it is given the same ones again.
        try:
            while batch := list(islice(found, options.batch_size)):
                written.write(batch)
                file.keep(len(batch), written.counts)
        except BadPicture:
            file.again = _SKIPPING  # the same picture would end it again
            raise
    remember_answers(out)
    return written


def _call(
    predictor: "Predictor", rows: Rows, options: argparse.Namespace, columns: _Columns
) -> dict[str, object]:
    """All that the file depends on, by the names that a user knows it by."""
    import torch

    names = hashlib.sha256("\0".join(columns["names"]).encode()).hexdigest()
    return {
        "the checkpoint": file_digest(options.checkpoint),
        "what is labelled (its rows, columns or pictures)": _digest(rows.rows),
        "--labels": names,
        "--threshold": options.threshold,
        "--probabilities": columns["probabilities"],
        "--batch-size": options.batch_size,
        "the device": predictor.device.type,
        "the precision of the backbone": predictor.precision,  # which the processor may not have
        "the version of mmlabel": __version__,
        "the version of torch": torch.__version__,
        # What else reads pictures and captions, and computes features.
        **{
            f"the version of {library}": found
            for library, found in library_versions("pillow", "nltk", "openvino").items()
        },
    }


def _digest(rows: Iterable[Row]) -> str:
    """Of ids, captions, and the places and sizes of pictures."""
    digest = hashlib.sha256()
    for row in rows:
        size = None
        with suppress(OSError):
            size = row.picture and os.path.getsize(row.picture)
        place = row.picture and os.path.abspath(row.picture)
        digest.update(json.dumps([row.id, place, size, row.caption]).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
