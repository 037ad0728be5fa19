"""What a run may change of the checkpoint that it goes on from or evaluates, and what it may not.

A score means its rows and its options: whatever the command line says against those of the
checkpoint is refused, naming both. Where things are and how the work is done may change.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmlabel.checkpoint import (
    Checkpoint,
    SplitRecord,
    hashes,
    joined,
    read_checkpoint,
    record_rows,
)
from mmlabel.data.options import Splits
from mmlabel.data.prepare import PreparedData
from mmlabel.errors import UserError
from mmlabel.no_effect import without_effect_there
from mmlabel.options import is_same, shown
from mmlabel.repeating import NAMED, WHOLE, has_changed, refuse_if_nothing_is_set
from mmlabel.settings import (
    CHOSEN_BY_GROUP,
    Settings,
    differing,
    flatten,
    is_among,
    override_key,
    put,
    read_settings,
)
from mmlabel.wording import count

# ---- Options --------------------------------------------------------------------------------

# Of this command line, whether given or not: what it asks for, and where its own files are.
_ASKED = (
    "train", "ckpt_path", "resume", "repeat", "resume_lr", "cache_dir", "data.allow_other_rows",
)  # fmt: skip
_ASKED_EVALUATING = (*_ASKED, "test", "report", "name", "study")
# What a command line may change: where things are and how the work is done, but not its meaning.
_MACHINERY = (
    "test", "report", "name", "study", "logger", "max_megabytes",
    "callbacks.model_summary", "callbacks.device_stats",
    "data.workers", "data.on_bad_image", "data.on_missing", "data.download",
    "features.mode", "features.workers", "features.batch_size",
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy",
    "trainer.profiler", "trainer.detect_anomaly", "trainer.log_every_n_steps",
    "trainer.benchmark", "trainer.deterministic",
)  # fmt: skip
_EVALUATING = (
    *_MACHINERY, "threshold", "threshold_metric", "data.batch_size", "trainer.limit_test_batches",
    "trainer.limit_val_batches", "trainer.precision",
)  # fmt: skip
_RESUMING = (
    *_MACHINERY, "patience", "trainer.max_epochs", "trainer.max_steps", "trainer.max_time",
    "distil.teacher",  # which is told by its content
)  # fmt: skip
_BY_NAME = (
    "rows are told by the names of their pictures, so that other pictures need other names, such as"
    " those of a folder above them (test/1.jpg)"
)
# Where the rows are: they may lie somewhere else, and are compared when they have been read.
_FILES = (
    "data.root", "data.file", "data.pictures", "data.splits", "data.instances", "data.captions",
)  # fmt: skip
# Options of the data that belong to the network: what it sees of a picture.
_SEEN = ("data.image_size", "data.crop", "data.upright")
# Files of these groups may set any option.
_ANY_OPTION = ("experiment", "debug")


def with_checkpoint(
    settings: Settings,
    checkpoint: Checkpoint,
    *,
    overrides: Sequence[str],
    set_in_files: Iterable[str] | None = None,
) -> Settings:
    """The checkpoint's settings, with what the command line may change of them.

    Args:
        settings: of the command line.
        checkpoint: to be evaluated, or resumed from if `settings.train`.
        overrides: of the command line ("lstm.layers=2", "backbone=vgg16").
        set_in_files: the options, and the groups, set by the files that it names
            (experiment=NAME); None: not known, then those that are not their defaults.

    Raises UserError for a given option that has another value than the checkpoint's and may not.
    """
    own, asked = checkpoint.settings.plain(), settings.plain()
    flat_own, flat_asked = flatten(own), flatten(asked)
    files = _files(checkpoint)
    always = _ASKED if settings.train else _ASKED_EVALUATING
    may_change = (*always, *files, *(_RESUMING if settings.train else _EVALUATING))
    other_rows = settings.data.allow_other_rows
    kept = own
    given = _given(settings, flat_asked, flat_own, overrides, set_in_files)
    for name, value in given.items():
        theirs = flat_own.get(name)
        if _suits_any(name, value):
            continue
        rows = name.startswith("data.") and name not in _SEEN
        if "." in name and name.partition(".")[0] not in own and is_among(name, may_change):
            continue  # the checkpoint's model has no use for it, see `told_idle`
        if is_among(name, may_change) or (other_rows and rows):
            put(kept, name, value)
        elif not _is_same(value, theirs):
            raise UserError(
                f"{_as_typed(name, value)}, but the checkpoint was trained with"
                f" {_as_typed(name, theirs)}: leave the option out, or give the same"
                f"{_hint(name, rows=rows, training=settings.train)}"
            )
    for name in always:
        put(kept, name, _get(asked, name))
    asked_for: Collection[str] = ()
    if not settings.train:
        # A file that sets what the checkpoint's run had asked for asks for nothing else.
        keys = set(map(override_key, overrides))
        asked_for = {
            name
            for name, value in given.items()
            if name in keys or not _is_same(value, flat_own.get(name))
        }
        _answer_at_own_threshold(kept, checkpoint, given=asked_for)
    if kept["data"]["name"] != flat_own["data.name"]:
        kept["data"] = asked["data"] | {name.partition(".")[2]: flat_own[name] for name in _SEEN}
    found = read_settings(kept)
    given_null = "threshold" in asked_for and found.threshold is None
    if not settings.train and settings.repeat is None and given_null:
        # In a record, and where it is not given, null is the checkpoint's own.
        found = found.model_copy(update={"threshold": found.answers_at})
    then, now = checkpoint.settings.frozen_precision, found.frozen_precision
    if settings.train and found.features is not None and now != then:
        raise UserError(
            f"features={found.features.mode}: the frozen backbone would go on in {now}, and the"
            f" checkpoint was trained in {then}: leave the option out"
        )
    return found


def told_idle(settings: Settings, overrides: Sequence[str]) -> list[str]:
    """What is to be said of options on a command line that change nothing beside a checkpoint's.

    Args:
        settings: see `with_checkpoint`, whose result they are.
        overrides: of the command line.
    """
    idle = without_effect_there(settings)
    keys = map(override_key, overrides)
    reasons = [idle.get(key) or idle.get(key.partition(".")[0]) for key in keys]
    told = zip(overrides, reasons, strict=True)
    return [f"{text}: no effect with {why}" for text, why in told if why is not None]


def _suits_any(name: str, value: object) -> bool:
    """Whether an option left open what the checkpoint's run has then found."""
    return name == "features.precision" and value == "auto"


