"""Which rows are for training, validation and test: drawn evenly by label, or read from a file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mmlabel.cache import fingerprint, kept
from mmlabel.data.sources.delimited import (
    NotDelimited,
    column_number,
    find_delimiter,
    missing_columns,
    parse_delimited,
)
from mmlabel.data.sources.json_lines import JSON_LINES, as_text, parse_json_lines
from mmlabel.data.sources.text import read_text
from mmlabel.errors import UserError, nearest
from mmlabel.spreadsheet import from_cell
from mmlabel.wording import count, listed

SPLITS = ("train", "val", "test")
# Labels that are kept even. The library looks at all rows and all labels once for each label.
MOST_EVEN = 1000


def split_rows(
    targets: np.ndarray,
    *,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    cache_dir: Path,
    ids: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Split rows at random so that every label keeps its share in every split.

    Of more than MOST_EVEN labels the commonest do; the others are where their rows are.

    Iterative stratification (Sechidis et al. 2011, "On the Stratification of Multi-Label Data"),
    then the sizes are made exact. The result is kept under `cache_dir/splits`.

    Args:
        targets: (N, num_labels), 0 or 1.
        fractions: the shares of train, val and test; they add up to 1.
        seed: the same seed and targets give the same split.
        cache_dir: the cache folder.
        ids: the picture of each row, where a picture may have several (its captions). They come
            into one split, as one picture; outside of training only the first of them is used.

    Returns:
        For "train", "val" and "test" the sorted row numbers: disjoint, together all of them.

    Raises:
        UserError: fewer than three rows.
    """
    shares = tuple(map(float, fractions))
    first_rows, picture_of_row = _pictures(ids, len(targets))
    targets = targets[first_rows]
    if len(targets) < 3:
        raise UserError(
            f"{count(len(targets), 'labelled row')} cannot be split into train, val and test: at"
            " least 3 are needed"
        )
    split_of_picture = _kept(
        cache_dir,
        [
            "splits 1" if targets.shape[1] <= MOST_EVEN else "splits 2",
            targets.astype(np.uint8),
            list(shares),
            seed,
        ],
        lambda: _stratify(targets.astype(bool), _sizes(len(targets), shares), seed),
    )
    return _rows_of_splits(split_of_picture, first_rows, picture_of_row)


