"""Everything that is fetched from outside: one retry policy, one time limit, one kind of error.

A host that never answered is asked once and for SECONDS at most, so that a machine without a
network learns it at once; from one that has answered, what fails or ends too early is fetched
again. Addresses are followed by https from https alone.
"""

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from mmlabel.cache import atomic_write
from mmlabel.progress import progress

if TYPE_CHECKING:
    from requests import Response, Session

SECONDS = 20.0  # without a byte before a server counts as unreachable
RETRIES = 3
BACKOFF = 1.0  # seconds, doubled with every retry but the first, which comes at once
MOST_PATIENCE = 30.0  # seconds, whatever a server asks for
CHUNK = 1 << 18
LONG = 4_000_000  # bytes from which on a download shows its progress

_AGAIN = (408, 416, 429, 500, 502, 503, 504)

_here = threading.local()
_answered: set[str] = set()  # hosts of this process

Result = TypeVar("Result")


class NetworkError(Exception):
    """Something could not be fetched; the text says why, to be part of the caller's message."""


class _TryAgain(Exception):
    """What was asked for did not come, and may come the next time."""

    def __init__(self, reason: str, *, wished: str = "") -> None:
        super().__init__(reason)
        # A server may wish for a pause of so many seconds.
        self.pause = int(wished) if wished.isdigit() else 0


def fetch(url: str, *, max_bytes: int) -> bytes:
    """The content of a small file.

    Raises NetworkError, for one of more than `max_bytes`, too.
    """

    def attempt() -> bytes:
        content = io.BytesIO()
        with _opened(url) as response:
            for chunk in _chunks(response, max_bytes):
                content.write(chunk)
        return content.getvalue()

    return _retrying(attempt)


