"""The runs of a study: what each is given, where it goes, which have finished."""

import logging
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mmlabel import __version__
from mmlabel.cache import file_digest, fingerprint
from mmlabel.errors import UserError
from mmlabel.options import declared, is_same, shown
from mmlabel.repeating import has_changed
from mmlabel.run_folder import finished, read_results
from mmlabel.settings import Settings, differing, flatten, is_among, override_key
from mmlabel.study.definition import Study, Variant
from mmlabel.wording import listed

log = logging.getLogger(__name__)

# Settings that say how a run is recorded or how fast it is read, and do not change its result.
RECORDING = (
    "name",
    "study",
    "report",
    "resume",
    "cache_dir",
    "max_megabytes",
    "logger",
    "callbacks.model_summary",
    "callbacks.device_stats",
    "data.workers",
    "data.download",
    "features.workers",
    "trainer.profiler",
    "trainer.log_every_n_steps",
)

_MODELS = ("detector.weights", "embedding.model", "caption.model")  # that may be folders

MISSING = object()


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        variant: whose run it is.
        seed: of the run.
        overrides: all that the run is given, as train.py takes it.
        folder: of the run, named after the settings that decide its result.
        settings: of the run.
    """

    variant: Variant
    seed: int
    overrides: list[str]
    folder: Path
    settings: Settings

    @property
    def title(self) -> str:
        """For lines of progress and messages."""
        return f"{self.variant.name}, seed {self.seed}"


@dataclass(frozen=True)
class Configurations:
    """How overrides become settings, for `plan`.

    Attributes:
        settings_of: the settings that overrides give.
        complete: recorded settings, plain, with what they ran under where they lack an option;
            raises UserError if they cannot be understood any more.
        unused: those of some overrides that have no effect beside the others.
        data_key: stands for the content of the data that settings name.
        read: digests of the data that settings name, as a run records them; without those that
            cannot be told.
    """

    settings_of: Callable[[list[str]], Settings]
    complete: Callable[[dict], dict]
    unused: Callable[[list[str]], set[str]]
    data_key: Callable[[Settings], str]
    read: Callable[[Settings], Mapping[str, str]]


def compared_keys(study: Study) -> set[str]:
    """The options and groups in which the variants differ."""
    return {override_key(item) for variant in study.variants for item in variant.overrides}


def job_overrides(
    study: Study,
    variant: Variant,
    overrides: Sequence[str],
    unused: Callable[[list[str]], set[str]],
) -> list[str]:
    """A variant's overrides without seed: fixed ones, the command line's, its own.

    Of two that set the same option the later one counts; Hydra would not accept both. Those that
    have no effect for the variant are left out, unless they are its own, and so are options that
    do not exist with its own choices ("embedding.name" where it has "embedding=word2vec").
    """
    merged = _merged(study, variant, overrides)
    given = [item for item in merged if not _of_another_kind(override_key(item), variant)]
    idle = unused(given) - set(variant.overrides)
    return [item for item in given if item not in idle]


def _text(name: str) -> str:
    """A name as Hydra reads it; unquoted true is no text, and 1e3 is 1000.0."""
    plain = re.fullmatch(r"(?!(?i:true|false|null|nan|inf)$)[A-Za-z_][\w.-]*|\d+", name)
    return name if plain else f"'{name}'"


def _of_another_kind(name: str, variant: Variant) -> bool:
    """Whether an option exists with other kinds of its group, but not with the variant's own."""
    group = name.split(".")[0]
    chosen = {item.partition("=")[2] for item in variant.overrides if override_key(item) == group}
    kinds: dict[str, set[str]] = {}
    for option in declared(Settings):
        if option.chosen_by and option.name.startswith(f"{group}."):
            kinds.setdefault(option.name, set()).update(option.chosen_by.split("|"))
    if not chosen or name not in kinds:
        return False
    return not chosen & kinds[name] and chosen <= set().union(*kinds.values())


def _merged(study: Study, variant: Variant, overrides: Sequence[str]) -> list[str]:
    merged = {override_key(item): item for item in [*study.fixed, *overrides, *variant.overrides]}
    return list(merged.values())


