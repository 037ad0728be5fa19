"""See, clean, check, fill, merge and write out the stores of features and scores."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from mmlabel.cache import usual_cache
from mmlabel.commands import OPTIONS, Parser, check_name, path_of, run_command
from mmlabel.data.digests import forget_digests
from mmlabel.data.row_store import (
    RowStore,
    StoreInfo,
    StoreUnavailable,
    key_of,
    megabytes_of,
    open_store,
    remove_store,
    shut,
    stores,
    without_description,
)
from mmlabel.errors import UserError, of_the_disk
from mmlabel.large_imports import import_large
from mmlabel.progress import say
from mmlabel.terminal import printable
from mmlabel.wording import count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    # merge and fill make it, and the one by default may not be there yet.
    read = options.command in ("list", "prune", "verify", "export")
    if read and options.cache_dir != usual_cache() and not options.cache_dir.is_dir():
        raise UserError(f"--cache-dir {options.cache_dir}: there is no such folder")
    try:
        for folder in shut(options.cache_dir) if read else ():
            say(f"{printable(str(folder))} is passed over: {os.strerror(errno.EACCES)}")
        return _COMMANDS[options.command](options)
    except StoreUnavailable as error:
        raise UserError(str(error)) from error
    except BrokenPipeError:
        raise  # nobody reads what is printed, see `run_command`
    except OSError as error:
        other = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise of_the_disk(error) or UserError(other) from error


def _parser() -> argparse.ArgumentParser:
    common = Parser(add_help=False)
    common.add_argument(
        "--cache-dir",
        type=path_of,
        default=usual_cache(),
        help="the cache folder (default: %(default)s)",
    )
    parser = Parser(prog="python -m mmlabel.features", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[common], help="show the stores, last used first")
    prune = commands.add_parser("prune", parents=[common], help="remove stores")
    which = prune.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="every store")
    which.add_argument(
        "--older-than", type=_days, metavar="DAYS", help="stores not used for this many days"
    )
    which.add_argument("--key", help=_KEY)
    one = Parser(add_help=False)
    one.add_argument("--key", help=f"{_KEY}; needed where there are several")
    commands.add_parser(
        "verify",
        parents=[common, one],
        help="hold every row against its checksum; exit code 1 if any is damaged",
    )
    merge = commands.add_parser(
        "merge",
        parents=[common, one],
        help="add the rows of other stores of the same key, each checked first",
    )
    merge.add_argument(
        "parts", nargs="+", type=path_of, metavar="PART", help="a store's folder, or a cache folder"
    )
    export = commands.add_parser(
        "export", parents=[common, one], help="write a backbone's features with their ids"
    )
    export.add_argument(
        "out",
        type=_npz_or_npy,
        metavar="OUT",
        help="OUT.npz, or OUT.npy with OUT.csv beside it: new files, or those of an earlier export",
    )
    export.add_argument(
        "--pictures",
        type=path_of,
        metavar="DIR",
        help="ids are the names of the pictures in this folder, and only their rows are written; "
        "without it, the SHA-256 of the picture's file",
    )
    fill = commands.add_parser(
        "fill",
        help="compute a run's features, or a part of them, without training",
        description="Options are those of train.py: data=usyd data.root=DIR backbone=vgg16 …",
    )
    fill.add_argument("options", nargs="*", metavar=OPTIONS, help="as train.py takes them")
    fill.add_argument(
        "--part",
        type=_part,
        default=(0, 1),
        metavar="I/N",
        help="the I-th of N parts of the pictures, such as 1/4: for several machines",
    )
    return parser


_KEY = "the store whose name, as listed, begins like this"


def _part(text: str) -> tuple[int, int]:
    """ "1/4" as (0, 4)."""
    number, _, of = text.partition("/")
    if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return int(number) - 1, int(of)
    raise argparse.ArgumentTypeError(f'give I/N with I from 1 to N, such as 1/4, not "{text}"')


def _npz_or_npy(text: str) -> Path:
    if Path(text).suffix not in (".npz", ".npy"):
        raise argparse.ArgumentTypeError(f'give a name that ends in .npz or .npy, not "{text}"')
    return path_of(text)


def _days(text: str) -> timedelta:
    try:
        age = timedelta(days=float(text))
        _ = datetime.now() - age  # a calendar begins somewhere
    except (ValueError, OverflowError):
        age = timedelta(days=-1)
    if age < timedelta(0):
        raise argparse.ArgumentTypeError(f'give a number of days, at least 0, not "{text}"')
    return age


def _list(options: argparse.Namespace) -> int:
    found = stores(options.cache_dir)
    if not found:
        print(f"no feature stores in {options.cache_dir}")
        return 0
    head = ("store", "network", "size", "precision", "stored as", "rows", "MB", "last used")
    lines = [head, *(tuple(map(printable, _columns(info))) for info in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip())
    return 0


def _columns(info: StoreInfo) -> tuple[str, ...]:
    return (
        info.name[:12],
        _network(info),
        str(info.key.get("size") or info.key.get("image_size") or "-"),
        str(info.key.get("precision", "-")),
        info.dtype,
        f"{info.rows:,}",
        f"{info.megabytes:,.1f}",
        f"{info.last_used:%Y-%m-%d %H:%M}",
    )


def _network(info: StoreInfo) -> str:
    """The backbone, text transformer or detector; of a file it is known by its weights."""
    if "backbone" in info.key:
        return str(info.key["backbone"])
    if "text" in info.key:
        return f"{info.key['text']} {str(info.key.get('weights', '?'))[:8]}"
    return f"detector {info.key.get('detector') or str(info.key.get('weights', '?'))[:8]}"


def _chosen(options: argparse.Namespace) -> list[StoreInfo]:
    found = stores(options.cache_dir)
    if options.all:
        return found
    if options.key is None:
        limit = datetime.now() - options.older_than
        return [info for info in found if info.last_used < limit]
    return [_named(found, options.key)]


def _named(found: list[StoreInfo], key: str) -> StoreInfo:
    """The one store whose name begins like this."""
    chosen = [info for info in found if key and info.name.startswith(key)]
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(info.name[:12] for info in chosen or found)
    what = "several stores are" if chosen else "no store is"
    raise UserError(
        f'{what} named "{key}…": {f"give one of {names}" if names else "there is none"}'
    )


def _prune(options: argparse.Namespace) -> int:
    chosen, removed = _chosen(options), 0.0
    found = {i.folder: f"{printable(_network(i))}, {count(i.rows, 'row')}" for i in chosen}
    if options.all:
        found |= dict.fromkeys(without_description(options.cache_dir), "without a description")
    for folder, what in found.items():
        name, megabytes = f"{folder.name[:12]} ({what})", megabytes_of(folder)
        if remove_store(folder):
            removed += megabytes
            print(f"removed {name}: {megabytes:,.1f} MB")
        else:
            print(f"left {name}: a job is filling it")
    print(f"{removed:,.1f} MB freed" if found else "nothing to remove")
    if options.all:
        forget_digests(options.cache_dir)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from mmlabel.data.store_parts import check

    found, unread = stores(options.cache_dir), without_description(options.cache_dir)
    if options.key is not None:
        found, unread = [_named(found, options.key)], []
    if not found and not unread:
        print(f"no feature stores in {options.cache_dir}")
    damaged = len(unread) + (len(shut(options.cache_dir)) if options.key is None else 0)
    for folder in unread:
        print(
            f"{folder.name[:12]}: store.json is missing or damaged: a run that uses the store"
            " mends it"
        )
    for info in found:
        seen = check(open_store(info.folder))
        damaged += seen.damaged + seen.lost
        said = [f"{count(int(seen.whole.sum()), 'row')} whole"]
        if seen.unknown:
            said.append(f"{seen.unknown:,} of them without a checksum (an earlier version's)")
        if seen.damaged:
            said.append(f"{seen.damaged:,} damaged: computed anew when a run needs them")
        if seen.replaced:
            said.append(f"{seen.replaced:,} damaged and computed anew since")
        if seen.lost:
            said.append(f"{seen.lost:,} cut off: computed anew when a run needs them")
        if seen.surplus:
            said.append(
                f"{count(seen.surplus, 'byte')} of rows that were not finished: the next job cuts"
                " them off"
            )
        print(f"{info.name[:12]} ({printable(_network(info))}): {'; '.join(said)}")
    return 1 if damaged else 0


def _merge(options: argparse.Namespace) -> int:
    from mmlabel.data.store_parts import merge

    folders = [_store_in(part, options.key) for part in options.parts]
    key = key_of(folders[0])
    for folder in folders[1:]:
        other = key_of(folder)
        names = sorted(n for n in {*key, *other} if key.get(n) != other.get(n))
        if names:
            told = "; ".join(f"{n} is {other.get(n)}, not {key.get(n)}" for n in names)
            raise UserError(f"{folder} holds other features than {folders[0]}: {told}")
    width, dtype = key.pop("width"), key.pop("dtype")
    target = RowStore.open(options.cache_dir, key=key, width=int(str(width)), dtype=str(dtype))
    if target.folder.resolve() in {folder.resolve() for folder in folders}:
        raise UserError(f"{target.folder} is what the parts are merged into: leave it out")
    done = merge([open_store(folder) for folder in folders], target)
    for folder, part in zip(folders, done, strict=True):
        left = f", {count(part.damaged, 'damaged row')} left out" if part.damaged else ""
        other = f" ({part.other:,} with other numbers, up to {part.most:.2g} apart, which stay)"
        known = f"{part.known:,} were there{other if part.other else ''}"
        print(f"{folder}: {count(part.added, 'row')} added, {known}{left}")
    print(f"merged into {target.folder}: {count(len(target.entries()), 'row')}")
    return 0


def _store_in(part: Path, key: str | None) -> Path:
    """A store's folder: `part` itself, or the one that it has as a cache folder."""
    if (part / "store.json").is_file():
        open_store(part)
        return part
    found = stores(part)
    if key is not None:
        return _named(found, key).folder
    if len(found) == 1:
        return found[0].folder
    names = ", ".join(info.name[:12] for info in found)
    what = f"has several stores: choose one with --key, of {names}" if found else "has no store"
    if not found and (unread := without_description(part)):
        what += f" with a description: {unread[0] / 'store.json'} is missing or damaged"
    raise UserError(f"{part} {what}")


