"""Run a study, or continue one: `python sweep.py --help` shows how."""

if __name__ == "__main__":  # before the other imports, which take a while
    from mmlabel.interrupts import end_on_interrupt

    end_on_interrupt()

import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

import train
from mmlabel.cache import cache_folder, fingerprint
from mmlabel.cli import load_settings, queue_hint, refuse_flags, run_cli
from mmlabel.cli import unused as unused_options
from mmlabel.commands import Parser
from mmlabel.data.annotations import Annotations
from mmlabel.data.digests import data_digests
from mmlabel.data.options import Coco
from mmlabel.errors import UserError, together
from mmlabel.former_settings import completed
from mmlabel.no_effect import without_effect
from mmlabel.report import StudyReport
from mmlabel.run_folder import damage, failure, finished, hold
from mmlabel.settings import Settings, override_key, read_settings
from mmlabel.study.definition import Collection, Study, load_study, study_names
from mmlabel.study.extras import missing_extras
from mmlabel.study.launch import launch, log_to_terminal, names_launcher
from mmlabel.study.output import write_collection, write_study
from mmlabel.study.plan import (
    Configurations,
    Job,
    commands,
    compared_keys,
    plan,
    seconds_needed,
)
from mmlabel.study.printed import print_study
from mmlabel.study.summary import study_report
from mmlabel.study.wandb_run import log_to_wandb
from mmlabel.wording import count, listed

log = logging.getLogger("mmlabel")

OWN_OPTIONS = ("study", "seeds", "jobs", "out", "wandb.workspace")
HELP = """\
python sweep.py study=lstm_layers                    one study on the built-in data set
python sweep.py study=lstm_layers --dry-run          what would run, and how long it would take
python sweep.py study=all seeds=5                    every study, with five seeds
python sweep.py study=modality data=usyd data.root=DIR backbone=efficientnet_lite0
python sweep.py study=lstm_layers jobs=auto          as many runs at a time as there are cores
python sweep.py study=lstm_layers hydra/launcher=slurm

A study is a file of conf/study, or one of your own (study=mine/NAME.yaml). Its runs go to
OUT/runs, its tables and page to OUT/STUDY. Runs that have finished are not repeated, so the same
command goes on after an interruption: runs that were interrupted begin anew, or with resume=true go
on from their last whole epoch.

  study=NAME              which study, or its file; without it, the studies are listed
  seeds=N                 how many seeds; the study's file decides otherwise
  jobs=N                  how many runs at a time (default: 1), those that train longest first;
                          auto: one a core, or one with a GPU (each trains on its share of the
                          cores; the last digits of a score follow the number of threads: with
                          OMP_NUM_THREADS=1 they are the same for any N)
  out=DIR                 where everything goes (default: studies)
  wandb.workspace=true    save a view in wandb that compares the study's variants
  anything else           goes to every run, as train.py takes it: see python train.py --help"""


def main() -> None:
    """Read the command line and run what it asks for."""
    parser = Parser(prog="sweep.py", description=HELP)
    parser.add_argument("--dry-run", action="store_true", help="run nothing, say what would run")
    parser.add_argument("--config-dir", metavar="DIR", help="files of your own, as of train.py")
    parser.add_argument("options", nargs="*", metavar="OPTION=VALUE", help="see above")
    arguments, unknown = parser.parse_known_intermixed_args()
    refuse_flags(unknown, OWN_OPTIONS, flags=parser.flags)
    options = arguments.options
    if arguments.config_dir is not None:
        options = [*options, _searchpath(arguments.config_dir, options)]
    own, overrides = split_options(options)
    if "study" not in own:
        if options:
            raise UserError(f"which study? study=NAME, one of {', '.join(study_names())}")
        list_studies()
        return
    log_to_terminal()
    study = load_study(own["study"])
    sweep = Sweep(own, overrides, dry_run=arguments.dry_run)
    with nullcontext() if sweep.dry_run else hold(sweep.out):
        if isinstance(study, Study):
            sweep.run(study, sweep.jobs(study, sweep.overrides), sweep.overrides)
        else:
            sweep.run_all(study)
    if sweep.failed:
        raise UserError(
            f"{count(sweep.failed, 'run')} failed, see above; the same command tries them again"
        )


def _searchpath(folder: str, options: Sequence[str]) -> str:
    """--config-dir as the option that means the same, which goes to every run."""
    if not Path(folder).is_dir():
        raise UserError(f"--config-dir {folder}: there is no such folder")
    for option in options:
        if override_key(option) == "hydra.searchpath":
            raise UserError(f"--config-dir {folder}: add it to {option}, which means the same")
    return f"hydra.searchpath=[{QuotedString(folder, Quote.single).with_quotes()}]"