def plan(
    study: Study,
    *,
    seeds: int,
    overrides: Sequence[str],
    runs: Path,
    configurations: Configurations,
) -> list[Job]:
    """Every run of the study, those that have finished included.

    Args:
        study: what to run.
        seeds: how many seeds; they are 0, 1, ...
        overrides: the command line's, for every variant.
        runs: the folder that holds the runs of all studies.
        configurations: how overrides become settings.

    Raises:
        UserError: an override sets what the variants differ in, or two variants are the same.
    """
    for key in sorted({override_key(item) for item in overrides} & compared_keys(study)):
        raise UserError(f'{key} is what the study "{study.name}" compares: leave it out')
    jobs: list[Job] = []
    owners: dict[str, str] = {}
    others: list[str] = []
    given_to = _given_to_all(study, overrides, configurations.unused)
    for variant in study.variants:
        given = given_to[variant.name]
        for item in _merged(study, variant, overrides):
            if item not in given:
                log.info("variant %s: %s has no effect there and is left out", variant.name, item)
        names = [f"study.name={_text(study.name)}", f"study.variant={_text(variant.name)}"]
        settings = configurations.settings_of(given)
        _check_trains_and_tests(variant, settings)
        _check_seeds(variant, given, configurations.settings_of)
        data = configurations.data_key(settings)
        for seed in range(seeds):
            settings = settings.model_copy(update={"seed": seed})
            key = run_key(differing(settings), _files(settings), data)
            owner = owners.setdefault(key, variant.name)
            if owner != variant.name:
                raise UserError(
                    f'study "{study.name}": variants {owner} and {variant.name} have the same'
                    " settings"
                )
            folder, passed = _folder(runs / key, settings, configurations)
            jobs.append(Job(variant, seed, [*given, f"seed={seed}", *names], folder, settings))
            others += passed
    for change in dict.fromkeys(others):
        log.info(
            "%d finished runs are not those of this study any more, as %s: they stay in %s, and"
            " the study makes its own",
            others.count(change),
            change,
            runs,
        )
    return jobs


def _given_to_all(
    study: Study, overrides: Sequence[str], unused: Callable[[list[str]], set[str]]
) -> dict[str, list[str]]:
    """`job_overrides` of each variant, by its name.

    A mistake in all of them is the command line's; one of some is said with the first one's name.
    """
    given, problems = {}, {}
    for variant in study.variants:
        try:
            given[variant.name] = job_overrides(study, variant, overrides, unused)
        except UserError as error:
            problems[variant.name] = error
    if problems:
        name, error = next(iter(problems.items()))
        same = len(problems) == len(study.variants) and len(set(map(str, problems.values()))) == 1
        raise UserError(str(error) if same else f"variant {name}: {error}") from error
    return given


def _check_trains_and_tests(variant: Variant, settings: Settings) -> None:
    """Refuse options, of a file for instance, without which a run has no scores for the study."""
    trainer = settings.trainer
    wrong = {
        "train": not settings.train,
        "test": not settings.test,
        "ckpt_path": settings.ckpt_path is not None,
        "repeat": settings.repeat is not None,
        "trainer.fast_dev_run": bool(trainer.fast_dev_run),
        "trainer.limit_test_batches": trainer.limit_test_batches == 0,
    }
    given = flatten(settings.plain())
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        raise UserError(
            f"variant {variant.name}: {name}={shown(given[name])}: a study trains and tests each of"
            " its runs; leave it out, or the file that sets it (debug=NAME, experiment=NAME)"
        )


def _check_seeds(
    variant: Variant, given: Sequence[str], settings_of: Callable[[list[str]], Settings]
) -> None:
    """Refuse options that follow the seed (data.split_seed=${seed}), which are averaged over."""
    if not any("${" in item or override_key(item) in ("experiment", "debug") for item in given):
        return
    one, other = (flatten(settings_of([*given, f"seed={seed}"]).plain()) for seed in (0, 1))
    follow = [name for name in one if name != "seed" and one[name] != other.get(name)]
    if follow:
        raise UserError(
            f"variant {variant.name}: {listed(follow)} would change with the seed, and a study"
            " averages over runs that differ in their seed alone; give one value"
        )


def run_key(differing: Mapping[str, object], files: Mapping[str, str], data: str) -> str:
    """Changes with everything that a run's result depends on.

    What is left at its default is no part of it, so that a run is found again after an option has
    been added; whether the defaults are still those of the run is for `changes` to say.

    Args:
        differing: the options that differ from their defaults.
        files: digests of the files that options name.
        data: stands for the content of the data.
    """
    kept = {name: value for name, value in differing.items() if not is_recording(name)}
    return fingerprint(__version__, kept, dict(files), data)


