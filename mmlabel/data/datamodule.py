"""From a data set's files to batches."""

import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mmlabel.data.annotations import Annotations, read_coco, read_csv, read_usyd
from mmlabel.data.batch import Batch
from mmlabel.data.captions import TokenisedCaptions, Vocabulary, encode, encode_texts, tokenise
from mmlabel.data.digests import unreadable_pictures
from mmlabel.data.embeddings import Embeddings, load_embeddings
from mmlabel.data.feature_store import FeatureStore, PictureScorer, detector_scores
from mmlabel.data.pictures import read_picture
from mmlabel.data.row_store import StoreUnavailable
from mmlabel.data.splits import read_splits, split_rows
from mmlabel.data.transforms import picture_views, stack_views
from mmlabel.errors import UserError, nearest

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
SOURCES = ("scenes", "usyd", "coco", "csv")


def read_data(data: dict, *, cache_dir: Path, require_pictures: bool = True) -> Annotations:
    """The captioned pictures that the settings `data` (a file of conf/data) describe.

    Raises UserError for anything wrong with the settings or the files.
    """
    name = data["name"]
    if name == "scenes":
        root = _scenes_folder(data, cache_dir)
        return read_usyd(root, require_pictures=require_pictures)
    if name == "usyd":
        return read_usyd(
            Path(data["root"]).expanduser(),
            file=data["file"],
            pictures=data["pictures"],
            require_pictures=require_pictures,
        )
    if name == "coco":
        root = Path(data["root"]).expanduser()
        if data["download"]:
            from mmlabel.data.download import download_coco

            download_coco(
                root,
                year=data["year"],
                subset=data["subset"],
                base_url=data["base_url"],
                max_pictures=data["max_pictures"],
            )
        # The archive holds several sets of annotations; the one asked for is meant.
        fetched = f"instances_{data['subset']}{data['year']}.json" if data["download"] else None
        return read_coco(
            root,
            instances=data["instances"] or fetched,
            captions=data["captions"],
            seed=data["caption_seed"],
            max_pictures=data["max_pictures"],
            require_pictures=require_pictures,
        )
    if name == "csv":
        return read_csv(
            Path(data["file"]).expanduser(),
            picture_column=data["picture_column"],
            label_column=data["label_column"],
            caption_column=data["caption_column"],
            root=None if data["root"] is None else Path(data["root"]).expanduser(),
            separator=data["separator"],
            label_names=data["label_names"],
            num_labels=data["num_labels"],
            require_pictures=require_pictures,
        )
    raise UserError(f'unknown data.name "{name}"{nearest(name, SOURCES)}')


def read_rows(data: dict, annotations: Annotations, *, cache_dir: Path) -> dict[str, np.ndarray]:
    """Row numbers of the train, val and test splits."""
    if data["name"] == "scenes":
        return read_splits(_scenes_folder(data, cache_dir) / "splits.csv", annotations.ids)
    if data["splits"] is not None:
        return read_splits(Path(data["splits"]).expanduser(), annotations.ids)
    return split_rows(
        annotations.targets,
        fractions=tuple(data["fractions"]),
        seed=data["split_seed"],
        cache_dir=cache_dir,
    )


def _scenes_folder(data: dict, cache_dir: Path) -> Path:
    from mmlabel.data.scenes import scenes_folder

    return scenes_folder(
        cache_dir, seed=data["scenes_seed"], rows=tuple(data["rows"]), size=data["image_size"]
    )


