"""What a checkpoint holds, and how it is written, read, completed, resumed from and evaluated.

A checkpoint is Lightning's, with one more entry, "mmlabel": the run's settings, vocabulary, label
names, threshold and the rows it was trained on, all plain values or tensors, so that it loads with
`weights_only=True` and predicts with nothing beside it. The file ends in a checksum of its own
content, and is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.plugins.io import CheckpointIO

from mmlabel.cache import atomic_write
from mmlabel.classifier import BACKBONE, Classifier
from mmlabel.criterion import MeanOverKnown
from mmlabel.data.captions import Vocabulary
from mmlabel.data.prepare import PreparedData
from mmlabel.errors import UserError
from mmlabel.former_settings import completed
from mmlabel.losses import Bce
from mmlabel.models.build import BackboneSource, build_network
from mmlabel.options import Group, shown
from mmlabel.settings import Settings, differing, flatten, read_settings

# ---- The file -------------------------------------------------------------------------------

# A torch checkpoint is a zip archive, whose comment is the last thing in the file.
_SEAL = b"mmlabel sha256 "
_SEAL_BYTES = len(_SEAL) + 64


class SealedCheckpoints(CheckpointIO):
    """How Lightning writes checkpoints: whole or not at all, and with a checksum."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read_file(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint beside its place and move it there."""
    with atomic_write(path) as temporary:
        torch.save(content, temporary)
        _seal(temporary)


def _seal(path: Path) -> None:
    with open(path, "r+b") as file:
        data = bytearray(file.read())
        # The archive ends with the length of its comment, so far none.
        data[-2:] = _SEAL_BYTES.to_bytes(2, "little")
        seal = _SEAL + hashlib.sha256(data).hexdigest().encode()
        file.seek(len(data) - 2)
        file.write(data[-2:] + seal)


def _damaged(path: Path) -> bool:
    data = path.read_bytes()
    seal = data[-_SEAL_BYTES:]
    if seal.startswith(_SEAL):
        return hashlib.sha256(data[:-_SEAL_BYTES]).hexdigest().encode() != seal[len(_SEAL) :]
    # Of an earlier version, or damaged in its last bytes: the archive has checksums of its parts.
    if _SEAL[:8] in data[-2 * _SEAL_BYTES :]:
        return True
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is not None


def read_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file of this project, read with `weights_only=True`.

    Raises UserError if there is no such file, it is damaged, or it is something else.
    """
    if not path.is_file():
        raise UserError(f"ckpt_path: there is no file {path}")
    try:
        if _damaged(path):
            raise UserError(
                f"ckpt_path: {path} is damaged: its content does not match its checksum; use a"
                " copy of it, or another checkpoint"
            )
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        _check_shape(checkpoint)
    except UserError:
        raise
    except Exception as error:  # which one depends on what the file is instead
        raise UserError(
            f"ckpt_path: {path} is not a checkpoint of mmlabel, or is damaged"
            f" ({type(error).__name__})"
        ) from None
    return checkpoint


def _check_shape(checkpoint: Any) -> None:
    own = checkpoint["mmlabel"]
    parts: list[tuple[Any, type | tuple[type, ...]]] = [
        (own["settings"], dict),
        (own["vocabulary"], list),
        (own["label_names"], list),
        (own["pretrained"], dict),
        (own["threshold"], (float, int, list)),
        (own["forms"], (dict, type(None))),
        (own.get("rows"), (dict, type(None))),
        (checkpoint["state_dict"], dict),
        (checkpoint["epoch"], int),
    ]
    for part, kind in parts:
        if not isinstance(part, kind):
            raise TypeError
    texts = [*own["vocabulary"], *own["label_names"]]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError


# ---- What it holds --------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: of its file.
        settings: of the run that wrote it, completed with what they lack.
        vocabulary, label_names, pretrained, threshold: as `content` was given them.
        rows: what the run was trained, selected and tested on; None in older ones.
        epochs: finished epochs.
        wandb_id: of the run in wandb, if it was logged there.
        state_dict: weights.
    """

    path: Path
    settings: Settings
    vocabulary: Vocabulary
    label_names: list[str]
    pretrained: dict[str, str]
    threshold: float | list[float]
    rows: dict[str, Any] | None
    epochs: int
    wandb_id: str | None
    state_dict: dict[str, torch.Tensor]


