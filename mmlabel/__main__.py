"""`python -m mmlabel`: the commands, a line each."""

import sys
from collections.abc import Sequence

from mmlabel.commands import run_command
from mmlabel.errors import UserError

COMMANDS = """\
In the clone's folder:
  python train.py              train, select on validation, test once; evaluate a checkpoint
  python sweep.py              run a study, a table of runs with evidence

Anywhere:
  python -m mmlabel.compare    finished runs against one another, with evidence
  python -m mmlabel.data       what a data set holds, and what is wrong with it
  python -m mmlabel.demo       a page on which to try a model
  python -m mmlabel.export     a model that runs without this project
  python -m mmlabel.features   list, prune, verify, merge, export and fill stored features
  python -m mmlabel.mistakes   what runs get wrong, and which labels of the data may be
  python -m mmlabel.predict    label pictures and captions with a finished run
  python -m mmlabel.search     look for better settings, on the validation split

Each says with --help what it takes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print them; returns the exit status."""
    return run_command(lambda: show(sys.argv[1:] if arguments is None else arguments))


def show(arguments: Sequence[str]) -> None:
    """Raises UserError for anything else that is given, such as a command behind a space."""
    given = next((text for text in arguments if text not in ("-h", "--help")), None)
    if given is None:
        print(COMMANDS)
    elif f"python -m mmlabel.{given} " in COMMANDS:
        raise UserError(f"a command follows a point: python -m mmlabel.{given}")
    else:
        raise UserError(f"{given}: python -m mmlabel takes nothing, and lists the commands")


if __name__ == "__main__":
    sys.exit(main())
