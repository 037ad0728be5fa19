"""The parts of a run: its data and its classifier, put together from settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities.types import LRSchedulerConfigType

from mmlabel.cache import cache_folder, file_digest, fingerprint
from mmlabel.checkpoint import Checkpoint, backbone_source, content, load_classifier
from mmlabel.criterion import MeanOverKnown
from mmlabel.data.annotations import Annotations
from mmlabel.data.caption_states import StoredStates
from mmlabel.data.datamodule import CaptionedPictures, StoredFeatures
from mmlabel.data.digests import data_digests, unreadable_pictures
from mmlabel.data.labels import label_summary, labels_without_rows
from mmlabel.data.options import CsvTable
from mmlabel.data.prepare import (
    PreparedData,
    with_captions,
    with_known_words,
    with_tokens,
    without_captions,
)
from mmlabel.data.splits import SPLITS, note_of_left_out
from mmlabel.data.subwords import Subwords
from mmlabel.data.transforms import shape_of
from mmlabel.distillation import (
    Teacher,
    check_teacher,
    in_words,
    read_teachers,
    taught_by,
    teacher_logits,
)
from mmlabel.errors import UserError
from mmlabel.lightning.classifier import BACKBONE, Classifier
from mmlabel.losses import Bce
from mmlabel.models.build import (
    BackboneSource,
    FrozenFeatures,
    build_network,
    caption_encoders,
    check_backbone,
)
from mmlabel.models.detectors import Detector, detector_digest, load_detector
from mmlabel.models.engines import device_for
from mmlabel.models.text_model import FrozenStates, TextModel, load_text_model
from mmlabel.models.text_options import ContextualEmbedding, TransformerCaption
from mmlabel.optimizers import build_optimizer, build_scheduler, parameter_groups
from mmlabel.repeating import DETECTOR_ALONE
from mmlabel.resuming import check_inputs, check_rows, check_teachers
from mmlabel.settings import Settings
from mmlabel.wording import count, listed, other_labels, quoted

log = logging.getLogger("mmlabel")


@dataclass(frozen=True)
class Run:
    """The parts of a run.

    Attributes:
        prepared: rows, splits, captions, word vectors.
        data: their batches.
        classifier: what is trained or evaluated.
        pretrained: where the weights of its parts come from, in words.
        inputs: digests of what it has read, see `inputs_read`.
        began_with: those of the run whose checkpoint it evaluates or goes on from; None where there
            is none, or it does not tell.
    """

    prepared: PreparedData
    data: CaptionedPictures
    classifier: Classifier
    pretrained: dict[str, str]
    inputs: dict[str, str]
    began_with: dict[str, str] | None = None


def build(settings: Settings, resumed: Checkpoint | None, *, wandb_id: str | None) -> Run:
    """The data, and a classifier for it: a new one, or the one to be evaluated."""
    if settings.train:
        return to_train(settings, resumed, wandb_id=wandb_id)
    return to_evaluate(settings)


def to_train(settings: Settings, resumed: Checkpoint | None, *, wandb_id: str | None) -> Run:
    """A new classifier, of whose weights the trainer will load those of `resumed`, and its data."""
    if settings.backbone is not None:
        check_backbone(
            settings.backbone,  # pyright: ignore[reportArgumentType]  # frozen, so it has a hash
            cells=settings.looks_at_cells,
            shape=shape_of(settings.data.view),
        )
    text = text_model_for(settings, resumed)
    teachers = read_teachers(settings.distil.teachers)
    prepared = prepare(settings, resumed, text, teachers)
    detector = detector_for(settings, prepared)
    backbone = backbone_source(settings)
    for note in backbone.notes if backbone else ():
        prepared.note(note)
    stored = stored_features(settings, backbone, note=prepared.note)
    states = None
    if text and isinstance(settings.embedding, ContextualEmbedding):
        states = StoredStates(
            FrozenStates(text, text.build(layers=0)), storage=settings.embedding.storage
        )
    data = batches_for(
        settings,
        prepared,
        stored=stored,
        detector=detector,
        states=states,
        first_epoch=resumed.epochs if resumed else 0,
    )
    inputs = inputs_read(
        data,
        backbone,
        text,
        resumed,
        looks_at_order=settings.looks_at_order,
        note=prepared.note,
    )
    if resumed is not None:
        check_inputs(resumed, inputs, prepared, settings)
    pretrained = where_from(prepared, backbone, text, detector)
    if teachers:
        pretrained["teacher"] = in_words(teachers)
        inputs["teacher"] = fingerprint([teacher.digest for teacher in teachers])
    check_teachers(resumed, pretrained.get("teacher"))
    classifier = new_classifier(
        settings,
        prepared,
        backbone=backbone,
        text=text,
        stored=stored is not None and not stored.extractor.maps,
        content=content(
            settings,
            prepared,
            pretrained=pretrained,
            inputs=inputs,
            taught=taught_by(teachers),
            wandb_id=wandb_id,
            text_model=text,
        ),
    )
    if teachers:
        # After the checkpoint's record of the rows: it is of those before any is left out.
        data.teacher = teacher_logits(
            teachers,
            prepared,
            cache_dir=data.cache_dir,
            on_bad_image=settings.data.on_bad_image,
        )
    # Its own checkpoint, after an interruption, is of the very same run.
    before = resumed.inputs if resumed is not None and settings.ckpt_path is not None else None
    return Run(prepared, data, classifier, pretrained, inputs, began_with=before)


def to_evaluate(settings: Settings) -> Run:
    """The classifier of a checkpoint, and the data to score it on."""
    assert settings.ckpt_path is not None
    double = settings.trainer.precision in ("64", "64-true")
    classifier, checkpoint = load_classifier(
        settings.ckpt_path, device=device_for(settings.trainer.accelerator), double=double
    )
    prepared = prepare(settings, checkpoint, checkpoint.text_model)
    detector = detector_for(settings, prepared)
    for note in checkpoint.notes:
        prepared.note(note)
    stored = stored_features(settings, checkpoint.backbone, note=prepared.note)
    data = batches_for(settings, prepared, stored=stored, detector=detector)
    inputs = inputs_read(
        data, None, checkpoint.text_model, checkpoint, looks_at_order=settings.looks_at_order
    )
    check_inputs(checkpoint, inputs, prepared, settings)
    if settings.threshold is not None:
        classifier.answer_at(settings.threshold, settings.threshold_metric)
    if checkpoint.rows is not None:
        classifier.rows_trained = len(checkpoint.rows["train"].ids)
    return Run(
        prepared,
        data,
        classifier,
        checkpoint.pretrained,
        inputs,
        began_with=checkpoint.inputs,
    )


def detector_for(settings: Settings, prepared: PreparedData) -> Detector | None:
    """The detector that finds a run's labels in its pictures, where it has one."""
    if settings.detector is None:
        return None
    return load_detector(**settings.detector.model_dump(), label_names=prepared.label_names)


