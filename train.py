"""Train, select on validation, test once: `python train.py --help` shows the options."""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import Logger

from mmlabel.callbacks import (
    BestCheckpoint,
    LastCheckpoint,
    StopOnNaN,
    progress_callback,
    quiet_lightning,
)
from mmlabel.classifier import (
    CALIBRATED,
    Classifier,
    complete_checkpoint,
    load_classifier,
    read_checkpoint,
)
from mmlabel.cli import (
    CONF,
    fail,
    is_multirun,
    one_job,
    output_folder,
    plain_settings,
    run_cli,
    sweep_name,
    task_overrides,
)
from mmlabel.data.datamodule import CaptionedPictures
from mmlabel.errors import UserError, nearest
from mmlabel.losses import positive_weights
from mmlabel.models.build import BackboneSource, build_network, network_inputs, uses_detector
from mmlabel.models.detectors import load_detector
from mmlabel.record import describe
from mmlabel.resume import continued, evaluated, replay_history
from mmlabel.run_folder import write_failure, write_run
from mmlabel.terminal import print_table
from mmlabel.tracking import loggers_for, summarise

log = logging.getLogger("mmlabel")

FEATURE_MODES = ("auto", "on", "off")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """One run of the configuration; returns the monitored score, for searches."""
    folder = output_folder()
    try:
        with one_job(folder):
            results = train(
                plain_settings(cfg), folder, overrides=task_overrides(), group=sweep_name()
            )
    except Exception as error:
        write_failure(folder, error)
        if is_multirun():
            # Hydra goes on with the other jobs, and raises this one's error after the last.
            log.error("%s failed: %s", " ".join(task_overrides()) or "the run", error)
        elif isinstance(error, UserError):
            fail(error)
        raise
    return results["scores"].get(cfg.monitor)


def train(
    settings: dict, folder: Path, *, overrides: Sequence[str] = (), group: str | None = None
) -> dict:
    """One run, from settings to the files in `folder`; returns what results.json holds.

    Args:
        settings: the resolved configuration, as plain Python values.
        folder: where the run's files go.
        overrides: what the run was given on the command line; names the run.
        group: what the runs of a sweep have in common.

    Raises:
        UserError: a mistake in the settings or the data.
    """
    quiet_lightning()
    started, overrides = time.monotonic(), list(overrides)
    checkpoint = settings["ckpt_path"]
    if checkpoint is not None:
        settings = (continued if settings["train"] else evaluated)(settings, overrides)
    elif not settings["train"]:
        raise UserError("train=false evaluates a checkpoint: add ckpt_path=FILE")

    with loggers_for(settings, folder=folder, overrides=overrides, group=group) as loggers:
        pl.seed_everything(settings["seed"], workers=True, verbose=False)
        data, classifier = build(settings)
        trainer = build_trainer(settings, folder=folder, loggers=loggers)
        ready = time.monotonic()

        if settings["train"] and any(p.requires_grad for p in classifier.parameters()):
            if checkpoint is not None:
                replay_history(Path(checkpoint), loggers)
            trainer.fit(classifier, data, ckpt_path=checkpoint, weights_only=True)
            checkpoint = trainer.checkpoint_callback.best_model_path or None
        epochs = trainer.current_epoch
        trained = time.monotonic()

        # The weights of the best epoch; the test split is looked at once, with them.
        trainer.validate(classifier, data, ckpt_path=checkpoint, verbose=False, weights_only=True)
        if settings["threshold"] in CALIBRATED:
            classifier.calibrate()
        if settings["test"]:
            trainer.test(classifier, data, verbose=False)
        ended = time.monotonic()

        variant = settings["study"]["variant"]
        results = describe(
            settings=settings,
            study=settings["study"]["name"],
            # Hydra reads a variant named "2" as a number.
            variant=None if variant is None else str(variant),
            overrides=overrides,
            data=data,
            classifier=classifier,
            tested=settings["test"],
            epochs=epochs,
            best_epoch=read_checkpoint(Path(checkpoint))["epoch"] if checkpoint else None,
            seconds={
                "setup": ready - started,
                "train": trained - ready,
                "test": ended - trained,
                "total": ended - started,
            },
        )
        if trainer.is_global_zero:
            if settings["train"] and checkpoint:
                complete_checkpoint(Path(checkpoint), classifier)
            write_run(
                folder,
                results,
                data=data,
                classifier=classifier,
                tested=settings["test"],
                page=settings["report"],
            )
            summarise(loggers, results)
            print_table(results)
            log.info("everything is in %s", folder)
    return results


