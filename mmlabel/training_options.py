"""The options of training and its records: optimizer, schedule, Trainer, loggers."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, Field, StrictBool, model_validator

from mmlabel.errors import UserError
from mmlabel.options import AtLeast0, Count, Group, Index, Positive, Share, Text


class Adam(Group):
    """Kingma & Ba 2014; report §3.1.4."""

    name: Literal["adam"]
    lr: AtLeast0 = 3e-3
    """Learning rate; the highest, with scheduler=one_cycle."""
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """Decay of the two running means."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    weight_decay: AtLeast0 = 0.0
    """L2 penalty."""


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name: Literal["adamw"]
    weight_decay: AtLeast0 = 0.01
    """Decay of the weights, a step."""


class Adadelta(Group):
    """Zeiler 2012; report §3.1.4, with the report's learning rate (A.2)."""

    name: Literal["adadelta"]
    lr: AtLeast0 = 5.0
    """Learning rate."""
    rho: Share = 0.9
    """Decay of the running means."""
    eps: Positive = 1e-6
    """Added to the denominator."""
    weight_decay: AtLeast0 = 0.0
    """L2 penalty."""


class Sgd(Group):
    """Stochastic gradient descent."""

    name: Literal["sgd"]
    lr: AtLeast0 = 0.05
    """Learning rate."""
    momentum: Share = 0.9
    """Of the update."""
    nesterov: StrictBool = True
    """Nesterov's momentum."""
    weight_decay: AtLeast0 = 0.0
    """L2 penalty."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Sgd:
        if self.nesterov and self.momentum == 0:
            raise UserError(
                "optimizer.momentum=0 with optimizer.nesterov=true: Nesterov's momentum needs one;"
                " add optimizer.nesterov=false"
            )
        return self


Optimizer = Annotated[Adam | AdamW | Adadelta | Sgd, Field(discriminator="name")]


class OneCycle(Group):
    """Up to optimizer.lr and down again, once over the run (Smith & Topin 2018)."""

    name: Literal["one_cycle"]
    warmup: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Share of the run in which the rate rises."""


class Cosine(Group):
    """From optimizer.lr to nothing along half a cosine (Loshchilov & Hutter 2017)."""

    name: Literal["cosine"]
    warmup: Share = 0.0
    """Share of the run in which the rate rises first, in equal steps; 0: none."""


class Constant(Group):
    """The learning rate stays."""

    name: Literal["none"]


class Plateau(Group):
    """The rate is cut when the monitored score has not become better."""

    name: Literal["plateau"]
    factor: Annotated[float, Gt(0), Lt(1)] = 0.1
    """What the rate is multiplied by."""
    patience: Index = 2
    """Epochs without improvement before the rate is cut."""


Scheduler = Annotated[OneCycle | Cosine | Constant | Plateau, Field(discriminator="name")]


class Distil(Group):
    """A network learns from a larger one's answers, too (Hinton et al. 2015, arXiv:1503.02531)."""

    teacher: Text | list[Text] | None = None
    """The larger one's best.ckpt, or a list of several, whose logits are averaged; null: none."""
    weight: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the loss that is taken against the teacher's probabilities, the rest against the
    targets."""
    temperature: Positive = 2.0
    """What both sides' logits are divided by there: above 1 the small ones count more, too."""
    allow_seen_rows: StrictBool = False
    """Take a teacher, too, that was trained or selected on rows that this run is scored on, or that
    does not tell: the scores are then too high."""

    @model_validator(mode="after")
    def _some_teacher(self) -> Distil:
        if self.teacher == []:
            raise UserError("distil.teacher=[]: give a checkpoint, or several, or null for none")
        return self

    @property
    def teachers(self) -> list[str]:
        """The teachers' checkpoints."""
        return [self.teacher] if isinstance(self.teacher, str) else self.teacher or []


Limit = Annotated[int, Ge(0)] | Annotated[float, Ge(0), Le(1)]