def batches_for(
    settings: Settings,
    prepared: PreparedData,
    *,
    stored: StoredFeatures | None,
    detector: Detector | None,
    states: StoredStates | None = None,
    first_epoch: int = 0,
) -> CaptionedPictures:
    """The batches of a run; `first_epoch`: how many were trained before."""
    return CaptionedPictures(
        prepared,
        looks_at_pictures="image" in settings.inputs,
        image_size=settings.data.view,
        upright=settings.data.upright,
        flip=settings.data.flip,
        batch_size=settings.data.batch_size,
        workers=settings.data.workers,
        on_bad_image=settings.data.on_bad_image,
        seed=settings.seed,
        group_by_length=settings.group_by_length,
        augment=settings.data.augment,
        cache_dir=cache_folder(settings.cache_dir),
        stored=stored,
        detector=detector,
        states=states,
        first_epoch=first_epoch,
        splits=looked_at(settings),
    )


def looked_at(settings: Settings) -> list[str]:
    """The splits that a run trains on or scores."""
    trains = settings.train or settings.trainer.overfit_batches  # which validates on training rows
    asked = {"train": trains, "val": True, "test": settings.test}
    return [split for split in SPLITS if asked[split]]


def where_from(
    prepared: PreparedData,
    backbone: BackboneSource | None,
    text: TextModel | None,
    detector: Detector | None,
) -> dict[str, str]:
    """Where the weights of a new classifier's parts come from, in words."""
    source = prepared.embeddings.source if prepared.embeddings else "not used"
    if text is not None:
        source = f"{text.name} (text transformer)"
    return {
        "backbone": backbone.weights if backbone else "not used",
        "embedding": source,
        "detector": f"{detector.name}, {detector.weights_used}" if detector else "not used",
    }


