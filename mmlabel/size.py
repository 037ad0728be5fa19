"""What a prediction needs, and how large it is, part by part."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from mmlabel.errors import UserError
from mmlabel.lightning.half_precision import TRANSFORMER

if TYPE_CHECKING:
    from mmlabel.data.captions import Vocabulary
    from mmlabel.data.feature_store import PictureScorer
    from mmlabel.data.subwords import Subwords
    from mmlabel.models.frozen_weights import FrozenWeights

# Where in the network, or in a member of an ensemble, a part's weights are; the first that fits
# names it.
_PARTS = {
    "encoders.image.backbone": "backbone",
    "encoders.image": "image projection",
    "encoders.caption.embedding": "word vectors",
    "encoders.caption.transformer": "text transformer",
    "encoders.caption": "caption encoder",
    "join": "fusion",
    "head": "head",
    "": "network",
}
_MEMBER = re.compile(r"^members\.\d+\.")
_TRAINING_ONLY = "auxiliary"  # classifiers, which no prediction asks


@dataclass(frozen=True)
class Size:
    """Of one part: its number of weights, and megabytes (10^6 bytes) with its buffers."""

    parameters: int = 0
    megabytes: float = 0.0

    def __add__(self, other: Size) -> Size:
        return Size(self.parameters + other.parameters, self.megabytes + other.megabytes)


def sizes(
    network: nn.Module,
    *,
    backbone: FrozenWeights | None = None,
    detector: PictureScorer | None = None,
    vocabulary: Vocabulary | None = None,
    tokenizer: Subwords | None = None,
    width: int | None = None,
    half_text: bool = False,
) -> dict[str, Size]:
    """The size of each part that a prediction needs, by its name, in the precision it is kept in.

    Args:
        network: of the run.
        backbone: of the one that gave its features, where they stand in for pictures.
        detector: that gave its scores.
        vocabulary: the words whose vectors the network has.
        tokenizer: of its text transformer.
        width: bytes to which training will bring the network's numbers; None: as they are.
        half_text: whether the finished checkpoint keeps its text transformer's in 16 bits.
    """
    found: dict[str, Size] = {}
    for name, size in _tensors(
        network, lambda name: 2 if half_text and TRANSFORMER in name else width
    ):
        name = _MEMBER.sub("", name)
        if not name.startswith(_TRAINING_ONLY):
            part = next(part for place, part in _PARTS.items() if name.startswith(place))
            found[part] = found.get(part, Size()) + size
    if backbone is not None:
        for tensors, weights in ((backbone.parameters, True), (backbone.buffers, False)):
            for tensor in tensors.values():
                own = _size(tensor, weights=weights)
                found["backbone"] = found.get("backbone", Size()) + own
    if detector is not None:
        found["detector"] = Size(detector.parameters, detector.megabytes)
    if vocabulary is not None and "word vectors" in found:
        texts = [*vocabulary.words, *(vocabulary.forms or {})]
        found["words"] = Size(megabytes=sum(len(text.encode()) for text in texts) / 1e6)
    if tokenizer is not None:
        found["tokenizer"] = Size(megabytes=len(tokenizer.definition.encode()) / 1e6)
    return found


def _tensors(
    module: nn.Module, width_of: Callable[[str], int | None]
) -> Iterator[tuple[str, Size]]:
    kept = module.state_dict(keep_vars=True)  # not the training rows' label order and the like
    for names, weights in ((module.named_parameters(), True), (module.named_buffers(), False)):
        for name, tensor in names:
            if name not in kept:
                continue
            yield name, _size(tensor, weights=weights, width=width_of(name))


def _size(tensor: Tensor, *, weights: bool, width: int | None = None) -> Size:
    if width is None or not tensor.is_floating_point():
        width = tensor.element_size()
    return Size(tensor.numel() * weights, tensor.numel() * width / 1e6)


def check_size(found: Mapping[str, Size], *, limit: float) -> None:
    """Raise UserError, naming the parts, where all of them have more than `limit` megabytes."""
    total = sum(found.values(), Size()).megabytes
    if total <= limit:
        return
    largest = sorted(found.items(), key=lambda item: -item[1].megabytes)
    parts = [f"{part} {size.megabytes:.1f}" for part, size in largest if size.megabytes >= 0.05]
    raise UserError(
        f"max_megabytes={limit:g}: what a prediction needs has {total:.1f} MB"
        f" ({', '.join(parts)}): choose smaller parts, such as backbone=efficientnet_lite0, or a"
        " higher limit"
    )
