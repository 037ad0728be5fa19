"""`python -m mmlabel.demo CHECKPOINT`: a page on which to try a model, served to this machine."""

import argparse
import base64
import io
import ipaddress
import json
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from mmlabel.commands import Parser, path_of, run_command
from mmlabel.data.pictures import BadPicture, decode
from mmlabel.errors import UserError
from mmlabel.interrupts import answer
from mmlabel.large_imports import import_large
from mmlabel.progress import say
from mmlabel.report.demo_page import POLICY, demo_page
from mmlabel.terminal import printable

if TYPE_CHECKING:
    from PIL import Image

    from mmlabel.predictor import Predictor

HELP = """\
Serve a page on which to drop a picture and type a caption. It shows the labels with their
probabilities, and for each label what picture and caption contributed (Shapley values, in logits),
where in the picture the evidence is (by covering parts of it) and in which words (by leaving them
out). Every kind of model is served; one of captions alone has no map, one of pictures alone no
words, and a detector's map takes as long as 50 detections.

Nothing leaves the machine: the page loads nothing from elsewhere, which its policy forbids the
browser, and pictures are not kept."""

MOST_BYTES = 64 * 2**20  # of a picture that is sent
_PREVIEW = 640  # px


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line until it is interrupted; returns the exit status."""
    return run_command(lambda: _serve(_parser().parse_args(arguments)))


def _serve(options: argparse.Namespace) -> None:
    import_large("mmlabel.lean_torchmetrics", "mmlabel.predictor")
    from mmlabel.predictor import Predictor

    predictor = Predictor(options.checkpoint, fastest=True)
    for caution in predictor.cautions:
        say(printable(caution))
    with open_server(predictor, options.checkpoint, options.host, options.port) as server:
        print(f"http://{_in_url(options.host)}:{server.server_port}", flush=True)
        if not _is_loopback(options.host):
            say(f"whoever reaches {options.host} can use this page")
        try:
            server.serve_forever()
        except KeyboardInterrupt as stop:  # how it is ended
            answer(stop)
    say("mmlabel: ended")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m mmlabel.demo", description=HELP)
    parser.add_argument("checkpoint", type=path_of, help="best.ckpt of a run")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860; 0: any that is free")
    return parser


class _Server(ThreadingHTTPServer):
    """Serves the page of one model, which answers one request at a time."""

    def __init__(self, address: tuple[str, int], predictor: "Predictor", page: bytes) -> None:
        super().__init__(address, _Handler)
        self.predictor = predictor
        self.page = page
        self.one_at_a_time = Lock()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if not self._is_ours():
            return
        if urlsplit(self.path).path != "/":
            return self._send(404, b"there is no such page", "text/plain")
        self._send(200, self.server.page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > MOST_BYTES:
            self.close_connection = True  # the rest is not read
            return self._tell(413, {"error": f"a picture of more than {MOST_BYTES >> 20} MB"})
        content = self.rfile.read(int(size))
        asked = urlsplit(self.path)
        reply = {"/answer": answer_of, "/heat": heat_of}.get(asked.path)
        if reply is None:
            return self._tell(404, {"error": "there is no such answer"})
        caption = parse_qs(asked.query, keep_blank_values=True).get("caption", [""])[0]
        try:
            with self.server.one_at_a_time:
                self._tell(200, reply(self.server.predictor, content, caption))
        except BadPicture as error:
            self._tell(400, {"error": f"no readable picture: {error.reason}"})
        except UserError as error:
            self._tell(400, {"error": str(error)})

    def _is_ours(self) -> bool:
        """Whether the request was made for this server, by its own page if by any."""
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        name = urlsplit(f"//{host}").hostname or ""
        listening = str(self.connection.getsockname()[0])
        # Another name that leads here is how a page of the web would reach it (rebinding).
        local = not _is_loopback(listening) or _is_loopback(name)
        if local and origin in (None, f"http://{host}"):
            return True
        self._send(403, b"this page answers to itself alone", "text/plain")
        return False

    def _tell(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Captions are nobody's business."""


def open_server(
    predictor: "Predictor", checkpoint: Path, host: str, port: int
) -> ThreadingHTTPServer:
    """A server of the page, bound and not yet answering.

    Raises UserError for a host or port that cannot be had.
    """
    page = demo_page(predictor, checkpoint, most_bytes=MOST_BYTES).encode(errors="surrogateescape")
    try:
        return _Server((host, port), predictor, page)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: {reason}; give another") from None


def answer_of(predictor: "Predictor", content: bytes, caption: str) -> dict[str, Any]:
    """The labels of a picture (a file's bytes; none: no picture) and a caption, and why.

    Raises BadPicture.
    """
    from mmlabel.explain import MOST_WORDS, contributions, words_of

    picture = _picture(predictor, content)
    neither, of_picture, of_caption, answered = contributions(predictor, picture, caption)
    probabilities = 1 / (1 + np.exp(-(neither + of_picture + of_caption)))
    looked_at = caption.split()[:MOST_WORDS] if predictor.looks_at_captions else []
    words = words_of(predictor, picture, caption) if looked_at else []
    labels = [
        {
            "name": name,
            "probability": round(float(probabilities[at]), 4),
            "answered": bool(answered[at]),
            "neither": round(float(neither[at]), 2),
            "picture": round(float(of_picture[at]), 2),
            "caption": round(float(of_caption[at]), 2),
        }
        for at, name in enumerate(predictor.label_names)
    ]
    effects = [[round(float(value), 2) for value in effect] for effect in words]
    return {
        "labels": labels,
        "words": [{"word": w, "effects": e} for w, e in zip(looked_at, effects, strict=True)],
        "preview": None if picture is None else _preview(picture),
    }


def heat_of(predictor: "Predictor", content: bytes, caption: str) -> dict[str, Any]:
    """Of each label the map of its evidence, by rows. Raises BadPicture."""
    from mmlabel.explain import heat_map

    picture = _picture(predictor, content)
    if picture is None or not predictor.looks_at_pictures:
        return {"maps": []}
    heat = heat_map(predictor, picture, caption)  # (CELLS, CELLS, L)
    return {"maps": heat.transpose(2, 0, 1).round(3).tolist()}


def _picture(predictor: "Predictor", content: bytes) -> "Image.Image | None":
    if not content:
        return None
    return decode(content, "the picture", upright=predictor.look.upright)


def _preview(picture: "Image.Image") -> str:
    """What the network's picture is cut from, as an address that holds it."""
    small = picture.copy()
    small.thumbnail((_PREVIEW, _PREVIEW))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _is_loopback(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    sys.exit(main())
