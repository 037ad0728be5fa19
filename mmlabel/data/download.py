"""COCO from its own server: the annotations, and just the pictures that have one of the labels."""

import re
import shutil
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import Literal

from mmlabel import network
from mmlabel.cache import atomic_write, turn
from mmlabel.data.sources.coco import read_coco
from mmlabel.errors import UserError
from mmlabel.progress import progress
from mmlabel.wording import listed

# So many pictures failing one after the other is the server's or the network's fault.
GIVE_UP_AFTER = 20
MOST_ARCHIVE, MOST_JSON, MOST_PICTURE = 2_000_000_000, 4_000_000_000, 50_000_000  # bytes
JPEG = b"\xff\xd8"


def download_coco(
    root: Path,
    *,
    year: int = 2017,
    subset: str = "val",
    base_url: str,
    categories: Literal["report", "all"] = "report",
    max_pictures: int | None = None,
    workers: int = 16,
) -> None:
    """Fetch what `read_coco` reads: annotations, and the pictures, of the 18 labels or all.

    What is there already is not fetched again, and an archive that was cut off is continued, so
    that an interrupted download goes on where it stopped. A file has its final name only when it
    is whole. Nothing is fetched, and no network is needed, when all files are there.

    Args:
        root: COCO's folder; pictures go to `root/val2017` and the like.
        year: 2014 or 2017.
        subset: "train" or "val".
        base_url: the server, with `annotations/annotations_trainval2017.zip` and `val2017/NAME`.
        categories: as `read_coco` takes it.
        max_pictures: fetch the first so many pictures; give `read_coco` the same number.
        workers: how many pictures are fetched at a time.

    Raises:
        UserError: the archive or a picture could not be fetched after several tries, the archive
            is not COCO's, or it names a picture outside of `root`.
    """
    root, base_url = Path(root), base_url.rstrip("/")
    # Jobs that start together share one download.
    try:
        with turn(root / "download"):
            _fetch_annotations(root, f"{subset}{year}", f"annotations_trainval{year}.zip", base_url)
            _fetch_pictures(root, f"{subset}{year}", base_url, categories, max_pictures, workers)
    except OSError as error:  # those of the network are dealt with where they arise
        raise UserError(f"cannot write COCO to {root}: {error.strerror or error}") from None


def _fetch_annotations(root: Path, name: str, archive_name: str, base_url: str) -> None:
    """Fetch the archive, take the two files out that are needed, and remove it."""
    folder = root / "annotations"
    wanted = [f"instances_{name}.json", f"captions_{name}.json"]
    if all((folder / file).is_file() for file in wanted):
        return
    archive, url = root / archive_name, f"{base_url}/annotations/{archive_name}"
    if archive.is_file():  # the user's own, and left where it is
        return _extract(archive, wanted, folder)
    try:
        network.fetch_file(
            url,
            archive,
            max_bytes=MOST_ARCHIVE,
            resume=True,
            work="COCO annotations",
        )
    except network.NetworkError as error:
        raise UserError(
            f"cannot download {url}: {error}. Run again to go on where it stopped, or put that "
            f"file into {root}"
        ) from None
    try:
        _extract(archive, wanted, folder)
    finally:
        archive.unlink()  # or the next run would go on with a damaged file


def _extract(archive: Path, wanted: list[str], folder: Path) -> None:
    """Take the wanted files out of COCO's annotation archive."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for file in wanted:
                member = opened.getinfo(f"annotations/{file}")
                if member.file_size > MOST_JSON:
                    raise zipfile.BadZipFile(f"{file} would be {member.file_size:,} bytes")
                # Reading checks the checksum; a file that fails it never gets its name.
                with (
                    atomic_write(folder / file) as temporary,
                    opened.open(member) as source,
                    open(temporary, "wb") as destination,
                ):
                    shutil.copyfileobj(source, destination)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as error:
        raise UserError(
            f"{archive} is not COCO's archive or is damaged ({error}); fetch it anew"
        ) from None


def _fetch_pictures(
    root: Path,
    name: str,
    base_url: str,
    categories: Literal["report", "all"],
    max_pictures: int | None,
    workers: int,
) -> None:
    """Fetch the pictures that are not there yet, several at a time."""
    annotations = read_coco(
        root,
        instances=f"instances_{name}.json",
        captions=f"captions_{name}.json",
        categories=categories,
        max_pictures=max_pictures,
        require_pictures=False,
    )
    _check_names(root / "annotations" / f"instances_{name}.json", annotations.ids)
    missing = [picture for picture in annotations.pictures if not picture.is_file()]
    if not missing:
        return
    stop = threading.Event()

    def fetch(picture: Path) -> None:
        network.fetch_file(
            f"{base_url}/{name}/{picture.name}",
            picture,
            max_bytes=MOST_PICTURE,
            begins_with=JPEG,
            stop=stop,
        )

    failures: dict[str, str] = {}
    with (
        progress(f"COCO {name}", len(missing)) as advance,
        ThreadPoolExecutor(workers) as pool,
    ):
        in_a_row = 0
        try:
            for picture, failure in _as_done(pool, fetch, missing, at_a_time=2 * workers):
                advance(1)
                in_a_row = 0 if failure is None else in_a_row + 1
                if failure is not None:
                    failures[picture.name] = failure
                if in_a_row == GIVE_UP_AFTER:
                    break
        finally:
            # On Ctrl-C, or when giving up, the running ones end at their next chunk.
            stop.set()
    if failures:
        which = listed([f"{file} ({why})" for file, why in failures.items()])
        raise UserError(
            f"{len(failures)} of {len(missing)} pictures could not be downloaded from "
            f"{base_url}/{name}: {which}"
            f"{' (the rest was not tried)' if in_a_row == GIVE_UP_AFTER else ''}. "
            "Run again to fetch what is missing"
        )


def _check_names(file: Path, names: list[str]) -> None:
    """Refuse names from the annotations that might be written elsewhere, on any system."""
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name or re.search(r"[\\:\0]", name):
            raise UserError(
                f"{file}: the picture's name {name!r} leads out of COCO's folder, so nothing is "
                "fetched; check where these annotations come from"
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
            except network.NetworkError as error:
                yield picture, str(error)
            else:
                yield picture, None
