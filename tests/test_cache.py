"""Cache entries: damage of any kind is found, and a cache that cannot be used is no error."""

import errno
import io
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mmlabel import cache
from mmlabel.cache import atomic_write, cache_folder, is_temporary, kept, read_entry, write_entry
from mmlabel.errors import UserError

VALUE = np.arange(12, dtype=np.float32).reshape(3, 4)


class Counted:
    """Computes VALUE, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> np.ndarray:
        self.times += 1
        return VALUE.copy()


def kept_at(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    return kept(path, compute, pack=lambda v: {"value": v}, unpack=lambda arrays: arrays["value"])


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    path = tmp_path / "kind" / "key.entry"
    kept_at(path, Counted())
    return path


@pytest.fixture(autouse=True)
def said_anew() -> Iterator[None]:
    cache._say_once.cache_clear()
    yield
    cache._say_once.cache_clear()


def test_computed_once(tmp_path: Path) -> None:
    compute = Counted()
    for _ in range(3):
        np.testing.assert_array_equal(kept_at(tmp_path / "kind" / "key.entry", compute), VALUE)
    assert compute.times == 1
    assert [p.name for p in (tmp_path / "kind").iterdir() if p.suffix != ".lock"] == ["key.entry"]


def test_what_is_not_to_be_kept_is_not(tmp_path: Path) -> None:
    compute = Counted()
    for _ in range(2):
        kept(tmp_path / "kind" / "key", compute, pack=lambda v: None, unpack=lambda arrays: VALUE)
    assert compute.times == 2


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "file").write_text("in the way")


def _replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _replace_by_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _save_as_before(path: Path) -> None:
    path.unlink()
    with open(path, "wb") as file:
        np.savez(file, value=VALUE + 1)


def _hold_something_else(path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, other=VALUE)
    write_entry(path, buffer.getvalue())


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:-9] + b"x" * 9),
    "header": lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
    "text": lambda path: path.write_text("no entry"),
    "whole but no arrays": lambda path: write_entry(path, b"whole"),
    "whole but other arrays": _hold_something_else,
    "of an older version": _save_as_before,
    "folder": _replace_by_folder,
    "pipe": _replace_by_pipe,
    "loop": _replace_by_loop,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_made_anew(
    damage: Callable[[Path], object], entry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(entry)
    compute = Counted()
    for _ in range(2):
        np.testing.assert_array_equal(kept_at(entry, compute), VALUE)
    assert compute.times == 1 and entry.is_file()
    assert not caplog.records


# ---- A cache that cannot be used ------------------------------------------------------------


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have every write fail, as on a disk that is read-only or full: root may write anywhere."""

    def forbid(number: int) -> None:
        real_open = os.open

        def refuse(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        def open_to_read(path, flags, *rest, **more):
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                refuse()
            return real_open(path, flags, *rest, **more)

        monkeypatch.setattr(Path, "write_bytes", refuse)
        monkeypatch.setattr(os, "replace", refuse)
        monkeypatch.setattr(os, "open", open_to_read)

    return forbid


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_cache_that_cannot_be_written(
    number: int,
    unwritable: Callable[[int], None],
    entry: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    unwritable(number)
    warm = Counted()
    np.testing.assert_array_equal(kept_at(entry, warm), VALUE)
    assert warm.times == 0 and not caplog.records
    cold = Counted()
    for name in ("one", "two", "one"):
        np.testing.assert_array_equal(kept_at(tmp_path / "kind" / name, cold), VALUE)
    np.testing.assert_array_equal(kept_at(tmp_path / "other" / "one", cold), VALUE)
    assert cold.times == 4
    (said,) = caplog.messages
    assert str(tmp_path) in said and os.strerror(number) in said and "cache_dir=" in said


def test_a_cache_that_is_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file")
    compute = Counted()
    for name in ("one", "two"):
        path = tmp_path / "cache" / "kind" / name
        np.testing.assert_array_equal(kept_at(path, compute), VALUE)
    assert compute.times == 2 and len(caplog.messages) == 1
    assert (tmp_path / "cache").read_text() == "a file"


def test_a_cache_where_there_is_really_no_writing(caplog: pytest.LogCaptureFixture) -> None:
    """Not even root writes there."""
    compute = Counted()
    np.testing.assert_array_equal(kept_at(Path("/proc/mmlabel/kind/key"), compute), VALUE)
    assert compute.times == 1 and len(caplog.messages) == 1


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "none")])
def test_a_file_system_without_locks(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, *_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cache.FileLock, "acquire", refuse)
    compute = Counted()
    for _ in range(2):
        np.testing.assert_array_equal(kept_at(tmp_path / "kind" / "key", compute), VALUE)
    assert compute.times == 1