def content(
    settings: Settings,
    prepared: PreparedData,
    *,
    pretrained: dict[str, str],
    wandb_id: str | None = None,
) -> dict[str, Any]:
    """What a run's checkpoints keep beside weights and threshold."""
    return {
        "settings": settings.plain(),
        "vocabulary": prepared.vocabulary.words,
        "forms": prepared.vocabulary.forms,
        "label_names": prepared.label_names,
        "pretrained": pretrained,
        "rows": rows_of(prepared),
        "wandb_id": wandb_id,
    }


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint; see `read_file` for the errors."""
    path = Path(path).expanduser()
    found = read_file(path)
    own = found["mmlabel"]
    try:
        settings = read_settings(completed(own["settings"]))
    except UserError as error:
        raise UserError(
            f"ckpt_path: {path} was written with options that this version does not read: {error}"
        ) from None
    try:
        vocabulary = Vocabulary(own["vocabulary"], own["forms"])
    except ValueError as error:
        raise UserError(f"ckpt_path: {path} is not a checkpoint of mmlabel: {error}") from None
    return Checkpoint(
        path=path,
        settings=settings,
        vocabulary=vocabulary,
        label_names=own["label_names"],
        pretrained=own["pretrained"],
        threshold=own["threshold"],
        rows=own.get("rows"),
        epochs=found["epoch"] + 1,
        wandb_id=own.get("wandb_id"),
        state_dict=found["state_dict"],
    )


# ---- From a checkpoint to a network ---------------------------------------------------------


def load_classifier(path: str | Path) -> tuple[Classifier, Checkpoint]:
    """A classifier as it was saved, ready to predict; see `read_file` for the errors."""
    checkpoint = read_checkpoint(path)
    settings, state = checkpoint.settings, dict(checkpoint.state_dict)
    backbone, image_features = None, None
    if settings.backbone is not None:
        # A run that was killed before its end has no backbone in its checkpoint: fetch it anew.
        source = BackboneSource(
            settings.backbone,
            seed=settings.seed,
            on_missing=settings.data.on_missing,
            built_in=any(key.startswith(BACKBONE) for key in state),
        )
        backbone, image_features = source.backbone, source.width
    elif settings.detector is not None:
        image_features = len(checkpoint.label_names)
    weights = state.get("criterion.pos_weight")
    classifier = Classifier(
        network=build_network(
            settings.model,
            num_labels=len(checkpoint.label_names),
            image_features=image_features,
            backbone=backbone,
            lstm=settings.lstm,
            decoder=settings.decoder,
            num_words=len(checkpoint.vocabulary),
            embedding_dim=_embedding_dim(state),
        ),
        criterion=MeanOverKnown(
            settings.loss or Bce(name="bce"),
            pos_weight=None if weights is None else weights.numpy(),
        ),
        label_names=checkpoint.label_names,
        threshold=checkpoint.threshold,
        seed=settings.seed,
    )
    found = {"state_dict": state, "mmlabel": {"threshold": checkpoint.threshold}}
    classifier.on_load_checkpoint(found)
    # Auxiliary classifiers of an earlier version only ever served training.
    state = {
        k: v for k, v in found["state_dict"].items() if not k.startswith("network.classifiers")
    }
    try:
        classifier.load_state_dict(state)
    except RuntimeError as error:
        line = str(error).splitlines()[-1].strip()
        raise UserError(
            f"ckpt_path: the weights in {checkpoint.path} do not fit its settings: {line}"
        ) from None
    return classifier.eval(), checkpoint


def _embedding_dim(state: Mapping[str, torch.Tensor]) -> int | None:
    weight = state.get("network.encoders.caption.embedding.weight")
    return None if weight is None else weight.shape[1]


def complete(path: Path, classifier: Classifier) -> None:
    """Give a finished run's checkpoint its final threshold, and the backbone if it lacks one."""
    checkpoint = read_file(path)
    if classifier.backbone is not None:
        weights = classifier.backbone.backbone.state_dict()
        checkpoint["state_dict"] |= {f"{BACKBONE}{key}": value for key, value in weights.items()}
    checkpoint["mmlabel"]["threshold"] = classifier.threshold
    write_checkpoint(checkpoint, path)


