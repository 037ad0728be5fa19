"""Attention of labels over cells: by hand, and as a part of networks."""

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from mmlabel.errors import UserError
from mmlabel.models.attention import ATTENTIONS, Query, Residual
from mmlabel.models.backbones import build_backbone
from mmlabel.models.fusion import ImageEncoder
from mmlabel.models.stages import flat, split, unflat, with_cells
from mmlabel.models.weights import resolve_weights
from mmlabel.parts import build

timm = pytest.importorskip("timm")

NETWORKS = ("tf_efficientnet_lite0", "convnext_atto", "regnetx_002", "resnet18", "vgg11")


def test_residual_attention_of_two_cells_by_hand():
    attention = Residual(features=1, num_labels=2, temperature=2.0)
    with torch.no_grad():
        attention.classifier.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        attention.classifier.bias.copy_(torch.tensor([0.0, 0.5]))
    cells = torch.tensor([[[[0.0, 1.0]]]])  # (1, 1, 1, 2)
    # Scores of label 0: 0 and 1, weights 1 : e^2; of label 1: 0.5 and -0.5, weights e^2 : 1.
    e2 = torch.e**2
    expected = [[e2 / (1 + e2), 0.5 * (e2 - 1) / (1 + e2)]]
    torch.testing.assert_close(attention(cells), torch.tensor(expected))


def test_the_sharper_the_attention_the_nearer_to_the_highest_cell():
    torch.manual_seed(0)
    cells = torch.randn(3, 5, 4, 6)
    attention = Residual(features=5, num_labels=7, temperature=1e4)
    highest = attention.classifier(cells.flatten(2).transpose(1, 2)).amax(dim=1)
    torch.testing.assert_close(attention(cells), highest)


def test_a_query_finds_its_cells_as_the_slow_way_does():
    attention, cells = Query(features=5, num_labels=3, width=4), torch.randn(2, 5, 2, 3)
    expected = torch.zeros(2, 3)
    for row in range(2):
        columns = [cells[row, :, y, x] for y in range(2) for x in range(3)]
        for label in range(3):
            query = attention.queries[label]
            match = torch.stack([query @ attention.keys(column) / 2 for column in columns])
            values = torch.stack([attention.values(column) for column in columns])
            expected[row, label] = match.softmax(0) @ values @ attention.classifiers[label]
    torch.testing.assert_close(attention(cells), expected)


def network_of(name: str) -> nn.Module:
    if name in ("resnet18", "vgg11"):
        return get_model(name, weights=None).eval()
    return timm.create_model(name, num_classes=0).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_cells_are_what_features_are_pooled_from_wherever_the_network_is_cut(name: str):
    network = network_of(name)
    pictures = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features, cells = with_cells(network, name="it")(pictures)
        torch.testing.assert_close(features, network(pictures))
        assert cells.ndim == 4 and cells.shape[2] * cells.shape[3] > 1
        for trained in (0, 1, 2):
            cut = split(network, trained=trained, name="it", cells=True)
            maps = cut.trunk(pictures)
            again = unflat(flat(maps), tuple(maps.shape[1:]))
            torch.testing.assert_close(cut.tail(again), (features, cells), rtol=1e-4, atol=1e-5)
    if name == "tf_efficientnet_lite0":  # nothing but the mean follows here
        torch.testing.assert_close(cells.mean(dim=(2, 3)), features)


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("frozen, unfreeze", [(True, 0), (True, 1), (False, 0)])
def test_scores_stand_beside_the_features_and_learn(kind: str, frozen: bool, unfreeze: int):
    weights = resolve_weights(name="resnet18", weights="none")
    backbone = build_backbone(
        name="resnet18",
        weights=weights,
        frozen=frozen,
        unfreeze=unfreeze,
        cells=True,
        shape=(64, 96),
    )
    attention = ATTENTIONS[kind](features=backbone.cell_features, num_labels=6)
    criterion, targets = nn.BCEWithLogitsLoss(), torch.eye(3, 6)
    encoder = ImageEncoder(features=512, backbone=backbone, attention=attention)
    pictures = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    encoder.eval()
    encoding = encoder(pictures)
    assert encoding.shape == (3, encoder.out_features) == (3, 518)
    torch.testing.assert_close(encoding[:, :512], backbone(pictures))
    if backbone.trunk is not None:  # of a frozen one, the stored map gives the same
        torch.testing.assert_close(encoder(backbone.trunk(pictures)), encoding)
    assert encoder.own_loss(criterion, targets) == 0  # nothing is learned of what is only scored

    encoder.train()
    encoding = encoder(pictures)
    assert encoding[:, :512].requires_grad == (not frozen or unfreeze > 0)
    if encoding.requires_grad:  # what follows the scores teaches them nothing
        own, after = list(attention.parameters()), encoding[:, 512:].sum()
        slopes = torch.autograd.grad(after, own, allow_unused=True, retain_graph=True)
        assert slopes == (None,) * len(own)
    loss = encoder.own_loss(criterion, targets)
    torch.testing.assert_close(loss, criterion(encoding[:, 512:], targets))
    loss.backward()
    assert all(p.grad is not None for p in attention.parameters())
    trained = [p for p in backbone.parameters() if p.requires_grad]
    assert bool(trained) == (not frozen or unfreeze > 0)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained if p.ndim > 1)
    assert encoder.own_loss(criterion, targets) == 0  # once


@pytest.mark.parametrize("model", ["image_only", "fusion", "ensemble", "decoder"])
def test_every_network_learns_its_attention(model: str, settings_of):
    """The loss of a network is what it was, and that of the scores."""
    options = ["backbone=resnet18", "backbone.attention=residual", "features=off"]
    run = build(settings_of(*options, f"model={model}"), None, wandb_id=None)
    run.data.setup("fit")
    network, batch = run.classifier.network.train(), next(iter(run.data.train_dataloader()))
    image = network.encoders["image"]
    criterion = run.classifier.criterion

    def losses(own: bool) -> float:
        torch.manual_seed(0)
        if own:
            return network.loss(batch, criterion).item()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ImageEncoder, "own_loss", lambda *_: 0.0)
            return network.loss(batch, criterion).item()

    torch.manual_seed(0)
    image.train()
    scores = image.features_of(batch.image)[:, image.features :]
    image.own_loss(criterion, batch.targets)
    expected = losses(own=False) + criterion(scores, batch.targets, batch.known).item()
    assert losses(own=True) == pytest.approx(expected, rel=1e-5)


def test_a_network_without_cells_is_refused():
    weights = resolve_weights(name="timm", model_name="vit_tiny_patch16_224", weights="none")
    with pytest.raises(UserError, match="backbone.attention, .* does not pool one map of cells"):
        build_backbone(name="timm", model_name="vit_tiny_patch16_224", weights=weights, cells=True)
