"""The processes of one run that torchrun or SLURM has started: which this is, and what all share.

Processes that Lightning itself starts on one machine repeat the command of the first with its
folder. Those of torchrun and srun all have the user's command, and nobody else tells them apart.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from mmlabel.errors import UserError
from mmlabel.wording import count

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from mmlabel.training_options import Trainer


class ProcessLost(UserError):
    """Another process of the run has ended, and says itself why."""


class Started(NamedTuple):
    """How this process came to be one of several."""

    by: str  # torchrun or SLURM
    rank: int  # 0 is the first
    processes: int  # of all nodes


def started() -> Started | None:
    """Who has started this process as one of a run's; None: nobody, or Lightning.

    Looks where Lightning does, in the same order: torchrun may have been started by SLURM.
    """
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given:
        return Started("torchrun", int(given["RANK"]), int(given["WORLD_SIZE"]))
    # So named, SLURM's jobs are somebody's terminal.
    if "SLURM_NTASKS" in given and given.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return Started("SLURM", int(given.get("SLURM_PROCID", 0)), int(given["SLURM_NTASKS"]))
    return None


def is_first_process() -> bool:
    """Whether this is the only process of its run, or the one that writes its files."""
    this = started()
    return "LOCAL_RANK" not in os.environ if this is None else this.rank == 0


def repeats_another() -> bool:
    """Whether Lightning has started this process, to repeat what another has checked and begun."""
    return started() is None and not is_first_process()


def check_strategy(strategy: str) -> None:
    """Refuse processes that are this one's copies, of which Lightning brings nothing back.

    Not among the checks of settings: a checkpoint of an earlier version may say otherwise.
    """
    if any(way in strategy for way in ("spawn", "fork", "notebook")):
        raise UserError(
            f"trainer.strategy={strategy}: what such processes have scored is lost with them; give"
            " trainer.strategy=ddp"
        )


def check_processes(trainer: "Trainer") -> None:
    """See that as many processes have been started as a run asks for; raises UserError if not."""
    check_strategy(trainer.strategy)
    this, nodes = started(), trainer.num_nodes
    if this is None:
        if nodes > 1 and is_first_process():
            raise UserError(
                f"trainer.num_nodes={nodes}: the processes of several nodes are started by torchrun"
                " or SLURM's srun; docs/scale.md has the commands"
            )
        return
    if this.by == "SLURM" and this.processes > 1 and "SLURM_STEP_ID" not in os.environ:
        raise UserError(
            f"this SLURM job has {this.processes} processes, and this is its script's own, which"
            " would wait for the others: start it by srun, or give the job one task"
        )
    devices = trainer.devices
    each = len(devices) if isinstance(devices, list) else devices
    if not isinstance(each, int) or each < 0:
        return  # as many as there are: known to Lightning, which then checks
    if each * nodes != this.processes:
        raise UserError(
            f"{this.by} has started {count(this.processes, 'process', 'processes')}, and"
            f" trainer.devices={each} on trainer.num_nodes={nodes} are {each * nodes}: give"
            " trainer=ddp, the number of nodes and of the processes on each, or start as many as"
            f" that ({_HOW_MANY[this.by]})"
        )


def check_multirun() -> None:
    """Refuse several runs one after the other: their processes would not find each other again."""
    if (this := started()) is not None and this.processes > 1:
        raise UserError(
            f"{this.by} has started {this.processes} processes, which share one run and no"
            f" multirun (-m): start {this.by} once for each run"
        )


_HOW_MANY = {
    "torchrun": "torchrun --nnodes --nproc-per-node",
    "SLURM": "srun --nodes --ntasks-per-node, or hydra.launcher.nodes and .tasks_per_node",
}


def agreed(text: str) -> str:
    """The first process's `text`, in every process of the run."""
    this = started()
    if this is None or this.processes == 1:
        return text
    store = _store(this)
    if this.rank == 0:
        store.set("mmlabel", text)
    return store.get("mmlabel").decode()


@cache  # for as long as the process lives: the first one keeps the store for the others
def _store(this: Started) -> "Store":
    """Where the run's processes find each other, which is where Lightning's meet afterwards."""
    from torch.distributed.rendezvous import rendezvous

    try:
        if this.by == "SLURM":
            from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

            meeting = SLURMEnvironment(auto_requeue=False)
            os.environ["MASTER_ADDR"] = meeting.main_address
            os.environ["MASTER_PORT"] = str(meeting.main_port)
        own = {"rank": this.rank, "world_size": this.processes}
        store, _, _ = next(rendezvous("env://", **own, timeout=_PATIENCE))
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the {this.processes} processes that {this.by} has started do not find each other at"
            f" {where} ({' '.join(str(error).split())}); MASTER_ADDR and MASTER_PORT in the"
            " environment name another address"
        ) from error
    return store


_PATIENCE = timedelta(minutes=10)  # between the first process and the last


@contextmanager
def ends_with_children(launched: Callable[[], list[subprocess.Popen]]) -> Iterator[None]:
    """Where the block raises, the processes that Lightning has started end before all else.

    A thread of Lightning's looks at its list of them every five seconds, and kills this process
    once one of them has ended with an error: also while a multirun's next job is under way, or
    before this one has written why it failed. With an empty list it ends.

    Args:
        launched: gives that very list.
    """
    try:
        yield
    except BaseException:
        children = launched()
        ended, children[:] = list(children), []
        for child in ended:
            child.terminate()
        end = time.monotonic() + _GRACE
        for child in ended:
            try:
                child.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:  # it waits for the others, and hears of nothing
                child.kill()
                child.wait()
        raise


_GRACE = 5.0  # seconds between asking a process to end and killing it
