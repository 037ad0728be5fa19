"""The options of each data source (`data=NAME`), which read and divide it.

A new source is a class here, a reader in `mmlabel/data/sources` and a file in conf/data.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import Field, StrictBool, field_validator, model_validator

from mmlabel.errors import UserError
from mmlabel.options import Count, Group, Index, Positive, Text, shown

if TYPE_CHECKING:
    import numpy as np

    from mmlabel.data.annotations import Annotations
    from mmlabel.data.transforms import Size


Side = Annotated[int, Ge(1), Le(4096)]


class Batches(Group):
    """What every data source has."""

    image_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] = 224
    """Side in px of the square that the backbone sees; with data.crop=none also [height, width]."""
    crop: Literal["center", "none"] = "center"
    """center: the shorter side is brought to that size and the middle seen; none: the whole
    picture, brought to that height and width."""
    upright: StrictBool = True
    """Turn pictures as their EXIF data says before anything else."""
    flip: StrictBool = True
    """Show each training picture mirrored in every other epoch or so, drawn anew; false: as it is,
    for labels to which left and right matter, or for half of the features to compute."""
    augment: list[Literal["crop", "rand", "erase"]] = []
    """Changes of training pictures, drawn anew in every epoch, so that the backbone runs in each:
    crop (a random part), rand (RandAugment), erase (a random rectangle, as in cutout)."""
    batch_size: Count = 32
    """Rows in a training step, shared out equally over the processes of trainer=ddp."""
    workers: Annotated[int, Ge(0), Le(256)] = 2
    """Processes that decode pictures; more than there are cores are not started."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do about a picture that cannot be read: stop, or leave its row out."""
    on_missing: Literal["error", "continue"] = "error"
    """Without weights, vectors or WordNet that cannot be fetched: stop, or go on without."""
    allow_other_rows: StrictBool = False
    """Evaluate a checkpoint on other rows than its own, without those that it was trained on."""

    @field_validator("augment")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise UserError(f"data.augment={shown(value)}: give each of them once")
        return value

    @model_validator(mode="after")
    def _sides_of_what(self) -> Batches:
        if isinstance(self.image_size, list) and self.crop == "center":
            raise UserError(
                f"data.image_size={shown(self.image_size)}: a square is cut out, of one side; give"
                " one number, or add data.crop=none for the whole picture"
            )
        return self

    @property
    def own_labels(self) -> bool:
        """Whether the labels are the data's own, and not those that the report numbers."""
        return False

    @property
    def view(self) -> Size:
        """A view's size as `mmlabel.data.transforms` takes it."""
        if isinstance(self.image_size, list):
            height, width = self.image_size
            return height, width
        return self.image_size if self.crop == "center" else (self.image_size, self.image_size)


class Splits(Batches):
    """How rows are divided into train, val and test."""

    splits: Text | None = None
    """A CSV of ImageID,split (train, val, test), with data=csv also the table itself, if it has a
    column split; test: all rows are for the test, to evaluate a checkpoint on another table; null:
    drawn, evenly by label."""
    fractions: Annotated[list[Positive], Field(min_length=3, max_length=3)] = [0.8, 0.1, 0.1]
    """Shares of train, val and test when the splits are drawn."""
    split_seed: Index = 0
    """Seed of the drawn splits."""
    folds: Annotated[int, Ge(2), Le(1000)] | None = None
    """Cross-validation in so many folds, evenly by label; null: one split."""
    fold: Index | None = None
    """Which fold is the test split, from 0; the others are train and val."""

    @model_validator(mode="after")
    def _shares_of_one(self) -> Splits:
        if abs(sum(self.fractions) - 1) > 1e-6:
            raise UserError(
                f"data.fractions={shown(self.fractions)}: give three numbers above 0 (train, val,"
                " test) that add up to 1"
            )
        if (self.folds is None) != (self.fold is None):
            raise UserError(
                f"data.folds={shown(self.folds)} with data.fold={shown(self.fold)}: give both, such"
                " as data.folds=5 data.fold=0"
            )
        if self.folds is not None and self.fold is not None:
            if self.fold >= self.folds:
                raise UserError(
                    f"data.fold={self.fold}: give a whole number, at least 0 and less than"
                    f" data.folds={self.folds}"
                )
            if self.splits is not None:
                raise UserError("data.folds with data.splits: rows are divided by one of the two")
        return self

    def splits_form(self, file: Path) -> dict[str, Any]:
        """How a file of splits is to be read, as arguments of `read_splits`."""
        return {}

    def divide(self, annotations: Annotations, *, cache_dir: Path) -> dict[str, np.ndarray]:
        """Sorted row numbers of "train", "val" and "test"."""
        from mmlabel.data.splits import all_for_the_test, fold_rows, read_splits, split_rows

        if self.splits == "test":
            return all_for_the_test(annotations.ids)
        if self.splits is not None:
            file = Path(os.path.expanduser(self.splits))
            return read_splits(file, annotations.ids, **self.splits_form(file))
        train, val, test = self.fractions
        if self.folds is not None and self.fold is not None:
            return fold_rows(
                annotations.targets,
                folds=self.folds,
                fold=self.fold,
                val_fraction=val / (train + val),
                seed=self.split_seed,
                cache_dir=cache_dir,
                ids=annotations.ids,
            )
        return split_rows(
            annotations.targets,
            fractions=(train, val, test),
            seed=self.split_seed,
            cache_dir=cache_dir,
            ids=annotations.ids,
        )


