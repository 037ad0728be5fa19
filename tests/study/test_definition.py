"""Study files: those that are provided, and mistakes in one's own."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_study import VALID, nothing, settings_of, write_study_file

from mmlabel.errors import UserError
from mmlabel.help import CONF
from mmlabel.settings import differing
from mmlabel.study.definition import Collection, Study, load_study, study_names
from mmlabel.study.plan import job_overrides, run_key


def provided() -> list[Study]:
    studies = [load_study(name) for name in study_names()]
    return [study for study in studies if isinstance(study, Study)]


def test_the_studies_of_the_report_are_there():
    everything = load_study("all")
    assert isinstance(everything, Collection)
    assert {"pos_weight", "lstm_layers", "backbone", "optimizer", "modality", "embedding"} <= {
        study.name for study in everything.studies
    }


@pytest.mark.parametrize("study", provided(), ids=lambda study: study.name)
def test_every_variant_of_every_study_composes_to_settings_of_its_own(study: Study):
    settings = [
        settings_of(tuple(job_overrides(study, variant, ["trainer.max_epochs=3"], nothing)))
        for variant in study.variants
    ]
    assert all(one.trainer.max_epochs == 3 for one in settings)
    assert len({run_key(differing(one), {}, "") for one in settings}) == len(study.variants)


def test_published_figures_are_the_reports():
    layers = {variant.name: variant.published for variant in load_study("lstm_layers").variants}
    assert layers == {"1": 0.831, "2": 0.81, "4": 0.77, "8": 0.63}
    weight = {variant.name: variant.published for variant in load_study("pos_weight").variants}
    assert weight == {"without": 0.847, "with": 0.633}


def changed(**changes: object) -> dict:
    return {key: value for key, value in (VALID | changes).items() if value is not None}


def only(**changes: object) -> dict:
    return changed(variants={"a": {"label": "A", "overrides": []} | changes})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(titel="x"), 'unknown "titel"; did you mean "title"?'),
        (changed(title=None), "title is missing"),
        (changed(title=3), "title: 3 is of the wrong type"),
        (changed(seeds=True), "seeds: True is of the wrong type"),
        (changed(seeds=0), "seeds: must be 1 or more"),
        (changed(baseline="d"), 'baseline: unknown "d"'),
        (changed(metric="test/f1_mikro"), 'did you mean "test/f1_micro"?'),
        (changed(columns=["los_fall"]), 'did you mean "loss_fall"?'),
        (changed(fixed=["lstm.layers"]), "'lstm.layers' is no override"),
        (changed(fixed=["seed=3"]), "seed=3: a study sets this itself"),
        (changed(variants={"a": {"label": "A"}}), "variant a: overrides is missing"),
        (changed(variants={"a": 3}), "variant a: must hold"),
        (
            changed(variants={"a": {"label": "A", "overrides": [], "publish": 1}}),
            'variant a: unknown "publish"; did you mean "published" or "published_columns"?',
        ),
        ({"title": "T", "question": "Q", "studies": ["mien"]}, 'no study "mien"; did you mean'),
        (changed(name="other"), 'unknown "name"'),
        (changed(notes=["a", 3]), "notes.1: 3 is of the wrong type"),
        (changed(variants={}), "variants: is empty"),
        (only(published=84.7), "variant a: published: must be 1 or less, not 84.7"),
        (only(published=True), "published: True is of the wrong type"),
        (only(published=float("nan")), "published: nan is of the wrong type, give a finite number"),
        (only(published_columns={"loss_fall": "x"}), "published_columns.loss_fall: 'x' is of"),
        (only(overrides=["test=false"]), "test=false: a study sets this itself"),
        (changed(fixed=["study.name=x"]), "a study sets this itself"),
        (changed(variants={"b, c": {"label": "B", "overrides": []}}), '"b, c": a name is of'),
        (
            "title: T\nquestion: Q\nbaseline: a\n"
            "variants: {a: {label: A, overrides: []}, no: {label: B, overrides: []}}\n",
            "a variant's name is read as false: quote it, as YAML takes no, off,",
        ),
        (
            "title: T\nquestion: Q\nbaseline: 1\n"
            "variants: {1: {label: A, overrides: []}, '1': {label: B, overrides: []}}\n",
            "two variants 1",
        ),
        ({"title": "T", "question": "Q", "studies": []}, "studies: is empty"),
        ({"title": "T", "question": "Q", "studies": "mine"}, "'mine' is of the wrong type"),
        ({"title": "T", "question": "Q", "studies": ["mine"]}, "mine is itself a list of studies"),
        ({"title": "T", "question": "Q", "studies": [3]}, 'no study "3"'),
        ("title: a\ntitle: b\n", "title"),
        ("- a\n", "must hold title"),
    ],
)
def test_mistakes_in_a_study_file_are_named(tmp_path: Path, content: object, message: str):
    with pytest.raises(UserError) as error:
        load_study("mine", write_study_file(tmp_path, content))
    assert message in str(error.value)


def test_a_study_of_ones_own_lies_anywhere(tmp_path: Path):
    folder = write_study_file(tmp_path, Path(CONF / "study" / "lstm_layers.yaml").read_text())
    own, name = load_study(str(folder / "mine.yaml")), "lstm_layers"
    assert isinstance(own, Study) and own == replace(load_study(name), name="mine")
    with pytest.raises(UserError, match="study=.*none.yaml cannot be read: No such file"):
        load_study(str(folder / "none.yaml"))


def test_a_misspelt_study_gets_the_nearest():
    with pytest.raises(UserError, match='no study "lstm_layer"; did you mean "lstm_layers"'):
        load_study("lstm_layer")
