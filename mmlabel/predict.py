"""`python -m mmlabel.predict CHECKPOINT WHAT`: label pictures and captions with a finished run."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mmlabel.cache import atomic_write
from mmlabel.data.pictures import BadPicture
from mmlabel.data.sources.unlabelled import JSON_LINES, TABLES, Columns, Row, Rows, open_rows
from mmlabel.errors import UserError
from mmlabel.progress import say
from mmlabel.spreadsheet import to_cell
from mmlabel.terminal import escape_what_is_missing, printable

if TYPE_CHECKING:
    from mmlabel.predictor import Predictor
    from mmlabel.streaming import Answer

SHOWN = 10  # names of unreadable pictures in a message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    escape_what_is_missing()
    options = _parser().parse_args(arguments)
    try:
        predict(options)
    except BadPicture as error:
        say(
            f"mmlabel: {printable(str(error.path))} is not a readable picture"
            f" ({printable(error.reason)}): replace the file, or leave such rows without an answer"
            " with --on-bad-image skip"
        )
        return 1
    except UserError as error:
        say(f"mmlabel: {printable(str(error))}")
        return 1
    except KeyboardInterrupt:
        say("mmlabel: interrupted; nothing is written")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmlabel.predict", description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="best.ckpt of a run")
    add("what", type=Path, help="a CSV or TSV, JSON lines (.jsonl), a folder, or one picture")
    add("--caption", help="of one picture")
    add("--pictures", type=Path, help="folder of a table's pictures (default: as in training)")
    add("--picture-column", help="of a table (default: as in training)")
    add("--caption-column", help="of a table (default: as in training)")
    add("--encoding", help="of a table (default: found out)")
    add("--out", type=Path, help="a .csv or .jsonl file (default: predictions.csv)")
    add("--labels", choices=["names", "numbers"], help="default: numbers for the report's labels")
    add("--probabilities", action="store_true", help="write the probability of every label too")
    add("--on-bad-image", choices=["error", "skip"], default="error")
    add("--batch-size", type=_at_least(1), default=64)
    add("--workers", type=_at_least(0), help="processes that decode (default: by processors)")
    return parser


def _at_least(lowest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise ValueError
        return value

    number.__name__ = f"whole number, at least {lowest},"  # as argparse names it in its message
    return number


def predict(options: argparse.Namespace) -> None:
    """Write the labels of every row to `options.out`; those of one picture, if it is None, are
    printed.

    Raises UserError for a checkpoint, a table or a picture that cannot be read, and for a file
    that cannot be written.
    """
    # Torch is not needed to say what is wrong with the options.
    from mmlabel.predictor import Predictor
    from mmlabel.streaming import answers

    predictor = Predictor(options.checkpoint, fastest=True)
    rows = _open(predictor, options)
    if predictor.looks_at_captions and not rows.has_captions:
        if not predictor.looks_at_pictures:
            raise UserError(f"this model looks at captions alone, and {options.what} has none")
        rows.notes.append("there are no captions: pictures alone decide")
    for note in rows.notes:
        say(printable(note))
    if predictor.looks_at_pictures and options.on_bad_image == "error":
        _check_files(rows.rows)
    found = answers(
        predictor,
        rows,
        batch_size=options.batch_size,
        workers=options.workers,
        on_bad_image=options.on_bad_image,
    )
    one = not options.what.is_dir() and options.what.suffix.lower() not in (*TABLES, *JSON_LINES)
    if one and options.out is None:
        write_answers(sys.stdout, found, predictor, options)
        return
    out = options.out or Path("predictions.csv")
    if out.exists() and out.samefile(options.what):
        raise UserError(f"--out {out} is what is to be labelled: give another file")
    try:
        with atomic_write(out) as temporary, open(temporary, "w", newline="") as file:
            bad = write_answers(file, found, predictor, options)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    for note in predictor.notes[:1]:
        say(printable(note))
    if bad:
        more = f" and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
        names = printable(", ".join(bad[:SHOWN]))
        say(f"{len(bad):,} pictures cannot be read and have no answer: {names}{more}")
    print(f"{rows.count:,} rows in {out}")


def _open(predictor: "Predictor", options: argparse.Namespace) -> Rows:
    data = predictor.settings.data
    if data.name == "csv":
        picture, caption, folder = data.picture_column, data.caption_column, "."
    else:
        picture, caption, folder = "ImageID", "Caption", "data"
    given = options.picture_column, options.caption_column
    usual = [picture, "ImageID", "picture"], [caption, "Caption", "caption"]
    pictures, captions = (
        [name] if name else [column for column in columns if column]
        for name, columns in zip(given, usual, strict=True)
    )
    return open_rows(
        options.what,
        columns=Columns(
            picture=pictures,
            caption=captions,
            need_picture=predictor.looks_at_pictures or given[0] is not None,
            need_caption=given[1] is not None,
        ),
        pictures=options.pictures or options.what.parent / folder,
        caption=options.caption,
        encoding=options.encoding,
    )


def _check_files(rows: Iterable[Row]) -> None:
    """Raise BadPicture for the first picture that is not there, before any work is done."""
    for row in rows:
        if row.picture is not None and not os.path.exists(row.picture):
            raise BadPicture(row.picture, "there is no such file")


# ---- Answers to a file ---------------------------------------------------------------------


def write_answers(
    file: TextIO, answers: "Iterable[Answer]", predictor: "Predictor", options: argparse.Namespace
) -> list[str]:
    """Write each answer as it comes; returns the ids of rows whose picture cannot be read."""
    by_number = options.labels == "numbers"
    if options.labels is None:
        by_number = predictor.settings.data.name != "csv"
    numbers = [str(number) for number in predictor.label_numbers]
    names = numbers if by_number else predictor.label_names
    as_json = options.out is not None and options.out.suffix.lower() in JSON_LINES
    write = _json_writer if as_json else _csv_writer
    write_one = write(file, names, probabilities=options.probabilities)
    bad = []
    for answer in answers:
        labels = None
        if answer.probabilities is None:
            bad.append(answer.row.id)
        else:
            reached = answer.probabilities >= predictor.thresholds
            labels = [name for name, has in zip(names, reached, strict=True) if has]
        write_one(answer, labels)
    return bad


WriteOne = Callable[["Answer", list[str] | None], None]


def _csv_writer(file: TextIO, names: list[str], *, probabilities: bool) -> WriteOne:
    """ImageID, Labels (with spaces between them, or | where names have spaces), prob_LABEL."""
    writer = csv.writer(file)
    columns = [f"prob_{name}" for name in names] if probabilities else []
    writer.writerow(["ImageID", "Labels", *columns])
    separator = next((s for s in " |;/" if not any(s in name for name in names)), "\t")

    def write_one(answer: "Answer", labels: list[str] | None) -> None:
        cells = [""] * len(columns)
        if columns and answer.probabilities is not None:
            cells = [f"{probability:.9g}" for probability in answer.probabilities]
        joined = separator.join(labels or [])
        writer.writerow([to_cell(answer.row.id), to_cell(joined), *cells])

    return write_one


def _json_writer(file: TextIO, names: list[str], *, probabilities: bool) -> WriteOne:
    """An object a line: id, labels (null without an answer), probabilities by name."""

    def write_one(answer: "Answer", labels: list[str] | None) -> None:
        content: dict[str, object] = {"id": answer.row.id, "labels": labels}
        if answer.problem is not None:
            content["problem"] = answer.problem
        elif probabilities and answer.probabilities is not None:
            values = (float(f"{value:.9g}") for value in answer.probabilities)
            content["probabilities"] = dict(zip(names, values, strict=True))
        file.write(json.dumps(content, ensure_ascii=False) + "\n")

    return write_one


if __name__ == "__main__":
    sys.exit(main())
