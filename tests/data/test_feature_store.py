"""The store of features: never stale, never half-written, never computed twice."""

import hashlib
import multiprocessing
import os
import resource
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlabel.data import digests, filling, row_store
from mmlabel.data.digests import picture_digests
from mmlabel.data.feature_store import FeatureStore, Filled
from mmlabel.data.pictures import BadPicture
from mmlabel.data.row_store import StoreUnavailable
from mmlabel.data.transforms import load_picture

SIZE = 8
WIDTH = 3 * SIZE * SIZE
# Forking spares each process of these tests the seconds that importing torch takes.
fork = multiprocessing.get_context("fork")


def pixels(pictures: torch.Tensor) -> torch.Tensor:
    """A backbone whose features are the picture itself, so that any mistake shows."""
    return pictures.float().flatten(1)


class Counting:
    """`pixels`, counting the views it was given."""

    def __init__(self) -> None:
        self.views = 0

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        self.views += len(pictures)
        return pixels(pictures)


def draw(path: Path, seed: int) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (15, 20, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    (tmp_path / "data").mkdir()
    return [draw(tmp_path / "data" / f"{n}.bmp", n) for n in range(6)]


def open_store(tmp_path: Path, **changes: object) -> FeatureStore:
    key = {"backbone": "pixels", "weights": "1", "precision": "float32"}
    options = {"size": SIZE, "width": WIDTH, "dtype": "float32", **changes}
    return FeatureStore(tmp_path / "cache", **{**options, "key": {**key, **options.get("key", {})}})


def fill(store: FeatureStore, pictures: list[Path], **changes: object) -> Filled:
    options = {"flipped": [True] * len(pictures), "extract": pixels, "workers": 0, **changes}
    return store.fill(pictures, **options)


def live(picture: Path, flipped: bool) -> np.ndarray:
    return load_picture(picture, size=SIZE, flipped=flipped).astype(np.float32).ravel()


def assert_holds(store: FeatureStore, pictures: list[Path]) -> None:
    """Both views of every picture are what the live pipeline would give."""
    rows, array = store.rows(pictures), store.array()
    assert (rows >= 0).all()
    for picture, both in zip(pictures, rows, strict=True):
        for flipped in (False, True):
            np.testing.assert_array_equal(array[both[int(flipped)]], live(picture, flipped))


def run_together(*work: Callable[[], object]) -> list[object]:
    """Results of functions that run at the same time, each in its own process."""
    start, results = fork.Barrier(len(work)), [fork.SimpleQueue() for _ in work]

    def run(function: Callable[[], object], result: multiprocessing.SimpleQueue) -> None:
        start.wait()
        result.put(function())

    jobs = [
        fork.Process(target=run, args=pair, daemon=True) for pair in zip(work, results, strict=True)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(30)
        assert job.exitcode == 0
    return [result.get() for result in results]


# What is stored


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("workers", [0, 2, None])
def test_stored_features_are_the_live_ones(tmp_path, pictures, dtype, workers):
    store = open_store(tmp_path, dtype=dtype)
    assert fill(store, pictures, batch_size=4, workers=workers).views == 12
    assert store.array().dtype == dtype  # pixel values are whole numbers, exact in both
    assert_holds(store, pictures)


def test_stored_features_of_a_network_are_the_live_ones(tmp_path, pictures):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    store = open_store(tmp_path, width=4)
    fill(store, pictures, extract=lambda views: network(views.float()), batch_size=2)
    rows, array = store.rows(pictures), store.array()
    for picture, both in zip(pictures, rows, strict=True):
        views = [load_picture(picture, size=SIZE, flipped=flip) for flip in (False, True)]
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(views)).float()
            answers = network(batch.contiguous(memory_format=torch.channels_last))
        np.testing.assert_array_equal(array[both], answers.numpy())


def test_only_wanted_views_are_computed(tmp_path, pictures):
    store = open_store(tmp_path)
    assert (store.rows(pictures) == -1).all() and store.array().shape == (0, WIDTH)
    assert fill(store, pictures[:4], flipped=[True, False, False, True]).views == 6
    assert (store.rows(pictures) >= 0).tolist() == [
        [True, True],
        [True, False],
        [True, False],
        [True, True],
        [False, False],
        [False, False],
    ]
    # Another split of the same pictures needs the other views only.
    assert fill(store, pictures).views == 6
    assert_holds(store, pictures)


def test_a_second_job_computes_nothing(tmp_path, pictures):
    fill(open_store(tmp_path), pictures)
    counting = Counting()
    again = open_store(tmp_path)
    assert fill(again, pictures, extract=counting).views == counting.views == 0
    assert_holds(again, pictures)


def test_a_changed_picture_alone_is_computed_anew_and_a_renamed_one_not(tmp_path, pictures):
    store = open_store(tmp_path)
    fill(store, pictures)
    draw(pictures[2], 99)
    pictures[4] = pictures[4].rename(tmp_path / "renamed.bmp")
    assert (store.rows(pictures) < 0).all(1).tolist() == [n == 2 for n in range(6)]
    assert fill(store, pictures).views == 2
    assert_holds(store, pictures)
    # Its old content is still there.
    assert fill(store, [draw(pictures[2], 2)]).views == 0


def test_a_picture_that_changes_while_others_are_computed_is_no_stale_hit(tmp_path, pictures):
    store, old = open_store(tmp_path), Path(shutil.copy(pictures[5], tmp_path / "old.bmp"))

    def changing(views: torch.Tensor) -> torch.Tensor:
        draw(pictures[5], 99)
        return pixels(views)

    fill(store, pictures, extract=changing, batch_size=2)
    assert_holds(store, pictures)
    assert (store.rows([old]) == -1).all()


def test_duplicates_are_computed_once(tmp_path, pictures):
    copy = Path(shutil.copy(pictures[0], tmp_path / "copy.bmp"))
    listed = [pictures[0], copy, pictures[1], pictures[0]]
    store = open_store(tmp_path)
    assert fill(store, listed, flipped=[False, True, False, False]).views == 3
    rows = store.rows(listed)
    assert rows[0].tolist() == rows[1].tolist() == rows[3].tolist()
    assert_holds(store, [pictures[0], copy])


@pytest.mark.parametrize(
    "change",
    [
        {"size": 7, "width": 147},
        {"dtype": "float16"},
        {"key": {"weights": "2"}},
        {"key": {"precision": "bf16"}},
        {"key": {"backbone": "other"}},
    ],
    ids=str,
)
def test_other_settings_are_another_store(tmp_path, pictures, change):
    first = open_store(tmp_path)
    fill(first, pictures)
    other = open_store(tmp_path, **change)
    assert other.folder != first.folder == open_store(tmp_path).folder
    assert fill(other, pictures).views == 12
    assert_holds(first, pictures)


def test_filling_draws_no_random_numbers(tmp_path, pictures):
    """A run that fills the store goes on with the same numbers as one that finds it full."""
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    fill(open_store(tmp_path), pictures, batch_size=4, workers=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_upright_views_have_a_store_of_their_own(tmp_path, pictures):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(pictures[0]).save(tmp_path / "turned.png", exif=turned)
    store, upright = open_store(tmp_path), open_store(tmp_path, upright=True)
    assert store.folder != upright.folder
    for each, turn in ((store, False), (upright, True)):
        fill(each, [tmp_path / "turned.png"])
        rows, array = each.rows([tmp_path / "turned.png"])[0], each.array()
        for flip in (0, 1):
            path = tmp_path / "turned.png"
            expected = load_picture(path, size=SIZE, flipped=bool(flip), upright=turn)
            np.testing.assert_array_equal(array[rows[flip]], expected.ravel())
    assert (array != store.array()).any()


# Digests


def read_pictures(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Lists the pictures whose content is read from now on."""
    read, really = [], digests.read_picture
    monkeypatch.setattr(digests, "read_picture", lambda path: read.append(path) or really(path))
    return read


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_that_leads_to_another_file_of_the_same_times(tmp_path, monkeypatch, linked):
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    for name in "ab":
        (tmp_path / name).mkdir()
    files = [draw(tmp_path / name / "0.bmp", seed) for seed, name in enumerate("ab")]
    # As of those that are written within one tick of the clock that files are stamped by.
    monkeypatch.setattr(digests, "_stamp", lambda stat: [stat.st_size])
    link, found = tmp_path / "link", []
    for file in files:
        link.unlink(missing_ok=True)
        link.symlink_to(file if linked == "file" else file.parent)
        picture = link if linked == "file" else link / file.name
        found += picture_digests([picture], tmp_path / "memo")
    assert found == [filling.content_digest(file.read_bytes()) for file in files]


def test_digests_are_remembered_until_a_picture_changes(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    time.sleep(0.02)  # the resolution of time stamps
    first = picture_digests(pictures, tmp_path / "memo")
    read = read_pictures(monkeypatch)
    assert picture_digests(pictures, tmp_path / "memo") == first and read == []
    draw(pictures[3], 99)
    second = picture_digests(pictures, tmp_path / "memo")
    assert read == [pictures[3]]
    assert [a != b for a, b in zip(first, second, strict=True)] == [n == 3 for n in range(6)]


def test_new_content_of_the_same_size_with_its_old_time_is_noticed(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    time.sleep(0.02)
    first = picture_digests(pictures, tmp_path / "memo")
    stat = pictures[0].stat()
    draw(pictures[0], 99)
    os.utime(pictures[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (pictures[0].stat().st_size, pictures[0].stat().st_mtime_ns) == (
        stat.st_size,
        stat.st_mtime_ns,
    )
    assert picture_digests(pictures, tmp_path / "memo")[0] != first[0]


def test_a_picture_just_written_is_not_remembered(tmp_path, pictures, monkeypatch):
    picture_digests(pictures, tmp_path / "memo")
    read = read_pictures(monkeypatch)
    picture_digests(pictures, tmp_path / "memo")
    assert read == pictures


def test_a_damaged_or_unwritable_memo_costs_time_alone(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    time.sleep(0.02)
    memo = tmp_path / "memo"
    first = picture_digests(pictures, memo)
    for file in memo.iterdir():
        file.write_text('{"0.bmp": [1')
    assert picture_digests(pictures, memo) == first
    (tmp_path / "file").touch()
    assert picture_digests(pictures, tmp_path / "file") == first


# Jobs that end early, and jobs at the same time


def test_a_killed_job_leaves_a_whole_store_and_the_next_one_resumes(
    tmp_path, pictures, monkeypatch
):
    monkeypatch.setattr(filling, "COMMIT_SECONDS", 0.0)
    store, stuck = open_store(tmp_path), fork.Event()

    def until_stuck(views: torch.Tensor) -> torch.Tensor:
        if until_stuck.calls == 4:
            stuck.set()
            time.sleep(60)
        until_stuck.calls += 1
        return pixels(views)

    until_stuck.calls = 0
    job = fork.Process(
        target=fill, args=(store, pictures), kwargs={"extract": until_stuck, "batch_size": 2}
    )
    job.start()
    assert stuck.wait(30)
    job.kill()
    job.join()
    assert job.exitcode == -9

    kept = [
        picture
        for picture, both in zip(pictures, store.rows(pictures), strict=True)
        if (both >= 0).all()
    ]
    assert len(kept) == 4  # the fifth was being computed
    assert_holds(store, kept)
    assert fill(store, pictures).views == 4
    assert_holds(store, pictures)


@pytest.mark.parametrize("last", ["features.bin", "entries.bin"])
def test_a_job_killed_while_it_writes_leaves_nothing_half_written(
    tmp_path, pictures, monkeypatch, last
):
    """The write to `last` ends in the middle of its second row of two."""
    store = open_store(tmp_path)
    fill(store, pictures[:2])

    def killed(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(last):
            row = WIDTH * 4 if last == "features.bin" else row_store.ENTRY_BYTES
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - row // 2)
            os.kill(os.getpid(), 9)

    monkeypatch.setattr(os, "fsync", killed)
    job = fork.Process(target=fill, args=(store, pictures[2:3]))
    job.start()
    job.join(30)
    monkeypatch.undo()
    assert job.exitcode == -9

    rows = store.rows(pictures)
    assert (rows[:2] >= 0).all() and (rows[3:] < 0).all()
    if last == "features.bin":
        assert (rows[2] < 0).all() and len(store.array()) == 4
    else:
        assert (rows[2] >= 0).tolist() == [True, False] and len(store.array()) == 5
    assert_holds(store, pictures[:2])
    fill(store, pictures)
    assert_holds(store, pictures)
    assert (store.folder / "features.bin").stat().st_size == 12 * WIDTH * 4
    assert (store.folder / "entries.bin").stat().st_size == 12 * row_store.ENTRY_BYTES


def test_entries_without_features_do_not_count(tmp_path, pictures):
    """As a machine that lost its power may leave them."""
    store = open_store(tmp_path)
    fill(store, pictures)
    os.truncate(store.folder / "features.bin", 9 * WIDTH * 4 + 5)
    assert (store.rows(pictures) >= 0).sum() == 9
    assert fill(store, pictures).views == 3
    assert_holds(store, pictures)


def test_a_reader_is_not_disturbed_by_a_job_that_adds(tmp_path, pictures):
    store = open_store(tmp_path)
    fill(store, pictures[:3])
    rows, array = store.rows(pictures[:3]), store.array()
    before = array.copy()
    fill(store, pictures)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(store.rows(pictures[:3]), rows)
    assert_holds(store, pictures)


def slowly(views: torch.Tensor) -> torch.Tensor:
    time.sleep(0.05)
    return pixels(views)


@pytest.mark.parametrize("shares", [(slice(0, 6), slice(0, 6)), (slice(0, 4), slice(2, 6))])
def test_of_two_jobs_at_once_one_computes_each_view(tmp_path, pictures, shares):
    store = open_store(tmp_path)

    def work(share: slice) -> Callable[[], int]:
        return lambda: fill(store, pictures[share], extract=slowly, batch_size=2).views

    assert sum(run_together(*map(work, shares))) == 12
    assert len(store.array()) == 12
    assert_holds(store, pictures)


def test_a_waiting_job_says_so_and_takes_over_from_one_that_fails(tmp_path, pictures, capsys):
    store, started = open_store(tmp_path), fork.Event()

    def fails(views: torch.Tensor) -> torch.Tensor:
        started.set()
        time.sleep(0.3)
        os._exit(1)

    job = fork.Process(target=fill, args=(store, pictures), kwargs={"extract": fails})
    job.start()
    assert started.wait(30)
    assert fill(store, pictures).views == 12
    job.join()
    assert "another job computes them" in capsys.readouterr().err
    assert_holds(store, pictures)


def test_the_shares_of_two_ranks_complete_each_other(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(filling, "COMMIT_SECONDS", 0.0)
    store = open_store(tmp_path)

    def work(rank: int) -> Callable[[], int]:
        return lambda: (
            fill(store, pictures, extract=slowly, batch_size=2, rank=rank, world_size=2).views
        )

    assert run_together(work(0), work(1)) == [6, 6]
    assert_holds(store, pictures)
    assert fill(store, pictures, rank=1, world_size=2).views == 0


def gigabytes(rows: int) -> float:
    return rows * (WIDTH * 4 + row_store.ENTRY_BYTES + row_store.CHECKSUM_BYTES) / 1e9


def test_the_limit_is_of_the_whole_store_and_not_of_a_share(tmp_path, pictures):
    """Two processes of 6 rows each fill a store that may have 8 of them."""
    store, counting = open_store(tmp_path, max_gigabytes=gigabytes(8)), Counting()
    for rank in (0, 1):
        with pytest.raises(StoreUnavailable, match=r"more than features\.max_gigabytes"):
            fill(store, pictures, extract=counting, rank=rank, world_size=2)
    assert counting.views == 0
    # A machine with a cache of its own computes its part, and what others have is no new row.
    assert fill(store, pictures, rank=0, world_size=2, shared=False).views == 6
    whole = open_store(tmp_path, max_gigabytes=gigabytes(13))
    assert fill(whole, pictures, rank=1, world_size=2).views == 6
    assert_holds(whole, pictures)


def test_the_limit_counts_what_another_job_has_stored_meanwhile(tmp_path, pictures):
    """Two jobs of 6 rows of other pictures each, and a limit that holds one of them."""
    stores = [open_store(tmp_path, max_gigabytes=gigabytes(8)) for _ in range(2)]
    go_on = threading.Event()

    def slow(views: torch.Tensor) -> torch.Tensor:
        go_on.set()
        time.sleep(0.5)
        return pixels(views)

    first = threading.Thread(
        target=fill, args=(stores[0], pictures[:3]), kwargs={"extract": slow, "batch_size": 9}
    )
    first.start()
    assert go_on.wait(20)
    with pytest.raises(StoreUnavailable, match=r"more than features\.max_gigabytes"):
        fill(stores[1], pictures[3:])
    first.join()
    assert_holds(stores[0], pictures[:3])
    assert len(stores[0].array()) == 6


# Damage, and stores of older versions


def test_the_rows_of_a_picture_are_in_one_share(tmp_path, pictures):
    """A picture with several captions has several rows, of which any may want the other view."""
    rows = [picture for picture in pictures for _ in range(5)]
    flipped = [row % 5 == 3 for row in range(len(rows))]
    stores = [open_store(tmp_path / f"machine{rank}") for rank in range(3)]
    filled = [
        fill(store, rows, flipped=flipped, rank=rank, world_size=3).views
        for rank, store in enumerate(stores)
    ]
    assert filled == [4, 4, 4] and len(pictures) == 6
    there = np.stack([store.rows(pictures) >= 0 for store in stores])
    assert (there.sum(axis=0) == 1).all()


@pytest.mark.parametrize("name", ["features.bin", "checksums.bin", "entries.bin"])
def test_a_damaged_row_is_computed_anew_and_never_used(tmp_path, pictures, name):
    fill(open_store(tmp_path), pictures)
    file = open_store(tmp_path).folder / name
    content = bytearray(file.read_bytes())
    content[5 * len(content) // 12 + 1] ^= 4  # in the sixth of twelve rows
    file.write_bytes(content)
    store = open_store(tmp_path)
    assert (store.rows(pictures) < 0).sum() == 1
    assert fill(store, pictures).views == 1
    for reader in (store, open_store(tmp_path)):
        assert_holds(reader, pictures)
        assert fill(reader, pictures).views == 0


def test_damage_to_the_header_is_mended(tmp_path, pictures):
    store = open_store(tmp_path)
    fill(store, pictures)
    header = store.folder / "store.json"
    whole = header.read_bytes()
    for content in (b"", whole[:30], whole.replace(b'"width": 192', b'"width": 0')):
        header.write_bytes(content)
        again = open_store(tmp_path)
        assert header.read_bytes() == whole and fill(again, pictures).views == 0
        assert_holds(again, pictures)


def test_a_store_of_a_version_without_checksums_is_used_and_gets_them(tmp_path, pictures):
    store = open_store(tmp_path)
    fill(store, pictures[:3])
    (store.folder / "checksums.bin").unlink()
    assert (open_store(tmp_path).rows(pictures[:3]) >= 0).all()
    again = open_store(tmp_path)
    assert fill(again, pictures).views == 6
    assert_holds(again, pictures)
    assert (store.folder / "checksums.bin").stat().st_size == 12 * row_store.CHECKSUM_BYTES
    features = bytearray((store.folder / "features.bin").read_bytes())
    features[0] ^= 1
    (store.folder / "features.bin").write_bytes(features)
    assert (open_store(tmp_path).rows(pictures) < 0).sum() == 1


def test_a_folders_name_and_layout_stay_what_they_were(tmp_path, pictures, monkeypatch):
    """Stores made before remain valid: the key of ordinary pictures is frozen here."""
    monkeypatch.setattr("mmlabel.data.transforms.PIL.__version__", "1")
    monkeypatch.setattr("mmlabel.data.transforms.pillow_features.version", lambda name: "2")
    store = open_store(tmp_path)
    assert store.folder.name == "af82e3c24d4f3e0dbb3f78632b769edf"
    fill(store, pictures[:1], flipped=[True])
    digest = hashlib.sha256(pictures[0].read_bytes()).digest()
    assert (store.folder / "entries.bin").read_bytes() == digest + b"\0" + digest + b"\1"
    plain = live(pictures[0], False).tobytes()
    assert (store.folder / "features.bin").read_bytes()[: len(plain)] == plain


@pytest.mark.parametrize("damage", [lambda text: text[:-3], lambda text: text.replace("a", "b")])
def test_damaged_digests_never_drop_a_picture(tmp_path, pictures, monkeypatch, damage):
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    time.sleep(0.02)
    store = open_store(tmp_path)
    fill(store, pictures)
    [memo] = (tmp_path / "cache" / "features" / "digests").iterdir()
    memo.write_text(damage(memo.read_text()))
    assert fill(store, pictures).views == 0
    assert_holds(store, pictures)


# A store that cannot be written


def limited(size: int, function: Callable[[], object]) -> Callable[[], object]:
    """The function in a process that can write no more than `size` bytes to a file."""

    def run() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            return function()
        except StoreUnavailable as error:
            return str(error)

    return run


def test_a_full_disk_is_said_and_what_is_complete_is_kept(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(filling, "COMMIT_SECONDS", 0.0)
    store = open_store(tmp_path)
    room = 5 * WIDTH * 4 + 100
    [message] = run_together(limited(room, lambda: fill(store, pictures, batch_size=2)))
    assert str(store.folder) in message and "cannot be used (File too large)" in message
    assert "mmlabel.features prune" in message and "cache_dir" in message
    assert len(store.array()) == 4
    assert (store.folder / "features.bin").stat().st_size == 4 * WIDTH * 4
    assert_holds(store, pictures[:2])
    assert fill(store, pictures).views == 8
    assert_holds(store, pictures)


def test_a_disk_too_small_is_said_before_the_work(tmp_path, pictures, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=9000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    counting, store = Counting(), open_store(tmp_path)
    with pytest.raises(StoreUnavailable, match="needs 0 MB in .*cache.* 0 MB are free.*prune"):
        fill(store, pictures, extract=counting)
    assert counting.views == 0
    assert fill(store, pictures[:2]).views == 4


def test_what_fails_before_the_first_row_leaves_no_store(tmp_path, pictures):
    def refuse(batch):
        raise ValueError("no memory")

    store = open_store(tmp_path)
    assert not store.folder.exists()
    with pytest.raises(ValueError, match="no memory"):
        fill(store, pictures, extract=refuse)
    assert not store.folder.exists()
    assert fill(store, pictures).views == 2 * len(pictures)
    assert_holds(open_store(tmp_path), pictures)


def test_a_folder_that_cannot_be_written_is_said(tmp_path, pictures):
    (tmp_path / "cache").touch()
    store = open_store(tmp_path)
    with pytest.raises(StoreUnavailable, match="cache/features/.* cannot be used"):
        fill(store, pictures)
    (tmp_path / "cache").unlink()
    store.folder.parent.mkdir(parents=True)
    store.folder.touch()
    for use in (lambda: fill(store, pictures), lambda: store.rows(pictures)):
        with pytest.raises(StoreUnavailable, match="used .Not a directory.; set cache_dir"):
            use()
    store.folder.unlink()
    (store.folder / "features.bin").mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match="cannot be used .Is a directory"):
        fill(store, pictures)


def test_a_full_store_serves_where_nothing_can_be_written(tmp_path, pictures):
    fill(open_store(tmp_path), pictures)

    def work() -> tuple[int, np.ndarray]:
        store = open_store(tmp_path)
        return fill(store, pictures).views, np.array(store.array()[store.rows(pictures)[:, 0]])

    [(views, plain)] = run_together(limited(0, work))
    assert views == 0
    np.testing.assert_array_equal(plain, [live(picture, False) for picture in pictures])


def test_features_that_do_not_fit_half_precision_are_refused(tmp_path, pictures):
    large = {"extract": lambda views: pixels(views) * 1000}
    store = open_store(tmp_path, dtype="float16")
    with pytest.raises(StoreUnavailable, match="not finite, or too large for float16"):
        fill(store, pictures, **large)
    assert len(store.array()) == 0 and (store.rows(pictures) < 0).all()
    assert fill(open_store(tmp_path), pictures, **large).views == 12


def test_features_that_are_no_numbers_are_refused(tmp_path, pictures):
    with pytest.raises(StoreUnavailable, match="not finite"):
        fill(open_store(tmp_path), pictures, extract=lambda views: pixels(views) * np.nan)


# Bad pictures


@pytest.fixture
def damaged(pictures: list[Path]) -> list[Path]:
    """Three of the six: cut short, no picture, missing."""
    pictures[1].write_bytes(pictures[1].read_bytes()[:500])
    pictures[3].write_text("not found")
    pictures[5].unlink()
    return pictures[1::2]


@pytest.mark.parametrize("workers", [0, 1, None])
@pytest.mark.parametrize("which", [1, 3, 5])
def test_a_bad_picture_is_named(tmp_path, pictures, damaged, workers, which):
    good = [picture for picture in pictures if picture not in damaged]
    with pytest.raises(BadPicture, match=f"{pictures[which]} is not a readable picture"):
        fill(open_store(tmp_path), [*good, pictures[which]], batch_size=2, workers=workers)


def test_a_pipe_among_the_pictures_blocks_nothing(tmp_path, pictures):
    os.mkfifo(tmp_path / "pipe.bmp")
    filled = fill(open_store(tmp_path), [*pictures, tmp_path / "pipe.bmp"], on_bad_image="skip")
    assert filled.views == 12 and [error.path.name for error in filled.bad] == ["pipe.bmp"]


@pytest.mark.parametrize("workers", [0, 1, None])
def test_bad_pictures_are_skipped_and_listed(tmp_path, pictures, damaged, workers):
    store = open_store(tmp_path)
    filled = fill(store, pictures, on_bad_image="skip", batch_size=2, workers=workers)
    assert sorted(error.path for error in filled.bad) == damaged
    assert filled.views == 6
    assert_holds(store, pictures[::2])
    assert (store.rows(pictures)[1::2] == -1).all()
    draw(pictures[1], 1)
    assert fill(store, pictures, on_bad_image="skip").views == 2


# Memory


def test_the_array_is_a_map_that_no_one_can_spoil(tmp_path, pictures):
    store = open_store(tmp_path)
    fill(store, pictures)
    array = store.array()
    assert isinstance(array, np.memmap)
    assert Path(array.filename) == store.folder / "features.bin"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = torch.from_numpy(array)
    tensor.zero_()
    assert_holds(store, pictures)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_share_the_features_rather_than_load_them(tmp_path, pictures):
    width = 4_000_000
    store = open_store(tmp_path, width=width)

    def wide(views: torch.Tensor) -> torch.Tensor:
        return pixels(views)[:, :1].expand(-1, width)

    fill(store, pictures[:1], extract=wide)

    def own_kilobytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    def work() -> tuple[int, list[float]]:
        before = own_kilobytes()
        tensor = torch.from_numpy(store.array())
        return own_kilobytes() - before, tensor.numpy().max(1).tolist()

    for grown, values in run_together(work, work):
        assert grown < 4_000  # of 32,000
        assert values == [live(pictures[0], flip)[0] for flip in (False, True)]


# Progress


def test_progress_is_a_line_with_pictures_a_second(tmp_path, pictures, capsys):
    fill(open_store(tmp_path), pictures, batch_size=2)
    assert "features: 6 of 6 pictures" in (said := capsys.readouterr().err)
    assert "a second" in said and said.count("\n") == 1
    fill(open_store(tmp_path), pictures)
    assert capsys.readouterr().err == ""


def test_only_the_first_rank_reports_progress(tmp_path, pictures, capsys):
    fill(open_store(tmp_path), pictures, rank=1, world_size=2)
    assert capsys.readouterr().err == ""


def test_progress_is_a_bar_on_a_terminal(tmp_path, pictures, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    fill(open_store(tmp_path), pictures, batch_size=2)
    said = capsys.readouterr().err
    assert "6/6" in said and "pictures/s" in said
