"""What is remembered of picture files, so that a known file is not read again.

Both memos hold for as long as a file's size and times stay. Besides the modification time, which
copying tools set back, this is the time of the last change, which they cannot. A memo that cannot
be written, or that is damaged, costs time at the next start and nothing else.
"""

import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmlabel.cache import atomic_write, cache_folder, fingerprint
from mmlabel.data.annotations import Annotations
from mmlabel.data.pictures import BadPicture, content_digest, read_picture
from mmlabel.data.transforms import Size, picture_views, transform_key
from mmlabel.processors import cores
from mmlabel.progress import progress
from mmlabel.wording import count, listed

if TYPE_CHECKING:
    from mmlabel.settings import Settings

# A file whose time stamp is this young could change again without its time stamp changing.
SETTLED_NS = 2_000_000_000


def picture_digests(pictures: Sequence[Path], memo: Path) -> list[bytes | None]:
    """`content_digest` of each picture file; None for one that cannot be read.

    Digests are remembered in the folder `memo`, one file per picture folder: 40,000 known pictures
    take a fraction of a second. A picture changed in the last two seconds is not remembered, for it
    could change again within the resolution of its times.
    """
    known: dict[str, dict[str, list]] = {}
    changed: set[str] = set()
    digests: list[bytes | None] = []
    now = time.time_ns()
    place = _places()
    for picture in pictures:
        folder, name = os.path.split(place(picture))
        if folder not in known:
            remembered = _recall(_memo_path(memo, folder))
            known[folder] = remembered if isinstance(remembered, dict) else {}
        try:
            stat = os.stat(picture)
            stamp, entry = _stamp(stat), known[folder].get(name)
            if entry is None or entry[:-1] != stamp:
                entry = [*stamp, content_digest(read_picture(picture)).hex()]
                if now - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED_NS:
                    known[folder][name] = entry
                    changed.add(folder)
            digests.append(bytes.fromhex(entry[-1]))
        except (OSError, ValueError, BadPicture):
            digests.append(None)
    for folder in changed:
        _remember(_memo_path(memo, folder), known[folder])
    return digests


