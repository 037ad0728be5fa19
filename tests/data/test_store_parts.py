"""Whole stores: every row checked, parts put together, rows written out."""

import csv
from pathlib import Path

import numpy as np
import pytest

from mmlabel.data import row_store, store_parts
from mmlabel.data.row_store import RowStore, StoreUnavailable, open_store, remove_store, stores
from mmlabel.data.store_parts import check, export, merge
from mmlabel.errors import UserError

KEY: dict[str, object] = {"backbone": "b", "precision": "float32"}


def entry(number: int, flip: int = 0) -> bytes:
    return number.to_bytes(32, "big") + bytes([flip])


def filled(folder: Path, numbers: range, *, key: dict[str, object] = KEY) -> RowStore:
    """A store of rows whose numbers tell whose they are."""
    store = RowStore.open(folder, key=key, width=3, dtype="float32")
    block = np.array([[n, n + 0.25, n + 0.5] for n in numbers], np.float32).reshape(-1, 3)
    store.append([entry(n) for n in numbers], block)
    return store


def flip_a_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def numbers_in(store: RowStore) -> dict[bytes, float]:
    entries = store.entries()
    rows = store.rows(entries)
    return {e: store.array()[row][0] for e, row in zip(entries, rows, strict=True) if row >= 0}


@pytest.fixture(autouse=True)
def several_pieces(monkeypatch):
    monkeypatch.setattr(store_parts, "_CHUNK_BYTES", 50.0)  # four rows


@pytest.mark.parametrize(
    ("name", "size"), [("features.bin", 12), ("checksums.bin", 4), ("entries.bin", 33)]
)
def test_damage_in_any_file_is_found(tmp_path: Path, name: str, size: int):
    store = filled(tmp_path, range(11))
    assert check(store).whole.all() and check(store).damaged == 0
    flip_a_bit(store.folder / name, 6 * size + 1)
    found = check(open_store(store.folder))
    assert np.flatnonzero(~found.whole).tolist() == [6]
    assert (found.damaged, found.replaced, found.surplus) == (1, 0, 0)


def test_a_damaged_row_that_was_computed_anew(tmp_path: Path):
    store = filled(tmp_path, range(5))
    flip_a_bit(store.folder / "features.bin", 2 * 12)
    filled(tmp_path, range(2, 3))
    found = check(open_store(store.folder))
    assert (found.damaged, found.replaced) == (0, 1)


def test_what_a_killed_job_left_and_rows_of_an_older_version(tmp_path: Path):
    store = filled(tmp_path, range(5))
    with open(store.folder / "features.bin", "ab") as file:
        file.write(b"surplus")
    sums = store.folder / "checksums.bin"
    sums.write_bytes(sums.read_bytes()[: 3 * 4])
    found = check(open_store(store.folder))
    assert (found.surplus, found.unknown, found.damaged) == (7, 2, 0)


def test_parts_are_merged_without_what_is_damaged(tmp_path: Path):
    parts = [filled(tmp_path / "a", range(7)), filled(tmp_path / "b", range(5, 16))]
    flip_a_bit(parts[1].folder / "features.bin", 8 * 12)
    target = filled(tmp_path / "whole", range(2))
    first, second = merge(parts, target)
    assert (first.added, first.known, first.damaged) == (5, 2, 0)
    assert (second.added, second.known, second.damaged) == (8, 2, 1)
    expected = {entry(n): float(n) for n in range(16) if n != 13}
    assert numbers_in(target) == expected
    assert check(target).whole.all()
    assert [part.added for part in merge(parts, target)] == [0, 0], "again: nothing is left to do"


def test_a_merge_says_what_is_cut_off_and_where_rows_are_others(tmp_path: Path):
    parts = [filled(tmp_path / "a", range(7)), filled(tmp_path / "b", range(7, 9))]
    other = np.array([[5.5, 5.25, 5.5], [6, 6.25, 6.5]], np.float32)  # of 5 one is 0.5 apart
    parts[1].append([entry(5), entry(6)], other)
    with open(parts[0].folder / "features.bin", "rb+") as file:
        file.truncate(6 * 12 + 1)
    target = RowStore.open(tmp_path / "whole", key=KEY, width=3, dtype="float32")
    first, second = merge(parts, target)
    assert (first.added, first.damaged, first.other) == (6, 1, 0)
    assert (second.added, second.known, second.other, second.most) == (3, 1, 1, 0.5)
    assert numbers_in(target)[entry(5)] == 5


def test_a_store_that_parts_are_merged_into_is_being_filled(tmp_path: Path, monkeypatch):
    part, append = filled(tmp_path / "a", range(11)), RowStore.append
    target = RowStore.open(tmp_path / "whole", key=KEY, width=3, dtype="float32")

    def pruned_meanwhile(self, entries, block) -> None:
        assert not remove_store(target.folder)
        append(self, entries, block)

    monkeypatch.setattr(RowStore, "append", pruned_meanwhile)
    assert [one.added for one in merge([part], target)] == [11]
    assert check(target).whole.sum() == 11