def test_an_error_of_the_computation_is_its_own(tmp_path: Path) -> None:
    def fail() -> np.ndarray:
        raise OSError("the data's own")

    with pytest.raises(OSError, match="the data's own"):
        kept_at(tmp_path / "kind" / "key", fail)


def test_jobs_that_start_together_compute_once(tmp_path: Path) -> None:
    times: list[int] = []

    def compute() -> np.ndarray:
        times.append(1)
        time.sleep(0.2)
        return VALUE

    path = tmp_path / "kind" / "key"
    jobs = [threading.Thread(target=kept_at, args=(path, compute)) for _ in range(5)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(times) == 1


# ---- Where it is ----------------------------------------------------------------------------


def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("~/.cache/mmlabel") == tmp_path / ".cache" / "mmlabel"
    assert cache_folder("here/there") == Path("here/there")


def test_an_empty_name_is_the_usual_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMLABEL_CACHE", "")
    assert cache_folder("") == Path("~/.cache/mmlabel").expanduser()


def test_no_home_folder() -> None:
    code = (
        "import pwd; from mmlabel.cache import UserError, cache_folder\n"
        "def none(number): raise KeyError(number)\n"
        "pwd.getpwuid = none\n"
        "try:\n    print(cache_folder('~/.cache/mmlabel'))\n"
        "except UserError as error:\n    print('mmlabel:', error)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "HOME"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith("mmlabel: cache_dir=~/.cache/mmlabel: this account has no home")
    assert "MMLABEL_CACHE" in done.stdout
    with pytest.raises(UserError, match="no home folder"):
        cache_folder("~nobody-of-this-name/cache")


def test_entries_of_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert read_entry(tmp_path / "absent") is None
    assert read_entry(tmp_path) is None
    for content in (b"", b"text", bytes(100_000)):
        write_entry(tmp_path / "entry", content)
        assert read_entry(tmp_path / "entry") == content
    assert not caplog.records


UNFINISHED = """
import sys, time
from pathlib import Path
from mmlabel.cache import atomic_write, temporary_beside
folder = Path(sys.argv[1])
temporary_beside(folder / "model").mkdir()
with atomic_write(folder / "out.npz") as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    time.sleep(60)
"""


def test_a_full_disk_is_of_a_file(tmp_path: Path):
    """A write that fails does not say of which."""
    with pytest.raises(OSError) as full, atomic_write(tmp_path / "metrics.csv"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert full.value.filename == str(tmp_path / "metrics.csv")


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(tmp_path: Path):
    killed, alive = (
        subprocess.Popen(
            [sys.executable, "-c", UNFINISHED, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    )
    assert killed.stdout is not None and alive.stdout is not None
    dead, living = killed.stdout.readline().strip(), alive.stdout.readline().strip()
    with killed, alive:
        killed.kill()
        killed.wait()
        others = {f".own.{'0123456789abcdef' * 2}.csv", ".hidden", "out.csv"}
        for name in others:
            (tmp_path / name).write_text("other")
        assert {dead, living} < {path.name for path in tmp_path.iterdir()}
        with atomic_write(tmp_path / "new.npz") as temporary:
            temporary.write_text("whole")
        left = {path.name for path in tmp_path.iterdir()} - others
        (folder,) = [name for name in left if name.startswith(".model.")]
        assert left == {"new.npz", living, folder}
        assert all(is_temporary(tmp_path / name) for name in (dead, living, folder))
        alive.kill()
