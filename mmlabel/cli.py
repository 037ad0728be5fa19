"""The command line of train.py and sweep.py: it becomes `Settings`, and an error a message."""

import logging
import os
import re
import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mmlabel import trainer_options
from mmlabel.config_files import (
    check_hidden,
    leave_out_of_other_kinds,
    refuse_hidden,
    repository,
)
from mmlabel.errors import (
    UserError,
    mistyped,
    nearest,
    no_yaml,
    not_utf_8,
    of_the_disk,
    together,
)
from mmlabel.help import CONF, check_clone, choices
from mmlabel.interrupts import Signalled, answer, raise_until_answered
from mmlabel.options import declared, unknown
from mmlabel.processes import (
    is_first_process,
    started,
)
from mmlabel.progress import say
from mmlabel.ray_jobs import hear_signals
from mmlabel.repeating import with_record
from mmlabel.settings import (
    CHOSEN_BY_GROUP,
    Settings,
    flatten,
    option_names,
    override_key,
    read_settings,
)
from mmlabel.submitit_jobs import take_jobs_along
from mmlabel.terminal import printable, ready_streams, while_somebody_reads
from mmlabel.training_options import Trainer
from mmlabel.wording import listed

log = logging.getLogger(__name__)

# What the user has asked for, to processes that this one starts: it sets the other for all of them.
_ASKED = "MMLABEL_FULL_ERROR"
_WANTS_TRACEBACK = os.environ.get(_ASKED, os.environ.get("HYDRA_FULL_ERROR", "0")) == "1"
_MAIN_PROCESS = os.getpid()
_OTHERS = ("hydra", "study", "search", "seeds", "jobs", "out", "wandb")  # Hydra's and sweep.py's
_INSTALLED_BY = {
    **dict.fromkeys(("joblib", "submitit_local", "submitit_slurm"), "-e '.[launchers]'"),
    "ray": "hydra-ray-launcher 'joblib<1.6', in an environment without constraints.txt",
}


