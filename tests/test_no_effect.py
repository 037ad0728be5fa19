"""Options that change nothing beside the others are refused when they are given."""

import copy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mmlabel.cli import CONF, refuse_unused, unused
from mmlabel.errors import UserError
from mmlabel.no_effect import without_effect
from mmlabel.settings import Settings, option_names, read_settings

REPOSITORY = Path(__file__).resolve().parent.parent
USYD = ["data=usyd", "data.root=x"]
CSV = ["data=csv", "data.file=x.csv"]
ENSEMBLE = ["model=ensemble", "model.image_networks=1", "model.image_weight=0.5"]
HALVES = ["model=ensemble", "model.fusion_networks=0", "model.image_networks=1"]

# Beside what; the option that then changes nothing; beside what it does change something.
IDLE = [
    ([], "backbone.lr_scale=0.1", ["backbone.unfreeze=1"]),
    ([], "backbone.lr_scale=1", ["backbone.frozen=false"]),
    (["features=off"], "features.precision=float32", ["features=on"]),
    (["features=off"], "features.storage=float16", ["features=auto"]),
    (["backbone.frozen=false"], "features.max_gigabytes=3", ["backbone.unfreeze=1"]),
    (["features=off"], "features.batch_size=3", []),
    (["features=off"], "features.workers=3", []),
    ([], "lstm.dropout=0.2", ["lstm.layers=2"]),
    ([], "lstm.dropout=0.0", ["lstm.layers=2"]),
    (["model=caption_only"], "backbone.frozen=true", ["model=fusion"]),
    (["model=caption_only"], "backbone.lr_scale=0.7", ["backbone.unfreeze=1"]),
    (["model=caption_only"], "backbone.pyramid=4", ["data.image_size=256"]),
    (["model=caption_only"], "data.on_bad_image=skip", ["model=image_only"]),
    (["model=caption_only", *USYD], "data.crop=none", USYD),
    (["model=caption_only", *USYD], "data.image_size=64", ["model=caption_only"]),
    (["model=detector", *USYD], "data.image_size=64", ["model=detector"]),
    (["model=detector_fusion"], "data.upright=false", ["model=fusion"]),
    (["model=caption_only"], "data.augment=[crop]", ["model=image_only"]),
    (["model=caption_only"], "data.upright=false", ["model=image_only"]),
    (["model=detector"], "data.augment=[rand]", ["model=decoder"]),
    (["data.augment=[erase]"], "features.storage=float16", []),
    ([], "backbone.beside_weights=none", ["backbone.beside=resnet10t"]),
    ([*USYD, "data.splits=x.csv"], "data.split_seed=1", [*USYD, "data.folds=2", "data.fold=0"]),
    ([*USYD, "data.splits=x.csv"], "data.fractions=[0.6,0.2,0.2]", USYD),
    (["data=coco", "data.root=x"], "data.subset=val",
     ["data=coco", "data.root=x", "data.download=true"]),
    (CSV, "data.uncertain=0", [*CSV, "data.label_columns=[a,b]"]),
    ([*CSV, "data.label_columns=[a,b]"], "data.separator=json", CSV),
    ([*CSV, "data.label_columns=[a,b]"], "data.label_column=l", CSV),
    (CSV, "data.caption_seed=1", [*CSV, "data.several_captions=one"]),
    (["data=csv", "data.file=x.jsonl"], "data.delimiter=tab", CSV),
    (["model=decoder", "decoder.beam_width=1"], "decoder.length_penalty=1", ["model=decoder"]),
    (["model=ensemble"], "model.image_weight=1.0", ENSEMBLE[:2]),
    (["model=ensemble", "model.caption_networks=0", "model.fusion_networks=2"],
     "model.caption_weight=1.0", ["model=ensemble"]),
    (HALVES, "model.fusion=concat", ["model=ensemble"]),
    (["model=detector"], "trainer.max_epochs=3", []),
    (["model=detector"], "patience=3", []),
    (["model=detector"], "callbacks.ema=0.9", []),
    (["trainer.limit_val_batches=0"], "monitor=val/map", []),
    (["trainer.max_epochs=3"], "callbacks.swa_start=2", ["trainer.max_epochs=4"]),
    (["trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"], "callbacks.swa_start=1",
     ["trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2"]),
    (["trainer.max_epochs=3", "trainer.limit_val_batches=0"], "callbacks.swa_start=2",
     ["trainer.max_epochs=4", "trainer.limit_val_batches=0"]),
    (["threshold=0.4"], "threshold_metric=f1_micro", ["threshold=cv"]),
    ([], "distil.weight=0.5", ["distil.teacher=x"]),
    ([], "distil.allow_seen_rows=true", ["distil.teacher=[x,y]"]),
    (["distil.teacher=x", "distil.weight=1"], "loss.smoothing=0.1", ["distil.teacher=x"]),
    ([], "trainer.gradient_clip_algorithm=value", ["trainer.gradient_clip_val=1"]),
    ([], "trainer.sync_batchnorm=true", ["trainer.devices=2"]),
    (["patience=null"], "trainer.min_epochs=2", []),
    (["trainer.overfit_batches=2"], "trainer.limit_train_batches=2", []),
    (["test=false"], "trainer.limit_test_batches=2", []),
    (["logger=wandb", "report=false"], "logger.wandb.page=true", ["logger=wandb"]),
    (["logger=wandb", "test=false"], "logger.wandb.page=true", ["logger=wandb"]),
    (["train=false", "ckpt_path=x"], "max_megabytes=100", []),
    (["logger=csv"], "callbacks.device_stats=true", ["logger=wandb"]),
    (["logger.wandb=null"], "callbacks.device_stats=true", ["logger=tensorboard"]),
    (["logger=csv"], "trainer.log_every_n_steps=5", ["logger=tensorboard"]),
    (["logger=wandb", "test=false"], "logger.wandb.labels=false", ["logger=wandb"]),
    (["logger=wandb", "test=false"], "logger.wandb.predictions=9", ["logger=wandb"]),
]  # fmt: skip