SceneSide = Annotated[int, Ge(16), Le(1024)]


class Scenes(Batches):
    """The built-in data set: pictures drawn from a seed, with captions that name part of them."""

    name: Literal["scenes"]
    scenes_seed: Index = 0
    """Seed of the drawings."""
    rows: Annotated[list[Count], Field(min_length=3, max_length=3)] = [1200, 200, 200]
    """Rows of train, val and test."""
    image_size: SceneSide | Annotated[list[SceneSide], Field(min_length=2, max_length=2)] = 96
    """Side in px at which pictures are drawn and seen; with data.crop=none also [HEIGHT,WIDTH], of
    which they are drawn at the smaller."""
    on_missing: Literal["error", "continue"] = "continue"
    """Without weights, vectors or WordNet that cannot be fetched: stop, or go on without."""

    def read(
        self, *, cache_dir: Path, require_pictures: bool, require_captions: bool
    ) -> Annotations:
        """The rows, drawn first if need be."""
        from mmlabel.data.sources.report_csv import read_usyd

        return read_usyd(
            self._folder(cache_dir),
            require_pictures=require_pictures,
            require_captions=require_captions,
        )

    def divide(self, annotations: Annotations, *, cache_dir: Path) -> dict[str, np.ndarray]:
        """Sorted row numbers of "train", "val" and "test"."""
        from mmlabel.data.splits import read_splits

        return read_splits(self._folder(cache_dir) / "splits.csv", annotations.ids)

    def _folder(self, cache_dir: Path) -> Path:
        from mmlabel.data.sources.scenes import scenes_folder

        train, val, test = self.rows
        side = min(self.image_size) if isinstance(self.image_size, list) else self.image_size
        return scenes_folder(cache_dir, seed=self.scenes_seed, rows=(train, val, test), size=side)


class Usyd(Splits):
    """The report's data set: ImageID,Labels,Caption and a folder of pictures."""

    name: Literal["usyd"]
    root: Text
    """The data set's folder, such as ~/usyd, which holds train.csv (ImageID,Labels,Caption) and a
    folder data of the pictures."""
    file: Text = "train.csv"
    """The CSV in it."""
    pictures: Text = "data"
    """The folder of pictures in it."""
    encoding: Text | None = "utf-8"
    """Of the CSV; null: found out."""

    def read(
        self, *, cache_dir: Path, require_pictures: bool, require_captions: bool
    ) -> Annotations:
        """The rows of the CSV."""
        from mmlabel.data.sources.report_csv import read_usyd

        return read_usyd(
            Path(os.path.expanduser(self.root)),
            file=self.file,
            pictures=self.pictures,
            encoding=self.encoding,
            require_pictures=require_pictures,
            require_captions=require_captions,
        )


class Coco(Splits):
    """COCO's own layout (2014 or 2017), reduced to the report's 18 labels, or any in its format."""

    name: Literal["coco"]
    root: Text
    """COCO's folder, such as ~/coco, which holds annotations/instances_*.json, captions_*.json
    and the pictures, or is to hold them (data.download=true)."""
    instances: Text | None = None
    """The instances file, by its name in annotations, or its whole path; null: the one
    annotations/instances_*.json."""
    captions: Text | None = None
    """The captions file, likewise; null: captions_NAME.json of instances_NAME.json."""
    categories: Literal["report", "all"] = "report"
    """Which are labels: the report's 18, of pictures that have one, or all of the file's, whatever
    they are, of all pictures."""
    several_captions: Literal["one", "all"] = "one"
    """Of a picture's captions one, or all in training and one elsewhere."""
    caption_seed: Index = 0
    """Which of a picture's captions is the one."""
    download: StrictBool = False
    """Fetch annotations and pictures into data.root first."""
    year: Literal[2014, 2017] = 2017
    """Of the download."""
    subset: Literal["train", "val"] = "val"
    """Of the download."""
    max_pictures: Count | None = None
    """Take the first so many pictures; null: all."""
    # COCO's bucket under the name that its certificate is for: images.cocodataset.org has none.
    base_url: Text = "https://s3.amazonaws.com/images.cocodataset.org"
    """Where the download comes from."""

    @property
    def own_labels(self) -> bool:
        """Whether they are those of a file that is not COCO's, most likely."""
        return self.categories == "all"

    def read(
        self, *, cache_dir: Path, require_pictures: bool, require_captions: bool
    ) -> Annotations:
        """The pictures and their labels, downloaded first if that is asked for."""
        from mmlabel.data.sources.coco import read_coco

        root = Path(os.path.expanduser(self.root))
        if self.download:
            from mmlabel.data.download import download_coco

            download_coco(
                root,
                year=self.year,
                subset=self.subset,
                base_url=self.base_url,
                categories=self.categories,
                max_pictures=self.max_pictures,
            )
        # The archive holds several sets of annotations; the one asked for is meant.
        fetched = f"instances_{self.subset}{self.year}.json" if self.download else None
        instances, captions = (
            None if name is None else os.path.expanduser(name)
            for name in (self.instances or fetched, self.captions)
        )
        return read_coco(
            root,
            instances=instances,
            captions=captions,
            categories=self.categories,
            several_captions=self.several_captions,
            seed=self.caption_seed,
            max_pictures=self.max_pictures,
            require_pictures=require_pictures,
            require_captions=require_captions,
        )


