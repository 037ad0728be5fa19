"""Finished runs against one another: grouped by settings, with the evidence of a study."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from fake_runs import write_fake_run

from mmlabel.cli import load_settings
from mmlabel.compare import main
from mmlabel.evidence import compare, explain, holm
from mmlabel.finished_runs import annotations_of
from mmlabel.mistakes import main as mistakes
from mmlabel.run_folder import read_run, seal, write_failure


def write_run(
    folder: Path,
    *overrides: str,
    seed: int = 0,
    noise: float = 0.1,
    rows: int = 60,
    **recorded: object,
) -> Path:
    settings = load_settings([*overrides, f"seed={seed}"]).plain()
    write_fake_run(folder, seed=seed, noise=noise, rows=rows, settings=settings, **recorded)
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def answers(folders: list[Path]) -> np.ndarray:
    return np.stack([read_run(folder).answers for folder in folders])


def test_seeds_are_grouped_and_differences_are_those_of_the_evidence(tmp_path: Path, capsys):
    """Where things are and how a run is recorded make no configuration of its own."""
    layers = {1: 0.02, 2: 0.03, 8: 0.3}
    for place, (count, noise) in enumerate(layers.items()):
        for seed in (0, 1, 2):
            recorded = ["logger=csv", f"cache_dir={tmp_path}/{seed}"][: 2 * (seed % 2)]
            folder = tmp_path / "runs" / str(3 * place + seed + 8)
            write_run(folder, f"lstm.layers={count}", *recorded, seed=seed, noise=noise)
    assert run(tmp_path / "runs", "--out", tmp_path / "out", "--metric", "f1_samples") == 0
    printed = capsys.readouterr().out
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(line for line in file if line[0] != "#"))
    assert [row["variant"] for row in rows] == [f"lstm.layers={count}" for count in layers]
    assert [row["runs"] for row in rows] == ["3"] * 3
    groups = [[tmp_path / "runs" / str(3 * g + seed + 8) for seed in (0, 1, 2)] for g in range(3)]
    targets = read_run(groups[0][0]).predictions.targets
    found = [
        compare(
            baseline=answers(groups[0]),
            variant=answers(group),
            targets=targets,
            metric="f1_samples",
            comparisons=2,
        )
        for group in groups[1:]
    ]
    for row, one, p_value in zip(rows[1:], found, holm([c.p_value for c in found]), strict=True):
        assert float(row["difference"]) == pytest.approx(one.difference, abs=5e-5)
        assert f"{row['variant']}: {explain(one, p_value)}" in printed
    assert rows[2]["verdict"] == "worse"
    assert "could have seen, after correction for 2 comparisons, is" in printed
    assert "lstm.layers=8" in (tmp_path / "out" / "report.html").read_text()


def test_the_commands_of_runs_name_files_of_ones_own(tmp_path: Path):
    data = ["data=usyd", f"data.root={tmp_path}/gone"]
    folders = [write_run(tmp_path / str(seed), *data, seed=seed) for seed in (0, 1)]
    change(folders[0], "results.json", '"overrides": []', '"overrides": ["experiment=found"]')
    change(
        folders[0], "results.json", '"notes"', '"sources": ["--config-dir", "my files"], "notes"'
    )
    assert run(*folders, "--out", tmp_path / "out") == 0
    command = "python train.py --config-dir 'my files' experiment=found"
    assert f"#   {command}\n" in (tmp_path / "out" / "results.csv").read_text()


def test_what_follows_from_a_choice_is_no_part_of_a_name(tmp_path: Path, capsys):
    folders = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", "model=caption_only", noise=0.2),
        write_run(tmp_path / "c", "model=caption_only", "optimizer=adamw", noise=0.2),
    ]
    assert run(*folders) == 0
    printed = capsys.readouterr().out
    assert "model=caption_only, optimizer=adamw: " in printed
    assert "model=caption_only, optimizer=adam: " in printed
    assert "lstm" not in printed and "backbone" not in printed


def test_other_seeds_are_paired_in_order_and_said_to_be(tmp_path: Path, capsys):
    base = [write_run(tmp_path / f"a{seed}", seed=seed) for seed in (0, 1)]
    other = [write_run(tmp_path / f"b{n}", "loss=bce_pos_weight", seed=n) for n in (7, 8, 9)]
    assert run(*base, *other) == 0
    printed = capsys.readouterr().out
    assert "loss=bce_pos_weight has seeds 7, 8, 9 and the baseline 0, 1: their runs are" in printed
    targets = read_run(base[0]).predictions.targets
    found = compare(
        baseline=answers(base), variant=answers(other[:2]), targets=targets, metric="f1_micro"
    )
    assert explain(found) in printed


def test_seeds_that_only_one_has_are_said_to_be_left_out(tmp_path: Path, capsys):
    base = [write_run(tmp_path / f"a{seed}", seed=seed) for seed in (0, 1, 2)]
    other = [write_run(tmp_path / f"b{n}", "loss=focal", seed=n) for n in (2, 3, 4)]
    assert run(*base, *other) == 0
    assert "loss=focal: compared on seed 2 alone, which the" in capsys.readouterr().out
    assert run(*base, other[0], write_run(tmp_path / "b1", "loss=focal", seed=1)) == 0
    assert "loss=focal: compared on seeds 1, 2 alone, which the" in capsys.readouterr().out
    assert run(base[2], other[0]) == 0
    assert "alone" not in capsys.readouterr().out


def test_one_test_row_is_said_to_be_too_few(tmp_path: Path, capsys):
    folders = [write_run(tmp_path / "a", rows=1), write_run(tmp_path / "b", "loss=focal", rows=1)]
    assert run(*folders) == 0
    assert "loss=focal: not compared: fewer than two test rows" in capsys.readouterr().out


def test_seeds_alone_are_shown_and_said_to_be_no_comparison(tmp_path: Path, capsys):
    assert run(*(write_run(tmp_path / str(seed), seed=seed) for seed in (0, 1))) == 0
    printed = capsys.readouterr().out
    assert "nothing to compare" in printed and "all runs" in printed


def change(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    seal(folder)


def test_evaluated_runs_are_named_by_what_differs_and_not_by_places(tmp_path: Path, capsys):
    def evaluated(name: str, *overrides: str, noise: float = 0.1) -> Path:
        place = f"ckpt_path={tmp_path}/runs/{name}/best.ckpt"
        return write_run(tmp_path / name, place, "train=false", *overrides, noise=noise)

    folders = [evaluated("a"), evaluated("b", "loss=focal", noise=0.3)]
    assert run(*folders) == 0
    printed = capsys.readouterr().out
    assert "loss=focal: " in printed and "ckpt" not in printed
    folders = [evaluated("c"), evaluated("d", noise=0.3)]  # nothing else is known of them
    assert run(*folders) == 0
    printed = capsys.readouterr().out
    assert "d/best.ckpt: " in printed and str(tmp_path) not in printed


def write_evaluated(folder: Path, checkpoint: Path, *overrides: str, seed: int = 0, **recorded):
    given = ["train=false", f"ckpt_path={checkpoint}", *overrides]
    recorded.setdefault("inputs", {"checkpoint": str(checkpoint.parent)})
    recorded.setdefault("began_with", {"data": "d", "splits": "s"})
    return write_run(folder, *given, seed=seed, **recorded)


def names_of(out: Path) -> dict[str, str]:
    """The variants of a comparison and how many runs each has."""
    with open(out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(line for line in file if line[0] != "#"))
    return {row["variant"]: row["runs"] for row in rows}


def test_seeds_of_evaluated_checkpoints_are_grouped_by_what_these_were_trained_under(
    tmp_path: Path, capsys
):
    for place, hidden in enumerate((8, 16)):
        for seed in (0, 1, 2):
            where = tmp_path / "trained" / str(hidden) / str(seed) / "best.ckpt"
            folder = tmp_path / "runs" / str(3 * place + seed)
            write_evaluated(folder, where, f"lstm.hidden={hidden}", seed=seed, noise=hidden / 100)
    assert run(tmp_path / "runs", "--out", tmp_path / "out") == 0
    assert names_of(tmp_path / "out") == {"lstm.hidden=8": "3", "lstm.hidden=16": "3"}
    assert "ckpt" not in capsys.readouterr().out
    assert run(tmp_path / "runs", "--validation") == 0
    printed = capsys.readouterr().out
    assert "lstm.hidden=8 " in printed and "lstm.hidden=16 " in printed and "ckpt" not in printed


def test_checkpoints_of_one_seed_are_kept_apart(tmp_path: Path, capsys):
    runs = tmp_path / "runs"
    for name in ("best", "last"):
        for seed in (0, 1):
            where = tmp_path / str(seed) / f"{name}.ckpt"
            read = {"checkpoint": f"{name} {seed}"}
            write_evaluated(runs / f"{name}{seed}", where, seed=seed, inputs=read)
    assert run(runs, "--out", tmp_path / "out") == 0
    assert names_of(tmp_path / "out") == {"best.ckpt": "2", "last.ckpt": "2"}
    assert "of some seeds" not in capsys.readouterr().out
    assert run(runs / "best0", runs / "last1") == 0
    assert "all runs: of some seeds it is best.ckpt, of others last.ckpt" in capsys.readouterr().out
    # Trained twice, and beside another configuration, of which one checkpoint is there.
    mixed = [
        write_evaluated(tmp_path / "mixed" / name, tmp_path / name / "best.ckpt", *options)
        for name, *options in (("a",), ("b",), ("c", "lstm.hidden=8"))
    ]
    assert run(*mixed, "--out", tmp_path / "out") == 0
    assert names_of(tmp_path / "out") == dict.fromkeys(
        ("lstm.hidden=128, a/best.ckpt", "lstm.hidden=128, b/best.ckpt", "lstm.hidden=8"), "1"
    )
    capsys.readouterr()
    copy = write_evaluated(
        tmp_path / "copy", tmp_path / "moved.ckpt", inputs={"checkpoint": str(tmp_path / "a")}
    )
    assert run(*mixed, copy) == 1
    assert f"{mixed[0]} and {copy} are the same run (seed 0) twice" in capsys.readouterr().err


def test_checkpoints_that_were_trained_on_other_rows_are_no_seeds_of_one_configuration(
    tmp_path: Path,
):
    for seed, rows in enumerate("ssto"):
        where = tmp_path / "trained" / str(seed) / "best.ckpt"
        before = {"data": "d", "splits": rows}
        write_evaluated(tmp_path / "runs" / str(seed), where, seed=seed, began_with=before)
    assert run(tmp_path / "runs", "--out", tmp_path / "out") == 0
    assert names_of(tmp_path / "out") == {
        "0/best.ckpt and 1 more": "2", "2/best.ckpt": "1", "3/best.ckpt": "1",
    }  # fmt: skip


def test_evaluated_checkpoints_that_were_made_of_other_vectors_are_said(tmp_path: Path, capsys):
    for seed, vectors in enumerate("vw"):
        before = {"data": "d", "splits": "s", "words": "w", "ready-made vectors": vectors}
        where = tmp_path / "trained" / str(seed) / "best.ckpt"
        write_evaluated(tmp_path / "runs" / str(seed), where, seed=seed, began_with=before)
    assert run(tmp_path / "runs") == 0
    assert "Not all runs have read the same word vectors" in capsys.readouterr().out


def test_names_of_many_options_have_as_few_as_tell_apart(tmp_path: Path, capsys):
    many = ["optimizer.lr=0.01", "lstm.hidden=8", "data.batch_size=8", "trainer.max_epochs=3"]
    folders = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", *many, "loss=focal", noise=0.2),
        write_run(tmp_path / "c", *many, "loss=focal", "lstm.dropout=0.5", noise=0.2),
    ]
    assert run(*folders) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("loss=focal, lstm.dropout=0.5: ") for line in lines)
    (said,) = [line for line in lines if line.startswith("They differ in more")]
    assert all(option.split("=")[0] in said for option in many) and "lstm.dropout" not in said


def test_other_rows_are_refused_with_the_reason(tmp_path: Path, capsys):
    first = write_run(tmp_path / "first")
    fewer = write_run(tmp_path / "fewer", "lstm.layers=2", rows=50)
    renamed = write_run(tmp_path / "renamed", "lstm.layers=2")
    change(renamed, "predictions.csv", "\n7.jpg", "\nx.jpg")
    relabelled = write_run(tmp_path / "relabelled", "lstm.layers=2")
    change(first, "results.json", '"labels": {}', '"labels": {"3": {"name": "cat"}}')
    swapped = write_run(tmp_path / "swapped", "lstm.layers=2")
    change(swapped, "results.json", '"labels": {}', '"labels": {"3": {"name": "wine, old"}}')
    lines = (relabelled / "predictions.csv").read_text().splitlines()
    cells = lines[5].split(",")
    cells[1] = str(1 - int(cells[1]))
    change(relabelled, "predictions.csv", lines[5], ",".join(cells))
    for folder, reason in {
        fewer: "it has 50, not 60, and 50.jpg is not among them",
        renamed: f"was not tested on the rows of {first}: 7.jpg is not among them. Compare runs",
        relabelled: "the labels of 4.jpg have changed",
        swapped: f'was not tested on the rows of {first}: its label 3 is "wine, old", not cat',
    }.items():
        assert run(first, folder) == 1
        said = capsys.readouterr()
        assert reason in said.err and folder.name in said.err and not said.out


@pytest.mark.parametrize("command", [main, mistakes])
def test_the_whole_runs_are_named_where_others_failed(command, tmp_path: Path, capsys):
    folder = tmp_path / "my runs"
    for seed in range(4):
        write_run(folder / str(seed), seed=seed)
    for name in ("1", "3"):
        for path in (folder / name).iterdir():
            path.unlink()
        write_failure(folder / name, ValueError("the disk is full."))
        given = [str(folder), "--out", str(tmp_path / "out")]
        assert command(given) == 1
        said = capsys.readouterr().err
        assert f"{folder}/1 has no results to look at: the disk is full" in said
        if name == "1":
            whole = f"'{folder}/0' '{folder}/2' '{folder}/3'"
            assert said.endswith(f". Leave it out and give what is whole: {whole}\n")
    assert f"nor can {folder}/3 be taken. Leave them out" in said
    assert said.endswith(f"give what is whole: '{folder}/0' '{folder}/2'\n")
    for seed in range(4, 30):
        write_run(folder / str(seed), seed=seed)
    assert command([str(folder)]) == 1
    assert capsys.readouterr().err.endswith("give what is whole: the 28 others\n")


def test_runs_that_are_not_whole_are_refused_with_the_reason(tmp_path: Path, capsys):
    first = write_run(tmp_path / "first")
    failed = tmp_path / "failed"
    failed.mkdir()
    write_failure(failed, ValueError("the disk is full"))
    running = tmp_path / "running"
    running.mkdir()
    (running / ".lock").touch()
    damaged = write_run(tmp_path / "damaged", "lstm.layers=2")
    results = json.loads((damaged / "results.json").read_text())
    (damaged / "results.json").write_text(json.dumps(results | {"threshold": 0.4}))
    untested = write_run(tmp_path / "untested", "lstm.layers=2", "test=false")
    (untested / "predictions.csv").unlink()
    seal(untested)
    (tmp_path / "empty").mkdir()
    twin = write_run(tmp_path / "twin", "logger=csv")
    other = tmp_path / "other"
    read = {"words": "w", "ready-made vectors": "v"}
    same, differing = load_settings(["seed=1"]).plain(), {"ready-made vectors": "others"}
    write_fake_run(tmp_path / "one", seed=1, noise=0.1, settings=same, inputs=read)
    write_fake_run(other, seed=1, noise=0.2, settings=same, inputs=read | differing)
    assert run(tmp_path / "one", other) == 1
    said = capsys.readouterr().err
    assert "(seed 1) twice, but have not read the same word vectors: leave one out" in said
    for folder, reason in {
        failed: "the disk is full",
        running: "has not finished",
        damaged: "results.json is not as the run wrote it",
        untested: f"was not tested (test=false): python train.py train=false ckpt_path={untested}",
        tmp_path / "empty": "holds no run",
        tmp_path / "nowhere": "is no folder",
        first: "is one run alone",
        twin: "are the same run (seed 0) twice",
    }.items():
        assert run(first, folder) == 1
        said = capsys.readouterr()
        assert reason in said.err and str(folder) in said.err and len(said.err.splitlines()) == 1


def test_data_that_have_changed_since_a_run_are_said(made: Path, tmp_path: Path, capsys):
    rows = tmp_path / "rows.csv"
    rows.write_text((made / "rows.csv").read_text())
    given = ["data=csv", f"data.file={rows}", f"cache_dir={tmp_path}/cache"]
    settings = load_settings(given)
    before = settings.data.read(
        cache_dir=tmp_path / "cache", require_pictures=False, require_captions=False
    )
    write_fake_run(
        tmp_path / "run", seed=0, noise=0.1, settings=settings.plain(),
        inputs={"data": before.fingerprint},
    )  # fmt: skip
    write_fake_run(tmp_path / "older", seed=0, noise=0.1, settings=settings.plain())
    run, older = read_run(tmp_path / "run"), read_run(tmp_path / "older")
    for one in (run, older):
        found = annotations_of(one)
        assert found is not None and found.captions == before.captions
    assert not capsys.readouterr().err

    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([*lines[:-1], lines[-1] + " indeed"]) + "\n")
    found = annotations_of(run)
    assert found is not None and found.captions[-1].endswith(" indeed")
    said = capsys.readouterr().err
    assert "have changed since" in said and str(run.folder) in said
    assert annotations_of(older) is not None and not capsys.readouterr().err, "it cannot tell"
    rows.unlink()
    assert annotations_of(run) is None and "the page has no pictures" in capsys.readouterr().err


def test_settings_are_chosen_by_validation(tmp_path: Path, capsys):
    for seed in (0, 1):
        for name, hidden, noise in (("worse", 16, 0.3), ("better", 64, 0.05)):
            write_run(tmp_path / f"{name}{seed}", f"lstm.hidden={hidden}", seed=seed, noise=noise)
            (tmp_path / f"{name}{seed}" / "predictions.csv").unlink()  # test=false
            seal(tmp_path / f"{name}{seed}")
    folders = sorted(tmp_path.iterdir(), reverse=True)
    scores = {f.name: json.loads((f / "results.json").read_text())["scores"] for f in folders}
    reached = [scores[f"better{seed}"]["val/f1_micro"] for seed in (0, 1)]
    assert run(*folders, "--validation") == 0
    printed = capsys.readouterr().out
    assert printed.index("lstm.hidden=64") < printed.index("lstm.hidden=16")
    assert f"{np.mean(reached):.4f} ± {np.std(reached, ddof=1):.4f}" in printed
    assert "test what you choose" in printed
    path = folders[1] / "results.json"
    whole = json.loads(path.read_text())
    part = {"rows": whole["rows"] | {"val": 30}}  # trainer.limit_val_batches
    trainer = whole["settings"]["trainer"] | {"overfit_batches": 2}
    learned = {"settings": whole["settings"] | {"trainer": trainer}}
    for other in (part, learned):
        path.write_text(json.dumps(whole | other))
        seal(folders[1])
        assert run(*folders, "--validation") == 1
        assert f"{folders[1]} was not validated on the rows of {folders[0]}" in (
            capsys.readouterr().err
        )
    path.write_text(json.dumps(whole))
    seal(folders[1])
    assert run(*folders, "--validation", "--out", tmp_path / "page") == 1
    assert run(*folders) == 1
    assert "mmlabel.compare --validation compares such runs" in capsys.readouterr().err


def test_validation_says_what_runs_went_without(tmp_path: Path, capsys):
    used = {"glove (gensim)": [], "learned (100-d)": ["no vectors to be had"]}
    for seed, (source, notes) in enumerate(used.items()):
        read = {"notes": notes, "pretrained": {"embedding": source}}
        write_run(tmp_path / str(seed), seed=seed, **read)
    for options in ([], ["--validation"]):
        assert run(tmp_path, *options) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "no vectors to be had (seed 1)" in lines
        (said,) = [line for line in lines if line.startswith("Not all runs have read the same")]
        assert f"word vectors: {tmp_path / '0'} and {tmp_path / '1'} differ" in said


def test_seeds_of_several_commits_are_grouped_and_said_to_be(tmp_path: Path, capsys):
    for seed, commit in enumerate(("a" * 40, "b" * 40)):
        versions = {"torch": f"2.{seed}"}
        write_run(tmp_path / str(seed), seed=seed, commit=commit, versions=versions)
    for options in ([], ["--validation"]):
        assert run(tmp_path, *options) == 0
        printed = capsys.readouterr().out
        assert f"commit {'a' * 12} (seed 0); commit {'b' * 12} (seed 1)." in printed
        assert "torch 2.0 (seed 0); torch 2.1 (seed 1)." in printed