def _answer_at_own_threshold(
    kept: dict[str, Any], checkpoint: Checkpoint, *, given: Collection[str]
) -> None:
    """Let a checkpoint be evaluated at its own threshold, unless another one is given."""
    if "threshold" not in given and checkpoint.calibrated:
        kept["threshold"] = None  # whether it was given or found
    if "threshold_metric" not in given and not isinstance(kept["threshold"], str):
        del kept["threshold_metric"]


def _given(
    settings: Settings,
    asked: Mapping[str, Any],
    theirs: Mapping[str, Any],
    overrides: Sequence[str],
    set_in_files: Iterable[str] | None,
) -> dict[str, Any]:
    """The options that a command line sets, and their values, the kinds of groups first.

    Of a group that is chosen ("optimizer=adam") these are the kind and what is not its default;
    raises UserError where that is nothing, and the checkpoint has something else.
    """
    keys, given, chosen = [*map(override_key, overrides)], {}, differing(settings)
    if set_in_files is None and set(keys) & set(_ANY_OPTION):
        set_in_files = chosen
    in_files = list(set_in_files or ())
    groups = {key for key in (*keys, *in_files) if "." not in key}
    for group in groups:
        values = {name: value for name, value in asked.items() if name.startswith(f"{group}.")}
        # A logger that is not chosen is left out by that.
        whole = group in WHOLE
        named = f"{group}.{NAMED.get(group)}"
        changed = [name for name in values if name in chosen or name == named or whole]
        if not whole and not any(name in CHOSEN_BY_GROUP for name in values):
            refuse_if_nothing_is_set(group, changed, values, theirs, (*keys, *in_files))
        given |= {name: values[name] for name in changed}
    for item, key in zip(overrides, keys, strict=True):
        if "." in key:
            # Of a group that the command line's own model does not use there is but the text.
            inner = {name: value for name, value in asked.items() if is_among(name, [key])}
            given |= inner or {key: item.partition("=")[2]}
        elif key in asked:
            given[key] = asked[key]
    given |= {name: asked[name] for name in in_files if name in asked}
    return {name: given[name] for name in _kinds_first(given)}


