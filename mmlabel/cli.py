"""What train.py and sweep.py share: Hydra's configuration as plain settings, errors as messages."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mmlabel.errors import UserError, nearest

_WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR", "0") == "1"
CONF = Path(__file__).resolve().parent.parent / "conf"


def run_cli(main: Callable[[], object]) -> None:
    """Call a `hydra.main` function; a user's mistake ends it with one message and exit code 1.

    With HYDRA_FULL_ERROR=1 the traceback is shown as well.
    """
    # Without it Hydra prints tracebacks of its own and exits before the error gets here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("mmlabel: interrupted")
    except (UserError, HydraException, OmegaConfBaseException) as error:
        fail(error)


def fail(error: Exception) -> None:
    """End the program with the error's message, unless its traceback is wanted (see `run_cli`)."""
    if not _WANTS_TRACEBACK:
        sys.exit(f"mmlabel: {explain(error)}")
    raise error


def explain(error: Exception) -> str:
    """One message for an error of the user's or of Hydra's, with the nearest right name if any."""
    text = str(error)
    if isinstance(error, MissingConfigException):
        if found := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
            group, name = found.groups()
            if group == "hydra/sweeper":
                return f'Hydra\'s sweeper "{name}" is not installed: pip install -e ".[search]"'
            return f'there is no {group}="{name}"{nearest(name, group_options(group))}'
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found[1].split("@")[0]
        return f'there is no option "{key}"{nearest(key, option_names())}'
    if isinstance(error, HydraException) and error.__cause__ is not None:
        text = f"{text} {error.__cause__}"
    return " ".join(text.split())


def group_options(group: str) -> list[str]:
    """The choices of a configuration group."""
    return [path.stem for path in (CONF / group).glob("*.yaml")]


def option_names() -> list[str]:
    """Every group and every option of a default run."""
    groups = [path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"]
    return sorted({*groups, *flatten(default_settings([]))})


def default_settings(overrides: list[str]) -> dict:
    """The configuration that `overrides` alone would give; missing values are "???"."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides), resolve=False)


def flatten(settings: dict, prefix: str = "") -> dict[str, object]:
    """{"lstm": {"layers": 1}} as {"lstm.layers": 1}; lists stay as they are."""
    return dict(_leaves(settings, prefix))


def _leaves(settings: dict, prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def plain_settings(cfg: DictConfig) -> dict:
    """A run's configuration resolved to plain Python values.

    Raises UserError for an option that has no value, or a value of the wrong type.
    """
    try:
        settings = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given: {error.full_key}=VALUE") from None
    _check_types(settings)
    return settings


def _check_types(settings: dict) -> None:
    """Compare each value set on the command line with the one it replaces."""
    choices = HydraConfig.get().runtime.choices
    parser = OverridesParser.create()
    given = [item.key_or_group for item in parser.parse_overrides(task_overrides())]
    given = [key for key in given if key not in choices]
    if not given:
        return
    values, defaults = flatten(settings), _defaults_of(choices)
    for key in given:
        value, default = values.get(key), defaults.get(key)
        wanted = _wanted_type(default)
        if value is None or wanted is None:
            continue
        kind, accepts = wanted
        if not isinstance(value, accepts) or (isinstance(value, bool) and bool not in accepts):
            raise UserError(f"{key}={value}: give {kind}, such as {default}")


def _wanted_type(default: object) -> tuple[str, tuple[type, ...]] | None:
    if isinstance(default, bool):
        return "true or false", (bool,)
    if isinstance(default, int):
        return "a whole number", (int,)
    if isinstance(default, float):
        return "a number", (int, float)
    if isinstance(default, list):
        return "a list", (list,)
    return None


def _defaults_of(choices: dict) -> dict[str, object]:
    """The values in the files of the chosen groups, before anything was set."""
    files = {"": CONF / "train.yaml"}
    files |= {f"{group}.": CONF / group / f"{name}.yaml" for group, name in choices.items()}
    defaults: dict[str, object] = {}
    for prefix, file in files.items():
        if file.is_file() and not prefix.startswith(("hydra", "experiment")):
            defaults |= flatten(_with_parents(file), prefix)
    return defaults


def _with_parents(file: Path) -> dict:
    content = OmegaConf.to_container(OmegaConf.load(file))
    parents = [item for item in content.pop("defaults", []) if isinstance(item, str)]
    merged: dict = {}
    for parent in parents:
        if parent != "_self_":
            merged |= _with_parents(file.parent / f"{parent}.yaml")
    return merged | content


def task_overrides() -> list[str]:
    """What this run was given on the command line, options of Hydra itself left out."""
    return list(HydraConfig.get().overrides.task)


def is_multirun() -> bool:
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
    sys.argv = [arguments[0], *task_overrides()]
    config = HydraConfig.get()
    with read_write(config):
        config.run.dir = str(folder.absolute())
    try:
        yield
    finally:
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(environment)
        _leave_process_group()


def _leave_process_group() -> None:
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
