"""The declarations of options: every bad value of every option is answered, and conf/ agrees."""

import copy
import math
import re
from functools import cache
from typing import Any, Literal, get_args, get_origin

import annotated_types
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mmlabel.cli import CONF, explain, load_settings
from mmlabel.errors import UserError
from mmlabel.help import choices, help_text
from mmlabel.options import Option, declared, is_same, members
from mmlabel.settings import MISSING, OPTIONAL, Settings, differing, flatten, read_settings

OPTIONS = declared(Settings)
VALUES: list[object] = [
    "no such value", "", -1, -1_000_000, 0, 1, 10**13, 0.5, -0.5, 1.5, 1e300, math.inf, math.nan,
    True, [], ["a"], [1], [0.1, 0.2, 0.7], [-1.0, 1.0, 1.0], {"a": 1}, None,
]  # fmt: skip
# What every kind needs so that its other options can be looked at.
GIVEN = {
    "data=usyd": ["data.root=somewhere"],
    "data=coco": ["data.root=somewhere"],
    "data=csv": ["data.file=somewhere.csv"],
    "backbone=timm": ["backbone.model_name=resnet18"],
    "embedding=file": ["embedding.file=somewhere.txt"],
    "detector=file": ["detector.weights=somewhere.pt"],
}


@cache
def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", list(overrides))
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def choice_of(option: Option) -> str | None:
    """A choice on the command line that has this option: "embedding=glove"."""
    group = option.name.split(".")[0]
    if option.kind is None:
        return "logger=wandb" if group == "logger" else None
    by_kind = {"torchvision": "ssdlite320_mobilenet_v3_large", "ultralytics": "yolov5s"}
    kind = option.kind.split("|")[0]
    return f"{group}={by_kind.get(kind, kind)}"


def base_of(option: Option) -> dict[str, Any]:
    """Plain values of a valid run that has this option."""
    choice = choice_of(option)
    group = option.name.split(".")[0]
    if group in ("detector",):
        model = ["model=detector_fusion"]
    elif group == "decoder":
        model = ["model=decoder"]
    else:
        model = []
    chosen = [] if choice is None else [choice, *GIVEN.get(choice, [])]
    values = composed(*model, *chosen)
    return copy.deepcopy(values)


def set_in(values: dict[str, Any], name: str, value: object) -> None:
    *groups, last = name.split(".")
    for group in groups:
        values = values[group]
    values[last] = value


def accepts(option: Option, value: object) -> bool:
    """Whether the declaration of the option takes this value by itself."""
    return any(
        _is(part, metadata, value)
        for part, metadata in members(option.field.annotation, tuple(option.field.metadata))
    )


def _is(part: Any, metadata: tuple[object, ...], value: object) -> bool:
    if get_origin(part) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(part))
    if get_origin(part) is list:
        if not isinstance(value, list):
            return False
        (item,) = get_args(part)
        fits = all(any(_is(p, m, one) for p, m in members(item, ())) for one in value)
        return fits and _within(metadata, value)
    if part is str:
        # Names that look like numbers are names, but for 1000.0, which may have been 1e3.
        number = type(value) is int or (type(value) is float and not value.is_integer())
        return (isinstance(value, str) or number) and _within(metadata, str(value))
    if part is float:
        number = type(value) in (int, float)
        return number and math.isfinite(value) and _within(metadata, value)  # type: ignore[arg-type]
    if part is type(None):
        return value is None
    return type(value) is part and _within(metadata, value)


def _within(metadata: tuple[object, ...], value: Any) -> bool:
    for item in metadata:
        for bound in getattr(item, "metadata", [item]):
            if isinstance(bound, annotated_types.Ge) and not value >= bound.ge:
                return False
            if isinstance(bound, annotated_types.Gt) and not value > bound.gt:
                return False
            if isinstance(bound, annotated_types.Le) and not value <= bound.le:
                return False
            if isinstance(bound, annotated_types.Lt) and not value < bound.lt:
                return False
            if isinstance(bound, annotated_types.MinLen) and len(value) < bound.min_length:
                return False
            if isinstance(bound, annotated_types.MaxLen) and len(value) > bound.max_length:
                return False
    return True


@pytest.mark.parametrize("option", [o for o in OPTIONS if not o.choice], ids=lambda o: o.name)
def test_every_bad_value_is_one_message_that_names_the_option(option: Option):
    """Of a wrong type, below and above the range, not among the choices."""
    tried = 0
    for bad in VALUES:
        if accepts(option, bad):
            continue
        values = base_of(option)
        set_in(values, option.name, bad)
        with pytest.raises(UserError) as error:
            read_settings(values)
        message = str(error.value)
        assert message.startswith(option.name), message
        assert "\n" not in message
        assert option.allowed in message or "group of options" in message, message
        tried += 1
    assert tried