def stored_features(
    settings: Settings, backbone: BackboneSource | None, *, note: Callable[[str], None]
) -> StoredFeatures | None:
    """How a run looks at pictures through stored features; None: its backbone runs.

    Args:
        settings: of the run.
        backbone: None where the weights that it began with are not known, or there is none.
        note: is told where features=on is not kept to.
    """
    chosen = settings.features
    if chosen is None:
        return None
    if backbone is None and not settings.train and chosen.mode == "on":
        note(
            f"features=on: {settings.ckpt_path} is of an earlier version, which does not say with"
            " which weights its backbone began, or normalised pictures in another way, so the"
            " backbone runs"
        )
    if backbone is None or not backbone.frozen:
        return None
    if settings.data.augment:
        # Evaluated in the same way, too: scores are then the run's own to the last digit.
        if settings.train:
            log.info("data.augment changes the pictures, so the backbone runs in every epoch")
        return None
    if chosen.mode == "off":
        return None
    return StoredFeatures(
        extractor=FrozenFeatures(backbone, chosen.engine),
        storage=chosen.storage,
        max_gigabytes=chosen.max_gigabytes,
        required=chosen.mode == "on",
        batch_size=chosen.batch_size,
        workers=chosen.workers,
    )


def text_model_for(settings: Settings, resumed: Checkpoint | None) -> TextModel | None:
    """The text transformer that reads captions, of the checkpoint if there is one."""
    chosen = settings.text_transformer
    if chosen is None or resumed is not None:
        return resumed and resumed.text_model
    trained = isinstance(chosen, TransformerCaption)
    return load_text_model(
        chosen.model,
        option="caption.model" if trained else "embedding.model",
        max_length=chosen.max_length,
        unfreeze=chosen.unfreeze if trained else None,
    )


