"""Jobs side by side: processes that import the heavy libraries once and take one job after another.

The processes end with the sweep, whatever ends it: on Ctrl-C or SIGTERM they are told to stop and
given time to write what they have, and a sweep that is killed takes them along.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TypeVar

from mmlabel.cli import Interrupted
from mmlabel.interrupts import answer, raise_until_answered
from mmlabel.processors import cores, share_threads

GRACE = 30.0  # seconds between asking a process to end and killing it

Item = TypeVar("Item")


def threads_each(workers: int) -> tuple[int, int]:
    """Threads for each of so many processes, and for one that passes over all pictures.

    OMP_NUM_THREADS for both; without it a fair share of the cores, and all of them.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given):
        return int(given), int(given)
    return max(1, cores() // workers), cores()


def side_by_side(
    jobs: Sequence[Item],
    work: Callable[[Item], None],
    *,
    workers: int,
    preload: Sequence[str],
    log_of: Callable[[Item], Path | None],
    tick: Callable[[list[Item]], None],
) -> Generator[tuple[Item, str | None]]:
    """Do `work` on each job, some at a time, and yield each with why it broke off, when it ends.

    A process that dies takes the job that it has begun with it and no other: one that it was to
    do next is begun by a new process. Closing the iterator ends them all.

    Args:
        jobs: in the order in which they are begun; they are pickled.
        work: a function of a module; what it raises is the reason that is yielded.
        workers: how many processes.
        preload: modules that are imported once, before the processes part.
        log_of: the file that gets what a job prints; None: this process's own output.
        tick: called about once a second with the jobs that are being done.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    _start_server()
    waiting, threads = deque(jobs), threads_each(workers)
    processes: list[BaseProcess] = []
    busy: dict[Connection, tuple[Item, BaseProcess]] = {}
    next_ones: set[Connection] = set()  # whose process has done a job, and not begun this one yet

    def hand_over(connection: Connection, process: BaseProcess) -> None:
        job = waiting.popleft()
        busy[connection] = job, process
        with suppress(OSError):  # it has ended, which is found out below
            connection.send((job, log_of(job)))

    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, work, threads))
                process.start()
                theirs.close()  # so that ours ends when the process does
                processes.append(process)
                hand_over(ours, process)
            for connection in wait(list(busy), timeout=1):
                assert isinstance(connection, Connection)
                job, process = busy[connection]
                try:
                    error = connection.recv()
                except (EOFError, ConnectionResetError):
                    del busy[connection]
                    process.join()
                    connection.close()
                    _signal_group(process, signal.SIGKILL)  # what it had started
                    # A new process that cannot begin its first job says so: the next could not.
                    if connection in next_ones:
                        waiting.appendleft(job)
                    else:
                        yield job, _how_it_ended(process)
                    continue
                if error is True:  # no reason: it has begun
                    next_ones.discard(connection)
                    continue
                del busy[connection]
                if waiting:
                    next_ones.add(connection)
                    hand_over(connection, process)
                else:
                    connection.close()  # which the process takes for the end
                yield job, error
            tick([job for job, _ in busy.values()])
    finally:
        _end(processes, at_once=bool(busy))


@contextmanager
def same_modules() -> Iterator[None]:
    """Inside it, what is started imports the modules that this process would import.

    Python has it look in the working folder and among what is installed, where there may be
    another copy of this project, or none of train.py.
    """
    former = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        yield
    finally:
        if former is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = former


def _start_server() -> None:
    """Start what the processes are forked from.

    Ctrl-C reaches it on a terminal, where it would break off an import with a traceback.
    """
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is started inherits it
    try:
        with same_modules():
            forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)


def _serve(connection: Connection, work: Callable[[Item], None], threads: tuple[int, int]) -> None:
    """Do what comes through the connection until it is closed."""
    # A group of its own: Ctrl-C reaches the sweep alone, and this process ends with its children.
    os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _stop)
    share_threads(threads[0], passes=threads[1])
    try:
        _do_jobs(connection, work)
    except Interrupted as stop:
        answer(stop)
        sys.exit(stop.exit_code)


def _do_jobs(connection: Connection, work: Callable[[Item], None]) -> None:
    while True:
        try:
            job, log = connection.recv()
        except EOFError:
            return
        connection.send(True)  # it has begun
        if log is not None:
            _redirect_output(log)
        reason = None
        try:
            work(job)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        sys.stdout.flush()  # into this job's log
        sys.stderr.flush()
        connection.send(reason)


def _stop(signum: int, _: FrameType | None) -> None:
    if os.getpid() != os.getpgrp():
        os._exit(128 + signum)  # forked by a job, whose process does what is to be done
    # An exception rather than an end: nothing is left half-written.
    raise_until_answered(Interrupted(signum), patience=GRACE)


def _redirect_output(log: Path) -> None:
    """Also of libraries that write to the descriptors themselves, and of children."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


def _how_it_ended(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def _end(processes: Sequence[BaseProcess], *, at_once: bool) -> None:
    """Wait for the processes, which have nothing left to do unless `at_once`; then make them."""
    living = [process for process in processes if process.is_alive()]
    try:
        if at_once:
            _signal(living, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for process in living:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:  # also when a second Ctrl-C cuts the waiting short
        # What a process has started may outlive it.
        _signal(living, signal.SIGKILL)


def _signal(processes: Sequence[BaseProcess], number: signal.Signals) -> None:
    """Send a signal to the processes, and to all that they have started."""
    for process in processes:
        if not _signal_group(process, number) and process.is_alive():
            assert process.pid is not None
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)  # it has just begun, and has no group yet


def _signal_group(process: BaseProcess, number: signal.Signals) -> bool:
    """Send a signal to a process and all that it has started; False if there is no such group."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