def _export(options: argparse.Namespace) -> int:
    from mmlabel.data.digests import digests_folder, picture_digests
    from mmlabel.data.store_parts import check_out, export

    check_name(options.out, str(options.out))
    check_out(options.out)
    folder, names = _store_in(options.cache_dir, options.key), None
    key = key_of(folder)
    if "backbone" not in key:
        what = "the states of captions' tokens" if "text" in key else "a detector's scores"
        raise UserError(f"{folder} holds {what}: export writes the features of pictures alone")
    if options.pictures is not None:
        root = options.pictures
        files = sorted(path for path in root.rglob("*") if path.is_file())
        if not files:
            raise UserError(f"--pictures {root}: there is no file in it")
        names = {}
        digests = picture_digests(files, digests_folder(options.cache_dir))
        for file, digest in zip(files, digests, strict=True):
            if digest is not None:
                names.setdefault(digest, []).append(file.relative_to(root).as_posix())
    rows, absent, damaged = export(open_store(folder), options.out, names)
    left = f"; {count(absent, 'file')} of {options.pictures} without a row" if absent else ""
    if damaged:
        left += f"; {count(damaged, 'damaged row')} of the store left out"
    print(f"{options.out}: {count(rows, 'row')} of {folder.name[:12]}{left}")
    return 0


