"""Random changes of training pictures, drawn anew in every epoch; torchvision makes them.

crop: a random part of 50 to 100 per cent of the area, brought to the view's size (Szegedy et al.
2015). rand: RandAugment, two random operations of middling strength (Cubuk et al. 2020). erase:
in half of the pictures a random rectangle is black, as in cutout (Zhong et al. 2020).
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmlabel.data.transforms import Size, shape_of

Change = Literal["crop", "rand", "erase"]


def augmentation(changes: Sequence[Change], *, size: Size) -> Callable[[Tensor], Tensor]:
    """A function from a picture (3, H, W) uint8 of this size to a changed one of the same shape.

    It draws from torch's random state.
    """
    from torchvision.transforms import v2  # takes a second to import, and few runs need it

    every: dict[str, nn.Module] = {
        "crop": v2.RandomResizedCrop(shape_of(size), scale=(0.5, 1.0), antialias=True),
        "rand": v2.RandAugment(),
        "erase": v2.RandomErasing(),
    }
    # A rectangle is taken out of what the network sees, so after the other changes.
    return nn.Sequential(*(module for name, module in every.items() if name in changes))


def augmented(pictures: Tensor, draws: Sequence[int], change: Callable[[Tensor], Tensor]) -> Tensor:
    """Pictures (B, 3, H, W) uint8, each changed as its number of `draws` says."""
    changed = torch.empty_like(pictures)
    with torch.random.fork_rng(devices=[]):
        for at, draw in enumerate(draws):
            torch.default_generator.manual_seed(draw)
            changed[at] = change(pictures[at])
    return changed