class EpochBatches(Sampler):
    """Yields each batch of an epoch as (rows, flipped): int64 (B,) and bool (B,) arrays.

    Order and flips follow from the seed and the epoch alone, so that a run with stored features
    sees exactly what a run without them sees, and a resumed run what an uninterrupted one does. A
    last batch of one row joins the batch before it, as batch norm cannot train on one row.

    Several processes get disjoint rows. In training the order is padded by its own beginning to a
    multiple of the number of processes, which must all make the same number of steps; in
    evaluation nothing is padded, so that every row is scored exactly once.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        batch_size: int,
        seed: int = 0,
        training: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.training = training
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    @cached_property
    def _starts(self) -> list[int]:
        share = len(range(self.rank, self.num_rows, self.world_size))
        if self.training:
            share = -(-self.num_rows // self.world_size)
        starts = list(range(0, share, self.batch_size)) + [share]
        if len(starts) > 2 and starts[-1] - starts[-2] == 1:
            del starts[-2]
        return starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.arange(self.num_rows)
        flipped = np.zeros(self.num_rows, dtype=bool)
        if self.training:
            generator = np.random.default_rng([self.seed, self.epoch])
            order = generator.permutation(self.num_rows)
            flipped = generator.random(self.num_rows) < 0.5
            order = np.resize(order, self._starts[-1] * self.world_size)
        mine = order[self.rank :: self.world_size]
        for start, end in zip(self._starts, self._starts[1:], strict=False):
            rows = mine[start:end]
            yield rows, flipped[rows]


class SplitRows(Dataset):
    """One split, which gives a whole `Batch` for the (rows, flipped) that EpochBatches yields.

    Args:
        pictures: files to decode for the image half, or None.
        features: (R, F) of a feature store, with `feature_rows` (n, 2) saying where each row's
            plain and flipped features are; or None.
    """

    def __init__(
        self,
        *,
        ids: list[str],
        targets: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
        pictures: list[Path] | None = None,
        features: torch.Tensor | None = None,
        feature_rows: np.ndarray | None = None,
        image_size: int,
    ) -> None:
        self.ids = np.array(ids, dtype=object)
        self.targets = torch.from_numpy(targets.astype(np.float32))
        self.tokens = torch.from_numpy(tokens)
        self.lengths = torch.from_numpy(lengths)
        self.pictures = pictures
        self.features = features
        self.feature_rows = None if feature_rows is None else torch.from_numpy(feature_rows)
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: tuple[np.ndarray, np.ndarray]) -> Batch:
        rows, flipped = torch.from_numpy(index[0]), torch.from_numpy(index[1])
        lengths = self.lengths[rows]
        longest = max(int(lengths.max()), 1)
        return Batch(
            image=self._images(rows, flipped),
            tokens=self.tokens[rows, :longest],
            lengths=lengths,
            targets=self.targets[rows],
            rows=rows,
            ids=self.ids[index[0]].tolist(),
        )

    def _images(self, rows: torch.Tensor, flipped: torch.Tensor) -> torch.Tensor | None:
        if self.features is not None:
            # One copy to a GPU that holds the features, rather than the features themselves.
            where = self.feature_rows[rows, flipped.long()].to(self.features.device)
            return self.features[where]  # (B, F)
        if self.pictures is None:
            return None
        views = []
        for row, flip in zip(rows.tolist(), flipped.tolist(), strict=True):
            path = self.pictures[row]
            views.append(
                picture_views(read_picture(path), path=path, size=self.image_size, flips=[flip])
            )
        return stack_views(views)  # (B, 3, S, S)


class FrozenExtractor(Protocol):
    """What the feature store needs of a frozen backbone."""

    @property
    def width(self) -> int:
        """F, the number of features."""

    def key(self, precision: str) -> dict[str, object]:
        """All that a feature depends on besides the picture, as plain values."""

    def extract(
        self, precision: str, device: torch.device
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function from pictures (B, 3, S, S) uint8 on `device` to features (B, F)."""


