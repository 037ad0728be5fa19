"""The one kind of error that is shown to a user as a message, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the options or the data: its text names the culprit and says what to do."""


def nearest(name: str, options: Iterable[str]) -> str:
    """A hint to append to "unknown NAME": the closest option, or else all of them.

    >>> nearest("resnet51", ["resnet50", "vgg16"])
    '; did you mean "resnet50"?'
    >>> nearest("x", ["resnet50", "vgg16"])
    '; choose from resnet50, vgg16'
    """
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; choose from {', '.join(options)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for use within a message of ours.

    >>> first_line(ValueError("wrong.\\nFurther lines"))
    'wrong'
    """
    return (str(error).splitlines() or [""])[0].rstrip(" .") or type(error).__name__
