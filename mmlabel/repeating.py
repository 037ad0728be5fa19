"""`repeat=FOLDER`: a finished run once more from its record, and what is not the same this time."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlabel.errors import UserError
from mmlabel.former_settings import completed
from mmlabel.options import declared, is_same, shown
from mmlabel.run_folder import SUMS, damage, failure, read_results
from mmlabel.settings import (
    MISSING,
    OPTIONAL,
    Settings,
    flatten,
    is_among,
    kinds_of,
    put,
    read_settings,
)
from mmlabel.wording import listed

# Of this command line, whether given or not: where things are on this machine, whose run it is, and
# whether it goes on in its folder.
_OWN = ("repeat", "cache_dir", "study", "resume")
# Groups whose files are taken whole; of others without kinds, what is not its default.
WHOLE = ("logger", "callbacks")
# What the name of a group's file says, where it tells no kinds apart: features=off.
NAMED: dict[str, str] = {"features": "mode"}


def read_record(folder: str) -> dict[str, Any]:
    """results.json of the run to be repeated.

    Raises UserError for a run that has not finished or whose files have changed since.
    """
    path = Path(os.path.expanduser(folder))
    if not (path / SUMS).is_file():
        why = failure(path) if path.is_dir() else "there is no such folder"
        raise UserError(f"repeat={folder}: give the folder of a finished run ({why})")
    if name := damage(path):
        raise UserError(f"repeat={folder}: {path / name} is not as the run wrote it")
    return read_results(path)


def with_record(asked: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """The settings of the run that `repeat` names, with what the command line gives besides.

    Args:
        asked: the command line's whole configuration, plain and nested.
        given: the options and groups that the command line sets ("lstm.layers", "optimizer").

    Raises UserError for what cannot be given beside a record.
    """
    kept = completed(read_record(asked["repeat"])["settings"])
    for name in _OWN:
        kept[name] = asked[name]
    for group in OPTIONAL:  # that another model may need
        kept[group] = kept.get(group) or asked.get(group)
    flat = flatten(asked)
    for name in sorted(given, key=lambda name: "." in name):
        if "." not in name and name not in Settings.model_fields and name not in asked:
            # A file that may set any option: which of them are meant cannot be told.
            raise UserError(
                f"{name}=… with repeat={asked['repeat']}: a record has all of its options; leave"
                " the file out, and give single options"
            )
        if isinstance(asked.get(name), Mapping):
            _choose(kept, asked[name], name, given)
            continue
        values = {option: flat[option] for option in flat if is_among(option, [name])}
        if not values:
            raise UserError(f"{name} cannot be taken away beside repeat=FOLDER: give it a value")
        for option, value in values.items():
            put(kept, option, value)
    return kept


def _choose(
    kept: dict[str, Any], asked: Mapping[str, Any], group: str, given: Sequence[str]
) -> None:
    """Take a group that was chosen by its name: another kind as a whole, else what it changes."""
    theirs = kept.get(group)
    kinds = kinds_of(group)
    if group in WHOLE or not theirs or any(asked.get(key) != theirs.get(key) for key in kinds):
        kept[group] = dict(asked)
        return
    kind = str(asked.get(kinds[0])) if kinds else None
    defaults = {
        option.name: MISSING if option.required else option.default
        for option in declared(Settings)
        if option.kind is None or kind in option.kind.split("|")
    }
    values = flatten(asked, f"{group}.")
    changed = {
        name: value
        for name, value in values.items()
        if not (value == MISSING or is_same(value, defaults.get(name, MISSING)))
        or name == f"{group}.{NAMED.get(group)}"
    }
    if not kinds:
        refuse_if_nothing_is_set(group, changed, values, flatten(theirs, f"{group}."), given)
    for name, value in changed.items():
        put(kept, name, value)


def refuse_if_nothing_is_set(
    group: str,
    changed: Collection[str],
    asked: Mapping[str, Any],
    theirs: Mapping[str, Any],
    given: Sequence[str],
) -> None:
    """Raise UserError for a group's file that sets nothing, beside a run that is not as it is.

    Of a group without kinds what a file sets to its default is not taken (trainer=cpu sets no
    number of epochs), which leaves nothing of trainer=default.

    Args:
        group: that was chosen by the name of a file.
        changed: the options that the file sets to something else than their defaults.
        asked: all options of the group, by their names.
        theirs: those of the run that is repeated, gone on with or evaluated.
        given: the options and groups that the command line sets.
    """
    own = [name for name in asked if name not in given]
    others = [name for name in own if name in theirs and not is_same(asked[name], theirs[name])]
    if others and not [name for name in own if name in changed]:
        there = listed([f"{name}={shown(theirs[name])}" for name in others], most=3)
        instead = " ".join(f"{name}={shown(asked[name])}" for name in others[:3])
        raise UserError(
            f"{group}=…: its file sets nothing but defaults, and the run has {there}: leave it out,"
            f" or give single options ({instead})"
        )


def not_the_same(record: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between a record and a run that has begun, one sentence each.

    Args:
        record: results.json of the former run.
        now: of this one "settings", "versions", "commit", "machine" and "inputs", as a record's.
    """
    lines = []
    then = flatten(read_settings(completed(record["settings"])).plain())
    for name, value in flatten(now["settings"]).items():
        if name.split(".")[0] not in _OWN and not is_same(value, then.get(name, _ABSENT)):
            was = shown(then[name]) if name in then else "not there"
            lines.append(f"{name}={shown(value)} (then {was})")
    versions = record.get("versions", {})
    # Earlier versions told neither Pillow's version nor those of the extras.
    absent = "not installed" if "pillow" in versions else "not recorded"
    for name in now["versions"] | versions:
        version, was = now["versions"].get(name), versions.get(name)
        if version != was:
            lines.append(f"{name} {version or 'not installed'} (then {was or absent})")
    for name, what in (("commit", "the code's commit is"), ("machine", "the machine is")):
        # Earlier versions wrote "1 threads".
        then_there = str(record.get(name)).replace(", 1 threads", ", 1 thread")
        if now[name] != then_there or now[name] is None:
            lines.append(f"{what} {now[name] or 'not known'} (then {then_there})")
    known = record.get("inputs")
    if known is None:
        lines.append("the record, of an earlier version, has no digests of what the run read")
        return lines
    # One that has gone on in its own folder has read its own checkpoint, and not what that holds.
    went_on = [run["inputs"] for run in (record, now) if _went_on(run)]
    for name in now["inputs"] | known:
        # A record of an earlier version has none of these.
        later = name in (_READY, DETECTOR_ALONE) and name not in known
        own = went_on and (name == "checkpoint" or any(name not in read for read in went_on))
        if now["inputs"].get(name) != known.get(name) and not later and not own:
            lines.append(has_changed(name))
    return list(dict.fromkeys(lines))


