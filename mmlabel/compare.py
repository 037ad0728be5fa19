"""`python -m mmlabel.compare FOLDER FOLDER…`: finished runs against one another, with evidence."""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlabel.commands import Parser, check_folder, path_of, run_command
from mmlabel.configurations import BEFORE, deciding, names_of
from mmlabel.errors import UserError
from mmlabel.evidence import METRICS
from mmlabel.finished_runs import (
    annotations_of,
    read_finished,
    read_validated,
    run_folders,
    settings_of,
)
from mmlabel.report import StudyReport, run_notes
from mmlabel.run_folder import BEST, LAST, RunRecord, RunResults
from mmlabel.settings import Settings, differing
from mmlabel.study.definition import Study, Variant
from mmlabel.study.inputs import differing_inputs, read_otherwise
from mmlabel.study.made_by import made_otherwise
from mmlabel.study.output import STUDY_FILES, write_study
from mmlabel.study.plan import Job
from mmlabel.study.printed import print_study
from mmlabel.study.summary import study_report
from mmlabel.terminal import console, printable
from mmlabel.wording import listed

HELP = """\
Compare finished runs that were tested on the same rows. Runs that differ in their seed alone are
one configuration, and so are evaluations of such runs' checkpoints; the first folder's is the
baseline. Differences come with the intervals and tests of a study (see mmlabel/evidence.py).

  python -m mmlabel.compare outputs/DATE/TIME outputs/DATE/OTHER
  python -m mmlabel.compare multirun/DATE/TIME              all runs in a folder
  python -m mmlabel.compare RUN RUN … --out DIR             also a page, Markdown and CSV
  python -m mmlabel.compare multirun/DATE/TIME --validation   to choose settings by"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(lambda: _compare(_parser().parse_args(arguments)))


def _compare(options: argparse.Namespace) -> None:
    if options.out is not None:
        check_folder(options.out, files=STUDY_FILES, command="mmlabel.compare")
    if options.validation:
        if options.out is not None:
            raise UserError("--validation prints a table, and --out is of comparisons on the test")
        print_validation(run_folders(options.folders), metric=options.metric)
        return
    runs = read_runs(run_folders(options.folders))
    jobs, notes = grouped(runs)
    command = "\n".join(run.command for run in runs)
    study = _study(jobs, metric=f"test/{options.metric}", notes=notes)
    annotations = None if options.out is None else annotations_of(runs[0])
    report = study_report(study, jobs, command=command, annotations=annotations)
    print_study(report)
    if options.out is not None:
        _write(options.out, report, jobs, options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m mmlabel.compare", description=HELP)
    add = parser.add_argument
    add("folders", nargs="+", type=path_of, metavar="FOLDER", help="of a run, or of several runs")
    add("--metric", choices=METRICS, default="f1_micro", help="(default: %(default)s)")
    add(
        "--validation",
        action="store_true",
        help="print the validation scores, best first, also of runs with test=false: settings are"
        " chosen by these, and the chosen ones compared on the test",
    )
    add(
        "--out",
        type=path_of,
        metavar="DIR",
        help="write report.html, table.md and CSV files there: a new folder, or that of an earlier"
        " comparison",
    )
    return parser


_SAME_ROWS = (
    "Compare runs on the same data with the same splits (data.split_seed, data.splits, data.fold;"
    " what is wrong in all folds together, python -m mmlabel.mistakes tells), as much of them"
    " (trainer.limit_val_batches, trainer.limit_test_batches, trainer.overfit_batches)"
)


def read_runs(folders: Iterable[Path]) -> list[RunRecord]:
    """Finished runs on the same test rows.

    Raises UserError, which says why, for a run that has not finished or has other rows.
    """
    folders = list(folders)
    if len(folders) < 2:
        raise UserError(f"{folders[0]} is one run alone: give two or more")
    runs = read_finished(folders)
    for run in runs[1:]:
        if difference := runs[0].other_rows(run):
            raise UserError(
                f"{run.folder} was not tested on the rows of {runs[0].folder}: {difference}."
                f" {_SAME_ROWS}"
            )
    return runs


def print_validation(folders: Sequence[Path], *, metric: str) -> None:
    """Print each configuration's mean validation score and its spread over seeds, best first.

    There are no intervals: what a run keeps of its validation rows are the scores. Raises UserError
    for a run that has not finished, or has read other data or splits.
    """
    from rich import box
    from rich.table import Table

    runs = [read_validated(folder) for folder in folders]
    for run in runs[1:]:
        if _validated_on(run) != _validated_on(runs[0]):
            raise UserError(
                f"{run.folder} was not validated on the rows of {runs[0].folder}. {_SAME_ROWS}"
            )
    jobs, notes = grouped(runs)
    results = {run.folder: run.results for run in runs}
    scores: dict[str, list[float]] = {}
    for job in jobs:
        score = results[job.folder]["scores"].get(f"val/{metric}")
        if score is None:
            raise UserError(f"{job.folder} has no validation scores: leave it out")
        scores.setdefault(job.variant.name, []).append(score)
    output = console()
    table = Table(
        title=f"Validation of {len(jobs)} runs", box=box.SIMPLE_HEAD, title_justify="left"
    )
    for heading in ("variant", f"val/{metric}", "runs"):
        table.add_column(heading, justify="left" if heading == "variant" else "right", no_wrap=True)
    for name, reached in sorted(scores.items(), key=lambda item: -np.mean(item[1])):
        spread = f" ± {np.std(reached, ddof=1):.4f}" if len(reached) > 1 else ""
        table.add_row(printable(name), f"{np.mean(reached):.4f}{spread}", str(len(reached)))
    output.print(table)
    variants = _by_variant(jobs, runs)
    notes += [*read_otherwise(runs), *made_otherwise(variants), *run_notes(variants)]
    notes.append("The best of several validation scores is too high: test what you choose.")
    for note in notes:
        output.print(printable(note))


def _validated_on(run: RunResults) -> list[object]:
    """What tells the rows of a run's validation scores, which it does not keep, from others."""
    results, trainer = run.results, run.results["settings"].get("trainer") or {}
    read = results.get("inputs") or {}
    seen = results["rows"]["val"], trainer.get("overfit_batches") or None
    return [read.get("data"), read.get("splits"), *seen]


