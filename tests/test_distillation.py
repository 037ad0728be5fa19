"""Learning from a larger network: its loss, its logits, and that it knows no row to be scored."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from resumed_runs import history, results_of, run, run_killed_in_epoch

from mmlabel import cache as cache_module
from mmlabel import distillation
from mmlabel.checkpoint import SplitRecord, hashes, joined, read_checkpoint
from mmlabel.cli import load_settings
from mmlabel.criterion import MeanOverKnown
from mmlabel.data import captions
from mmlabel.data.batches import TeacherLogits
from mmlabel.distillation import Teacher, check_teacher, read_teachers, teacher_logits
from mmlabel.errors import UserError
from mmlabel.lightning.checkpoint_file import read_file, write_file
from mmlabel.losses import Bce
from mmlabel.parts import build, prepare
from mmlabel.predictor import Predictor
from mmlabel.training import train

STUDENT = ("model=caption_only", "lstm.hidden=4", "patience=null", "trainer.max_epochs=3")


# ---- The loss ---------------------------------------------------------------------------------


def test_the_loss_worked_by_hand():
    """Of two entries: logits 0 and 2 ln 3 with T = 2, so that probabilities are 1/2 and 3/4."""
    logits = torch.tensor([[0.0, 2 * math.log(3)]])
    teacher = torch.tensor([[2 * math.log(3), -2 * math.log(3)]])  # 3/4 and 1/4
    loss = MeanOverKnown(Bce(name="bce"), teacher_weight=0.25, temperature=2.0)
    soft = (math.log(2) + -(1 / 4 * math.log(3 / 4) + 3 / 4 * math.log(1 / 4))) / 2
    hard = (math.log(2) + -math.log(9 / 10)) / 2  # σ(2 ln 3) = 9/10
    targets = torch.tensor([[1.0, 1.0]])
    got = loss(logits, targets, None, teacher)
    assert got.item() == pytest.approx(0.75 * hard + 0.25 * 4 * soft, rel=1e-6)
    # What is not known is learned from the teacher all the same.
    known = torch.tensor([[True, False]])
    got = loss(logits, targets, known, teacher)
    assert got.item() == pytest.approx(0.75 * math.log(2) + 0.25 * 4 * soft, rel=1e-6)


def test_weight_0_is_the_plain_loss_and_a_label_that_does_not_exist_stays_unanswered():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 3, requires_grad=True), torch.ones(5, 3)
    teacher = torch.tensor([[3.0, -1.0, -math.inf]]).expand(5, 3)
    plain = MeanOverKnown(Bce(name="bce"))(logits, targets)
    assert torch.equal(MeanOverKnown(Bce(name="bce"))(logits, targets, None, teacher), plain)
    alone = MeanOverKnown(Bce(name="bce"), teacher_weight=1.0, temperature=3.0)
    (gradient,) = torch.autograd.grad(alone(logits, targets, None, teacher), logits)
    # The gradient of Hinton et al.'s section 2, of each label by itself.
    expected = 3 * ((logits / 3).sigmoid() - (teacher / 3).sigmoid()) / 15
    torch.testing.assert_close(gradient, expected)


# ---- Rows and labels --------------------------------------------------------------------------


def data_of(**rows: list[int]) -> Any:
    """20 rows of which these are in the splits; labels 1 and 2 of 0..2 exist."""
    return SimpleNamespace(
        annotations=SimpleNamespace(ids=[f"{number}.jpg" for number in range(20)]),
        rows={split: np.array(numbers) for split, numbers in rows.items()},
        label_names=["", "cat", "dog"],
        notes=[],
        note=lambda note: None,
    )


def teacher_of(rows: dict[str, list[str]] | None, names: tuple[str, ...] = ("dog", "cat")) -> Any:
    records = rows and {
        split: SplitRecord(digest="", captions="", ids=torch.from_numpy(hashes(ids)))
        for split, ids in rows.items()
    }
    seen = records and joined([{split: record.ids for split, record in records.items()}])
    return Teacher(Path("best.ckpt"), "0", "fusion", ("image",), list(names), records, seen)


OURS = data_of(train=[0, 1, 2], val=[3, 4], test=[5, 6])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"train": ["0.jpg", "3.jpg"], "val": [], "test": []}, "on 1 of the 2 validation rows"),
        ({"train": ["5.jpg", "6.jpg"], "val": [], "test": []}, "2 of the 2 test rows"),
        ({"train": ["0.jpg"], "val": ["5.jpg"], "test": []}, "selected on 1 of its test rows"),
        ({"train": ["data/0.jpg"], "val": [], "test": []}, "none of this run's pictures"),
        (None, "does not tell"),
    ],
)
def test_a_teacher_that_may_know_what_is_scored_is_refused(rows, said: str):
    with pytest.raises(UserError, match=said) as error:
        check_teacher(teacher_of(rows), OURS, allow_seen_rows=False)
    assert "distil.allow_seen_rows=true" in str(error.value)
    notes: list[str] = []
    noted = SimpleNamespace(**{**vars(OURS), "note": notes.append})
    check_teacher(teacher_of(rows), noted, allow_seen_rows=True)  # type: ignore[arg-type]
    assert said in notes[0]


def test_a_teacher_of_the_same_split_or_of_more_rows_is_taken():
    for trained in (["0.jpg", "1.jpg", "2.jpg"], ["0.jpg", "19.jpg"]):
        rows = {"train": trained, "val": ["3.jpg"], "test": ["5.jpg"]}
        check_teacher(teacher_of(rows), OURS, allow_seen_rows=False)


def test_what_a_teachers_teacher_knew_counts_wherever_it_is_scored(
    settings_of, made: Path, tmp_path: Path
):
    """Also two steps on: a network learns of rows through all that it has learned from."""
    header, *rows = (made / "rows.csv").read_text().splitlines(keepends=True)
    tables = {"all": rows, "first": rows[:36], "last": rows[36:]}
    for name, lines in tables.items():
        (tmp_path / f"{name}.csv").write_text(header + "".join(lines))

    def made_on(table: str, name: str, *options: str) -> Path:
        given = ["data=csv", f"data.file={tmp_path}/{table}.csv", "trainer.max_epochs=1", *options]
        run(settings_of, tmp_path / name, *STUDENT, *given)
        return tmp_path / name / "best.ckpt"

    first = made_on("all", "first", "data.fractions=[0.9,0.05,0.05]")
    further = "distil.allow_seen_rows=true"
    second = made_on("first", "second", f"distil.teacher={first}", further)
    third = made_on("first", "third", f"distil.teacher={second}", further)
    known = read_checkpoint(first).seen
    for path in (second, third):
        seen, notes = read_checkpoint(path).seen, results_of(path.parent)["notes"]
        assert known is not None and seen is not None
        assert all(np.isin(known[split], seen[split]).all() for split in known)
        assert any("allow_seen_rows" in note and "may be too high" in note for note in notes)
    # Evaluated on the rows of its own test, and on others, that are none to it.
    own = run(settings_of, tmp_path / "own", "train=false", f"ckpt_path={third}")
    assert any("learned from a teacher that was trained" in note for note in own["notes"])
    other = ["train=false", f"ckpt_path={third}", "data=csv", f"data.file={tmp_path}/last.csv"]
    other += ["data.splits=test", "data.allow_other_rows=true"]
    left = run(settings_of, tmp_path / "left", *other)["rows"]["test"]
    ids = hashes(line.split(",")[0] for line in tables["last"])
    assert known is not None
    assert left == len(ids) - np.isin(ids, np.concatenate([*known.values()])).sum() < 5
    # One of an earlier version does not tell.
    older = torch.load(second, weights_only=True)
    del older["mmlabel"]["taught"]
    torch.save(older, tmp_path / "older.ckpt")
    with pytest.raises(UserError, match="learned from a teacher of its own"):
        made_on("first", "fourth", f"distil.teacher={tmp_path}/older.ckpt")
    untold = run(settings_of, tmp_path / "u", "train=false", f"ckpt_path={tmp_path}/older.ckpt")
    assert any("does not tell which rows" in note for note in untold["notes"])


def test_other_labels_are_refused():
    rows = {"train": ["0.jpg"], "val": [], "test": []}
    with pytest.raises(UserError, match="it lacks dog; it has bird"):
        check_teacher(teacher_of(rows, ("cat", "bird")), OURS, allow_seen_rows=False)


def test_rows_are_found_after_others_were_left_out():
    kept = TeacherLogits(np.array([2, 5, 7]), np.array([[2.0], [5.0], [7.0]]))
    assert kept.of(np.array([2, 7])).tolist() == [[2.0], [7.0]]


def test_with_another_version_of_a_detectors_library_logits_are_computed_anew(monkeypatch):
    teacher = replace(teacher_of(None), model="detector_fusion")
    before, really = distillation._computed_by(teacher), cache_module.version
    monkeypatch.setattr(
        cache_module, "version", lambda name: "99" if name == "ultralytics" else really(name)
    )
    assert distillation._computed_by(teacher) != before


# ---- Runs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teachers(settings_of, tmp_path_factory) -> list[str]:
    """Checkpoints of a network of both halves and of an ensemble."""
    paths = []
    for options in (["model=fusion"], ["model=ensemble", "seed=1"]):
        folder = tmp_path_factory.mktemp("teacher")
        run(settings_of, folder, *options, "trainer.max_epochs=1", "test=false")
        paths.append(str(folder / "best.ckpt"))
    return paths


def test_the_logits_are_the_predictors_and_computed_once(
    settings_of, teachers: list[str], tmp_path: Path, monkeypatch
):
    settings = settings_of(*STUDENT, f"distil.teacher=[{teachers[0]},{teachers[1]}]")
    found = read_teachers(settings.distil.teachers)
    prepared = prepare(settings, None, found)

    def computed() -> TeacherLogits:
        return teacher_logits(found, prepared, cache_dir=tmp_path, on_bad_image="error")

    first = computed()
    rows = prepared.rows["train"]
    assert np.array_equal(first.rows, rows)
    exists = [bool(name) for name in prepared.label_names]
    assert np.isneginf(first.logits[:, ~np.array(exists)]).all()
    part = prepared.annotations.take(rows[:3])
    expected = []
    for path in teachers:
        one = Predictor(path)
        answered = one.predict(part.pictures, part.captions)
        named = [[p.probabilities[name] for name in prepared.label_names if name] for p in answered]
        expected.append(torch.logit(torch.tensor(named)).numpy())
    got = first.logits[:3][:, exists]
    np.testing.assert_allclose(got, np.mean(expected, axis=0), atol=1e-4)

    # Another version of what has computed them may answer otherwise.
    asked, really = [], distillation._computed
    with monkeypatch.context() as patch:
        patch.setattr(
            distillation, "_computed", lambda *a, **o: asked.append(a[0]) or really(*a, **o)
        )
        patch.setattr(cache_module, "version", lambda library: "99")
        np.testing.assert_array_equal(computed().logits, first.logits)
    assert asked == [Path(path) for path in teachers]

    monkeypatch.setattr(distillation, "Predictor", None)  # nothing is asked again
    np.testing.assert_array_equal(computed().logits, first.logits)
    # The order of the names, not of the numbers, decides.
    turned = [*found]
    turned[0] = Teacher(**{**vars(found[0]), "label_names": found[0].label_names[::-1]})
    found[:] = turned[:1]
    (number,) = [n for n, name in enumerate(prepared.label_names) if name][:1]
    last = found[0].label_names[-1]
    assert prepared.label_names[number] == last
    monkeypatch.undo()
    alone = teacher_logits(
        read_teachers(teachers[:1]), prepared, cache_dir=tmp_path, on_bad_image="error"
    )
    other = [n for n, name in enumerate(prepared.label_names) if name][-1]
    assert np.array_equal(computed().logits[:, number], alone.logits[:, other])


def test_an_unreadable_picture_is_an_error_where_another_run_has_left_it_out(
    settings_of, teachers: list[str], tmp_path: Path, monkeypatch
):
    found = read_teachers(teachers[:1])
    prepared = prepare(settings_of(*STUDENT, f"distil.teacher={teachers[0]}"), None, found)
    row, whole = prepared.rows["train"][1], {**prepared.rows}
    pictures = prepared.annotations.pictures
    good, pictures[row] = pictures[row], tmp_path / "bad.png"
    pictures[row].write_bytes(good.read_bytes()[:300])

    def computed(on_bad_image: Literal["error", "skip"]) -> TeacherLogits:
        prepared.rows.update(whole)
        return teacher_logits(found, prepared, cache_dir=tmp_path, on_bad_image=on_bad_image)

    skipped = computed("skip")
    assert row not in prepared.rows["train"] and np.isnan(skipped.logits[1]).any()
    with pytest.raises(UserError, match=r"bad\.png is not a readable picture"):
        computed("error")
    # A failure that passes, as of the memory, is not remembered, nor are the others asked again.
    looked_at = []
    really = distillation._computed

    def now_readable(path, pictures, captions, **options):
        looked_at.extend(pictures)
        return really(path, [good], captions, **options)

    monkeypatch.setattr(distillation, "_computed", now_readable)
    healed = computed("error")
    assert looked_at == [pictures[row]] and row in prepared.rows["train"]
    others = np.arange(len(healed.rows)) != 1
    assert np.array_equal(healed.logits[others], skipped.logits[others])
    assert not np.isnan(healed.logits).any()


def test_logits_of_captions_read_without_wordnet_are_not_kept(
    settings_of, teachers: list[str], tmp_path: Path, monkeypatch
):
    path = tmp_path / "teacher.ckpt"
    content = read_file(Path(teachers[0]))
    content["mmlabel"]["forms"] = {}  # words are lemmatised, and none of these is known
    write_file(content, path)
    found = read_teachers([str(path)])
    prepared = prepare(settings_of(*STUDENT), None)

    def computed(lemma: str | None, problem: str | None) -> np.ndarray:
        def lemmatise(words, known, on_missing):
            return {word: lemma or word for word in words}, problem

        monkeypatch.setattr(captions, "_lemmatise", lemmatise)
        return teacher_logits(found, prepared, cache_dir=tmp_path, on_bad_image="error").logits

    without = computed(None, "not all words were lemmatised")
    said = f"distil.teacher={path}: not all words were lemmatised"
    assert prepared.notes.count(said) == 1
    with_wordnet = computed("another word", None)
    assert not np.array_equal(with_wordnet, without)
    monkeypatch.setattr(distillation, "Predictor", None)  # nothing is asked again
    assert np.array_equal(computed(None, None), with_wordnet)


def test_only_training_sees_the_teacher(settings_of, teachers: list[str]):
    built = build(settings_of(*STUDENT, f"distil.teacher={teachers[0]}"), None, wandb_id=None)
    batch = next(iter(built.data.train_dataloader()))
    assert built.data.teacher is not None and batch.teacher is not None
    assert torch.equal(batch.teacher, torch.from_numpy(built.data.teacher.logits)[batch.rows])
    assert next(iter(built.data.val_dataloader())).teacher is None
    assert built.inputs["teacher"]
    assert built.pretrained["teacher"].startswith("fusion ")


@pytest.mark.parametrize("model", ["fusion", "image_only", "caption_only", "ensemble"])
def test_every_network_learns_from_it(settings_of, teachers: list[str], model: str):
    options = [f"model={model}", f"distil.teacher={teachers[0]}", "model.head.dropout=0"]
    built = build(settings_of(*options), None, wandb_id=None)
    built.data.setup("fit")
    batch = next(iter(built.data.train_dataloader()))
    network: Any = built.classifier.network.eval()
    logits = network(batch)
    for weight in (0.0, 0.5):
        criterion = MeanOverKnown(Bce(name="bce"), teacher_weight=weight, temperature=2.0)
        got = network.loss(batch, criterion)
        plain = network.loss(batch._replace(teacher=None), criterion)
        assert torch.equal(got, plain) is (weight == 0.0)
        if model != "ensemble":  # whose members have a loss each
            truth = (batch.targets, batch.known, batch.teacher)
            torch.testing.assert_close(got, criterion(logits, *truth))


def test_a_run_is_gone_on_with_repeated_and_evaluated(
    settings_of, teachers: list[str], cache: Path, tmp_path: Path
):
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(Path(teachers[0]).read_bytes())
    options = [*STUDENT, f"distil.teacher={moved}", "distil.weight=0.7"]
    whole = run(settings_of, tmp_path / "whole", *options)
    last = run_killed_in_epoch(settings_of, tmp_path / "killed", 1, *options)

    moved.unlink()
    with pytest.raises(UserError, match=r"distil\.teacher.*there is no"):
        run(settings_of, tmp_path / "gone", f"ckpt_path={last}")
    for other in (f"distil.teacher={teachers[1]}", "distil.teacher=null"):
        with pytest.raises(UserError, match=r"distil\.teacher: .* has learned from fusion"):
            run(settings_of, tmp_path / "other", f"ckpt_path={last}", other)
    again = run(
        settings_of, tmp_path / "again", f"ckpt_path={last}", f"distil.teacher={teachers[0]}"
    )
    assert history(tmp_path / "again") == history(tmp_path / "whole")
    assert again["scores"] == whole["scores"]
    # What has been learned needs the teacher no more.
    best = tmp_path / "whole" / "best.ckpt"
    evaluated = run(settings_of, tmp_path / "eval", "train=false", f"ckpt_path={best}")
    assert evaluated["scores"]["test/f1_micro"] == whole["scores"]["test/f1_micro"]
    assert read_checkpoint(best).pretrained["teacher"] == whole["pretrained"]["teacher"]

    moved.write_bytes(Path(teachers[0]).read_bytes())
    given = [f"repeat={tmp_path / 'whole'}", f"cache_dir={cache}"]
    repeated = train(load_settings(given), tmp_path / "repeated", overrides=given)
    assert repeated["scores"] == results_of(tmp_path / "whole")["scores"]
    moved.write_bytes(Path(teachers[1]).read_bytes())
    train(load_settings(given), tmp_path / "changed", overrides=given)
    (note,) = [n for n in results_of(tmp_path / "changed")["notes"] if "not the same" in n]
    assert "the teacher has changed" in note


def test_a_teacher_without_weight_is_refused_before_it_is_read(settings_of, tmp_path: Path):
    with pytest.raises(UserError, match="distil.weight=0 with distil.teacher: nothing would be"):
        run(settings_of, tmp_path, "distil.teacher=x.ckpt", "distil.weight=0")


def test_models_without_a_probability_a_label_have_no_teacher(settings_of):
    for model in ("decoder", "detector"):
        with pytest.raises(UserError, match=f"distil.teacher with model={model}"):
            settings_of(f"model={model}", "distil.teacher=x")
    with pytest.raises(UserError, match=r"distil\.teacher: .*there is no"):
        read_teachers(["x"])


def test_a_decoder_is_no_teacher():
    path = Path(__file__).parent / "checkpoints" / "decoder.ckpt"
    with pytest.raises(UserError, match="is of model=decoder"):
        read_teachers([str(path)])
