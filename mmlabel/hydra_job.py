"""Hydra's side of a run: what is checked before it begins, its folder, and what it is given."""

import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from mmlabel.cli import (
    UNREADABLE,
    fail,
    of_a_file,
    parse,
    read_command_line,
    refuse_unused,
    settings_from,
    unused,
)
from mmlabel.config_files import chosen_files, repository, set_by
from mmlabel.errors import UserError
from mmlabel.help import CONF
from mmlabel.no_effect import without_effect
from mmlabel.processes import (
    agreed,
    check_multirun,
    check_processes,
    is_first_process,
    repeats_another,
    started,
)
from mmlabel.run_folder import SUMS
from mmlabel.settings import Settings

log = logging.getLogger(__name__)

_MOST_CHECKED = 64  # jobs of a multirun that are checked before the first one runs


class BeforeRun(Callback):
    """Checks a configuration after Hydra has composed it and before it makes any folder."""

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        with _answered():
            overrides = _as_given(config.hydra.overrides.task)
            for text in overrides:
                if found := re.search(r"\$\{hydra:(job\.(num|id))\}", text):
                    raise UserError(
                        f"{text}: {found[1]} tells several runs (-m) apart, and a single one has"
                        " none; leave it out"
                    )
            with _known_to_options(config):
                settings = settings_from(config, overrides)
            if not repeats_another():  # of a multirun's job, which may have them
                refuse_unused(overrides, without_effect(settings))
            check_processes(settings.trainer)
            _check_folder(config, "run", resume=settings.resume)
            _own_folder(config, "run")
            _spare_finished(config)

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        with _answered():
            check_multirun()
            overrides, resume = _as_given(config.hydra.overrides.task), False
            if config.hydra.sweeper._target_.endswith("BasicSweeper"):
                loader, name = GlobalHydra.instance().config_loader(), config.hydra.job.config_name
                places = _searchpath_options(_as_given(config.hydra.overrides.hydra))
                for number, job in enumerate(islice(_jobs(overrides), _MOST_CHECKED)):
                    composed = loader.load_configuration(
                        name, [*job, *places], run_mode=RunMode.RUN, from_shell=False
                    )
                    with _known_to_options(composed, number):
                        resume = settings_from(composed, job).resume or resume
            _check_folder(config, "sweep", resume=resume and not _starts_again(config))
            _own_folder(config, "sweep")
        if _by_submitit(config):  # which shows nothing of what its jobs say
            print(f"each job says in {config.hydra.sweep.dir}/NUMBER/train.log what it does")

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        if _by_submitit(config):
            folder = shlex.quote(config.hydra.sweep.dir)
            print(f"all jobs have finished; compare them: python -m mmlabel.compare {folder}")


@contextmanager
def _known_to_options(config: DictConfig, job: int | None = None) -> Iterator[None]:
    """Hydra's own values in options (${hydra:job.num}), which Hydra itself sets as a job begins.

    Args:
        config: with Hydra's part.
        job: its number in a multirun; None: in a single run, which has none.
    """
    state = HydraConfig.instance()
    former, known = state.cfg, OmegaConf.masked_copy(config, "hydra")
    with open_dict(known.hydra), read_write(known.hydra):
        known.hydra.runtime.output_dir = os.path.abspath(known.hydra.run.dir)
        if job is not None:
            known.hydra.job.num = job
            known.hydra.job.id = str(job)
    state.set_config(known)
    try:
        yield
    finally:
        state.cfg = former


@contextmanager
def _answered() -> Iterator[None]:
    # Hydra turns what its callbacks raise into warnings; an exit goes through.
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        fail(error)
    except UNREADABLE as error:
        fail(of_a_file(error))


def _jobs(overrides: Sequence[str]) -> Iterator[list[str]]:
    """The overrides of each job of Hydra's basic sweeper."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    for batch in BasicSweeper.split_arguments(parse(overrides), max_batch_size=None):
        yield from (list(job) for job in batch)


def _check_folder(config: DictConfig, kind: str, *, resume: bool) -> None:
    """Refuse the folder of the other kind of run, and `resume` where no start finds the last one's.

    Args:
        config: with Hydra's part.
        kind: "run", or "sweep" of several.
        resume: whether a run is to go on when the same command is given again.
    """
    given = _given_to_hydra(config)
    this, other = (
        ("several runs (-m)", "a single run") if kind == "sweep" else ("a single run", "several")
    )
    for name in given:
        if name.startswith("hydra.run." if kind == "sweep" else "hydra.sweep."):
            raise UserError(
                f"{name} is of {other}, and this is {this}: give hydra.{kind}.dir=DIR, or"
                f" {'leave -m out' if kind == 'sweep' else 'add -m'}"
            )
    if f"hydra.{kind}.dir" in given and not config.hydra[kind].dir:
        raise UserError(f"hydra.{kind}.dir= is no folder: give one, or leave it out")
    if resume and f"hydra.{kind}.dir" not in given:
        raise UserError(
            "resume=true goes on in the folder of the run that was stopped, and each start has a"
            f" new one: add hydra.{kind}.dir=DIR, or leave it out"
        )


def _starts_again(config: DictConfig) -> bool:
    """Whether a launcher itself starts a job that was stopped once more, in the job's folder."""
    name = config.hydra.launcher._target_.rpartition(".")[2]
    return name not in ("BasicLauncher", "JoblibLauncher")


