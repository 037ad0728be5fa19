"""A local server that cuts, refuses and misbehaves on request."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What the server has, how it misbehaves, and what it was asked for."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True
    cuts: dict[str, list[int]] = field(default_factory=dict)  # bytes of the first answers
    errors: dict[str, list[int]] = field(default_factory=dict)  # status of the first answers
    pause: float = 0.0  # seconds in the middle of each picture
    redirects: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)  # of every answer
    unlimited: bool = False  # answers do not say how long they are
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range

    def count(self) -> Counter:
        return Counter(path for path, _ in self.asked)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_) -> None:
                pass

        return Handler

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, asked_range = request.path, request.headers.get("Range")
        self.asked.append((path, asked_range))
        if self.errors.get(path):
            request.send_response(self.errors[path].pop(0))
            for name, value in self.headers.items():
                request.send_header(name, value)
            request.send_header("Content-Length", "0")
            return request.end_headers()
        if path in self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects[path])
            request.send_header("Content-Length", "0")
            return request.end_headers()
        if path not in self.files:
            return request.send_error(404)
        whole = self.files[path]
        start = 0
        if asked_range and self.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked_range)[1])
            if start >= len(whole):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(whole)}")
                request.send_header("Content-Length", "0")
                return request.end_headers()
        request.send_response(206 if asked_range and self.ranges else 200)
        if asked_range and self.ranges:
            request.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        if not self.unlimited:
            request.send_header("Content-Length", str(len(whole) - start))
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.end_headers()
        end = len(whole)
        if self.cuts.get(path):
            end = start + self.cuts[path].pop(0)
        if self.pause and path.endswith(".jpg"):
            request.wfile.write(whole[start : start + 100])
            request.wfile.flush()
            time.sleep(self.pause)
            start += 100
        request.wfile.write(whole[start:end])


class QuietServer(ThreadingHTTPServer):
    # The default of 5 makes the sixth connection at a time wait for a second.
    request_queue_size = 128

    def handle_error(self, request, client_address) -> None:
        """A client that goes away in the middle is what some tests are about."""


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Have it answer at its `url` meanwhile."""
    http_server = QuietServer(("127.0.0.1", 0), server.handler())
    server.url = f"http://127.0.0.1:{http_server.server_port}"
    thread = threading.Thread(target=http_server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http_server.shutdown()
        http_server.server_close()