def build(settings: dict) -> tuple[CaptionedPictures, Classifier]:
    """The data, and a classifier for it: a new one, or the one to be evaluated."""
    loaded = None if settings["train"] else load_classifier(Path(settings["ckpt_path"]))
    stored = stores_features(settings)
    data = CaptionedPictures(
        settings=settings,
        inputs=network_inputs(settings),
        cache_dir=Path(settings["cache_dir"]).expanduser(),
        vocabulary=loaded.vocabulary if loaded else None,
    )
    data.prepare()
    if uses_detector(settings):
        data.detector = load_detector(settings["detector"], label_names=data.label_names)
    if loaded is None:
        looks = data.uses_pictures and data.detector is None
        backbone = BackboneSource(settings) if looks else None
        data.extractor = backbone if stored else None
        return data, new_classifier(settings, data, backbone=backbone, stored=stored)
    if data.label_names != loaded.label_names:
        raise UserError(
            f"the checkpoint knows the labels {', '.join(filter(None, loaded.label_names))}, the"
            f" data has {', '.join(filter(None, data.label_names))}"
        )
    return data, loaded


def stores_features(settings: dict) -> bool:
    """Whether the backbone's features are computed once and kept, rather than in every epoch.

    Raises UserError when that is asked for and would change the result.
    """
    mode, frozen = settings["features"]["mode"], settings["backbone"]["frozen"]
    if mode not in FEATURE_MODES:
        raise UserError(f'unknown features.mode "{mode}"{nearest(mode, FEATURE_MODES)}')
    if mode == "on" and not frozen:
        raise UserError(
            "features=on with backbone.frozen=false: a backbone that is trained gives other"
            " features in every step, so they cannot be kept; choose one of the two"
        )
    return mode != "off" and frozen and settings["train"]


def new_classifier(
    settings: dict, data: CaptionedPictures, *, backbone: BackboneSource | None, stored: bool
) -> Classifier:
    """An untrained classifier for prepared data; `stored`: without the backbone in its network."""
    words, detector = data.embeddings, data.detector
    pretrained = {
        "backbone": backbone.weights.description if backbone else "not used",
        "embedding": words.source if words else "not used",
        "detector": f"{detector.name}, {detector.weights_used}" if detector else "not used",
    }
    if backbone and backbone.weights.note:
        data.note(backbone.weights.note)
    targets, order = data.training_targets, data.training_label_order
    network = build_network(
        settings,
        num_words=len(data.vocabulary),
        num_labels=data.annotations.num_labels,
        embeddings=torch.from_numpy(words.matrix) if words else None,
        embedding_dim=words.matrix.shape[1] if words else None,
        freeze_embeddings=bool(words and words.pretrained and settings["embedding"]["frozen"]),
        backbone=None if stored or backbone is None else backbone.backbone,
        label_frequency=targets.sum(axis=0),
        given_order=None if order is None else torch.from_numpy(order),
    )
    weighted = settings["loss"]["name"] == "bce_pos_weight"
    return Classifier(
        network=network,
        settings=settings,
        vocabulary=data.vocabulary,
        label_names=data.label_names,
        pretrained=pretrained,
        pos_weight=positive_weights(targets) if weighted else None,
        backbone=backbone if stored else None,
    )


def build_trainer(settings: dict, *, folder: Path, loggers: list[Logger]) -> pl.Trainer:
    """Lightning's trainer with the run's callbacks.

    Raises UserError for an option that the trainer does not have or refuses.
    """
    callbacks: list[Callback] = [
        BestCheckpoint(folder, monitor=settings["monitor"]),
        LastCheckpoint(folder),
        StopOnNaN(),
        progress_callback(),
    ]
    if settings["patience"] is not None:
        callbacks.append(
            EarlyStopping(settings["monitor"], mode="max", patience=settings["patience"])
        )
    try:
        return pl.Trainer(
            **settings["trainer"],
            callbacks=callbacks,
            logger=loggers,
            default_root_dir=folder,
            enable_progress_bar=sys.stderr.isatty(),
            num_sanity_val_steps=0,  # scores are over whole splits
            use_distributed_sampler=False,  # the datamodule's own sampler shares the rows out
            enable_model_summary=False,
        )
    except Exception as error:
        raise UserError(f"trainer: {error}") from error


if __name__ == "__main__":
    run_cli(main)
