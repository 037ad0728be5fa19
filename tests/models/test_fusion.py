"""Late fusion: derived widths, both kinds of image input, gradients, masked targets."""

import pytest
import torch
from torch import Tensor, nn

from mmlabel.criterion import MeanOverKnown
from mmlabel.data.batches import Batch
from mmlabel.errors import UserError
from mmlabel.losses import Bce
from mmlabel.models.backbones import Backbone, build_backbone
from mmlabel.models.caption_encoder import CaptionEncoder
from mmlabel.models.encoder import Encoder
from mmlabel.models.fusion import Head, ImageEncoder, LateFusion, fused_features
from mmlabel.models.picture_networks import backbone_info
from mmlabel.models.weights import resolve_weights

LABELS = 20
CRITERION = MeanOverKnown(Bce(name="bce"))


def random_backbone(*, frozen: bool = True) -> Backbone:
    weights = resolve_weights(name="resnet18", weights="none")
    return build_backbone(name="resnet18", weights=weights, frozen=frozen)


def captions(**options) -> CaptionEncoder:
    return CaptionEncoder(**({"num_words": 30, "embedding_dim": 7} | options))


def cached(name: str = "resnet18") -> ImageEncoder:
    return ImageEncoder(features=backbone_info(name=name).out_features, backbone=None)


def network(encoders: dict[str, Encoder], **head) -> LateFusion:
    torch.manual_seed(0)
    width = fused_features(encoders)
    head = Head(in_features=width, num_labels=LABELS, **({"hidden": 16} | head))
    return LateFusion(encoders=encoders, head=head)


def batch(image: Tensor | None, rows: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.arange(rows) % 4  # an empty caption among them
    tokens = torch.randint(1, 30, (rows, 5), generator=generator)
    return Batch(
        image=image,
        tokens=tokens.masked_fill(torch.arange(5) >= lengths[:, None], 0),
        lengths=lengths,
        targets=torch.randint(0, 2, (rows, LABELS), generator=generator).float(),
        rows=torch.arange(rows),
        ids=[f"{row}.jpg" for row in range(rows)],
    )


@pytest.mark.parametrize(("name", "width"), [("resnet50", 2304), ("vgg16", 1256)])
def test_the_reports_widths(name: str, width: int) -> None:
    model = network({"image": cached(name), "caption": captions()})
    norm, linear = model.head.layers[0], model.head.layers[1]
    assert model.head.in_features == norm.num_features == linear.in_features == width
    assert [type(layer) for layer in model.head.layers] == [
        nn.BatchNorm1d,
        nn.Linear,
        nn.ReLU,
        nn.BatchNorm1d,
        nn.Dropout,
        nn.Linear,
    ]
    logits = model(batch(torch.rand(4, width - 256)))
    assert logits.shape == (4, LABELS) and logits.isfinite().all()


def test_pictures_and_their_cached_features_give_the_same_logits() -> None:
    backbone = random_backbone()
    torch.manual_seed(0)
    half = captions()
    whole = network({"image": ImageEncoder(features=512, backbone=backbone), "caption": half})
    ready = network({"image": cached(), "caption": half})
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    features = backbone(images)
    expected = whole.eval()(batch(images))
    torch.testing.assert_close(ready.eval()(batch(features)), expected)
    torch.testing.assert_close(whole(batch(features)), expected)
    # The feature store may keep 16 bits.
    torch.testing.assert_close(ready(batch(features.half())), expected, rtol=1e-2, atol=1e-2)
    assert cached()(features.half()).dtype == torch.float32


def test_the_image_comes_first_whatever_the_order_of_the_encoders() -> None:
    image, caption = cached(), captions()
    first = network({"image": image, "caption": caption}).eval()
    second = network({"caption": caption, "image": image}).eval()
    rows = batch(torch.rand(4, 512))
    assert torch.equal(first(rows), second(rows))
    encoded = torch.cat([rows.image, caption(rows.tokens, rows.lengths)], dim=1)
    assert torch.equal(first(rows), first.head(encoded))


def test_each_half_alone() -> None:
    one, two = batch(torch.rand(4, 512)), batch(torch.rand(4, 512))
    looks = network({"image": cached()}).eval()
    reads = network({"caption": captions()}).eval()
    assert looks(one).shape == reads(one).shape == (4, LABELS)
    other_caption = one._replace(tokens=one.tokens.roll(1, 0), lengths=one.lengths.roll(1))
    assert torch.equal(looks(one), looks(other_caption))
    assert not torch.equal(reads(one), reads(other_caption))
    assert torch.equal(reads(one), reads(two._replace(image=None)))
    assert not torch.equal(looks(one), looks(two))


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_reach_all_that_is_trained(frozen: bool) -> None:
    backbone = random_backbone(frozen=frozen)
    encoders = {
        "image": ImageEncoder(features=512, backbone=backbone),
        "caption": captions(embeddings=torch.randn(30, 7)),
    }
    model = network(encoders).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    loss = model.loss(batch(images, 6), CRITERION)
    loss.backward()
    assert loss.isfinite()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        else:
            assert parameter.grad is None, key
            assert key.startswith(("encoders.image.backbone", "encoders.caption.embedding")), key
    unchanged = all(torch.equal(value, before[k]) for k, value in backbone.state_dict().items())
    assert unchanged == frozen
    assert backbone.training != frozen


def test_what_is_not_known_teaches_nothing() -> None:
    model = network({"image": cached(), "caption": captions()}).eval()
    rows = batch(torch.rand(4, 512))
    known = torch.rand(4, LABELS) < 0.6
    logits, loss = model.evaluate(rows._replace(known=known), CRITERION)
    expected = nn.functional.binary_cross_entropy_with_logits(logits[known], rows.targets[known])
    torch.testing.assert_close(loss, expected)
    other = rows._replace(known=known, targets=torch.where(known, rows.targets, -1.0))
    assert torch.equal(model.loss(other, CRITERION), loss)
    assert torch.equal(
        model.loss(rows._replace(known=torch.ones_like(known)), CRITERION),
        model.loss(rows, CRITERION),
    )


def test_a_training_batch_of_one_row() -> None:
    rows = batch(torch.rand(1, 512), 1)
    model = network({"image": cached(), "caption": captions()})
    with pytest.raises(UserError, match="batch of one row"):
        model(rows)
    assert model.eval()(rows).shape == (1, LABELS)
    plain = network({"image": cached(), "caption": captions()}, batch_norm=False)
    assert plain(rows).shape == (1, LABELS)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in plain.modules())


