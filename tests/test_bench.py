"""The benchmarks run, on as little data as there can be; what they measure is theirs to say."""

import importlib
import json
from argparse import ArgumentTypeError
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import features, growth, prediction, runs, whole_run
from benchmarks.growth import steepness
from benchmarks.table import Bench, Figure, markdown, ratio
from mmlabel.cli import load_settings
from mmlabel.models.engines import NoOpenVino
from mmlabel.training import train

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(folder=tmp_path, data=None, level="tiny")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch):
    """Whole runs without a Python of their own, which is most of what they take."""

    def here(command: list[str], folder: Path) -> tuple[float, str]:
        program, *options = command
        *options, last = options
        if program == "sweep.py":
            assert {"study=lstm_layers", "seeds=1", "jobs=auto"} <= set(options)
            return 1.0, ""
        where = Path(last.removeprefix("hydra.run.dir="))
        train(load_settings([*options, "logger=csv", "report=true"]), where)
        return 2.0, "epoch 0  train/loss 0.1  (1.5 s)\n"

    monkeypatch.setattr(runs, "_command", here)
    monkeypatch.setattr(growth, "in_own_process", growth.run_steps)
    monkeypatch.setattr(whole_run, "start_up", lambda bench: None)
    monkeypatch.setattr(prediction, "_peak", lambda *_: 1.0)


@pytest.mark.parametrize("subject", command.SUBJECTS)
def test_a_benchmark_leaves_figures(subject: str, bench: Bench, in_process: None):
    importlib.import_module(f"benchmarks.{subject}").measure(bench)
    assert bench.figures
    for figure in bench.figures:
        assert figure.subject == subject.replace("_", " ")
        assert figure.value >= 0 and figure.what


def test_the_command_prints_a_table_and_leaves_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def measure(bench: Bench) -> None:
        bench.add("captions", "a thing", 1.5, "x", at_least=2, note="3 s for 2 s")

    monkeypatch.setattr("benchmarks.captions.measure", measure)
    out = tmp_path / "b.json"
    command.main(["--only", "captions", "--level", "quick", "--data", "", "--out", str(out)])
    said = capsys.readouterr().out
    assert "Fewer rows than usual" in said
    assert "| captions | a thing | 1.5x | at least 2 (missed) | 3 s for 2 s |" in said
    content = json.loads(out.read_text())
    assert content["figures"][0]["value"] == 1.5 and content["figures"][0]["reached"] is False
    assert content["machine"] and content["versions"]["torch"] and content["level"] == "quick"


def _one_then(bench: Bench, then: BaseException) -> None:
    bench.add("captions", "a thing", 1.5, "x")
    raise then


def test_what_was_measured_before_a_failure_or_ctrl_c_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    out = tmp_path / "b.json"
    options = ["--only", "captions,training,growth", "--level", "tiny", "--out", str(out)]
    broken = RuntimeError("train.py ended with 1: a line\nno space left")
    monkeypatch.setattr("benchmarks.captions.measure", lambda bench: _one_then(bench, broken))
    monkeypatch.setattr("benchmarks.growth.measure", lambda bench: None)

    def interrupted(subject: str, bench: Bench) -> str | None:
        if subject == "training":
            raise KeyboardInterrupt
        return in_a_process(subject, bench)

    in_a_process = command.in_a_process
    monkeypatch.setattr(command, "in_a_process", interrupted)
    with pytest.raises(SystemExit) as ended:
        command.main(options)
    assert ended.value.code == 130
    content = json.loads(out.read_text())
    assert [figure["what"] for figure in content["figures"]] == ["a thing"]
    left_out = [
        "captions: broke off (no space left)",
        "training: interrupted",
        "growth: interrupted",
    ]
    assert content["left out"] == left_out
    assert "".join(f"- {line}\n" for line in left_out) in capsys.readouterr().out


def test_ctrl_c_in_a_subject_keeps_its_figures(monkeypatch: pytest.MonkeyPatch, bench: Bench):
    interrupt = KeyboardInterrupt()
    monkeypatch.setattr("benchmarks.captions.measure", lambda bench: _one_then(bench, interrupt))
    own, problem = command.figures_of("captions", bench)
    assert [figure.what for figure in own.figures] == ["a thing"] and problem == "interrupted"


@pytest.mark.parametrize("out", ["no/such/b.json", "."])
def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "in_a_process", None)
    with pytest.raises(SystemExit) as ended:
        command.main(["--only", "captions", "--level", "tiny", "--out", out])
    assert ended.value.code == 2
    assert f"{out} cannot be written: give a file in a folder" in capsys.readouterr().err


def test_engines_that_are_not_there_are_said(monkeypatch: pytest.MonkeyPatch, bench: Bench):
    def choose(*_: object, precision: str, **__: object) -> None:
        raise NoOpenVino(f"no {precision} here", "")

    monkeypatch.setattr(features, "choose_engine", choose)
    monkeypatch.setattr(features, "_rates", lambda *_, **__: defaultdict(lambda: [1.0]))
    features.measure(bench)
    assert len(bench.figures) == 1
    assert "- features: openvino bfloat16 and torch bfloat16: no bfloat16 here" in markdown(bench)
    assert "- features: openvino float32: no float32 here" in markdown(bench)


def test_an_unknown_benchmark_is_an_error():
    with pytest.raises(ArgumentTypeError, match="there is no capton"):
        command._subjects("features,capton")
    assert command._subjects("features, growth") == ["features", "growth"]


def test_figures_are_held_against_their_targets():
    least = Figure("s", "a", 2.0, "x", 2.0, None, "")
    most = Figure("s", "b", 1.7, "x", None, 1.6, "")
    free = Figure("s", "c", 12345.6, "s", None, None, "")
    assert (least.reached, most.reached, free.reached) == (True, False, None)
    bench = Bench(folder=Path(), data=None, level="tiny", figures=[most, free])
    assert markdown(bench).count("(missed)") == 1 and "Left out" not in markdown(bench)
    assert free.shown == "12,346 s" and least.shown == "2x"


def test_a_ratio_is_the_median_of_the_rounds():
    assert ratio([2.0, 30.0, 4.0], [1.0, 1.0, 1.0]) == 4.0


def test_what_grows_faster_than_n_log_n_is_seen():
    sizes = [1_000, 10_000, 100_000]
    linear, square = [1.0, 10.0, 100.0], [0.01, 1.0, 100.0]
    assert steepness(sizes, linear) < 1
    assert steepness(sizes, square) > 7
    assert steepness(sizes, [0.001, 0.1, 10.0]) == 0.0  # the start of libraries
