"""`python -m mmlabel.mistakes FOLDER…`: what finished runs get wrong, and which labels may be."""

import argparse
import csv
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mmlabel.cache import atomic_write
from mmlabel.commands import Parser, check_folder, path_of, run_command
from mmlabel.configurations import deciding, names_of
from mmlabel.errors import UserError
from mmlabel.finished_runs import annotations_of, read_finished, run_folders, settings_of
from mmlabel.label_errors import AnsweredRows, answered_rows, suspicion
from mmlabel.report.gallery import label_names
from mmlabel.report.mistakes_page import Mistakes, write_mistakes_page
from mmlabel.report.tables import fixed
from mmlabel.run_folder import RunRecord
from mmlabel.settings import Settings, differing
from mmlabel.spreadsheet import separator_of, to_cell
from mmlabel.terminal import printable
from mmlabel.wording import count, listed, named

HELP = """\
The mistakes that finished runs are surest of, and the labels that are probably wrong, as a page
with pictures (OUT/report.html) and as a table (OUT/mistakes.csv).

  python train.py -m data.folds=5 data.fold=0,1,2,3,4 …     predictions for every row
  python -m mmlabel.mistakes multirun/DATE/TIME             of all of these runs
  python -m mmlabel.mistakes outputs/DATE/TIME              of one run's test rows

Label errors are found by cleanlab (pip install -e '.[mistakes]'); they are worth looking at with
runs of all folds, where every row was answered by a model that was not trained on it. Where several
runs answered a row, as those of several seeds, their probabilities and thresholds are averaged."""

_PRINTED = 10
# Of which runs of one configuration may have several: which rows are tested.
_APART = ("data.fold", "data.splits", "data.split_seed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(lambda: _show(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m mmlabel.mistakes", description=HELP)
    add = parser.add_argument
    add("folders", nargs="+", type=path_of, metavar="FOLDER", help="of a run, or of several runs")
    add(
        "--out",
        type=path_of,
        default=Path("mistakes"),
        metavar="DIR",
        help="a new folder, or that of earlier mistakes (default: %(default)s)",
    )
    add("--pictures", type=int, default=100, metavar="N", help="on the page (default: %(default)s)")
    return parser


