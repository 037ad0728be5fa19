"""Options that change nothing beside the others: given on a command line, they are refused.

A mistake is behind them more often than not (features of another model, a rate of what is not
trained), and whoever compares two runs that differ in such an option compares a run with itself.
Only what is given counts, whatever its value: a default that does not matter says nothing, and a
checkpoint or record that holds such an option is read as it is.
"""

from collections.abc import Iterator

from mmlabel.data.options import Coco, CsvTable, Scenes, Splits
from mmlabel.data.sources.json_lines import JSON_LINES
from mmlabel.models.options import DetectorFusion, DetectorModel, Ensemble
from mmlabel.options import shown
from mmlabel.settings import OPTIONAL, Settings, why_unused

# Of training, which a model that is not trained has none of.
_OF_TRAINING = (
    "monitor", "patience", "callbacks.ema", "callbacks.swa_start", "trainer.max_epochs",
    "trainer.min_epochs", "trainer.max_steps", "trainer.max_time", "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm", "trainer.accumulate_grad_batches",
    "trainer.limit_train_batches", "trainer.val_check_interval",
    "trainer.check_val_every_n_epoch", "trainer.sync_batchnorm",
)  # fmt: skip
_OF_VALIDATION = (
    "monitor", "patience", "trainer.val_check_interval", "trainer.check_val_every_n_epoch",
)  # fmt: skip


def without_effect(settings: Settings) -> dict[str, str]:
    """The options, and the groups, that change nothing in a run of these settings, each with why.

    What begins with a checkpoint has its options from there, with which those given are compared;
    see `without_effect_there`.
    """
    if not settings.train:
        return {"max_megabytes": "train=false: a size is checked before training"}
    return {} if settings.ckpt_path is not None else without_effect_there(settings)


def without_effect_there(settings: Settings) -> dict[str, str]:
    """`without_effect` of settings of which nothing is left to come from a checkpoint."""
    rules = (_data, _features, _captions, _networks, _training, _validation, _limits)
    return unused_groups(settings) | {n: why for rule in rules for n, why in rule(settings)}


def unused_groups(settings: Settings) -> dict[str, str]:
    """The groups that the model, or its caption's half, does not use, each with why."""
    idle = [group for group in OPTIONAL if getattr(settings, group) is None]
    return {group: f"{why_unused(group, settings)}, which does not use {group}" for group in idle}


Found = Iterator[tuple[str, str]]


def _all(names: tuple[str, ...], why: str) -> Found:
    return ((name, why) for name in names)


def _data(settings: Settings) -> Found:
    data, model = settings.data, settings.model
    # The built-in pictures are drawn at the size at which they are seen.
    shape = () if isinstance(data, Scenes) else ("data.crop", "data.image_size")
    if "image" not in settings.inputs:
        teacher = settings.distil.teacher is not None  # which may look at them
        names = (*shape, "data.upright", "data.flip", "data.augment")
        names += () if teacher else ("data.on_bad_image",)
        yield from _all(names, f"model={model.name}, which looks at no pictures")
    if isinstance(model, DetectorModel | DetectorFusion):
        why = f"model={model.name}: a detector sees whole pictures upright, at detector.image_size"
        yield from _all((*shape, "data.upright", "data.flip", "data.augment"), why)
    if isinstance(data, Splits) and data.splits is not None:
        names = ("data.fractions", "data.split_seed")
        yield from _all(names, "data.splits, which says which rows are in which split")
    if isinstance(data, Coco) and not data.download:
        names = ("data.year", "data.subset", "data.base_url")
        yield from _all(names, "data.download=false: they say what is downloaded")
    if isinstance(data, CsvTable):
        if data.label_columns is None:
            yield "data.uncertain", "data.label_column: it is of data.label_columns"
        else:
            names = ("data.label_column", "data.separator")
            yield from _all(names, "data.label_columns, in which there are no lists of labels")
        if data.several_captions == "error":
            yield "data.caption_seed", "data.several_captions=error: none of several is chosen"
        if data.file.lower().endswith(JSON_LINES):
            yield "data.delimiter", f"data.file={data.file}: JSON lines have no delimiter"


