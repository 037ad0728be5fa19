"""Fetching from a local server that cuts, stalls, redirects and lies."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from web import Server, serving

from mmlabel import network
from mmlabel.network import NetworkError, fetch, fetch_file, require_answer

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(network, "BACKOFF", 0.01)
    with serving(Server({"/file": CONTENT})) as server:
        yield server


def fetched(server: Server, path: Path, **options) -> bytes:
    fetch_file(f"{server.url}/file", path, max_bytes=1_000_000, **options)
    return path.read_bytes()


def test_a_file_is_fetched_whole(server: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    target = tmp_path / "new" / "folder" / "file.bin"
    assert fetched(server, target, checksum=("sha256", digest[:8])) == CONTENT
    assert fetch(f"{server.url}/file", max_bytes=len(CONTENT)) == CONTENT
    assert [p.name for p in target.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_cut_body_is_fetched_again(resume: bool, server: Server, tmp_path: Path) -> None:
    server.cuts["/file"] = [1000, 500]
    assert fetched(server, tmp_path / "file", resume=resume) == CONTENT
    ranges = [asked for _, asked in server.asked]
    assert ranges == ([None, "bytes=1000-", "bytes=1500-"] if resume else [None] * 3)


def test_a_body_that_is_always_cut_is_given_up(server: Server, tmp_path: Path) -> None:
    server.cuts["/file"] = [1000] * 9
    with pytest.raises(NetworkError, match=f"ended after 1000 of {len(CONTENT)} bytes"):
        fetched(server, tmp_path / "file")
    assert len(server.asked) == 1 + network.RETRIES
    assert list(tmp_path.iterdir()) == []


def test_the_next_call_goes_on_where_the_last_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts["/file"] = [1000, 0, 0, 0]
    with pytest.raises(NetworkError):
        fetched(server, tmp_path / "file", resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["file.part"]
    server.asked.clear()
    assert fetched(server, tmp_path / "file", resume=True) == CONTENT
    assert server.asked == [("/file", "bytes=1000-")]


@pytest.mark.parametrize("present", [50_000, 2_000_000])
def test_a_server_without_ranges_starts_again(present: int, server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "file.part").write_bytes(b"x" * present)
    assert fetched(server, tmp_path / "file", resume=True) == CONTENT


def test_another_part_than_was_asked_for_is_not_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:100])
    server.headers["Content-Range"] = "bytes 0-9/10"
    # requests joins both headers, so that it does not begin as it should.
    original = Server.answer

    def lying(self: Server, request) -> None:
        send = request.send_header
        request.send_header = lambda name, value: (
            None if name == "Content-Range" and "-9/10" not in value else send(name, value)
        )
        original(self, request)

    server.answer = lying.__get__(server)
    assert fetched(server, tmp_path / "file", resume=True) == CONTENT


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_passing_faults_are_tried_again(status: int, server: Server, tmp_path: Path) -> None:
    server.errors["/file"] = [status, status]
    assert fetched(server, tmp_path / "file") == CONTENT
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_lasting_ones_are_not(status: int, server: Server, tmp_path: Path) -> None:
    server.errors["/file"] = [status] * 9
    with pytest.raises(NetworkError, match=f"HTTP {status}"):
        fetched(server, tmp_path / "file")
    assert len(server.asked) == 1


def test_the_pause_that_a_server_wishes_for(server: Server, tmp_path: Path) -> None:
    paused: list[float | None] = []

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            paused.append(timeout)
            return False

    for wished in ("7", "100000", "tomorrow"):
        server.headers["Retry-After"] = wished
        server.errors["/file"] = [503]
        fetched(server, tmp_path / "file", stop=Impatient())
    assert paused == [7, network.MOST_PATIENCE, 0]


def test_sizes_are_bounded(server: Server, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="102,400 bytes, more than the 1,000 allowed"):
        fetch(f"{server.url}/file", max_bytes=1000)
    server.unlimited = True  # nothing tells the size before
    with pytest.raises(NetworkError, match="more than the 1,000 bytes allowed"):
        fetch_file(f"{server.url}/file", tmp_path / "file", max_bytes=1000, resume=True)
    assert len(server.asked) == 2


def test_a_compressed_answer_is_bounded_by_what_it_holds(server: Server) -> None:
    import gzip

    server.files["/file"] = gzip.compress(bytes(10_000_000))
    server.headers["Content-Encoding"] = "gzip"
    with pytest.raises(NetworkError, match="more than the 100,000 bytes allowed"):
        fetch(f"{server.url}/file", max_bytes=100_000)


def test_another_file_than_was_asked_for(server: Server, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="sha256 hash begins with [0-9a-f]{8}, not 00000000"):
        fetched(server, tmp_path / "file", checksum=("sha256", "00000000"), resume=True)
    with pytest.raises(NetworkError, match="another kind of file"):
        fetched(server, tmp_path / "file", begins_with=b"\xff\xd8")
    assert list(tmp_path.iterdir()) == []


def test_redirects(server: Server, tmp_path: Path) -> None:
    server.redirects["/moved"] = f"{server.url}/file"
    assert fetch(f"{server.url}/moved", max_bytes=1_000_000) == CONTENT
    for target in ("ftp://127.0.0.1/file", f"file://{tmp_path}/secret"):
        server.redirects["/moved"] = target
        with pytest.raises(NetworkError, match="only http or https is followed"):
            fetch(f"{server.url}/moved", max_bytes=1_000_000)
    server.redirects["/moved"] = "/moved"
    with pytest.raises(NetworkError, match="redirects"):
        fetch(f"{server.url}/moved", max_bytes=1_000_000)


def test_https_is_not_left(server: Server) -> None:
    from requests import Response, exceptions
    from requests.adapters import BaseAdapter

    class Redirecting(BaseAdapter):
        """Answers as an https server would that sends its visitors to http."""

        def send(self, request, **_) -> Response:
            response = Response()
            response.status_code, response.url = 302, request.url
            response.request, response.raw = request, None
            response._content = b""
            response.headers["Location"] = f"{server.url}/file"
            return response

        def close(self) -> None:
            pass

    session = network._session("https")
    before = session.adapters["https://"]
    session.mount("https://", Redirecting())
    try:
        with pytest.raises(NetworkError, match="only https is followed"):
            fetch("https://there/file", max_bytes=1_000_000)
    finally:
        session.mount("https://", before)
    assert not server.asked
    assert issubclass(exceptions.InvalidSchema, ValueError)


@pytest.mark.parametrize("url", ["nonsense", "http://", "file:///etc/passwd", "http://[::1"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(NetworkError):
        fetch(url, max_bytes=10)


def test_a_host_that_never_answered_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "BACKOFF", 30)
    start = time.monotonic()
    with pytest.raises(NetworkError, match="refused"):
        fetch("http://127.0.0.1:1/file", max_bytes=10)
    with pytest.raises(NetworkError, match="refused"):
        require_answer("http://127.0.0.1:1/file")
    assert time.monotonic() - start < 10


def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(NetworkError, match="the proxy: .*refused"):
        fetch("http://there.invalid/file", max_bytes=10)


def test_a_slow_look_up_of_a_name_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def look_up(*_, **__) -> list:
        release.wait(20)
        raise OSError("too late")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(network, "SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(NetworkError, match="no answer within 0.2 s"):
        fetch("http://there.invalid/file", max_bytes=10)
    assert time.monotonic() - start < 5
    release.set()


def test_a_silent_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        with pytest.raises(NetworkError, match="no answer within 0.2 s"):
            fetch(url, max_bytes=10)
        with pytest.raises(NetworkError, match="no answer within 0.2 s"):
            require_answer(url)


def test_a_download_can_be_stopped(server: Server, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(NetworkError, match="interrupted"):
        fetched(server, tmp_path / "file", stop=stop)
    assert not server.asked and list(tmp_path.iterdir()) == []


def test_any_answer_will_do_to_know_that_a_server_is_there(server: Server) -> None:
    require_answer(f"{server.url}/absent")


def test_a_long_download_says_how_far_it_is(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    fetched(server, tmp_path / "short", work="vectors [/x]")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(network, "LONG", 10)
    fetched(server, tmp_path / "long", work="vectors [/x]")
    assert capsys.readouterr().err.startswith("vectors [/x]: 0.1 of 0.1 MB, ")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetched(server, tmp_path / "long", work="vectors [/x]")
    assert "vectors [/x]" in capsys.readouterr().err


def test_a_folder_in_the_way_is_the_disks_fault(server: Server, tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OSError):
        fetched(server, tmp_path / "folder" / "file")
