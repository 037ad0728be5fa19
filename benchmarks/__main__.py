"""`make bench`: measure how fast each part is, and print it as a table and a JSON file."""

import argparse
import dataclasses
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import get_args

from benchmarks.table import REPOSITORY, Bench, Level, as_json, markdown
from mmlabel.commands import path_of
from mmlabel.record import machine


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("WANDB_MODE", "offline")
    data = options.data and options.data.resolve()
    rows = "the report's data" if data else "the built-in data"
    less = " Fewer rows than usual: the ratios are rough." if options.level == "quick" else ""
    print(f"{machine()}; {rows}.{less}", flush=True)
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder=Path(folder), data=data, level=options.level)
        waiting = list(options.only)
        try:
            while waiting:
                if not _measure(waiting[0], bench):
                    failed.append(waiting[0])
                del waiting[0]
        except KeyboardInterrupt:  # hours may have been measured by then
            bench.left_out += [f"{subject}: interrupted" for subject in waiting]
    print(f"\n{markdown(bench)}")
    options.out.write_text(as_json(bench), encoding="utf-8")
    print(f"\nThe same in {options.out}", flush=True)
    if waiting:
        sys.exit(128 + signal.SIGINT)
    if failed:
        sys.exit(f"no figures of {', '.join(failed)}, or not all of them")


def _measure(subject: str, bench: Bench) -> bool:
    """Take a subject's figures into the table; False, and why is said there, if it broke off."""
    start = time.perf_counter()
    try:
        problem = in_a_process(subject, bench)
    finally:
        print(f"({subject}: {time.perf_counter() - start:.0f} s)", flush=True)
    if problem is not None:
        print(f"{subject} broke off: {problem}", file=sys.stderr, flush=True)
        # Of all that a command has said, the last line is what it ended with.
        bench.left_out.append(f"{subject}: broke off ({problem.splitlines()[-1]})")
    return problem is None


def in_a_process(subject: str, bench: Bench) -> str | None:
    """Measure one subject, whose memory and threads are in no other one's way.

    Returns why it broke off, if it did; what it has measured by then counts.
    """
    # This process has computed nothing, so that its copies begin with the libraries imported.
    ways = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in ways else "spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        ends = pool.submit(figures_of, subject, bench)
        try:
            own, problem = ends.result()
        except BrokenProcessPool as error:
            return str(error)
        except KeyboardInterrupt:  # of which the process has heard, too
            own, _ = ends.result()
            bench.take(own)
            raise
    bench.take(own)
    return problem


def figures_of(subject: str, bench: Bench) -> tuple[Bench, str | None]:
    """What was measured of one subject, and why it broke off, if it did."""
    own, problem = dataclasses.replace(bench, figures=[], left_out=[]), None
    try:
        importlib.import_module(f"benchmarks.{subject}").measure(own)
    except KeyboardInterrupt:
        problem = "interrupted"
    except Exception as error:
        problem = str(error).strip() or type(error).__name__
    return own, problem


SUBJECTS = (
    "features",
    "captions",
    "training",
    "backbone",
    "whole_run",
    "sweeps",
    "template",
    "prediction",
    "growth",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", type=_subjects, default=SUBJECTS, help=f"some of {', '.join(SUBJECTS)}"
    )
    parser.add_argument(
        "--level", choices=get_args(Level), default="usual", help="how much is measured"
    )
    parser.add_argument(
        "--data",
        type=_folder,
        default=_beside(),
        help="a folder of the report's data set; without it the built-in one is used",
    )
    parser.add_argument("--out", type=_file, default=Path("bench.json"))
    return parser


def _subjects(text: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := sorted(set(chosen) - set(SUBJECTS)):
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]}: {', '.join(SUBJECTS)}")
    return chosen or list(SUBJECTS)


def _folder(text: str) -> Path | None:
    if not text:
        return None
    if not path_of(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path_of(text)


def _file(text: str) -> Path:
    out = path_of(text)
    # Said before anything is measured, which takes long.
    if out.is_dir() or not out.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written: give a file in a folder")
    return out


def _beside() -> Path | None:
    shared = Path(os.environ.get("MMLABEL_SHARED") or REPOSITORY.parent / "shared")
    folder = shared / "data" / "usyd"
    return folder if folder.is_dir() else None


if __name__ == "__main__":
    main()