def split_options(options: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """sweep.py's own options, and the overrides for train.py."""
    if said := [problem for option in options if (problem := _no_option_of_a_study(option))]:
        raise UserError(together(said))
    given = [option.partition("=") for option in options]
    # Marks around a value, which others need around spaces, are none of it.
    own = {
        key: re.sub(r"""^(['"])(.*)\1$""", r"\2", value)
        for key, _, value in given
        if key in OWN_OPTIONS
    }
    return own, [option for option in options if option.partition("=")[0] not in OWN_OPTIONS]


def _no_option_of_a_study(option: str) -> str | None:
    key, found, _ = option.partition("=")
    if not found:
        meant = f": give study={option}" if option in study_names() else ""
        return f'"{option}": options are given as OPTION=VALUE{meant}'
    if key == "seed":
        return "seed is what a study repeats its runs over: give seeds=N, how many"
    if key in ("train", "test", "ckpt_path", "repeat"):
        return f"{option}: a study trains and tests each of its runs; leave it out"
    if override_key(option).startswith(("hydra.run.", "hydra.sweep.")):
        return f"{option}: the runs of a study go to OUT/runs: give out=OUT"
    return None


def list_studies() -> None:
    """Name and title of each study; raises UserError at the end for files that are none."""
    problems = {}
    print("python sweep.py study=NAME, with one of\n")
    for name in study_names():
        try:
            print(f"  {name:<14} {load_study(name).title}")
        except UserError as error:
            problems[str(error)] = None  # once, of one that another study is made of
    if problems:
        raise UserError("; ".join(problems))


class Sweep:
    """One call of sweep.py.

    Args:
        own: sweep.py's own options, as given.
        overrides: for train.py, and options of Hydra's launcher.
        dry_run: only say what would run.

    Attributes:
        failed: how many runs have failed.
    """

    def __init__(self, own: dict[str, str], overrides: list[str], *, dry_run: bool) -> None:
        self.overrides = [item for item in overrides if not override_key(item).startswith("hydra")]
        self.hydra_options = [item for item in overrides if item not in self.overrides]
        self._searchpath = [
            item for item in self.hydra_options if override_key(item) == "hydra.searchpath"
        ]
        self.command = shlex.join(["python", "sweep.py", *sys.argv[1:]])
        self.out = Path(os.path.expanduser(own.get("out", "studies")))
        self.seeds = _whole_number("seeds", own["seeds"]) if "seeds" in own else None
        self.workers = _jobs(own.get("jobs", "1"), self.hydra_options)
        self.workspace = _true_or_false(own.get("wandb.workspace", "false"))
        self.dry_run = dry_run
        self.failed = 0
        self.configurations = Configurations(
            settings_of=self.settings_of,
            complete=complete,
            unused=self.unused,
            data_key=self.data_key,
            read=self.read,
        )
        self._annotations: dict[str, Annotations] = {}
        self._read: dict[str, dict[str, str]] = {}
        self._not_there: set[str] = set()

    def settings_of(self, overrides: Sequence[str]) -> Settings:
        """The settings that overrides give, also with files of one's own."""
        return _settings_of(tuple(dict.fromkeys([*overrides, *self._searchpath])))

    def unused(self, overrides: list[str]) -> set[str]:
        """Those of the overrides that have no effect beside the others."""
        return set(unused_options(overrides, without_effect(self.settings_of(overrides))))

    def run_all(self, collection: Collection) -> None:
        """Each study of the collection, and the page that leads to them."""
        planned = []
        for study in collection.studies:
            overrides = self.overrides_of(study)
            # Before any of them runs, so that a mistake in the last one costs no hours.
            planned.append((study, self.jobs(study, overrides), overrides))
        reports = {}
        for study, jobs, overrides in planned:
            if report := self.run(study, jobs, overrides):
                reports[study.name] = report
                write_collection(self.out / collection.name, collection, reports)
        if reports:
            log.info("all studies: %s", self.out / collection.name / "index.html")

    def overrides_of(self, study: Study) -> list[str]:
        """The command line's overrides without those that one study of several compares."""
        compared = compared_keys(study)
        for item in self.overrides:
            if override_key(item) in compared:
                log.info(
                    'study "%s" compares %s: %s left out', study.name, override_key(item), item
                )
        return [item for item in self.overrides if override_key(item) not in compared]

    def jobs(self, study: Study, overrides: list[str]) -> list[Job]:
        """All runs of a study."""
        return plan(
            study,
            seeds=self.seeds or study.seeds,
            overrides=overrides,
            runs=self.out / "runs",
            configurations=self.configurations,
        )

    def run(self, study: Study, jobs: list[Job], overrides: list[str]) -> StudyReport | None:
        """What has not finished of a study, then its tables and page; None in a dry run."""
        pending = [job for job in jobs if not finished(job.folder)]
        for job in pending:
            if name := damage(job.folder):
                path = job.folder / name
                log.warning("%s is not as the run wrote it: %s is run again", path, job.title)
        equivalent = commands(
            study,
            seeds=self.seeds or study.seeds,
            overrides=[*overrides, *self.hydra_options],
            unused=self.unused,
        )
        self.announce(study, jobs, pending, equivalent)
        if self.dry_run:
            return None
        if pending:
            launch(
                pending,
                main=train.main,
                runs=self.out / "runs",
                options=self.hydra_options,
                workers=self.workers,
                metric=study.metric,
            )
        settings = next(job for job in jobs if job.variant.name == study.baseline).settings
        report = study_report(
            study, jobs, command="\n".join(equivalent), annotations=self.annotations(settings)
        )
        folder = self.out / study.name
        write_study(folder, report, jobs=jobs, command=self.command)
        print_study(report)
        for job in jobs:
            if not finished(job.folder):
                self.failed += 1
                log.error("failed: %s: %s", job.title, failure(job.folder))
        if pending or self.workspace:
            options = settings.logger.wandb
            log_to_wandb(study, report, options=options, folder=folder, workspace=self.workspace)
        log.info("everything is in %s", folder)
        return report

    def announce(
        self, study: Study, jobs: list[Job], pending: list[Job], equivalent: list[str]
    ) -> None:
        """Say what has finished, what will run, for how long, and the command for the same."""
        ended = len(jobs) - len(pending)
        print(f"{study.title}: {count(len(jobs), 'run')}, {ended:,} of them finished")
        print("The same runs with train.py:", *equivalent, sep="\n  ")
        if self.dry_run:
            for job in jobs:
                state = "finished" if finished(job.folder) else "would run"
                print(f"  {state:<10} {job.title:<28} {' '.join(job.variant.overrides)}")
        for line in missing_extras(pending):
            print(line)
        if pending:
            seconds = seconds_needed(jobs, pending, self.out / "runs")
            known = "unknown, as nothing has run yet" if seconds is None else _duration(seconds)
            measured = {job.variant.name for job in jobs if finished(job.folder)}
            pending_variants = dict.fromkeys(job.variant.name for job in pending)
            guessed = [name for name in pending_variants if name not in measured]
            if guessed and seconds is not None:
                known += f" (no run of {listed(guessed)} has finished: judged by others)"
            print(f"Time for {count(len(pending), 'run')}, one after the other: {known}")

    def annotations(self, settings: Settings) -> Annotations:
        """The data that settings name; read once, however many runs share it."""
        key = settings.data.model_dump_json()
        if key not in self._annotations:
            self._annotations[key] = settings.data.read(
                cache_dir=cache_folder(settings.cache_dir),
                require_pictures=False,
                require_captions=False,
            )
        return self._annotations[key]

    def data_key(self, settings: Settings) -> str:
        """Stands for the content of the data; a dry run fetches none, so it may not know."""
        if self.dry_run and isinstance(settings.data, Coco) and settings.data.download:
            data = settings.data.model_copy(update={"download": False})
            settings = settings.model_copy(update={"data": data})
        try:
            return fingerprint(self.annotations(settings).fingerprint)
        except UserError as error:
            if not self.dry_run:
                raise
            if str(error) not in self._not_there:
                self._not_there.add(str(error))
                log.warning("%s (so what has finished on these data is not known)", error)
            return "not there yet"

    def read(self, settings: Settings) -> dict[str, str]:
        """What a run records of its data; nothing of the pictures if not all of them are there."""
        key = settings.data.model_dump_json()
        if key not in self._read:
            annotations, cache = self.annotations(settings), cache_folder(settings.cache_dir)
            rows = settings.data.divide(annotations, cache_dir=cache)
            there = all(picture.is_file() for picture in annotations.pictures)
            if not there:
                log.warning("not all pictures are there: finished runs are taken to be of them")
            self._read[key] = data_digests(
                annotations, rows, looks_at_pictures=there, looks_at_order=True, cache_dir=cache
            )
        return self._read[key]


def complete(recorded: dict) -> dict:
    """Settings of a record, plain, as this version reads them."""
    return read_settings(completed(recorded)).plain()


@cache  # several questions need them
def _settings_of(overrides: tuple[str, ...]) -> Settings:
    return load_settings(overrides)


def _whole_number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        other = " or auto" if name == "jobs" else ""
        raise UserError(f"{name}={text}: give a whole number, 1 or more, such as 3{other}")
    return int(text)


def _jobs(text: str, hydra_options: Sequence[str]) -> int | None:
    if text != "1" and names_launcher(hydra_options):
        raise UserError(f"jobs={text}: a launcher of Hydra's has options of its own; leave it out")
    return None if text == "auto" else _whole_number("jobs", text)


def _true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise UserError(f"wandb.workspace={text}: give true or false")
    return text.lower() == "true"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"about {minutes:.0f} minutes" if minutes >= 2 else f"about {seconds:.0f} s"


if __name__ == "__main__":
    run_cli(main, hint=queue_hint(sys.argv[1:]) or "the same command goes on where it was")
