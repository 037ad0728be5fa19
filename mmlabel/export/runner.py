"""Label pictures and captions with an exported model: python run.py [PICTURE…] [--caption TEXT]

It needs numpy, Pillow and the model's runtime (onnxruntime, openvino or torch), and the files
beside it: model.json, words.json and the network. In Python:

    from run import Model
    Model("FOLDER").predict("picture.jpg", "a dog on a bench")
"""

import argparse
import io
import json
import logging
import re
import signal
import sys
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

# Pictures that Pillow would warn of are refused here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

BATCH = 64
RESIZED_PIXELS = 2**25  # that the middle of a narrow picture may be cut from
ALIKE = 0.6  # twice the common runs of three letters over those of both words, at least
CLOSE = 1e-4  # by which probabilities may differ from those of training
# In a text without punctuation NLTK's tokeniser takes these apart and does nothing else.
APART = re.compile(r"\b(?:(can)(not)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me)|(wan)(na))\b")
TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Mistake(ValueError):
    """What cannot be answered: a bad picture, or a half that is missing."""


class Model:
    """An exported model; `folder` is the one it was written to."""

    _like = None

    def __init__(self, folder: "str | Path" = "."):
        folder = Path(folder)
        self.about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        self.labels = self.about["labels"]
        if self.about.get("similar"):
            self._like = _alike(self.about["similar"])
        self.thresholds = np.asarray(self.about["thresholds"], dtype=np.float32)
        self.halves = self.about["inputs"]
        self._run = _runtime(self.about["format"], folder / self.about["file"])

    def predict(self, picture=None, caption=None):
        """{"labels": [name, …], "probabilities": {name: 0..1}} of a picture, its caption or both.

        A picture is a path, the bytes of a file, a PIL picture or an array (height, width, 3) of
        uint8. None and NaN are missing ones. Raises Mistake.
        """
        picture, caption = (None if _is_nan(half) else half for half in (picture, caption))
        if caption is not None and not isinstance(caption, str):
            raise Mistake(f"a caption is a {type(caption).__name__}, no text")
        if "image" in self.halves and picture is None:
            raise Mistake("this model looks at pictures: give one")
        if "image" not in self.halves and caption is None:
            raise Mistake("this model looks at captions alone: give one")
        row = self.probabilities([picture], [caption or ""])[0]
        answered = [self.labels[n] for n in np.flatnonzero(row >= self.thresholds)]
        by_name = dict(zip(self.labels, map(float, row), strict=True))
        return {"labels": answered, "probabilities": by_name}

    def probabilities(self, pictures, captions):
        """(B, L) float32 of B pictures and their captions, two lists of the same length."""
        rows = []
        for at in range(0, len(captions), BATCH):
            given = []
            if "image" in self.halves:
                given.append(np.stack([self.pixels(one) for one in pictures[at : at + BATCH]]))
            if "caption" in self.halves:
                given += self.tokens(captions[at : at + BATCH])
            logits = np.asarray(self._run(given), dtype=np.float64)
            rows.append((1 / (1 + np.exp(-logits))).astype(np.float32))
        return np.concatenate(rows)

    def pixels(self, picture):
        """(3, H, W) uint8, as the network saw pictures in training. Raises Mistake."""
        height, width = self.about["size"]
        picture = rgb(picture, upright=self.about["upright"])
        if self.about["crop"] == "none":
            if picture.size != (width, height):
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(picture).transpose(2, 0, 1)
        w, h = picture.size
        longer = int(width * max(w, h) / min(w, h))
        if width * longer > RESIZED_PIXELS:
            raise Mistake(f"{w}x{h} pixels are too narrow: crop it")
        shape = (width, longer) if w <= h else (longer, width)
        if shape != picture.size:
            picture = picture.resize(shape, Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
        top, left = round((pixels.shape[0] - width) / 2), round((pixels.shape[1] - width) / 2)
        return pixels[top : top + width, left : left + width].transpose(2, 0, 1)

    def tokens(self, captions):
        """Word numbers (B, T) int64, 0 behind a caption's end, and lengths (B,) int64."""
        lists = [self.numbers(caption) for caption in captions]
        lengths = np.array([len(numbers) for numbers in lists], dtype=np.int64)
        tokens = np.zeros((len(lists), max(2, *lengths, 2)), dtype=np.int64)
        for row, numbers in enumerate(lists):
            tokens[row, : len(numbers)] = numbers
        return [tokens, lengths]

    def numbers(self, caption):
        """The numbers of a caption's words; 1 is one that none met in training is like."""
        text = _composed("".join(map(_kept, _composed(caption))).lower())
        text = APART.sub(lambda found: " " + " ".join(filter(None, found.groups())) + " ", text)
        words = [word[:100] for word in text.split()[: self.about["max_length"]]]
        return [self.words.get(word) or self._like_known(word) for word in words]

    def _like_known(self, word):
        """The number of the known word that is spelt most like it; 1: there is none."""
        if self._like is None:
            return 1
        own, (among, sizes) = _pieces(word), self._like
        shared = Counter(at for piece in own for at in among.get(piece, ()))
        scores = {at: 2 * n / (len(own) + sizes[at]) for at, n in shared.items()}
        best = max(scores, key=lambda at: (scores[at], -at), default=None)
        return 1 if best is None or scores[best] < ALIKE else best + 2


def _pieces(word):
    framed = f"<{word}>"
    return {framed[at : at + 3] for at in range(len(framed) - 2)}


def _alike(words):
    """Which words have each run of three letters, and how many of these each word has."""
    among = {}
    for at, word in enumerate(words):
        for piece in _pieces(word):
            among.setdefault(piece, []).append(at)
    return among, [len(_pieces(word)) for word in words]


def _composed(text):
    return unicodedata.normalize("NFC", text)


def _kept(char):
    if char in "'\N{RIGHT SINGLE QUOTATION MARK}":
        return ""
    return " " if unicodedata.category(char)[0] in "PSC" else char


def _is_nan(value):
    return isinstance(value, float) and value != value or type(value).__name__ == "NAType"


def rgb(picture, *, upright):
    """The RGB picture of a path, bytes, an array or a picture; deep grey is scaled to 8 bits.

    Raises Mistake for what is no readable picture.
    """
    try:
        if isinstance(picture, str | Path):
            if not Path(picture).is_file():  # a pipe would be waited for without end
                raise Mistake("not a file" if Path(picture).exists() else "there is no such file")
            picture = Path(picture).read_bytes()
        return _rgb(picture, upright=upright)
    except Mistake:
        raise
    except UnidentifiedImageError as error:
        raise Mistake("not an image file" if picture else "an empty file") from error
    except Exception as error:  # damaged files raise errors of nearly any kind
        raise Mistake(getattr(error, "strerror", None) or str(error) or repr(error)) from error


def _rgb(picture, *, upright):
    if isinstance(picture, bytes):
        picture = Image.open(io.BytesIO(picture))
    elif isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and picture.width * picture.height > most:
        raise Mistake(f"{picture.width}x{picture.height} are more than {most:,} pixels")
    picture.load()
    if upright:
        try:
            turn = TURN.get(picture.getexif().get(0x0112, 1))
        except Exception:
            turn = None  # damaged EXIF data does not spoil the pixels
        picture = picture if turn is None else picture.transpose(turn)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _scaled(picture)
    elif picture.mode == "P" and isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def _scaled(picture):
    values = np.asarray(picture).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise Mistake("some of its values are no numbers")
    if picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM"):
        bits = getattr(picture, "tag_v2", {}).get(258)
        low, high = 0.0, 4095.0 if bits == (12,) else 65535.0
    else:
        usual = (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0)
        white = next((white for white in usual if low >= 0 and high <= white), None)
        low, high = (low, high) if white is None else (0.0, white)
    scale = 255 / (high - low) if high > low else 0.0
    return Image.fromarray(np.rint((values - low) * scale).astype(np.uint8))


# OpenVINO's cores, which nothing ends: two that end in the order in which they began leave signal
# handlers a stack that is no more, and the next Ctrl-C would be a segmentation fault.
_CORES = []


def _runtime(form, path):
    """A function from the network's inputs, in order, to logits (B, L)."""
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
        return lambda given: session.run(None, dict(zip(names, given, strict=True)))[0]
    if form == "openvino":
        sys.modules["openvino_telemetry"] = None  # pyright: ignore  # it would report its use
        import openvino

        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        _CORES.append(openvino.Core())
        compiled = _CORES[-1].compile_model(str(path), "CPU", exact)
        return lambda given: np.array(compiled(list(given))[0])
    import torch

    _define_lstm(torch)
    logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # of a damaged file, at length
    network = torch.export.load(str(path)).module()

    def run(given):
        with torch.inference_mode():
            given = [torch.from_numpy(np.ascontiguousarray(one)) for one in given]
            return network(*given).numpy()

    return run


def _define_lstm(torch):
    """The one operation in the file that torch does not bring: one direction of an LSTM."""
    if hasattr(torch.ops.mmlabel, "lstm"):
        return
    names = "Tensor inputs, Tensor weight_ih, Tensor weight_hh, Tensor bias_ih, Tensor bias_hh"
    torch.library.define("mmlabel::lstm", f"({names}) -> Tensor")

    def lstm(inputs, weight_ih, weight_hh, bias_ih, bias_hh):
        zero = inputs.new_zeros(1, inputs.shape[0], weight_hh.shape[1])
        weights = [weight_ih, weight_hh, bias_ih, bias_hh]
        return torch.lstm(inputs, (zero, zero), weights, True, 1, 0.0, False, False, True)[0]

    torch.library.impl("mmlabel::lstm", "CompositeExplicitAutograd", lstm)


def made_up_picture(width, height):
    """A picture (height, width, 3) uint8 that is the same everywhere."""
    x, y = np.arange(width), np.arange(height)[:, None]
    planes = [x * 3 + y, x + y * 2, (x // 9 + y // 7) * 40]
    return np.stack([plane % 256 for plane in planes], axis=2).astype(np.uint8)


def check(folder: "str | Path" = "."):
    """The largest difference from what training's code answered to made-up rows."""
    model = Model(folder)
    rows = json.loads((Path(folder) / "check.json").read_text(encoding="utf-8"))
    pictures = [made_up_picture(*row["size"]) for row in rows]
    found = model.probabilities(pictures, [row["caption"] for row in rows])
    return float(np.abs(found - np.array([row["probabilities"] for row in rows])).max())


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pictures", nargs="*", help="picture files")
    parser.add_argument("--caption", help="of one picture")
    parser.add_argument("--check", action="store_true", help="compare with what training answered")
    options = parser.parse_args()
    folder = Path(__file__).resolve().parent
    if options.check:
        if options.pictures or options.caption is not None:
            parser.error("--check has rows of its own: give no picture and no caption with it")
        difference = _made(check, folder)
        limit = json.loads((folder / "model.json").read_text(encoding="utf-8"))["close"]
        print(f"the probabilities of made-up rows differ by {difference:.1g} at most")
        return 0 if difference <= limit else 1
    model = _made(Model, folder)
    if "image" not in model.halves and (options.pictures or options.caption is None):
        parser.error("this model looks at captions alone: give --caption TEXT and no picture")
    if "image" in model.halves and not options.pictures:
        parser.error("give a picture")
    if "caption" not in model.halves and options.caption is not None:
        parser.error("this model looks at pictures alone: leave --caption out")
    if len(options.pictures) > 1 and options.caption is not None:
        parser.error("--caption is of one picture: give that alone, or leave --caption out")
    failed = 0
    for picture in options.pictures or [None]:
        try:
            answer = model.predict(picture, options.caption)
        except Mistake as error:
            failed = 1
            line = f"run.py: {picture} is not a readable picture ({error})"
            print(" ".join(line.split()), file=sys.stderr, flush=True)
            continue
        print(json.dumps({"picture": picture, **answer}, ensure_ascii=False), flush=True)
    return failed


def _made(make, folder):
    """What is made of the folder, or the end of the program with a line that says what is wrong."""
    try:
        return make(folder)
    except ImportError as error:
        sys.exit(f"run.py: {error}: the model needs that package to run, so install it")
    except Exception as error:  # each runtime has kinds of its own for a damaged file
        line = " ".join(str(error).split()) or repr(error)
        sys.exit(f"run.py: {folder} holds no whole model ({line}): copy all of it, or export again")


if __name__ == "__main__":
    for name in ("SIGINT", "SIGPIPE"):  # Ctrl-C and `| head` end it without a word
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    sys.exit(main())