def data_digests(
    annotations: Annotations,
    rows: Mapping[str, np.ndarray],
    *,
    looks_at_pictures: bool,
    looks_at_order: bool,
    cache_dir: Path,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Digests of all ids, captions and labels, of the splits' rows, and of what else is looked at.

    That of the pictures in the splits changes with the content of any of them, or with which can be
    read; that of the order in which the file lists each row's labels is no part of the first one.
    `note` is told of pictures that stand in several splits under other names.
    """
    found = {"data": annotations.fingerprint, "splits": fingerprint(*rows.values())}
    if looks_at_order and annotations.label_order is not None:
        found["label order"] = fingerprint(annotations.label_order)
    if looks_at_pictures:
        chosen = np.sort(np.concatenate(list(rows.values())))
        digests = picture_digests(
            [annotations.pictures[row] for row in chosen], digests_folder(cache_dir)
        )
        found["pictures"] = fingerprint(b"".join(digest or b"-" for digest in digests))
        digest_of = dict(zip(chosen.tolist(), digests, strict=True))
        if copies := _copies(annotations.ids, rows, digest_of):
            note(
                f"{count(len(copies), 'picture stands', 'pictures stand')} in two splits under two"
                f" names, byte for byte, which makes scores too high: {listed(copies)}"
                " (python -m mmlabel.data shows all, with data.splits rows are divided otherwise)"
            )
    return found


def _copies(
    ids: Sequence[str], rows: Mapping[str, np.ndarray], digests: Mapping[int, bytes | None]
) -> list[str]:
    """The files of validation and test that one of training, or of validation, has the content of,
    in words; `digests` are by row number."""
    seen: dict[bytes, str] = {}
    copies = []
    for split in ("train", "val", "test"):
        own = {}
        for row in rows[split].tolist():
            digest = digests[row]
            if digest in seen:
                copies.append(f"{ids[row]} ({split}) = {seen[digest]}")
            elif digest is not None:
                own[digest] = f"{ids[row]} ({split})"
        seen |= own
    return copies


def read_digests(settings: "Settings") -> dict[str, str]:
    """`data_digests` of what a run with these settings looks at; reads its rows.

    Raises UserError as the reading does.
    """
    data, cache_dir = settings.data, cache_folder(settings.cache_dir)
    pictures = "image" in settings.inputs
    annotations = data.read(
        cache_dir=cache_dir,
        require_pictures=pictures,
        require_captions="caption" in settings.inputs,
    )
    return data_digests(
        annotations,
        data.divide(annotations, cache_dir=cache_dir),
        looks_at_pictures=pictures,
        looks_at_order=settings.looks_at_order,
        cache_dir=cache_dir,
    )


def digests_folder(cache_dir: Path) -> Path:
    """The folder of the remembered digests under a cache folder."""
    return Path(cache_dir) / "features" / "digests"


def forget_digests(cache_dir: Path) -> None:
    """Delete the remembered digests of picture files; they are computed anew when needed."""
    shutil.rmtree(digests_folder(cache_dir), ignore_errors=True)


def unreadable_pictures(
    pictures: Sequence[Path], *, size: Size, cache_dir: Path
) -> dict[int, BadPicture]:
    """What is wrong with each picture that cannot be brought to `size`, by its position.

    They are looked for before training rather than found hours into it. What a file is not to
    blame for, such as a network file system that does not answer, is looked at anew in every call.
    """
    place = _places()
    stamps = [[place(picture), *_stamp_of(picture)] for picture in pictures]
    kept = Path(cache_dir) / "checked" / f"{fingerprint(transform_key(size), stamps)}.json"
    known = _recall(kept)  # a reason by its position as text; None: not the file's own
    reasons = known if isinstance(known, dict) else dict.fromkeys(map(str, range(len(pictures))))
    again = [int(position) for position, reason in reasons.items() if reason is None]
    with (
        progress("checking pictures", len(again)) as advance,
        ThreadPoolExecutor(cores()) as pool,
    ):
        problems: dict[int, BadPicture] = {}
        found = pool.map(lambda position: _problem(pictures[position], size), again)
        for position, problem in zip(again, found, strict=True):
            if problem is not None:
                problems[position] = problem
            advance(1)
    if not isinstance(known, dict):
        _remember(
            kept, {str(n): None if _may_pass(bad) else bad.reason for n, bad in problems.items()}
        )
    lasting = {int(n): reason for n, reason in reasons.items() if reason is not None}
    problems |= {n: BadPicture(pictures[n], reason) for n, reason in lasting.items()}
    return dict(sorted(problems.items()))


def _problem(picture: Path, size: Size) -> BadPicture | None:
    try:
        picture_views(read_picture(picture), path=picture, size=size, flips=[])
    except BadPicture as error:
        return error
    return None


def _may_pass(problem: BadPicture) -> bool:
    """Whether the machine is to blame rather than the file; Pillow's own errors have no number."""
    cause = problem.__cause__
    none = isinstance(cause, FileNotFoundError | NotADirectoryError)  # the key tells of that
    return isinstance(cause, MemoryError) or (
        not none and getattr(cause, "errno", None) is not None
    )


def _places() -> Callable[[Path], str]:
    """Says where a picture file lies, links followed: what a link leads to may become another file
    of the same size and times, as two that are written one after the other may have the same."""
    folder_of = cache(os.path.realpath)

    def place(picture: Path) -> str:
        folder, name = os.path.split(os.path.abspath(picture))
        path = os.path.join(folder_of(folder), name)
        return os.path.realpath(path) if os.path.islink(path) else path

    return place


def _stamp_of(picture: Path) -> list[int]:
    try:
        return _stamp(os.stat(picture))
    except (OSError, ValueError):
        return []


def _stamp(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _memo_path(memo: Path, folder: str) -> Path:
    return memo / f"{fingerprint(folder)}.json"


def _remember(path: Path, content: object) -> None:
    text = json.dumps(content)
    with suppress(OSError), atomic_write(path) as temporary:
        temporary.write_text(f"{zlib.crc32(text.encode())}\n{text}", encoding="utf-8")


def _recall(path: Path) -> object:
    """What was remembered there; None if nothing was, or if it is damaged."""
    try:
        checksum, text = path.read_text(encoding="utf-8").split("\n", 1)
        return json.loads(text) if int(checksum) == zlib.crc32(text.encode()) else None
    except (OSError, ValueError):
        return None
