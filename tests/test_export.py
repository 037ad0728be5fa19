"""An exported folder answers as its checkpoint does, in a process that knows nothing of mmlabel."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import mmlabel
from mmlabel.data.captions import Vocabulary, encode_texts
from mmlabel.export import graph, runner
from mmlabel.export.__main__ import main
from mmlabel.export.proof import load_runner
from mmlabel.export.words import spellings
from mmlabel.predictor import Predictor
from mmlabel.training import train

pytestmark = pytest.mark.slow

CAPTIONS = [
    "a person on the old street",
    "",
    "Cats, cats & a CAR: they cannot (or won't) stop!",
    "nobody-knows these\nwords",
    " ".join(["two small cars on grass"] * 40),  # cut after max_length words
]


@pytest.fixture(scope="module")
def run_of(settings_of: Callable, made: Path, tmp_path_factory) -> Callable[..., Path]:
    """Trains a quick run with further options; gives its checkpoint."""

    def trained(*options: str) -> Path:
        folder = tmp_path_factory.mktemp("run") / "run"
        common = ["data=csv", f"data.file={made}/rows.csv", "trainer.max_epochs=1"]
        named = 'data.label_names=["",person,"",car,"","","","","","","","","","","","","",cat]'
        train(settings_of(*common, named, *options), folder)
        return folder / "best.ckpt"

    return trained


@pytest.fixture(scope="module")
def fusion(run_of: Callable[..., Path]) -> Path:
    return run_of("captions.max_length=20", "threshold=per_label")


def odd_pictures(folder: Path) -> list[Path]:
    """Kinds of picture whose reading can go wrong."""
    random = np.random.default_rng(0)
    wide = Image.fromarray(random.integers(0, 256, (33, 91, 3), dtype=np.uint8))
    tall = Image.fromarray(random.integers(0, 256, (90, 47), dtype=np.uint8))
    deep = Image.fromarray(random.integers(0, 65536, (40, 50), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(folder / "turned.jpg", exif=exif)
    tall.save(folder / "grey.png")
    deep.save(folder / "deep.png")
    wide.quantize(8).save(folder / "palette.png", transparency=bytes([0, 128, 255]))
    wide.convert("CMYK").save(folder / "cmyk.tif")
    return [folder / n for n in ("turned.jpg", "grey.png", "deep.png", "palette.png", "cmyk.tif")]


def expected(model: Predictor, pictures: list, captions: list[str]) -> np.ndarray:
    found = model.predict(pictures if model.looks_at_pictures else None, caption=captions)
    return np.array([list(one.probabilities.values()) for one in found])


# Another process: no mmlabel on its path, and no other runtime than the one asked for.
ALONE = """
import sys, json
blocked = {"mmlabel", "nltk", *sys.argv[2].split()}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
from run import Model, check
model = Model(sys.argv[1])
pictures, captions = json.loads(sys.stdin.read())
rows = model.probabilities(pictures, captions).tolist()
one = model.predict(pictures[0], captions[0])
print(json.dumps([rows, one, check(sys.argv[1])]))
"""


def alone(folder: Path, blocked: str, pictures: list, captions: list[str]) -> tuple:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), blocked],
        input=json.dumps([[str(one) if one else None for one in pictures], captions]),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    rows, one, difference = json.loads(done.stdout)
    return np.array(rows), one, difference


@pytest.mark.parametrize(
    ("form", "options", "blocked"),
    [
        ("onnx", None, "torch torchvision openvino onnx"),
        (
            "openvino",
            ["model=caption_only", "captions.unknown_words=similar"],
            "torch onnx onnxruntime",
        ),
        ("onnx", ["backbone.unfreeze=1", "backbone.attention=residual"], "torch openvino"),
        ("openvino", ["model=image_only", "backbone.attention=query"], "torch onnxruntime"),
        ("onnx", ["model.fusion=attention"], "torch openvino"),
        ("openvino", ["model.fusion=attention"], "torch onnxruntime"),
        (
            "torch",
            ["model=caption_only", "lstm.layers=2", "lstm.pooling=last"],
            "",  # torch asks whether the others are there
        ),
        ("torch", ["model=image_only", "backbone.unfreeze=1"], ""),
    ],
)
def test_the_folder_alone_answers_as_the_checkpoint(
    form: str, options: list[str] | None, blocked: str, fusion, run_of, tmp_path: Path, capsys
):
    """Pictures of odd kinds, captions of odd forms, one row and several."""
    if form != "torch":
        pytest.importorskip({"onnx": "onnxruntime"}.get(form, form))
        pytest.importorskip("onnxscript", reason="not installed: pip install -e '.[export]'")
    checkpoint = fusion if options is None else run_of(*options)
    out = tmp_path / "model"
    assert main([str(checkpoint), "--format", form, "--out", str(out), "--check", "5"]) == 0
    said = capsys.readouterr().out
    assert (
        "on 5 real rows probabilities differ by" in said and "0 labels are answered other" in said
    )
    model = mmlabel.load(checkpoint)
    pictures = odd_pictures(tmp_path)
    wanted = expected(model, pictures, CAPTIONS)
    found, one, difference = alone(out, blocked, pictures, CAPTIONS)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert difference < 1e-5
    answer = model.predict(pictures[0] if model.looks_at_pictures else None, CAPTIONS[0])
    assert one["labels"] == answer.labels
    assert one["probabilities"] == pytest.approx(dict(answer.probabilities), abs=1e-5)
    # A row is answered alike in any company.
    each = [alone_row for n in range(2) for alone_row in _again(out, pictures[n], CAPTIONS[n])]
    np.testing.assert_allclose(each, wanted[:2], rtol=0, atol=1e-5)
    card = (out / "MODEL.md").read_text()
    assert "person, car, cat" in card and "95 % interval" in card and "Licences" in card


def _again(out: Path, picture: Path, caption: str) -> np.ndarray:
    return load_runner(out).Model(out).probabilities([picture], [caption])


def test_no_more_words_are_read_than_training_reads(run_of, tmp_path: Path):
    """Whatever the option says; torch's graph would take no more."""
    best, out = run_of("model=caption_only", "captions.max_length=20000"), tmp_path / "out"
    assert main([str(best), "--format", "torch", "--out", str(out)]) == 0
    caption = "a car " * 5000 + "a person " * 3000
    found = load_runner(out).Model(out).predict(None, caption)["probabilities"]
    expected = Predictor(best).predict(caption=caption).probabilities
    assert found == pytest.approx(expected, abs=1e-5)


