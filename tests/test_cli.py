"""train.py as users call it: multiruns, data-parallel runs, what wandb gets, and typos."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from wandb_records import records

REPOSITORY = Path(__file__).resolve().parent.parent


def run(*options: str, cwd: Path, code: int = 0) -> str:
    """Calls train.py in `cwd`; returns what it printed, after checking its exit code."""
    process = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *options],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "WANDB_API_KEY": "", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    output = process.stdout + process.stderr
    assert process.returncode == code, output
    return output


def test_an_option_that_is_given_twice_is_told(train_py):
    given = ["seed=1", "lstm.layers=2", "lstm.layers=2", "loss=focal", "seed=2", "loss=bce"]
    given += ["seed=3", "+trainer.min_steps=1", "trainer.min_steps=2"]
    said, code = train_py("--cfg=job", *given)
    assert code == 0 and "\nseed: 3\n" in said
    assert [line for line in said.splitlines() if "comes after" in line] == [
        "seed=1 seed=2: seed=3 comes after and is what counts",
        "loss=focal: loss=bce comes after and is what counts",
        "trainer.min_steps=1: trainer.min_steps=2 comes after and is what counts",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["lstm.layer=2"], 'there is no option "lstm.layer"; did you mean "lstm.layers"?'),
        (["backbone=vgg61"], 'there is no backbone="vgg61"; did you mean "vgg16"?'),
        (["backbone=efficientnet_lite"], '"efficientnet_lite1" or "efficientnet_lite2"?'),
        (["optimiser=adam"], 'there is no option "optimiser"; did you mean "optimizer"?'),
        (
            ["data=usyd"],
            "data.root=VALUE. The data set's folder, such as ~/usyd, which holds train",
        ),
        (["data=coco"], "data.root=VALUE. COCO's folder, such as ~/coco, which holds annotations/"),
        (["backbone=timm"], "backbone.model_name=VALUE. timm's name of it, such as efficient"),
        (
            ["data=usyd", "data.root=nowhere"],
            "nowhere does not exist: give the one that holds train",
        ),
        (["lstm.layers=two"], "lstm.layers=two: give a whole number, at least 1"),
        (["optimizer.lr=fast"], "optimizer.lr=fast: give a number, at least 0"),
        (["features.mode=sometimes"], "features.mode=sometimes: give one of auto, on, off"),
        (["loss.name=bec"], 'give loss=bec; did you mean "bce"?'),
        (["data.augment=crop"], 'did you mean "data.augment=[crop]"?'),
        (["data.augment=[crop,crob]"], 'did you mean "crop"?'),
        (["train=false"], "train=false evaluates a checkpoint: add ckpt_path=FILE"),
        (["ckpt_path=nothing.ckpt"], "there is no file nothing.ckpt"),
        (["data.separator=,"], "data.separator=, cannot be read as OPTION=VALUE"),
        (["data.separator=;"], "is quoted once for the shell and once more within"),
        (["data.root=/my", "data/rows.csv"], "data/rows.csv cannot be read as OPTION=VALUE"),
        (
            ["data.separator=;", "data.label_column=été"],
            "\"data.separator=';'\" \"data.label_column='été'\"",
        ),
        (
            ["data.label_names=[Red Shirt,été, 'x, y',NO]"],
            """within: 'data.label_names=["Red Shirt","été","x, y","NO"]'""",
        ),
        (
            ["data=csv", "data.file=x.csv", "data.label_columns=[NO,null]"],
            """null: give a list of at least 1 text, or null; where it is a text, it is quoted"""
            """ within, as it is written: 'data.label_columns=["null"]'""",
        ),
        (
            ["data=csv", "data.file=x.csv", "data.label_column=true"],
            "(in a file also yes, no, on and off), it is quoted within, as it is written:"
            """ 'data.label_column="true"'""",
        ),
        (
            ["data=csv", "data.file=x.csv", "data.label_names=[NO,1e3]"],
            """label_names, 1000.0: give a list of at least 1 text, or null; where it is a text,"""
            """ it is quoted within, as it is written: 'data.label_names=["1e3"]'""",
        ),
        (["data.separator=;", "data.capton_column=été"], 'did you mean "data.caption_column"?'),
        (["lstm.hidden=64,128"], "several values, and a run takes one (train.py -m makes a run of"),
        (["logger.wandb.project=x"], "(only with logger=wandb): give that, too, or leave it out"),
        (["logger.wandb.entity=x"], "logger.wandb.entity does not exist with this logger (only"),
        (["logger.wandb=true"], "give logger=wandb"),
        (["model.head=5"], "give model.head.OPTION=VALUE"),
        (["name='run-${hydra:job.num}'"], "job.num tells several runs (-m) apart"),
        (["resume=true"], "each start has a new one: add hydra.run.dir=DIR, or leave it out"),
        (["-m", "resume=true", "seed=0,1"], "add hydra.sweep.dir=DIR, or leave it out"),
        (["-m", "resume=true,false", "hydra/launcher=cores"], "add hydra.sweep.dir=DIR, or leave"),
        (["-m", "seed=0,1", "hydra.run.dir=here"], "give hydra.sweep.dir=DIR, or leave -m out"),
        (["hydra.sweep.dir=here"], "give hydra.run.dir=DIR, or add -m"),
        (["hydra.run.dir="], "hydra.run.dir= is no folder: give one, or leave it out"),
        (["-m", "seed=0,1", "hydra.sweep.dir="], "hydra.sweep.dir= is no folder: give one, or"),
        (["=3"], "=3: no option is named before the equals sign"),
        (
            ["embedding=[glove]"],
            "embedding=[glove]: embedding is a group of options: give embedding=",
        ),
        (["model=[fusion,image_only]"], "give model=NAME, one of "),
        (
            ["-m", "loss=bce,[focal]"],
            "loss=bce,[focal]: loss is a group of options: give loss=NAME",
        ),
        (
            ["hydra/launcher=[cores]"],
            "give hydra/launcher=NAME, one of cluster, cores, local, slurm",
        ),
        (["embedding=null"], "embedding=null: embedding is a group of options: give embedding="),
        (["-m", "embedding=glove,null"], "glove,null: embedding is a group of options: give"),
        (["logger.wandb=false"], "give logger=wandb, or without it logger=csv or tensorboard"),
        (
            ["backbone.vgg16=1"],
            "backbone.vgg16=1: vgg16 is chosen by its group: give backbone=vgg16",
        ),
        (["optimizer="], "optimizer=: optimizer is a group of options: give optimizer=NAME"),
        (["data=_splits"], 'there is no data="_splits"; choose from '),
        (["-m", "model=fusion,_head"], 'there is no model="_head"; choose from '),
        (["experiment=null"], "give experiment=NAME, one of best, "),
        (
            ["-m", "hydra/launcher=cluster", "seed=0,1"],
            "launcher=ray is not installed: pip install",
        ),
        (["hydra/sweeper=null"], "this is a group of options: hydra/sweeper=NAME, or leave it out"),
        (["xyzzy=3"], 'there is no option "xyzzy"; python train.py --help lists all'),
        (["callbacks.xx=1"], 'no option "callbacks.xx"; there are callbacks.model_summary, '),
        (["+trainer.foo=1"], 'no option "trainer.foo"; there are trainer.accelerator, '),
        (["trainer.epochs=1"], 'did you mean "trainer.max_epochs"?'),
        (["trainer.callbacks=1"], "trainer.callbacks cannot be set: use callbacks=NAME"),
        (["trainer.min_steps=1"], "give it as +trainer.min_steps=VALUE"),
        (
            ["lstm.layer=2", "loss=bec", "optimiser=adam", "trainer.epochs=3"],
            'did you mean "bce"?; also: there is no option "lstm.layer"; did you mean'
            ' "lstm.layers"?; also: there is no option "optimiser"; did you mean "optimizer"?;'
            ' also: there is no option "trainer.epochs"; did you mean "trainer.max_epochs"?',
        ),
        (
            ["lstm.layer=2", "data.row=[9,9,9]"],
            '"lstm.layers"?; also: there is no option "data.row"; did you mean "data.rows"?',
        ),
        (
            ["lstm.dropout=0.5", "distil.weight=0.3", "distil.temperature=2"],
            "lstm.layers=1: it is between layers; leave it out; also: distil.weight=0.3"
            " distil.temperature=2: no effect with distil.teacher=null",
        ),
        (["data.seperator=,"], 'data.seperator=\',\'"; also: there is no option "data.seperator"'),
        (["--multrun"], "--multrun: there is no such flag; did you mean --multirun?"),
        (["seed=x", "lstm.layers=0"], "; also: lstm.layers=0: give a whole number, at least 1"),
        (["--config-name=foo"], 'there is no configuration "foo": leave --config-name out'),
        (["--cfg=job", "-m"], "--multirun and --cfg: give one of them"),
        (["--resolve"], "--resolve is for --cfg job"),
        (
            ["hydra.searchpath=[no/such,'file:///nor_this']"],
            "'file:///nor_this']: there is no folder no/such, /nor_this",
        ),
        (["--max-epochs=3"], 'no option "max_epochs"; did you mean "trainer.max_epochs"?'),
        (
            ["--max-epochs=3", "--multrun", "--batch-size", "4"],
            'mean "trainer.max_epochs"?; also: --multrun: there is no such flag; did you mean'
            " --multirun?; also: --batch-size: options are given without dashes",
        ),
        (
            ["embedding=null", "optimizer=", "=3"],
            "embedding.OPTION=VALUE; also: optimizer=: optimizer is a group of options: give"
            " optimizer=NAME, one of adadelta, adam, adamw, sgd, or one of its options,"
            " optimizer.OPTION=VALUE; also: =3: no option is named",
        ),
        (["--seed=3"], "--seed=3: options are given without dashes: seed=VALUE"),
    ],
)
def test_a_mistake_is_one_message(
    options: list[str], message: str, quick: list[str], train_py, tmp_path: Path
):
    """The last line of what is printed."""
    others = any(option.startswith("data=") for option in options)
    fitting = [option for option in quick if not (others and "data." in option)]
    if "backbone=timm" in options:
        fitting = [option for option in fitting if not option.startswith("backbone")]
    flags = [option for option in options if option.startswith("-")]
    given = [option for option in options if option not in flags]
    said, code = train_py(*flags, *fitting, *given)
    assert code == 1
    last = said.splitlines()[-1]
    assert last.startswith("mmlabel: ") and message in last
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("results.json"))


ODD = """Jürgen's (1) & more = [a, {b}] #2 "c" """.strip()