class CaptionedPictures(pl.LightningDataModule):
    """Batches of a data set's train, val and test splits.

    `prepare` reads everything but the pictures, and has to come before the model is built, as the
    data decides the vocabulary, the word vectors, the labels and their weights.

    Args:
        settings: the resolved configuration of the run.
        inputs: what the model looks at, "image", "caption" or both; the rest is not prepared.
        cache_dir: where prepared data is kept between runs.
        vocabulary: a checkpoint's, to encode captions as it did; None: built from the training
            split.

    Attributes:
        detector: whose scores of the pictures stand in for them, to be set before `setup`; or None.
        extractor: the frozen backbone whose stored features stand in for the pictures, to be set
            before training; None: every batch holds pictures.
    """

    def __init__(
        self,
        *,
        settings: dict,
        inputs: list[str],
        cache_dir: Path,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.cache_dir = cache_dir
        self.vocabulary = vocabulary
        self.extractor: FrozenExtractor | None = None
        self.detector: PictureScorer | None = None
        self.detector_seconds = 0.0  # what detection took, now or when its scores were stored
        self.uses_pictures = "image" in inputs
        self.uses_captions = "caption" in inputs
        self.notes: list[str] = []  # what the run has to go without
        self.embeddings: Embeddings | None = None
        self.coverage: tuple[float, float] | None = None  # of words, of tokens
        self.features: torch.Tensor | None = None  # (R, F) of the feature store
        self.feature_rows: np.ndarray | None = None  # (N, 2) of the whole data set
        self._has_looked = False  # at the pictures, in `setup`

    def prepare(self) -> None:
        """Read annotations and splits, encode captions, load word vectors.

        Raises UserError for anything wrong with the data or not to be had.
        """
        data = self.settings["data"]
        self.annotations = read_data(
            data, cache_dir=self.cache_dir, require_pictures=self.uses_pictures
        )
        self.rows = read_rows(data, self.annotations, cache_dir=self.cache_dir)
        self._check_batches()
        if self.uses_captions:
            self._encode_captions()
        else:
            self.vocabulary = self.vocabulary or Vocabulary(["<pad>", "<unk>"])
            self.tokens = np.zeros((len(self.annotations), 1), dtype=np.int64)
            self.lengths = np.zeros(len(self.annotations), dtype=np.int64)

    def setup(self, stage: str) -> None:
        """Called by Lightning in every process: have the pictures checked or their features ready.

        Raises UserError for a picture that cannot be read, unless data.on_bad_image=skip.
        """
        if not self.uses_pictures or self._has_looked:
            return
        self._has_looked = True
        if self.detector is not None:
            self._detect()
            return
        if self.extractor is not None:
            try:
                self._fill_store()
            except StoreUnavailable as reason:
                self.extractor = None
                self.note(f"{reason}; the backbone runs in every epoch instead")
        if self.extractor is None:
            bad = unreadable_pictures(
                self.annotations.pictures,
                size=self.settings["data"]["image_size"],
                cache_dir=self.cache_dir,
            )
            if bad and self.settings["data"]["on_bad_image"] == "error":
                raise next(iter(bad.values()))
            self._leave_out(list(bad))

    def _detect(self) -> None:
        wanted = np.sort(np.concatenate([self.rows[split] for split in SPLITS]))
        found = detector_scores(
            [self.annotations.pictures[row] for row in wanted],
            self.detector,
            cache_dir=self.cache_dir,
            on_bad_image=self.settings["data"]["on_bad_image"],
        )
        self.detector_seconds = found.detector_seconds
        self.features = torch.from_numpy(found.array)
        # A mirrored picture has the same objects in it, so both views are one row.
        self.feature_rows = np.zeros((len(self.annotations), 2), dtype=np.int64)
        self.feature_rows[wanted] = np.arange(len(wanted))[:, None]
        self._leave_out(wanted[found.bad].tolist())

    def _fill_store(self) -> None:
        settings, pictures = self.settings["features"], self.annotations.pictures
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        store = FeatureStore.open(
            self.cache_dir,
            key=self.extractor.key(settings["precision"]),
            size=self.settings["data"]["image_size"],
            width=self.extractor.width,
            dtype=settings["storage"],
        )
        flipped = np.zeros(len(pictures), dtype=bool)
        flipped[self.rows["train"]] = True
        wanted = np.sort(np.concatenate([self.rows[split] for split in SPLITS]))
        rows = store.rows(pictures)
        missing = (rows[wanted, 0] < 0) | (flipped[wanted] & (rows[wanted, 1] < 0))
        if self._agree(bool(missing.any()), every=False):
            problem = None
            try:
                filled = store.fill(
                    [pictures[row] for row in wanted],
                    flipped=flipped[wanted],
                    extract=self.extractor.extract(settings["precision"], device),
                    device=device,
                    batch_size=settings["batch_size"],
                    workers=settings["workers"],
                    rank=trainer.global_rank if trainer else 0,
                    world_size=trainer.world_size if trainer else 1,
                    on_bad_image=self.settings["data"]["on_bad_image"],
                )
                if filled.views:
                    log.info("features of %d views in %.1f s", filled.views, filled.seconds)
            except (StoreUnavailable, UserError) as error:
                problem = error
            # One process that goes on alone would leave the others waiting for it for ever.
            if not self._agree(problem is None, every=True):
                raise problem or StoreUnavailable("another process could not store its features")
            rows = store.rows(pictures)
        self.features = torch.from_numpy(store.array())
        self.feature_rows = rows
        self._leave_out([row for row in wanted.tolist() if rows[row, 0] < 0])
        self._keep_on_gpu(device)

    def _agree(self, decision: bool, *, every: bool) -> bool:
        """Whether every process of the run (or any) decides so; they wait for each other."""
        if self.trainer is None:
            return decision
        return self.trainer.strategy.reduce_boolean_decision(decision, all=every)

    def _keep_on_gpu(self, device: torch.device) -> None:
        """Move the features to a GPU with room for them, so that no step waits for a copy."""
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.features.numel() * self.features.element_size() < free // 4:
                self.features = self.features.to(device)

    def _leave_out(self, bad: list[int]) -> None:
        if not bad:
            return
        self.rows = {split: np.setdiff1d(rows, bad) for split, rows in self.rows.items()}
        names = ", ".join(self.annotations.ids[row] for row in bad[:10])
        self.note(f"{len(bad)} rows left out, as their pictures cannot be read: {names}")
        for split, rows in self.rows.items():
            if len(rows) == 0:
                raise UserError(f"no readable picture is left in the {split} split")

    def note(self, note: str | None) -> None:
        """Say what the run has to go without, and put it into the run's record."""
        if note:
            self.notes.append(note)
            log.warning("%s", note)

    def _check_batches(self) -> None:
        size, rows = self.settings["data"]["batch_size"], len(self.rows["train"])
        if not isinstance(size, int) or size < 1:
            raise UserError(f"data.batch_size={size}: give a whole number, at least 1")
        if self.settings["train"] and self._has_batch_norm() and 1 in (size, rows):
            culprit = f"data.batch_size={size}" if size == 1 else "the training split has 1 row"
            raise UserError(
                f"{culprit}: batch norm cannot train on one row at a time; use more rows a batch,"
                " or model.head.batch_norm=false"
            )

    def _has_batch_norm(self) -> bool:
        model = self.settings["model"]
        return "head" not in model or model["head"]["batch_norm"]

    def _encode_captions(self) -> None:
        settings, training = self.settings["captions"], self.rows["train"]
        if self.vocabulary is not None:
            self.tokens, self.lengths, note = encode_texts(
                self.annotations.captions, self.vocabulary, max_length=settings["max_length"]
            )
            self.note(note)
            return
        tokenised = tokenise(
            self.annotations.captions,
            lemmas=settings["lemmas"],
            cache_dir=self.cache_dir,
            on_missing=self.settings["data"]["on_missing"],
        )
        self.note(tokenised.note)
        self.vocabulary = Vocabulary.build(tokenised, training, min_count=settings["min_count"])
        self.tokens, self.lengths = encode(
            tokenised, self.vocabulary, max_length=settings["max_length"]
        )
        self._load_embeddings(tokenised)

    def _load_embeddings(self, tokenised: TokenisedCaptions) -> None:
        settings = self.settings["embedding"]
        by_word2vec = settings["kind"] == "word2vec"
        file = settings["file"]
        self.embeddings = load_embeddings(
            self.vocabulary,
            kind=settings["kind"],
            name=settings["name"],
            file=None if file is None else Path(file).expanduser(),
            dim=settings["dim"],
            training_captions=tokenised.word_lists(self.rows["train"]) if by_word2vec else None,
            seed=self.settings["seed"],
            cache_dir=self.cache_dir,
            on_missing=self.settings["data"]["on_missing"],
        )
        self.note(self.embeddings.note)
        if self.embeddings.pretrained:
            self.coverage = self.embeddings.coverage(self.tokens[self.rows["train"]])

    @property
    def label_names(self) -> list[str]:
        """Name of each label number, "" where there is none."""
        return self.annotations.label_names

    @property
    def training_targets(self) -> np.ndarray:
        """(N, num_labels) uint8 of the training split, which loss weights are counted on."""
        return self.annotations.targets[self.rows["train"]]

    @property
    def training_label_order(self) -> np.ndarray | None:
        """`Annotations.label_order` of the training split."""
        order = self.annotations.label_order
        return None if order is None else order[self.rows["train"]]

    def split(self, name: str) -> SplitRows:
        """The rows of one split, from stored features if there are any, else from pictures."""
        rows = self.rows[name]
        part = self.annotations.take(rows)
        live = self.uses_pictures and self.features is None
        return SplitRows(
            ids=part.ids,
            targets=part.targets,
            tokens=self.tokens[rows],
            lengths=self.lengths[rows],
            pictures=part.pictures if live else None,
            features=self.features,
            feature_rows=None if self.feature_rows is None else self.feature_rows[rows],
            image_size=self.settings["data"]["image_size"],
        )

    def _loader(self, name: str, *, training: bool = False) -> DataLoader:
        dataset = self.split(name)
        workers = self.settings["data"]["workers"] if dataset.pictures else 0
        trainer = self.trainer
        return DataLoader(
            dataset,
            batch_size=None,  # the sampler yields whole batches
            sampler=EpochBatches(
                len(dataset),
                batch_size=self.settings["data"]["batch_size"],
                seed=self.settings["seed"],
                training=training,
                rank=trainer.global_rank if trainer else 0,
                world_size=trainer.world_size if trainer else 1,
            ),
            num_workers=workers,
            persistent_workers=workers > 0 and training,
            pin_memory=torch.cuda.is_available() and dataset.pictures is not None,
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, _: int) -> Batch:
        if device.type == "cpu":
            return batch
        # Lengths are needed on the CPU, to pack the captions.
        names = ("image", "tokens", "targets", "rows")
        tensors = {name: getattr(batch, name) for name in names}
        return batch._replace(
            **{
                name: tensor if tensor is None else tensor.to(device, non_blocking=True)
                for name, tensor in tensors.items()
            }
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", training=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        return self._loader("test")
