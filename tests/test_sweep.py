"""sweep.py as users call it: what is run, repeated, recorded, printed."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import write_fake_run
from PIL import Image
from resumed_runs import history, run_killed_in_epoch

import sweep as script
from mmlabel.cli import load_settings
from mmlabel.errors import UserError
from mmlabel.help import CONF
from mmlabel.parts import build
from mmlabel.run_folder import hold
from mmlabel.study import extras
from mmlabel.study.definition import Collection, Study, Variant, load_study, study_names
from mmlabel.study.launch import _longest_first
from mmlabel.study.plan import Job


def call(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep.py", *options])
    script.main()


class Launcher:
    """Stands in for the real one: finishes every job at once, or fails those it is told to."""

    def __init__(self) -> None:
        self.launched: list[list[str]] = []
        self.failing: set[str] = set()

    def __call__(
        self,
        jobs: list[Job],
        *,
        main: object,
        runs: Path,
        options: list[str],
        workers: int | None,
        metric: str,
    ) -> None:
        self.workers = workers
        self.launched.append([job.title for job in jobs])
        for job in jobs:
            if job.title in self.failing:
                job.folder.mkdir(parents=True, exist_ok=True)
                (job.folder / "failed.json").write_text(json.dumps({"error": "no weights"}))
            else:
                noise = 0.1 * (1 + len(job.variant.name + job.variant.overrides[-1]) % 5)
                write_fake_run(
                    job.folder, seed=job.seed, noise=noise, settings=job.settings.plain()
                )


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    fake = Launcher()
    monkeypatch.setattr(script, "launch", fake)
    return fake


@pytest.fixture
def options(quick: list[str], tmp_path: Path) -> list[str]:
    return [*quick, f"out={tmp_path / 'studies'}"]


def test_finished_runs_are_not_repeated(monkeypatch, launcher, options, tmp_path, capsys):
    call(monkeypatch, "study=optimizer", "seeds=2", *options)
    assert launcher.launched == [
        ["adadelta, seed 0", "adadelta, seed 1", "adam, seed 0", "adam, seed 1"]
    ]
    printed = capsys.readouterr().out
    assert "python train.py -m" in printed and "optimizer.lr=1e-3" in printed
    assert "no difference shown" in printed or "worse" in printed or "better" in printed
    folder = tmp_path / "studies" / "optimizer"
    assert {path.name for path in folder.iterdir()} == {
        "results.csv",
        "runs.csv",
        "table.md",
        "report.html",
    }

    call(monkeypatch, "study=optimizer", "seeds=2", *options)
    assert len(launcher.launched) == 1
    call(monkeypatch, "study=optimizer", "seeds=3", *options)
    assert launcher.launched[1:] == [["adadelta, seed 2", "adam, seed 2"]]


@pytest.mark.parametrize("flag", ["--config-dir=DIR", "hydra.searchpath=['DIR']"])
def test_files_of_ones_own_are_found(flag, monkeypatch, launcher, options, tmp_path, capsys):
    """As train.py finds them, which the printed commands are for."""
    own = tmp_path / "own [1], it's"
    (own / "experiment").mkdir(parents=True)
    mine = own / "experiment" / "mine.yaml"
    mine.write_text("# @package _global_\nlstm:\n  hidden: 12\n")
    given = [option for option in options if "lstm" not in option]
    within = str(own) if flag.startswith("-") else str(own).replace("'", "\\'")
    place = flag.replace("DIR", within)
    call(monkeypatch, "study=optimizer", "seeds=1", *given, "experiment=mine", place)
    records = [json.loads(file.read_text()) for file in tmp_path.rglob("results.json")]
    assert [record["settings"]["lstm"]["hidden"] for record in records] == [12, 12]
    printed = f"hydra.searchpath=['{own}']".replace("it's", r"it\'s")
    assert shlex.quote(printed) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--config-dir=no/such"], "--config-dir no/such: there is no such folder"),
        (
            ["--config-dir", "conf", "hydra.searchpath=[tests]"],
            "--config-dir conf: add it to hydra.searchpath=[tests], which means the same",
        ),
    ],
)
def test_places_of_files_of_ones_own_that_cannot_be(monkeypatch, launcher, given, said):
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        call(monkeypatch, "study=optimizer", *given)
    assert not launcher.launched


def test_extras_that_are_not_installed_are_named_before_anything_runs(monkeypatch, options, capsys):
    there = {"transformers", "openvino"}
    monkeypatch.setattr(extras, "find_spec", lambda name: True if name in there else None)
    detectors = [
        Variant(name, name, ["model=detector", f"detector={name}"])
        for name in ("yolov5s", "yolov5m")
    ]
    lite = Variant("lite", "Lite", ["model=image_only", "backbone=efficientnet_lite2"])
    study = replace(real_study(*detectors, lite), baseline="lite", variants=[*detectors, lite])
    monkeypatch.setattr(script, "load_study", lambda name: study)
    fitting = [option for option in options if not option.startswith("backbone")]
    call(monkeypatch, "study=real", *fitting, "seeds=1", "--dry-run")
    said = capsys.readouterr().out
    assert "pip install -e '.[yolo]' for yolov5s, yolov5m\n" in said
    assert "pip install -e '.[lite]' for lite\n" in said


@pytest.mark.parametrize("data", ["usyd", "csv", "coco"])
def test_pictures_of_other_content_are_noticed(settings_of, made, tmp_path, caplog, data):
    folder = tmp_path / "made"
    shutil.copytree(made, folder)
    where = {
        "usyd": f"data.root={folder}",
        "csv": f"data.file={folder / 'rows.csv'}",
        "coco": f"data.root={folder}",
    }
    settings = settings_of("model=image_only", f"data={data}", where[data])

    def now() -> str | None:
        return script.Sweep({}, [], dry_run=False).read(settings).get("pictures")

    recorded = build(settings, None, wandb_id=None).inputs["pictures"]
    assert now() == recorded
    picture = folder / "data" / "0.jpg"
    Image.new("RGB", (44, 36), "white").save(picture, format="PNG")
    assert now() not in (recorded, None)
    assert now() == build(settings, None, wandb_id=None).inputs["pictures"]
    picture.unlink()
    assert now() is None and "not all pictures are there" in caplog.text


def test_studies_share_the_runs_they_have_in_common(monkeypatch, launcher, options):
    call(monkeypatch, "study=lstm_layers", "seeds=1", *options)
    call(monkeypatch, "study=pos_weight", "seeds=1", *options)
    # One layer is the default, and so is a loss without weights.
    assert launcher.launched[1] == ["with, seed 0"]


def test_studies_beside_an_experiment(monkeypatch, cache, tmp_path, capsys):
    """Whose rate is for AdamW: a study that trains by Adadelta has to be given one."""
    options = ["seeds=1", "--dry-run", "data.rows=[8,4,4]", f"cache_dir={cache}"]
    options += [f"out={tmp_path}"]
    with pytest.raises(UserError, match="^experiment=best sets .* give optimizer.lr=5.0"):
        call(monkeypatch, "study=pos_weight", "experiment=best", *options)
    call(monkeypatch, "study=pos_weight", "experiment=best", "optimizer.lr=5.0", *options)
    # Which gives its rates itself.
    call(monkeypatch, "study=optimizer", "experiment=best", *options)
    call(monkeypatch, "study=ingredients", "backbone=efficientnet_lite0", *options)
    assert "best, seed 0" in capsys.readouterr().out


def test_failed_runs_are_recorded_and_tried_again(monkeypatch, launcher, options, tmp_path, capsys):
    launcher.failing = {"2, seed 0", "2, seed 1"}
    with pytest.raises(UserError, match="2 runs failed"):
        call(monkeypatch, "study=lstm_layers", "seeds=2", *options)
    assert "2, seed 0: no weights" in capsys.readouterr().err
    page = (tmp_path / "studies" / "lstm_layers" / "report.html").read_text()
    assert "no weights" in page
    launcher.failing = set()
    call(monkeypatch, "study=lstm_layers", "seeds=2", *options)
    assert launcher.launched[1] == ["2, seed 0", "2, seed 1"]


def test_a_dry_run_says_what_would_run_and_for_how_long(monkeypatch, launcher, options, capsys):
    call(monkeypatch, "study=lstm_layers", "seeds=1", "--dry-run", *options)
    assert launcher.launched == []
    printed = capsys.readouterr().out
    assert printed.count("would run") == 4 and "unknown" in printed
    call(monkeypatch, "study=lstm_layers", "seeds=1", *options)
    capsys.readouterr()
    call(monkeypatch, "study=lstm_layers", "seeds=2", "--dry-run", *options)
    printed = capsys.readouterr().out
    assert printed.count("would run") == 4 and printed.count("finished  ") == 4
    assert "about 40 s\n" in printed
    # Of positive weights nothing has run, which may take longer.
    call(monkeypatch, "study=pos_weight", "seeds=1", "--dry-run", *options)
    assert "about 10 s (no run of with has finished: judged by others)" in capsys.readouterr().out


def test_a_dry_run_needs_no_data(monkeypatch, launcher, options, capsys, tmp_path):
    missing = ["data=usyd", f"data.root={tmp_path / 'nowhere'}"]
    options = [option for option in options if not option.startswith("data.rows")]
    call(monkeypatch, "study=lstm_layers", "--dry-run", *options, *missing)
    said = capsys.readouterr()
    assert said.out.count("would run") == 12
    assert said.err.count("nowhere does not exist") == 1 and "what has finished" in said.err
    with pytest.raises(UserError, match="nowhere does not exist"):
        call(monkeypatch, "study=lstm_layers", *options, *missing)
    assert launcher.launched == []


def test_a_collection_runs_each_study_and_leads_to_their_pages(
    monkeypatch, launcher, options, tmp_path, capsys
):
    parts = [script.load_study("pos_weight"), script.load_study("lstm_layers")]
    both = Collection("both", "Both", "Which?", parts)
    monkeypatch.setattr(script, "load_study", lambda name: both)
    call(monkeypatch, "study=both", "seeds=1", "lstm.layers=1", *options)
    # The second shares one run with the first.
    assert [len(jobs) for jobs in launcher.launched] == [2, 3]
    assert 'study "lstm_layers" compares lstm.layers' in capsys.readouterr().err
    index = (tmp_path / "studies" / "both" / "index.html").read_text()
    for part in parts:
        assert f'href="../{part.name}/report.html"' in index
        assert (tmp_path / "studies" / part.name / "report.html").is_file()
        assert part.title in (tmp_path / "studies" / "both" / "table.md").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["study=lstm_layer"], 'did you mean "lstm_layers"'),
        (["stdy=lstm_layers"], "which study"),
        (
            ["lstm_layers"],
            '"lstm_layers": options are given as OPTION=VALUE: give study=lstm_layers',
        ),
        (["--seeds=3"], "--seeds=3: options are given without dashes: seeds=VALUE"),
        (["--dry_run"], "--dry_run: there is no such flag; did you mean --dry-run?"),
        (["study=lstm_layers", "seeds=x"], "seeds=x: give a whole number"),
        (["study=lstm_layers", "seed=1"], "give seeds=N"),
        (["study=lstm_layers", "test=false"], "trains and tests"),
        (["study=lstm_layers", "lstm.layers=1"], "is what the study"),
        (["seed=1", "test=false"], "how many; also: test=false: a study trains"),
        (["study=lstm_layers", "dryrun"], '"dryrun": options are given as'),
        (["study=lstm_layers", "data=usyd"], "data.root must be given"),
        (["study=lstm_layers", "wandb.workspace=yes"], "give true or false"),
        (["study=lstm_layers", "jobs=0"], "jobs=0: give a whole number, 1 or more"),
        (
            ["study=lstm_layers", "jobs=many"],
            "jobs=many: give a whole number, 1 or more, such as 3 or auto",
        ),
        (["study=lstm_layers", "jobs=2", "hydra/launcher=joblib"], "has options of its own"),
        (["study=lstm_layers", "debug=overfit"], "variant 1: test=false: a study trains and tests"),
        (["study=lstm_layers", "debug=fast"], "trainer.fast_dev_run=true: a study trains and"),
        (["study=lstm_layers", "trainer.limit_test_batches=0"], "a study trains and tests each"),
        (["study=lstm_layers", "hydra.sweep.dir=x"], "go to OUT/runs: give out=OUT"),
    ],
)
def test_mistakes_get_a_message(monkeypatch, launcher, given, message):
    with pytest.raises(UserError) as error:
        call(monkeypatch, *given)
    assert message in str(error.value)
    assert launcher.launched == []


def test_its_own_options_may_be_quoted_as_the_others():
    given = ["study='mine/a b.yaml'", 'out="o\'s"', "jobs=2", "data.file='a b'"]
    own, others = script.split_options(given)
    assert own == {"study": "mine/a b.yaml", "out": "o's", "jobs": "2"}
    assert others == ["data.file='a b'"]


def test_without_a_study_they_are_listed(monkeypatch, capsys):
    call(monkeypatch)
    assert "lstm_layers" in capsys.readouterr().out


def test_a_study_that_cannot_be_read_does_not_hide_the_others(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "study"
    shutil.copytree(CONF / "study", folder)
    (folder / "broken.yaml").write_text("title: [x\nquestion: y\n")
    (folder / "my_list.yaml").write_text("title: x\nquestion: y\nstudies: [broken]\n")
    (folder / "wrong.yaml").write_text("titel: x\n")
    monkeypatch.setattr(script, "study_names", lambda: study_names(folder))
    monkeypatch.setattr(script, "load_study", lambda name: load_study(name, folder))
    with pytest.raises(
        UserError, match=r"broken.yaml, line 2: no valid YAML: .*; .*wrong.yaml: un"
    ):
        call(monkeypatch)
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in study_names())


@pytest.mark.parametrize(("given", "workers"), [([], 1), (["jobs=3"], 3), (["jobs=auto"], None)])
def test_how_many_runs_at_a_time(monkeypatch, launcher, options, given, workers):
    call(monkeypatch, "study=optimizer", "seeds=1", *given, *options)
    assert launcher.workers == workers


def test_a_damaged_run_is_run_again_and_said(monkeypatch, launcher, options, tmp_path, capsys):
    call(monkeypatch, "study=optimizer", "seeds=2", *options)
    damaged, missing = sorted((tmp_path / "studies" / "runs").iterdir())[:2]
    results = (damaged / "results.json").read_bytes()
    (damaged / "results.json").write_bytes(results.replace(b'"finished"', b'"finishes"'))
    (missing / "metrics.csv").unlink()
    capsys.readouterr()
    call(monkeypatch, "study=optimizer", "seeds=2", *options)
    assert len(launcher.launched[1]) == 2
    said = capsys.readouterr().err
    for path in (damaged / "results.json", missing / "metrics.csv"):
        assert f"{path} is not as the run wrote it: " in said


def test_two_sweeps_do_not_write_to_one_folder(monkeypatch, launcher, options, tmp_path):
    with hold(tmp_path / "studies"):
        with pytest.raises(UserError, match="another process is writing to .*studies"):
            call(monkeypatch, "study=optimizer", "seeds=1", *options)
        call(monkeypatch, "study=optimizer", "seeds=1", "--dry-run", *options)
    assert launcher.launched == []
    call(monkeypatch, "study=optimizer", "seeds=1", *options)
    assert len(launcher.launched) == 1


def real_study(*variants: Variant) -> Study:
    return Study("real", "Real runs", "Do they run?", "both", [BOTH, *variants])


BOTH = Variant("both", "Both", ["model=fusion"], 0.8, {})
CAPTION = Variant("caption", "Caption", ["model=caption_only"], None, {})


def files_of(folder: Path) -> dict[tuple[str, str], str]:
    """What the runs of a sweep have found: predictions and history by variant and file."""
    return {
        (json.loads((run / "results.json").read_text())["variant"], name): (run / name).read_text()
        for run in (folder / "runs").iterdir()
        for name in ("predictions.csv", "metrics.csv")
    }


def test_runs_side_by_side_find_what_runs_one_after_the_other_find(
    monkeypatch, options, quick, tmp_path, capsys
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = real_study(CAPTION, Variant("deep", "Deep", ["lstm.layers=2"]))
    monkeypatch.setattr(script, "load_study", lambda name: study)
    call(monkeypatch, "study=real", "seeds=1", *options)
    said = capsys.readouterr().err
    assert "1 of 3: both, seed 0: test/f1_micro 0." in said and "3 of 3: deep" in said
    call(monkeypatch, "study=real", "seeds=1", "jobs=3", *quick, f"out={tmp_path / 'beside'}")
    one, beside = files_of(tmp_path / "studies"), files_of(tmp_path / "beside")
    assert len(one) == 6 and one == beside
    said = capsys.readouterr().err
    assert "1 of 3: " in said and "3 of 3: " in said and "epoch" not in said
    logs = [path.read_text() for path in (tmp_path / "beside" / "runs").glob("*/output.log")]
    assert len(logs) == 3 and all("epoch 1" in log and "Scores" in log for log in logs)


def test_an_interrupted_run_goes_on_where_that_is_asked_for(
    monkeypatch, options, quick, settings_of, tmp_path
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = real_study(CAPTION)
    monkeypatch.setattr(script, "load_study", lambda name: study)
    call(monkeypatch, "study=real", "seeds=1", *options)
    sweep = script.Sweep({"out": str(tmp_path / "cut"), "seeds": "1"}, quick, dry_run=True)
    (folder,) = (j.folder for j in sweep.jobs(study, quick) if j.variant.name == "caption")
    run_killed_in_epoch(settings_of, folder, 1, "model=caption_only")
    call(monkeypatch, "study=real", "seeds=1", "resume=true", *quick, f"out={tmp_path / 'cut'}")
    assert "an interrupted run has left" in (folder / "train.log").read_text()
    predictions = ("caption", "predictions.csv")
    whole = files_of(tmp_path / "studies")[predictions]
    assert files_of(tmp_path / "cut")[predictions] == whole
    assert history(folder) == history(tmp_path / "studies" / "runs" / folder.name)
    # Of a run that has finished and was damaged nothing is gone on with.
    (folder / "predictions.csv").unlink()
    call(monkeypatch, "study=real", "seeds=1", "resume=true", *quick, f"out={tmp_path / 'cut'}")
    assert "an interrupted run has left" not in (folder / "train.log").read_text()
    assert files_of(tmp_path / "cut")[predictions] == whole


def test_a_study_runs_in_a_folder_of_any_name(monkeypatch, quick, tmp_path):
    study = real_study()
    monkeypatch.setattr(script, "load_study", lambda name: study)
    out = tmp_path / "Jürgen's (1) & more = [a, {b}] #2"
    call(monkeypatch, "study=real", "seeds=1", *quick, f"out={out}")
    assert len(files_of(out)) == 2


def test_of_jobs_side_by_side_the_longest_is_begun_first(tmp_path):
    def job(name: str, *overrides: str) -> Job:
        settings = load_settings(list(overrides))
        return Job(Variant(name, name, []), 0, [], tmp_path, settings)

    jobs = [
        job("picture", "model=image_only"),
        job("one", "lstm.layers=1"),
        job("stages", "backbone.unfreeze=1"),
        job("eight", "lstm.layers=8"),
        job("one more", "lstm.layers=1"),
        job("text", "caption=transformer"),
    ]
    names = [one.variant.name for one in _longest_first(jobs)]
    assert names == ["stages", "text", "eight", "one", "one more", "picture"]


def test_a_sweep_that_is_told_to_end_does_so_with_its_runs(quick, tmp_path):
    command = [sys.executable, script.__file__, "study=optimizer", "seeds=1", "jobs=2", *quick]
    command += ["trainer.max_epochs=100000", "patience=null", f"out={tmp_path / 'studies'}"]
    sweep = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "studies" / "runs"
    deadline = time.monotonic() + 300
    while len(list(runs.glob("*/last.ckpt"))) < 2:
        assert sweep.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    sweep.terminate()
    _, said = sweep.communicate(timeout=120)
    assert sweep.returncode == 143
    line = "mmlabel: interrupted (SIGTERM): the same command goes on where it was"
    assert said.splitlines()[-1] == line
    assert "Traceback" not in said
    # Nobody works there any more, and nothing is there in part.
    for run in runs.iterdir():
        with hold(run):
            assert not list(run.glob(".*.ckpt")) and not (run / "results.json").exists()


def test_real_runs_of_which_some_fail(monkeypatch, options, tmp_path, capsys):
    study = real_study(CAPTION, Variant("fast", "Too fast", ["optimizer.lr=1e30"], None, {}))
    study = replace(study, columns=["loss_first"])
    monkeypatch.setattr(script, "load_study", lambda name: study)
    with pytest.raises(UserError, match="2 runs failed"):
        call(monkeypatch, "study=real", "seeds=2", *options, "logger=wandb", "wandb.workspace=true")
    said = capsys.readouterr().err
    assert "failed: fast, seed 1: the training loss" in said and "no view was saved" in said

    folders = list((tmp_path / "studies" / "runs").iterdir())
    done = [json.loads(p.read_text()) for f in folders for p in f.glob("results.json")]
    assert len(folders) == 6 and len(done) == 4
    assert {(run["study"], run["variant"], run["settings"]["seed"]) for run in done} == {
        ("real", name, seed) for name in ("both", "caption") for seed in (0, 1)
    }
    # Each run's own, and the study's summary.
    assert len(list((tmp_path / "studies" / "runs").glob("*/wandb/offline-run-*/*.wandb"))) == 6
    assert len(list((tmp_path / "studies" / "real").glob("wandb/offline-run-*/*.wandb"))) == 1
    times = {path: path.stat().st_mtime_ns for f in folders for path in f.glob("results.json")}
    with pytest.raises(UserError, match="2 runs failed"):
        call(monkeypatch, "study=real", "seeds=2", *options)
    assert times == {path: path.stat().st_mtime_ns for path in times}
