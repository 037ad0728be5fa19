"""COCO from its own server: the annotations, and just the pictures that have one of the labels."""

import http.client
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mmlabel.cache import atomic_write, lock
from mmlabel.data.sources.coco import read_coco
from mmlabel.errors import UserError

TIMEOUT = 20.0  # seconds without a byte
RETRIES = 3
BACKOFF = 1.0  # seconds before the first retry, doubled before each further one
CHUNK = 1 << 18
# So many pictures failing one after the other is the server's or the network's fault.
GIVE_UP_AFTER = 20
SECONDS_PER_LINE = 10.0

Report = Callable[[int, int | None], None]  # how much is done, of how much


class _Failed(Exception):
    """One file could not be fetched; the text says why."""


def download_coco(
    root: Path,
    *,
    year: int = 2017,
    subset: str = "val",
    base_url: str = "http://images.cocodataset.org",
    max_pictures: int | None = None,
    workers: int = 16,
) -> None:
    """Fetch what `read_coco` reads: annotations, and the pictures with one of the 18 labels.

    What is there already is not fetched again, and an archive that was cut off is continued, so
    that an interrupted download goes on where it stopped. A file has its final name only when it
    is whole. Nothing is fetched, and no network is needed, when all files are there.

    Args:
        root: COCO's folder; pictures go to `root/val2017` and the like.
        year: 2014 or 2017.
        subset: "train" or "val".
        base_url: the server, with `annotations/annotations_trainval2017.zip` and `val2017/NAME`.
        max_pictures: fetch the first so many pictures; give `read_coco` the same number.
        workers: how many pictures are fetched at a time.

    Raises:
        UserError: the archive or a picture could not be fetched after several tries, or the
            archive is not COCO's.
    """
    if year not in (2014, 2017) or subset not in ("train", "val"):
        raise UserError(
            f"COCO has no {subset}{year} with annotations: choose train or val, and 2014 or 2017"
        )
    if workers < 1:
        raise UserError(f"the download needs one worker at least, not {workers}")
    root, base_url = Path(root), base_url.rstrip("/")
    # Jobs that start together share one download.
    try:
        with lock(root / "download"):
            _fetch_annotations(root, f"{subset}{year}", f"annotations_trainval{year}.zip", base_url)
            _fetch_pictures(root, f"{subset}{year}", base_url, max_pictures, workers)
    except OSError as error:  # those of the network are dealt with where they arise
        raise UserError(f"cannot write COCO to {root}: {error.strerror or error}") from None


def _fetch_annotations(root: Path, name: str, archive_name: str, base_url: str) -> None:
    """Fetch the archive, take the two files out that are needed, and remove it."""
    folder = root / "annotations"
    wanted = [f"instances_{name}.json", f"captions_{name}.json"]
    if all((folder / file).is_file() for file in wanted):
        return
    url = f"{base_url}/annotations/{archive_name}"
    if (root / archive_name).is_file():  # the user's own, and left where it is
        return _extract(root / archive_name, wanted, folder)
    part = root / f"{archive_name}.part"
    try:
        with _progress("COCO annotations", "bytes") as report:
            _retrying(lambda: _continue_file(url, part, report), threading.Event())
    except _Failed as failed:
        raise UserError(
            f"cannot download {url}: {failed}. Run again to go on where it stopped, or put that "
            f"file into {root}"
        ) from None
    try:
        _extract(part, wanted, folder)
    except UserError:
        part.unlink()  # or the next run would go on with a damaged file
        raise
    part.unlink()


