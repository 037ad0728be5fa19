"""Several picture networks that look at the same picture, their features one after the other."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmlabel.models.stages import Split, split


class Colours(NamedTuple):
    """How a network wants its pictures normalised: mean and deviation of each channel, in 0..1."""

    mean: Sequence[float]
    std: Sequence[float]


class SideBySide(nn.Module):
    """Networks whose features stand side by side.

    Args:
        networks: each maps normalised pictures (B, 3, H, W) to features (B, Fi).
        colours: of each; pictures come normalised as the first one wants them.
    """

    def __init__(self, networks: Sequence[nn.Module], colours: Sequence[Colours]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(networks)
        first = colours[0]
        for number, own in enumerate(colours):
            scale = torch.tensor(first.std) / torch.tensor(own.std)
            shift = (torch.tensor(first.mean) - torch.tensor(own.mean)) / torch.tensor(own.std)
            for name, value in (("scale", scale), ("shift", shift)):
                self.register_buffer(f"_{name}{number}", value.view(3, 1, 1), persistent=False)

    def views(self, pictures: Tensor) -> list[Tensor]:
        """The pictures (B, 3, H, W) as each of the networks wants them."""
        numbers = range(1, len(self.parts))
        scales = [(self.get_buffer(f"_scale{n}"), self.get_buffer(f"_shift{n}")) for n in numbers]
        return [pictures, *(pictures * scale + shift for scale, shift in scales)]

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to features (B, F1 + F2 + ...)."""
        views = self.views(pictures)
        return torch.cat([part(x) for part, x in zip(self.parts, views, strict=True)], dim=1)

    def split(self, *, trained: int, names: Sequence[str]) -> Split:
        """Cut each network before its last `trained` stages, see `stages.split`.

        The trunk gives a map for each of them, and the tail takes these.
        """
        cuts = [
            split(part, trained=trained, name=name)
            for part, name in zip(self.parts, names, strict=True)
        ]
        return Split(_Trunks(self, [cut.trunk for cut in cuts]), _Tails([cut.tail for cut in cuts]))


class _Trunks(nn.Module):
    def __init__(self, whole: SideBySide, trunks: Sequence[nn.Module]) -> None:
        super().__init__()
        self._whole = whole
        self.trunks = nn.ModuleList(trunks)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        views = self._whole.views(pictures)
        return tuple(trunk(x) for trunk, x in zip(self.trunks, views, strict=True))


class _Tails(nn.Module):
    def __init__(self, tails: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tails = nn.ModuleList(tails)

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat([tail(x) for tail, x in zip(self.tails, maps, strict=True)], dim=1)
