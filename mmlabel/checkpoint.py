"""What a checkpoint holds, and the way from a checkpoint back to a classifier.

A checkpoint is Lightning's, with one more entry, "mmlabel": the run's settings, vocabulary, label
names, threshold and the rows it was trained on, all plain values or tensors, so that it predicts
with nothing beside it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from mmlabel.criterion import MeanOverKnown
from mmlabel.data.captions import Vocabulary
from mmlabel.data.prepare import PreparedData
from mmlabel.data.transforms import shape_of
from mmlabel.errors import UserError, first_line
from mmlabel.former_settings import completed
from mmlabel.lightning.checkpoint_file import no_checkpoint, read_file, write_file
from mmlabel.lightning.classifier import BACKBONE, Classifier
from mmlabel.lightning.half_precision import TRANSFORMER, text_in_half
from mmlabel.losses import Bce
from mmlabel.models.build import BackboneSource, build_network, caption_encoders
from mmlabel.models.engines import Precision, has_bfloat16
from mmlabel.models.text_model import TextModel
from mmlabel.settings import Settings, read_settings

EMBEDDING = "encoders.caption.embedding.weight"  # the end of its name in a state dict


def _hashes_only(value: torch.Tensor) -> torch.Tensor:
    if value.dtype != torch.int64 or value.ndim != 1:
        raise ValueError("not a list of whole numbers")
    return value


class _Plain(BaseModel):
    # What a later version adds is left alone.
    model_config = ConfigDict(
        strict=True, frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )


class SplitRecord(_Plain):
    """The rows of one split, in hashes."""

    digest: str
    """Of ids and labels, in order."""
    captions: str
    """Of the captions, in order."""
    ids: Annotated[torch.Tensor, AfterValidator(_hashes_only)]
    """(n,) int64, of each image id."""


class TextModelRecord(_Plain):
    """A pretrained text transformer, but for its weights."""

    name: str
    config: dict[str, Any]
    tokenizer: str


class Content(_Plain):
    """The entry "mmlabel"."""

    settings: dict[str, Any]
    vocabulary: list[str]
    forms: dict[str, str] | None
    label_names: list[str]
    pretrained: dict[str, str]
    threshold: float | list[float]
    calibrated: bool = True
    """Whether that is final: threshold=auto and per_label find theirs when training has ended."""
    rows: dict[str, SplitRecord] | None = None
    """By split, what the run was trained, selected and tested on; None in older checkpoints."""
    taught: dict[str, Annotated[torch.Tensor, AfterValidator(_hashes_only)]] | None = None
    """In hashes, the rows that its teachers, and theirs, were trained ("train") and selected
    ("val") on; None where it has none, and where one of them does not tell."""
    inputs: dict[str, str] | None = None
    """A digest of each thing that the run has read; None in older checkpoints."""
    wandb_id: str | None = None
    text_model: TextModelRecord | None = None
    """The pretrained text transformer that reads captions, if one does."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: of its file.
        settings: of the run that wrote it, completed with what they lack.
        vocabulary, label_names, pretrained, threshold, calibrated, rows, taught, inputs: see
            `Content`.
        epochs: finished epochs.
        wandb_id: of the run in wandb, if it was logged there.
        text_model: that reads captions, with its pretrained weights where they are frozen.
        state_dict: weights.
        backbone: where the network was built of it; None, too, if it is not known which weights
            it began with, or if pictures are normalised in another way by now.
        notes: which weights, of those that it does not hold, are not what was asked for.
    """

    path: Path
    settings: Settings
    vocabulary: Vocabulary
    label_names: list[str]
    pretrained: dict[str, str]
    threshold: float | list[float]
    calibrated: bool
    rows: dict[str, SplitRecord] | None
    taught: dict[str, torch.Tensor] | None
    inputs: dict[str, str] | None
    epochs: int
    wandb_id: str | None
    text_model: TextModel | None
    state_dict: dict[str, torch.Tensor]
    backbone: BackboneSource | None = None
    notes: tuple[str, ...] = ()

    @property
    def seen(self) -> dict[str, np.ndarray] | None:
        """In hashes, the rows that it, or what it has learned from, was trained and selected on.

        By "train" and "val"; None where it does not tell.
        """
        if self.rows is None or ("teacher" in self.pretrained and self.taught is None):
            return None
        own = {split: record.ids for split, record in self.rows.items()}
        return joined([own, self.taught or {}])


def joined(rows: Iterable[Mapping[str, torch.Tensor | np.ndarray]]) -> dict[str, np.ndarray]:
    """The rows of several networks that are in "train" and in "val", each once."""
    found = {split: np.zeros(0, dtype=np.int64) for split in ("train", "val")}
    for one in rows:
        for split in found.keys() & one.keys():
            found[split] = np.union1d(found[split], one[split])
    return found


def content(
    settings: Settings,
    prepared: PreparedData,
    *,
    pretrained: dict[str, str],
    inputs: dict[str, str],
    taught: Mapping[str, np.ndarray] | None = None,
    wandb_id: str | None = None,
    text_model: TextModel | None = None,
) -> dict[str, Any]:
    """What a run's checkpoints keep beside weights and threshold, see `Content`."""
    return {
        "settings": settings.plain(),
        "vocabulary": prepared.vocabulary.words,
        "forms": prepared.vocabulary.forms,
        "label_names": prepared.label_names,
        "pretrained": pretrained,
        "rows": {split: record.model_dump() for split, record in record_rows(prepared).items()},
        "taught": taught and {split: torch.from_numpy(ids) for split, ids in taught.items()},
        "inputs": inputs,
        "wandb_id": wandb_id,
        "text_model": text_model and text_model.plain(),
    }


