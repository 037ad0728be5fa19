"""A trained network for use: pictures and captions in, labels by name out."""

import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmlabel.checkpoint import load_classifier
from mmlabel.data.batches import Batch
from mmlabel.data.captions import CaptionCounts, EncodedCaptions, encode_texts
from mmlabel.data.pictures import BadPicture, as_rgb, decode, read_picture
from mmlabel.data.subwords import Subwords
from mmlabel.data.transforms import Size, stack_views, views_of
from mmlabel.errors import UserError, first_line, no_numbers
from mmlabel.marginals import marginals
from mmlabel.models.backbones import Backbone
from mmlabel.models.engines import (
    Engine,
    Extract,
    NoOpenVino,
    Precision,
    build_extract,
    choose_engine,
)
from mmlabel.progress import say
from mmlabel.repeating import DETECTOR_ALONE
from mmlabel.terminal import printable

Picture = str | Path | bytes | Image.Image | np.ndarray
Seen = Tensor | list[Image.Image]  # (B, 3, S, S) uint8 for a backbone, pictures for a detector

BATCH = 64

if hasattr(os, "register_at_fork"):
    # A fork has none of torch's threads, for which its first prediction would wait without end.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


@dataclass(frozen=True)
class Prediction:
    """What a model answers to one picture, caption or both.

    Attributes:
        labels: names of the labels that it has.
        probabilities: of every label, by name, 0..1. A label decoder answers with the best set
            of labels that it found, and one of them may have less than one half.
    """

    labels: list[str]
    probabilities: Mapping[str, float]


class Answered(NamedTuple):
    """What a network says of B rows and L labels."""

    logits: np.ndarray  # (B, L) float32, what the probabilities are the sigmoid of
    probabilities: np.ndarray  # (B, L) float32, 0..1
    labels: np.ndarray  # (B, L) bool: the labels that are answered


@dataclass(frozen=True)
class Look:
    """How pictures are made ready, which any process can do without the network.

    Attributes:
        size: of a backbone's views, see `mmlabel.data.transforms`; None: a detector sees all of it.
        upright: whether pictures are turned as their EXIF data says.
    """

    size: Size | None
    upright: bool

    def __call__(self, picture: Picture) -> np.ndarray | Image.Image:
        """The view (1, 3, H, W) uint8 of a picture, or the picture in RGB. Raises BadPicture."""
        if isinstance(picture, str | Path):
            name, rgb = picture, decode(read_picture(picture), picture, upright=self.upright)
        else:
            name = "the picture given"
            rgb = _rgb(picture, name, upright=self.upright)
        if self.size is None:
            return rgb
        return views_of(rgb, path=name, size=self.size, flips=[False])


def _rgb(picture: bytes | Image.Image | np.ndarray, name: str, *, upright: bool) -> Image.Image:
    if isinstance(picture, bytes):
        return decode(picture, name, upright=upright)
    if isinstance(picture, np.ndarray):
        colour = picture.ndim == 3 and picture.shape[2] in (3, 4)
        if picture.dtype != np.uint8 or not (picture.ndim == 2 or colour) or not picture.size:
            raise BadPicture(
                name,
                f"an array of {picture.dtype} of shape {picture.shape}, where uint8 of shape"
                " (height, width), (height, width, 3) or (height, width, 4) is expected",
            )
        picture = Image.fromarray(picture)
    elif not isinstance(picture, Image.Image):
        raise BadPicture(name, f"a {type(picture).__name__}, no path, bytes, PIL picture or array")
    try:
        return as_rgb(picture, upright=upright)
    except Exception as error:  # a lazily opened picture may be damaged in any way
        raise BadPicture(name, str(error) or type(error).__name__) from error


