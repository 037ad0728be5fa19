"""Which code made a result."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def commit(root: Path = ROOT) -> str | None:
    """The commit of the checkout that the program runs from; None if it is in none of its own.

    "-dirty" is added where files that git knows have been changed since.
    """
    # An installed copy may lie inside a checkout of something else.
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or not root.samefile(top):
        return None
    return _git(root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None without git, or where it refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
