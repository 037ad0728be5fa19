"""Networks that turn a picture into a feature vector (report section 3.1.2)."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from mmlabel.errors import UserError, first_line
from mmlabel.models.backbone_table import Pooling
from mmlabel.models.picture_networks import BackboneInfo, backbone_info, network_with_weights
from mmlabel.models.side_by_side import Look, SideBySide
from mmlabel.models.stages import flat, split, unflat, with_cells
from mmlabel.models.weights import ResolvedWeights

Precision = Literal["float32", "bfloat16"]


class Backbone(nn.Module):
    """A picture network without its classifier, which normalises its own input.

    A frozen backbone takes no gradients and stays in eval mode whatever `train()` is called on it
    or its parents, so that its batch-norm statistics are those of its weights (the report's code
    meant to freeze it but set `require_grad`). Its last stages may be trained all the same, on
    maps: what the frozen ones before them, the trunk, make of a picture.

    Args:
        network: maps normalised pictures (B, 3, S, S) to features (B, F).
        info: its width, normalisation and picture size.
        frozen: whether it is a fixed feature extractor.
        unfreeze: of a frozen one, how many of the last stages are trained.
        cells: whether the map that features are pooled from is wanted, too. Of a frozen one it is
            then the trunk that gives it.
        shape: height and width of its pictures, which the shape of maps depends on; only asked for
            with `unfreeze` or `cells`.
        precision: in which `as_stored` computes.

    Attributes:
        cell_features: C, numbers a cell; 0 without `cells`.

    Raises UserError for stages that cannot be trained apart, and for cells of a network without.
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor

    def __init__(
        self,
        *,
        network: nn.Module,
        info: BackboneInfo,
        frozen: bool,
        unfreeze: int = 0,
        cells: bool = False,
        shape: tuple[int, int] | None = None,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        # Convolutions on the CPU are about a third faster in this layout.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.info = info
        self.out_features = info.out_features
        self.frozen = frozen
        self.unfreeze = unfreeze
        self.precision: Precision = precision
        # They go into checkpoints: another version of timm may say else of a model.
        self.register_buffer("mean", torch.tensor(info.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(info.std).view(3, 1, 1))
        if frozen:
            self.requires_grad_(False)
        # In a tuple, as they are no further parts: their weights are the network's.
        self._cut: tuple[Trunk | None, nn.Module] | None = None
        name = info.title
        if unfreeze or (cells and frozen):
            if isinstance(network, SideBySide):
                cut = network.split(trained=unfreeze)
            else:
                cut = split(self.network, trained=unfreeze, name=name, cells=cells)
            cut.tail.requires_grad_(unfreeze > 0)
            self._cut = (Trunk(self, cut.trunk, shape or (224, 224)), cut.tail)
        elif cells:
            self._cut = (None, with_cells(self.network, name=name))
        self.cell_features = 0
        if cells:
            self.eval()
            with torch.no_grad():
                found = self.look(torch.zeros(1, 3, *(shape or (224, 224))))[1]
            assert found is not None
            self.cell_features = found.shape[1]
        self.train(not frozen)

    @property
    def trunk(self) -> "Trunk | None":
        """From pictures to maps, each in one row; None: features are all that is wanted of them."""
        return self._cut and self._cut[0]

    @property
    def cut_parts(self) -> list[nn.Module]:
        """The parts of one that is cut, which share its weights and are no modules of its own."""
        return [part for part in self._cut or () if part is not None]

    def train(self, mode: bool = True) -> "Backbone":
        """As for every module, except that what is frozen stays in eval mode."""
        super().train(mode and not self.frozen)
        if self._cut and self.unfreeze:
            self._cut[1].train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), uint8 or float in 0..255, to features (B, F) float32.

        In place of pictures it takes the rows (B, trunk.width), in any precision, that `trunk` made
        of them.
        """
        return self.look(images)[0]

    def look(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """What `forward` takes to features (B, F) and cells (B, C, H', W'), both float32.

        There are no cells unless they were asked for.
        """
        if self._cut is None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                return self.network(self.normalised(image)).float(), None
        trunk, tail = self._cut
        if trunk is None:
            seen = tail(self.normalised(image))
        else:
            rows = trunk(image) if image.ndim == 4 else image
            seen = tail(*trunk.maps(rows.float()))
        if isinstance(seen, Tensor):
            return seen.float(), None
        features, cells = seen
        return features.float(), cells.float()

    def as_stored(self, images: Tensor) -> Tensor:
        """What a store has of pictures (B, 3, H, W) for a frozen one: maps (B, trunk.width), or
        features (B, F) where it has no trunk."""
        lower, device = self.precision == "bfloat16", images.device.type
        # As the store's are computed, whatever the precision of training is (bf16-mixed). A context
        # that changes nothing is left out: an export cannot take it in.
        changed = lower or torch.is_autocast_enabled(device)
        with torch.autocast(device, torch.bfloat16, enabled=lower) if changed else nullcontext():
            return (self.trunk or self)(images)

    def normalised(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..255 as the network takes them."""
        size = self.info.picture_size
        if size is not None and images.shape[-2:] != (size, size):
            raise UserError(
                f"backbone {self.info.title} takes pictures of {size}x{size} px only, not "
                f"{images.shape[-2]}x{images.shape[-1]}: resize them or choose another backbone"
            )
        images = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last)


