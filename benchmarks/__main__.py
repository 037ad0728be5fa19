"""`make bench`: measure how fast each part is, and print it as a table and a JSON file."""

import argparse
import dataclasses
import importlib
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import get_args

from benchmarks.table import REPOSITORY, Bench, Figure, Level, as_json, markdown
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
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder=Path(folder), data=data, level=options.level)
        for subject in options.only:
            start = time.perf_counter()
            try:
                bench.figures += in_a_process(subject, bench)
            except Exception as error:
                failed[subject] = str(error)
                print(f"{subject} broke off: {error}", file=sys.stderr, flush=True)
            print(f"({subject}: {time.perf_counter() - start:.0f} s)", flush=True)
    print(f"\n{markdown(bench.figures)}")
    options.out.write_text(as_json(bench), encoding="utf-8")
    print(f"\nThe same in {options.out}")
    if failed:
        sys.exit(f"no figures of {', '.join(failed)}")


def in_a_process(subject: str, bench: Bench) -> list[Figure]:
    """The figures of one subject, whose memory and threads are in no other one's way."""
    # This process has computed nothing, so that its copies begin with the libraries imported.
    ways = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in ways else "spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(figures_of, subject, bench).result()


def figures_of(subject: str, bench: Bench) -> list[Figure]:
    """Measure one subject."""
    own = dataclasses.replace(bench, figures=[])
    importlib.import_module(f"benchmarks.{subject}").measure(own)
    return own.figures


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
    parser.add_argument("--out", type=path_of, default=Path("bench.json"))
    return parser


def _subjects(text: str) -> list[str]:
    chosen = [name for name in text.split(",") if name]
    if unknown := sorted(set(chosen) - set(SUBJECTS)):
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]}: {', '.join(SUBJECTS)}")
    return chosen or list(SUBJECTS)


def _folder(text: str) -> Path | None:
    if not text:
        return None
    if not path_of(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path_of(text)


def _beside() -> Path | None:
    shared = Path(os.environ.get("MMLABEL_SHARED") or REPOSITORY.parent / "shared")
    folder = shared / "data" / "usyd"
    return folder if folder.is_dir() else None


if __name__ == "__main__":
    main()
