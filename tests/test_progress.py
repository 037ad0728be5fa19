"""The one report of progress: a bar on a terminal, lines elsewhere, nothing where quiet."""

import sys

import pytest

from mmlabel import progress as module
from mmlabel.lightning import callbacks
from mmlabel.progress import progress
from mmlabel.training import train


def test_the_last_line_says_all_of_it(capsys: pytest.CaptureFixture[str]):
    with progress("answers", 3, unit="rows") as advance:
        for _ in range(3):
            advance(1)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("answers: 3 of 3 rows, ") and err.endswith(" a second, 0 s left\n")


def test_lines_come_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 10.0, 11.0, 20.5])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("features", 100) as advance:
        for _ in range(4):
            advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "features: 20 of 100 pictures, 2 a second, 40 s left",
        "features: 40 of 100 pictures, 2 a second, 31 s left",
    ]


@pytest.mark.parametrize(
    ("after", "total", "said"),
    [
        (400.0, 16_200, "0.1 a second, 44.9 h left"),
        (9.1, 400, "4.4 a second, 82 s left"),
        (11.0, 2_000, "3.6 a second, 9 min left"),
    ],
)
def test_slow_work_says_how_slow(after: float, total: int, said: str, capsys, monkeypatch):
    clock = iter([0.0, after])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module, "LINE_SECONDS", 5.0)
    with progress("features", total) as advance:
        advance(40)
    assert capsys.readouterr().err == f"features: 40 of {total:,} pictures, {said}\n"


def test_bytes_are_megabytes_and_a_total_may_be_unknown(capsys, monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("archive", None, unit="bytes") as advance:
        advance(25_000_000)
    assert capsys.readouterr().err == "archive: 25.0 MB, 2.5 a second\n"


@pytest.mark.parametrize(("total", "quiet"), [(5, True), (0, False)])
def test_quiet_and_nothing_to_do_say_nothing(capsys, total, quiet):
    with progress("features", total, quiet=quiet) as advance:
        advance(5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("total", "unit", "shown"),
    [(6, "pictures", "6/6"), (None, "rows", "6 "), (6_000_000, "bytes", "0.0/6.0")],
)
def test_a_bar_on_a_terminal(capsys, monkeypatch, total, unit, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    with progress("[/work]", total, unit=unit) as advance:
        advance(6)
    said = capsys.readouterr().err
    assert "[/work]" in said and shown in said
    assert ("MB/s" if unit == "bytes" else f"{unit}/s") in said


def test_long_loops_say_how_far_they_are(settings_of, tmp_path, capsys, monkeypatch):
    settings = settings_of("data.rows=[60,24,34]", "data.batch_size=10", "trainer.max_epochs=1")
    train(settings, tmp_path / "short")
    assert "batches" not in capsys.readouterr().err
    monkeypatch.setattr(callbacks, "LOOP_SECONDS", 0.0)
    train(settings, tmp_path / "long")
    lines = [line for line in capsys.readouterr().err.splitlines() if "batches" in line]
    assert all(line.endswith(" s left") for line in lines)
    validation = [f"validation: {n} of 3 batches" for n in (1, 2)]
    assert [line.rsplit(",", 1)[0] for line in lines] == [
        *(f"epoch 0: {n} of 6 batches" for n in range(1, 6)),
        *validation,  # of the epoch
        *validation,  # of the best epoch, once more
        *(f"test: {n} of 4 batches" for n in range(1, 4)),
    ]