def inputs_read(
    data: CaptionedPictures,
    backbone: BackboneSource | None,
    text: TextModel | None,
    resumed: Checkpoint | None,
    *,
    looks_at_order: bool,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """A digest of each thing that a run reads, so that another run can tell what has changed.

    Captions and vectors are digested as the network gets them: what WordNet and the vectors' file
    made of the run's words, whatever else there is in them. `note` is that of `data_digests`.
    """
    prepared, captions = data.prepared, data.prepared.captions
    read = data_digests(
        prepared.annotations,
        prepared.rows,
        looks_at_pictures=data.looks_at_pictures,
        looks_at_order=looks_at_order,
        cache_dir=data.cache_dir,
        note=note,
    )
    if len(captions.ids):
        read["words"] = fingerprint(prepared.vocabulary.words, captions.ids, captions.offsets)
    if prepared.embeddings is not None:
        vectors = prepared.embeddings
        read["vectors"] = fingerprint(vectors.matrix)
        if vectors.ready_made:  # but for the words that they lack, whose vectors follow the seed
            read["ready-made vectors"] = fingerprint(vectors.matrix[vectors.found])
    if backbone is not None:
        read["backbone"] = backbone.digest
    if text is not None and resumed is None:
        read["text transformer"] = text.digest
    if data.detector is not None:
        key = data.detector.key()
        read["detector"] = fingerprint(key)
        read[DETECTOR_ALONE] = detector_digest(key)
    if resumed is not None:
        read["checkpoint"] = file_digest(resumed.path)[:32]
    return read


def _with_labels_of(
    checkpoint: Checkpoint, annotations: Annotations, settings: Settings
) -> Annotations:
    """A table whose labels are some of the checkpoint's, with all of them.

    Lists are read once more: a label that none of them has is one that no row has. Of a label
    without a column it is not known which rows have it.
    """
    data, theirs = settings.data, checkpoint.label_names
    ours = {"", *annotations.label_names}
    others = ours - {"", *theirs}
    if (
        annotations.label_names == theirs
        or others
        or not isinstance(data, CsvTable)
        or data.label_names is not None
    ):
        return annotations
    if data.label_columns is not None:
        lacking = [quoted(name) for name in theirs if name not in ours]
        note = f"{data.file}: {listed(lacking)}: no such column, so these labels count nowhere"
        notes = (*annotations.notes, *([note] if lacking else []))
        return replace(annotations.under(theirs), notes=notes)
    return data.model_copy(update={"label_names": theirs, "num_labels": None}).read(
        cache_dir=cache_folder(settings.cache_dir),
        require_pictures="image" in settings.inputs,
        require_captions="caption" in settings.inputs,
    )


def prepare(
    settings: Settings,
    resumed: Checkpoint | None,
    text: TextModel | None = None,
    teachers: Sequence[Teacher] = (),
) -> PreparedData:
    """Rows, splits, captions and word vectors, as the model or the checkpoint needs them.

    Raises UserError for teachers that do not fit them, see `distillation.check_teacher`.
    """
    cache_dir = cache_folder(settings.cache_dir)
    looks_at = {*settings.inputs, *(half for teacher in teachers for half in teacher.inputs)}
    annotations = settings.data.read(
        cache_dir=cache_dir,
        require_pictures="image" in looks_at,
        require_captions="caption" in looks_at,
    )
    if resumed is not None and not settings.train:
        annotations = _with_labels_of(resumed, annotations, settings)
    if settings.data.own_labels:
        for line in label_summary(annotations):
            log.info("%s", line)
    rows = settings.data.divide(annotations, cache_dir=cache_dir)
    for line in labels_without_rows(annotations, rows):
        log.info("%s", line)
    check_known(annotations, rows, settings)
    if settings.train and settings.looks_at_order and annotations.label_order is None:
        raise UserError(
            "decoder.order=as_given needs a data file that lists each row's labels in an order, and"
            " this data has none: choose frequent_first, rare_first or random"
        )
    if resumed is not None:
        check_labels(resumed, annotations, settings)
    if settings.train and len(rows["train"]) == 1 and settings.has_batch_norm:
        raise UserError(
            "the training split has 1 row: batch norm cannot train on one row at a time; use more"
            " rows, or model.head.batch_norm=false"
        )
    prepared = read_captions(settings, annotations, rows, resumed, text)
    for note in annotations.notes:
        prepared.note(note)
    prepared.note(note_of_left_out(annotations.ids, rows))
    if resumed is not None:
        check_rows(resumed, prepared, settings)
        check_known(annotations, prepared.rows, settings)  # rows may have been left out
    for teacher in teachers:
        check_teacher(teacher, prepared, allow_seen_rows=settings.distil.allow_seen_rows)
    return prepared


def read_captions(
    settings: Settings,
    annotations: Annotations,
    rows: dict[str, np.ndarray],
    resumed: Checkpoint | None,
    text: TextModel | None,
) -> PreparedData:
    """The captions as the model reads them: as tokens, as words (a checkpoint's, or those that
    occur in training), or not at all."""
    captions, embedding, reader = settings.captions, settings.embedding, settings.text_transformer
    if reader is not None and text is not None:
        tokenizer = Subwords(text.tokenizer)
        return with_tokens(annotations, rows, tokenizer, max_length=reader.max_length)
    if captions is None or embedding is None:
        return without_captions(annotations, rows, resumed and resumed.vocabulary)
    if resumed is not None and not settings.train:
        known, most = resumed.vocabulary, captions.max_length
        return with_known_words(annotations, rows, known, max_length=most)
    return with_captions(
        annotations,
        rows,
        training=_training_rows(settings, annotations, rows),
        **captions.model_dump(exclude={"group_by_length"}),
        embedding=embedding.model_dump(exclude={"frozen", "dropout"}),
        seed=settings.seed,
        cache_dir=cache_folder(settings.cache_dir),
        on_missing=settings.data.on_missing,
    )


def _training_rows(
    settings: Settings, annotations: Annotations, rows: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Those of the training split that will be trained on: without what cannot be read, if that is
    skipped. The network is built before the batches meet it."""
    training = rows["train"]
    if settings.data.on_bad_image == "error" or "image" not in settings.inputs:
        return training
    # Of all that is looked at, so that it is remembered for where pictures are live.
    wanted = np.sort(np.concatenate([rows[split] for split in looked_at(settings)]))
    bad = unreadable_pictures(
        [annotations.pictures[row] for row in wanted],
        size=settings.data.view,
        cache_dir=cache_folder(settings.cache_dir),
    )
    return np.setdiff1d(training, wanted[list(bad)])


def check_labels(resumed: Checkpoint, annotations: Annotations, settings: Settings) -> None:
    """See that the data has the checkpoint's labels; raises UserError if not."""
    if annotations.label_names == resumed.label_names:
        return
    hint = "give the data that it was trained on, or their labels in data.label_names"
    if not settings.train and set(annotations.label_names) - {"", *resumed.label_names}:
        columns = isinstance(settings.data, CsvTable) and settings.data.label_columns
        place = "data.label_columns" if columns else "the data"
        hint = f"what it lacks it cannot answer: leave that out of {place}"
    raise UserError(
        f"{resumed.path} has other labels than the data: it"
        f" {other_labels(resumed.label_names, annotations.label_names)}; {hint}"
    )


def check_known(
    annotations: Annotations, rows: Mapping[str, np.ndarray], settings: Settings
) -> None:
    """See that some label is known in each split that is learned or scored.

    Raises UserError otherwise: loss and scores would be 0, which a best epoch would be chosen by.
    """
    known = annotations.known
    if known is None:
        return
    looked_at = {
        "train": settings.train and settings.optimizer is not None,
        "val": settings.trainer.limit_val_batches != 0,
        "test": settings.test and settings.trainer.limit_test_batches != 0,
    }
    for split, own in rows.items():
        if looked_at[split] and len(own) and not known[own].any():
            instead = " or add test=false" if split == "test" else " or data.uncertain=0"
            raise UserError(
                f"no label is known in the {split} split: in all of its"
                f" {count(len(own), 'row')} data.label_columns are -1 or empty; divide the rows"
                f" otherwise (data.splits, data.split_seed){instead}"
            )


def new_classifier(
    settings: Settings,
    prepared: PreparedData,
    *,
    backbone: BackboneSource | None,
    text: TextModel | None,
    stored: bool,
    content: dict[str, Any],
) -> Classifier:
    """An untrained classifier for prepared data; `stored`: without the backbone in its network."""
    targets, order = prepared.training_targets, prepared.training_label_order
    vectors, embedding = prepared.embeddings, settings.embedding
    frozen = getattr(embedding, "frozen", False)
    image_features = backbone.width if backbone else None
    if settings.detector is not None:
        image_features = prepared.annotations.num_labels
    network = build_network(
        settings.model,
        num_labels=prepared.annotations.num_labels,
        image_features=image_features,
        size_columns=backbone.info.size_columns if backbone else (),
        backbone=None if stored or backbone is None else backbone.backbone,
        attention=settings.backbone.attention if settings.backbone else None,
        caption_encoder=caption_encoders(
            settings.lstm,
            num_words=len(prepared.vocabulary),
            embedding_dim=vectors.matrix.shape[1] if vectors else None,
            embeddings=torch.from_numpy(vectors.matrix) if vectors else None,
            freeze_embeddings=bool(vectors and vectors.pretrained and frozen),
            embedding_dropout=embedding.dropout if embedding else 0.0,
            text=text,
            text_options=settings.text_transformer,
        ),
        decoder=settings.decoder,
        label_frequency=targets.sum(axis=0),
        given_order=None if order is None else torch.from_numpy(order),
    )
    return Classifier(
        network=network,
        criterion=criterion_for(settings, targets, prepared.training_known),
        label_names=prepared.label_names,
        threshold=settings.answers_at,
        threshold_metric=settings.threshold_metric,
        seed=settings.seed,
        configure=optimizer_for(settings),
        content=content,
        backbone=backbone if stored else None,
        # Of a method a copy, as averages of weights are, would have a copy of all rows.
        note=lambda note: prepared.note(note),
    )


def criterion_for(
    settings: Settings, targets: np.ndarray, known: np.ndarray | None
) -> MeanOverKnown:
    """The loss; a model that has one of its own is evaluated with plain cross-entropy."""
    if settings.loss is None:
        return MeanOverKnown(Bce(name="bce"))
    criterion = MeanOverKnown(
        settings.loss,
        pos_weight=np.ones(targets.shape[1]),
        teacher_weight=settings.distil.weight,
        temperature=settings.distil.temperature,
    )
    criterion.weigh(targets, known)
    return criterion


def optimizer_for(settings: Settings) -> Callable[[torch.nn.Module, int], Any] | None:
    """Builds the optimizer and schedule of a network over so many steps."""
    chosen = settings.optimizer
    if chosen is None:
        return None

    scales = {}
    if settings.backbone is not None:
        scales[BACKBONE.removeprefix("network.").rstrip(".")] = settings.backbone.lr_scale
    if isinstance(settings.caption, TransformerCaption):
        scales["encoders.caption.transformer"] = settings.caption.lr_scale

    def configure(network: torch.nn.Module, steps: int) -> dict[str, Any]:
        groups = parameter_groups(network, lr=chosen.lr, lr_scales=scales)
        optimizer = build_optimizer(groups, **chosen.model_dump())
        schedule = scheduler_for(settings)(optimizer, steps)
        return {"optimizer": optimizer} | ({"lr_scheduler": schedule} if schedule else {})

    return configure


def scheduler_for(
    settings: Settings,
) -> Callable[[torch.optim.Optimizer, int], LRSchedulerConfigType | None]:
    """Builds the schedule of an optimizer over so many steps."""
    chosen = settings.scheduler

    def schedule(optimizer: torch.optim.Optimizer, steps: int) -> LRSchedulerConfigType | None:
        assert chosen is not None
        return build_scheduler(
            optimizer,
            **chosen.model_dump(),
            steps=steps,
            monitor=settings.monitor,
            mode=settings.monitor_mode,
        )

    return schedule
