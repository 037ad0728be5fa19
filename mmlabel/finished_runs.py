"""The finished runs that a command line's folders mean."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from mmlabel.cache import cache_folder
from mmlabel.data.annotations import Annotations
from mmlabel.errors import UserError
from mmlabel.former_settings import completed
from mmlabel.progress import say
from mmlabel.run_folder import (
    FAILED,
    LOCK,
    SUMS,
    RunRecord,
    RunResults,
    damage,
    failure,
    read_results,
    read_run,
)
from mmlabel.settings import Settings, read_settings
from mmlabel.terminal import printable
from mmlabel.wording import listed

_NAMED = 20  # folders in a message, for a command line to be made of


def run_folders(given: Iterable[Path]) -> list[Path]:
    """The folders of runs that are meant, each once: those given, or what lies in them.

    Raises UserError for a folder that is none of a run and holds none.
    """
    found: dict[Path, Path] = {}
    for folder in given:
        inside = [folder]
        if not _is_run(folder):
            names = folder.iterdir() if folder.is_dir() else ()
            # Jobs of a multirun are numbered: 10 comes after 9.
            ordered = sorted(names, key=lambda path: (len(path.name), path.name))
            inside = [path for path in ordered if _is_run(path)]
        if not inside:
            what = "holds no run" if folder.is_dir() else "is no folder"
            raise UserError(f"{folder} {what}: give the folder of a finished run")
        for path in inside:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (SUMS, FAILED, LOCK))


def read_finished(folders: Iterable[Path]) -> list[RunRecord]:
    """Read runs. Raises UserError where some have not finished, or are not as they were written.

    It says why of the first, and which others there are to be looked at without them.
    """
    runs: list[RunRecord] = []
    bad: dict[Path, str] = {}
    for folder in folders:
        try:
            runs.append(_read(folder))
        except UserError as error:
            bad[folder] = str(error)
    if not bad:
        return runs
    first, *more = bad
    said = bad[first].rstrip(".")
    if more:
        said += f"; nor can {listed([str(folder) for folder in more], most=3)} be taken"
    if runs:
        whole = [str(run.folder) for run in runs]
        given = shlex.join(whole) if len(whole) <= _NAMED else f"the {len(whole):,} others"
        said += f". Leave {'them' if more else 'it'} out and give what is whole: {given}"
    raise UserError(said)


def _read(folder: Path) -> RunRecord:
    _check_finished(folder)
    return read_run(folder)


def read_validated(folder: Path) -> RunResults:
    """The results of a run that may not have been tested; raises UserError for one that is none."""
    _check_finished(folder)
    if name := damage(folder):
        raise UserError(f"{folder / name} is not as the run wrote it; run it again")
    return RunResults(folder, read_results(folder))


def _check_finished(folder: Path) -> None:
    if not (folder / SUMS).is_file():
        why = failure(folder) if (folder / FAILED).is_file() else "it has not finished"
        raise UserError(f"{folder} has no results to look at: {why}")


def settings_of(run: RunResults) -> Settings:
    """A run's settings as this version reads them. Raises UserError if it cannot."""
    try:
        return read_settings(completed(run.results["settings"]))
    except (UserError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{run.folder}: its settings are no longer understood ({error}); run it again"
        ) from None


def annotations_of(run: RunRecord) -> Annotations | None:
    """The data of a run, for a page's pictures and captions; None, and said, where they are gone.

    Where they have changed since, that is said.
    """
    settings = settings_of(run)
    try:
        annotations = settings.data.read(
            cache_dir=cache_folder(settings.cache_dir),
            require_pictures=False,
            require_captions=False,
        )
        then = (run.results.get("inputs") or {}).get("data", annotations.fingerprint)
        if then != annotations.fingerprint:
            say(
                f"the data (ids, captions or labels) have changed since {run.folder}: labels and"
                " answers are the run's, captions and pictures today's"
            )
        return annotations
    except UserError as error:
        say(f"the page has no pictures: {printable(str(error))}")
        return None
