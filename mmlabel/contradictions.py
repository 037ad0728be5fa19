"""Options that are right by themselves and cannot be given together; `Settings` refuses them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmlabel.data.options import Splits
from mmlabel.models.options import DecoderModel, DetectorModel, Ensemble
from mmlabel.options import shown
from mmlabel.wording import count

if TYPE_CHECKING:
    from mmlabel.settings import Settings


def contradictions(settings: Settings) -> Iterator[str]:
    """What to say of each such mistake, the plainest first."""
    for rule in (_purpose, _pictures, _pyramid, _learning, _length, _threshold):
        yield from rule(settings)


def _purpose(settings: Settings) -> Iterator[str]:
    """Training, going on or evaluating, of which each takes options of its own."""
    trains, begins_with = settings.train, settings.ckpt_path
    if not trains and begins_with is None:
        yield "train=false evaluates a checkpoint: add ckpt_path=FILE"
    if settings.resume_lr is not None and not (trains and begins_with):
        yield "resume_lr is for a run that is resumed: add ckpt_path=FOLDER/last.ckpt"
    if settings.resume and (not trains or settings.resume_lr is not None):
        yield (
            f"resume=true with {'resume_lr' if trains else 'train=false'}: it goes on with a run's"
            " own training, exactly as it would have; leave one of the two out"
        )
    if trains and isinstance(settings.data, Splits) and settings.data.splits == "test":
        yield (
            "data.splits=test leaves no row to train on: it is for evaluating a checkpoint; add"
            " train=false ckpt_path=FILE, or give the file as ./test if it has that name"
        )
    if trains and settings.data.allow_other_rows:
        yield (
            "data.allow_other_rows is for evaluating a checkpoint: add train=false ckpt_path=FILE,"
            " or leave it out"
        )


def _pictures(settings: Settings) -> Iterator[str]:
    if settings.features and settings.features.mode == "on":
        if not settings.frozen_backbone:
            yield (
                "features=on with backbone.frozen=false: a backbone that is trained gives other"
                " features in every step, so they cannot be kept; choose one of the two"
            )
        if settings.data.augment:
            yield (
                f"features=on with data.augment={shown(settings.data.augment)}: pictures that"
                " change in every epoch give other features, so they cannot be kept; choose one of"
                " the two"
            )
    beside = settings.backbone and settings.backbone.beside
    if settings.fuses_by_attention and beside is not None:
        yield (
            "model.fusion=attention looks at one backbone's map, and there are two with"
            f" backbone.beside={beside}: leave one of the options out"
        )


def _pyramid(settings: Settings) -> Iterator[str]:
    levels, model = settings.backbone.pyramid if settings.backbone else 1, settings.model
    if isinstance(model, Ensemble) and model.one_size_each:
        networks = max(model.fusion_networks, model.image_networks if model.image_weight else 0)
        if levels == 1:
            yield (
                "model.one_size_each=true with backbone.pyramid=1, where pictures have one size:"
                " give backbone.pyramid=2, or leave it out"
            )
        elif networks < levels:
            yield (
                f"model.one_size_each=true: of {levels} sizes (backbone.pyramid) the larger would"
                f" be seen by none of {count(networks, 'network')}; give at least"
                f" model.fusion_networks={levels}, or leave it out"
            )
        elif model.image_weight == 0 and model.image_networks > 1 and settings.frozen_backbone:
            yield (
                f"model.one_size_each=true with model.image_networks={model.image_networks} and"
                " model.image_weight=0: from the second on they look at larger sizes, which stay"
                " frozen, so that they would train nothing; give model.image_networks=1"
            )
    if levels == 1:
        return
    option, factor = f"backbone.pyramid={levels}", 2 ** (levels - 1)
    if settings.fuses_by_attention:
        yield (
            f"model.fusion=attention looks at one map, and {option} gives {levels}: leave one of"
            " the options out"
        )
    size, view = shown(settings.data.image_size), settings.data.view
    sides = view if isinstance(view, tuple) else (view, view)
    if any(side % factor for side in sides):
        yield (
            f"{option} halves pictures {'once' if levels == 2 else f'{levels - 1} times'}, and"
            f" data.image_size={size} cannot be: give multiples of {factor}"
        )
    if min(sides) < 32 * factor:
        yield (
            f"{option}: of data.image_size={size} the smallest size has {min(sides) // factor} px,"
            " and needs 32: give larger pictures, or fewer sizes"
        )


def _learning(settings: Settings) -> Iterator[str]:
    model, teacher = settings.model, settings.distil.teacher
    if settings.train and settings.data.batch_size == 1 and settings.has_batch_norm:
        yield (
            "data.batch_size=1: batch norm cannot train on one row at a time; use more rows a"
            " batch, or model.head.batch_norm=false"
        )
    untrained = settings.frozen_backbone and not (settings.backbone and settings.backbone.unfreeze)
    if isinstance(model, Ensemble) and model.image_weight == 0 and untrained:
        yield (
            "model.image_weight=0 with a frozen backbone: a network of pictures alone that has no"
            " say in the answers is there to train the backbone; add backbone.unfreeze=N, or give"
            " model.image_networks=0"
        )
    if teacher is not None and isinstance(model, DecoderModel | DetectorModel):
        yield (
            f"distil.teacher with model={model.name}: what learns from a teacher is trained, and"
            " gives each label a probability of its own; choose another model, or leave it out"
        )
    if getattr(model, "mixup", 0.0):
        if settings.loss is not None and not settings.loss.linear_in_targets:
            yield (
                f"model.mixup with loss={settings.loss.name}, which says nothing sensible of a"
                " target between 0 and 1; choose another loss, or leave one of the two out"
            )
        if teacher is not None:
            yield (
                "model.mixup with distil.teacher: the teacher has not seen the mixed rows; leave"
                " one of the two out"
            )


def _length(settings: Settings) -> Iterator[str]:
    trainer, schedule = settings.trainer, settings.scheduler
    least, most, start = trainer.min_epochs, trainer.max_epochs, settings.callbacks.swa_start
    has_steps = trainer.max_steps != -1
    if least is not None and most is not None and least > most:
        yield (
            f"trainer.min_epochs={least} with trainer.max_epochs={most}: the least cannot be more"
            " than the most"
        )
    if most is None and trainer.max_time is None and not has_steps:
        yield "trainer.max_epochs=null needs another end: trainer.max_steps or trainer.max_time"
    if start is not None and most is not None and start >= most:
        yield (
            f"callbacks.swa_start={start} with trainer.max_epochs={most}: epochs are counted from"
            f" 0, so that none is averaged; start earlier, or train longer"
        )
    if schedule and schedule.name in ("one_cycle", "cosine") and most is None and not has_steps:
        yield (
            f"scheduler={schedule.name} is laid out over the whole run, whose length"
            " trainer.max_time alone does not tell: give trainer.max_epochs, or scheduler=none"
        )


def _threshold(settings: Settings) -> Iterator[str]:
    metric = settings.threshold_metric
    if metric != "f1_micro" and not isinstance(settings.threshold, str):
        yield (
            f"threshold_metric={metric} is for a threshold that is found on validation: add"
            " threshold=cv, or leave it out"
        )
