"""A run on stored features need not build its backbone, which its checkpoint holds all the same."""

from collections.abc import Callable
from pathlib import Path

import torch
from resumed_runs import run

from mmlabel.checkpoint import load_classifier
from mmlabel.settings import Settings

LITE0 = ("backbone=efficientnet_lite0", "backbone.weights=none", "data.rows=[12,6,6]")


def of_two_runs(
    settings_of: Callable[..., Settings],
    folder: Path,
    *options: str,
    between: Callable[[], object] = lambda: None,
) -> list[tuple[dict, dict[str, torch.Tensor]]]:
    """Results and weights of two runs, of which the second finds what the first has kept."""
    own = (*options, "trainer.max_epochs=1", f"cache_dir={folder / 'cache'}")
    results = []
    for number in range(2):
        results.append(run(settings_of, folder / str(number), *own))
        if not number:
            between()
    states = []
    for number in range(2):
        file = torch.load(folder / str(number) / "best.ckpt", weights_only=True)
        states.append(file["state_dict"])
    return list(zip(results, states, strict=True))


def test_a_second_run_needs_neither_timm_nor_torchvision(
    settings_of, tmp_path: Path, without: Callable[..., None]
) -> None:
    (first, one), (second, two) = of_two_runs(
        settings_of,
        tmp_path,
        *LITE0,
        "max_megabytes=100",
        between=lambda: without("timm", "torchvision"),
    )
    assert first["megabytes"] == second["megabytes"]
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(name.startswith("network.encoders.image.backbone") for name in two)


def test_its_checkpoint_predicts(settings_of, tmp_path: Path) -> None:
    of_two_runs(settings_of, tmp_path, *LITE0)
    one, two = (load_classifier(tmp_path / str(n) / "best.ckpt")[0] for n in range(2))
    assert one.scores == two.scores
    pictures = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    looks = [each.network.encoders["image"].backbone.eval()(pictures) for each in (one, two)]
    assert torch.equal(*looks)


def test_weights_that_several_sizes_share_are_not_doubled(settings_of, tmp_path: Path) -> None:
    sizes = ("data.crop=none", "data.image_size=[128,128]", "backbone.pyramid=2")
    for _, state in of_two_runs(settings_of, tmp_path, *LITE0, *sizes):
        small, large = (
            state[f"network.encoders.image.backbone.network.parts.{part}.conv_stem.weight"]
            for part in range(2)
        )
        assert small.data_ptr() == large.data_ptr()


def test_other_weights_are_not_taken_for_these(settings_of, tmp_path: Path) -> None:
    options = (*LITE0, f"cache_dir={tmp_path / 'cache'}", "trainer.max_epochs=1")
    run(settings_of, tmp_path / "first", *options)
    classifier, _ = load_classifier(tmp_path / "first" / "best.ckpt")
    state = classifier.network.encoders["image"].backbone.network.state_dict()
    changed = {name: value + 1 if "conv_stem" in name else value for name, value in state.items()}
    torch.save(changed, tmp_path / "other.pth")
    run(settings_of, tmp_path / "other", *options, f"backbone.weights={tmp_path / 'other.pth'}")
    kept, _ = load_classifier(tmp_path / "other" / "best.ckpt")
    stem = kept.network.encoders["image"].backbone.network.conv_stem.weight
    assert torch.equal(stem, changed["conv_stem.weight"])
