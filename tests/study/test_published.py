"""Published figures stand beside figures of the same data, and of no other."""

from pathlib import Path

import pytest
from fake_runs import write_fake_run

from mmlabel.report import StudyReport, markdown_table
from mmlabel.settings import Settings
from mmlabel.study.definition import Study, Variant, load_study, study_names
from mmlabel.study.plan import Job
from mmlabel.study.summary import study_report


def report(folder: Path, *, published_on: str | None, data: str) -> StudyReport:
    """Of two variants with one run each on this data."""
    variants = [
        Variant("a", "A", [], 0.8, {"loss_fall": 40.0, "seconds": 99.0}),
        Variant("b", "B", [], None, {}),
    ]
    study = Study("s", "T", "Q?", "a", variants, published_on=published_on, columns=["loss_fall"])
    jobs = []
    for place, variant in enumerate(variants):
        run = folder / variant.name
        write_fake_run(run, seed=0, noise=0.1 * place, settings={"data": {"name": data}, "seed": 0})
        jobs.append(Job(variant, 0, [], run, Settings.model_construct()))
    return study_report(study, jobs, command="c", annotations=None, resamples=100)


@pytest.mark.parametrize(("published_on", "data"), [("usyd", "usyd"), (None, "scenes")])
def test_figures_of_these_data_are_shown(tmp_path, published_on, data):
    shown = report(tmp_path, published_on=published_on, data=data)
    assert shown.variants[0].published == 0.8 and shown.has_published
    assert shown.variants[0].extra["Fall of the loss, % (Published)"] == 40
    assert "| Published |" in markdown_table(shown) and shown.notes == []


def test_figures_of_other_data_are_not_and_the_study_says_so(tmp_path):
    shown = report(tmp_path, published_on="usyd", data="scenes")
    assert [variant.published for variant in shown.variants] == [None, None]
    assert list(shown.variants[0].extra) == ["Fall of the loss, %"]
    assert "Published" not in markdown_table(shown)
    assert shown.notes == ["Published figures are of data=usyd and not shown beside data=scenes."]


def test_the_studies_of_the_report_say_that_its_figures_are_of_its_own_data():
    for name in study_names():
        study = load_study(name)
        if isinstance(study, Study) and any(variant.published for variant in study.variants):
            assert study.published_on == "usyd", name
