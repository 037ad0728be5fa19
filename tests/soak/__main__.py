"""A soak: runs and sweeps killed, stopped and starved at random, until the time is up.

python tests/soak --minutes 60        a line a round, then a table; exit code 1 after any fault

Each round disturbs one thing several times (SIGKILL, SIGTERM, SIGINT, SIGSTOP and SIGCONT at any
moment, a cache whose disk fills up and is freed, wandb that cannot be reached), lets it end, and
compares: the scores and the history of the same thing left alone, to the last digit; every file
under a final name whole; every row of the store; no process, temporary file or disk space left
over. The cache is on a tmpfs of 8 MB where one can be mounted (root), else it is never full.
Processes are forked from one that has imported everything, as starting Python takes most of the
time of so small a run.
"""

import argparse
import atexit
import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the last digits of a score depend on it
REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY))

import sweep  # noqa: E402
import train  # noqa: E402
from mmlabel import cli, training  # noqa: E402, F401  (training: only to have it in memory)
from mmlabel.cache import is_temporary  # noqa: E402
from mmlabel.data.row_store import stores  # noqa: E402
from mmlabel.errors import UserError  # noqa: E402
from mmlabel.features import main as features  # noqa: E402
from mmlabel.help import help_text  # noqa: E402
from mmlabel.lightning.checkpoint_file import read_file  # noqa: E402
from mmlabel.run_folder import damage, finished, read_history, read_results  # noqa: E402

SMALL = ["data.rows=[60,24,24]", "data.image_size=32", "data.workers=0", "trainer.accelerator=cpu"]
SMALL += ["captions.lemmas=none", "embedding=learned", "embedding.dim=16", "lstm.hidden=8"]
SMALL += ["trainer.max_epochs=3", "report=false", "patience=null", "features.engine=torch"]
PICTURES = [*SMALL, "backbone=efficientnet_lite0", "backbone.weights=none"]
CAPTIONS = [*(o for o in SMALL if not o.startswith("features")), "model=caption_only"]
# What is disturbed: the script and its options. A run goes on in its folder, a sweep in its own.
RUN = ["train.py", *PICTURES, "logger=csv", "resume=true"]
SHORT = ["train.py", *CAPTIONS, "logger=csv", "resume=true"]
LOGGED = ["train.py", *CAPTIONS, "logger=wandb", "resume=true"]
SWEEP = ["sweep.py", "study=lstm_layers", "seeds=1", *CAPTIONS, "logger=csv"]
MANY = ["train.py", "-m", "seed=0,1,2,3,4,5,6,7", *CAPTIONS, "logger=csv"]

DEADLY = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CACHE_MEGABYTES = 8
PATIENCE = 600.0  # seconds until an attempt counts as hanging

Scores = dict[str, dict[str, float]]  # of each run of a thing, by what tells them apart


@dataclass
class Soak:
    """Where everything is, what undisturbed runs give, and what has been found."""

    root: Path
    rng: random.Random
    full_disk: bool  # whether the cache is on a disk that can be filled
    expected: dict[str, tuple[Scores, dict[str, list[dict[str, float]]], float]] = field(
        default_factory=dict
    )
    signals: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.root / "small" / "cache"

    @property
    def ballast(self) -> Path:
        return self.root / "small" / "ballast"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MMLABEL_CACHE": str(self.cache),
            "MMLABEL_SOAK": str(self.root),
            "TMPDIR": str(self.root / "tmp"),
            "WANDB_MODE": "offline",
        }


# ---- One attempt ----------------------------------------------------------------------------


def start(soak: Soak, command: list[str], log: Path, **environment: str) -> BaseProcess:
    """`python command`, in a process of its own."""
    own = soak.environment | environment
    process = _FORK.Process(target=_script, args=(command, soak.root, log, own))
    process.start()
    return process


_FORK = multiprocessing.get_context("fork")


def _script(command: list[str], cwd: Path, log: Path, environment: dict[str, str]) -> None:
    """What `python command` does, output to the end of `log` included."""
    # What is to be done at the end of the parent is not this process's.
    atexit._clear()
    weakref.finalize._registry.clear()
    weakref.finalize._registered_with_atexit = False
    os.chdir(cwd)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.environ |= environment
    tempfile.tempdir = None
    cli._MAIN_PROCESS = os.getpid()
    sys.argv = command
    try:
        if command[0] == "sweep.py":
            cli.run_cli(sweep.main)
        else:
            cli.run_cli(train.main, help_text)
    finally:
        atexit._run_exitfuncs()


def wait(process: BaseProcess, seconds: float) -> int | None:
    """Its exit code; None if it has not ended by then."""
    process.join(seconds)
    return process.exitcode


def send(process: BaseProcess, number: signal.Signals) -> None:
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)


def disturb(soak: Soak, process: BaseProcess, usual: float) -> str:
    """Wait for any moment of the attempt, and do to it what comes first to mind."""
    if wait(process, soak.rng.uniform(0.1, 1.0) * usual) is not None:
        return "ended"
    number = soak.rng.choice([*DEADLY, signal.SIGSTOP])
    soak.signals[number.name] += 1
    send(process, number)
    if number is signal.SIGSTOP:
        wait(process, soak.rng.uniform(0.5, 3.0))
        send(process, signal.SIGCONT)
        return "SIGSTOP"
    if wait(process, PATIENCE) is None:
        soak.faults.append(f"did not end on {number.name}")
        process.kill()
        process.join()
    return number.name