def test_what_a_prune_that_was_cut_short_leaves(tmp_path: Path, monkeypatch):
    """No rows, and a folder that the next one finds, whichever file it came to."""
    unlink = Path.unlink
    for number in range(1, 5):
        folder, calls = filled(tmp_path, range(3)).folder, []

        def cut_short(path: Path, missing_ok: bool = False, *, _calls=calls, _most=number) -> None:
            _calls.append(path)
            if len(_calls) == _most:
                raise KeyboardInterrupt
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", cut_short)
        with pytest.raises(KeyboardInterrupt):
            remove_store(folder)
        monkeypatch.undo()
        [found] = stores(tmp_path)
        assert found.folder == folder and found.rows == (3 if number == 1 else 0)
        assert remove_store(folder) and not folder.exists()


def test_a_store_that_is_pruned_while_it_is_read(tmp_path: Path, monkeypatch):
    """A run that finds its rows holds no lock: it has to notice, wherever it is."""
    store, entries = filled(tmp_path, range(3)), [entry(n) for n in range(3)]
    assert store.rows(entries).tolist() == [0, 1, 2] and remove_store(store.folder)
    with pytest.raises(StoreUnavailable, match="was removed meanwhile"):
        store.array()
    store, read = filled(tmp_path, range(3)), row_store._entries

    def pruned(known: bytes):
        remove_store(store.folder)
        return read(known)

    monkeypatch.setattr(row_store, "_entries", pruned)
    assert store.rows(entries).tolist() == [-1, -1, -1] and store.array().shape == (0, 3)


def test_a_merge_that_is_cut_short_goes_on(tmp_path: Path, monkeypatch):
    part, append = filled(tmp_path / "a", range(11)), RowStore.append
    calls = []

    def killed(self, entries, block) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(entries))
        append(self, entries, block)

    target = RowStore.open(tmp_path / "whole", key=KEY, width=3, dtype="float32")
    monkeypatch.setattr(RowStore, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        merge([part], target)
    monkeypatch.undo()
    assert check(target).whole.all() and len(target.entries()) == sum(calls) == 8
    assert [one.added for one in merge([part], target)] == [3]
    assert numbers_in(target) == {entry(n): float(n) for n in range(11)}


def test_rows_are_written_out_with_their_ids(tmp_path: Path):
    store = filled(tmp_path, range(3))
    store.append([entry(1, flip=1)], np.array([[9, 9, 9]], np.float32))
    assert export(store, tmp_path / "all.npz", None) == (4, 0, 0)
    with np.load(tmp_path / "all.npz", allow_pickle=False) as arrays:
        assert arrays["ids"].tolist() == [entry(n)[:-1].hex() for n in (0, 1, 2, 1)]
        assert arrays["flipped"].tolist() == [False, False, False, True]
        np.testing.assert_array_equal(arrays["features"][:, 0], [0, 1, 2, 9])

    names = {entry(n)[:-1]: ids for n, ids in {1: ["=x.png", "copy.png"], 7: ["no.png"]}.items()}
    assert export(store, tmp_path / "some.npy", names) == (4, 1, 0)
    np.testing.assert_array_equal(np.load(tmp_path / "some.npy")[:, 0], [1, 9, 1, 9])
    with open(tmp_path / "some.csv", newline="") as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ["0", "'=x.png", "0"],
        ["1", "'=x.png", "1"],
        ["2", "copy.png", "0"],
        ["3", "copy.png", "1"],
    ]
    assert sorted(path.name for path in tmp_path.glob("*.np?")) == ["all.npz", "some.npy"]
    assert export(store, tmp_path / "some.npy", names) == (4, 1, 0)  # over the one before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_export_that_breaks_off_leaves_the_former_pair(error, tmp_path: Path, monkeypatch):
    """New ids beside former features would be taken for theirs."""
    out = tmp_path / "rows.npy"
    export(filled(tmp_path / "a", range(2)), out, None)
    former = out.read_bytes(), out.with_suffix(".csv").read_bytes()

    def broken(*_):
        raise error

    monkeypatch.setattr(store_parts, "_write_rows", broken)
    with pytest.raises((KeyboardInterrupt, UserError)):
        export(filled(tmp_path / "b", range(2, 4)), out, None)
    assert (out.read_bytes(), out.with_suffix(".csv").read_bytes()) == former
    assert {path.name for path in tmp_path.glob("*.*")} == {"rows.npy", "rows.csv"}


def test_nothing_is_written_where_there_is_nothing(tmp_path: Path):
    store = filled(tmp_path, range(3))
    with pytest.raises(UserError, match="no row of these pictures"):
        export(store, tmp_path / "none.npz", {b"x" * 32: ["a.png"]})
    with pytest.raises(UserError, match="cannot be written"):
        (tmp_path / "file").write_text("")
        export(store, tmp_path / "file" / "out.npz", None)
    with pytest.raises(UserError, match="holds no store"):
        open_store(tmp_path)
