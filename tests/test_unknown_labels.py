"""Rows of which no label is known: a split of nothing else is refused, and few are said to be."""

import csv
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from pytorch_lightning.callbacks import Callback

from mmlabel.errors import UserError
from mmlabel.parts import prepare
from mmlabel.terminal import print_table
from mmlabel.training import train

SPLIT_OF = {n: "train" if n < 40 else "val" if n < 50 else "test" for n in range(90)}


def options_for(folder: Path, unknown: Collection[int]) -> list[str]:
    """Options that read a table of two labels, none of which is known of the rows `unknown`."""
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "cat", "dog", "caption"])
        for n in SPLIT_OF:
            cells = ["", "-1"] if n in unknown else [n % 2, (n + 1) % 2]
            writer.writerow([f"{n}.jpg", *cells, "a cat" if n % 2 else "a dog"])
    with open(folder / "splits.csv", "w", newline="") as file:
        csv.writer(file).writerows([("ImageID", "split"), *((f"{n}.jpg", split) for n, split in
                                                            SPLIT_OF.items())])  # fmt: skip
    return [
        "model=caption_only",
        "data=csv",
        f"data.file={folder}/rows.csv",
        f"data.splits={folder}/splits.csv",
        "data.label_columns=[cat,dog]",
    ]


def rows_of(split: str) -> list[int]:
    return [n for n, own in SPLIT_OF.items() if own == split]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_a_known_label_is_refused(
    split: str, settings_of: Callable, tmp_path: Path
):
    options = options_for(tmp_path, rows_of(split))
    message = f"no label is known in the {split} split: in all of its {len(rows_of(split))} rows"
    with pytest.raises(UserError, match=message):
        prepare(settings_of(*options), None)
    prepare(settings_of(*options, "data.uncertain=0"), None)
    options = options_for(tmp_path, rows_of(split)[1:])
    prepare(settings_of(*options), None)


def test_a_split_that_is_not_looked_at_may_be_unknown(settings_of: Callable, tmp_path: Path):
    options = options_for(tmp_path, rows_of("test"))
    for further in ("test=false", "trainer.limit_test_batches=0"):
        assert len(prepare(settings_of(*options, further), None).rows["test"]) == 40
    options = [*options_for(tmp_path, rows_of("val")), "trainer.limit_val_batches=0"]
    assert len(prepare(settings_of(*options), None).rows["val"]) == 10


class Losses(Callback):
    """The loss of each training batch, and of how many known labels it is the mean."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.known: list[int] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(pl_module.step_loss.item())
        self.known.append(int(batch.known.sum()))


def test_the_training_loss_is_over_known_labels_as_that_of_validation_is(
    settings_of: Callable, tmp_path: Path
):
    """A batch of which nothing is known has the loss 0, which is no loss of the network."""
    options = options_for(tmp_path, rows_of("train")[:30])
    seen = Losses()
    given = settings_of(*options, "trainer.max_epochs=1", "data.batch_size=2", "test=false")
    train(given, tmp_path / "run", callbacks=[seen])
    assert 0 in seen.known and len(set(seen.known)) == 3 and sum(seen.known) == 20
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        (loss,) = (row["train/loss"] for row in csv.DictReader(file) if row["train/loss"])
    each = zip(seen.losses, seen.known, strict=True)
    assert float(loss) == pytest.approx(sum(loss * known for loss, known in each) / 20, rel=1e-5)


def test_few_rows_are_those_with_a_known_label(
    settings_of: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = options_for(tmp_path, rows_of("test")[:35])
    settings = settings_of(*options, "trainer.max_epochs=1", "report=true")
    (tmp_path / "run").mkdir()
    results = train(settings, tmp_path / "run")
    assert results["rows"] == {"train": 40, "val": 10, "test": 40}
    assert results["rows_known"] == {"val": 10, "test": 5}
    capsys.readouterr()
    print_table(results)
    said = "5 test rows with a known label: scores of so few are mostly chance"
    assert f"Careful: {said}" in capsys.readouterr().out
    assert said in (tmp_path / "run" / "report.html").read_text()
