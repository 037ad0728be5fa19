"""From prepared data to batches, with pictures decoded, or their stored features, or scores."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mmlabel.data.augment import Change
from mmlabel.data.batches import Batch, EpochBatches, RepeatedBatches, SplitRows, TeacherLogits
from mmlabel.data.caption_states import StoredStates, caption_states
from mmlabel.data.digests import unreadable_pictures
from mmlabel.data.feature_store import FeatureStore, Filled, PictureScorer, detector_scores
from mmlabel.data.pictures import BadPicture
from mmlabel.data.prepare import PreparedData
from mmlabel.data.row_store import StoreUnavailable
from mmlabel.data.splits import SPLITS
from mmlabel.data.transforms import Size
from mmlabel.errors import UserError
from mmlabel.processors import decoders, pass_threads

log = logging.getLogger(__name__)


class FrozenExtractor(Protocol):
    """What the feature store needs of a frozen backbone."""

    @property
    def width(self) -> int:
        """Numbers a picture."""
        ...

    @property
    def maps(self) -> bool:
        """Whether they are maps, from which the rest of the backbone goes on."""
        ...

    def key(self, device: torch.device) -> dict[str, object]:
        """All that a feature depends on besides the picture, as plain values."""
        ...

    def extract(
        self, device: torch.device, *, size: Size
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function from pictures (B, 3, H, W) uint8 on `device` to features (B, F)."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoredFeatures:
    """How a frozen backbone's features are computed once and kept.

    Args:
        extractor: the backbone, in a precision.
        storage: on disk, "float32" or "float16"; "auto": maps in "float16".
        max_gigabytes: of disk (10^9 bytes) that the store may have.
        required: whether it is an error if there can be no store.
        batch_size: pictures a step.
        workers: processes that decode; None: chosen from the number of cores.
    """

    extractor: FrozenExtractor
    storage: Literal["auto", "float32", "float16"]
    max_gigabytes: float
    required: bool
    batch_size: int
    workers: int | None

    @property
    def dtype(self) -> Literal["float32", "float16"]:
        """What the features are stored in."""
        if self.storage == "auto":
            return "float16" if self.extractor.maps else "float32"
        return self.storage


class CaptionedPictures(pl.LightningDataModule):
    """Batches of a data set's train, val and test splits.

    Args:
        prepared: see `mmlabel.data.prepare`.
        looks_at_pictures: False: no picture is read.
        image_size: of the views that the model sees, see `mmlabel.data.transforms`.
        upright: whether pictures are turned as their EXIF data says.
        flip: whether training sees every other picture or so mirrored.
        batch_size: rows a step.
        workers: processes that decode pictures, as far as there are cores for them.
        on_bad_image: "error", or "skip" to leave out the row of a picture that cannot be read.
        seed: of order and flips.
        group_by_length: whether training batches are of captions of similar length.
        cache_dir: where prepared data is kept between runs.
        stored: the frozen backbone whose stored features stand in for the pictures, or None.
        detector: whose scores of the pictures stand in for them, or None.
        states: of the frozen text transformer, which stand in for captions, or None.
        augment: random changes of training pictures, which are then looked at live.
        first_epoch: that is trained; not 0 in a run that is gone on with.
        splits: whose pictures are looked at; of no other are features computed.

    Attributes:
        detector_seconds: what detection took, now or when its scores were stored.
        detected: of how many different pictures that was.
        setup_seconds: what `setup` took: computing features, or finding them in the cache.
        features: (R, F) of the feature store, once `setup` has filled it; None: pictures are live.
        teacher: the logits of a network to learn from, of the training split, once there are any.
        check_rows: is called with the splits that are left; raises UserError for those with which
            the run cannot do.
        features_key: what these depend on besides the pictures: backbone, engine, precision.
    """

    def __init__(
        self,
        prepared: PreparedData,
        *,
        looks_at_pictures: bool,
        image_size: Size,
        upright: bool,
        flip: bool,
        batch_size: int,
        workers: int,
        on_bad_image: Literal["error", "skip"],
        seed: int,
        group_by_length: bool = False,
        cache_dir: Path,
        stored: StoredFeatures | None = None,
        detector: PictureScorer | None = None,
        states: StoredStates | None = None,
        augment: Sequence[Change] = (),
        first_epoch: int = 0,
        splits: Sequence[str] = SPLITS,
    ) -> None:
        super().__init__()
        self.prepared = prepared
        self.looks_at_pictures = looks_at_pictures
        self.image_size = image_size
        self.upright = upright
        self.flip = flip
        self.batch_size = batch_size
        self.workers = workers
        self.on_bad_image: Literal["error", "skip"] = on_bad_image
        self.seed = seed
        self.group_by_length = group_by_length
        self.cache_dir = cache_dir
        self.stored = stored
        self.detector = detector
        self.states = states
        self.teacher: TeacherLogits | None = None
        self.check_rows: Callable[[Mapping[str, np.ndarray]], None] = lambda _: None
        self.augment = augment
        self.first_epoch = first_epoch
        self.splits = splits
        self.detector_seconds = 0.0
        self.detected = 0
        self.setup_seconds = 0.0
        self.features: torch.Tensor | None = None
        self.features_key: dict[str, object] | None = None
        self._feature_rows: np.ndarray | None = None  # (N, 2) of the whole data set
        self._states: torch.Tensor | None = None  # (R, D)
        self._captions = prepared.captions  # or, of each token, the row of its state
        self._is_ready = False

    def setup(self, stage: str) -> None:
        """Called by Lightning in every process: have the pictures checked or their features ready.

        Raises UserError for a picture that cannot be read, unless on_bad_image is "skip".
        """
        if self._is_ready:
            return
        self._is_ready = True
        start = time.monotonic()
        if self.states is not None:
            self._fill_states(self.states)
            self.states = None  # with the transformer in it, which is not needed any more
        if self.looks_at_pictures:
            self._look()
        self.setup_seconds = time.monotonic() - start

    def _fill_states(self, states: StoredStates) -> None:
        try:
            with pass_threads():
                self._states, self._captions = caption_states(
                    self.prepared.captions, states, cache_dir=self.cache_dir, device=self._device
                )
        except StoreUnavailable as reason:
            self.prepared.note(f"{reason}; the text transformer runs in every epoch instead")

    def _look(self) -> None:
        if self.detector is not None:
            self._detect(self.detector)
            return
        if self.stored is not None:
            try:
                self._fill_store(self.stored)
            except StoreUnavailable as reason:
                if self.stored.required:
                    raise UserError(f"features=on: {reason}") from reason
                self.prepared.note(f"{reason}; the backbone runs in every epoch instead")
        if self.features is None:
            wanted = self._wanted()
            self._leave_out(wanted[list(self._unreadable(wanted))])

    def _unreadable(self, rows: np.ndarray) -> dict[int, BadPicture]:
        """Why which of these rows' pictures cannot be read; raises it, unless they are skipped."""
        pictures = self.prepared.annotations.pictures
        bad = unreadable_pictures(
            [pictures[row] for row in rows], size=self.image_size, cache_dir=self.cache_dir
        )
        if bad and self.on_bad_image == "error":
            raise next(iter(bad.values()))
        return bad

    def _wanted(self) -> np.ndarray:
        return np.sort(np.concatenate([self.prepared.rows[split] for split in self.splits]))

    def _detect(self, detector: PictureScorer) -> None:
        wanted, annotations = self._wanted(), self.prepared.annotations
        found = detector_scores(
            [annotations.pictures[row] for row in wanted],
            detector,
            cache_dir=self.cache_dir,
            on_bad_image=self.on_bad_image,
        )
        self.detector_seconds, self.detected = found.detector_seconds, found.detected
        self.features = torch.from_numpy(found.array)
        # A mirrored picture has the same objects in it, so both views are one row.
        self._feature_rows = np.zeros((len(annotations), 2), dtype=np.int64)
        self._feature_rows[wanted] = np.arange(len(wanted))[:, None]
        self._leave_out(wanted[found.bad])

    def fill_part(self, part: int, parts: int, *, device: torch.device) -> tuple[Path, Filled]:
        """Compute and keep the features of every `parts`-th picture, the first of them `part`.

        For machines that share the work out; returns the store's folder and what was done. Raises
        UserError, and `StoreUnavailable` where the store cannot be read or written.
        """
        assert self.stored is not None
        store, _ = self._open_store(self.stored, device)
        # Each machine's cache has its own part alone.
        filled = self._fill(store, self.stored, device, rank=part, world_size=parts, shared=False)
        return store.folder, filled

    def _open_store(
        self, stored: StoredFeatures, device: torch.device
    ) -> tuple[FeatureStore, dict[str, object]]:
        key = stored.extractor.key(device)
        store = FeatureStore(
            self.cache_dir,
            key=key,
            size=self.image_size,
            width=stored.extractor.width,
            dtype=stored.dtype,
            max_gigabytes=stored.max_gigabytes,
            upright=self.upright,
        )
        return store, key

    def _flipped(self) -> np.ndarray:
        """(N,) bool: the rows of which training sees the mirrored picture, too."""
        flipped = np.zeros(len(self.prepared.annotations), dtype=bool)
        flipped[self.prepared.rows["train"]] = self.flip
        return flipped

    def _fill(
        self,
        store: FeatureStore,
        stored: StoredFeatures,
        device: torch.device,
        *,
        rank: int,
        world_size: int,
        shared: bool = True,
    ) -> Filled:
        wanted, pictures = self._wanted(), self.prepared.annotations.pictures
        with pass_threads():
            filled = store.fill(
                [pictures[row] for row in wanted],
                flipped=self._flipped()[wanted].tolist(),
                extract=stored.extractor.extract(device, size=self.image_size),
                device=device,
                batch_size=stored.batch_size,
                workers=stored.workers,
                rank=rank,
                world_size=world_size,
                shared=shared,
                on_bad_image=self.on_bad_image,
            )
        if filled.views:
            log.info("features of %d views in %.1f s", filled.views, filled.seconds)
        return filled

    def _fill_store(self, stored: StoredFeatures) -> None:
        pictures, trainer, device = self.prepared.annotations.pictures, self.trainer, self._device
        store, key = self._open_store(stored, device)
        shares = [(0, 1)]
        if trainer is not None:
            # Nodes with a cache each have only their own shares after the first pass.
            shares = [(trainer.global_rank, trainer.world_size)]
            shares += [(trainer.local_rank, trainer.num_devices)] * (trainer.num_nodes > 1)
        rows, features = self._read(store, pictures)
        for rank, processes in shares:
            if not self._agree(len(self._missing(rows)) > 0, every=False):
                break
            problem: StoreUnavailable | UserError | None = None
            try:
                self._fill(store, stored, device, rank=rank, world_size=processes)
            except (StoreUnavailable, UserError) as error:
                problem = error
            # One process that goes on alone would leave the others waiting for it for ever.
            agreed = self._agree(problem is None, every=True)
            rows, features = self._read(store, pictures)
            if not agreed:
                if problem is None:  # the first process speaks for all, and a picture may be it
                    self._unreadable(self._missing(rows))
                raise problem or StoreUnavailable("another process could not store its features")
        self.features = torch.from_numpy(features)
        self.features_key = key
        self._feature_rows = rows
        self._leave_out(self._without_features(rows))
        self._keep_on_gpu(device)

    def _read(self, store: FeatureStore, pictures: list[Path]) -> tuple[np.ndarray, np.ndarray]:
        """`store.rows` and `.array`; what one process cannot read is unavailable to all of them."""
        rows, features, problem = np.empty((0, 2), np.int64), np.empty(0), None
        try:
            rows = store.rows(pictures)
            features = store.array()
        except StoreUnavailable as error:
            problem = error
        if not self._agree(problem is None, every=True):
            raise problem or StoreUnavailable("another process could not read its features")
        return rows, features

    def _missing(self, rows: np.ndarray) -> np.ndarray:
        """The rows of which the store lacks a view that the run needs.

        `rows` says where each picture's are, see `FeatureStore.rows`.
        """
        wanted = self._wanted()
        lacks = (rows[wanted, 0] < 0) | (self._flipped()[wanted] & (rows[wanted, 1] < 0))
        return wanted[lacks]

    def _without_features(self, rows: np.ndarray) -> np.ndarray:
        """The rows whose pictures cannot be read; any other has its features by now."""
        missing = self._missing(rows)
        bad = self._unreadable(missing)
        if len(bad) < len(missing):
            changed = next(row for at, row in enumerate(missing) if at not in bad)
            picture = self.prepared.annotations.pictures[changed]
            raise UserError(
                f"{picture} changed while its features were computed, or what was written"
                f" to the cache {self.cache_dir} cannot be read again: start it again"
            )
        return missing

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _agree(self, decision: bool, *, every: bool) -> bool:
        """Whether every process of the run (or any) decides so; they wait for each other."""
        if self.trainer is None:
            return decision
        return self.trainer.strategy.reduce_boolean_decision(decision, all=every)

    def _keep_on_gpu(self, device: torch.device) -> None:
        """Move the features to a GPU with room for them, so that no step waits for a copy."""
        if device.type == "cuda" and self.features is not None:
            free, _ = torch.cuda.mem_get_info(device)
            if self.features.numel() * self.features.element_size() < free // 4:
                self.features = self.features.to(device)

    def _leave_out(self, bad: np.ndarray) -> None:
        self.prepared.leave_out(bad, "as their pictures cannot be read")
        self.check_rows(self.prepared.rows)

    def split(self, name: str, *, plain: bool = False) -> SplitRows:
        """The rows of one split, from stored features if there are any, else from pictures.

        `plain`: without what is added to training rows alone.
        """
        prepared = self.prepared
        rows = prepared.rows[name]
        part = prepared.annotations.take(rows)
        live = self.looks_at_pictures and self.features is None
        training = name == "train" and not plain
        return SplitRows(
            ids=part.ids,
            targets=part.targets,
            known=part.known,
            captions=self._captions.take(rows),
            states=self._states,
            pictures=part.pictures if live else None,
            features=self.features,
            feature_rows=None if self._feature_rows is None else self._feature_rows[rows],
            image_size=self.image_size,
            upright=self.upright,
            teacher=self.teacher.of(rows) if self.teacher and training else None,
            augment=self.augment if training else (),
        )

    def _loader(self, name: str, *, training: bool = False, plain: bool = False) -> DataLoader:
        """Batches of a split, in the order of training or its own; `plain`: as they are validated.

        With trainer.overfit_batches they are the same in every epoch.
        """
        dataset = self.split(name, plain=plain)
        workers = decoders(self.workers) if dataset.pictures else 0
        trainer = self.trainer
        batches = EpochBatches(
            len(dataset),
            batch_size=self.batch_size,
            seed=self.seed,
            training=training,
            flip=self.flip,
            lengths=dataset.captions.lengths if self.group_by_length else None,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        if training and not self._overfits:
            # Workers fetch the first batches before Lightning says of which epoch they are.
            batches.set_epoch(self.first_epoch)
        return DataLoader(
            dataset,
            batch_size=None,  # the sampler yields whole batches
            sampler=RepeatedBatches(batches, plain=plain) if self._overfits else batches,
            num_workers=workers,
            persistent_workers=workers > 0 and training and not plain,
            pin_memory=torch.cuda.is_available() and dataset.pictures is not None,
        )

    @property
    def _overfits(self) -> bool:
        return bool(self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined]

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        if device.type == "cpu":
            return batch
        # Lengths are needed on the CPU, to pack the captions.
        names = ("image", "tokens", "targets", "rows", "known", "teacher")
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
        if self._overfits:  # whether those that it trains on are learned by heart
            return self._loader("train", training=True, plain=True)
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        return self._loader("test")