def record_rows(prepared: PreparedData) -> dict[str, SplitRecord]:
    """Which rows a run is trained, selected and tested on, by split."""
    annotations, records = prepared.annotations, {}
    for split, rows in prepared.rows.items():
        ids = hashes(annotations.ids[row] for row in rows)
        parts = [ids, annotations.targets[rows]]
        if annotations.known is not None:
            parts.append(annotations.known[rows])
        captions = hashes(annotations.captions[row] for row in rows)
        records[split] = SplitRecord(
            digest=_digest(*parts), captions=_digest(captions), ids=torch.from_numpy(ids)
        )
    return records


def hashes(texts: Iterable[str]) -> np.ndarray:
    """(n,) int64, a number for each text."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=np.int64).copy()


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Raises UserError if there is no such file, or it is damaged, something else, or of a version
    that this one does not read.
    """
    path = Path(os.path.expanduser(path))
    found = read_file(path)
    try:
        own = Content.model_validate(found["mmlabel"])
        vocabulary = Vocabulary(own.vocabulary, own.forms)  # to see whether it is one
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise no_checkpoint(path, f"{place}: {first['msg']}") from None
    except ValueError as error:
        raise no_checkpoint(path, first_line(error)) from None
    epoch = found.get("epoch")
    if not isinstance(epoch, int) or not -1 <= epoch < 2**31:
        raise no_checkpoint(path, "it does not say how many epochs it has trained")
    if isinstance(own.threshold, list) and len(own.threshold) != len(own.label_names):
        raise no_checkpoint(path, "it has not one threshold for each label")
    try:
        settings = read_settings(completed(own.settings))
    except UserError as error:
        raise UserError(
            f"ckpt_path: {path} was written with options that this version does not read: {error}"
        ) from None
    except Exception as error:  # settings in a shape that no version ever wrote
        raise no_checkpoint(path, f"its settings: {type(error).__name__}") from error
    if settings.captions and settings.captions.unknown_words == "similar":
        vocabulary = Vocabulary(own.vocabulary, own.forms, similar=True)
    return Checkpoint(
        path=path,
        settings=settings,
        vocabulary=vocabulary,
        label_names=own.label_names,
        pretrained=own.pretrained,
        threshold=own.threshold,
        calibrated=own.calibrated,
        rows=own.rows,
        taught=own.taught,
        inputs=own.inputs,
        epochs=_finished_epochs(found, epoch),
        wandb_id=own.wandb_id,
        text_model=_text_model(own.text_model, found["state_dict"]),
        state_dict=found["state_dict"],
    )