def _fill(options: argparse.Namespace) -> int:
    # Each takes seconds to load, which the other commands need not pay.
    import_large("mmlabel.lean_torchmetrics", "mmlabel.parts")
    from mmlabel.cli import command_settings
    from mmlabel.models.engines import device_for
    from mmlabel.parts import build
    from mmlabel.settings import read_settings

    part, parts = options.part
    settings = command_settings(options.options)
    nothing = UserError(
        "nothing is stored with these options: features are kept of a frozen backbone, with"
        " features=auto or on"
    )
    if settings.backbone is None:
        raise nothing
    # Of a model without captions, so that neither word vectors nor WordNet are needed; one that
    # looks at the same maps, and learns from no teacher, whose answers are not asked for.
    own = {"model": {"name": "image_only"}, "distil": {}}
    plain = {"loss": {"name": "bce"}, **settings.plain(), **own}
    if settings.looks_at_cells:
        plain["backbone"] = {**plain["backbone"], "attention": "residual"}
    settings = read_settings(plain)
    run = build(settings, None, wandb_id=None)
    if run.data.stored is None:
        raise nothing
    device = device_for(settings.trainer.accelerator)
    folder, filled = run.data.fill_part(part, parts, device=device)
    print(f"part {part + 1} of {parts}: {filled.views:,} views in {filled.seconds:.1f} s, {folder}")
    return 0


_COMMANDS = {
    "list": _list,
    "prune": _prune,
    "verify": _verify,
    "merge": _merge,
    "export": _export,
    "fill": _fill,
}


if __name__ == "__main__":
    sys.exit(main())