def _show(options: argparse.Namespace) -> None:
    if options.pictures < 0:
        raise UserError(f"--pictures {options.pictures}: give how many, 0 or more")
    # Of the two the page says what made it, and so is written first.
    check_folder(options.out, files=("report.html", "mistakes.csv"), command="mmlabel.mistakes")
    runs = read_finished(run_folders(options.folders))
    rows = answered_rows(runs)
    notes = _notes(runs, rows)
    suspected = None
    try:
        suspected = suspicion(rows)
    except UserError as error:
        notes.append(f"Mistakes alone: {error}.")
    if suspected is not None and suspected.left_out:
        notes.append(
            f"Of {count(suspected.left_out, 'row')} not every label is known: not looked at for"
            " label errors."
        )
    annotations = annotations_of(runs[0])
    found = Mistakes(rows, suspected, annotations, label_names(runs, annotations), notes)
    out = options.out
    command = ["python", "-m", "mmlabel.mistakes", *map(str, options.folders), "--out", str(out)]
    command += ["--pictures", str(options.pictures)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_mistakes_page(
            out / "report.html",
            found,
            runs=runs,
            most=options.pictures,
            command=shlex.join(command),
        )
        write_table(out / "mistakes.csv", found)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    _print(found)
    print(f"the page is {out / 'report.html'}, the table {out / 'mistakes.csv'}")


def _notes(runs: Sequence[RunRecord], rows: AnsweredRows) -> list[str]:
    """What the runs leave out of the data set's rows, and whether unlike ones are averaged."""
    settings = [settings_of(run) for run in runs]
    notes = _unlike(settings)
    data = [one.data for one in settings]
    folds = {getattr(one, "folds", None) for one in data}
    if folds == {None}:
        notes.append(
            "These are test rows alone. Runs with data.folds=5 data.fold=0,1,2,3,4 give predictions"
            " for every row."
        )
    elif len(folds) == 1:
        wanted = range(folds.pop() or 0)
        if missing := sorted(set(wanted) - {getattr(one, "fold", None) for one in data}):
            listed = ", ".join(map(str, missing))
            notes.append(f"No run of data.fold={listed} is among them: its rows are left out.")
    return notes


def _unlike(settings: Sequence[Settings]) -> list[str]:
    """What tells the configurations of runs apart, which need not be meant to be averaged.

    Those of one may have other seeds, test rows (folds and splits) and evaluated checkpoints.
    """
    found: dict[str, tuple[dict[str, object], Settings]] = {}
    for one in settings:
        options = {name: value for name, value in deciding(one).items() if name not in _APART}
        found.setdefault(repr(sorted(options.items())), (options, one))
    if len(found) == 1:
        return []
    chosen = set().union(*(differing(one) for _, one in found.values()))
    names, others = names_of([options for options, _ in found.values()], chosen=chosen)
    more = f" They differ in more than that: {listed(others)}." if others else ""
    return [
        f"The runs are of {len(found):,} configurations: {listed(names, most=5, between='; ')}."
        f"{more} Where several have answered a row, they are averaged: give those of one alone, if"
        " that is not meant."
    ]


def write_table(path: Path, found: Mistakes) -> None:
    """A line for each row with a mistake or a suspected label, the likeliest label errors first.

    Columns: ImageID, given (labels in the data), answered (of those of which it is known whether
    the row has them), missed, extra (the model's mistakes),
    sureness (of the worst of them, 0..1), probably_missing and probably_not_there (labels that may
    be errors of the data), label_quality (0..1, how likely the labels are right; empty where they
    were not looked at), caption. Between labels stands what stands between those that
    `mmlabel.predict` answers: a space, or | where names have spaces.
    """
    separator = separator_of(found.label_names)

    def labels(names: list[str]) -> str:
        return separator.join(names)

    columns = ["ImageID", "given", "answered", "missed", "extra", "sureness"]
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(
            [*columns, "probably_missing", "probably_not_there", "label_quality", "caption"]
        )
        for row in found.in_order():
            rows = found.rows
            answered = rows.answered[row]
            wrong = rows.wrong[row]
            quality = None if found.suspected is None else found.suspected.quality[row]
            cells = [
                rows.ids[row],
                labels(found.names_of(rows.targets[row])),
                labels(found.names_of(answered)),
                labels(found.names_of(wrong & rows.targets[row])),
                labels(found.names_of(wrong & ~rows.targets[row])),
                f"{rows.sureness[row]:.4f}",
                *map(labels, found.doubted(row)),
                fixed(quality, 4),
                found.caption(row),
            ]
            writer.writerow(map(to_cell, cells))


def _print(found: Mistakes) -> None:
    rows, suspected = found.rows, found.suspected
    wrong = rows.wrong
    print(
        f"{count(len(rows.ids), 'row')} tested in {count(rows.runs, 'run')}:"
        f" {wrong.any(axis=1).sum():,} with a mistake ("
        f"{count((wrong & rows.targets).sum(), 'label')} missed,"
        f" {(wrong & ~rows.targets).sum():,} too many)"
    )
    if suspected is not None:
        rows_with = int(suspected.cells.any(axis=1).sum())
        found_in = f"{suspected.cells.sum():,} in {count(rows_with, 'row')}"
        print(f"probable label errors: {found_in}{', the first:' if rows_with else ''}")
        for row in found.suspects()[:_PRINTED]:
            missing, not_there = found.doubted(row)
            words = [f"{named(missing)} missing"] if missing else []
            words += [f"{named(not_there)} not there"] if not_there else []
            caption = f' "{text}"' if (text := found.caption(row)) else ""
            print(printable(f"  {rows.ids[row]}: {'; '.join(words)}?{caption}"))
    for note in found.notes:
        print(f"Note: {printable(note)}")


if __name__ == "__main__":
    sys.exit(main())
