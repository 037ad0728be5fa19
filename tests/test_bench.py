"""The benchmarks run, on little data; what they measure is theirs to say."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))


def test_a_benchmark_leaves_its_figure(tmp_path: Path, monkeypatch):
    import bench

    monkeypatch.setattr(bench, "BENCHMARKS", {6: bench.memory})
    monkeypatch.setattr(sys, "argv", ["bench.py", "--only", "6", "--out", str(tmp_path / "b.json")])
    bench.main()
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["figures"][0]["benchmark"] == 6
    assert content["machine"] and content["versions"]["torch"]


def test_an_unknown_benchmark_is_an_error(monkeypatch, capsys):
    import bench

    monkeypatch.setattr(sys, "argv", ["bench.py", "--only", "9"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "there is no benchmark 9" in capsys.readouterr().err