class Trainer(Group):
    """Options of Lightning's Trainer; others of its options are added with +trainer.NAME=VALUE."""

    model_config = ConfigDict(extra="allow")

    max_epochs: Annotated[int, Ge(1)] | None = 10
    """Epochs at most; null: no limit but max_steps or max_time."""
    min_epochs: Index | None = None
    """Epochs at least, whatever early stopping says."""
    max_steps: Annotated[int, Ge(-1)] = -1
    """Optimizer steps at most; -1: no limit."""
    max_time: Text | None = None
    """Time at most, as DD:HH:MM:SS."""
    accelerator: Text = "auto"
    """auto, cpu, gpu or another of Lightning's."""
    devices: Annotated[int, Ge(-1)] | list[Index] | Literal["auto"] = 1
    """How many, a list of them, or auto."""
    num_nodes: Count = 1
    """Machines that take part."""
    strategy: Text = "auto"
    """auto, ddp or another of Lightning's whose processes are started, not forked or spawned."""
    precision: Text = "32-true"
    """Of the arithmetic: 32-true, 16-mixed or bf16-mixed; with a model of captions alone that no
    text transformer reads bf16-true and 64-true, too. mmlabel.predict and exports compute in single
    precision, so that their probabilities may differ from the run's by its rounding."""
    gradient_clip_val: Positive | None = None
    """Clip gradients to this norm; null: never."""
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    """Whether the norm or each value is clipped; null: the norm."""
    accumulate_grad_batches: Count = 1
    """Batches an optimizer step."""
    limit_train_batches: Limit | None = 1.0
    """Batches (a whole number) or share (a fraction) of the training split that an epoch sees."""
    limit_val_batches: Limit | None = 1.0
    """Of the validation split, likewise."""
    limit_test_batches: Limit | None = 1.0
    """Of the test split, likewise."""
    overfit_batches: Limit = 0.0
    """Train on so many batches (or this share) of the training split, and validate on the same, to
    see that the model can learn them by heart; 0: do not."""
    fast_dev_run: StrictBool | Annotated[int, Ge(1)] = False
    """Run one batch (or so many) of everything, to see that it runs."""
    val_check_interval: Count | Annotated[float, Gt(0), Le(1)] | None = None
    """Validate after so many batches or this share of an epoch, and at its end; null: after each
    epoch."""
    check_val_every_n_epoch: Count | None = 1
    """Validate every so many epochs."""
    log_every_n_steps: Count = 50
    """Steps between logged figures of steps."""
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    """Say where the time went."""
    detect_anomaly: StrictBool = False
    """Find the operation that made a gradient NaN (slow)."""
    deterministic: StrictBool | Literal["warn"] = False
    """Only deterministic operations."""
    benchmark: StrictBool | None = None
    """cuDNN's search for the fastest convolutions; null: Lightning decides."""
    sync_batchnorm: StrictBool = False
    """Batch-norm statistics over all processes."""

    @model_validator(mode="after")
    def _known_to_lightning(self) -> Trainer:
        if self.model_extra:
            from mmlabel.trainer_options import check_trainer_options

            check_trainer_options(self.model_extra, set(type(self).model_fields))
        return self


# ---- Records --------------------------------------------------------------------------------


class Wandb(Group):
    """wandb: online when logged in, offline otherwise, never a prompt."""

    project: Text = "mmlabel"
    """Where runs are compared."""
    entity: Text | None = None
    """User or team; null: the one logged in."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """null: decided by whether somebody is logged in."""
    group: Text | None = None
    """Of the runs; null: the sweep's folder in a multirun, or the study."""
    tags: list[Text] = []
    """Of the run."""
    labels: StrictBool = True
    """Log a table, bars and curves of the labels' test scores."""
    page: StrictBool | None = None
    """Log report.html, which holds pictures; null: online only."""
    predictions: Index | None = None
    """Test rows in a table with pictures, truth and answers; null: 50 online, none offline."""
    checkpoint: StrictBool | None = None
    """Log best.ckpt as a model artifact; null: online only."""
    data: StrictBool | None = None
    """Log the place of the data set as an artifact, without its files; null: online only."""


class Logger(Group):
    """Where the history of a run goes."""

    csv: StrictBool = True
    """metrics.csv in the run's folder."""
    wandb: Wandb | None = None
    tensorboard: StrictBool = False
    """TensorBoard's event files in the run's folder."""

    @property
    def has_curves(self) -> bool:
        """Whether figures of steps are drawn, for which metrics.csv has no place."""
        return self.wandb is not None or self.tensorboard


class Callbacks(Group):
    """Further callbacks of Lightning's, and averages of the weights."""

    model_summary: StrictBool = False
    """Lightning's table of modules, before training."""
    device_stats: StrictBool = False
    """Log use of the processor or GPU, in wandb and TensorBoard alone."""
    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    """Validate, keep and test a moving average of the weights that keeps this share of itself in a
    step (0.999); null: the weights."""
    swa_start: Index | None = None
    """Validate, keep and test the mean of the weights at the ends of this epoch, counted from 0,
    and all later ones (Izmailov et al. 2018); batch norms have the mean of their statistics, which
    are not computed anew for the mean of the weights; null: the weights."""

    @model_validator(mode="after")
    def _one_average(self) -> Callbacks:
        if self.ema is not None and self.swa_start is not None:
            raise UserError(
                f"callbacks.ema={self.ema:g} with callbacks.swa_start={self.swa_start}: both are"
                " averages of the weights; leave one of the two out"
            )
        return self


class StudyNames(Group):
    """Set by sweep.py, so that runs can be grouped."""

    name: Text | None = None
    """The study that the run belongs to."""
    variant: Text | None = None
    """Its variant."""
