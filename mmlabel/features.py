"""`python -m mmlabel.features list|prune`: see and clean the stores of features and scores."""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from mmlabel.data.digests import forget_digests
from mmlabel.data.row_store import StoreInfo, remove_store, stores
from mmlabel.errors import UserError
from mmlabel.terminal import escape_what_is_missing, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    escape_what_is_missing()
    options = _parser().parse_args(arguments)
    found = stores(options.cache_dir)
    try:
        if options.command == "list":
            _print_table(found, options.cache_dir)
        else:
            _prune(_chosen(found, options))
            if options.all:
                forget_digests(options.cache_dir)
    except (UserError, OSError) as error:
        print(printable(str(error)), file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    default = Path(os.environ.get("MMLABEL_CACHE") or "~/.cache/mmlabel").expanduser()
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--cache-dir", type=Path, default=default, help="the cache folder (default: %(default)s)"
    )
    parser = argparse.ArgumentParser(prog="python -m mmlabel.features", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[common], help="show the stores, last used first")
    prune = commands.add_parser("prune", parents=[common], help="remove stores")
    which = prune.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="every store")
    which.add_argument(
        "--older-than", type=_days, metavar="DAYS", help="stores not used for this many days"
    )
    which.add_argument("--key", help="the store whose name, as listed, begins like this")
    return parser


def _days(text: str) -> timedelta:
    try:
        age = timedelta(days=float(text))
        _ = datetime.now() - age  # a calendar begins somewhere
    except (ValueError, OverflowError):
        age = timedelta(days=-1)
    if age < timedelta(0):
        raise argparse.ArgumentTypeError(f'give a number of days, at least 0, not "{text}"')
    return age


def _print_table(found: list[StoreInfo], cache_dir: Path) -> None:
    if not found:
        print(f"no feature stores in {cache_dir}")
        return
    head = ("store", "network", "size", "precision", "stored as", "rows", "MB", "last used")
    lines = [head, *(tuple(map(printable, _columns(info))) for info in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip())


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
    """The backbone, or the detector; one from a file is known by its weights."""
    if "backbone" in info.key:
        return str(info.key["backbone"])
    return f"detector {info.key.get('detector') or str(info.key.get('weights', '?'))[:8]}"


def _chosen(found: list[StoreInfo], options: argparse.Namespace) -> list[StoreInfo]:
    if options.all:
        return found
    if options.key is None:
        limit = datetime.now() - options.older_than
        return [info for info in found if info.last_used < limit]
    chosen = [info for info in found if options.key and info.name.startswith(options.key)]
    if len(chosen) == 1:
        return chosen
    names = ", ".join(info.name[:12] for info in chosen or found) or "there is none"
    what = "several stores are" if chosen else "no store is"
    raise UserError(f'{what} named "{options.key}…": give one of {names}')


def _prune(chosen: list[StoreInfo]) -> None:
    removed = 0.0
    for info in chosen:
        name = f"{info.name[:12]} ({printable(_network(info))}, {info.rows:,} rows)"
        if remove_store(info):
            removed += info.megabytes
            print(f"removed {name}: {info.megabytes:,.1f} MB")
        else:
            print(f"left {name}: a job is filling it")
    print(f"{removed:,.1f} MB freed" if chosen else "nothing to remove")


if __name__ == "__main__":
    sys.exit(main())