class Predictor:
    """A checkpoint's network, ready to label pictures with captions.

    Args:
        checkpoint: best.ckpt of a run.
        device: where it runs, such as "cuda"; None: a GPU if there is one.
        fastest: whether what computes features fastest is used, which takes seconds to make ready.
        precision: in which features are computed; None: that of those it was trained on, or
            float32, which `weights_notes` say, where the device has no bfloat16.

    Attributes:
        label_names: of the labels that it can answer.
        label_numbers: their numbers in the data set.
        thresholds: (L,) the probability at which each is answered; of a label decoder the number
            of its run's predictions.csv, see `mmlabel.marginals`, until `answer_at` is called.
        settings: of the run.
        vocabulary: of its captions.
        pretrained: where the weights of its parts come from, in words.
        rows: of each split of its run, in hashes; None: an earlier version did not record them.
        uncalibrated: what to know of thresholds that were not found yet; None if they were.
        weights_notes: which weights, of those not in the checkpoint, are not what was asked for;
            and that the backbone computes in another precision than the run's, where it does.
        lacking: what the captions read so far had to go without, such as WordNet, each once.

    Raises UserError for what is no checkpoint, and for a device that is not there.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        device: str | None = None,
        fastest: bool = False,
        precision: Precision | None = None,
    ) -> None:
        if not isinstance(checkpoint, str | os.PathLike):
            what = f"a checkpoint is {_shown(checkpoint)}"
            raise UserError(f"{what}, no path: give a run's best.ckpt")
        self.device = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        classifier, read = load_classifier(
            checkpoint, device=self.device if precision is None else None
        )
        self.settings = read.settings
        self.label_numbers = [n for n, name in enumerate(read.label_names) if name]
        self.label_names = [read.label_names[n] for n in self.label_numbers]
        threshold = np.asarray(classifier.threshold, dtype=np.float32)
        every = np.broadcast_to(threshold, len(read.label_names))
        self.thresholds = every[self.label_numbers]
        self._at_probabilities = False  # whether these are what thresholds are compared with
        self._classifier = classifier.to(self.device)
        self.vocabulary = read.vocabulary
        self._tokenizer = read.text_model and Subwords(read.text_model.tokenizer)
        self.pretrained = read.pretrained
        self._all_names = read.label_names
        self._checkpoint = checkpoint
        self._inputs = read.inputs or {}
        self._fastest = fastest
        if precision is not None and self.settings.backbone is not None:
            self._backbone.precision = precision
        self.rows = read.rows
        self.weights_notes = read.notes
        self.uncalibrated = None
        if not read.calibrated:
            self.uncalibrated = (
                f"{checkpoint} is of a run that has not finished, so that threshold="
                f"{self.settings.threshold} was not found yet: it answers at {threshold.max():g}"
            )
        # Of the captions read so far.
        self.lacking: dict[str, None] = {}
        self._counts = CaptionCounts()

    def __getstate__(self) -> dict[str, Any]:
        # What is made ready at the first use is made anew in the process that this goes to.
        ready = ("_extract", "_detector")
        return {name: value for name, value in vars(self).items() if name not in ready}

    @property
    def notes(self) -> list[str]:
        """What is to be said of the captions read so far."""
        return [*self.lacking, *self._counts.notes]

    def answer_at(self, threshold: float) -> None:
        """Answer every label at this probability instead, of a label decoder, too, whose answer is
        no longer the best set of labels that it found then."""
        self.thresholds = np.full_like(self.thresholds, threshold)
        self._at_probabilities = True
        self.uncalibrated = None

    @property
    def cautions(self) -> list[str]:
        """What to know before any of its answers is taken."""
        return [*self.weights_notes, *([self.uncalibrated] if self.uncalibrated else [])]

    @property
    def precision(self) -> Precision | None:
        """In which what is frozen of its backbone looks at pictures; None where it has none."""
        return None if self.settings.backbone is None else self._backbone.precision

    @property
    def network(self) -> torch.nn.Module:
        """Gives logits (B, num_labels) for a batch of pictures and captions."""
        return self._classifier.network

    @property
    def looks_at_pictures(self) -> bool:
        """Whether pictures decide."""
        return "image" in self.settings.inputs

    @property
    def looks_at_captions(self) -> bool:
        """Whether captions decide."""
        return "caption" in self.settings.inputs

    @property
    def look(self) -> Look:
        """How this network's pictures are made ready."""
        data = self.settings.data
        if self.settings.detector is not None:
            return Look(size=None, upright=True)
        return Look(size=data.view, upright=data.upright)

    @overload
    def predict(self, picture: Picture | None = None, caption: str | None = None) -> Prediction: ...

    @overload
    def predict(
        self, picture: Sequence[Picture], caption: Sequence[str | None] | None = None
    ) -> list[Prediction]: ...

    @overload
    def predict(self, picture: None = None, *, caption: Sequence[str]) -> list[Prediction]: ...

    def predict(self, picture=None, caption=None):
        """The labels of a picture with its caption, or of each in a list.

        A picture is a path, the bytes of a file, a PIL picture or an array (height, width, 3)
        uint8. A list may be a column of a table (pandas, polars) or an array of paths or captions,
        too. None, NaN and pandas' NA are missing; a model of both halves reads a missing caption
        as an empty one.

        Raises UserError for a picture that cannot be read, for a caption that is no text, for one
        of the two that is missing where nothing else decides, for lists of different lengths, and
        for a network whose answers are no numbers.
        """
        picture, caption = _as_list(picture, pixels=True), _as_list(caption)
        if not isinstance(picture, list | tuple) and not isinstance(caption, list | tuple):
            return self._predict([picture], [caption])[0]
        count = max(len(half) for half in (picture, caption) if isinstance(half, list | tuple))
        pictures = [None] * count if picture is None else picture
        captions = [None] * count if caption is None else caption
        for name, values in (("pictures", pictures), ("captions", captions)):
            if not isinstance(values, list | tuple) or len(values) != count:
                raise UserError(f"give as many {name} as there are rows ({count}), in a list")
        return self._predict(pictures, captions)

    def _predict(
        self, pictures: Sequence[Picture | None], captions: Sequence[str | None]
    ) -> list[Prediction]:
        found: list[Prediction] = []
        for at in range(0, len(captions), BATCH):
            seen, texts, part = None, [], slice(at, at + BATCH)
            for row, caption in enumerate(captions[part], start=at + 1):
                with _named(row, len(captions)):
                    texts.append(self._said(caption))
            if self.looks_at_pictures:
                made_ready = []
                for row, picture in enumerate(pictures[part], start=at + 1):
                    with _named(row, len(captions)):
                        made_ready.append(self._seen(picture))
                seen = join(made_ready)
            answered = self.answers(seen, texts)
            found += map(self._prediction, answered.probabilities, answered.labels)
        return found

    def _said(self, caption: str | None) -> str:
        text = _text(caption)
        if text is None and not self.looks_at_pictures:
            raise UserError("this model looks at captions alone: give one")
        return text or ""

    def _seen(self, picture: Picture | None) -> np.ndarray | Image.Image:
        if picture is None or _is_missing(picture):
            raise UserError("this model looks at pictures: give one")
        try:
            return self.look(picture)
        except BadPicture as error:
            raise UserError(f"{error.path} is not a readable picture ({error.reason})") from None

    def _prediction(self, probabilities: np.ndarray, labels: np.ndarray) -> Prediction:
        """Of (L,) each."""
        answered = zip(self.label_names, labels, strict=True)
        by_name = dict(zip(self.label_names, map(float, probabilities), strict=True))
        return Prediction([name for name, answer in answered if answer], by_name)

    def answers(self, seen: Seen | None, captions: Sequence[str]) -> Answered:
        """The answers to pictures as `look` and `join` make them ready, and captions."""
        found = self._logits(seen, captions)
        logits, decided_by = found.cpu().numpy(), found.sigmoid().cpu().numpy()
        probabilities = marginals(decided_by, model=self.settings.model.name)
        if probabilities is not decided_by:
            bounded = np.clip(probabilities, 1e-6, 1 - 1e-6)  # rounded they may be 0 or 1
            logits = np.log(bounded) - np.log1p(-bounded)
        compared = probabilities if self._at_probabilities else decided_by
        return Answered(logits, probabilities, compared >= self.thresholds)

    def probabilities(self, seen: Seen | None, captions: Sequence[str]) -> np.ndarray:
        """Probabilities (B, L) float32 alone, see `answers`."""
        return self.answers(seen, captions).probabilities

    def logits(self, seen: Seen | None, captions: Sequence[str]) -> np.ndarray:
        """What those are the sigmoid of, (B, L) float32."""
        return self.answers(seen, captions).logits

    @torch.inference_mode()
    def _logits(self, seen: Seen | None, captions: Sequence[str]) -> Tensor:
        encoded = self._encode(captions)
        every = np.arange(len(captions))
        batch = Batch(
            image=None if seen is None else self._features(seen),
            tokens=torch.from_numpy(encoded.pad(every)).to(self.device),
            lengths=torch.from_numpy(encoded.lengths),
            targets=torch.zeros(len(captions), len(self._all_names), device=self.device),
            rows=torch.arange(len(captions), device=self.device),
            ids=[],
        )
        logits = self._classifier(batch)[:, self.label_numbers].float()
        if logits.isnan().any():
            raise no_numbers(f"the answers of {self._checkpoint}")
        return logits

    def _encode(self, captions: Sequence[str]) -> EncodedCaptions:
        settings, text = self.settings.captions, self.settings.text_transformer
        none = EncodedCaptions.empty(len(captions))
        if not self.looks_at_captions:
            return none
        if not any(captions):
            self._counts += none.counts
            return none
        if text is not None and self._tokenizer is not None:
            encoded = self._tokenizer.encode(captions, max_length=text.max_length)
        else:
            assert settings is not None
            encoded = encode_texts(captions, self.vocabulary, max_length=settings.max_length)
        self.lacking |= dict.fromkeys(encoded.lacking)
        self._counts += encoded.counts
        return encoded

    def _features(self, seen: Seen) -> Tensor:
        if isinstance(seen, list):
            return torch.from_numpy(self._detector.scores(seen)).to(self.device)  # (B, num_labels)
        if self.settings.looks_at_cells and self._backbone.trunk is None:
            return seen.to(self.device)  # (B, 3, H, W): nothing of it is frozen
        return self._extract(seen.to(self.device))  # (B, F)

    @cached_property
    def _detector(self):
        from mmlabel.models.detectors import detector_digest, load_detector

        assert self.settings.detector is not None
        options = self.settings.detector.model_dump()
        detector = load_detector(**options, label_names=self._all_names)
        then = self._inputs.get(DETECTOR_ALONE)  # earlier versions did not record it
        if then not in (None, detector_digest(detector.key())):
            raise UserError(
                f"{self._checkpoint} was trained on the scores of a detector that has other weights"
                f" now: then {self.pretrained.get('detector')}, now {detector.name},"
                f" {detector.weights_used}; restore them, or train anew"
            )
        detector.load()
        return detector

    @cached_property
    def _extract(self) -> Extract:
        settings, features = self.settings, self.settings.features
        precision = self._backbone.precision
        build = partial(build_extract, self._backbone, device=self.device, size=settings.data.view)
        if self._fastest and features is not None:
            try:
                return build(
                    choose_engine(features.engine, precision=precision, device=self.device)
                )
            except NoOpenVino as error:
                # An option chooses torch for a run; here it is what is left.
                say(printable(f"torch computes the features, more slowly: {error.reason}"))
        return build(Engine("torch", precision))

    @property
    def _backbone(self) -> Backbone:
        backbone = self._classifier.get_submodule("network.encoders.image.backbone")
        assert isinstance(backbone, Backbone)
        return backbone