class Trunk(nn.Module):
    """The frozen stages of a backbone, from pictures to maps.

    Args:
        backbone: whose pictures and weights they are.
        stages: from normalised pictures (B, 3, H, W) to maps of any shape (B, ...), one for each
            look of several.
        size: H and W, which the shape of the maps depends on.

    Attributes:
        shapes: of one picture's maps, (C, H', W') each or, of a transformer, (T, C); of a look that
            is not trained, (F,).
        width: how many numbers that are.
    """

    def __init__(self, backbone: Backbone, stages: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.stages = stages
        self._normalised = backbone.normalised
        self._beside = isinstance(backbone.network, SideBySide)
        stages.eval()
        maps = self._maps(torch.zeros(1, 3, *size))
        if not all(isinstance(each, Tensor) for each in maps):
            raise UserError(
                f"backbone.unfreeze: {backbone.info.title} hands more"
                " than one map from stage to stage; backbone.frozen=false trains all of it"
            )
        self.shapes = [tuple(each.shape[1:]) for each in maps]
        self._widths = [each[0].numel() for each in maps]
        self.width = sum(self._widths)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), uint8 or float in 0..255, to rows (B, width)."""
        return torch.cat([flat(each) for each in self._maps(images)], dim=1)

    def maps(self, rows: Tensor) -> list[Tensor]:
        """The maps that rows (B, width) were made of."""
        parts = rows.split(self._widths, dim=1)
        return [unflat(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _maps(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            maps = self.stages(self._normalised(images))
        return maps if self._beside else (maps,)


def side_by_side(infos: Sequence[BackboneInfo], *, pyramid: int = 1) -> BackboneInfo:
    """What is to be known of backbones side by side; of a single one, its own.

    Args:
        infos: of each backbone.
        pyramid: in how many sizes each looks at a picture.

    Raises UserError for those that take pictures of one size each, and not the same.
    """
    first = infos[0]
    if len(infos) == 1 and pyramid == 1:
        return first
    if pyramid > 1:
        for info in infos:
            if info.picture_size is not None:
                raise UserError(
                    f"backbone.pyramid={pyramid}: {info.title} takes pictures of"
                    f" {info.picture_size} px only, and is to see them in {pyramid} sizes: choose"
                    " another backbone, or leave the option out"
                )
    sizes = {info.picture_size for info in infos} - {None}
    if len(sizes) > 1:
        first, *_, last = (info for info in infos if info.picture_size)
        raise UserError(
            f"backbone.beside: {first.title} takes pictures of {first.picture_size} px only and"
            f" {last.title} of {last.picture_size} px: choose two that take the same"
        )
    return replace(
        first,
        out_features=pyramid * sum(info.out_features for info in infos),
        picture_size=next(iter(sizes), None),
        parts=tuple(infos) if len(infos) > 1 else (),
        pyramid=pyramid,
    )


def build_backbone(
    *,
    name: str,
    model_name: str | None = None,
    pooling: Pooling = "mean",
    weights: ResolvedWeights,
    beside: Sequence[tuple[BackboneInfo, ResolvedWeights]] = (),
    pyramid: int = 1,
    frozen: bool = True,
    unfreeze: int = 0,
    cells: bool = False,
    shape: tuple[int, int] | None = None,
    precision: Precision = "float32",
    seed: int = 0,
) -> Backbone:
    """A backbone with its weights.

    Args:
        name, model_name, pooling: as for `backbone_info`.
        weights: as `resolve_weights` found them.
        beside: others, whose features follow its own.
        pyramid: in how many sizes each looks at a picture, every one half of the next; the smallest
            comes first, and is the one that `unfreeze` is about.
        frozen, unfreeze, cells, shape, precision: see `Backbone`.
        seed: of random weights; the same seed gives the same weights, and the caller's random
            state is left alone.

    Raises:
        UserError: an unknown model of timm's, weights that do not fit, a shape too small for it, or
            one size where several are asked for.
    """
    first = backbone_info(name=name, model_name=model_name, pooling=pooling)
    parts = [(first, weights), *beside]
    info = side_by_side([info for info, _ in parts], pyramid=pyramid)
    networks = [network_with_weights(info, found, seed=seed) for info, found in parts]
    network = networks[0]
    if beside or pyramid > 1:
        looks = []
        for (own, _), each in zip(parts, networks, strict=True):
            smallest = Look(each, own.title, own.mean, own.std, shrink=2 ** (pyramid - 1))
            # Stages that learn from the smallest are no longer pretrained ones for the others.
            again = copy.deepcopy(each) if unfreeze and pyramid > 1 else each
            larger = [2**level for level in reversed(range(pyramid - 1))]
            looks.append(smallest)
            looks += [smallest._replace(network=again, shrink=n, trained=False) for n in larger]
        network = SideBySide(looks)
    small = shape if shape and is_small(shape, pyramid=pyramid) else None
    try:
        backbone = Backbone(
            network=network,
            info=info,
            frozen=frozen,
            unfreeze=unfreeze,
            cells=cells,
            shape=shape,
            precision=precision,
        )
        if small is not None:
            _look_once(backbone, small)
    except RuntimeError as error:
        if small is None:
            raise
        raise UserError(
            f"backbone {info.title} cannot look at pictures of {small[0]}x{small[1]} px"
            f" ({first_line(error)}): give a larger data.image_size"
        ) from error
    return backbone


_SMALL = 64  # px; most networks halve a picture five times, and one more may be left to a kernel


def is_small(shape: tuple[int, int], *, pyramid: int) -> bool:
    """Whether pictures of this shape, the smallest of several, may be too small for a network."""
    return min(shape) // 2 ** (pyramid - 1) < _SMALL


def _look_once(backbone: Backbone, shape: tuple[int, int]) -> None:
    training = backbone.training
    backbone.eval()  # batch norms learn nothing from it, and need no second picture
    with torch.no_grad():
        backbone(torch.zeros(1, 3, *shape, dtype=torch.uint8))
    backbone.train(training)
