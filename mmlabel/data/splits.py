"""Which rows are for training, validation and test: drawn evenly by label, or read from a file."""

import csv
from pathlib import Path

import numpy as np

from mmlabel.cache import atomic_write, fingerprint, lock
from mmlabel.errors import UserError, nearest

SPLITS = ("train", "val", "test")


def split_rows(
    targets: np.ndarray,
    *,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    cache_dir: Path,
) -> dict[str, np.ndarray]:
    """Split rows at random so that every label keeps its share in every split.

    Iterative stratification (Sechidis et al. 2011, "On the Stratification of Multi-Label Data"),
    then the sizes are made exact. The result is kept under `cache_dir/splits`.

    Args:
        targets: (N, num_labels), 0 or 1.
        fractions: the shares of train, val and test; they add up to 1.
        seed: the same seed and targets give the same split.
        cache_dir: the cache folder.

    Returns:
        For "train", "val" and "test" the sorted row numbers: disjoint, together all of them.

    Raises:
        UserError: fewer than three rows, or fractions that are not three shares of 1.
    """
    fractions = tuple(float(fraction) for fraction in fractions)
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"the split fractions {list(fractions)} must be three numbers above 0 (train, val, "
            "test) that add up to 1"
        )
    if len(targets) < 3:
        raise UserError(
            f"{len(targets)} labelled row(s) cannot be split into train, val and test: at least "
            "3 are needed"
        )
    key = fingerprint("splits 1", targets.astype(np.uint8), list(fractions), seed)
    path = cache_dir / "splits" / f"{key}.npy"
    with lock(path):
        if path.exists():
            split_of_row = np.load(path)
        else:
            split_of_row = _stratify(targets.astype(bool), fractions, seed)
            with atomic_write(path) as temporary:
                np.save(temporary, split_of_row)
    return {name: np.flatnonzero(split_of_row == number) for number, name in enumerate(SPLITS)}


def read_splits(file: Path, ids: list[str]) -> dict[str, np.ndarray]:
    """Read a split from a CSV with the columns `ImageID` and `split` (train, val or test).

    Rows of the data that the file does not name are left out.

    Args:
        file: the CSV.
        ids: the image ids of the data, in row order.

    Returns:
        For "train", "val" and "test" the sorted row numbers.

    Raises:
        UserError: no such file, a missing column, an id that the data does not have or that is
            named twice, a split of another name, or a split without rows.
    """
    file = Path(file)
    row_of_id = {image_id: row for row, image_id in enumerate(ids)}
    rows: dict[str, list[int]] = {name: [] for name in SPLITS}
    unknown, seen = [], set()
    for number, image_id, split in _named_splits(file):
        where = f"{file}: row {number} ({image_id})"
        if split not in rows:
            raise UserError(f'{where}: "{split}" is not a split{nearest(split, SPLITS)}')
        if image_id in seen:
            raise UserError(f"{where}: this image id is named twice")
        seen.add(image_id)
        if image_id in row_of_id:
            rows[split].append(row_of_id[image_id])
        else:
            unknown.append(f"{image_id} (row {number})")
    if unknown:
        raise UserError(
            f"{file}: {len(unknown)} image id(s) that the data does not have: "
            f"{', '.join(unknown[:10])}{', ...' if len(unknown) > 10 else ''}"
        )
    for name in SPLITS:
        if not rows[name]:
            raise UserError(f"{file}: no row has the split {name}; train, val and test need some")
    return {name: np.array(sorted(numbers)) for name, numbers in rows.items()}


def _named_splits(file: Path) -> list[tuple[int, str, str]]:
    """The row number, image id and split of each row of a splits file."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            header, *lines = list(csv.reader(opened)) or [[]]
    except OSError as error:
        raise UserError(f"cannot read the splits file {file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is not a CSV file in UTF-8: {error}") from None
    header = [column.strip() for column in header]
    for column in ("ImageID", "split"):
        if column not in header:
            raise UserError(f"{file} has no column {column}; its columns: {', '.join(header)}")
    image_id, split = header.index("ImageID"), header.index("split")
    named = []
    for number, line in enumerate(filter(None, lines), start=1):
        if len(line) != len(header):
            raise UserError(f"{file}: row {number} has {len(line)} fields, not {len(header)}")
        named.append((number, line[image_id].strip(), line[split].strip()))
    return named


def _stratify(targets: np.ndarray, fractions: tuple[float, ...], seed: int) -> np.ndarray:
    """The split number of each row: train against the rest, then the rest into val and test."""
    # Importing scikit-learn takes a second, which only the first start should pay.
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    sizes = _sizes(len(targets), fractions)
    # The library needs two columns at least; rows without a label are one more kind to keep even.
    targets = np.column_stack([targets, ~targets.any(axis=1)])  # (N, num_labels + 1)
    split_of_row = np.zeros(len(targets), dtype=np.int8)
    for split in (1, 2):
        rest = np.flatnonzero(split_of_row == split - 1)
        splitter = MultilabelStratifiedShuffleSplit(
            n_splits=1,
            train_size=int(sizes[split - 1]),
            test_size=int(sizes[split:].sum()),
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