@contextlib.contextmanager
def disk_that_fills_up(soak: Soak) -> Iterator[None]:
    """Inside it there is nearly no room beside the cache."""
    free = os.statvfs(soak.root / "small").f_bavail * os.statvfs(soak.root / "small").f_frsize
    left = soak.rng.choice([0, 4_096, 100_000, 1_000_000])
    with contextlib.suppress(OSError), open(soak.ballast, "wb") as file:
        for _ in range(max(0, free - left) // 4_096):
            file.write(bytes(4_096))
    try:
        yield
    finally:
        soak.ballast.unlink()


# ---- What is looked at afterwards -----------------------------------------------------------


def runs_below(folder: Path) -> list[Path]:
    return sorted({path.parent for path in folder.rglob("last.ckpt")})


def outcome(folder: Path) -> tuple[Scores, dict[str, list[dict[str, float]]]]:
    """Scores and history of every finished run below a folder."""
    scores, histories = {}, {}
    for run in runs_below(folder):
        if finished(run):
            results = read_results(run)
            name = f"{results['variant']} {results['settings']['seed']}"
            scores[name] = results["scores"]
            histories[name] = read_history(run)
    return scores, histories


def torn_files(folder: Path) -> list[str]:
    """Files that a reader would take for whole and that are not, below a folder of runs."""
    torn = []
    for run in runs_below(folder) if folder.exists() else []:
        if name := damage(run):
            torn.append(f"{run.name}/{name}")
        for checkpoint in run.glob("*.ckpt"):
            if not checkpoint.name.startswith("."):
                try:
                    read_file(checkpoint)
                except UserError as error:
                    torn.append(str(error))
        for name in ("results.json", "failed.json"):
            with contextlib.suppress(FileNotFoundError):
                try:
                    json.loads((run / name).read_text())
                except ValueError:
                    torn.append(f"{run.name}/{name}")
    return torn


def damaged_stores(soak: Soak) -> list[str]:
    said = []
    for store in stores(soak.cache):
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = features(["verify", "--cache-dir", str(soak.cache), "--key", store.folder.name])
        if code:
            said.append(" ".join(output.getvalue().split()))
    return said


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if is_temporary(path)]


def left_running(soak: Soak) -> list[int]:
    """Processes that the soak has started and that have outlived their parents."""
    mark, found = f"MMLABEL_SOAK={soak.root}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def kill_left_running(soak: Soak) -> None:
    """Some time for them to end by themselves, which takes long where others have the cores."""
    end = time.monotonic() + PATIENCE / 2
    while (left := left_running(soak)) and time.monotonic() < end:
        time.sleep(0.5)
    for pid in left:
        name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
        soak.faults.append(f"still running: {name}")
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


# ---- Rounds ---------------------------------------------------------------------------------


def place(command: list[str], folder: Path) -> list[str]:
    """The command with the folder of its results."""
    if command[0] == "sweep.py":
        return [*command, f"out={folder}"]
    return [*command, f"hydra.{'sweep' if '-m' in command else 'run'}.dir={folder}"]


def expect(soak: Soak, name: str, command: list[str]) -> None:
    """What the thing gives when it is left alone, on a cache that it has to fill."""
    folder, log = soak.root / "alone", soak.root / f"{name}-alone.log"
    shutil.rmtree(soak.cache, ignore_errors=True)
    began = time.monotonic()
    if wait(start(soak, place(command, folder), log), PATIENCE) != 0:
        sys.exit(f"{name} does not run:\n{log.read_text()[-2000:]}")
    soak.expected[name] = (*outcome(folder), time.monotonic() - began)
    shutil.rmtree(folder)


def disturbed(soak: Soak, name: str, command: list[str], *, times: int, full: bool) -> str:
    """A thing that is disturbed several times and then ends; returns what was done to it."""
    scores, histories, usual = soak.expected[name]
    small = full and name == "captions" and soak.rng.random() < 0.5
    folder = soak.root / ("small" if small else "runs") / "run"
    log, said = soak.root / f"{name}.log", []
    log.write_bytes(b"")
    if soak.rng.random() < 0.5:
        shutil.rmtree(soak.cache, ignore_errors=True)
    for attempt in range(times):
        with disk_that_fills_up(soak) if full else contextlib.nullcontext():
            process = start(soak, place(command, folder), log, **cut_off(soak, name))
            said.append(disturb(soak, process, usual))
            if said[-1] == "SIGSTOP" or full and said[-1] == "ended":
                wait(process, PATIENCE)
        kill_left_running(soak)
        soak.faults += [f"torn: {found}" for found in torn_files(folder)]
        if attempt and finished(folder):
            break
    code = wait(start(soak, place(command, folder), log), PATIENCE)
    if code != 0:
        soak.faults.append(f"ended with {code}: {log.read_text(errors='replace')[-300:]}")
    kill_left_running(soak)
    got, went = outcome(folder)
    if got != scores:
        soak.faults.append(f"other scores: {got} instead of {scores}")
    elif went != histories:
        soak.faults.append("another history")
    _, found, rest = log.read_text(errors="replace").partition("Traceback")
    if found:
        soak.faults.append(f"a traceback, its end: {rest[-2000:]}")
    left = temporary_files(folder)
    soak.faults += [f"left behind: {path.name}" for path in left]
    shutil.rmtree(folder, ignore_errors=True)
    return " ".join(said) + (" on a full disk" if full else "")