def _as_list(values: Any, *, pixels: bool = False) -> Any:
    """The list of what a column or an array holds; anything else as it is.

    With `pixels` an array of numbers is a picture and no list. A column is known by its `to_list`,
    so that no library of tables has to be there.
    """
    if isinstance(values, np.ndarray):
        return values if pixels and values.dtype.kind not in "OUT" else values.tolist()
    return values.to_list() if hasattr(values, "to_list") else values


def _is_missing(value: object) -> bool:
    """Whether it is what tables have in an empty cell: None, NaN or pandas' NA."""
    number = isinstance(value, float | np.floating)
    return value is None or type(value).__name__ == "NAType" or (number and bool(np.isnan(value)))


@contextmanager
def _named(row: int, rows: int) -> Iterator[None]:
    """A mistake in one of several rows names it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"row {row} of {rows}: {error}" if rows > 1 else str(error)) from error


def _text(caption: object) -> str | None:
    if _is_missing(caption):
        return None
    if not isinstance(caption, str):
        raise UserError(
            f"a caption is {_shown(caption)}, no text: give a str, or None where there is none"
        )
    return caption


def _shown(value: object) -> str:
    return f"{reprlib.repr(value)} ({type(value).__name__})"


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, TypeError, AssertionError) as error:  # each of some of torch's devices
        raise UserError(f"device={name!r} cannot be used: {first_line(error)}") from None


def join(looks: Iterable[np.ndarray | Image.Image]) -> Seen:
    """What a network is given of several pictures."""
    views = [look for look in looks if isinstance(look, np.ndarray)]
    return (
        stack_views(views) if views else [look for look in looks if isinstance(look, Image.Image)]
    )
