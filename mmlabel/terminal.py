"""What runs say on a terminal.

Names, notes and captions come from data: rich reads no markup in them, and what would move the
cursor or change the terminal's colours is shown as a question mark.
"""

import io
import logging
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmlabel.errors import of_the_disk
from mmlabel.score_table import SCORES, too_few
from mmlabel.wording import count

if TYPE_CHECKING:
    from rich.console import Console


def ready_streams() -> None:
    """Have letters that the terminal's encoding lacks written as escapes, rather than raise.

    What the caller has closed (`>&-`) leads nowhere: a file that is opened would have its number,
    into which libraries print.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(nowhere, True)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(nowhere, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def while_somebody_reads() -> Iterator[None]:
    """What is done inside it ends without a word when the reader of its output goes (`| head`).

    Where its output cannot be kept (`> FILE` on a full disk), it ends with a message.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            if not _nobody_reads(sys.stdout.fileno()):
                raise  # it was another pipe
            status = 128 + signal.SIGPIPE
        else:
            if of_the_disk(error) is None:
                raise
            said = f"standard output cannot be written ({error.strerror})"
            print(f"mmlabel: {said}: make room, or send it elsewhere", file=sys.stderr, flush=True)
            status = 1
        # What is left would be written once more as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(status)


def _nobody_reads(pipe: int) -> bool:
    found = select.poll()
    found.register(pipe, select.POLLOUT)
    return any(event & select.POLLERR for _, event in found.poll(0))


def printable(text: str) -> str:
    """The text on one line, without control characters."""
    return _visible(" ".join(text.split()))


# They join letters of Persian, of Indian scripts and parts of emoji, and do nothing else.
_JOINERS = "\u200c\u200d"


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() or c in _JOINERS else "?" for c in text)


class PlainFormatter(logging.Formatter):
    """Messages without control characters; their line breaks and indentation stay."""

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).expandtabs().replace("\u00a0", " ").split("\n")
        return "\n".join(map(_visible, lines))


def console() -> "Console":
    """A terminal that reads no markup in what it is given, and has room for every line."""
    from rich.console import Console

    class Whole(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich would end the program itself: `while_somebody_reads` does

    # Whole lines even into a file or a narrow terminal: a figure cut short would be worthless.
    return Whole(soft_wrap=True, width=1000, markup=False, emoji=False)


def print_table(results: dict) -> None:
    """The scores of one run, and those of each label, on standard output."""
    from rich import box
    from rich.table import Table

    output = console()
    table = Table(title="Scores", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("split", *(row.title for row in SCORES.values()), "rows"):
        justify = "left" if heading == "split" else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for split in ("val", "test"):
        scores = {k.split("/")[1]: v for k, v in results["scores"].items() if k.startswith(split)}
        if scores:
            cells = [f"{scores[name]:.3f}" for name in SCORES]
            table.add_row(split, *cells, str(results["rows"][split]))
    output.print(table)

    if results["labels"]:
        table = Table(title="Test split by label", title_justify="left", box=box.SIMPLE_HEAD)
        for heading in ("label", "name", "support", "precision", "recall", "F1"):
            justify = "left" if heading == "name" else "right"
            table.add_column(heading, justify=justify, no_wrap=True)
        for number, row in results["labels"].items():
            cells = [f"{row[name]:.3f}" for name in ("precision", "recall", "f1")]
            table.add_row(number, printable(row["name"]), str(row["support"]), *cells)
        output.print(table)

    size, limit = results["megabytes"], 100
    size_note = "within" if size < limit else "over"
    seconds = results["seconds"]
    facts = [
        f"{results['parameters']:,} parameters, {size:.1f} MB ({size_note} the report's limit of"
        f" {limit} MB)",
        f"{seconds['total']:.1f} s",
    ]
    if seconds.get("features", 0.0) >= 0.1:
        facts.append(f"of which features {seconds['features']:.1f} s")
    if results["epochs"]:
        best = results["best_epoch"]
        facts.append(
            f"of which training {seconds['train']:.1f} s for {count(results['epochs'], 'epoch')}"
            + ("" if best is None else f", the best of them epoch {best}")
        )
    if "detector" in seconds:
        rate = results["detected"] / max(seconds["detector"], 1e-9)
        facts.append(f"detection {seconds['detector']:.1f} s ({rate:.1f} pictures a second)")
    output.print(", ".join(facts))
    tested = results["rows"]["test"]
    known = results.get("rows_known", {}).get("test", tested)
    if "test/loss" in results["scores"] and (warning := too_few(known, tested)):
        output.print(f"Careful: {warning}")
    for note in results["notes"]:
        output.print(f"Note: {printable(note)}")