class Interrupted(Signalled):
    """A signal asked the program to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum
        self.hint = ""


def run_cli(
    main: Callable[[], object], help_text: Callable[[], str] | None = None, *, hint: str = ""
) -> None:
    """Call `main`; a user's mistake ends it with one message and exit code 1.

    With HYDRA_FULL_ERROR=1 the traceback is shown as well. SIGINT, SIGTERM and SIGUSR1 (which
    schedulers send before a job's time is up) end it with a line and exit code 130, 143 or 138.
    `--help` prints `help_text()`; `hint` says what to do after an interruption that has none.
    """
    with while_somebody_reads():
        _answered_run(main, help_text, hint)


def _answered_run(
    main: Callable[[], object], help_text: Callable[[], str] | None, hint: str
) -> None:
    ready_streams()
    if help_text is not None and {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text())
        return
    # Without it Hydra prints tracebacks of its own and exits before the error gets here.
    os.environ |= {"HYDRA_FULL_ERROR": "1", _ASKED: str(int(_WANTS_TRACEBACK))}
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), _interrupt)
    take_jobs_along(sys.argv[1:])
    hear_signals(sys.argv[1:])
    try:
        if help_text is not None:
            parser = get_args_parser()
            flags = [flag for action in parser._actions for flag in action.option_strings]
            chosen, others = parser.parse_known_args(sys.argv[1:])
            refuse_flags(others, flags=flags)
            _check_flags(chosen)
            _check_shown(chosen)
        _check_groups(sys.argv[1:])
        if is_first_process():
            tell_repeated(sys.argv[1:])
        main()
    except Interrupted as stop:
        answer(stop)
        if is_first_process():  # all of them were told
            said = stop.hint or hint
            said = f"mmlabel: interrupted ({stop}){': ' if said else ''}{said}"
            print(said, file=sys.stderr, flush=True)
        sys.exit(stop.exit_code)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        fail(error)
    except UNREADABLE as error:
        fail(of_a_file(error))
    except OSError as error:
        if (problem := of_the_disk(error)) is None:
            raise
        fail(problem)


def queue_hint(arguments: Sequence[str]) -> str:
    """What to do about jobs that an interruption does not reach; "" if there are none.

    Args:
        arguments: of the command line.
    """
    if not any("slurm" in text for text in arguments if text.startswith("hydra/launcher=")):
        return ""
    return "jobs go on in SLURM's queue (squeue --me), and scancel ends them"


def _check_flags(chosen: Namespace) -> None:
    """Refuse those of Hydra's that it refuses by a traceback."""
    commands = ("run", "multirun", "cfg", "shell_completion", "info")
    given = [f"--{name.replace('_', '-')}" for name in commands if getattr(chosen, name)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: give one of them")
    if chosen.resolve and not chosen.cfg:
        raise UserError("--resolve is for --cfg job, which prints the configuration: give both")


def _check_shown(chosen: Namespace) -> None:
    """Refuse, where Hydra shows a configuration itself, the files that a run refuses as hidden."""
    if (chosen.cfg or chosen.info) and not chosen.config_path:
        given = [place for place in [chosen.config_dir] if place]
        given += map(str, _searchpath(chosen.overrides))
        folders = [Path(place.removeprefix("file://")) for place in given if "pkg://" not in place]
        refuse_hidden([CONF, *map(Path.absolute, folders)])


def _check_groups(arguments: Sequence[str]) -> None:
    """Refuse a group that is set to a value, and a value without a name: Hydra has no message.

    Of a place of files that is not there it has one of its own insides, and goes on.
    """
    if said := [problem for text in arguments if (problem := _no_group(text) or _no_place(text))]:
        raise UserError(together(said))


def _no_group(text: str) -> str | None:
    """What to say of a group that is set to a value, or of a value without a name.

    Hydra takes a list of one, too, where files that may set any option may be several.
    """
    group, found, value = text.lstrip("+~").partition("=")
    if found and not group.strip():
        return f"{text}: no option is named before the equals sign: OPTION=VALUE"
    values = r"[-+.\d]+|\{.*|true|false|null|"
    if group in Settings.model_fields or "/" in group:
        values += r"|(.*,)?\s*\[.*"
    alone = [value, *value.split(",")]  # those of a sweep, too
    for name in alone:
        if found and name.startswith("_") and (CONF / group / f"{name}.yaml").is_file():
            return _no_choice(group, name)  # it is a part of others
    if not found or not any(re.fullmatch(values, v.strip(), re.IGNORECASE) for v in alone):
        return None
    if (CONF / group).is_dir() and group not in ("", "search", "study"):
        return (
            f"{text}: {group} is a group of options: give {group}=NAME, one of"
            f" {', '.join(choices(group))}, or one of its options,"
            f" {group.replace('/', '.')}.OPTION=VALUE"
        )
    if group.startswith("hydra/") and not value.strip().startswith("["):
        return f"{text}: this is a group of options: {group}=NAME, or leave it out"
    outer, _, inner = group.rpartition(".")
    if outer and inner in choices(outer) and group not in option_names():
        others = [name for name in choices(outer) if name != inner]
        off = value.strip().lower() in ("false", "null", "no", "off", "0")
        return f"{text}: {inner} is chosen by its group: give {outer}={inner}" + (
            f", or without it {outer}={' or '.join(others)}" if off and others else ""
        )
    return None


def _no_place(text: str) -> str | None:
    places = _searchpath([text]) if text.lstrip("+").startswith("hydra.searchpath=") else ()
    if not isinstance(places, list):
        return None
    folders = [str(place).removeprefix("file://") for place in places]
    gone = [place for place in folders if "://" not in place and not Path(place).is_dir()]
    return f"{text}: there is no folder {listed(gone)}" if gone else None


def refuse_flags(
    given: Sequence[str], own: Sequence[str] = (), *, flags: Sequence[str] = ()
) -> None:
    """Refuse what is no flag of a command, such as --max-epochs.

    Args:
        given: what the command line has of it.
        own: options of the command beside those of a run.
        flags: of the command.
    """
    if said := [_no_flag(text, own, flags) for text in given if text.startswith("-")]:
        raise UserError(together(said))
    if given:
        raise UserError(f"{given[0]}: flags such as -m come before all options, or behind them")


def _no_flag(text: str, own: Sequence[str], flags: Sequence[str]) -> str:
    name = text.lstrip("-").partition("=")[0].replace("-", "_")
    if name in (*own, *option_names(), *Settings.model_fields):
        return f"{text}: options are given without dashes: {name}=VALUE"
    if name in ("config_dir", "cd"):
        return f"{text}: a flag of train.py's; give 'hydra.searchpath=[DIR]', which means the same"
    return mistyped(text, flags) or (
        f"{text}: options are given without dashes, as OPTION=VALUE, and {unknown(name, Settings)}"
    )


def tell_repeated(arguments: Iterable[str]) -> None:
    """Say which options are given several values, of which Hydra takes the last without a word."""
    given: dict[str, list[str]] = {}
    for text in arguments:
        if "=" in text and not text.startswith(("-", "~")):
            given.setdefault(override_key(text), []).append(text.lstrip("+"))
    for *others, last in given.values():
        if before := [text for text in dict.fromkeys(others) if text != last]:
            say(printable(f"{' '.join(before)}: {last} comes after and is what counts"))


_IMPATIENCE = 10.0  # seconds until another signal counts as a new one


def _interrupt(signum: int, _: FrameType | None) -> None:
    if os.getpid() != _MAIN_PROCESS:
        os._exit(128 + signum)  # a forked worker: the main process does the talking
    raise_until_answered(Interrupted(signum), patience=_IMPATIENCE)


def fail(error: Exception) -> NoReturn:
    """End the program with the error's message, unless its traceback is wanted (see `run_cli`)."""
    if not _WANTS_TRACEBACK:
        this = started()
        who = f"mmlabel, process {this.rank}" if this and this.processes > 1 else "mmlabel"
        sys.exit(f"{who}: {printable(explain(error, sys.argv[1:]))}")
    raise error


def explain(error: Exception, given: Sequence[str] = ()) -> str:
    """One message for an error of the user's or of Hydra's, with the nearest right name if any.

    Of wrong names on the command line `given` Hydra tells the first alone; the others are added.
    """
    if isinstance(error, OverrideParseException):
        return _unreadable(dict.fromkeys([error.override, *filter(_is_unreadable, given)]))
    said = _explain(error)
    if not isinstance(error, ConfigCompositionException | MissingConfigException):
        return said
    return together([said, *_wrong_names(given)])


def _is_unreadable(text: str) -> bool:
    """Whether Hydra takes it for an option and cannot read it."""
    try:
        parse([text] if "=" in text and not text.startswith("-") else [])
    except OverrideParseException:
        return True
    return False


def _unreadable(texts: Iterable[str]) -> str:
    """What to say of options that Hydra cannot read."""
    quoted, wrong = {}, {}
    for text in texts:
        name, found, value = text.partition("=")
        plain = name.lstrip("+~")
        if plain.split(".")[0] in Settings.model_fields and plain not in option_names():
            wrong[_no_option(plain)] = None
        quoted[text] = _quoted(name, value) if found else _quoted("OPTION", "VALUE")
    said = (
        f"{', '.join(quoted)} cannot be read as OPTION=VALUE; a value with accents, spaces, commas"
        " or other signs is quoted once for the shell and once more within:"
        f" {' '.join(dict.fromkeys(quoted.values()))}"
    )
    return together([said, *wrong])


def _quoted(name: str, value: str) -> str:
    """An option with a value of any signs, as it is typed: of a list each part is quoted."""
    if found := re.fullmatch(r"\s*\[(.*)\]\s*", value):
        parts = re.findall(r"""\s*("[^"]*"|'[^']*'|[^,]+)""", found[1])
        plain = [re.sub(r"""^(["'])(.*)\1$""", r"\2", part.strip()) for part in parts]
        if not re.search(r"""["']""", "".join(plain)):
            listed_parts = ",".join(f'"{part}"' for part in plain)
            return f"'{name}=[{listed_parts}]'"
    return f"\"{name}='{value}'\"" if "'" not in value else "\"OPTION='VALUE'\""


def _wrong_names(given: Sequence[str]) -> Iterator[str]:
    """What to say of each option, and choice of a group, that there is not."""
    if any("--config-" in text or "searchpath" in text for text in given):
        return  # files of one's own may have more
    known = {*option_names(), *Settings.model_fields, *CHOSEN_BY_GROUP}
    for text in given:
        name, found, value = text.partition("=")
        plain = re.fullmatch(r"[a-z]\w*(\.\w+)*", name)
        if not found or not plain or name.split(".")[0] in _OTHERS:
            continue
        if (CONF / name).is_dir():
            if re.fullmatch(r"\w+", value) and value not in ("null", *choices(name)):
                yield _no_choice(name, value)
        elif name not in known and not any(option.startswith(f"{name}.") for option in known):
            yield _no_option(name)


def _explain(error: Exception) -> str:
    text = str(error)
    if isinstance(error, MissingConfigException):
        if found := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
            return _no_choice(*found.groups(), of_files=error.options or ())
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found[1].split("@")[0]
        folder, slash, group = key.rpartition("/")
        if slash and (CONF / group).is_dir():
            return (
                f"{key}: in a file of the folder {folder} a group is named with a slash before it:"
                f" `{_LINE.replace('GROUP', group)}`"
            )
        if key == "study":
            return "a study is run by sweep.py: python sweep.py study=NAME"
        if key in ("search", "hparams_search"):
            return "a search is run by python -m mmlabel.search, whose --help says how"
        if (CONF / key).is_dir():
            names = ", ".join(choices(key))
            return f"{key} has no default to replace: give +{key}=NAME, one of {names}"
        return _no_option(key)
    if found := re.search(r"Multiple values for (\S+)\. To override a value use", text):
        line = _LINE.replace("GROUP", found[1])
        return f"{found[1]} is chosen before: a file chooses another by `{line}` in its defaults"
    if found := re.search(r"Cannot find primary config '([^']+)'", text):
        return (
            f'there is no configuration "{found[1]}": leave --config-name out, or give --config-dir'
            f" DIR, too, with a file {found[1]}.yaml in it"
        )
    if found := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'\s+1\. To use", text):
        name, values = found.groups()
        return (
            f"{name}={values}: several values, and a run takes one (train.py -m makes a run of"
            f" each); a list is {name}=[{values}], a text with commas is quoted once more:"
            f" \"{name}='{values}'\""
        )
    if "HydraConfig was not set" in text:
        return "${hydra:…} is known to runs of train.py alone: give a value, or leave it out"
    if isinstance(error, HydraException) and error.__cause__ is not None:
        text = f"{text} {error.__cause__}"
    return " ".join(text.split())


def _no_option(name: str) -> str:
    """What to say of one that cannot be given so."""
    if having := _choices_with(name):
        group = name.split(".")[0]
        return (
            f"{name} does not exist with this {group} (only with {group}={', '.join(having)}):"
            " give that, too, or leave it out"
        )
    if name.startswith("trainer."):
        said = trainer_options.problem(name.removeprefix("trainer."), Trainer.model_fields)
        return said or f"{name} is an option of Lightning's own: give it as +{name}=VALUE"
    return unknown(name, Settings)


_LINE = "- override /GROUP: NAME"  # of a file's defaults
UNREADABLE = (YAMLError, ValueError, RecursionError)  # of files, see `of_a_file`


def of_a_file(error: Exception) -> UserError:
    """The message for a file of one's own that Hydra cannot read; raises `error` if it is none."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, RecursionError):
        paths = [f.f_locals["path"] for f in frames if f.f_code.co_name ==
                 "_create_defaults_tree_impl" and "path" in f.f_locals]  # fmt: skip
        if not paths:
            raise error
        return UserError(f"{paths[-1]}.yaml takes itself in by its defaults: leave that out")
    if isinstance(error, ValueError) and not isinstance(error, UnicodeDecodeError):
        paths = [f.f_locals["config_path"] for f in frames if f.f_code.co_name == "load_config"
                 and f.f_globals["__name__"].startswith("hydra.")]  # fmt: skip
        if not paths:
            raise error
        return UserError(f"{paths[-1]}.yaml: {error}; a line of its defaults is `{_LINE}`")
    files = [f.f_locals["full_path"] for f in frames if f.f_code.co_name == "load_config"
             and "full_path" in f.f_locals]  # fmt: skip
    if not files:
        raise error
    return no_yaml(Path(files[-1]), error)


def _choices_with(option: str) -> list[str]:
    """The choices of an option's group whose files have it: "logger.wandb.project" has wandb's.

    [] for one that is of a kind of its group, of which `unknown` speaks.
    """
    if option not in option_names() or any(
        other.chosen_by for other in declared(Settings) if other.name == option
    ):
        return []
    group, _, rest = option.partition(".")
    files = {name: OmegaConf.load(CONF / group / f"{name}.yaml") for name in choices(group)}
    plain = {name: OmegaConf.to_container(file, resolve=False) for name, file in files.items()}
    return [
        name
        for name, content in plain.items()
        if isinstance(content, dict) and rest in flatten(cast(dict[str, Any], content))
    ]


def _no_choice(group: str, name: str, *, of_files: Iterable[str] = ()) -> str:
    """What to say of a choice that there is not; `of_files`: those of files of one's own, too."""
    if group.startswith("hydra/"):
        if package := _INSTALLED_BY.get(name):
            return f"{group}={name} is not installed: pip install {package}"
        return f'there is no {group}="{name}"'
    names = {*choices(group), *(found for found in of_files if not found.startswith("_"))}
    if not names:
        return f'there is no group of options "{group}" to choose {name} from'
    return f'there is no {group}="{name}"{nearest(name, names)}'


# ---- From a command line to settings --------------------------------------------------------


def load_settings(overrides: Sequence[str], *, to_come: Iterable[str] = ()) -> Settings:
    """The settings that a run with these overrides has.

    Args:
        overrides: of a command line.
        to_come: options that will be given on top, with values that are not known yet.

    Raises UserError, or an error of Hydra's that `explain` puts into words.
    """
    check_clone()
    _check_groups(overrides)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = _compose(parse(overrides))
        settings, left_out = read_command_line(
            config, overrides, _searchpath(overrides), to_come=to_come
        )
    for text in left_out:
        _say(text)
    return settings


def _compose(given: Sequence[Override]) -> DictConfig:
    """What Hydra composes of a command line, with little work for one like an earlier one.

    Hydra takes a tenth of a second to put files together, and sets single options last. So what it
    has made of the same choices of the project's own files is kept; a study or a search asks for
    the settings of dozens of command lines that differ in options.
    """
    known = set(option_names())
    options = [item for item in given if item.key_or_group in known and _is_plain(item)]
    others = [item for item in given if item not in options]
    if any("." in item.key_or_group for item in others):  # files of one's own, or an order to keep
        return compose("train", [str(item.input_line) for item in given])
    config = deepcopy(_composed(tuple(str(item.input_line) for item in others)))
    ConfigLoaderImpl._apply_overrides_to_config(options, config)
    return config


def _is_plain(item: Override) -> bool:
    return item.type is OverrideType.CHANGE and not item.package and not item.is_sweep_override()


@cache
def _composed(chosen: tuple[str, ...]) -> DictConfig:
    return compose("train", list(chosen))


@cache
def _say(text: str) -> None:
    """Once, however often the settings are asked for."""
    log.warning(text)


def command_settings(overrides: Sequence[str]) -> Settings:
    """`load_settings`, with UserError for whatever is wrong.

    A checkpoint is refused, which nobody reads.
    """
    for text in overrides:
        if override_key(text) == "ckpt_path":
            raise UserError(
                f"{text}: a checkpoint's options are not looked at here: give those of its run, or"
                " repeat=FOLDER of the run"
            )
    tell_repeated(overrides)
    try:
        return load_settings(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, overrides)) from error
    except UNREADABLE as error:
        raise of_a_file(error) from error


def settings_from(config: DictConfig, overrides: Sequence[str]) -> Settings:
    """Check a composed configuration; `overrides` are those of the command line."""
    searchpath = OmegaConf.select(config, "hydra.searchpath")
    return read_command_line(config, overrides, searchpath or _searchpath(overrides))[0]


def _searchpath(overrides: Sequence[str]) -> Iterable[str]:
    """Where else a command line has configuration files."""
    found = [item.value() for item in parse(overrides) if item.key_or_group == "hydra.searchpath"]
    return cast(list[str], found[0]) if found else []


def read_command_line(
    config: DictConfig,
    overrides: Sequence[str],
    searchpath: Iterable[str],
    *,
    to_come: Iterable[str] = (),
) -> tuple[Settings, list[str]]:
    """Settings, and what they go without of what files set; see `leave_out_of_other_kinds`."""
    given = parse(overrides)
    for item in given:
        _check_override(item)
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    values: dict[str, Any] = OmegaConf.to_container(own, resolve=True)  # type: ignore[assignment]
    _check_packages(values, given)
    files = repository(searchpath)
    check_hidden(files)
    left_out = leave_out_of_other_kinds(values, given, files, to_come=to_come)
    if isinstance(values["repeat"], str | int):  # a folder's name; anything else is refused below
        names = [item.key_or_group for item in given]
        names = [name for name in names if name != "repeat" and not name.startswith("hydra.")]
        values["repeat"] = str(values["repeat"])
        values = with_record(values, names)
    _check_encoding(values)
    return read_settings(values), left_out


def _check_encoding(values: Mapping[str, Any]) -> None:
    """Refuse text that is not UTF-8, such as an old folder's name, which a run cannot write."""
    for name, value in flatten(values).items():
        for text in map(str, value if isinstance(value, list) else [value]):
            if problem := not_utf_8(text):
                raise UserError(f"{name}={text} {problem}, or cd to it and give a relative path")


def _check_packages(values: Mapping[str, Any], given: Sequence[Override]) -> None:
    """Refuse a file whose options became a group of its folder's name: it lacks its first line."""
    for item in given:
        name = item.key_or_group
        if name not in Settings.model_fields and isinstance(values.get(name), dict):
            raise UserError(
                f"{item.input_line}: the first line of that file has to be"
                " # @package _global_, without a byte order mark before it (otherwise its options"
                f' are looked for in a group "{name}", which there is not)'
            )


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them; raises its OverrideParseException for what is none."""
    return OverridesParser.create().parse_overrides(list(overrides))


def assigned(name: str, path: Path | str) -> str:
    """OPTION=PATH as Hydra reads it, whichever signs the path has.

    >>> print(assigned("hydra.run.dir", "outputs/first"))
    hydra.run.dir=outputs/first
    >>> print(assigned("hydra.run.dir", "outputs/first (1)"))
    hydra.run.dir='outputs/first (1)'
    """
    text = str(path)
    if re.fullmatch(r"[\w./~-]+", text, re.ASCII) and "/" in text:
        return f"{name}={text}"
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # a path has no interpolations
    return f"{name}={QuotedString(text, Quote.single).with_quotes()}"


def _check_override(item: Override) -> None:
    """Refuse what would set a group's kind without its options."""
    group = item.key_or_group.split(".")[0]
    if item.key_or_group in CHOSEN_BY_GROUP:
        value = str(item.value())
        hint = "" if value in choices(group) else nearest(value, choices(group))
        raise UserError(f"{item.key_or_group} follows from its group: give {group}={value}{hint}")


def unused(overrides: Sequence[str], idle: Mapping[str, str]) -> dict[str, str]:
    """Those of the command line's overrides that set one of `idle`, see `no_effect`, with why."""
    given = {
        text: item.key_or_group.split("@")[0]
        for text, item in zip(overrides, parse(overrides), strict=True)
    }
    names = {text: key if key in idle else key.split(".")[0] for text, key in given.items()}
    return {text: idle[name] for text, name in names.items() if name in idle}


def refuse_unused(overrides: Sequence[str], idle: Mapping[str, str]) -> None:
    """Raise UserError for overrides that set one of `idle`, see `no_effect`."""
    left = unused(overrides, idle)
    texts = {why: [text for text in left if left[text] == why] for why in left.values()}
    said = [f"{' '.join(same)}: no effect with {why}; leave it out" for why, same in texts.items()]
    if said:
        raise UserError(together(said))
