"""The line of each run: how far it is, and how it ended."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_study import finish, planned

from mmlabel.run_folder import write_failure
from mmlabel.study.definition import Study
from mmlabel.study.job_lines import JobLines


@pytest.mark.parametrize("live", [True, False])
def test_each_run_gets_a_line_when_it_has_ended(
    study: Study,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    live: bool,
):
    caplog.set_level("INFO")
    done, failed, silent = planned(study, tmp_path, seeds=1)
    finish(done, seconds=12.4)
    write_failure(failed.folder, ValueError("no [red]weights[/x]\nat all"))
    with JobLines(3, metric="test/f1_micro", live=live) as lines:
        for job in (done, failed, silent):
            lines.ended(job)
    said = capsys.readouterr().err if live else caplog.text
    assert "1 of 3: a, seed 0: test/f1_micro 0." in said and ", 12 s\n" in said
    assert "2 of 3: b, seed 0: failed: no [red]weights[/x] at all\n" in said
    assert "3 of 3: c, seed 0: failed: it ended without a result" in said


def test_how_far_a_run_is_comes_from_its_history(study: Study, tmp_path: Path):
    first, second, third = planned(study, tmp_path, seeds=1)
    first.folder.mkdir(parents=True)
    history = first.folder / "metrics.csv"
    with JobLines(3, metric="test/f1_micro", live=True) as lines:

        def shown() -> list[tuple[str, float, object, str]]:
            assert lines._progress is not None
            tasks = lines._progress.tasks
            return [(t.description, t.completed, t.total, t.fields["said"]) for t in tasks]

        epochs = first.settings.trainer.max_epochs
        lines.running([first, second])
        assert shown() == [("a, seed 0", 0, epochs, "begins"), ("b, seed 0", 0, epochs, "begins")]
        history.write_text("epoch,step,val/f1_micro\n0,9,0.25\n1,19,0.5\n")
        lines.running([first, second])
        assert shown()[0] == ("a, seed 0", 2, epochs, "val/f1_micro 0.500")
        history.write_text("epoch,step,val/f1_micro\n0,9,0.25\n1,1x")  # being written
        lines.running([first, second])
        assert shown()[0] == ("a, seed 0", 2, epochs, "val/f1_micro 0.500")
        lines.running([second, replace(third)])
        assert [line[0] for line in shown()] == ["b, seed 0", "c, seed 0"]