@pytest.mark.parametrize("option", [o for o in OPTIONS if not o.choice], ids=lambda o: o.name)
def test_every_good_value_is_taken(option: Option):
    for value in [option.default, *VALUES]:
        if not accepts(option, value) or (option.required and value is None):
            continue
        values = base_of(option)
        set_in(values, option.name, value)
        try:
            settings = read_settings(values)
        except UserError as error:
            # Only because of what stands beside it, which the message then names.
            other = [o.name for o in OPTIONS if o.name != option.name and o.name in str(error)]
            assert other or "add up to 1" in str(error) or "null" in str(error), error
            continue
        taken = flatten(settings.plain()).get(option.name)
        if re.search("a list of (at least 1 )?text", option.allowed) and isinstance(value, list):
            assert taken == [str(item) for item in value]
        elif "text" in option.allowed and not accepts_exactly(option, value):
            assert taken == str(value)
        else:
            assert taken == value


def accepts_exactly(option: Option, value: object) -> bool:
    """Whether the value is of one of the option's types as it is, rather than made a name."""
    parts = [part for part, _ in members(option.field.annotation, ())]
    return (
        type(value) in parts
        or value is None
        or isinstance(value, list)
        or any(get_origin(part) is Literal and value in get_args(part) for part in parts)
        or (float in parts and type(value) is int)
    )


@pytest.mark.parametrize("option", [o for o in OPTIONS if not o.choice], ids=lambda o: o.name)
def test_every_misspelt_option_is_answered_with_the_right_one(option: Option):
    group, _, leaf = option.name.rpartition(".")
    for misspelt in (f"{leaf}s", f"x{leaf}"):
        wrong = f"{group}.{misspelt}" if group else misspelt
        if wrong in {other.name for other in OPTIONS}:
            continue
        values = base_of(option)
        set_in(values, wrong, 1)
        with pytest.raises(UserError) as error:
            read_settings(values)
        assert wrong in str(error.value)
        # Of a few short names beside each other another one can be nearer.
        assert option.name in str(error.value) or "did you mean" in str(error.value)


GROUPS = sorted(
    path.name
    for path in CONF.iterdir()
    if path.is_dir() and path.name in Settings.model_fields and path.name != "study"
)


def test_the_groups_of_conf_are_those_that_are_declared():
    with_options = {option.name.split(".")[0] for option in OPTIONS if "." in option.name}
    assert set(GROUPS) == with_options - {"study"}


@pytest.mark.parametrize("group", GROUPS)
def test_conf_holds_the_declared_options_with_their_defaults(group: str):
    of_group = [option for option in OPTIONS if option.name.split(".")[0] == group]
    seen = set()
    for choice in choices(group):
        values = flatten({group: composed(f"{group}={choice}")[group]})
        kind = next((values[o.name] for o in of_group if o.choice and o.name in values), None)
        own = {
            option.name: option
            for option in of_group
            if option.kind is None or kind in option.kind.split("|")
        }
        # A group that is off (logger.wandb=null) stands for its options.
        off = {name for name in values if name not in own and values[name] is None}
        missing = {
            n for n in own if n not in values and not any(n.startswith(f"{o}.") for o in off)
        }
        assert values.keys() - own.keys() - off == set()
        assert missing == set()
        seen |= own.keys()
        if choice in ("on", "off", "cpu", "gpu", "ddp", "tensorboard", "file"):
            continue  # these files exist to set something
        for name, option in own.items():
            if name in values and not option.choice and name != "detector.name":
                default = MISSING if option.required else option.default
                assert is_same(values[name], default), name
    assert seen == {option.name for option in of_group}


def test_the_options_outside_groups_are_in_train_yaml():
    values = composed()
    plain = {option.name: option.default for option in OPTIONS if "." not in option.name}
    plain |= {o.name: o.default for o in OPTIONS if o.name.startswith("study.")}
    flat = {k: v for k, v in flatten(values).items() if k in plain}
    assert flat.keys() == plain.keys()
    for name, default in plain.items():
        if name != "cache_dir":  # an environment variable may name it
            assert is_same(flat[name], default), name


