"""Files of answers: CSV, JSON lines and parquet."""

import csv
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mmlabel.cache import atomic_write, cache_folder, file_digest, fingerprint, usual_cache
from mmlabel.data.sources.json_lines import JSON_LINES
from mmlabel.errors import UserError
from mmlabel.progress import say
from mmlabel.spreadsheet import separator_of, to_cell
from mmlabel.terminal import printable

if TYPE_CHECKING:
    from mmlabel.streaming import Answer

PARQUET = (".parquet", ".pq")
SHOWN = 10  # names of unreadable pictures in the message of a call that goes on
_AT_ONCE = 10_000  # rows, from JSON lines to parquet

Form = Literal["csv", "json", "parquet"]
_WriteOne = Callable[["Answer", list[str] | None], None]


class _Writable(Protocol):
    def write(self, text: str, /) -> int: ...


def form_of(out: Path | None) -> Form:
    """The form that a file's name asks for.

    Raises UserError for any other name, and where what writes the form is not installed.
    """
    suffix = ".csv" if out is None else out.suffix.lower()
    if suffix not in (".csv", *JSON_LINES, *PARQUET):
        raise UserError(f"--out {out}: give a .csv, .jsonl or .parquet file")
    if suffix in PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            f"--out {out} needs pyarrow: pip install -e '.[parquet]', or give a .csv or .jsonl file"
        )
    return "parquet" if suffix in PARQUET else "json" if suffix in JSON_LINES else "csv"


def check_answers(out: Path | None) -> None:
    """See that answers replace nothing but earlier ones, and say so; raises UserError if not."""
    if out is None or not out.is_file() or not out.stat().st_size:
        return
    # A table of one's own may have the same columns.
    known = None
    with suppress(OSError, UserError):
        known = _memo(out).read_text(encoding="utf-8")
    if known != file_digest(out):
        raise UserError(
            f"--out {out} is not as an earlier call on this machine has left it: give a new file,"
            " or remove that one"
        )
    say(printable(f"{out} holds the answers of an earlier call, which are replaced"))


def remember_answers(out: Path) -> None:
    """Keep what a later call knows the file by; where there is no cache, it will not replace it."""
    with suppress(OSError, UserError), atomic_write(_memo(out)) as temporary:
        temporary.write_text(file_digest(out), encoding="utf-8")


def _memo(out: Path) -> Path:
    return cache_folder(usual_cache()) / "answers" / fingerprint(os.path.realpath(out))


class Answers:
    """Writes answers to a file as they come, and says of each that is none why.

    That is in JSON lines and parquet, too. In a CSV such a row has no labels, as others may have
    none, so that its columns stay those that a competition asks for.

    Args:
        file: is written to; in JSON lines, of which `write_parquet` makes a file, for "parquet".
        form: of the file.
        names: of its labels, as they are to be written.
        probabilities: whether those of all labels are written, too.
        before: `counts` of the rows that are in the file already; None: it is empty.

    Attributes:
        unreadable: rows without an answer.
        examples: the ids of the first SHOWN of them.
    """

    def __init__(
        self,
        file: _Writable,
        *,
        form: Form,
        names: Sequence[str],
        probabilities: bool = False,
        before: Mapping[str, Any] | None = None,
    ) -> None:
        self.unreadable: int = before["unreadable"] if before else 0
        self.examples: list[str] = before["examples"] if before else []
        self._names = names
        writer = _csv_writer if form == "csv" else _json_writer
        self._write = writer(file, names, probabilities=probabilities, begun=before is not None)

    @property
    def counts(self) -> dict[str, Any]:
        """Of the rows in the file, as plain values."""
        return {"unreadable": self.unreadable, "examples": self.examples}

    def write(self, answers: "Iterable[Answer]") -> None:
        """Add a row for each."""
        for answer in answers:
            labels = None
            if answer.labels is None:
                self.unreadable += 1
                self.examples += [answer.row.id][: SHOWN - len(self.examples)]
                problem = answer.problem or "its picture cannot be read"
                say(printable(f"{answer.row.id} has no answer: {problem}"))
            else:
                labels = [n for n, has in zip(self._names, answer.labels, strict=True) if has]
            self._write(answer, labels)


def _csv_writer(
    file: _Writable, names: Sequence[str], *, probabilities: bool, begun: bool
) -> _WriteOne:
    """ImageID, Labels (with spaces between them, or | where names have spaces), prob_LABEL."""
    writer = csv.writer(file)
    columns = [f"prob_{name}" for name in names] if probabilities else []
    if not begun:
        writer.writerow(["ImageID", "Labels", *columns])
    separator = separator_of(names)

    def write_one(answer: "Answer", labels: list[str] | None) -> None:
        cells = [""] * len(columns)
        if columns and answer.probabilities is not None:
            cells = [f"{probability:.9g}" for probability in answer.probabilities]
        joined = separator.join(labels or [])
        writer.writerow([to_cell(answer.row.id), to_cell(joined), *cells])

    return write_one


def _json_writer(
    file: _Writable, names: Sequence[str], *, probabilities: bool, begun: bool
) -> _WriteOne:
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


def write_parquet(lines: Path, out: Path, *, names: Sequence[str], probabilities: bool) -> None:
    """Make a parquet file of a file of JSON lines, whole or not at all.

    Its columns are ImageID, Labels (a list; null without an answer), prob_LABEL (float32) for each
    of `names` with `probabilities`, and problem (why there is no answer).
    """
    import pyarrow
    import pyarrow.parquet

    columns = [f"prob_{name}" for name in names] if probabilities else []
    text, number = pyarrow.string(), pyarrow.float32()
    schema = pyarrow.schema(
        [
            ("ImageID", text),
            ("Labels", pyarrow.list_(text)),
            *((column, number) for column in columns),
            ("problem", text),
        ]
    )
    with (
        open(lines, encoding="utf-8") as file,
        atomic_write(out) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, schema) as writer,
    ):
        while part := [json.loads(line) for line in islice(file, _AT_ONCE)]:
            found = [row.get("probabilities") or {} for row in part]
            values = [
                [row["id"] for row in part],
                [row["labels"] for row in part],
                *([each.get(name) for each in found] for name in names if probabilities),
                [row.get("problem") for row in part],
            ]
            writer.write_table(pyarrow.table(values, schema=schema))
