"""Batch norms whose statistics are of all processes' rows (`trainer.sync_batchnorm`)."""

from collections.abc import Iterator

from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmlabel.models.backbones import Backbone


class SyncedNorms(TorchSyncBatchNorm):
    """Lightning's way, which does not do for timm's networks and for cut ones.

    timm's norms are followed by an activation of their own, which torch's conversion leaves out,
    and a backbone that is cut holds its norms in its parts, too, where they must be the same ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self._synced: dict[nn.Module, nn.Module] = {}  # by what each stands for

    def apply(self, model: nn.Module) -> nn.Module:
        """Put a synchronised norm in the place of each norm."""
        for parent, name, part in _places(model):
            if isinstance(part, _BatchNorm) and not isinstance(part, nn.SyncBatchNorm):
                if part not in self._synced:
                    self._synced[part] = _converted(part)
                parent.add_module(name, self._synced[part])
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the norms of before back, with what they have learned meanwhile."""
        former: dict[nn.Module, nn.Module] = {new: norm for norm, new in self._synced.items()}
        for synced, norm in former.items():
            for name, value in synced.named_parameters(recurse=False):
                norm.register_parameter(name, value)
            for name, value in synced.named_buffers(recurse=False):
                norm.register_buffer(name, value)
            norm.train(synced.training)
        for parent, name, part in _places(model):
            if part in former:
                parent.add_module(name, former[part])
        self._synced.clear()
        return model


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Every part with its name in what holds it, also in the parts of a backbone that is cut."""
    backbones = [part for part in model.modules() if isinstance(part, Backbone)]
    cuts = [part for backbone in backbones for part in backbone.cut_parts]
    for root in (model, *cuts):
        for parent in list(root.modules()):
            for name, part in list(parent._modules.items()):
                if part is not None:
                    yield parent, name, part


def _converted(norm: nn.Module) -> nn.Module:
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    if type(norm).__module__.startswith("timm."):
        from timm.layers.norm_act import convert_sync_batchnorm as convert
    return convert(norm).train(norm.training)  # which early versions of timm leave out
