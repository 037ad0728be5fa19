"""The COCO download against a local server that cuts, refuses and misbehaves on request."""

import io
import json
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from web import Server, serving

from mmlabel import cache, network
from mmlabel.data import download
from mmlabel.data.annotations import REPORT_LABELS
from mmlabel.data.download import download_coco
from mmlabel.data.options import Coco
from mmlabel.data.sources.coco import read_coco
from mmlabel.errors import UserError

ARCHIVE = "/annotations/annotations_trainval2017.zip"


def archive(labels: dict[int, list[int]], *, subset: str = "val2017") -> bytes:
    """COCO's annotation archive of a few pictures, with files in it that are not needed."""
    images = [{"id": image, "file_name": f"{image:012d}.jpg"} for image in labels]
    pairs = [{"image_id": i, "category_id": c} for i, numbers in labels.items() for c in numbers]
    categories = [{"id": number, "name": name} for number, name in enumerate(REPORT_LABELS) if name]
    captions = [{"image_id": image, "caption": f"caption of {image}"} for image in labels]
    contents = {
        f"instances_{subset}": {
            "images": images,
            "annotations": pairs,
            "categories": [*categories, {"id": 20, "name": "sheep"}],
            # Something that does not get smaller in the archive, so that it has many chunks.
            "info": np.random.default_rng(0).bytes(200_000).hex(),
        },
        f"captions_{subset}": {"images": images, "annotations": captions},
        "instances_other": {},
        "person_keypoints_val2017": {},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in contents.items():
            opened.writestr(f"annotations/{name}.json", json.dumps(content))
    return buffer.getvalue()


def picture(image: int) -> bytes:
    return b"\xff\xd8" + np.random.default_rng(image).bytes(3000)


LABELS = {number: [1 + number % 9] for number in range(1, 31)} | {100: [20], 101: []}
WANTED = [f"{number:012d}.jpg" for number in range(1, 31)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(network, "BACKOFF", 0.01)
    files = {ARCHIVE: archive(LABELS)}
    files |= {f"/val2017/{image:012d}.jpg": picture(image) for image in LABELS}
    with serving(Server(files)) as server:
        yield server


def pictures(root: Path) -> list[str]:
    """The files in the picture folder, hidden ones too."""
    folder = root / "val2017"
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def assert_all_whole(root: Path) -> None:
    for name in pictures(root):
        assert (root / "val2017" / name).read_bytes() == picture(int(name[:12])), name


def test_just_what_is_needed_is_fetched_and_readable(server, tmp_path, capsys):
    root = tmp_path / "coco"
    download_coco(root, base_url=server.url + "/")
    assert pictures(root) == WANTED
    assert_all_whole(root)
    assert sorted(file.name for file in root.rglob("*.json")) == [
        "captions_val2017.json",
        "instances_val2017.json",
    ]
    assert not list(root.glob("*.zip*"))
    assert max(server.count().values()) == 1
    assert read_coco(root).captions[0] == "caption of 1"
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("COCO val2017: 30 of 30 pictures")
    assert 1 <= len(lines) <= 6 and all(line.isprintable() for line in lines)


def test_a_second_call_asks_for_nothing(server, tmp_path):
    download_coco(tmp_path, base_url=server.url)
    server.asked.clear()
    download_coco(tmp_path, base_url=server.url)
    download_coco(tmp_path, base_url="http://127.0.0.1:1")
    assert server.asked == []


def test_only_missing_pictures_are_fetched(server, tmp_path):
    download_coco(tmp_path, base_url=server.url, max_pictures=4)
    assert pictures(tmp_path) == WANTED[:4]
    assert read_coco(tmp_path, max_pictures=4).ids == WANTED[:4]
    (tmp_path / "val2017" / WANTED[1]).unlink()
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017" / WANTED[2]).rename(tmp_path / "images" / WANTED[2])
    server.asked.clear()
    download_coco(tmp_path, base_url=server.url, max_pictures=5)
    assert sorted(server.count()) == [f"/val2017/{WANTED[1]}", f"/val2017/{WANTED[4]}"]


def test_2014(server, tmp_path):
    files = {"/annotations/annotations_trainval2014.zip": archive({7: [1]}, subset="train2014")}
    server.files = files | {"/train2014/000000000007.jpg": picture(7)}
    download_coco(tmp_path, base_url=server.url, year=2014, subset="train")
    assert read_coco(tmp_path).pictures == [tmp_path / "train2014" / "000000000007.jpg"]


# ---- Cut off --------------------------------------------------------------------------------


def test_a_cut_archive_is_continued_at_once(server, tmp_path):
    server.cuts[ARCHIVE] = [50_000, 30_000]
    download_coco(tmp_path, base_url=server.url)
    assert [r for path, r in server.asked if path == ARCHIVE] == [
        None,
        "bytes=50000-",
        "bytes=80000-",
    ]
    assert len(read_coco(tmp_path)) == 30


def test_a_cut_archive_is_continued_by_the_next_run(server, tmp_path):
    server.cuts[ARCHIVE] = [40_000, 0, 0, 0]
    with pytest.raises(UserError) as error:
        download_coco(tmp_path, base_url=server.url)
    message = str(error.value)
    assert f"{server.url}{ARCHIVE}" in message and "Run again" in message
    assert re.search(r"the answer ended after 0 of \d+ bytes", message)
    assert not (tmp_path / "annotations").exists() and not list(tmp_path.glob("*.zip"))
    server.asked.clear()
    download_coco(tmp_path, base_url=server.url)
    assert server.asked[0] == (ARCHIVE, "bytes=40000-")
    assert server.count()[ARCHIVE] == 1
    assert len(read_coco(tmp_path)) == 30


@pytest.mark.parametrize("extra", [b"", b"more than there is"])
def test_a_part_that_is_whole_or_too_long(extra, server, tmp_path):
    part = tmp_path / "annotations_trainval2017.zip.part"
    part.write_bytes(server.files[ARCHIVE] + extra)
    download_coco(tmp_path, base_url=server.url)
    assert server.count()[ARCHIVE] == (2 if extra else 1)
    assert len(read_coco(tmp_path)) == 30 and not part.exists()


def test_a_damaged_part_is_not_kept(server, tmp_path):
    part = tmp_path / "annotations_trainval2017.zip.part"
    part.write_bytes(b"x" * 60_000)
    with pytest.raises(UserError, match="is not COCO's archive or is damaged"):
        download_coco(tmp_path, base_url=server.url)
    assert not list(tmp_path.rglob("*.json")) and not part.exists()
    download_coco(tmp_path, base_url=server.url)
    assert len(read_coco(tmp_path)) == 30


def test_an_archive_that_is_another_one(server, tmp_path):
    server.files[ARCHIVE] = archive(LABELS, subset="train2017")
    with pytest.raises(UserError, match="is not COCO's archive .*instances_val2017.json"):
        download_coco(tmp_path, base_url=server.url)


def test_an_archive_that_the_user_put_there_is_used_and_left(server, tmp_path):
    own = tmp_path / "annotations_trainval2017.zip"
    own.write_bytes(server.files.pop(ARCHIVE))
    download_coco(tmp_path, base_url=server.url)
    assert own.exists() and len(read_coco(tmp_path)) == 30 and not server.count()[ARCHIVE]


def test_a_cut_picture_is_fetched_again(server, tmp_path):
    server.cuts["/val2017/" + WANTED[3]] = [1000, 0]
    server.errors["/val2017/" + WANTED[4]] = [503, 500, 429]
    download_coco(tmp_path, base_url=server.url, workers=4)
    assert pictures(tmp_path) == WANTED
    assert_all_whole(tmp_path)
    assert server.count()["/val2017/" + WANTED[3]] == 3
    assert server.count()["/val2017/" + WANTED[4]] == 4


def test_nothing_half_written_remains(server, tmp_path):
    server.cuts["/val2017/" + WANTED[3]] = [1000] * 4
    server.files["/val2017/" + WANTED[5]] = b"<html>please log in</html>"
    with pytest.raises(UserError) as error:
        download_coco(tmp_path, base_url=server.url)
    message = str(error.value)
    assert message.startswith("2 of 30 pictures could not be downloaded")
    assert f"{WANTED[3]} (the answer ended after 1000 of 3002 bytes)" in message
    assert f"{WANTED[5]} (the answer is another kind of file)" in message
    assert pictures(tmp_path) == [name for name in WANTED if name not in (WANTED[3], WANTED[5])]
    assert_all_whole(tmp_path)
    server.files["/val2017/" + WANTED[5]] = picture(6)
    server.asked.clear()
    download_coco(tmp_path, base_url=server.url)
    assert sorted(server.count()) == ["/val2017/" + WANTED[3], "/val2017/" + WANTED[5]]
    assert pictures(tmp_path) == WANTED


INTERRUPTED = """
import signal, sys
from pathlib import Path
from mmlabel.data.download import download_coco
# Tests that run in the background of a shell without job control inherit that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    download_coco(Path(sys.argv[1]), base_url=sys.argv[2], workers=4)
except KeyboardInterrupt:
    sys.exit(77)
"""


def test_ctrl_c_ends_soon_and_leaves_no_half_picture(server, tmp_path):
    server.pause = 0.5
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path), server.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        wait_until = time.monotonic() + 60
        while not set(pictures(tmp_path)) & set(WANTED) and time.monotonic() < wait_until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=15)
    finally:
        process.kill()
    assert process.returncode == 77, errors.decode()
    # The first four were done when the signal came; neither the next four nor those queued are.
    assert 1 <= len(pictures(tmp_path)) <= 8
    assert_all_whole(tmp_path)
    server.pause = 0.0
    done = set(pictures(tmp_path))
    server.asked.clear()
    download_coco(tmp_path, base_url=server.url)
    assert {f"/val2017/{name}" for name in set(WANTED) - done} == set(server.count())
    assert_all_whole(tmp_path)


