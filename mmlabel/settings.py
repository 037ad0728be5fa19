"""A run's options: one class a group, with types, ranges, choices, defaults and a sentence each.

A composed configuration becomes `Settings` before anything is read, built or fetched. Whatever can
be known to be wrong by then is refused here, where the message can name the option; the parts below
get their own group or plain keyword arguments. An option that cannot matter is not there: the kinds
of a group (`embedding=glove`) are classes of their own, and a group that the chosen model does not
use is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt
from pydantic import StrictBool, model_validator

from mmlabel.contradictions import contradictions
from mmlabel.data.options import DataSource
from mmlabel.errors import UserError, nearest
from mmlabel.losses import Loss
from mmlabel.models.options import (
    CaptionOnly,
    Captions,
    Decoder,
    DecoderModel,
    DetectorFusion,
    DetectorModel,
    Embedding,
    Ensemble,
    Fusion,
    ImageOnly,
    Lstm,
    Model,
)
from mmlabel.models.picture_options import AnyDetector, Backbone, Features
from mmlabel.models.text_options import Caption, TextTransformer, TransformerCaption
from mmlabel.options import (
    Count,
    Group,
    Positive,
    Text,
    declared,
    discriminator,
    is_same,
    no_group,
    validate,
)
from mmlabel.score_table import MONITORED, SCORES
from mmlabel.training_options import (
    Callbacks,
    Distil,
    Logger,
    Optimizer,
    Scheduler,
    StudyNames,
    Trainer,
)

MISSING = "???"  # Hydra's word for a value that has to be given


Calibrated = Literal["auto", "per_label", "cv", "cv_per_label"]  # ways to find a threshold

# The groups that a model uses, of those that not all models do.
_CAPTION = ("caption", "captions", "embedding", "lstm")
_TRAINED = ("optimizer", "scheduler")
USES: dict[str, tuple[str, ...]] = {
    "fusion": ("backbone", "features", *_CAPTION, "loss", *_TRAINED),
    "ensemble": ("backbone", "features", *_CAPTION, "loss", *_TRAINED),
    "image_only": ("backbone", "features", "loss", *_TRAINED),
    "caption_only": (*_CAPTION, "loss", *_TRAINED),
    "decoder": ("backbone", "features", "decoder", *_TRAINED),
    "detector": ("detector",),
    "detector_fusion": ("detector", *_CAPTION, "loss", *_TRAINED),
}
OPTIONAL = tuple(dict.fromkeys(group for groups in USES.values() for group in groups))


class Settings(Group):
    """Everything that a run is asked to do. Make it with `read_settings`."""

    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Of the weights, the order of the rows and the flips."""
    train: StrictBool = True
    """false: evaluate ckpt_path only."""
    test: StrictBool = True
    """false: leave the test split alone (while choosing settings)."""
    ckpt_path: Text | None = None
    """With train: resume from it; without: evaluate it."""
    resume: StrictBool = False
    """Go on with what an interrupted run has left in this run's folder, if there is anything: for
    jobs that a scheduler stops and starts again."""
    repeat: Text | None = None
    """The folder of a finished run: run it again from its record, with what else is given on top,
    and say what is not the same."""
    resume_lr: Positive | None = None
    """With ckpt_path: go on at this learning rate, with a fresh schedule over the epochs left."""
    threshold: Annotated[float, Ge(0), Le(1)] | Calibrated | None = None
    """A label is answered when its probability reaches this; found on validation after training,
    in whose epochs it is 0.5: auto, the best; per_label, the best for each label; cv and
    cv_per_label, the same by cross-validation, which a few rows mislead less; null: 0.5 (a
    detector: 0.25). For model=decoder it is compared with half of the probability, and 0.5
    more for a label of the best set that was found."""
    threshold_metric: Literal["f1_micro", "f1_samples"] = "f1_micro"
    """What a threshold is the best for that is found on validation."""
    monitor: Literal[MONITORED] = "val/f1_micro"  # pyright: ignore[reportInvalidTypeForm]
    """What early stopping, the best checkpoint and scheduler=plateau look at."""
    patience: Count | None = 5
    """Epochs without improvement before training stops; null: never stop early."""
    max_megabytes: Positive | None = None
    """Stop before training where what a prediction needs is larger; null: no limit."""
    name: Text | None = None
    """Of the run in wandb; null: its variant and seed in a study, or else its overrides."""
    study: StudyNames = StudyNames()
    report: StrictBool = True
    """Write report.html into the run's folder."""
    cache_dir: Text = "~/.cache/mmlabel"
    """Where prepared data is kept between runs (environment variable MMLABEL_CACHE)."""

    data: DataSource
    model: Model
    backbone: Backbone | None = None
    features: Features | None = None
    caption: Caption | None = None
    captions: Captions | None = None
    embedding: Embedding | None = None
    lstm: Lstm | None = None
    decoder: Decoder | None = None
    detector: AnyDetector | None = None
    loss: Loss | None = None
    optimizer: Optimizer | None = None
    scheduler: Scheduler | None = None
    distil: Distil = Distil()
    trainer: Trainer = Trainer()
    callbacks: Callbacks = Callbacks()
    logger: Logger = Logger()

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if said := next(contradictions(self), None):
            raise UserError(said)
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the model looks at: "image", "caption" or both."""
        name = self.model.name
        captioned = self.decoder is not None and self.decoder.caption
        if name in ("image_only", "detector") or (name == "decoder" and not captioned):
            return ("image",)
        return ("caption",) if name == "caption_only" else ("image", "caption")

    @property
    def upright(self) -> bool:
        """Whether pictures are seen turned as their EXIF data says, as a detector always does."""
        return self.detector is not None or self.data.upright

    @property
    def frozen_backbone(self) -> bool:
        """Whether there is a backbone and it is frozen, its last stages apart (unfreeze)."""
        return self.backbone is not None and self.backbone.frozen

    @property
    def frozen_precision(self) -> Literal["float32", "bfloat16"]:
        """In which what is frozen of the backbone computes.

        That of features which are kept, or would be if there were room for them.
        """
        if self.features is None or self.features.mode == "off" or self.data.augment:
            return "float32"
        if not self.frozen_backbone:
            return "float32"
        if self.features.precision != "auto":
            return self.features.precision
        from mmlabel.models.engines import device_for, precision_on

        return precision_on(device_for(self.trainer.accelerator), "auto")

    @property
    def looks_at_cells(self) -> bool:
        """Whether the network looks at the cells of the backbone's last map."""
        if self.backbone is None:
            return False
        return self.fuses_by_attention or self.backbone.attention is not None

    @property
    def fuses_by_attention(self) -> bool:
        """Whether each word of the caption looks for its cells in the picture."""
        return getattr(self.model, "fusion", None) == "attention"

    @property
    def looks_at_order(self) -> bool:
        """Whether training looks at the order in which the file lists each row's labels."""
        return self.decoder is not None and self.decoder.order == "as_given"

    @property
    def text_transformer(self) -> TextTransformer | None:
        """The pretrained text transformer that reads captions, if one does."""
        for group in (self.caption, self.embedding):
            if isinstance(group, TextTransformer):
                return group
        return None

    @property
    def halves_text(self) -> bool:
        """Whether the finished checkpoint keeps the text transformer in half precision."""
        return isinstance(self.caption, TransformerCaption) and self.caption.storage == "float16"

    @property
    def group_by_length(self) -> bool:
        """Whether training batches are of captions of similar length."""
        reading = self.text_transformer or self.captions
        return reading is not None and reading.group_by_length

    @property
    def has_batch_norm(self) -> bool:
        """Whether the network to be trained has batch norms of its own."""
        model = self.model
        if isinstance(model, Fusion | Ensemble | ImageOnly | CaptionOnly | DetectorFusion):
            return model.head.batch_norm
        return isinstance(model, DecoderModel)

    @property
    def answers_at(self) -> float | Calibrated:
        """`threshold`, or the model's own."""
        if self.threshold is None:
            return 0.25 if isinstance(self.model, DetectorModel) else 0.5
        return self.threshold

    @property
    def monitor_mode(self) -> Literal["min", "max"]:
        """A loss is minimised, a score maximised."""
        return "min" if SCORES[self.monitor.removeprefix("val/")].lower_is_better else "max"

    def plain(self) -> dict[str, Any]:
        """All options as nested plain values, without groups that are not in use."""
        values = self.model_dump(mode="json")
        return {
            key: value for key, value in values.items() if not (value is None and key in OPTIONAL)
        }