def _text_model(
    record: TextModelRecord | None, state: Mapping[str, torch.Tensor]
) -> TextModel | None:
    if record is None:
        return None
    # Where it is frozen, one stands for all networks of an ensemble.
    own: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        before, found, name = key.partition(TRANSFORMER)
        if found:
            own.setdefault(name, value)
    return TextModel(**record.model_dump(), state=own)


def _finished_epochs(checkpoint: Mapping[str, Any], epoch: int) -> int:
    # Lightning's "epoch" is the one being trained, also before its first step.
    return 0 if checkpoint.get("global_step") == 0 else epoch + 1


def load_classifier(
    path: str | Path, *, device: torch.device | None = None, double: bool = False
) -> tuple[Classifier, Checkpoint]:
    """A classifier as it was saved, ready to predict.

    Args:
        path: of the checkpoint.
        device: on which it will run: what is frozen of its backbone looks at pictures in float32
            where that has no bfloat16, with a note; None: in the run's precision in any case.
        double: whether its weights, which may be in double precision, stay so.

    Raises UserError as `read_checkpoint` does, and for a backbone that the checkpoint does not hold
    and whose weights are others by now.
    """
    checkpoint = read_checkpoint(path)
    settings, state = checkpoint.settings, dict(checkpoint.state_dict)
    precision, lowered = settings.frozen_precision, []
    if precision == "bfloat16" and device is not None and not has_bfloat16(device):
        precision = "float32"
        lowered.append(
            "the run's frozen backbone looked at pictures in bfloat16, for which this processor has"
            " no instructions: here it computes in float32, so that answers differ a little"
        )
    try:
        source = _source_of(checkpoint, precision)
        classifier = _classifier_for(checkpoint, source)
    except UserError:
        raise
    except Exception as error:  # settings or weights that no run could have
        raise no_checkpoint(
            checkpoint.path, f"no network can be built of it: {first_line(error)}"
        ) from error
    if double:
        classifier.double()
    found = {"state_dict": state}
    classifier.on_load_checkpoint(found)
    # Auxiliary classifiers of an earlier version only ever served training.
    state = {
        k: v for k, v in found["state_dict"].items() if not k.startswith("network.classifiers")
    }
    as_now = _normalises_as(classifier.state_dict(), state)
    try:
        classifier.load_state_dict(state)
    except RuntimeError as error:
        line = str(error).splitlines()[-1].strip()
        raise UserError(
            f"ckpt_path: the weights in {checkpoint.path} do not fit its settings"
            f" (model={settings.model.name}): {line}"
        ) from None
    if source is not None:
        known = not _holds_backbone(checkpoint) or "backbone" in (checkpoint.inputs or {})
        found = source if known and as_now else None
        checkpoint = replace(checkpoint, backbone=found, notes=(*source.notes, *lowered))
    return classifier.eval(), checkpoint


def _normalises_as(now: Mapping[str, torch.Tensor], then: Mapping[str, torch.Tensor]) -> bool:
    """Whether a network's pictures are normalised as its library says now, by which stores go."""
    own = ("mean", "std", "_scale", "_shift")
    return all(
        torch.equal(then[key], value)
        for key, value in now.items()
        if key.startswith(BACKBONE) and key.rpartition(".")[2].startswith(own) and key in then
    )


def _holds_backbone(checkpoint: Checkpoint) -> bool:
    return any(key.startswith(BACKBONE) for key in checkpoint.state_dict)