def test_half_precision_is_half_the_size_and_close(run_of, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript", reason="not installed: pip install -e '.[export]'")
    checkpoint = run_of("model=caption_only", "lstm.hidden=64", "embedding.dim=200")
    out = tmp_path / "model"
    arguments = ["--format", "onnx", "--out", str(out), "--precision", "float16"]
    assert main([str(checkpoint), *arguments]) == 0
    model = mmlabel.load(checkpoint)
    whole = sum(4 * weights.numel() for weights in model.network.parameters())
    assert (out / "model.onnx").stat().st_size < 0.65 * whole
    wanted = expected(model, [], CAPTIONS)
    found = load_runner(out).Model(out).probabilities([None] * len(CAPTIONS), CAPTIONS)
    assert 0 < np.abs(found - wanted).max() < 2e-2


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_int8_is_small_and_says_what_it_costs(form, run_of, tmp_path: Path, capsys, monkeypatch):
    """The change of F1 on real rows is printed and stands in the model card, and much is said."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(form, form))
    pytest.importorskip("onnxscript", reason="not installed: pip install -e '.[export]'")
    checkpoint = run_of("threshold=0.3", "backbone=resnet18")
    out = tmp_path / "model"
    arguments = [str(checkpoint), "--format", form, "--out", str(out), "--precision", "int8"]
    monkeypatch.setattr("mmlabel.export.__main__.MUCH", -100.0)
    assert main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    proof = next(line for line in said if "real rows probabilities differ by" in line)
    loss = next(line for line in said if line.startswith("careful: int8 loses"))
    card = (out / "MODEL.md").read_text()
    assert f"- {proof}" in card and f"- {loss}" in card and "weights in int8" in card
    model = mmlabel.load(checkpoint)
    whole = sum(4 * weights.numel() for weights in model.network.parameters())
    assert sum(path.stat().st_size for path in out.glob("model.*")) < 0.3 * whole
    pictures = odd_pictures(tmp_path)
    found = load_runner(out).Model(out).probabilities(pictures, CAPTIONS)
    assert 0 < np.abs(found - expected(model, pictures, CAPTIONS)).max() < 0.1


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_trained_stages_that_begin_with_a_stride_are_exported_in_int8(form, run_of, tmp_path: Path):
    pytest.importorskip({"onnx": "onnxruntime"}.get(form, form))
    pytest.importorskip("onnxscript", reason="not installed: pip install -e '.[export]'")
    options = ["backbone=resnet18", "backbone.unfreeze=1", "data.image_size=64"]
    checkpoint = run_of("model=image_only", *options)
    out = tmp_path / "model"
    given = [str(checkpoint), "--format", form, "--out", str(out), "--precision", "int8"]
    assert main(given) == 0
    pictures = odd_pictures(tmp_path)
    found = load_runner(out).Model(out).probabilities(pictures, CAPTIONS)
    wanted = expected(mmlabel.load(checkpoint), pictures, CAPTIONS)
    assert np.abs(found - wanted).max() < 0.1


def test_int8_has_a_range_for_each_channel(tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    from mmlabel.export.quantise import store_weights

    random = np.random.default_rng(0)
    sizes = 10.0 ** random.integers(-4, 4, 64)  # one range for all would leave nothing of most
    weights = {
        "conv": (random.normal(size=(64, 1, 9, 9)) * sizes[:, None, None, None]),
        "lstm": (random.normal(size=(1, 64, 80)) * sizes[:, None]),
        "norm": random.normal(size=5000),
        "small": random.normal(size=(3, 4)),
    }
    weights = {name: values.astype(np.float32) for name, values in weights.items()}
    weights["conv"][3] = 0
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()]
    outputs = [
        onnx.helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, values.shape)
        for name, values in weights.items()
    ]
    nodes = [onnx.helper.make_node("Identity", [name], [f"{name}_out"]) for name in weights]
    graph = onnx.helper.make_graph(nodes, "weights", [], outputs, initializer=tensors)
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    store_weights(path, "int8")
    stored = {one.name: one for one in onnx.load(path).graph.initializer}
    assert {"conv_int8", "lstm_int8", "norm_half", "small"} < stored.keys()
    from onnx.reference import ReferenceEvaluator

    found = ReferenceEvaluator(onnx.load(path)).run(None, {})
    for (name, values), back in zip(weights.items(), found, strict=True):
        if name in ("conv", "lstm"):
            rows = values.reshape(64, -1), np.asarray(back).reshape(64, -1)
            step = np.abs(rows[0]).max(1, keepdims=True) / 127
            assert (np.abs(rows[0] - rows[1]) <= 0.501 * step).all()
        else:
            np.testing.assert_allclose(back, values, rtol=1e-3)


def test_a_model_that_its_runtime_refuses_is_one_message(
    fusion: Path, tmp_path: Path, monkeypatch, capsys
):
    def refused(_) -> float:
        raise RuntimeError("Exception from core.cpp:132:\nArgument shapes are inconsistent.\n\n")

    monkeypatch.setattr(
        "mmlabel.export.proof.load_runner", lambda _: SimpleNamespace(check=refused)
    )
    out = tmp_path / "model"
    assert main([str(fusion), "--format", "torch", "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "torch does not run the torch model (Argument shapes are inconsistent.)" in said
    assert not out.exists()


def test_a_model_that_answers_otherwise_is_not_handed_out(
    fusion: Path, tmp_path: Path, monkeypatch, capsys
):
    import torch

    from mmlabel.export import graph

    def wrong(network: graph.Inputs, folder: Path, **options) -> Path:
        last = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
        with torch.no_grad():
            last.bias += 0.1
        path = graph_written(network, folder, **options)
        with torch.no_grad():
            last.bias -= 0.1
        return path

    graph_written = graph.write_graph
    monkeypatch.setattr(graph, "write_graph", wrong)
    out = tmp_path / "model"
    assert main([str(fusion), "--format", "torch", "--out", str(out)]) == 1
    assert "answers otherwise than the checkpoint" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(graph, "write_graph", graph_written)
    assert main([str(fusion), "--format", "torch", "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(graph, "write_graph", wrong)
    assert main([str(fusion), "--format", "torch", "--out", str(out)]) == 1
    assert f"{out} holds an earlier export, which is replaced" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ---- Words -------------------------------------------------------------------------------------


@pytest.mark.parametrize("similar", [False, True])
def test_spellings_that_were_never_met_are_encoded_as_with_wordnet(
    similar: bool, shared: Path, monkeypatch
):
    monkeypatch.setenv("NLTK_DATA", str(shared / "nltk_data"))
    words = ["<pad>", "<unk>", "dog", "goose", "knife", "woman", "bus", "lady", "church", "ha"]
    forms = {"dog": "dog", "has": "ha", "buses": "bus", "women": "woman", "rare": "rare"}
    vocabulary = Vocabulary(words, forms, similar=similar)
    numbers, problem = spellings(vocabulary)
    assert problem is None
    model = runner.Model.__new__(runner.Model)
    model.words, model.about = numbers, {"max_length": 10_000}
    if similar:
        model._like = runner._alike(words[2:])
    texts = "dogs dog geese goose knives women bus buses ladies churches has ha ass gas lad".split()
    from nltk.corpus import wordnet

    texts += [word for word in list(wordnet.all_lemma_names("n"))[::400] if word.isalpha()]
    texts += ["rare", "womn", "churchyard", "a", "geeses", "ocelots", "dogged", "knive"]
    encoded = encode_texts(texts, vocabulary)
    assert model.numbers(" ".join(texts)) == encoded.ids.tolist()
    found = dict(zip(texts, encoded.ids.tolist(), strict=True))
    assert (found["womn"], found["churchyard"]) == (1, 8 if similar else 1)
    assert numbers["geese"] == 3 and numbers["ladies"] == 7 and "lad" not in numbers


def test_captions_are_split_as_in_training(fusion: Path):
    vocabulary = mmlabel.load(fusion).vocabulary
    model = runner.Model.__new__(runner.Model)
    model.words, _ = spellings(vocabulary)
    model.about = {"max_length": 20}
    texts = [*CAPTIONS, "cannot Gonna wanna", "WANNA", "x_cannot can-not", "lemme's", "İs it\t12.5"]
    texts += ["person's CAR", "the“two”some", "old\u2019s", "two\u00a0some", "on\u0301 o'\u0301n"]
    encoded = encode_texts(texts, vocabulary, max_length=20)
    bounds = zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)
    wanted = [encoded.ids[start:end].tolist() for start, end in bounds]
    assert [model.numbers(text) for text in texts] == wanted


# ---- The runner's command line -----------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(fusion: Path, run_of, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a model, of which there is one of each kind."""
    folders: dict[str, Path] = {}

    def folder_of(model: str) -> Path:
        if model not in folders:
            folders[model] = tmp_path_factory.mktemp("exported") / model
            checkpoint = fusion if model == "fusion" else run_of(f"model={model}")
            given = [str(checkpoint), "--format", "torch", "--out", str(folders[model])]
            assert main(given) == 0
        return folders[model]

    return folder_of


def run_alone(folder: Path, *arguments: object) -> tuple[int, list[dict], str]:
    """The runner's status, answers and what it says."""
    done = subprocess.run(
        [sys.executable, str(folder / "run.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_bad_picture_costs_the_runner_no_other(exported, made: Path, tmp_path: Path):
    good = [made / "data" / "4.jpg", made / "data" / "5.jpg"]
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.jpg").write_bytes(good[0].read_bytes()[:300])
    values = np.linspace(0, 1, 40 * 40, dtype=np.float32).reshape(40, 40)
    for name, value in (("nan.tif", np.nan), ("inf.tif", np.inf)):
        values[3, 4] = value
        Image.fromarray(values).save(tmp_path / name)
    most = Image.MAX_IMAGE_PIXELS
    assert most is not None
    Image.new("1", (10_000, most // 10_000 + 1)).save(tmp_path / "large.png")
    bad = {
        tmp_path / "nan.tif": "some of its values are no numbers",
        tmp_path / "inf.tif": "some of its values are no numbers",
        tmp_path / "large.png": "10000x8948 are more than 89,478,485 pixels",
        tmp_path / "text.jpg": "not an image file",
        tmp_path / "empty.jpg": "an empty file",
        tmp_path / "cut.jpg": "",
        tmp_path / "no.jpg": "there is no such file",
        tmp_path: "not a file",
    }
    status, answers, said = run_alone(exported("fusion"), good[0], *bad, good[1])
    assert status == 1 and [one["picture"] for one in answers] == [str(path) for path in good]
    lines = said.splitlines()
    assert len(lines) == len(bad)
    for line, (path, reason) in zip(lines, bad.items(), strict=True):
        assert line.startswith(f"run.py: {path} is not a readable picture ({reason}")
    assert run_alone(exported("fusion"), good[0])[::2] == (0, "")


def test_the_runner_ends_without_a_word_when_nobody_reads(exported, made: Path):
    """As with `| head`: its pipe is closed before the first answer."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, str(exported("fusion") / "run.py"), str(made / "data" / "4.jpg")]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        ("caption_only", (), "this model looks at captions alone: give --caption TEXT"),
        ("caption_only", ("a.jpg", "--caption", "a cat"), "looks at captions alone"),
        ("fusion", ("--caption", "a cat"), "give a picture"),
        ("fusion", ("a.jpg", "b.jpg", "--caption", "a cat"), "--caption is of one picture"),
        ("fusion", ("--check", "a.jpg"), "--check has rows of its own"),
        ("image_only", ("a.jpg", "--caption", "a cat"), "looks at pictures alone"),
    ],
)
def test_the_runner_refuses_what_it_would_not_look_at(
    model: str, arguments: tuple, said: str, exported
):
    status, answers, error = run_alone(exported(model), *arguments)
    assert status == 2 and not answers
    assert said in error.splitlines()[-1] and "Traceback" not in error


def test_a_folder_that_is_not_whole_is_one_message(exported, tmp_path: Path):
    folder = tmp_path / "model"
    for name, spoil in (("model.json", Path.unlink), ("model.pt2", lambda p: p.write_bytes(b"x"))):
        shutil.copytree(exported("fusion"), folder)
        spoil(folder / name)
        for arguments in (("a.jpg",), ("--check",)):
            status, answers, said = run_alone(folder, *arguments)
            assert status == 1 and not answers and "holds no whole model" in said, said
            assert len(said.splitlines()) == 1
        shutil.rmtree(folder)


def test_the_runner_in_python_says_what_is_missing(exported, made: Path):
    module = load_runner(exported("fusion"))
    both, captions = module.Model(exported("fusion")), module.Model(exported("caption_only"))
    path = made / "data" / "4.jpg"
    assert both.predict(path, float("nan")) == both.predict(path)
    for model, arguments, message in (
        (both, (None, "a cat"), "looks at pictures: give one"),
        (both, (b"no",), "not an image file"),
        (both, (7,), "no attribute"),
        (both, (path, b"a cat"), "a caption is a bytes, no text"),
        (captions, (), "captions alone: give one"),
    ):
        with pytest.raises(module.Mistake, match=message):
            model.predict(*arguments)
    both.about |= {"crop": "center", "size": [224, 224]}
    with pytest.raises(module.Mistake, match="1x20000 pixels are too narrow: crop it"):
        both.pixels(np.zeros((20_000, 1, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("model", "use", "call"),
    [
        ("fusion", "PICTURE --caption TEXT", '"picture.jpg", "a dog on a bench"'),
        ("image_only", "PICTURE", '"picture.jpg"'),
        ("caption_only", "--caption TEXT", 'caption="a dog on a bench"'),
    ],
)
def test_how_it_is_used_follows_from_what_it_looks_at(
    model: str, use: str, call: str, fusion: Path, run_of, tmp_path: Path, capsys
):
    checkpoint = fusion if model == "fusion" else run_of(f"model={model}")
    out = tmp_path / "out"
    assert main([str(checkpoint), "--format", "torch", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"; python {out}/run.py {use}")
    card = (out / "MODEL.md").read_text()
    assert f"`python run.py {use}`" in card and f".predict({call})`" in card


# ---- Mistakes ----------------------------------------------------------------------------------


def test_mistakes_are_one_message(fusion: Path, run_of, tmp_path: Path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    others = tmp_path / "tfjs"  # another program's model
    others.mkdir()
    (others / "model.json").write_text('{"format": "layers-model"}')
    decoder = run_of("model=decoder")
    out = tmp_path / "out"
    capsys.readouterr()
    for arguments, said in {
        (fusion, "--format", "onnx", "--out", tmp_path / "full"): "holds other files",
        (fusion, "--format", "onnx", "--out", others): "holds other files",
        (tmp_path / "no.ckpt", "--format", "onnx", "--out", out): "there is no file",
        (decoder, "--format", "onnx", "--out", out): "model=decoder answers one label",
        (fusion, "--format", "torch", "--precision", "float16", "--out", out): "--precision float",
        (fusion, "--format", "onnx", "--check", "0", "--out", out): "--check 0",
        (fusion, "--format", "torch", "--precision", "int8", "--out", out): "--precision int8 is",
    }.items():
        assert main([str(argument) for argument in arguments]) == 1
        printed = capsys.readouterr()
        assert said in printed.err and len(printed.err.splitlines()) == 1
        assert not out.exists() and not printed.out


@pytest.mark.parametrize(
    ("form", "writes"), [("onnx", (graph, "_write_onnx")), ("torch", (Path, "write_bytes"))]
)
def test_a_full_disk_is_not_taken_for_a_network_that_cannot_be_written(
    form: str, writes: tuple, fusion: Path, tmp_path: Path, capsys, monkeypatch
):
    """Nor is it torch's to meet, whose writer would end the process."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*writes, full)
    out = tmp_path / "out"
    assert main([str(fusion), "--format", form, "--out", str(out)]) == 1
    assert f"--out {out} cannot be written: No space left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--check",), "--check compares on test rows of the checkpoint's data"),
        (("--precision", "int8"), "--precision int8 compares on test rows"),
    ],
)
def test_a_check_without_its_data_is_refused_before_anything_is_written(
    given: tuple, said: str, settings_of, made: Path, tmp_path: Path, capsys, monkeypatch
):
    shutil.copytree(made, tmp_path / "data")
    file = tmp_path / "data" / "rows.csv"
    options = ["data=csv", f"data.file={file}", "model=image_only", "trainer.max_epochs=1"]
    train(settings_of(*options), tmp_path / "run")
    out = tmp_path / "out"
    monkeypatch.setattr("mmlabel.export.graph.write_graph", None)  # it is not come to
    command = [str(tmp_path / "run" / "best.ckpt"), "--format", "onnx", "--out", str(out), *given]
    before = sorted(tmp_path.iterdir())
    for picture in (tmp_path / "data" / "data").iterdir():
        picture.write_text("x")
    capsys.readouterr()
    for reason in ("is not a readable picture (not an image file). Put", "No such file"):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert said in error and reason in error and "Put the data back, or" in error
        assert len(error.splitlines()) == 1 and sorted(tmp_path.iterdir()) == before
        file.unlink(missing_ok=True)