# ---- Its rows -------------------------------------------------------------------------------


def rows_of(prepared: PreparedData) -> dict[str, Any]:
    """Which rows a run is trained, selected and tested on."""
    annotations = prepared.annotations
    splits = {}
    for split, rows in prepared.rows.items():
        ids = _hashes(annotations.ids[row] for row in rows)
        targets = np.ascontiguousarray(annotations.targets[rows])
        digest = hashlib.sha256(ids.tobytes() + targets.tobytes()).hexdigest()
        splits[split] = {"digest": digest, "ids": torch.from_numpy(ids)}
    return {"data": annotations.fingerprint, "splits": splits}


def _hashes(ids: Iterable[str]) -> np.ndarray:
    """(n,) int64, a number for each image id."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in ids]
    return np.frombuffer(b"".join(digests), dtype=np.int64).copy()


def check_rows(checkpoint: Checkpoint, prepared: PreparedData, *, allow_other: bool) -> None:
    """See that the data's splits are those of the checkpoint's run.

    With `allow_other` they may differ: then the rows that the run was trained or selected on are
    left out of what is scored, and it is noted.

    Raises UserError where they differ and may not, or nothing is left to score.
    """
    if checkpoint.rows is None:
        prepared.note(
            "this checkpoint is of an earlier version and does not say which rows it was trained"
            " on: the scores are of other rows only if the data and its splits are unchanged"
        )
        return
    ours, theirs = rows_of(prepared)["splits"], checkpoint.rows["splits"]
    changed = [split for split in ours if ours[split]["digest"] != theirs[split]["digest"]]
    if not changed:
        return
    if not allow_other:
        raise UserError(
            f"the data's {_listed(changed)} rows are not those that {checkpoint.path} was trained,"
            " selected and tested with (the files have changed since); a score would not say what"
            " it seems to. data.allow_other_rows=true evaluates all the same, without the rows"
            " that it was trained on"
        )
    known = np.concatenate([theirs[split]["ids"].numpy() for split in ("train", "val")])
    ids = _hashes(prepared.annotations.ids)
    trained = np.flatnonzero(np.isin(ids, known))
    scored = np.concatenate([prepared.rows["val"], prepared.rows["test"]])
    seen = np.intersect1d(trained, scored)
    prepared.note(
        f"data.allow_other_rows: scored on other rows than the checkpoint's run; of {len(scored)}"
        f" validation and test rows, {len(seen)} that it was trained or selected on are left out"
    )
    for split in ("val", "test"):
        prepared.rows[split] = np.setdiff1d(prepared.rows[split], seen)
        if not len(prepared.rows[split]):
            raise UserError(
                f"no row is left in the {split} split that {checkpoint.path} was not trained or"
                " selected on"
            )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


# ---- Its settings against the command line's ------------------------------------------------

# What a command line may change: where things are and how the work is done, but not its meaning.
_PLACES = (
    "train", "test", "ckpt_path", "name", "study", "report", "cache_dir", "logger", "callbacks",
    "data.root", "data.workers", "data.on_bad_image", "data.on_missing", "data.allow_other_rows",
    "features.mode", "features.workers", "features.batch_size",
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy",
    "trainer.profiler", "trainer.detect_anomaly", "trainer.log_every_n_steps",
    "trainer.benchmark", "trainer.deterministic",
)  # fmt: skip
_EVALUATING = (
    *_PLACES, "threshold", "data.batch_size", "trainer.limit_test_batches",
    "trainer.limit_val_batches", "trainer.precision",
)  # fmt: skip
_RESUMING = (
    *_PLACES, "resume_lr", "trainer.max_epochs", "trainer.max_steps", "trainer.max_time",
)  # fmt: skip


def with_checkpoint(
    settings: Settings, overrides: Sequence[str], checkpoint: Checkpoint
) -> Settings:
    """The checkpoint's settings, with what the command line may change of them.

    Args:
        settings: of the command line.
        overrides: of the command line ("lstm.layers=2", "backbone=vgg16").
        checkpoint: to be evaluated, or resumed from if `settings.train`.

    Raises UserError for a given option that has another value than the checkpoint's and may not.
    """
    given = _given(settings, overrides)
    own, asked = checkpoint.settings.plain(), settings.plain()
    may_change = _RESUMING if settings.train else _EVALUATING
    flat_own, flat_asked = flatten(own), flatten(asked)
    other_data = not settings.train and settings.data.allow_other_rows
    for name in dict.fromkeys(_names(given, {**flat_own, **flat_asked})):
        mine, theirs = flat_asked.get(name), flat_own.get(name)
        moved = name == "data.file" and settings.data.name == "csv"  # the rows are compared later
        if _among(name, may_change) or moved or mine == theirs:
            continue
        if name.startswith("data.") and name != "data.image_size":
            if other_data:
                continue
            hint = "" if settings.train else (
                "; data.allow_other_rows=true evaluates all the same, without the rows that it was"
                " trained on"
            )  # fmt: skip
        else:
            hint = _hint(name, checkpoint.settings)
        raise UserError(
            f"{name}={shown(mine)}, but the checkpoint was trained with {name}={shown(theirs)}:"
            f" leave the option out, or give the same{hint}"
        )
    keep = own
    for name in flat_asked:
        moved = name == "data.file" and settings.data.name == "csv"
        if (_among(name, may_change) or moved) and _among(name, given):
            _put(keep, name, flat_asked[name])
    if other_data:
        keep["data"] = asked["data"] | {"image_size": own["data"]["image_size"]}
    keep |= {"train": settings.train, "ckpt_path": str(checkpoint.path), "logger": asked["logger"]}
    keep |= {"study": asked["study"], "name": asked["name"], "cache_dir": asked["cache_dir"]}
    keep["data"]["allow_other_rows"] = asked["data"]["allow_other_rows"]
    return read_settings(keep)


def _given(settings: Settings, overrides: Sequence[str]) -> list[str]:
    """The options that a command line sets, those of the files that it chooses too.

    A chosen file (`data=csv`) sets what differs from the defaults: it has to repeat no option that
    the checkpoint has another value of, nor one that is newer than the checkpoint.
    """
    given = [item.lstrip("+~").split("=", 1)[0].split("@")[0] for item in overrides]
    chosen = [name for name in given if name in Settings.model_fields and _is_group(settings, name)]
    # These files may set any option.
    everything = {"experiment", "debug", "hparams_search"} & set(given)
    set_by_files = [name for name in differing(settings) if everything or _among(name, chosen)]
    return [name for name in given if name not in chosen] + set_by_files


def _is_group(settings: Settings, name: str) -> bool:
    return isinstance(getattr(settings, name), Group)


def _hint(name: str, own: Settings) -> str:
    if name in ("optimizer.lr", "scheduler.name", "optimizer.name"):
        return "; resume_lr=RATE goes on at another learning rate"
    return ""


def _among(name: str, names: Iterable[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in names)


def _names(given: Iterable[str], flat: Mapping[str, Any]) -> Iterable[str]:
    """The options that are set, a group's each."""
    for item in given:
        yield from (name for name in flat if _among(name, [item]))


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *groups, option = name.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    values[option] = value


def check_length(settings: Settings, checkpoint: Checkpoint) -> None:
    """Raise UserError if a resumed run cannot have the epochs that it is asked for."""
    planned, wanted = checkpoint.settings.trainer.max_epochs, settings.trainer.max_epochs
    if wanted is not None and wanted < checkpoint.epochs:
        raise UserError(
            f"trainer.max_epochs={wanted}, but {checkpoint.path} has trained"
            f" {checkpoint.epochs} epochs already: give more"
        )
    schedule = settings.scheduler.name if settings.scheduler else "none"
    if schedule in ("one_cycle", "cosine") and wanted != planned and settings.resume_lr is None:
        rate = settings.optimizer.lr if settings.optimizer else 0
        raise UserError(
            f"trainer.max_epochs={shown(wanted)}, but scheduler={schedule} was laid out for"
            f" trainer.max_epochs={shown(planned)}, and its rate ends there: resume with the same,"
            f" or add resume_lr={rate:g} (or another rate) for a fresh {schedule} over the epochs"
            " that are left"
        )
