"""Several looks at a picture, by other networks or in other sizes, their features in a row."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmlabel.models.stages import Split, split


class Look(NamedTuple):
    """One network's look at a picture.

    Attributes:
        network: maps normalised pictures (B, 3, H, W) to features (B, F).
        name: of the network, for messages.
        mean, std: how it wants its pictures normalised, of each channel, in 0..1.
        shrink: how many times smaller it sees them.
        trained: whether its last stages are trained, where any are.
    """

    network: nn.Module
    name: str
    mean: Sequence[float]
    std: Sequence[float]
    shrink: int = 1
    trained: bool = True


class SideBySide(nn.Module):
    """Networks whose features stand side by side, the same one more than once if it looks again.

    Args:
        looks: in the order of their features; pictures come normalised as the first one wants them.
    """

    def __init__(self, looks: Sequence[Look]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(look.network for look in looks)
        self._looks = [look._replace(network=nn.Identity()) for look in looks]
        first = looks[0]
        for number, own in enumerate(looks):
            scale = torch.tensor(first.std) / torch.tensor(own.std)
            shift = (torch.tensor(first.mean) - torch.tensor(own.mean)) / torch.tensor(own.std)
            for name, value in (("scale", scale), ("shift", shift)):
                self.register_buffer(f"_{name}{number}", value.view(3, 1, 1))

    def views(self, pictures: Tensor) -> list[Tensor]:
        """The pictures (B, 3, H, W) as each of the networks wants them."""
        views = []
        for number, look in enumerate(self._looks):
            seen = pictures
            if look.shrink > 1:
                seen = functional.avg_pool2d(seen, look.shrink)
            if number:
                scale, shift = (self.get_buffer(f"_{name}{number}") for name in ("scale", "shift"))
                seen = seen * scale + shift
            views.append(seen)
        return views

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to features (B, F1 + F2 + ...)."""
        views = self.views(pictures)
        return torch.cat([part(x) for part, x in zip(self.parts, views, strict=True)], dim=1)

    def split(self, *, trained: int) -> Split:
        """Cut each network that is trained before its last `trained` stages, see `stages.split`.

        The trunk gives a map of each of them, and features of the others; the tail takes these.
        """
        cuts = [
            split(part, trained=trained, name=look.name)
            if look.trained
            else Split(part, nn.Identity())
            for part, look in zip(self.parts, self._looks, strict=True)
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
