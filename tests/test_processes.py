"""Processes that torchrun and SLURM start: two nodes in network namespaces follow one process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from resumed_runs import history, results_of

from mmlabel.data.row_store import stores
from mmlabel.errors import UserError
from mmlabel.lightning.trainer import trainer_errors
from mmlabel.processes import (
    ProcessLost,
    Started,
    agreed,
    check_processes,
    is_first_process,
    started,
)
from mmlabel.training import train

REPOSITORY = Path(__file__).resolve().parent.parent
# What draws no numbers and takes no statistics of its own rows.
EXACT = ["data.rows=[64,25,25]", "data.batch_size=16", "patience=null"]
EXACT += ["model.head.batch_norm=false", "model.head.dropout=0", "threshold=0.2"]
VIEWS = 2 * 64 + 25 + 25
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
SLURM = {
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which nobody has started anything."""
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in TORCHRUN:
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "this", "first"),
    [
        ({}, None, True),
        ({"LOCAL_RANK": "1"}, None, False),  # Lightning's
        (TORCHRUN, Started("torchrun", 1, 2), False),
        (TORCHRUN | {"RANK": "0"}, Started("torchrun", 0, 2), True),
        (SLURM, Started("SLURM", 3, 4), False),
        (SLURM | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, Started("SLURM", 0, 4), True),
        (SLURM | TORCHRUN, Started("torchrun", 1, 2), False),
        ({"SLURM_NTASKS": "1"}, Started("SLURM", 0, 1), True),
        (SLURM | {"SLURM_JOB_NAME": "interactive"}, None, True),
    ],
)
def test_who_has_started_this_process(
    environment: dict[str, str], this: Started | None, first: bool, alone: pytest.MonkeyPatch
):
    for name, value in environment.items():
        alone.setenv(name, value)
    assert (started(), is_first_process()) == (this, first)


@pytest.mark.parametrize(
    ("environment", "options", "said"),
    [
        (TORCHRUN, (2, 2), "torchrun has started 2 processes, and trainer.devices=2 on trainer"),
        (TORCHRUN, (1, 1), "num_nodes=1 are 1: give trainer=ddp"),
        (TORCHRUN, (1, 2), None),
        (TORCHRUN, (2, 1), None),
        (SLURM, (1, 1), r"SLURM has started 4 processes.*srun --nodes --ntasks-per-node"),
        ({"SLURM_NTASKS": "1"}, (2, 1), "SLURM has started 1 process, and trainer.devices=2"),
        ({"SLURM_NTASKS": "1"}, (1, 1), None),
        ({"SLURM_NTASKS": "4"}, (2, 2), "start it by srun, or give the job one task"),
        ({}, (2, 1), None),
        ({}, (1, 2), "trainer.num_nodes=2: the processes of several nodes are started by torchrun"),
    ],
)
def test_another_number_of_processes_is_refused(
    environment: dict[str, str],
    options: tuple[int, int],
    said: str | None,
    alone: pytest.MonkeyPatch,
    settings_of,
):
    for name, value in environment.items():
        alone.setenv(name, value)
    devices, nodes = options
    trainer = settings_of(
        "trainer=ddp", f"trainer.devices={devices}", f"trainer.num_nodes={nodes}"
    ).trainer
    if said is None:
        check_processes(trainer)
    else:
        with pytest.raises(UserError, match=said):
            check_processes(trainer)


def test_a_multirun_of_several_processes_is_refused(
    alone: pytest.MonkeyPatch, quick: list[str], tmp_path: Path
):
    from mmlabel.cli import run_cli
    from train import main

    for name, value in TORCHRUN.items():
        alone.setenv(name, value)
    alone.chdir(tmp_path)
    alone.setattr(sys, "argv", ["train.py", "-m", *quick, "seed=0,1"])
    alone.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit, match="process 1: torchrun has started 2 processes, which"):
        run_cli(main)
    assert not list(tmp_path.iterdir())


def test_the_end_of_another_process_is_a_message(monkeypatch: pytest.MonkeyPatch):
    said = "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.77.0.1]:44131"
    with pytest.raises(RuntimeError, match="gloo"), trainer_errors():
        raise RuntimeError(said)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(ProcessLost, match="another process of this run has ended"):
        with trainer_errors():
            raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="a bug"), trainer_errors():
        raise RuntimeError("a bug")


def test_where_a_run_fails_its_further_processes_end(monkeypatch: pytest.MonkeyPatch):
    """Also one that hears of nothing. An empty list ends the thread of Lightning's, too."""
    from mmlabel import processes

    monkeypatch.setattr(processes, "_GRACE", 0.5)
    ignores = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    children = []
    for first in ("pass", ignores):
        program = f"import signal, time; {first}; print(flush=True); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline()
        child.stdout.close()
        children.append(child)
    those = list(children)
    with processes.ends_with_children(lambda: children):
        pass
    assert [child.poll() for child in children] == [None, None]
    with pytest.raises(RuntimeError, match="a bug"), processes.ends_with_children(lambda: children):
        raise RuntimeError("a bug")
    assert children == []
    assert [child.returncode for child in those] == [-signal.SIGTERM, -signal.SIGKILL]


def test_a_single_process_agrees_with_itself(alone: pytest.MonkeyPatch):
    assert agreed("outputs/here") == "outputs/here"


# ---- For real -------------------------------------------------------------------------------


