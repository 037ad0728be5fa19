"""A detector's scores, computed once per picture and shared by every run and job.

A detector has one file, named after all that its scores depend on besides the pictures. It is a
table from the SHA-256 of a picture file to a row of scores and the time they took. A row is some
hundred bytes, so the table is kept in memory and written anew, atomically, every few seconds: a job
killed at any moment loses no more than these.
"""

import hashlib
import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import PIL
from filelock import Timeout

from mmlabel.cache import atomic_write, fingerprint, lock
from mmlabel.data.features import picture_digests
from mmlabel.data.progress import picture_progress, say
from mmlabel.data.transforms import BadPicture, decode, read_picture

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 32
WRITE_SECONDS = 5.0


class PictureScorer(Protocol):
    """What the cache needs of a detector."""

    num_labels: int

    def key(self) -> dict[str, object]:
        """All that scores depend on besides the picture, as plain values."""

    def load(self) -> None:
        """Make ready, so that the time this takes is not counted as detection."""

    def scores(self, pictures: Sequence["Image"]) -> np.ndarray:
        """(N, num_labels) float32 of RGB pictures."""


@dataclass(frozen=True)
class Scores:
    """The scores of some pictures."""

    array: np.ndarray  # (N, num_labels) float32, 0 in the rows of bad pictures
    bad: list[int]  # rows of pictures that cannot be read; only with on_bad_image="skip"
    computed: int  # pictures that this call ran the detector on
    seconds: float  # of this call
    detector_seconds: float  # that the detector took for all of them, whenever that was


def detector_scores(
    pictures: Sequence[Path],
    detector: PictureScorer,
    *,
    cache_dir: Path,
    on_bad_image: Literal["error", "skip"] = "error",
    quiet: bool = False,
) -> Scores:
    """The scores of picture files, from the cache where it has them.

    Pictures are decoded whatever their kind (grey, palette, CMYK) to RGB, and turned upright if
    their EXIF data says so. Where another job runs the same detector, this one waits and uses its
    result. A cache that cannot be written is done without, and said on standard error. `quiet`
    hides progress.

    Raises `BadPicture` unless `on_bad_image` is "skip", and what the detector raises.
    """
    start = time.perf_counter()
    key = {**detector.key(), "decoder": {"pillow": PIL.__version__, "exif": "upright"}}
    table = _Table(Path(cache_dir) / "detections" / f"{fingerprint(key)}.npz", key)
    digests = picture_digests(pictures, Path(cache_dir) / "features" / "digests")
    table.read()
    missing = _missing(pictures, digests, table, on_bad_image)
    computed = 0
    if missing:
        detector.load()
        with _turn(table):
            missing = {digest: path for digest, path in missing.items() if digest not in table.rows}
            computed = _compute(missing, detector, table, on_bad_image, quiet)
    array = np.zeros((len(pictures), detector.num_labels), np.float32)
    known = [row for row, digest in enumerate(digests) if digest in table.rows]
    for row in known:
        array[row] = table.rows[digests[row]]
    return Scores(
        array=array,
        bad=sorted(set(range(len(pictures))) - set(known)),
        computed=computed,
        seconds=time.perf_counter() - start,
        detector_seconds=sum(table.seconds[digests[row]] for row in known),
    )


@dataclass
class _Table:
    """Scores and seconds of each picture's digest, as they are on disk after `write`."""

    path: Path
    key: dict[str, object]
    rows: dict[bytes, np.ndarray] = field(default_factory=dict)
    seconds: dict[bytes, float] = field(default_factory=dict)
    keep: bool = True  # whether the file can be written

    def read(self) -> None:
        try:
            with np.load(self.path) as stored:
                digests = [bytes(digest) for digest in stored["digests"]]
                self.rows.update(zip(digests, stored["scores"], strict=True))
                self.seconds.update(zip(digests, stored["seconds"].tolist(), strict=True))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            pass  # a damaged file is as good as none

    def write(self) -> None:
        if not self.keep or not self.rows:
            return
        digests = list(self.rows)
        try:
            with atomic_write(self.path) as temporary:
                np.savez(
                    temporary,
                    key=np.array(json.dumps(self.key)),  # for whoever looks into the file
                    digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
                    scores=np.stack([self.rows[digest] for digest in digests]),
                    seconds=np.array([self.seconds[digest] for digest in digests]),
                )
        except OSError as error:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Go on in memory alone."""
        self.keep = False
        reason = getattr(error, "strerror", None) or str(error)
        say(f"detections: scores are not kept, as {self.path} cannot be written ({reason})")


def _missing(
    pictures: Sequence[Path],
    digests: list[bytes | None],
    table: _Table,
    on_bad_image: str,
) -> dict[bytes, Path]:
    """Every distinct picture without scores, once."""
    missing: dict[bytes, Path] = {}
    for picture, digest in zip(pictures, digests, strict=True):
        if digest is None:
            if on_bad_image == "error":
                read_picture(picture)  # raises what is wrong with it
        elif digest not in table.rows:
            missing.setdefault(digest, picture)
    return missing


def _compute(
    missing: dict[bytes, Path],
    detector: PictureScorer,
    table: _Table,
    on_bad_image: str,
    quiet: bool,
) -> int:
    paths, computed, written = list(missing.values()), 0, time.monotonic()
    try:
        with (
            picture_progress("detections", len(paths), quiet=quiet) as advance,
            ThreadPoolExecutor(4) as pool,
        ):
            for begin in range(0, len(paths), CHUNK):
                start = time.perf_counter()
                chunk = paths[begin : begin + CHUNK]
                read = list(pool.map(_read_upright, chunk))
                good = [item for item in read if not isinstance(item, BadPicture)]
                if good:
                    scores = detector.scores([picture for _, picture in good])
                    each = (time.perf_counter() - start) / len(good)
                    for (digest, _), row in zip(good, scores, strict=True):
                        table.rows[digest], table.seconds[digest] = row, each
                computed += len(good)
                if len(good) < len(read) and on_bad_image == "error":
                    raise next(item for item in read if isinstance(item, BadPicture))
                if time.monotonic() - written > WRITE_SECONDS:
                    table.write()
                    written = time.monotonic()
                advance(len(chunk))
    finally:
        table.write()
    return computed


def _read_upright(path: Path) -> "tuple[bytes, Image] | BadPicture":
    """A picture's digest and its RGB pixels, the way it is to be looked at."""
    from PIL import ImageOps

    try:
        content = read_picture(path)
        picture = decode(content, path)
    except BadPicture as error:
        return error
    # The file may have changed since it was listed: scores belong to what was decoded.
    return hashlib.sha256(content).digest(), ImageOps.exif_transpose(picture)


@contextmanager
def _turn(table: _Table) -> Iterator[None]:
    """Wait until no other job runs this detector; then the table has its results."""
    try:
        guard = lock(table.path)
        try:
            guard.acquire(timeout=0)
        except Timeout:
            say("detections: another job runs this detector; waiting to use its result")
            guard.acquire()
    except (OSError, NotImplementedError) as error:
        table.give_up(error)
        yield
        return
    try:
        table.read()
        yield
    finally:
        guard.release()