def _by_variant(
    jobs: Sequence[Job], runs: Sequence[RunResults]
) -> list[tuple[str, list[RunResults]]]:
    """Each variant's label and runs."""
    by_folder = {run.folder: run for run in runs}
    found: dict[str, list[RunResults]] = {}
    for job in jobs:
        found.setdefault(job.variant.label, []).append(by_folder[job.folder])
    return list(found.items())


def _texts(numbers: Sequence[int]) -> list[str]:
    return [str(number) for number in numbers]


# ---- Configurations --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Configuration:
    runs: dict[int, RunResults]  # by seed
    settings: Settings
    options: dict[str, Any]  # all that decide a result, but the seed


def grouped(runs: Sequence[RunResults]) -> tuple[list[Job], list[str]]:
    """The runs as those of a study, the first one's configuration first, and what to note.

    Runs that evaluate checkpoints are grouped by the options that these were trained under, as the
    runs that have trained them would be.

    Raises UserError for two runs of one configuration with one seed.
    """
    alike: dict[str, list[RunResults]] = {}
    settings = {run.folder: settings_of(run) for run in runs}
    options = {run.folder: _options(run, settings[run.folder]) for run in runs}
    for run in runs:
        alike.setdefault(repr(sorted(options[run.folder].items())), []).append(run)
    first_of = {run.folder: place for place, run in enumerate(runs)}
    configurations = [
        _Configuration(
            {settings[run.folder].seed: run for run in own},
            settings[own[0].folder],
            options[own[0].folder],
        )
        for own in sorted(
            (part for group in alike.values() for part in _apart(group)),
            key=lambda part: first_of[part[0].folder],
        )
    ]
    first, jobs, notes = configurations[0], [], []
    if len(configurations) == 1:
        notes.append("These runs differ in their seed alone: there is nothing to compare.")
    chosen = set().union(*(differing(one.settings) for one in configurations))
    names, others = names_of(
        [one.options for one in configurations],
        chosen=chosen,
        checkpoints=[_places(one) for one in configurations],
    )
    if others:
        notes.append(f"They differ in more than their names say: {listed(others)}.")
    for name, one in zip(names, configurations, strict=True):
        if {BEST, LAST} <= {place.name for place in _places(one)}:
            notes.append(f"{name}: of some seeds it is {BEST}, of others {LAST}.")
        seeds = list(one.runs)
        if not first.runs.keys() & one.runs.keys():
            # A seed ties nothing together but the order of the rows and the like.
            seeds = [*first.runs, *range(2**32, 2**32 + len(seeds))][: len(seeds)]
            notes.append(
                f"{name} has seeds {', '.join(_texts(sorted(one.runs)))} and the baseline"
                f" {', '.join(_texts(sorted(first.runs)))}: their runs are paired in the order"
                " given."
            )
        variant = Variant(name=name, label=name, overrides=[])
        for seed, run in zip(seeds, one.runs.values(), strict=True):
            given = [str(item) for item in run.results.get("overrides") or []]
            jobs.append(Job(variant, seed, given, run.folder, one.settings))
    return jobs, notes


