"""Random changes of training pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlabel.data.augment import Change, augmentation, augmented
from mmlabel.errors import UserError
from mmlabel.parts import build
from mmlabel.run_folder import read_results
from mmlabel.training import train


def pictures(count: int, size: tuple[int, int]) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, 3, *size), dtype=torch.uint8, generator=random)


@pytest.mark.parametrize("change", ["crop", "rand", "erase"])
def test_each_draw_is_another_picture_of_the_same_kind(change: Change):
    apply = augmentation([change], size=(24, 40))
    before = pictures(1, (24, 40)).expand(40, -1, -1, -1)
    state = torch.get_rng_state()
    after = augmented(before, list(range(40)), apply)
    assert after.shape == before.shape and after.dtype == torch.uint8
    assert len({each.numpy().tobytes() for each in after}) > 15
    assert torch.equal(augmented(before, list(range(40)), apply), after)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws change


def test_a_crop_is_a_part_of_half_the_area_at_least():
    """Of a ramp, whose values say which columns are seen."""
    ramp = torch.arange(200, dtype=torch.uint8).expand(1, 3, 200, -1)
    spans = []
    for draw in range(50):
        row = augmented(ramp, [draw], augmentation(["crop"], size=200))[0, 0, 100].int()
        assert (row.diff() >= 0).all()  # nothing is mirrored here: flips are the batches'
        spans.append(int(row[-1] - row[0]))
    assert min(spans) > 200 * (0.5 * 3 / 4) ** 0.5 - 5 and max(spans) > 180


def test_erasing_takes_a_rectangle_out_of_half_of_the_pictures():
    after = augmented(pictures(200, (30, 30)), range(200), augmentation(["erase"], size=30))
    black = (after == 0).all(dim=1)
    share = black.flatten(1).any(dim=1).float().mean()
    assert 0.35 < share < 0.65
    for mask in black[black.flatten(1).any(dim=1)][:20]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()


def test_training_pictures_change_in_every_epoch_and_others_never(settings_of: Callable):
    data = build(settings_of("data.augment=[crop,erase]"), None, wandb_id=None).data
    plain = build(settings_of("features=off"), None, wandb_id=None).data
    for each in (data, plain):
        each.setup("fit")

    def seen(source: object, name: str, epoch: int) -> dict[int, bytes]:
        loader = getattr(source, f"{name}_dataloader")()
        loader.sampler.set_epoch(epoch)
        return {
            row: picture.numpy().tobytes()
            for batch in loader
            for row, picture in zip(batch.rows.tolist(), batch.image, strict=True)
        }

    first = seen(data, "train", 0)
    assert seen(data, "train", 0) == first
    for other in (seen(data, "train", 1), seen(plain, "train", 0)):
        assert other.keys() == first.keys()
        assert np.mean([first[row] != other[row] for row in first]) > 0.9
    for name in ("val", "test"):
        assert seen(data, name, 0) == seen(plain, name, 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[crop,foo]", "data.augment, foo: give a list of any of crop, rand, erase"),
        ("[corp]", 'give a list of any of crop, rand, erase; did you mean "crop"?'),
        ("crop", "data.augment=crop: give a list of any of"),
        ("[crop,erase,crop]", "data.augment=[crop,erase,crop]: give each of them once"),
    ],
)
def test_mistakes(given: str, said: str, settings_of: Callable):
    with pytest.raises(UserError) as caught:
        settings_of(f"data.augment={given}")
    assert said in str(caught.value)


def test_a_run_looks_at_them_live(settings_of: Callable, tmp_path: Path):
    options = ["model=image_only", "data.augment=[crop,rand,erase]", "trainer.max_epochs=1"]
    train(settings_of(*options), tmp_path / "run")
    results = read_results(tmp_path / "run")
    assert results["features"] is None
    assert results["settings"]["data"]["augment"] == ["crop", "rand", "erase"]
    with pytest.raises(UserError, match=r"features=on with data\.augment=.* choose one"):
        train(settings_of(*options, "features=on"), tmp_path / "on")