def _went_on(run: Mapping[str, Any]) -> bool:
    return "checkpoint" in run["inputs"] and run["settings"].get("ckpt_path") is None


def has_changed(name: str) -> str:
    """What is said of something that runs read, by its name among a record's inputs."""
    return f"{_READ.get(name, name)} changed"


_ABSENT = object()
_READY = "ready-made vectors"
DETECTOR_ALONE = "detector without versions"  # of the libraries that run it
_READ = {
    "data": "the data (ids, captions or labels) has",
    "splits": "the rows of the splits have",
    "pictures": "the content of the pictures has",
    "label order": "the order of the labels in the file has",
    "words": "the words made of the captions (tokens, WordNet's lemmas) have",
    "vectors": "the word vectors have",
    _READY: "the word vectors have",
    "text transformer": "the text transformer has",
    "backbone": "the backbone's weights have",
    "detector": "the detector has",
    DETECTOR_ALONE: "the detector has",
    "checkpoint": "the checkpoint has",
    "teacher": "the teacher has",
}


def scores_compared(record: Mapping[str, Any], scores: Mapping[str, float]) -> list[str]:
    """The scores that differ from the record's, in any digit, in words."""
    then = record["scores"]
    return [
        f"{name} {scores.get(name)} (then {then.get(name)})"
        for name in sorted(scores.keys() | then.keys())
        if scores.get(name) != then.get(name)
    ]
