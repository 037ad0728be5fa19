"""Texts from data in CSV files that people open with a spreadsheet.

A spreadsheet runs a cell that begins with = + - or @ as a formula, and a file name or a label may
begin so. Such a text, unless it is a number, is written with an apostrophe before it (the way of
spreadsheets themselves to say "this is text"). `from_cell` takes it away again, and texts that
begin with such an apostrophe of their own get one more, so that every text is read back as it was.
"""

import re
from collections.abc import Iterable

# What spreadsheets skip, or strip, before they look at the first character, and that character
# in Latin and in full width.
_FORMULA = re.compile(r"'*(?:[\s\x00-\x1f\u200b-\u200f\ufeff]*[=+\-@＝＋－＠]|[\t\r\n])")


def to_cell(text: str) -> str:
    """The text as a cell of a CSV file.

    >>> to_cell("=HYPERLINK(1)"), to_cell("-0.5"), to_cell("a=b")
    ("'=HYPERLINK(1)", '-0.5', 'a=b')
    """
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def from_cell(cell: str) -> str:
    """The text that `to_cell` made the cell of.

    >>> from_cell("'=HYPERLINK(1)"), from_cell("'tis")
    ('=HYPERLINK(1)', "'tis")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def separator_of(names: Iterable[str]) -> str:
    """What stands between several of these names in a cell: the first sign that none of them has.

    >>> separator_of(["cat", "dog"]), separator_of(["cat", "traffic light"])
    (' ', '|')
    """
    names = list(names)
    return next((sign for sign in " |;/" if not any(sign in name for name in names)), "\t")