@pytest.mark.parametrize("folder", ["experiment", "debug"])
def test_every_experiment_is_valid(folder: str):
    for name in choices(folder):
        settings = load_settings([f"{folder}={name}"])
        assert f"{folder}={name}" in (CONF / folder / f"{name}.yaml").read_text()
        assert read_settings(settings.plain()) == settings


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["embedding=glove", "embedding.dim=300"], "embedding.dim does not exist"),
        (["embedding=learned", "embedding.frozen=true"], "embedding.frozen does not exist"),
        (["model=image_only", "model.inputs=[caption]"], 'no option "model.inputs"'),
        (["+anything=1"], 'no option "anything"'),
        (["+model.foo=3"], 'no option "model.foo"'),
        (["+logger.wandb.foo=1"], 'no option "logger.wandb.foo"'),
        (["+trainer.max_epoch=1"], 'did you mean "trainer.max_epochs"'),
        (["+trainer.logger=false"], "trainer.logger cannot be set"),
        (["epochs=3"], 'did you mean "trainer.max_epochs"'),
        (["study=modality"], "python sweep.py study=NAME"),
        (["monitor=val/f1"], "monitor=val/f1"),
        (["optimizer=sgd", "optimizer.momentum=0"], "optimizer.momentum=0"),
        (["data=usyd", "data.root=x", "data.fractions=[0.5,0.5,0.5]"], "add up to 1"),
        (["data=usyd", "data.root=x", "data.folds=5"], "data.fold"),
        (
            ["data=csv", "data.file=x", "data.label_columns=[a]", "data.num_labels=1"],
            "leave out data.label_names and data.num_labels",
        ),
        (["data=usyd", "data.root=x", "data.folds=5", "data.fold=5"], "data.fold=5"),
        (["trainer.max_epochs=null"], "trainer.max_steps"),
        (["optimizer.name=sgd"], "optimizer=sgd"),
        (["resume_lr=0.1"], "ckpt_path"),
        (["model.fusion=gated", "model.image_scale=0.3"], "model.image_scale=0.3"),
        (["threshold_metric=f1_samples"], "threshold=cv"),
        (["threshold=0.4", "threshold_metric=f1_samples"], "threshold=cv"),
        (["callbacks.ema=0.9", "callbacks.swa_start=1"], "callbacks.swa_start=1"),
        (["callbacks.swa_start=3", "trainer.max_epochs=3"], "start earlier"),
        (
            ["data=csv", "data.file=x", "data.label_columns=[a]", "data.label_names=[a]"],
            "where a checkpoint or record has them give null",
        ),
    ],
)
def test_options_that_do_not_go_together(overrides: list[str], message: str):
    with pytest.raises(Exception) as error:
        load_settings(overrides)
    assert message in explain(error.value)


def test_a_loss_is_minimised_and_a_score_maximised():
    assert load_settings(["monitor=val/loss"]).monitor_mode == "min"
    assert load_settings(["monitor=val/map"]).monitor_mode == "max"


def test_a_model_has_only_the_groups_that_it_uses():
    settings = load_settings(["model=caption_only"])
    assert settings.backbone is settings.features is settings.decoder is settings.detector is None
    assert {"backbone", "features"}.isdisjoint(settings.plain())
    assert settings.lstm is not None
    decoder = load_settings(["model=decoder"])
    assert decoder.lstm is decoder.loss is None
    assert load_settings(["model=decoder", "decoder.caption=true"]).lstm is not None


def test_what_differs_from_the_defaults_and_the_kinds():
    assert differing(load_settings([])).keys() >= {"optimizer.name", "embedding.kind"}
    here = differing(load_settings(["lstm.layers=2", "optimizer=sgd"]))
    assert here["lstm.layers"] == 2
    assert here["optimizer.name"] == "sgd"
    assert "lstm.hidden" not in here
    assert all(option not in here for option in OPTIONAL)
    one_batch = differing(load_settings(["trainer.limit_train_batches=1"]))
    assert "trainer.limit_train_batches" in one_batch, "all of them: 1.0"


def test_help_names_only_what_train_py_takes():
    text = help_text()
    for group, kinds in re.findall(r"With (\w+)=([^:]+):", text):
        assert set(re.findall(r"\w+", kinds)) <= set(choices(group)), group
    assert not re.findall(r"^study=", text, re.MULTILINE)


def test_help_has_every_option_with_its_sentence_and_default():
    text = " ".join(help_text().split())
    for option in OPTIONS:
        if not option.choice:
            assert option.name in text
            assert option.sentence and option.sentence in text, option.name