def _features(settings: Settings) -> Found:
    backbone, features = settings.backbone, settings.features
    if backbone is None or features is None:
        return
    if backbone.frozen and not backbone.unfreeze:
        yield "backbone.lr_scale", "backbone.frozen=true, as none of it is trained"
    if backbone.beside is None:
        yield "backbone.beside_weights", "backbone.beside=null: there is no second backbone"
    why = None if backbone.frozen else "backbone.frozen=false, whose features are not kept"
    why = "features=off, as none are kept" if features.mode == "off" else why
    why = "data.augment, which gives others in every epoch" if settings.data.augment else why
    if why is not None:
        parts = ("precision", "storage", "max_gigabytes", "batch_size", "workers")
        yield from _all(tuple(f"features.{part}" for part in parts), why)


def _captions(settings: Settings) -> Found:
    if settings.lstm is not None and settings.lstm.layers == 1:
        yield "lstm.dropout", "lstm.layers=1: it is between layers"


def _networks(settings: Settings) -> Found:
    model, decoder = settings.model, settings.decoder
    if decoder is not None and decoder.beam_width == 1:
        yield "decoder.length_penalty", "decoder.beam_width=1, as there is no other to compare with"
    if not isinstance(model, Ensemble):
        return
    for half, count in (("image", model.image_networks), ("caption", model.caption_networks)):
        if not count:
            yield f"model.{half}_weight", f"model.{half}_networks=0"
    if not model.fusion_networks:
        names = ("fusion", "image_scale", "auxiliary_loss", "modality_dropout")
        why = "model.fusion_networks=0: it is of networks that see both halves"
        yield from _all(tuple(f"model.{name}" for name in names), why)


def _training(settings: Settings) -> Found:
    trainer = settings.trainer
    if settings.optimizer is None:
        yield from _all(_OF_TRAINING, f"model={settings.model.name}, of which nothing is trained")
    if not isinstance(settings.threshold, str):
        why = f"threshold={shown(settings.threshold)}, which is not found on validation"
        yield "threshold_metric", why
    if settings.distil.teacher is None:
        names = ("distil.weight", "distil.temperature", "distil.allow_seen_rows")
        yield from _all(names, "distil.teacher=null, as there is no teacher")
    elif settings.distil.weight == 1:
        yield "loss.smoothing", "distil.weight=1: training looks at no targets"
    if trainer.gradient_clip_val is None:
        yield "trainer.gradient_clip_algorithm", "trainer.gradient_clip_val=null: none is clipped"
    if trainer.devices == trainer.num_nodes == 1:
        yield "trainer.sync_batchnorm", "trainer.devices=1, as there is one process"


def _validation(settings: Settings) -> Found:
    trainer = settings.trainer
    if trainer.limit_val_batches == 0:
        yield from _all(_OF_VALIDATION, "trainer.limit_val_batches=0: nothing is validated")
    stops_early = settings.patience is not None and trainer.limit_val_batches != 0
    if not stops_early and trainer.max_time is None:
        yield "trainer.min_epochs", "patience=null, as nothing stops earlier"

    # A mean is of two epochs' ends at least. Where none is validated the last weights are scored.
    start, most = settings.callbacks.swa_start, trainer.max_epochs
    every = trainer.check_val_every_n_epoch or 1
    validated = 0 if trainer.limit_val_batches == 0 else (most or 0) // every * every
    if start is not None and most is not None and (validated or most) <= start + 1:
        seldom = f" and trainer.check_val_every_n_epoch={every}" if every > 1 else ""
        why = f"no epoch after {start}, counted from 0, is scored, so that nothing is averaged"
        yield "callbacks.swa_start", f"trainer.max_epochs={most}{seldom}: {why}"


def _limits(settings: Settings) -> Found:
    if settings.trainer.overfit_batches:
        names = ("trainer.limit_train_batches", "trainer.limit_val_batches")
        yield from _all(names, "trainer.overfit_batches, which stands in for them")
    if not settings.test:
        yield "trainer.limit_test_batches", "test=false"
    if not settings.logger.has_curves:
        why = "logger.wandb=null and logger.tensorboard=false, which alone draw its figures"
        yield from _all(("callbacks.device_stats", "trainer.log_every_n_steps"), why)
    if settings.logger.wandb is not None and not settings.test:
        names = ("logger.wandb.labels", "logger.wandb.predictions")
        yield from _all(names, "test=false: they are of test rows")
    if settings.logger.wandb is not None and not (settings.test and settings.report):
        off = "report=false" if settings.test else "test=false"
        yield "logger.wandb.page", f"{off}: there is no page"
