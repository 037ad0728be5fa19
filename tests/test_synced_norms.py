"""Norms of all processes' rows: a network computes what it did, and is itself again afterwards."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmlabel.lightning.callbacks import quiet_lightning
from mmlabel.lightning.synced_norms import SyncedNorms
from mmlabel.lightning.trainer import build_trainer
from mmlabel.models.backbones import build_backbone
from mmlabel.models.weights import resolve_weights


def norms(model: nn.Module) -> dict[str, type]:
    return {
        name: type(part) for name, part in model.named_modules() if isinstance(part, _BatchNorm)
    }


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
@pytest.mark.parametrize("how", [{"frozen": False}, {"unfreeze": 2}, {"cells": True}])
def test_a_backbone_computes_the_same_before_and_after(name: str, how: dict[str, bool | int]):
    weights = resolve_weights(name=name, weights="none")
    backbone = build_backbone(name=name, weights=weights, shape=(32, 32), **how)  # type: ignore[arg-type]
    model = nn.ModuleDict({"image": backbone, "norm": nn.BatchNorm1d(3)}).eval()
    pictures = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    live, before, named = backbone(pictures), norms(model), list(model.state_dict())
    assert before

    sync = SyncedNorms()
    assert sync.apply(model) is model
    assert all(issubclass(kind, nn.SyncBatchNorm) for kind in norms(model).values())
    for part in backbone.cut_parts:
        assert all(issubclass(kind, nn.SyncBatchNorm) for kind in norms(part).values())
    torch.testing.assert_close(backbone(pictures), live)
    assert list(model.state_dict()) == named

    # What training changes is the norms' own afterwards; moving to a device replaces buffers.
    synced = model["norm"]
    synced.running_mean = torch.full((3,), 2.0)  # type: ignore[union-attr]
    assert sync.revert(model) is model
    assert norms(model) == before and list(model.state_dict()) == named
    assert model["norm"].running_mean.tolist() == [2.0, 2.0, 2.0]
    for part in backbone.cut_parts:
        assert not any(issubclass(kind, nn.SyncBatchNorm) for kind in norms(part).values())
    torch.testing.assert_close(backbone(pictures), live)


def test_a_cut_backbone_has_one_norm_of_each():
    name = "efficientnet_lite0"
    weights = resolve_weights(name=name, weights="none")
    backbone = build_backbone(name=name, weights=weights, unfreeze=1, shape=(32, 32))
    SyncedNorms().apply(backbone)
    own = set(backbone.network.modules())
    found = [m for part in backbone.cut_parts for m in part.modules() if isinstance(m, _BatchNorm)]
    assert found and own.issuperset(found)


def test_the_option_asks_for_them(settings_of, tmp_path):
    from mmlabel.parts import build

    quiet_lightning()
    for asked in (False, True):
        option = f"trainer.sync_batchnorm={str(asked).lower()}"
        settings = settings_of("model=image_only", option, "trainer.devices=2", "trainer=ddp")
        prepared = build(settings, None, wandb_id=None).prepared
        trainer = build_trainer(settings, prepared, folder=tmp_path, loggers=[], resumed_from=None)
        assert isinstance(trainer.strategy._layer_sync, SyncedNorms) is asked