def _options(run: RunResults, settings: Settings) -> dict[str, Any]:
    """All that decide a run's result, but its seed; without where a checkpoint lies.

    A checkpoint has the seed of its run. Instead of its place there is what its options do not
    tell: on which rows it was trained, where it says so.
    """
    options = deciding(settings)
    options["data"] = run.results.get("data_fingerprint")
    if settings.ckpt_path is not None:
        before = run.results.get("began_with") or {}
        rows = run.results["rows"]["train"]
        options[BEFORE] = [before.get("data"), before.get("splits"), rows]
    return options


def _apart(runs: list[RunResults]) -> list[list[RunResults]]:
    """Runs of the same options as one configuration, or as several where a seed is there twice.

    Those are of several checkpoints, which their names tell apart, or else where these lie. Raises
    UserError for two runs that are the same.
    """
    tellings: list[Callable[[RunResults], str | None]] = [
        lambda run: None,
        lambda run: Path(_checkpoint(run)).name,
        _checkpoint,
    ]
    twins = None
    for told in tellings:
        parts: dict[str | None, list[RunResults]] = {}
        for run in runs:
            parts.setdefault(told(run), []).append(run)
        twins = next((found for part in parts.values() if (found := _twins(part))), None)
        if twins is None or _same_checkpoint(*twins):
            break
    if twins is None:
        return list(parts.values())
    one, other = twins
    unlike = differing_inputs({one.folder: one.results, other.folder: other.results})
    raise UserError(
        f"{one.folder} and {other.folder} are the same run (seed {_seed(one)}) twice"
        + (f", but have not read the same {listed(list(unlike))}" if unlike else "")
        + ": leave one out"
    )


def _twins(runs: Sequence[RunResults]) -> tuple[RunResults, RunResults] | None:
    """The first two runs of one seed, those of one checkpoint before others."""
    pairs = [
        (one, other)
        for place, other in enumerate(runs)
        for one in runs[:place]
        if _seed(one) == _seed(other)
    ]
    return next((pair for pair in pairs if _same_checkpoint(*pair)), next(iter(pairs), None))


def _same_checkpoint(one: RunResults, other: RunResults) -> bool:
    """Whether two runs evaluate, or go on from, one checkpoint, or none."""
    digests = [(run.results.get("inputs") or {}).get("checkpoint") for run in (one, other)]
    places = [_checkpoint(run) for run in (one, other)]
    return digests[0] == digests[1] if all(digests) and all(places) else places[0] == places[1]


def _seed(run: RunResults) -> int:
    return run.results["settings"]["seed"]


def _checkpoint(run: RunResults) -> str:
    return run.results["settings"].get("ckpt_path") or ""


def _places(configuration: _Configuration) -> list[Path]:
    """Of the checkpoints that a configuration's runs evaluate."""
    found = [_checkpoint(run) for run in configuration.runs.values()]
    return [Path(place) for place in found if place]


# ---- What is shown ----------------------------------------------------------------------------


def _study(jobs: Sequence[Job], *, metric: str, notes: list[str]) -> Study:
    variants = list({job.variant.name: job.variant for job in jobs}.values())
    return Study(
        name="comparison",
        title=f"Comparison of {len(jobs)} runs",
        question="Do these configurations differ on the same test rows?",
        baseline=variants[0].name,
        variants=variants,
        metric=metric,
        notes=notes,
    )


def _write(
    out: Path, report: StudyReport, jobs: Sequence[Job], options: argparse.Namespace
) -> None:
    command = ["python", "-m", "mmlabel.compare", *map(str, options.folders)]
    command += ["--metric", options.metric, "--out", str(out)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_study(out, report, jobs=jobs, command=shlex.join(command))
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    print(f"the page is {out / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