def cut_off(soak: Soak, name: str) -> dict[str, str]:
    """An environment in which wandb is offline or wants a server that is not there."""
    if name != "wandb" or soak.rng.random() < 0.5:
        return {}
    return {
        "WANDB_MODE": "online",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_BASE_URL": "http://127.0.0.1:9",  # nobody answers there
    }


def many_in_one_process(soak: Soak) -> str:
    """Eight runs of one process: its handles and its memory after each."""
    folder, log = soak.root / "runs" / "run", soak.root / "many.log"
    process = start(soak, place(MANY, folder), log)
    seen: dict[int, tuple[int, float]] = {}
    while process.exitcode is None:
        done = sum(finished(run) for run in runs_below(folder)) if folder.exists() else 0
        with contextlib.suppress(OSError, IndexError, ValueError):
            handles = len(os.listdir(f"/proc/{process.pid}/fd"))
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            if pages:  # none: it has ended
                seen.setdefault(done, (handles, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))
        time.sleep(0.2)
    if process.exitcode != 0:
        soak.faults.append(f"ended with {process.exitcode}: {log.read_text()[-300:]}")
    shutil.rmtree(folder, ignore_errors=True)
    steps = [seen[done] for done in sorted(seen) if done > 1]
    handles, memory = [step[0] for step in steps], [step[1] for step in steps]
    if max(handles) > handles[0] + 2:
        soak.faults.append(f"handles after each run: {handles}")
    if memory[-1] > memory[0] * 1.1:
        soak.faults.append(f"MB after each run: {[round(m) for m in memory]}")
    return (
        f"handles {handles[0]} to {handles[-1]}, memory {memory[0]:.0f} to {memory[-1]:.0f} MB"
        f" from the second to the last of 8 runs"
    )


def play(soak: Soak, kind: str) -> str:
    name = NEEDS[kind]
    if name == "many":
        return many_in_one_process(soak)
    full = soak.full_disk and kind.startswith("full")
    return disturbed(soak, name, COMMANDS[name], times=soak.rng.randint(1, 3), full=full)


COMMANDS = {"run": RUN, "captions": SHORT, "wandb": LOGGED, "sweep": SWEEP}
# The kinds of rounds, and what is disturbed in each.
NEEDS = {"full-run": "run", "full-captions": "captions", "many": "many"}
NEEDS = {name: name for name in COMMANDS} | NEEDS
KINDS = tuple(NEEDS)


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mmlabel-soak-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Whether there is one: a tmpfs, which only root may mount."""
    folder.mkdir()
    size = f"size={CACHE_MEGABYTES}m"
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True
    ).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser("tests/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of what is done to whom, and when")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=KINDS, help="rounds")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the disk is unmounted
    table: dict[str, list[tuple[float, int]]] = {}
    with own_folder() as root, small_disk(root / "small") as mounted:
        (root / "tmp").mkdir()
        soak = Soak(root, random.Random(options.seed), mounted)
        for name in {NEEDS[kind] for kind in options.only} - {"many"}:
            expect(soak, name, COMMANDS[name])
        end, number = time.monotonic() + 60 * options.minutes, 0
        while time.monotonic() < end:
            number += 1
            kind = options.only[(number - 1) % len(options.only)]
            began, before = time.monotonic(), len(soak.faults)
            done = play(soak, kind)
            soak.faults += [f"store: {said}" for said in damaged_stores(soak)]
            seconds, faults = time.monotonic() - began, soak.faults[before:]
            table.setdefault(kind, []).append((seconds, len(faults)))
            print(
                f"{number:4} {kind:<14} {seconds:5.0f} s  {done};"
                f" cache {megabytes(soak.cache):.2f} MB,"
                f" {len(temporary_files(soak.cache))} temporary files in it,"
                f" {len(list((root / 'tmp').iterdir()))} in TMPDIR,"
                f" all {megabytes(root):.1f} MB"
                f"{'' if not faults else ' FAULTS: ' + '; '.join(faults)}",
                flush=True,
            )
    print("\n| round | number | seconds each | faults |\n| --- | ---: | ---: | ---: |")
    for kind, rounds in table.items():
        mean = sum(seconds for seconds, _ in rounds) / len(rounds)
        print(f"| {kind} | {len(rounds)} | {mean:.0f} | {sum(n for _, n in rounds)} |")
    print(", ".join(f"{count} {name}" for name, count in sorted(soak.signals.items())))
    return 1 if soak.faults else 0


if __name__ == "__main__":
    sys.exit(main())
