"""A frozen backbone's weights, kept so that a run on stored features need not build the network.

Its finished best.ckpt holds the backbone all the same. To import timm and build the network for
that alone takes most of a second.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FrozenWeights:
    """The entries of a network's state dict, by their names in it.

    Attributes:
        parameters: its weights.
        buffers: such as the statistics of batch norms.
        again: those of a part that is used in several places, under its further names.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    again: dict[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        """All of them."""
        return self.parameters | self.buffers | self.again


def weights_of(network: nn.Module) -> FrozenWeights:
    """Those of a network."""
    state = network.state_dict()
    parameters = {name: state.pop(name) for name, _ in network.named_parameters()}
    buffers = {name: state.pop(name) for name, _ in network.named_buffers() if name in state}
    return FrozenWeights(parameters, buffers, again=state)


def pack(weights: FrozenWeights) -> dict[str, np.ndarray] | None:
    """As arrays, for `cache.kept`; None if some have several names, as they would become copies."""
    if weights.again:
        return None
    kinds = (("parameters", weights.parameters), ("buffers", weights.buffers))
    return {
        f"{kind}/{name}": value.cpu().numpy()
        for kind, named in kinds
        for name, value in named.items()
    }


def unpack(arrays: dict[str, np.ndarray]) -> FrozenWeights:
    """What `pack` made arrays of."""
    found = FrozenWeights({}, {}, {})
    for key, array in arrays.items():
        kind, _, name = key.partition("/")
        getattr(found, kind)[name] = torch.from_numpy(array)
    return found