def fetch_file(
    url: str,
    path: Path,
    *,
    max_bytes: int,
    checksum: tuple[str, str] | None = None,
    begins_with: bytes = b"",
    resume: bool = False,
    work: str | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Fetch a file, which has its name when it is whole and not before.

    Args:
        url: http or https.
        path: where to.
        max_bytes: more than these are refused.
        checksum: a name of `hashlib`, such as "sha256", and the first digits of the content's.
        begins_with: the content's first bytes; a server's or a proxy's page comes as an answer,
            too.
        resume: keep what was fetched before an interruption in `path`.part and go on there the
            next time; only one process at a time may fetch such a file.
        work: named in the progress of a long download, which None hides.
        stop: set it to have the download end soon.

    Raises:
        NetworkError: it could not be fetched, or is something else.
        OSError: it could not be written.
    """
    with _part_of(path, keep=resume) as part:

        def attempt() -> None:
            if not resume:
                part.unlink(missing_ok=True)
            _fetch_into(part, url, max_bytes=max_bytes, work=work, stop=stop)
            _check(part, begins_with=begins_with, checksum=checksum)

        _retrying(attempt, stop)


def require_answer(url: str) -> None:
    """Raise NetworkError unless the server gives any answer within SECONDS."""
    try:
        _ask("HEAD", url, {}).close()
    except _TryAgain as error:
        raise NetworkError(str(error)) from error


def _retrying(attempt: Callable[[], Result], stop: threading.Event | None = None) -> Result:
    from urllib3 import Retry
    from urllib3.exceptions import MaxRetryError

    stop = stop or threading.Event()
    retry = Retry(total=RETRIES, backoff_factor=BACKOFF)
    while True:
        if stop.is_set():
            raise NetworkError("interrupted")
        try:
            return attempt()
        except _TryAgain as error:
            try:
                retry = retry.increment(error=error)
            except MaxRetryError:
                raise NetworkError(str(error)) from error
            stop.wait(min(max(retry.get_backoff_time(), error.pause), MOST_PATIENCE))


@contextmanager
def _part_of(path: Path, *, keep: bool) -> Iterator[Path]:
    """A file beside `path` that takes its name if the block succeeds."""
    if not keep:
        with atomic_write(path) as temporary:
            yield temporary
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    yield part
    os.replace(part, path)


def _fetch_into(
    part: Path, url: str, *, max_bytes: int, work: str | None, stop: threading.Event | None
) -> None:
    """Fetch a file to `part`, after what is there already if the server can do that."""
    present = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={present}-"} if present else {}
    with _opened(url, headers) as response, open(part, "ab") as file:
        if response.status_code == 416:
            # There is nothing after what is there: it is whole, or it is not this file.
            if response.headers.get("Content-Range") == f"bytes */{present}":
                return
            file.truncate(0)
            raise _TryAgain(_status(response))
        if response.status_code == 200:
            file.truncate(0)  # the server sends the whole file whatever it is asked for
            present = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {present}-"):
            file.truncate(0)
            raise _TryAgain("the answer is another part of the file")
        length = _length(response)
        long = work is not None and (length is None or length > LONG)
        total = None if length is None else present + length
        with progress(work or "", total, unit="bytes", quiet=not long) as advance:
            advance(present)
            for chunk in _chunks(response, max_bytes - present):
                file.write(chunk)
                advance(len(chunk))
                if stop is not None and stop.is_set():
                    raise NetworkError("interrupted")


def _check(part: Path, *, begins_with: bytes, checksum: tuple[str, str] | None) -> None:
    """Remove what is not the file that was asked for, and have it fetched again."""
    with open(part, "rb") as file:
        problem = ""
        if file.read(len(begins_with)) != begins_with:
            problem = "the answer is another kind of file"
        elif checksum is not None:
            algorithm, wanted = checksum
            digest = hashlib.new(algorithm, begins_with)
            while chunk := file.read(CHUNK):
                digest.update(chunk)
            found = digest.hexdigest()
            if not found.startswith(wanted):
                problem = f"its {algorithm} hash begins with {found[: len(wanted)]}, not {wanted}"
    if problem:
        part.unlink()
        raise _TryAgain(problem)


@contextmanager
def _opened(url: str, headers: dict[str, str] | None = None) -> "Iterator[Response]":
    """The answer to a request for a file: it is there, or is to be continued."""
    expected = (200, 206, 416) if headers else (200,)
    with _ask("GET", url, headers or {}) as response:
        if response.status_code not in expected:
            if response.status_code in _AGAIN:
                raise _TryAgain(_status(response), wished=response.headers.get("Retry-After", ""))
            raise NetworkError(_status(response))
        yield response


def _ask(method: str, url: str, headers: dict[str, str]) -> "Response":
    """A server's answer up to its headers, whatever they say."""
    from requests import RequestException, exceptions

    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise NetworkError(f"this is no address: {error}") from error
    session = _session(parts.scheme)
    # A compressed answer would have another length than the file.
    headers = {"Accept-Encoding": "identity", **headers}

    def ask() -> "Response":
        return session.request(method, url, headers=headers, stream=True, timeout=SECONDS)

    known = parts.netloc in _answered
    try:
        response = ask() if known else _within_seconds(ask)
    except exceptions.InvalidSchema as error:
        allowed = "https" if parts.scheme == "https" else "http or https"
        raise NetworkError(f"only {allowed} is followed: {error}") from error
    except (RequestException, TimeoutError) as error:
        kind = _TryAgain if known and isinstance(error, _passing()) else NetworkError
        raise kind(_reason(error)) from error
    _answered.add(parts.netloc)
    return response


def _passing() -> tuple[type[Exception], ...]:
    """The errors of requests that another attempt may not meet."""
    from requests import exceptions

    return (
        exceptions.ConnectionError,
        exceptions.Timeout,
        exceptions.ChunkedEncodingError,
        exceptions.ContentDecodingError,
    )


def _session(scheme: str) -> "Session":
    """This thread's session for a scheme, which keeps its connections open."""
    import requests

    sessions: dict[str, requests.Session] = _here.__dict__.setdefault("sessions", {})
    if scheme not in sessions:
        sessions[scheme] = requests.Session()
        if scheme == "https":
            del sessions[scheme].adapters["http://"]
    return sessions[scheme]


def _within_seconds(ask: "Callable[[], Response]") -> "Response":
    """Call `ask` in a thread, because looking up a host's name heeds no time limit."""
    answer: list[Response | Exception] = []

    def put() -> None:
        try:
            answer.append(ask())
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not answer:
        raise TimeoutError
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def _chunks(response: "Response", max_bytes: int) -> Iterator[bytes]:
    """An answer's content; raises if it ends too early or does not end."""
    length, received = _length(response), 0
    # Checked below, because urllib3 forgets what came just before an answer's early end.
    response.raw.enforce_content_length = False
    if length is not None and length > max_bytes:
        raise NetworkError(f"it has {length:,} bytes, more than the {max_bytes:,} allowed here")
    try:
        for chunk in response.iter_content(CHUNK):
            received += len(chunk)
            if received > max_bytes:
                raise NetworkError(f"it has more than the {max_bytes:,} bytes allowed here")
            yield chunk
    except _passing() as error:
        silent = isinstance(_bottom(error), TimeoutError)
        cut = "" if silent else _cut(received, length)
        raise _TryAgain(cut or _reason(error)) from error
    if cut := _cut(received, length):
        raise _TryAgain(cut)


def _cut(received: int, length: int | None) -> str:
    if length is None or received == length:
        return ""
    return f"the answer ended after {received} of {length} bytes"


def _length(response: "Response") -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _status(response: "Response") -> str:
    return f"HTTP {response.status_code} {response.reason or ''}".rstrip()


def _reason(error: Exception) -> str:
    """What is wrong at the bottom of errors that wrap each other, in one line."""
    from requests.exceptions import ProxyError, Timeout

    bottom = _bottom(error)
    if isinstance(error, Timeout) or isinstance(bottom, TimeoutError):
        return f"timed out: no answer within {SECONDS:g} s"
    text = getattr(bottom, "strerror", None) or str(bottom) or type(bottom).__name__
    return f"{'the proxy: ' if isinstance(error, ProxyError) else ''}{' '.join(text.split())}"


def _bottom(error: BaseException) -> BaseException:
    """The error that started it all."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error