# ---- Refused --------------------------------------------------------------------------------


def test_no_such_archive(server, tmp_path):
    del server.files[ARCHIVE]
    with pytest.raises(
        UserError, match=rf"cannot download {server.url}{ARCHIVE}: HTTP 404 Not Found"
    ):
        download_coco(tmp_path, base_url=server.url)
    # A 404 stays one however often one asks.
    assert server.count()[ARCHIVE] == 1


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "BACKOFF", 0.01)
    with pytest.raises(UserError, match="cannot download http://127.0.0.1:1/.*refused"):
        download_coco(tmp_path, base_url="http://127.0.0.1:1")
    with pytest.raises(UserError, match="cannot download nonsense/.*No scheme supplied"):
        download_coco(tmp_path, base_url="nonsense")


def test_a_silent_server_is_not_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "SECONDS", 0.8)
    monkeypatch.setattr(network, "RETRIES", 0)
    server.pause = 2.0
    with pytest.raises(UserError, match=r"pictures could not be downloaded .*timed out"):
        download_coco(tmp_path, base_url=server.url)
    assert pictures(tmp_path) == []


def test_failures_are_listed_up_to_ten_with_the_total(server, tmp_path):
    for name in WANTED[::2]:
        del server.files[f"/val2017/{name}"]
    with pytest.raises(UserError) as error:
        download_coco(tmp_path, base_url=server.url, workers=1)
    message = str(error.value)
    assert message.startswith(
        f"15 of 30 pictures could not be downloaded from {server.url}/val2017"
    )
    assert message.count("(HTTP 404 Not Found)") == 10 and " and 5 more" in message
    assert pictures(tmp_path) == WANTED[1::2]