def _by_submitit(config: DictConfig) -> bool:
    return "submitit" in config.hydra.launcher._target_


def _given_to_hydra(config: DictConfig) -> list[str]:
    """The options of Hydra's own that the command line sets."""
    return [item.key_or_group for item in parse(_as_given(config.hydra.overrides.hydra))]


def _own_folder(config: DictConfig, kind: str) -> None:
    """Give a run whose folder was not chosen one that no other run started at the time has.

    All processes of a run have the folder of the first, which alone keeps a log there by that name.
    """
    folder = config.hydra[kind].dir
    if f"hydra.{kind}.dir" not in _given_to_hydra(config) and is_first_process():
        folder = str(_new_folder(Path(folder), kind))
    with read_write(config):
        config.hydra[kind].dir = folder
        if this := started():
            config.hydra[kind].dir = agreed(os.path.abspath(folder))
            if this.rank > 0:
                config.hydra.job.name = f"{config.hydra.job.name}_process_{this.rank}"
                config.hydra.output_subdir = None


def _spare_finished(config: DictConfig) -> None:
    """See that a finished run's folder keeps what Hydra wrote there, whatever comes of this run."""
    if (Path(config.hydra.run.dir) / SUMS).exists():
        with read_write(config):
            config.hydra.output_subdir = None


def _new_folder(wanted: Path, kind: str) -> Path:
    for number in range(1, 1000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"no folder can be made for the run's files: {folder} ({error.strerror}); choose"
                f" another with hydra.{kind}.dir=DIR"
            ) from None
        return folder
    raise UserError(f"{wanted} and 998 folders beside it are taken: give hydra.{kind}.dir=DIR")


# ---- Inside a job of Hydra's ----------------------------------------------------------------


def job_settings(config: DictConfig) -> tuple[Settings, list[str]]:
    """A job's settings, and what it goes without: options that do not concern it.

    A multirun may have them for other jobs, a file for another choice of a group.
    """
    settings, left_out = read_command_line(config, task_overrides(), HydraConfig.get().searchpath)
    check_processes(settings.trainer)
    idle = without_effect(settings)
    if not (is_multirun() or repeats_another()):
        refuse_unused(task_overrides(), idle)
    left = unused(task_overrides(), idle)
    return settings, [*left_out, *(f"{text}: no effect with {why}" for text, why in left.items())]


def task_overrides() -> list[str]:
    """What this run was given on the command line, options of Hydra itself left out."""
    return list(HydraConfig.get().overrides.task)


def set_in_files(overrides: Sequence[str]) -> list[str]:
    """The options, and the groups, set by files that may set any, such as conf/experiment's."""
    searchpath = HydraConfig.get().searchpath if HydraConfig.initialized() else []
    files = repository(searchpath)
    return set_by([content for _, content in chosen_files(parse(overrides), files)])


def is_multirun() -> bool:
    """Whether this run is one of several of a command line (-m)."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def sweep_name() -> str | None:
    """What the runs of one multirun have in common, to group them by; None for a single run."""
    return "/".join(Path(HydraConfig.get().sweep.dir).parts[-2:]) if is_multirun() else None


def output_folder() -> Path:
    """The folder of this run's files."""
    return Path(HydraConfig.get().runtime.output_dir)


@contextmanager
def one_job(folder: Path) -> Iterator[None]:
    """Inside it, the processes that Lightning starts for data-parallel training repeat this job.

    Lightning starts them with this process's command line, which in a multirun is the whole sweep,
    and in an output folder of their own. It also leaves its addresses in the environment, from
    which the next job of the sweep would conclude that it has been started by somebody else.
    """
    arguments, environment = sys.argv, dict(os.environ)
    sys.argv = [arguments[0], *sources(), *map(_with_number, task_overrides())]
    config = cast(DictConfig, HydraConfig.get())
    with read_write(config):
        # Lightning puts it between quotation marks.
        config.run.dir = QuotedString(str(folder.absolute()), Quote.double).with_quotes()[1:-1]
    try:
        yield
    finally:
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(environment)
        _leave_process_group()


def _with_number(override: str) -> str:
    """An override with what tells this job of a multirun apart, which a single run has none of.

    Hydra's sweeper gives seed=${hydra:job.num} on with a backslash before each of its signs.
    """
    job = HydraConfig.get().job
    number = r"\$\\?\{hydra\\?:job\.(num|id)\\?\}"
    return re.sub(number, lambda found: str(getattr(job, found[1])), override)


def sources() -> list[str]:
    """The flags and options by which this run was told of configuration files of one's own."""
    config = HydraConfig.get()
    own = {source.provider: source.path for source in config.runtime.config_sources}
    flags = ["--config-dir", own["command-line"]] if "command-line" in own else []
    if own.get("main", str(CONF)) != str(CONF):
        flags += ["--config-path", own["main"]]
    if config.job.config_name != "train":
        flags += ["--config-name", str(config.job.config_name)]
    return [*flags, *_searchpath_options(_as_given(config.overrides.hydra))]


def _as_given(overrides: Any) -> list[str]:
    """Overrides in Hydra's configuration, which reads ${...} in their text as its own, too."""
    return cast(list[str], OmegaConf.to_container(overrides, resolve=False))


def _searchpath_options(overrides: Sequence[str]) -> list[str]:
    """Those of the overrides for Hydra that add places of files."""
    return [item for item in overrides if item.lstrip("+").startswith("hydra.searchpath=")]


def _leave_process_group() -> None:
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
