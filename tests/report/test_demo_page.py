"""The page on which a model is tried: what its server answers, to whom, and in a browser."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmlabel
from mmlabel.demo import MOST_BYTES, answer_of, main, open_server
from mmlabel.errors import UserError
from mmlabel.report.demo_page import demo_page
from mmlabel.training import train


@pytest.fixture(scope="module")
def run_of(settings_of: Callable, made: Path, tmp_path_factory) -> Callable[[str], Path]:
    def trained(model: str) -> Path:
        folder = tmp_path_factory.mktemp("demo") / model
        options = [f"model={model}", "data=usyd", f"data.root={made}", "trainer.max_epochs=1"]
        train(settings_of(*options), folder)
        return folder / "best.ckpt"

    return trained


def served(checkpoint: Path) -> Iterator[int]:
    server = open_server(mmlabel.load(checkpoint), checkpoint, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def fusion(run_of) -> Path:
    return run_of("fusion")


@pytest.fixture(scope="module")
def port(fusion: Path) -> Iterator[int]:
    yield from served(fusion)


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {n.replace("_", "-"): v for n, v in headers.items()})
    reply = connection.getresponse()
    status, content = reply.status, reply.read().decode()
    connection.close()
    return status, content


def test_answers_are_the_models(port: int, fusion: Path, made: Path):
    picture = (made / "data" / "4.jpg").read_bytes()
    status, content = ask(port, "POST", "/answer?caption=a+cat+on%20grass", picture)
    found = json.loads(content)
    expected = mmlabel.load(fusion).predict(picture, "a cat on grass")
    assert status == 200
    assert {one["name"]: one["probability"] for one in found["labels"]} == pytest.approx(
        dict(expected.probabilities), abs=1e-4
    )
    assert [one["name"] for one in found["labels"] if one["answered"]] == expected.labels
    for one in found["labels"]:
        logit = one["neither"] + one["picture"] + one["caption"]
        assert 1 / (1 + np.exp(-logit)) == pytest.approx(one["probability"], abs=0.01)
    assert [one["word"] for one in found["words"]] == ["a", "cat", "on", "grass"]
    assert found["preview"].startswith("data:image/jpeg;base64,")
    status, content = ask(port, "POST", "/heat?caption=a+cat", picture)
    assert status == 200
    assert np.array(json.loads(content)["maps"]).shape == (len(found["labels"]), 8, 8)
    status, content = ask(port, "POST", "/answer?caption=a+cat")
    found = json.loads(content)
    assert found["preview"] is None and all(one["picture"] == 0 for one in found["labels"])


def test_a_decoders_answer_is_a_set_of_labels(made: Path):
    """With its own probabilities, of which the contributions are the logits."""
    path = Path(__file__).parent.parent / "checkpoints" / "decoder.ckpt"
    model, picture = mmlabel.load(path), (made / "data" / "4.jpg").read_bytes()
    model.network.length_penalty = 1.0  # for more labels than none
    expected = model.predict(picture, "a cat")
    found = answer_of(model, picture, "a cat")["labels"]
    assert [one["name"] for one in found if one["answered"]] == expected.labels
    assert expected.labels and max(expected.probabilities.values()) < 0.5
    for one in found:
        logit = one["neither"] + one["picture"] + one["caption"]
        assert 1 / (1 + np.exp(-logit)) == pytest.approx(one["probability"], abs=0.01)
        assert one["probability"] == pytest.approx(expected.probabilities[one["name"]], abs=1e-4)
    said = "the best set that was found, where one may have less than one half"
    assert said in demo_page(model, path, most_bytes=1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_turned_picture_is_answered_as_the_model_does(
    kind: str, fusion: Path, made: Path, tmp_path: Path
):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(made / "data" / "4.jpg") as picture:
        picture.resize((90, 40)).save(tmp_path / "turned", kind, exif=exif)
    model = mmlabel.load(fusion)
    content = (tmp_path / "turned").read_bytes()
    found = {
        one["name"]: one["probability"] for one in answer_of(model, content, "a cat")["labels"]
    }
    expected = model.predict(content, "a cat").probabilities
    assert found == pytest.approx(dict(expected), abs=1e-4)


def test_mistakes_are_answered(port: int):
    for path, body, headers, status, said in (
        ("/answer", b"no picture", {}, 400, "no readable picture: not an image file"),
        ("/other", b"", {}, 404, "no such"),
        ("/answer", b"", {"Content_Length": str(MOST_BYTES + 1)}, 413, "more than 64 MB"),
    ):
        found, content = ask(port, "POST", path, body, **headers)
        assert (found, said in json.loads(content)["error"]) == (status, True)
    assert ask(port, "GET", "/etc/passwd")[0] == 404


def test_other_pages_are_not_answered(port: int, fusion: Path, capsys):
    """A page of the web can send requests here, also by a name of its own that leads here."""
    here = f"127.0.0.1:{port}"
    assert ask(port, "GET", "/", Host=f"evil.example:{port}")[0] == 403
    assert ask(port, "POST", "/answer", Host=here, Origin="http://evil.example")[0] == 403
    assert ask(port, "POST", "/answer?caption=a", Host=here, Origin=f"http://{here}")[0] == 200
    assert ask(port, "GET", "/", Host=f"localhost:{port}")[0] == 200
    with pytest.raises(UserError, match="Address already in use; give another"):
        open_server(mmlabel.load(fusion), fusion, "127.0.0.1", port)
    assert main(["no.ckpt"]) == 1
    assert "there is no file no.ckpt" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_in_a_browser(port: int, made: Path, browser, tmp_path: Path):
    """A picture and a caption are answered; nothing is asked for from elsewhere."""
    trouble, tab = [], browser.new_page()
    tab.set_default_timeout(120_000)
    here = f"http://127.0.0.1:{port}"
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on(
        "request",
        lambda request: request.url.startswith((here, "data:")) or trouble.append(request.url),
    )
    tab.set_viewport_size({"width": 390, "height": 900})
    tab.goto(here)
    tab.fill("#caption", "a cat on <b>grass</b>")
    tab.set_input_files("#file", made / "data" / "4.jpg")
    tab.get_by_text("Done.", exact=True).wait_for()
    assert tab.locator("#rows tr").count() == 18
    assert tab.locator("#words span").count() == 4
    assert "<b>grass</b>" in tab.inner_text("#words")
    probabilities = [float(text) for text in tab.locator("#rows td:nth-child(2)").all_inner_texts()]
    assert probabilities == sorted(probabilities, reverse=True)
    drawn = "(() => { const c = document.getElementById('heat'); return [c.width, [...c.getContext"
    drawn += "('2d').getImageData(0, 0, c.width, c.height).data].some((v) => v > 0)]; })()"
    assert tab.evaluate(drawn) == [8, True]
    second = tab.locator("#rows button").nth(1)
    second.click()
    assert tab.inner_text("#where") == f"Where in the picture: {second.inner_text()}"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    # What the page would send elsewhere, the browser refuses.
    sent = "fetch('http://127.0.0.1:1/').then(() => 'sent', () => 'refused')"
    assert trouble == [] and tab.evaluate(sent) == "refused"
    assert "Content Security Policy" in trouble[0]
    tab.close()


@pytest.mark.slow
def test_no_answer_stays_after_a_mistake(port: int, made: Path, browser, tmp_path: Path):
    """Neither labels nor contributions nor a map, of the former picture or of none at all."""
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "broken.jpg").write_text("no picture")
    tab = browser.new_page()
    tab.set_default_timeout(120_000)
    tab.goto(f"http://127.0.0.1:{port}")
    tab.fill("#caption", "a cat")
    drawn = "document.getElementById('heat').width"

    def is_gone(said: str) -> None:
        tab.get_by_text(said, exact=True).wait_for()
        assert not tab.is_visible("#found") and tab.evaluate(drawn) == 1
        assert tab.inner_text("#words") == "" and "shown for the label" in tab.inner_text("#where")

    for name, said in (
        ("broken.jpg", "no readable picture: not an image file"),
        ("empty.jpg", "The file is empty: choose another."),
    ):
        tab.set_input_files("#file", made / "data" / "4.jpg")
        tab.get_by_text("Done.", exact=True).wait_for()
        assert tab.is_visible("#rows") and tab.locator("#words span").count() == 2
        assert tab.evaluate(drawn) == 8
        tab.set_input_files("#file", tmp_path / name)
        is_gone(said)
    # The empty file is not kept either: this is an answer to the caption alone.
    tab.click("#ask")
    tab.get_by_text("Done.", exact=True).wait_for()
    assert tab.inner_text("#where") == "There is no picture."
    tab.fill("#caption", "")
    tab.click("#ask")
    is_gone("Give a picture or a caption.")
    tab.close()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["caption_only", "image_only"])
def test_pages_of_one_half(model: str, run_of, made: Path, browser):
    said = {"caption_only": "captions", "image_only": "pictures"}[model]
    pages = served(run_of(model))
    tab = browser.new_page()
    tab.set_default_timeout(120_000)
    tab.goto(f"http://127.0.0.1:{next(pages)}")
    assert f"This model looks at {said} alone" in tab.inner_text("main")
    if model == "caption_only":
        tab.fill("#caption", "a cat")
        tab.click("#ask")
    else:
        tab.set_input_files("#file", made / "data" / "4.jpg")
    tab.get_by_text("Done.", exact=True).wait_for()
    assert tab.locator("#rows tr").count() == 18
    assert tab.locator("#rows tr").first.locator("td").count() == 3
    tab.close()
    next(pages, None)
