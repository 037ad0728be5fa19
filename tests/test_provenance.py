"""The commit that a result names is that of the program's own checkout."""

import subprocess
from pathlib import Path

import pytest

from mmlabel.provenance import commit


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_the_commit_and_whether_files_differ_from_it(checkout: Path):
    head = git(checkout, "rev-parse", "HEAD")
    assert commit(checkout) == head[:12]
    git(checkout, "tag", "-a", "v1", "-m", "a tag is no commit")
    assert commit(checkout) == head[:12]
    (checkout / "notes.txt").write_text("not known to git\n")
    assert commit(checkout) == head[:12]
    (checkout / "code.py").write_text("2\n")
    assert commit(checkout) == f"{head[:12]}-dirty"


def test_a_copy_inside_another_checkout_or_without_git_has_none(checkout: Path, monkeypatch):
    installed = checkout / "site-packages"
    installed.mkdir()
    assert commit(installed) is None
    monkeypatch.setenv("PATH", str(checkout))
    assert commit(checkout) is None