def groups_used(values: Mapping[str, Any]) -> set[str]:
    """The groups among OPTIONAL that these plain values' model uses."""
    chosen = {name: values.get(name) or {} for name in ("model", "decoder", "caption", "embedding")}
    for name, group in chosen.items():
        if not isinstance(group, Mapping):
            raise UserError(no_group(name, group))
    model = chosen["model"].get("name")
    if model not in USES:
        raise UserError(f'there is no model="{model}"{nearest(str(model), USES)}')
    used = set(USES[model])
    if model == "decoder" and chosen["decoder"].get("caption"):
        used |= set(_CAPTION)
    # A tokenizer of its own makes tokens of captions, a transformer encodings of these.
    if chosen["caption"].get("name") == "transformer":
        used -= {"captions", "embedding", "lstm"}
    elif chosen["embedding"].get("kind") == "contextual":
        used -= {"captions"}
    return used


def why_unused(group: str, settings: Settings) -> str:
    """The choice by which a group of OPTIONAL is not used ("model=image_only")."""
    if group in _CAPTION and "caption" in settings.inputs:
        if settings.caption is not None and settings.caption.name == "transformer":
            return "caption=transformer"
        return "embedding=contextual"
    return f"model={settings.model.name}"


def read_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from nested plain values, such as a composed configuration or a checkpoint's.

    Groups that the model does not use are checked as well and then left out.

    Raises UserError with one message for an option that does not exist, has no value, a value of
    the wrong type or out of range, or that does not go with another.
    """
    used = groups_used(values)
    unused = [group for group in OPTIONAL if group not in used]
    kept = {
        key: value
        for key, value in values.items()
        if key not in unused or (value is not None and not any(_missing(value, key)))
    }
    for name in _missing(kept, ""):
        raise UserError(f"{name} must be given: {name}=VALUE{_sentence(name, kept)}")
    for group in used:
        if kept.get(group) is None:
            raise UserError(f"{group} is missing: model={kept['model']['name']} needs {group}=NAME")
    validate(Settings, kept, fitting=False)
    # What does not go together in a group that is not used is nothing to mend.
    return validate(Settings, {key: value for key, value in kept.items() if key not in unused})


def _sentence(name: str, values: Mapping[str, Any]) -> str:
    """What an option does, as it follows its name in a message; "" of one that is not declared."""
    group = values.get(name.split(".")[0])
    kinds = group.values() if isinstance(group, Mapping) else ()
    for option in declared(Settings):
        if option.name == name and (option.kind is None or option.kind in kinds):
            return f". {option.sentence}"
    return ""


def _missing(values: object, name: str) -> Iterable[str]:
    if values == MISSING:
        yield name
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _missing(value, f"{name}.{key}" if name else str(key))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"lstm": {"layers": 1}} as {"lstm.layers": 1}; lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def is_among(name: str, names: Iterable[str]) -> bool:
    """Whether an option is one of these, or of one of these groups ("lstm.layers" of "lstm")."""
    return any(f"{name}.".startswith(f"{one}.") for one in names)


def put(values: dict[str, Any], name: str, value: Any) -> None:
    """Set the option of this name in nested values; groups on the way to it are copied, or made."""
    *groups, option = name.split(".")
    for group in groups:
        inner = values.get(group)
        values[group] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[group]
    values[option] = value


def differing(settings: Settings) -> dict[str, Any]:
    """The options that differ from their declared defaults, and the kind of every group in use."""
    return dict(_differing(settings, ""))


def _differing(group: Group, prefix: str) -> Iterable[tuple[str, Any]]:
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        if isinstance(value, Group):
            yield from _differing(value, f"{prefix}{name}.")
        elif (
            field.is_required()
            or name == discriminator(type(group))
            or not (is_same(value, field.get_default()) or (value is None and name in OPTIONAL))
        ):
            yield f"{prefix}{name}", value
    for name, value in (group.model_extra or {}).items():
        yield f"{prefix}{name}", value


# What a group's name sets, "optimizer.name" and the like; a group's first tells its kinds apart.
CHOSEN_BY_GROUP = (
    *dict.fromkeys(option.name for option in declared(Settings) if option.choice),
    "detector.name",
)


def kinds_of(group: str) -> list[str]:
    """The options of a group that its name sets, without the group's ("kind"); [] if none is."""
    return [name.split(".")[1] for name in CHOSEN_BY_GROUP if name.split(".")[0] == group]


def override_key(override: str) -> str:
    """The option or group that an override sets: "+a.b=1" -> "a.b"."""
    return override.lstrip("+~").split("=", 1)[0].split("@")[0]


def option_names() -> list[str]:
    """Every declared option, once."""
    return list(dict.fromkeys(option.name for option in declared(Settings)))