def backbone_source(
    settings: Settings,
    *,
    precision: Precision | None = None,
    built_in: bool = False,
    digest: str | None = None,
) -> BackboneSource | None:
    """The backbone of these settings, if any.

    Args:
        settings: of a run.
        precision: in which what is frozen of it looks at pictures; None: that of the settings.
        built_in: with weights that will come from a checkpoint.
        digest: of those, see `BackboneSource`.
    """
    if settings.backbone is None:
        return None
    return BackboneSource(
        settings.backbone,
        seed=settings.seed,
        on_missing=settings.data.on_missing,
        cells=settings.looks_at_cells,
        shape=shape_of(settings.data.view),
        precision=precision or settings.frozen_precision,
        built_in=built_in,
        digest=digest,
    )


def _source_of(checkpoint: Checkpoint, precision: Precision) -> BackboneSource | None:
    """The checkpoint's backbone.

    Of stored features only a finished run's best.ckpt holds it: for any other it is fetched anew.
    """
    built_in = _holds_backbone(checkpoint)
    then = (checkpoint.inputs or {}).get("backbone")
    digest = then if built_in else None
    source = backbone_source(
        checkpoint.settings, precision=precision, built_in=built_in, digest=digest
    )
    if source is not None and not built_in and then not in (None, source.digest):
        now = "; ".join([source.weights, *source.notes])
        raise UserError(
            f"{checkpoint.path} does not hold its backbone, as the best.ckpt of a finished run"
            f" does, and the backbone's weights have changed since: then"
            f" {checkpoint.pretrained.get('backbone')}, now {now}; restore them (random ones: the"
            " versions of torch, torchvision and timm that drew them), or go on with the run"
            f" (ckpt_path={checkpoint.path}), which then learns from those of now"
        )
    return source


def _classifier_for(checkpoint: Checkpoint, source: BackboneSource | None) -> Classifier:
    """Of the checkpoint's shape, with other weights yet."""
    settings, state = checkpoint.settings, checkpoint.state_dict
    backbone, image_features = None, None
    if source is not None:
        backbone, image_features = source.backbone, source.width
    elif settings.detector is not None:
        image_features = len(checkpoint.label_names)
    weights = state.get("criterion.pos_weight")
    # In an ensemble each member has its own, all of one shape.
    vectors = (value for key, value in state.items() if key.endswith(EMBEDDING))
    embedding = next(vectors, None)
    return Classifier(
        network=build_network(
            settings.model,
            num_labels=len(checkpoint.label_names),
            image_features=image_features,
            size_columns=source.info.size_columns if source else (),
            backbone=backbone,
            attention=settings.backbone.attention if settings.backbone else None,
            caption_encoder=caption_encoders(
                settings.lstm,
                num_words=len(checkpoint.vocabulary),
                embedding_dim=None if embedding is None else embedding.shape[1],
                text=checkpoint.text_model,
                text_options=settings.text_transformer,
            ),
            decoder=settings.decoder,
        ),
        criterion=MeanOverKnown(
            settings.loss or Bce(name="bce"),
            # numpy has no bfloat16 (trainer.precision=bf16-true).
            pos_weight=None if weights is None else weights.float().numpy(),
        ),
        label_names=checkpoint.label_names,
        threshold=checkpoint.threshold,
        seed=settings.seed,
    )


def complete(path: Path, classifier: Classifier, *, halves_text: bool, cache_dir: Path) -> None:
    """Give a finished run's checkpoint its final threshold, and the backbone if it lacks one.

    With `halves_text` its text transformer is brought to half precision. The backbone's weights may
    be in `cache_dir`.
    """
    checkpoint = read_file(path)
    if halves_text:
        checkpoint["state_dict"] = text_in_half(checkpoint["state_dict"])
    if classifier.backbone is not None:
        weights = classifier.backbone.weights_kept(cache_dir).state_dict()
        checkpoint["state_dict"] |= {f"{BACKBONE}{key}": value for key, value in weights.items()}
    checkpoint["mmlabel"] |= {"threshold": classifier.threshold, "calibrated": True}
    write_file(checkpoint, path)