class CsvTable(Splits):
    """Any CSV (also TSV and JSON lines) with a picture, labels and a caption in each row."""

    name: Literal["csv"]
    file: Text
    """The table, such as rows.csv, with a picture, its labels and a caption in each row."""
    root: Text | None = None
    """The folder that pictures are relative to; null: the CSV's."""
    picture_column: Text | None = "picture"
    """The column of picture files; null: none, for a model that looks at no pictures."""
    label_column: Text = "labels"
    """The column of label lists."""
    caption_column: Text | None = "caption"
    """The column of captions; null: none, for a model that looks at no captions."""
    label_columns: Annotated[list[Text], Field(min_length=1)] | None = None
    """Instead of label_column: a column a label, with 1 or 0 (yes, no); * stands for anything."""
    uncertain: Literal["mask", 0, 1] = "mask"
    """What -1 or an empty cell in label_columns means: not known (counts nowhere), 0 or 1."""
    separator: Annotated[Text, Field(min_length=1)] = " "
    """What stands between the labels of a row, such as ; or tab; json: each cell is a JSON list."""
    label_names: Annotated[list[Text], Field(min_length=1)] | None = None
    """The labels' names; null: numbers, or the names found in the file."""
    num_labels: Count | None = None
    """How many label numbers there are; null: the highest plus one."""
    several_captions: Literal["error", "one", "all"] = "error"
    """Rows of one picture: an error, one of them, or all in training and one elsewhere."""
    caption_seed: Index = 0
    """Which of a picture's captions is the one."""
    delimiter: Text | None = None
    """What stands between cells, one character or tab; null: found out."""
    encoding: Text | None = None
    """Of the file; null: found out."""

    @property
    def own_labels(self) -> bool:
        """Always."""
        return True

    def splits_form(self, file: Path) -> dict[str, Any]:
        """The table itself is read as it is for its rows, whose ids it has."""
        own = [] if self.picture_column is None else [self.picture_column]
        try:
            is_table = os.path.samefile(file, os.path.expanduser(self.file))
        except OSError:
            is_table = False
        form: dict[str, Any] = {"delimiter": self.delimiter, "encoding": self.encoding}
        if is_table:
            return form | {"id_columns": own, "numbered": True}
        if _is_utf_8(file):
            form["encoding"] = None  # whatever the table is in
        return form | {"id_columns": list(dict.fromkeys(["ImageID", *own]))}

    @field_validator("uncertain", mode="before")
    @classmethod
    def _no_truth(cls, value: object) -> object:
        if isinstance(value, bool):  # Python's true equals 1
            raise ValueError
        return value

    @model_validator(mode="after")
    def _labels_in_one_way(self) -> CsvTable:
        if self.label_columns is not None and (self.label_names or self.num_labels):
            raise UserError(
                "data.label_columns names the labels by their columns: leave out data.label_names"
                " and data.num_labels, or where a checkpoint or record has them give null"
            )
        return self

    def read(
        self, *, cache_dir: Path, require_pictures: bool, require_captions: bool
    ) -> Annotations:
        """The rows of the CSV."""
        from mmlabel.data.sources.csv_table import read_csv

        return read_csv(
            Path(os.path.expanduser(self.file)),
            picture_column=self.picture_column,
            label_column=self.label_column,
            caption_column=self.caption_column,
            label_columns=self.label_columns,
            uncertain=self.uncertain,
            several_captions=self.several_captions,
            caption_seed=self.caption_seed,
            delimiter=self.delimiter,
            encoding=self.encoding,
            root=None if self.root is None else Path(os.path.expanduser(self.root)),
            separator=self.separator,
            label_names=self.label_names,
            num_labels=self.num_labels,
            require_pictures=require_pictures,
            require_captions=require_captions,
        )


def _is_utf_8(file: Path) -> bool:
    try:
        file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return True


DataSource = Annotated[Scenes | Usyd | Coco | CsvTable, Field(discriminator="name")]