def _files(settings: Settings) -> dict[str, str]:
    """Digests of the files that options name, and of models that are folders."""
    digests = {}
    for name, value in flatten(settings.plain()).items():
        for number, each in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(each, str) or is_recording(name):
                continue
            path = Path(os.path.expanduser(each))
            if path.is_file():
                digests[f"{name}{number or ''}"] = file_digest(path)
            elif name in _MODELS and path.is_dir():
                files = sorted(file for file in path.rglob("*") if file.is_file())
                digests[name] = fingerprint(
                    [(str(file.relative_to(path)), file_digest(file)) for file in files]
                )
    return digests


def is_recording(name: str) -> bool:
    """Whether an option says how a run is recorded or read, and does not change its result."""
    return is_among(name, RECORDING)


def _folder(
    wanted: Path, settings: Settings, configurations: Configurations
) -> tuple[Path, list[str]]:
    """The run's folder, and how finished runs that are in its place differ from it.

    Those keep theirs; the run gets the first of NAME, NAME-2, ... that is free or its own.
    """
    passed: list[str] = []
    folder = wanted
    while finished(folder):
        record = read_results(folder)
        changed = changes(record["settings"], settings.plain(), configurations.complete)
        # Not in the run's key, so that runs of a version that did not look at them are found again.
        seen = record.get("inputs", {})
        for name in ("pictures", "label order"):
            if name in seen and configurations.read(settings).get(name, seen[name]) != seen[name]:
                changed.append(has_changed(name))
        if not changed:
            break
        passed.append(", ".join(changed))
        folder = wanted.with_name(f"{wanted.name}-{len(passed) + 1}")
    return folder, passed


def changes(recorded: dict, wanted: dict, complete: Callable[[dict], dict]) -> list[str]:
    """How a recorded run's settings differ from those wanted, in words; [] if it is the same run.

    Args:
        recorded: of results.json; what it lacks is completed.
        wanted: the resolved configuration of a job.
        complete: see `Configurations`.
    """
    try:
        then = flatten(complete(recorded))
    except UserError as error:
        return [f"their settings are no longer understood ({error})"]
    now = flatten(wanted)
    return [
        f"{name} was {then.get(name, 'not there')} and is now {now.get(name, 'not there')}"
        for name in sorted(then.keys() | now.keys())
        if not is_recording(name) and not is_same(then.get(name, MISSING), now.get(name, MISSING))
    ]


def commands(
    study: Study,
    *,
    seeds: int,
    overrides: Sequence[str],
    unused: Callable[[list[str]], set[str]],
) -> list[str]:
    """The `python train.py -m` commands that make the same runs as the study.

    One if the variants differ in a single option, else one for each variant.
    """
    lines = [job_overrides(study, variant, overrides, unused) for variant in study.variants]
    own = [variant.overrides for variant in study.variants]
    shared = [
        [item for item in line if item not in items] for line, items in zip(lines, own, strict=True)
    ]
    options = {items[0].split("=", 1)[0] for items in own if len(items) == 1}
    values = [items[0].split("=", 1)[1] for items in own if len(items) == 1]
    if (
        len(values) == len(own)
        and len(options) == 1
        and all(line == shared[0] for line in shared)
        and not any(set(value) & set(",()[]{}'\"") for value in values)
    ):
        lines = [[*shared[0], f"{options.pop()}={','.join(values)}"]]
    seed = f"seed={','.join(map(str, range(seeds)))}"
    return [shlex.join(["python", "train.py", "-m", *line, seed]) for line in lines]


def seconds_needed(jobs: Sequence[Job], pending: Sequence[Job], runs: Path) -> float | None:
    """How long the pending runs will take one after the other, judging by those that have finished.

    A run counts as long as the median of its variant's, of its study's or of all, whichever is the
    first to be known; None if nothing has finished.
    """
    known: dict[str, list[float]] = {}
    for job in jobs:
        if finished(job.folder):
            known.setdefault(job.variant.name, []).append(_seconds(job.folder))
    others = [time for times in known.values() for time in times]
    others = others or [_seconds(folder) for folder in runs.glob("*") if finished(folder)]
    if not others and pending:
        return None
    return sum(median(known.get(job.variant.name, others)) for job in pending)


def _seconds(folder: Path) -> float:
    return read_results(folder)["seconds"]["total"]