def test_a_server_that_has_no_pictures_is_given_up(server, tmp_path):
    server.files = {ARCHIVE: archive({number: [1] for number in range(1, 500)})}
    with pytest.raises(UserError, match=r"^20 of 499 pictures .* \(the rest was not tried\)"):
        download_coco(tmp_path, base_url=server.url)
    assert len(server.asked) < 100


@pytest.mark.parametrize(
    "name",
    ["../up.jpg", "a/../../up.jpg", "/up.jpg", "C:up.jpg", "..\\up.jpg", "a/.."],
)
def test_names_that_leave_the_folder_are_refused(name, server, tmp_path):
    root = tmp_path / "deep" / "coco"
    (root / "annotations").mkdir(parents=True)
    download_coco(root, base_url=server.url, max_pictures=1)
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["images"][2]["file_name"] = name
    file.write_text(json.dumps(content))
    before = sorted(tmp_path.rglob("*"))
    server.asked.clear()
    with pytest.raises(UserError, match="leads out of COCO's folder") as error:
        download_coco(root, base_url=server.url)
    assert str(file) in str(error.value) and "\0" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before and not server.asked


def test_a_picture_of_no_end_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOST_PICTURE", 2000)
    with pytest.raises(UserError, match="more than the 2,000 allowed here"):
        download_coco(tmp_path, base_url=server.url, max_pictures=1)
    assert server.count()["/val2017/" + WANTED[0]] == 1 and pictures(tmp_path) == []


def test_an_archive_that_would_fill_the_disk_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOST_JSON", 1000)
    with pytest.raises(UserError, match="instances_val2017.json would be"):
        download_coco(tmp_path, base_url=server.url)
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"] == []


def test_by_default_it_is_https():
    assert Coco.model_fields["base_url"].get_default().startswith("https://")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write COCO to .*file"):
        download_coco(tmp_path / "file" / "coco", base_url="http://127.0.0.1:9")


def test_a_folder_that_has_everything_need_not_be_written(server, tmp_path, monkeypatch):
    download_coco(tmp_path, base_url=server.url, max_pictures=2)

    def refuse(self, *_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(cache.FileLock, "acquire", refuse)
    download_coco(tmp_path, base_url=server.url, max_pictures=2)
    with pytest.raises(UserError, match="cannot write COCO to"):
        monkeypatch.setattr(network.os, "replace", refuse)
        download_coco(tmp_path, base_url=server.url, max_pictures=3)