@cache
def composed(*choices: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", list(choices))
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def settings_with(given: list[str]) -> Settings:
    """What `load_settings` gives, with one composition for each choice of groups."""
    choices = [text for text in given if (CONF / text.partition("=")[0]).is_dir()]
    values = copy.deepcopy(composed(*choices))
    for text in given:
        if text not in choices:
            name, _, value = text.partition("=")
            OmegaConf.update(config := OmegaConf.create(values), name, yaml.safe_load(value))
            values = OmegaConf.to_container(config)
    return read_settings(values)  # type: ignore[arg-type]


def left_out(beside: list[str], option: str) -> dict[str, str]:
    given = [*beside, option]
    return unused(given, without_effect(settings_with(given)))


@pytest.mark.parametrize(("beside", "option", "elsewhere"), IDLE, ids=lambda value: str(value))
def test_an_option_without_effect_is_refused(beside: list[str], option: str, elsewhere: list[str]):
    assert left_out(beside, option).keys() == {option}
    assert left_out(elsewhere, option) == {}


def test_every_name_is_an_option():
    models = ["fusion", "image_only", "caption_only", "decoder", "detector", "detector_fusion"]
    beside = [[f"model={model}"] for model in models]
    for given in [*beside, *(beside for beside, _, _ in IDLE)]:
        settings = settings_with(given)
        for name in without_effect(settings):
            assert name in option_names() or name in type(settings).model_fields, name


def test_the_message_says_why_and_names_all_that_have_the_same_reason():
    given = ["lstm.dropout=0.1", "features=off", "features.workers=1", "features.batch_size=2"]
    with pytest.raises(UserError) as error:
        refuse_unused(given[1:], without_effect(settings_with(given)))
    assert str(error.value) == (
        "features.workers=1 features.batch_size=2: no effect with features=off, as none are kept;"
        " leave it out"
    )


def test_what_is_not_given_is_not_refused():
    """A file may set it for another model than the one chosen."""
    idle = without_effect(settings_with(["experiment=report_vgg16"]))
    assert "lstm.dropout" in idle
    refuse_unused(["experiment=report_vgg16"], idle)


def test_train_py_refuses_it():
    found = subprocess.run(
        [sys.executable, "train.py", "lstm.dropout=0.1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1
    assert found.stderr == (
        "mmlabel: lstm.dropout=0.1: no effect with lstm.layers=1: it is between layers; leave it"
        " out\n"
    )


def test_a_network_that_trains_nothing_and_answers_nothing_is_refused():
    network = ["model=ensemble", "model.image_networks=1", "model.image_weight=0"]
    for trained in ("backbone.unfreeze=1", "backbone.frozen=false"):
        settings_with([*network, trained])
    for idle in ([], ["backbone.attention=residual"]):  # which learns by a loss of its own
        with pytest.raises(UserError, match="model.image_weight=0 with a frozen backbone"):
            settings_with([*network, *idle])
    with pytest.raises(UserError, match="backbone.unfreeze=N"):
        settings_with(["experiment=best", "backbone.unfreeze=0", "backbone.lr_scale=0.1"])
