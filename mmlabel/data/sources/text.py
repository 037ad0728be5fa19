"""Text files in any encoding."""

import codecs
import re
from pathlib import Path

from mmlabel.data.annotations import read_bytes
from mmlabel.errors import UserError

# The longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What tables are kept in that is no text, by how such a file begins.
_PACKED = {
    b"PK\3\4": "a spreadsheet, or another archive",
    b"\xd0\xcf\x11\xe0": "a spreadsheet of the old kind",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x1f\x8b": "compressed",
    b"\x28\xb5\x2f\xfd": "compressed",
}
_OPTION = "data.encoding (--encoding of mmlabel.predict)"
_UTF_8_CHARACTER = re.compile(rb"[\xc3-\xdf][\x80-\xbf]|[\xe1-\xef][\x80-\xbf]{2}|\xf0[\x90-\xbf]")


def read_text(path: Path, *, encoding: str | None = "utf-8") -> tuple[str, list[str]]:
    """The text of a file, and notes on its encoding where that was found out and is not UTF-8.

    Args:
        path: the file.
        encoding: any that Python knows; a mark at the beginning of the file is no text. None: told
            by such a mark, else UTF-8 if it is that, else cp1252 (Western European) where nothing
            speaks against it.

    Raises:
        UserError: no such file, no text, no such encoding, text in another one, or in none that is
            sure.
    """
    content = read_bytes(path)
    refuse_packed(path, content)
    if encoding is not None:
        return _decoded(path, content, encoding), []
    for mark, marked in _MARKS.items():
        if content.startswith(mark):
            return _decoded(path, content, marked), [] if marked == "utf-8-sig" else [
                f"{path} is read as {marked}, as the mark at its beginning says"
            ]
    if zeros := content[:4096].count(b"\0"):
        # In UTF-16 without a mark every other byte of ASCII is zero, commas and line ends at least.
        even = content[:4096:2].count(b"\0")
        guess = {0: "utf-16-le", zeros: "utf-16-be"}.get(even)
        if guess is None or zeros < 0.05 * len(content[:4096]):
            raise UserError(f"{path} holds zero bytes: it is no text, or give {_OPTION}")
        return _decoded(path, content, guess), [f"{path} is read as {guess}"]
    try:
        return content.decode("utf-8"), []
    except UnicodeDecodeError as error:
        return _western(path, content, error.start), [
            f"{path} is not in UTF-8 (byte {error.start}): it is read as cp1252 (Western "
            f"European); if letters are wrong, give {_OPTION}"
        ]


def refuse_packed(path: Path, content: bytes) -> None:
    """Raise UserError for a table in a form that is no text; `content`: its first bytes or all."""
    for mark, form in _PACKED.items():
        if content.startswith(mark):
            raise UserError(f"{path} is {form}, and text is read: save or unpack it as CSV")


def _western(path: Path, content: bytes, first_wrong: int) -> str:
    """The text in cp1252, if it looks like that."""
    body = content.partition(b"\n")[2] or content
    high, letters = sum(byte >= 0x80 for byte in body), sum(chr(byte).isalpha() for byte in body)
    reason = None
    if _UTF_8_CHARACTER.search(content):
        reason = "though other characters are: it may be damaged"
    elif high > 0.2 * letters:
        reason = "and too many letters are no plain ones for a Western European encoding"
    else:
        try:
            return content.decode("cp1252")
        except UnicodeDecodeError:
            reason = "nor in cp1252"
    raise UserError(
        f"{path} is not text in UTF-8 (byte {first_wrong}), {reason}; save it in UTF-8 or give its "
        f"encoding: {_OPTION}"
    )


def _decoded(path: Path, content: bytes, encoding: str) -> str:
    try:
        if codecs.lookup(encoding).name == "utf-8":
            encoding = "utf-8-sig"
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding == "utf-8-sig" else encoding
        raise UserError(f"{path} is not text in {name} (byte {error.start})") from None
    except (LookupError, UnicodeError):
        raise UserError(f"{encoding} is not the name of an encoding, such as cp1252") from None
