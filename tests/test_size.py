"""What a prediction needs, part by part, and the limit that stops a run before it is trained."""

from pathlib import Path

import pytest
import torch
from resumed_runs import run
from small_network import network_of
from torch import nn

from mmlabel.data.captions import Vocabulary
from mmlabel.errors import UserError
from mmlabel.models import options
from mmlabel.models.build import build_network
from mmlabel.models.frozen_weights import weights_of
from mmlabel.size import Size, check_size, sizes


def network(**chosen) -> nn.Module:
    return network_of(options.Fusion(name="fusion", head=options.Head(hidden=16), **chosen))


def test_parts_by_hand() -> None:
    found = sizes(network(image_projection=6))
    assert found["word vectors"] == Size(30 * 7, pytest.approx(4 * 30 * 7 / 1e6))
    norm = 12 * 2  # and as many statistics, and a counter of 8 bytes
    projection = Size(norm + 12 * 6 + 6, pytest.approx((4 * (2 * norm + 12 * 6 + 6) + 8) / 1e6))
    assert found["image projection"] == projection
    assert found["caption encoder"].parameters == 2 * (4 * 4 * (7 + 4) + 2 * 4 * 4)
    assert found["head"].parameters == (14 * 2 + 14 * 16 + 16) + (16 * 2 + 16 * 5 + 5)
    assert set(found) == {"image projection", "word vectors", "caption encoder", "head"}


def test_auxiliary_classifiers_are_no_part_of_a_prediction() -> None:
    assert sizes(network(fusion="gated")) == sizes(network(fusion="gated", auxiliary_loss=0.5))
    assert sizes(network(fusion="gated"))["fusion"].parameters == 16 * (12 + 8 + 20)


def test_the_label_order_of_the_training_rows_is_no_part_of_a_prediction() -> None:
    def decoder(given_order: torch.Tensor | None) -> nn.Module:
        return build_network(
            options.DecoderModel(name="decoder"),
            num_labels=5,
            image_features=12,
            backbone=None,
            caption_encoder=None,
            decoder=options.Decoder(hidden=8, embedding_dim=4, order="as_given"),
            given_order=given_order,
        )

    order = torch.zeros(1000, 5, dtype=torch.int8)
    assert sizes(decoder(order)) == sizes(decoder(None))


def test_a_backbone_beside_the_network_words_and_other_precisions() -> None:
    backbone = weights_of(nn.Linear(10, 10, bias=False))
    words = Vocabulary(["<pad>", "<unk>", "dog"], {"dogs": "dog"})
    found = sizes(network(), backbone=backbone, vocabulary=words)
    assert found["backbone"] == Size(100, pytest.approx(400 / 1e6))
    assert found["words"].megabytes == pytest.approx(len("<pad><unk>dogdogs") / 1e6)
    for dtype, share in ((torch.bfloat16, 0.5), (torch.float64, 2)):
        brought = sizes(network(), width=dtype.itemsize)
        for part, size in sizes(network().to(dtype)).items():
            assert brought[part] == size
            assert size.megabytes == pytest.approx(share * found[part].megabytes, rel=0.1)


def test_the_message_names_the_parts_the_largest_first() -> None:
    found = {"head": Size(1, 2.04), "backbone": Size(3, 99.5)}
    check_size(found, limit=101.6)
    with pytest.raises(
        UserError, match=r"max_megabytes=100: .* 101.5 MB \(backbone 99.5, head 2.0"
    ):
        check_size(found, limit=100)


def test_a_run_that_is_too_large_is_stopped_before_features_are_computed(
    settings_of, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    large = ["backbone=resnet18", "data.scenes_seed=99"]
    with pytest.raises(
        UserError, match=r"max_megabytes=40: .* 45.9 MB \(backbone 44.7, head 1.1\)"
    ):
        run(settings_of, tmp_path / "1", *large, "max_megabytes=40")
    assert "features are computed" not in caplog.text
    results = run(settings_of, tmp_path / "2", *large, "max_megabytes=50")
    assert "features are computed" in caplog.text
    assert sum(results["megabytes_by_part"].values()) == pytest.approx(results["megabytes"])
    assert 40 < results["megabytes"] < 50
    # It says what may be trained: what has been is evaluated, whatever its size.
    best = f"ckpt_path={tmp_path / '2' / 'best.ckpt'}"
    run(settings_of, tmp_path / "3", best, "train=false", "max_megabytes=1")


def test_the_limit_is_of_the_precision_to_which_training_brings_the_network(
    settings_of, tmp_path: Path
):
    found = []
    for precision in ("bf16-true", "32-true", "64-true"):
        options = [f"trainer.precision={precision}", "max_megabytes=0.1", "lstm.hidden=256"]
        with pytest.raises(UserError, match="max_megabytes=0.1: ") as error:
            run(settings_of, tmp_path, "model=caption_only", *options)
        found.append(float(str(error.value).partition(" has ")[2].partition(" MB")[0]))
    assert found == pytest.approx([found[1] / 2, found[1], 2 * found[1]], rel=0.05)