@pytest.mark.parametrize("place", ["--config-dir", "hydra.searchpath"])
def test_processes_that_lightning_starts_have_the_settings_of_the_first(
    place: str, quick: list[str], train_py, tmp_path: Path, monkeypatch
):
    """With files of one's own, in folders of whatever names, in a run and in jobs of several."""
    from lightning_fabric.strategies.launchers.subprocess_script import _hydra_subprocess_cmd

    from mmlabel import training
    from mmlabel.cli import assigned

    own = tmp_path / ODD / "own"
    (own / "experiment").mkdir(parents=True)
    (own / "experiment" / "mine.yaml").write_text("# @package _global_\nlstm:\n  hidden: 12\n")
    calls = []

    def train(settings, folder, *, set_in_files, **_):
        assert set_in_files == ["lstm.hidden"]
        calls.append((settings, folder, _hydra_subprocess_cmd(1)[0][2:]))
        return {"scores": {}}

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as of `python train.py`
    given = [option for option in quick if "lstm" not in option] + ["experiment=mine"]
    flags = [place, str(own)] if place.startswith("-") else []
    if not flags:
        given.append(f"{place}=[{assigned('', own).removeprefix('=')}]")
    train_py(*flags, *given, assigned("hydra.run.dir", f"{ODD}/run"))
    idle = "lstm.dropout=0.1"  # with one layer, which a multirun leaves out
    train_py("-m", *flags, *given, idle, "seed=5", assigned("hydra.sweep.dir", f"{ODD}/runs"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    for settings, folder, command in list(calls):
        train_py(*command)
        assert calls[-1][:2] == (settings, folder) and settings.lstm.hidden == 12
    assert [folder for _, folder, _ in calls[:2]] == [
        tmp_path / ODD / "run",
        tmp_path / ODD / "runs" / "0",
    ]


@pytest.mark.parametrize("multirun", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lstm:\n  hidden: [12\n", "mine.yaml, line 4: no valid YAML: expected ',' or ']'"),
        (b"lstm:\n\thidden: 12\n", "mine.yaml, line 3: no valid YAML: found character"),
        (b"lstm:\n  hidden: 12\nname: J\xfcrgen\n", "mine.yaml, line 4: a byte that is not UTF-8"),
        (b"#\n" * 9000 + b"name: J\xfcrgen\n", "mine.yaml, line 9002: a byte that is not UTF-8"),
        (b"name: a\x00b\n", "mine.yaml: no valid YAML: "),
    ],
)
def test_a_file_of_ones_own_that_cannot_be_read_is_named(
    content: bytes, message: str, multirun: bool, train_py, tmp_path: Path
):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(b"# @package _global_\n" + content)
    flags = ["-m"] if multirun else []
    said, code = train_py(*flags, "--config-dir", str(tmp_path), "experiment=mine", "seed=1")
    assert code == 1
    assert said.splitlines()[-1].startswith(f"mmlabel: experiment/{message}")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "options",
    [
        ["hydra/launcher=slurm", "resume=true", "hydra.launcher.partition=gpu", "seed=0,1"],
        ["hydra/launcher=local", "resume=true", "seed=0,1"],
        ["hydra.sweep.dir=here", "resume=true", "seed=0,1"],
    ],
)
def test_jobs_that_are_started_again_in_their_folder_may_go_on(
    options: list[str], quick: list[str], train_py, monkeypatch
):
    """What is refused otherwise; the launcher itself is left out."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

    launched = []

    def launch(self, job_overrides, initial_job_idx):
        launched.extend(job_overrides)
        return []

    for launcher in (BasicLauncher, BaseSubmititLauncher):
        monkeypatch.setattr(launcher, "launch", launch)
    said, code = train_py("-m", *quick, *options)
    assert code == 0, said
    assert [job[-1] for job in launched] == ["seed=0", "seed=1"]


def test_a_file_without_its_package_is_told_what_it_lacks(train_py, tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("lstm:\n  hidden: 12\n")
    said, _ = train_py("--config-dir", str(tmp_path), "experiment=mine")
    assert "experiment=mine: the first line of that file has to be # @package _gl" in said
    (tmp_path / "experiment" / "mine.yaml").write_text("- lstm.hidden=12\n")
    said, _ = train_py("--config-dir", str(tmp_path), "experiment=mine")
    assert "mmlabel: experiment/mine.yaml is a list: a file of opt" in said


def test_options_may_name_the_number_of_a_job(quick: list[str], train_py, monkeypatch):
    from mmlabel import training

    names = []

    def train(settings, folder, **_):
        names.append((settings.name, folder.name, sys.argv[-2:]))
        return {"scores": {}}

    monkeypatch.setattr(training, "train", train)
    numbered = ["seed=3,4", "name='run-${hydra:job.num}'", "hydra.sweep.subdir='j${hydra.job.num}'"]
    train_py("-m", *quick, *numbered)
    assert names == [
        ("run-0", "j0", ["seed=3", "name='run-0'"]),
        ("run-1", "j1", ["seed=4", "name='run-1'"]),
    ]


def test_no_room_on_the_disk_is_a_message_wherever_it_shows(monkeypatch: pytest.MonkeyPatch):
    from mmlabel.cli import run_cli

    def write(number: int) -> None:
        raise OSError(number, os.strerror(number), "outputs/metrics.csv")

    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit, match=r"metrics.csv cannot be written \(No space left") as stop:
        run_cli(lambda: write(errno.ENOSPC))
    assert "\n" not in str(stop.value.code)
    with pytest.raises(OSError, match="Bad file descriptor"):
        run_cli(lambda: write(errno.EBADF))


def test_no_room_for_the_files_of_a_run_is_one_line(quick, train_py, monkeypatch):
    import train

    def one_run(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(train, "one_run", one_run)
    said, code = train_py(*quick)
    assert code == 1 and "a file cannot be written (No space left" in said
    assert "Error executing job" not in said


def test_help_names_the_groups_and_options(tmp_path: Path):
    output = run("--help", cwd=tmp_path)
    assert "python train.py -m lstm.layers=1,2,4,8" in output
    assert "backbone=efficientnet_lite0|efficientnet_lite1|efficientnet_lite2|resnet18" in output
    assert "lstm.layers" in output and "default 1]" in output


PRINTING = [["train.py", "--help"], ["-m", "mmlabel"], ["-m", "mmlabel.features", "list"]]


def printed_to(place: int, *command: str) -> tuple[int, str]:
    """The exit code and standard error of a command that prints there."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, *command],
        stdout=place,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=kept,
        check=False,
    )
    os.close(place)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "command", [*PRINTING, ["-c", "from mmlabel.commands import run_command as run; run(TABLE)"]]
)
def test_a_reader_that_has_gone_is_no_error(command: list[str]):
    """As with `| head`: its pipe is closed before the first line."""
    table = "lambda: __import__('mmlabel.terminal').terminal.console().print('x')"
    read, write = os.pipe()
    os.close(read)
    code, said = printed_to(write, *(text.replace("TABLE", table) for text in command))
    assert (code, said) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("command", PRINTING)
