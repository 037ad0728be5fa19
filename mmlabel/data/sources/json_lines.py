"""JSON lines: an object a line, whose keys are the columns."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mmlabel.errors import UserError

JSON_LINES = (".jsonl", ".ndjson")  # how the names of such files end


class Objects(NamedTuple):
    """The keys, see `keys_of`, and the objects of the rows."""

    header: list[str]
    rows: list[dict[str, object]]


def refuse_json(file: Path) -> None:
    """Raise UserError for a file whose name says that it holds one JSON value."""
    if file.suffix.lower() == ".json":
        raise UserError(
            f"{file}: of JSON, JSON lines are read, an object a line: name it"
            f" {file.with_suffix('.jsonl').name}, or write them"
        )


def parse_json(path: Path, text: str, *, what: str = "") -> object:
    """The value of a JSON text, with NaN as null.

    Args:
        path: the file, for messages.
        text: the JSON.
        what: which part of the file it is, for messages (" line 3").

    Raises:
        UserError: no valid JSON; an object that has a key twice.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for number, key in enumerate(keys) if key in keys[:number])
            raise UserError(f'{path}:{what} has an object with the key "{twice}" twice')
        return content

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=lambda _: None)
    except RecursionError:
        raise UserError(f"{path}:{what} is no valid JSON: too deeply nested") from None
    except ValueError as error:
        raise UserError(f"{path}:{what} is no valid JSON: {error}") from None


def parse_json_lines(path: Path, text: str) -> Objects:
    """The objects of a file of JSON lines, see `objects_in`."""
    # Only this is a line's end; strings may hold the other line breaks.
    rows = list(objects_in(path, text.split("\n")))
    return Objects(keys_of(rows), rows)


def objects_in(path: Path, lines: Iterable[str]) -> Iterator[dict[str, object]]:
    """The object of each line of a file; empty lines are no rows.

    Raises:
        UserError: a line that is no JSON object.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            content = parse_json(path, line, what=f" line {number}")
            if not isinstance(content, dict):
                raise UserError(f"{path}: line {number} is no JSON object, such as {{...}}")
            yield content


def keys_of(objects: Iterable[dict[str, object]]) -> list[str]:
    """All keys, in the order of their first appearance."""
    return list(dict.fromkeys(key for content in objects for key in content))


def as_text(value: object) -> str:
    """A JSON value as the text of a cell; null is none, numbers are written out.

    Raises:
        ValueError: it is a list, an object or a truth value.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else str(value)
    raise ValueError(f"is neither text nor a number: {json.dumps(value)[:60]}")