def test_image_input_that_does_not_fit() -> None:
    model = network({"image": cached()})
    with pytest.raises(UserError, match="has no backbone"):
        model(batch(torch.zeros(4, 3, 32, 32, dtype=torch.uint8)))
    with pytest.raises(UserError, match="another backbone"):
        model(batch(torch.rand(4, 2048)))
    with pytest.raises(UserError, match="the batch has none"):
        model(batch(None))


def test_parts_that_do_not_fit() -> None:
    head = Head(in_features=512, num_labels=LABELS)
    with pytest.raises(ValueError, match="512 features on encoders with 768"):
        LateFusion(encoders={"image": cached(), "caption": captions()}, head=head)
    with pytest.raises(ValueError, match="encoders for one or both"):
        LateFusion(encoders={}, head=head)
    with pytest.raises(ValueError, match="encoders for one or both"):
        LateFusion(encoders={"picture": cached()}, head=head)
    with pytest.raises(ValueError, match="width 512, not 2048"):
        ImageEncoder(features=2048, backbone=random_backbone())


def test_it_learns_what_only_both_halves_tell() -> None:
    """Label 0 is on when picture and caption disagree: no half alone can know."""
    torch.manual_seed(0)
    picture, caption = torch.randint(0, 2, (2, 256))
    rows = batch(torch.randn(256, 512) * 0.1 + picture[:, None], 256)._replace(
        tokens=(caption + 2)[:, None],
        lengths=torch.ones(256, dtype=torch.int64),
        targets=(picture ^ caption)[:, None].expand(-1, LABELS).float(),
    )
    scores = {}
    for kind in ("fusion", "image", "caption"):
        encoders = {"image": cached(), "caption": captions(hidden=8)}
        model = network(encoders if kind == "fusion" else {kind: encoders[kind]})
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(40):
            optimizer.zero_grad()
            model.loss(rows, CRITERION).backward()
            optimizer.step()
        predicted = model.eval()(rows)[:, 0] > 0
        scores[kind] = (predicted == rows.targets[:, 0].bool()).float().mean().item()
    assert scores["fusion"] > 0.95
    assert scores["caption"] < 0.7


def test_features_are_projected_before_they_are_fused():
    encoder = ImageEncoder(features=8, backbone=None, projection=3, dropout=0.5).eval()
    assert encoder.out_features == 3
    features = torch.randn(5, 8)
    norm, _, linear, *_ = encoder.projection
    expected = (norm(features) @ linear.weight.T + linear.bias).clamp(min=0)
    assert torch.allclose(encoder(features), expected, atol=1e-6)
    with pytest.raises(UserError, match="8 features"):
        encoder(torch.randn(5, 3))
    with pytest.raises(UserError, match="one row"):
        encoder.train()(features[:1])