def fold_rows(
    targets: np.ndarray,
    *,
    folds: int,
    fold: int,
    val_fraction: float = 0.1,
    seed: int = 0,
    cache_dir: Path,
    ids: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Split rows for cross-validation: fold number `fold` is the test split.

    The folds are those of the splitter's own k-fold, stratified by label; the validation split is
    drawn from the other folds, stratified too. Every row is in the test split of one fold alone.

    Args:
        targets: (N, num_labels), 0 or 1.
        folds: how many, at least 2.
        fold: which of them, from 0.
        val_fraction: the share of the other folds' rows that is for validation, above 0, below 1.
        seed: the same seed and targets give the same folds.
        cache_dir: the cache folder.
        ids: as in `split_rows`.

    Returns:
        For "train", "val" and "test" the sorted row numbers: disjoint, together all of them.

    Raises:
        UserError: fewer rows than the folds and a validation split need.
    """
    first_rows, picture_of_row = _pictures(ids, len(targets))
    targets = targets[first_rows]
    if len(targets) < max(folds, 4):
        raise UserError(
            f"{count(len(targets), 'labelled row')} cannot be split into {folds} folds with a "
            f"validation split: at least {max(folds, 4)} are needed"
        )
    key: list = [targets.astype(np.uint8), folds, seed]
    if targets.shape[1] > MOST_EVEN:
        key.append(MOST_EVEN)
    fold_of_picture = _kept(
        cache_dir, ["folds 1", *key], lambda: _folds(targets.astype(bool), folds, seed)
    )
    others = np.flatnonzero(fold_of_picture != fold)
    if len(others) == len(targets) or len(others) < 2:
        raise UserError(
            f"fold {fold} of {folds} has {len(targets) - len(others)} of {len(targets)} rows: "
            "these are too few for so many folds"
        )
    sizes = _sizes(len(others), (1 - val_fraction, val_fraction))
    split_of_picture = np.full(len(targets), SPLITS.index("test"), dtype=np.int8)
    split_of_picture[others] = _kept(
        cache_dir,
        ["validation of a fold 1", *key, fold, val_fraction],
        lambda: _stratify(targets[others].astype(bool), sizes, seed),
    )
    return _rows_of_splits(split_of_picture, first_rows, picture_of_row)


def all_for_the_test(ids: Sequence[str]) -> dict[str, np.ndarray]:
    """The rows of data that only a test looks at: the first of each picture, as in `split_rows`."""
    none = np.array([], dtype=np.int64)
    return {"train": none, "val": none, "test": _pictures(ids, len(ids))[0]}


def read_splits(
    file: Path,
    ids: Sequence[str],
    *,
    id_columns: Sequence[str] = ("ImageID",),
    numbered: bool = False,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> dict[str, np.ndarray]:
    """Read a split from a table with the columns `ImageID` and `split` (train, val or test).

    Rows of the data that the file does not name are left out. Ids may be written as cells of
    mmlabel's own files are, see `spreadsheet.to_cell`.

    Args:
        file: CSV, or JSON lines by its name.
        ids: the image ids of the data, in row order; rows of the same id as in `split_rows`.
        id_columns: how the column of ids may be called; the first that is there is read.
        numbered: whether the ids are the numbers of the rows where there is no such column.
        encoding: of the file; None: found out.
        delimiter: that the file may have beside those that are found out.

    Returns:
        For "train", "val" and "test" the sorted row numbers.

    Raises:
        UserError: no such file, a missing column, an id that the data does not have or that is
            in two splits, a split of another name, or a split without rows.
    """
    file = Path(file)
    rows_of_id: dict[str, list[int]] = {}
    for row, image_id in enumerate(ids):
        rows_of_id.setdefault(image_id, []).append(row)
    rows: dict[str, list[int]] = {name: [] for name in SPLITS}
    unknown, seen = [], dict[str, str]()
    for number, cell, split in _named_splits(
        file, id_columns, numbered=numbered, encoding=encoding, delimiter=delimiter
    ):
        # Copied from a file that mmlabel has written, unless the data has it as it stands.
        image_id = cell if cell in rows_of_id else from_cell(cell)
        where = f"{file}: row {number} ({cell})"
        if split not in rows:
            raise UserError(f'{where}: "{split}" is not a split{nearest(split, SPLITS)}')
        if (other := seen.setdefault(image_id, split)) != split:
            raise UserError(f"{where}: this image id is in {split} and in {other}")
        if image_id in rows_of_id:
            rows[split] += rows_of_id[image_id][: None if split == "train" else 1]
        else:
            unknown.append(f"{cell} (row {number})")
    if unknown:
        raise UserError(
            f"{file}: {count(len(unknown), 'image id')} that the data does not have:"
            f" {listed(unknown)}"
        )
    for name in SPLITS:
        if not rows[name]:
            raise UserError(f"{file}: no row has the split {name}; train, val and test need some")
    return {name: np.array(sorted(set(numbers))) for name, numbers in rows.items()}


def note_of_left_out(ids: Sequence[str], rows: Mapping[str, np.ndarray]) -> str | None:
    """What is to be said of rows that a splits file does not name; None if it names all.

    Further captions of a picture that it names are not left out, see `split_rows`.
    """
    named = {ids[row] for own in rows.values() for row in own.tolist()}
    left = sum(image_id not in named for image_id in ids)
    return f"data.splits leaves out {left:,} of {count(len(ids), 'row')}" if left else None


def _named_splits(
    file: Path,
    id_columns: Sequence[str],
    *,
    numbered: bool,
    encoding: str | None,
    delimiter: str | None,
) -> list[tuple[int, str, str]]:
    """The row number, image id and split of each row of a splits file; see `read_splits`."""
    text, _ = read_text(file, encoding=encoding)
    lines: Sequence[Sequence[object]]
    if file.suffix.lower() in JSON_LINES:
        header, objects = parse_json_lines(file, text)
        lines = [[content.get(key) for key in header] for content in objects]
    else:
        first_line = next(filter(str.strip, text.splitlines()), "")
        more = [delimiter] if delimiter and len(delimiter) == 1 else []  # no "tab"
        try:
            found = find_delimiter(first_line, [*id_columns, "split"], more=more)
            header, lines = parse_delimited(text, delimiter=found)
        except NotDelimited as problem:
            raise UserError(f"{file}: {problem}") from None
    named = next((name for name in id_columns if name in header), None)
    if named is None and not numbered:
        raise missing_columns(file, header, dict.fromkeys(id_columns, ""))
    image_id = None if named is None else column_number(file, header, named)
    split = column_number(file, header, "split")
    return [
        (
            number,
            str(number) if image_id is None else _cell(file, number, line[image_id]),
            _cell(file, number, line[split]),
        )
        for number, line in enumerate(lines, start=1)
    ]


def _cell(file: Path, row: int, cell: object) -> str:
    try:
        return as_text(cell).strip()
    except ValueError as error:
        raise UserError(f"{file}: row {row}: a cell {error}") from None


def _pictures(ids: Sequence[str] | None, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each picture, in row order, and the picture number of each row."""
    if ids is None:
        return np.arange(rows), np.arange(rows)
    number_of_id = {image_id: number for number, image_id in enumerate(dict.fromkeys(ids))}
    picture_of_row = np.array([number_of_id[image_id] for image_id in ids], dtype=np.int64)
    return np.unique(picture_of_row, return_index=True)[1], picture_of_row


def _rows_of_splits(
    split_of_picture: np.ndarray, first_rows: np.ndarray, picture_of_row: np.ndarray
) -> dict[str, np.ndarray]:
    """Training has every row of its pictures, the other splits the first row of each."""
    rows = {name: first_rows[split_of_picture == number] for number, name in enumerate(SPLITS)}
    return {**rows, "train": np.flatnonzero(split_of_picture[picture_of_row] == 0)}


def _kept(cache_dir: Path, key: list, compute: Callable[[], np.ndarray]) -> np.ndarray:
    return kept(
        cache_dir / "splits" / f"{fingerprint(*key)}.entry",
        compute,
        pack=lambda split_of_picture: {"split": split_of_picture},
        unpack=lambda arrays: arrays["split"],
    )


def _with_unlabelled(targets: np.ndarray) -> np.ndarray:
    """(N, num_labels + 1): rows without a label are one more kind to keep even.

    The library needs two columns at least. Of more than MOST_EVEN labels there are the commonest.
    """
    unlabelled = ~targets.any(axis=1)
    if targets.shape[1] > MOST_EVEN:
        commonest = np.argsort(-targets.sum(axis=0), kind="stable")[:MOST_EVEN]
        targets = targets[:, np.sort(commonest)]
    return np.column_stack([targets, unlabelled])


def _folds(targets: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold number of each row."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    targets = _with_unlabelled(targets)
    fold_of_row = np.zeros(len(targets), dtype=np.int64)
    splitter = MultilabelStratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(targets, targets)):
        fold_of_row[rows] = fold
    return fold_of_row


def _stratify(targets: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """The split number of each row: the first against the rest, then the rest likewise."""
    # Importing scikit-learn takes a second, which only the first start should pay.
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    targets = _with_unlabelled(targets)
    split_of_row = np.zeros(len(targets), dtype=np.int8)
    for split in range(1, len(sizes)):
        rest = np.flatnonzero(split_of_row == split - 1)
        splitter = MultilabelStratifiedShuffleSplit(
            n_splits=1,
            train_size=int(sizes[split - 1]),
            test_size=int(sizes[split:].sum()),  # pyright: ignore[reportArgumentType]
            random_state=seed,
        )
        kept, moved = next(splitter.split(targets[rest], targets[rest]))
        split_of_row[rest[moved]] = split
        _balance(split_of_row, targets, split - 1, int(sizes[split - 1]))
    return split_of_row


def _sizes(rows: int, fractions: tuple[float, ...]) -> np.ndarray:
    """Rows per split: the fractions rounded, none empty, together `rows`."""
    sizes = np.maximum(1, np.round(np.array(fractions) * rows).astype(int))
    while sizes.sum() != rows:
        sizes[sizes.argmax()] += np.sign(rows - sizes.sum())
    return sizes


def _balance(split_of_row: np.ndarray, targets: np.ndarray, split: int, size: int) -> None:
    """Move rows between `split` and the next until it has `size` rows, in place.

    Stratification prefers even labels to exact sizes, and can leave a small split empty. The rows
    moved are those whose rarest label is the most frequent, where one row matters least.
    """
    excess = int((split_of_row == split).sum()) - size
    source, destination = (split, split + 1) if excess > 0 else (split + 1, split)
    rows = np.flatnonzero(split_of_row == source)
    rarest = np.where(targets[rows], targets.sum(axis=0), len(targets)).min(axis=1)
    commonest_first = np.argsort(-rarest, kind="stable")
    split_of_row[rows[commonest_first[: abs(excess)]]] = destination