class Node(NamedTuple):
    """Where a command is run."""

    prefix: list[str]
    address: str
    interface: str


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """Two network namespaces with a cable between them."""
    names = [f"mmlabel-{os.getpid()}-{n}" for n in (0, 1)]
    cables = [f"mml{os.getpid() % 100_000}-{n}" for n in (0, 1)]
    made = [Node(["ip", "netns", "exec", names[n]], f"10.77.0.{n + 1}", cables[n]) for n in (0, 1)]
    steps = [["netns", "add", name] for name in names]
    steps += [["link", "add", cables[0], "type", "veth", "peer", "name", cables[1]]]
    for name, node in zip(names, made, strict=True):
        steps += [
            ["link", "set", node.interface, "netns", name],
            ["-n", name, "addr", "add", f"{node.address}/24", "dev", node.interface],
            ["-n", name, "link", "set", node.interface, "up"],
            ["-n", name, "link", "set", "lo", "up"],
        ]
    try:
        for step in steps:
            subprocess.run(["ip", *step], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode().strip() or error
        pytest.skip(f"network namespaces cannot be made here ({said}): left out")
    else:
        yield made
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def start(
    node: Node, command: Sequence[str], cwd: Path, **environment: str
) -> subprocess.Popen[str]:
    own = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": node.interface}
    return subprocess.Popen(
        [*node.prefix, sys.executable, *command],
        cwd=cwd,
        env=os.environ | own | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def torchrun(node: Node, first: Node) -> list[str]:
    options = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    options += ["--rdzv-backend=c10d", f"--rdzv-endpoint={first.address}:29511", "--rdzv-id=test"]
    options += [f"--rdzv-conf=is_host={node is first}"]  # by its name nobody knows a namespace
    return [*options, f"--local-addr={node.address}", str(REPOSITORY / "train.py")]


TWO = ["trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2"]


def assert_is_one(folder: Path, one: Path) -> None:
    """The run in `folder`, by two processes, is the run of one."""
    for column in ("train/loss", "val/loss", "lr"):
        assert history(folder, column) == pytest.approx(history(one, column), abs=1e-5), column
    two, single = results_of(folder), results_of(one)
    assert two["rows"] == single["rows"]
    assert two["scores"] == pytest.approx(single["scores"], abs=1e-4), json.dumps(two["scores"])


@pytest.fixture(scope="module")
def one(settings_of, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    cache = tmp_path_factory.mktemp("cache-of-one")
    train(settings_of(*EXACT, f"cache_dir={cache}"), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("caches", ["one", "one each"])
def test_torchrun_on_two_nodes(
    caches: str, nodes: list[Node], one: Path, quick: list[str], tmp_path: Path
):
    given = [*quick, *EXACT, *TWO]
    folders = [tmp_path / f"cache{n if caches == 'one each' else ''}" for n in (0, 1)]
    processes = [
        start(node, [*torchrun(node, nodes[0]), *given, f"cache_dir={folder}"], tmp_path)
        for node, folder in zip(nodes, folders, strict=True)
    ]
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    (results,) = tmp_path.glob("outputs/*/*/results.json")
    assert_is_one(results.parent, one)
    for folder in folders:
        (store,) = stores(folder)
        assert store.rows == VIEWS
    shared = [f"features of {VIEWS // 2} views"]
    log = (results.parent / "train.log").read_text()
    assert all(text in log for text in shared), log
    assert not (results.parent / "failed.json").exists()


@pytest.mark.slow
def test_ctrl_c_on_one_node_ends_both(nodes: list[Node], quick: list[str], tmp_path: Path):
    given = [*quick, *EXACT, *TWO, "trainer.max_epochs=100000", "hydra.run.dir=run"]
    processes = [start(node, [*torchrun(node, nodes[0]), *given], tmp_path) for node in nodes]
    end = time.monotonic() + 300
    written = tmp_path / "run" / "metrics.csv"
    while not (written.exists() and len(written.read_text().splitlines()) > 5):
        assert time.monotonic() < end and processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.1)
    processes[0].send_signal(signal.SIGINT)
    said = "\n".join(process.communicate(timeout=120)[0] for process in processes)
    assert all(process.returncode for process in processes)
    assert f'File "{REPOSITORY / "mmlabel"}' not in said, said  # torchrun has tracebacks of its own
    assert said.count("mmlabel: interrupted") == 1, said
    assert (tmp_path / "run" / "last.ckpt").is_file()
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
def test_slurm_starts_two_tasks(one: Path, quick: list[str], tmp_path: Path):
    """What srun sets for each, and one of them with an error that the other hears of."""
    here = Node([], "127.0.0.1", "lo")
    tasks = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"}
    tasks |= {"SLURM_STEP_ID": "0"}
    tasks |= {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1"}

    def srun(*options: str) -> list[subprocess.Popen[str]]:
        command = [str(REPOSITORY / "train.py"), *quick, *EXACT, *options]
        ranks = [{"SLURM_PROCID": n, "SLURM_NODEID": n, "SLURM_LOCALID": "0"} for n in "01"]
        return [start(here, command, tmp_path, **tasks, **rank) for rank in ranks]

    both = srun(*TWO, f"cache_dir={tmp_path / 'cache'}")
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    (results,) = tmp_path.glob("outputs/*/*/results.json")
    assert_is_one(results.parent, one)
    wrong = srun("trainer=ddp", "trainer.devices=2", "trainer.num_nodes=2")
    said = [process.communicate(timeout=300)[0] for process in wrong]
    assert [process.returncode for process in wrong] == [1, 1]
    assert all("SLURM has started 2 processes" in text for text in said), said
    assert "Traceback" not in "".join(said)