def _kinds_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: not name.endswith((".name", ".kind")))


def _is_same(value: object, theirs: object) -> bool:
    return is_same(value, theirs) or value == shown(theirs)  # text may stand for any value


def _hint(name: str, *, rows: bool, training: bool) -> str:
    if rows and not training:
        return (
            "; data.allow_other_rows=true evaluates all the same, without the rows that it was"
            " trained on"
        )
    if training and name in ("optimizer.lr", "scheduler.name"):
        return "; resume_lr=RATE goes on at another learning rate"
    return ""


def _as_typed(name: str, value: object) -> str:
    """ "optimizer.name" is what optimizer=NAME sets."""
    group, _, option = name.partition(".")
    return f"{group if option in ('name', 'kind') else name}={shown(value)}"


def _get(values: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values


def _files(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The options that say where the rows are, of those that may change."""
    return _FILES if checkpoint.rows is not None else _FILES[:1]


def check_same_run(settings: Settings, left: Checkpoint) -> None:
    """Raise UserError if a folder's own checkpoint is not of the run that is asked for.

    With `resume` the same command goes on: beside `with_checkpoint`, all of its options count,
    those that it does not name included.

    Args:
        settings: of the command line, see `as_begun`.
        left: what an interrupted run has left in the run's folder.
    """
    asked, theirs = flatten(settings.plain()), flatten(left.settings.plain())
    for options in (asked, theirs):
        options["ckpt_path"] = _begun_with(options["ckpt_path"], left)
    may_differ = (*_RESUMING, *_files(left), "resume", "repeat", "cache_dir")
    for name in _kinds_first(asked | theirs):
        value, then = asked.get(name), theirs.get(name)
        if _suits_any(name, value) or is_among(name, may_differ):
            continue
        if not _is_same(value, then):
            raise UserError(
                f"{_as_typed(name, value)}, but the checkpoint was trained with"
                f" {_as_typed(name, then)}: resume=true goes on with what the same command has"
                f" left, and {left.path} is another run's; give the options of that run, or choose"
                " another folder"
            )


def as_begun(
    settings: Settings, *, overrides: Sequence[str], set_in_files: Iterable[str] | None
) -> Settings:
    """The settings that a command with `resume` had when it was given for the first time.

    Those of the checkpoint that it names, if it names one: what the run has left, or finished with,
    is of these. One that is not there any more tells nothing.

    Args:
        settings, overrides, set_in_files: see `with_checkpoint`.
    """
    if settings.ckpt_path is None or settings.repeat is not None:
        return settings
    path = Path(os.path.expanduser(settings.ckpt_path))
    if not path.is_file():
        return settings
    first = read_checkpoint(path)
    return with_checkpoint(settings, first, overrides=overrides, set_in_files=set_in_files)


def _begun_with(ckpt_path: str | None, left: Checkpoint) -> str | None:
    """What a run began with, None if with nothing: going on with `left` is no other beginning."""
    if ckpt_path is None:
        return None
    path = Path(os.path.expanduser(ckpt_path)).resolve()
    return None if path == left.path.resolve() else str(path)


def check_length(settings: Settings, checkpoint: Checkpoint) -> None:
    """Raise UserError if a resumed run cannot have the epochs that it is asked for."""
    trainer, planned = settings.trainer, checkpoint.settings.trainer
    if trainer.max_epochs is not None and trainer.max_epochs < checkpoint.epochs:
        raise UserError(
            f"trainer.max_epochs={trainer.max_epochs}, but {checkpoint.path} has trained"
            f" {count(checkpoint.epochs, 'epoch')} already: give more"
        )
    schedule = settings.scheduler.name if settings.scheduler else "none"
    if schedule not in ("one_cycle", "cosine") or settings.resume_lr is not None:
        return
    for name in ("max_epochs", "max_steps"):
        if getattr(trainer, name) != getattr(planned, name):
            rate = settings.optimizer.lr if settings.optimizer else 0
            raise UserError(
                f"trainer.{name}={shown(getattr(trainer, name))}, but scheduler={schedule} was laid"
                f" out for trainer.{name}={shown(getattr(planned, name))}, and its rate ends there:"
                f" resume with the same, or add resume_lr={rate:g} (or another rate) for a fresh"
                f" {schedule} over the epochs that are left"
            )


def check_teachers(resumed: Checkpoint | None, teachers: str | None) -> None:
    """Raise UserError if a resumed run has other teachers now; see `distillation.in_words`."""
    if resumed is not None and (then := resumed.pretrained.get("teacher")) != teachers:
        raise UserError(
            f"distil.teacher: {resumed.path} has learned from {then or 'none'}, and would go on"
            f" with {teachers or 'none'}: give the same checkpoints, wherever they are"
        )


# ---- Rows -----------------------------------------------------------------------------------


def check_data_is_there(settings: Settings, run: str) -> None:
    """See that the data which a checkpoint or a record names is there; raises UserError if not.

    Args:
        settings: with that data, unless the command line has named other.
        run: the checkpoint or the folder.
    """
    data = settings.data.model_dump()
    option = "file" if settings.data.name == "csv" else "root"
    place = data.get(option)
    if place is None or data.get("download") or Path(os.path.expanduser(place)).exists():
        return
    raise UserError(
        f"data.{option}={place}, the data of {run}, is not there: call this in the folder in which"
        f" the run was started, or say where it is now (data={settings.data.name}"
        f" data.{option}=PLACE)"
    )


def check_rows(checkpoint: Checkpoint, prepared: PreparedData, settings: Settings) -> None:
    """See that the data's splits are those of the checkpoint's run.

    With data.allow_other_rows they may differ: then the rows that the run was trained or selected
    on are left out of what is scored, and it is noted.

    Raises UserError where they differ and may not, or nothing is left to score.
    """
    if checkpoint.rows is None:
        prepared.note(
            "this checkpoint is of an earlier version and does not say which rows it was trained"
            " on: the scores are of other rows only if the data and its splits are unchanged"
        )
        return
    changed = list(_changed(record_rows(prepared), checkpoint.rows, settings))
    if not changed:
        if not settings.train:
            _note_teachers(checkpoint, prepared)
        return
    if not settings.data.allow_other_rows:
        hint = (
            "restore it"
            if settings.train
            else "data.allow_other_rows=true evaluates all the same, without the rows that it was"
            " trained on"
        )
        if not settings.train and isinstance(settings.data, Splits) and not settings.data.splits:
            hint += "; with data.splits=test, too, all the others are scored, not one split alone"
        raise UserError(
            f"{_elsewhere(checkpoint.settings, settings)}the data's {_listed(changed)} are not"
            f" those that {checkpoint.path} was trained, selected and tested with; {hint}"
        )
    _leave_out_known(checkpoint, prepared)
    if settings.test and not len(prepared.rows["test"]):
        raise UserError(
            f"no row is left in the test split that {checkpoint.path} was not trained or selected"
            f" on: {_BY_NAME}"
        )


def check_inputs(
    checkpoint: Checkpoint,
    inputs: Mapping[str, str],
    prepared: PreparedData,
    settings: Settings,
) -> None:
    """See that a run reads what the checkpoint's run has read, beside its rows.

    Weights may be others (a newer version of a library has them digested otherwise), and an
    evaluation may look at other pictures on purpose; then it is noted.

    Raises UserError for a resumed run with other pictures, words or order of labels.
    """
    then = checkpoint.inputs
    if then is None:
        return
    other_rows = any(then.get(name) != inputs[name] for name in ("data", "splits"))
    if settings.data.allow_other_rows and other_rows:
        return  # they have other pictures; without that option `check_rows` has seen to the rows
    looked_at = (
        ("pictures", "words", "label order", *_WEIGHTS)
        if settings.train
        else ("pictures", "detector")
    )
    for name in looked_at:
        if then.get(name, inputs.get(name)) == inputs.get(name):
            continue
        said = f"{has_changed(name)} since {checkpoint.path} was written"
        if settings.train and name not in _WEIGHTS:
            raise UserError(f"{said}: restore it, or begin a new run")
        prepared.note(said)


_WEIGHTS = ("backbone", "detector")


def _changed(
    ours: Mapping[str, SplitRecord], theirs: Mapping[str, SplitRecord], settings: Settings
) -> Iterable[str]:
    for split in ours:
        if split not in theirs or ours[split].digest != theirs[split].digest:
            yield f"{split} rows"
        elif "caption" in settings.inputs and ours[split].captions != theirs[split].captions:
            yield f"captions of the {split} rows"


def _elsewhere(own: Settings, settings: Settings) -> str:
    """What is said of files that are not the checkpoint's."""
    before, now = flatten(own.plain()), flatten(settings.plain())
    moved = [name for name in _FILES if name in now and now[name] != before.get(name)]
    if not moved:
        return "the files have changed: "
    said = [
        f"{name}={shown(now[name])} (the checkpoint's: {shown(before.get(name))})" for name in moved
    ]
    return f"{', '.join(said)}: "


def _note_teachers(checkpoint: Checkpoint, prepared: PreparedData) -> None:
    """Say where a network has learned from one that knew, or may have known, its test rows."""
    if checkpoint.taught is None:
        if "teacher" in checkpoint.pretrained:
            prepared.note(
                f"{checkpoint.path} has learned from a teacher that does not tell which rows it was"
                " trained on: if these were among them, the scores are too high"
            )
        return
    ids = hashes(prepared.annotations.ids[row] for row in prepared.rows["test"])
    known = int(np.isin(ids, np.concatenate([*map(np.asarray, checkpoint.taught.values())])).sum())
    if known:
        prepared.note(
            f"{checkpoint.path} has learned from a teacher that was trained or selected on {known}"
            f" of these {count(len(ids), 'test row')}: the scores may be too high"
        )


def _leave_out_known(checkpoint: Checkpoint, prepared: PreparedData) -> None:
    """Leave out what the checkpoint, or a teacher of it, was trained or selected on."""
    assert checkpoint.rows is not None
    own = {split: record.ids for split, record in checkpoint.rows.items()}
    seen = joined([own, checkpoint.taught or {}])
    trained = np.flatnonzero(
        np.isin(hashes(prepared.annotations.ids), np.concatenate([*seen.values()]))
    )
    scored = np.concatenate([prepared.rows["val"], prepared.rows["test"]])
    left_out = len(np.intersect1d(trained, scored))
    taught = ", or a teacher of it," if checkpoint.taught else ""
    prepared.note(
        f"data.allow_other_rows: scored on other rows than the checkpoint's run; of {len(scored)}"
        f" validation and test rows, {left_out} that it{taught} was trained or selected on are left"
        " out" + (f": {_BY_NAME}" if left_out else "")
    )
    for split in ("val", "test"):
        prepared.rows[split] = np.setdiff1d(prepared.rows[split], trained)
    _note_teachers(checkpoint, prepared)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