def _extract(archive: Path, wanted: list[str], folder: Path) -> None:
    """Take the wanted files out of COCO's annotation archive."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for file in wanted:
                # Reading checks the checksum; a file that fails it never gets its name.
                with (
                    atomic_write(folder / file) as temporary,
                    opened.open(f"annotations/{file}") as source,
                    open(temporary, "wb") as destination,
                ):
                    shutil.copyfileobj(source, destination)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise UserError(
            f"{archive} is not COCO's archive or is damaged ({error}); fetch it anew"
        ) from None


def _fetch_pictures(
    root: Path, name: str, base_url: str, max_pictures: int | None, workers: int
) -> None:
    """Fetch the pictures that are not there yet, several at a time."""
    annotations = read_coco(
        root,
        instances=f"instances_{name}.json",
        captions=f"captions_{name}.json",
        max_pictures=max_pictures,
        require_pictures=False,
    )
    missing = [picture for picture in annotations.pictures if not picture.is_file()]
    if not missing:
        return
    stop = threading.Event()

    def fetch(picture: Path) -> None:
        url = f"{base_url}/{name}/{picture.name}"
        _retrying(lambda: _fetch_picture(url, picture, stop), stop)

    failures: dict[str, str] = {}
    with (
        _progress(f"COCO {name}", "pictures") as report,
        ThreadPoolExecutor(workers) as pool,
    ):
        try:
            in_a_row = 0
            results = _as_done(pool, fetch, missing, at_a_time=2 * workers)
            for done, (picture, failure) in enumerate(results, start=1):
                report(done, len(missing))
                in_a_row = 0 if failure is None else in_a_row + 1
                if failure is not None:
                    failures[picture.name] = failure
                if in_a_row == GIVE_UP_AFTER:
                    break
        finally:
            # On Ctrl-C, or when giving up, the running ones end at their next chunk.
            stop.set()
    if failures:
        listed = ", ".join(f"{file} ({why})" for file, why in list(failures.items())[:10])
        raise UserError(
            f"{len(failures)} of {len(missing)} pictures could not be downloaded from "
            f"{base_url}/{name}: {listed}{', ...' if len(failures) > 10 else ''}"
            f"{' (the rest was not tried)' if in_a_row == GIVE_UP_AFTER else ''}. "
            "Run again to fetch what is missing"
        )


def _as_done(
    pool: ThreadPoolExecutor,
    fetch: Callable[[Path], None],
    pictures: list[Path],
    *,
    at_a_time: int,
) -> Iterator[tuple[Path, str | None]]:
    """Each picture as it is done, with the reason if it failed; few are queued at a time."""
    waiting = iter(pictures)
    running: dict[Future[None], Path] = {}
    while True:
        for picture in waiting:
            running[pool.submit(fetch, picture)] = picture
            if len(running) == at_a_time:
                break
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            picture = running.pop(future)
            try:
                future.result()
            except _Failed as failed:
                yield picture, str(failed)
            else:
                yield picture, None


def _retrying(fetch: Callable[[], None], stop: threading.Event) -> None:
    """Call `fetch` until it succeeds, up to RETRIES times more, with growing waits between."""
    for retry in range(RETRIES + 1):
        if stop.is_set():
            raise _Failed("interrupted")
        try:
            return fetch()
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            error.close()
            # Other answers of the 400s stay the same however often one asks.
            if error.code < 500 and error.code not in (408, 416, 429):
                break
        except urllib.error.URLError as error:
            reason = str(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        except ValueError as error:  # what urllib makes of an address that is none
            reason = str(error)
            break
        if retry < RETRIES:
            stop.wait(BACKOFF * 2**retry)
    raise _Failed(reason)


def _fetch_picture(url: str, picture: Path, stop: threading.Event) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        with atomic_write(picture) as temporary:
            with open(temporary, "wb") as file:
                for _ in _copy(response, file):
                    if stop.is_set():
                        raise _Failed("interrupted")
            # A proxy's or a provider's page comes with status 200, too.
            with open(temporary, "rb") as file:
                if file.read(2) != b"\xff\xd8":
                    raise http.client.HTTPException("the answer is no JPEG picture")


def _continue_file(url: str, part: Path, report: Report) -> None:
    """Fetch a file to `part`, after what is there already if the server can do that."""
    part.parent.mkdir(parents=True, exist_ok=True)
    present = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    if present:
        request.add_header("Range", f"bytes={present}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and present:
            # There is nothing after what is there: it is whole, or it is not this file.
            if error.headers.get("Content-Range") == f"bytes */{present}":
                error.close()
                return
            part.unlink()
        raise
    with response, open(part, "r+b" if part.exists() else "wb") as file:
        # Without a range in the answer, the answer is the whole file.
        start = present if response.status == 206 else 0
        file.seek(start)
        file.truncate()
        length = response.headers.get("Content-Length")
        for received in _copy(response, file):
            report(start + received, None if length is None else start + int(length))


def _copy(response: http.client.HTTPResponse, file: BinaryIO) -> Iterator[int]:
    """Write an answer to a file, giving the bytes so far; raises if the answer ends too early."""
    received = 0
    while chunk := _read(response):
        file.write(chunk)
        received += len(chunk)
        yield received
    expected = response.headers.get("Content-Length")
    if expected is not None and received != int(expected):
        raise http.client.HTTPException(f"the answer ended after {received} of {expected} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except OSError as error:  # told apart from those of the disk
        raise http.client.HTTPException(str(error) or type(error).__name__) from None


@contextmanager
def _progress(what: str, unit: str) -> Iterator[Report]:
    """A bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _lines(what, unit)
        return
    # Loading rich takes a moment that a run with nothing to download need not pay.
    from rich.console import Console
    from rich.progress import DownloadColumn, MofNCompleteColumn, Progress

    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), count, console=console) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _lines(what: str, unit: str) -> Report:
    """Print the first and the last report, and one every SECONDS_PER_LINE between."""
    last = -SECONDS_PER_LINE

    def report(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_PER_LINE or done == total:
            last = time.monotonic()
            of = "" if total is None else f" of {total:,}"
            print(f"{what}: {done:,}{of} {unit}", file=sys.stderr, flush=True)

    return report