def test_output_that_goes_to_a_full_disk(command: list[str]):
    code, said = printed_to(os.open("/dev/full", os.O_WRONLY), *command)
    assert code == 1 and said.startswith("mmlabel: standard output cannot be written (No space")


def test_streams_that_are_closed(tmp_path: Path):
    """A file that is opened must not take the number of one, into which libraries print."""
    work = (
        "import os; from mmlabel.commands import run_command\n"
        "def work():\n"
        "    print('printed'); file = open('file', 'w'); os.write(1, b'x'); os.write(2, b'x')\n"
        "    os.system('echo x; echo x >&2'); return 3 if file.fileno() > 2 else 4\n"
        "raise SystemExit(run_command(work))"
    )
    command = f'exec {sys.executable} -c "$WORK" <&- >&- 2>&-'
    environment = os.environ | {"WORK": work, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 3 and (tmp_path / "file").read_text() == ""


def test_a_broken_pipe_of_another_kind_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    from mmlabel.cli import run_cli

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which `run_cli` sets, for what follows too

    with pytest.raises(BrokenPipeError):
        run_cli(lambda: (_ for _ in ()).throw(BrokenPipeError("a worker's")))


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_a_mistake_that_a_process_of_a_process_meets_is_a_message_too(wanted: str, tmp_path: Path):
    """What this one sets for Hydra is not taken for the user's wish there, which holds for both."""
    script = """
import subprocess, sys
from mmlabel.cli import run_cli
from mmlabel.errors import UserError
def main():
    if len(sys.argv) == 1:
        subprocess.run([sys.executable, __file__, "-m"])
    else:
        raise UserError("7.jpg is not a readable picture")
run_cli(main)
"""
    (tmp_path / "script.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HYDRA_FULL_ERROR": wanted}
    environment.pop("MMLABEL_FULL_ERROR", None)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if wanted == "0":
        assert done.stderr == "mmlabel: 7.jpg is not a readable picture\n"
    else:
        assert done.stderr.startswith("Traceback") and "7.jpg" in done.stderr


def test_each_job_of_a_multirun_is_a_wandb_run_of_its_own(
    quick: list[str], train_py, tmp_path: Path, monkeypatch
):
    """With its own config, history, summary and state; the failed one in between shows failed."""
    options = [*quick, "logger=wandb", "model=caption_only", "hydra.sweep.dir=sweep"]
    options += ["optimizer=sgd", "optimizer.lr=0.1,1e30,0.01"]
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    output, code = train_py("-m", *options)
    assert code == 1 and "learning rate is too high (optimizer.lr=1e+30)" in output
    runs = []
    for job in range(3):
        (file,) = (tmp_path / "sweep" / str(job)).glob("wandb/offline-run-*/*.wandb")
        content = list(records(file))
        history: dict[str, list[float]] = {}
        for item in (item for record in content for item in record.history.item):
            history.setdefault(item.nested_key[0], []).append(json.loads(item.value_json))
        runs.append(
            {
                "config": {
                    item.key: json.loads(item.value_json)
                    for record in content
                    for item in record.run.config.update
                },
                "history": history,
                "summary": {
                    item.key: json.loads(item.value_json)
                    for record in content
                    for item in record.summary.update
                    if item.key
                },
                "exit": [
                    r.exit.exit_code for r in content if r.WhichOneof("record_type") == "exit"
                ],
                "run": next(r.run for r in content if r.WhichOneof("record_type") == "run"),
            }
        )
    assert [run["exit"] for run in runs] == [[0], [1], [0]]
    assert [run["config"]["optimizer.lr"] for run in runs] == [0.1, 1e30, 0.01]
    assert {run["run"].run_group for run in runs} == {"sweep"}
    assert all(list(run["run"].tags) == ["multirun"] for run in runs)
    for job in (0, 2):
        config, history, summary = (runs[job][name] for name in ("config", "history", "summary"))
        assert config["lstm.layers"] == 1
        assert config["model.name"] == "caption_only"
        assert not any(name.startswith("backbone.") for name in config), "it uses none"
        assert not any("${" in str(value) for value in config.values())
        assert f"optimizer.lr={(0.1, 1e30, 0.01)[job]}" in runs[job]["run"].display_name
        results = json.loads((tmp_path / "sweep" / str(job) / "results.json").read_text())
        with open(tmp_path / "sweep" / str(job) / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
        assert history["train/loss"] == pytest.approx(losses)
        for name, value in results["scores"].items():
            assert summary[name] == pytest.approx(value), name
        assert summary["best_epoch"] == results["best_epoch"]
    failed = json.loads((tmp_path / "sweep" / "1" / "failed.json").read_text())
    assert "learning rate is too high" in failed["error"]
    assert not (tmp_path / "sweep" / "1" / "results.json").exists()


@pytest.mark.slow
def test_a_data_parallel_multirun_scores_as_single_runs_do(quick: list[str], tmp_path: Path):
    """Every job is whole, in its own folder, and no row counts twice: 25 rows on two processes.

    Also with an option that changes nothing in one of them, and the job's number.
    """
    options = [*quick, "data.rows=[64,25,25]", "data.batch_size=16", "lstm.dropout=0.2"]
    options += ["trainer=ddp", "lstm.layers=1,2", "seed=${hydra:job.num}", "hydra.sweep.dir=ddp"]
    run("-m", *options, cwd=tmp_path)
    folders = sorted(path.name for path in (tmp_path / "ddp").iterdir())
    assert folders == ["0", "1", "multirun.yaml"]
    assert not (tmp_path / "outputs").exists()
    for job, layers in ((0, 1), (1, 2)):
        folder = tmp_path / "ddp" / str(job)
        results = json.loads((folder / "results.json").read_text())
        assert results["settings"]["lstm"]["layers"] == layers
        assert results["settings"]["seed"] == job
        assert len((folder / "predictions.csv").read_text().splitlines()) == 26
        checkpoint = folder / "best.ckpt"
        run(*quick, "data.rows=[64,25,25]", "train=false", f"ckpt_path={checkpoint}",
            f"hydra.run.dir=again{job}", f"lstm.layers={layers}", cwd=tmp_path)  # fmt: skip
        again = json.loads((tmp_path / f"again{job}" / "results.json").read_text())
        assert again["scores"] == pytest.approx(results["scores"], abs=1e-6)


def test_the_further_processes_of_a_job_are_told_its_number(tmp_path: Path, monkeypatch):
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    from mmlabel.help import CONF
    from mmlabel.hydra_job import one_job

    given = [r"seed=$\{hydra\:job.num\}", "name='run ${hydra:job.id}'", "lstm.layers=2"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        own = ["hydra.job.num=3", "hydra.job.id=four"]
        config = compose("train", [*given, *own], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(config)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", *given])
    with one_job(tmp_path):
        assert sys.argv == ["train.py", "seed=3", "name='run four'", "lstm.layers=2"]
    assert sys.argv[1] == "-m"


@pytest.mark.slow
def test_a_data_parallel_job_that_fails_leaves_the_others(quick: list[str], tmp_path: Path):
    """Lightning would kill the whole multirun some seconds after the job has failed."""
    options = [option for option in quick if not option.startswith(("backbone", "features"))]
    options += ["trainer=ddp", "model=caption_only", "optimizer=sgd", "hydra.sweep.dir=sweep"]
    output = run("-m", *options, "optimizer.lr=1e30,0.01", cwd=tmp_path, code=1)
    failed = json.loads((tmp_path / "sweep" / "0" / "failed.json").read_text())
    assert "learning rate is too high" in failed["error"], output
    results = json.loads((tmp_path / "sweep" / "1" / "results.json").read_text())
    assert results["epochs"] == 2 and not (tmp_path / "sweep" / "1" / "failed.json").exists()


def test_what_an_experiments_file_sets_is_known():
    """Its choices of groups too."""
    from hydra import initialize_config_dir

    from mmlabel.help import CONF
    from mmlabel.hydra_job import set_in_files

    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = set_in_files(["experiment=report_vgg16", "lstm.layers=2"])
    assert {"backbone.name", "optimizer.name", "data.upright", "lstm.pooling"} <= set(found)
    assert "lstm.layers" not in found


def test_what_an_experiments_file_inherits_is_known():
    from hydra import initialize_config_dir

    from mmlabel.help import CONF
    from mmlabel.hydra_job import set_in_files

    with initialize_config_dir(str(CONF), version_base="1.3"):
        own = set(set_in_files(["experiment=best"]))
        assert {"optimizer.lr", "model.name", "threshold", "loss.smoothing"} <= own
        further = {"backbone.pyramid", "backbone.pooling", "features.precision"}
        assert own | further == set(set_in_files(["experiment=best_quick"]))
        assert own < set(set_in_files(["experiment=best_connected"]))
