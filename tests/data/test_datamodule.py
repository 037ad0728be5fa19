"""From files to batches: who gets which row, in which order, encoded how."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlabel.data.batches import EpochBatches
from mmlabel.data.datamodule import CaptionedPictures
from mmlabel.data.feature_store import FeatureStore
from mmlabel.data.pictures import BadPicture
from mmlabel.data.prepare import PreparedData
from mmlabel.data.row_store import StoreUnavailable
from mmlabel.errors import UserError
from mmlabel.parts import build, prepare
from mmlabel.settings import Settings


def prepared(settings: Settings) -> CaptionedPictures:
    """Live pictures, whatever the settings say of stored features."""
    data = CaptionedPictures(
        prepare(settings, None),
        looks_at_pictures="image" in settings.inputs,
        image_size=settings.data.view,
        upright=settings.data.upright,
        flip=settings.data.flip,
        batch_size=settings.data.batch_size,
        workers=0,
        on_bad_image="error",
        seed=settings.seed,
        cache_dir=Path(settings.cache_dir),
    )
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def data(settings_of) -> CaptionedPictures:
    return prepared(settings_of())


def test_a_batch_holds_what_the_files_say(data: CaptionedPictures):
    batches = list(data.val_dataloader())
    rows = torch.cat([batch.rows for batch in batches])
    assert rows.tolist() == list(range(24))
    batch, annotations = batches[0], data.prepared.annotations.take(data.prepared.rows["val"])
    assert batch.image.shape == (24, 3, 32, 32) and batch.image.dtype == torch.uint8
    assert batch.ids == annotations.ids
    np.testing.assert_array_equal(batch.targets.numpy(), annotations.targets)
    for tokens, length, caption in zip(
        batch.tokens, batch.lengths.tolist(), annotations.captions, strict=True
    ):
        assert (tokens[:length] > 0).all() and (tokens[length:] == 0).all()
        words = [data.prepared.vocabulary.words[token] for token in tokens[:length].tolist()]
        for said, word in zip(re.findall(r"\w+", caption.lower()), words, strict=True):
            assert word in ("<unk>", said)


def test_the_vocabulary_is_the_training_splits_alone(data: CaptionedPictures):
    prepared = data.prepared
    training = " ".join(prepared.annotations.take(prepared.rows["train"]).captions).lower()
    assert all(word in training for word in prepared.vocabulary.words[2:])


def test_flips_and_order_change_by_epoch_and_repeat_by_seed():
    def epochs(seed: int) -> list[list[tuple[list, list]]]:
        sampler = EpochBatches(20, batch_size=8, seed=seed, training=True)
        taken = []
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            taken.append([(rows.tolist(), flips.tolist()) for rows, flips, _ in sampler])
        return taken

    first, second = epochs(seed=3)
    assert sorted(row for rows, _ in first for row in rows) == list(range(20))
    assert first != second
    assert epochs(seed=3) == [first, second]
    assert epochs(seed=4) != [first, second]
    flips = [flip for batch in first + second for flip in batch[1]]
    assert 5 < sum(flips) < 35


def test_without_flips_the_order_is_the_same():
    flips = {}
    for flip in (False, True):
        batches = list(EpochBatches(50, batch_size=8, seed=3, training=True, flip=flip))
        flips[flip] = np.concatenate([flipped for _, flipped, _ in batches])
        order = np.concatenate([rows for rows, *_ in batches])
        assert order.tolist() == np.random.default_rng([3, 0]).permutation(50).tolist()
    assert flips[True].any() and not flips[False].any()


@pytest.mark.parametrize("rows", [2, 16, 17, 31, 32, 33])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("training", [False, True])
def test_processes_share_an_epoch_out(rows: int, world_size: int, training: bool):
    """All make as many steps in training, none sees a row that another has in evaluation."""
    shares = []
    for rank in range(world_size):
        whole = 16 * world_size
        sampler = EpochBatches(
            rows, batch_size=whole, training=training, rank=rank, world_size=world_size
        )
        batches = [batch for batch, *_ in sampler]
        assert len(batches) == len(sampler)
        shares.append([row for batch in batches for row in batch.tolist()])
        if training and rows >= 2 * world_size:
            assert min(map(len, batches)) >= 2, "batch norm needs two rows"
    together = sorted(row for share in shares for row in share)
    if training:
        assert len({len(share) for share in shares}) == 1
        assert set(together) == set(range(rows))
        assert len(together) - rows < world_size
    else:
        assert together == list(range(rows))


def test_a_flipped_picture_is_the_mirrored_one(settings_of):
    data = prepared(settings_of("model=image_only"))
    split = data.split("train")
    row = np.array([5])
    plain = split[row, np.array([False]), row].image
    flipped = split[row, np.array([True]), row].image
    assert torch.equal(plain.flip(-1), flipped)


def test_a_caption_only_run_reads_no_picture(settings_of, scenes: Path, tmp_path: Path):
    root = Path(shutil.copytree(scenes, tmp_path / "copy"))
    shutil.rmtree(root / "data")
    options = ["data=usyd", f"data.root={root}", "data.fractions=[0.6,0.2,0.2]"]
    settings = settings_of("model=caption_only", *options)
    batch = next(iter(prepared(settings).train_dataloader()))
    assert batch.image is None
    with pytest.raises(UserError, match="picture"):
        prepared(settings_of("model=fusion", *options))


def test_a_picture_that_is_gone_once_its_features_are_stored_is_an_error(
    settings_of, made: Path, tmp_path: Path, monkeypatch
):
    root, really = shutil.copytree(made, tmp_path / "copy"), FeatureStore.fill

    def fill(self, pictures, **options):
        filled = really(self, pictures, **options)
        pictures[0].unlink()
        return filled

    monkeypatch.setattr(FeatureStore, "fill", fill)
    options = ["data=csv", f"data.file={root}/rows.csv", f"cache_dir={tmp_path}"]
    run = build(settings_of("model=image_only", *options), None, wandb_id=None)
    with pytest.raises(BadPicture):
        run.data.setup("fit")


def test_an_engine_that_cannot_compute_leaves_no_empty_store(
    settings_of, tmp_path: Path, monkeypatch
):
    def refuse(*_, **__):
        raise UserError("OpenVINO cannot compute resnet18")

    settings = settings_of(f"cache_dir={tmp_path}", "embedding.dim=8")
    monkeypatch.setattr("mmlabel.models.build.build_extract", refuse)
    with pytest.raises(UserError, match="cannot compute resnet18"):
        build(settings, None, wandb_id=None).data.setup("fit")
    assert not list(tmp_path.glob("features/*/*"))
    monkeypatch.undo()
    build(settings, None, wandb_id=None).data.setup("fit")
    (store,) = (tmp_path / "features").glob("*/store.json")
    before = store.with_name("features.bin").read_bytes()
    monkeypatch.setattr("mmlabel.models.build.build_extract", refuse)
    settings = settings_of(f"cache_dir={tmp_path}", "embedding.dim=8", "data.scenes_seed=4")
    with pytest.raises(UserError, match="cannot compute resnet18"):
        build(settings, None, wandb_id=None).data.setup("fit")
    assert store.with_name("features.bin").read_bytes() == before


@pytest.mark.parametrize("ours", [True, False])
def test_a_store_that_one_process_cannot_read_is_unavailable_to_all(
    ours: bool, settings_of, tmp_path: Path, monkeypatch
):
    """One that went on alone would leave the others waiting for it for ever."""

    def refuse(self, pictures) -> np.ndarray:
        raise StoreUnavailable("ours cannot be read")

    def agree(self, decision: bool, *, every: bool) -> bool:
        asked.append((decision, every))
        return False

    asked: list[tuple[bool, bool]] = []
    monkeypatch.setattr(CaptionedPictures, "_agree", agree)
    if ours:
        monkeypatch.setattr(FeatureStore, "rows", refuse)
    data = build(settings_of("features=on", f"cache_dir={tmp_path}"), None, wandb_id=None).data
    said = "ours cannot be read" if ours else "another process could not read its features"
    with pytest.raises(UserError, match=f"features=on: {said}"):
        data.setup("fit")
    assert asked == [(not ours, True)]


def test_coco_through_the_settings(settings_of, shared: Path):
    options = [f"data.root={shared / 'data' / 'coco-mini'}", "data.max_pictures=10"]
    annotations = prepare(settings_of("data=coco", *options), None).annotations
    assert len(annotations) == 10
    assert annotations.label_names[1] == "person"


def test_a_csv_with_labels_of_its_own(settings_of, scenes: Path, tmp_path: Path):
    root = Path(shutil.copytree(scenes, tmp_path / "copy"))
    pictures = sorted((root / "data").iterdir())[:12]
    lines = [
        f"{path.name},{'cat|dog' if n % 2 else 'tree'},a caption\n"
        for n, path in enumerate(pictures)
    ]
    (tmp_path / "own.csv").write_text("file,tags,text\n" + "".join(lines))
    options = [f"data.file={tmp_path / 'own.csv'}", f"data.root={root / 'data'}"]
    options += ["data.picture_column=file", "data.label_column=tags", "data.caption_column=text"]
    annotations = prepare(settings_of("data=csv", *options, "data.separator='|'"), None).annotations
    assert annotations.label_names == ["cat", "dog", "tree"]
    assert annotations.targets[:2].tolist() == [[0, 0, 1], [1, 1, 0]]


def test_a_second_start_loads_neither_wordnet_nor_vectors(
    settings_of, shared: Path, tmp_path: Path, monkeypatch, without
):
    """Tokenised captions and the matrix of word vectors come from the cache."""
    monkeypatch.setenv("NLTK_DATA", str(shared / "nltk_data"))
    monkeypatch.setenv("GENSIM_DATA_DIR", str(shared / "gensim-data"))
    options = ["captions.lemmas=wordnet", "embedding=glove"]
    options += ["embedding.name=glove-wiki-gigaword-50"]

    def start(cache: str) -> PreparedData:
        settings = settings_of("model=caption_only", *options, f"cache_dir={tmp_path / cache}")
        return prepare(settings, None)

    first = start("cache")
    without("nltk", "gensim", "sklearn")
    second = start("cache")
    np.testing.assert_array_equal(first.embeddings.matrix, second.embeddings.matrix)
    assert (first.coverage, first.notes) == (second.coverage, second.notes)
    with pytest.raises(ModuleNotFoundError, match="nltk"):
        start("another")
