"""The options of a run: one class a group, with types, ranges, choices, defaults and a sentence each.

A composed configuration becomes `Settings` before anything is read, built or fetched. Whatever can
be known to be wrong by then is refused here, where the message can name the option; the parts below
get their own group or plain keyword arguments. An option that cannot matter is not there: the kinds
of a group (`embedding=glove`) are classes of their own, and a group that the chosen model does not
use is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from mmlabel.errors import UserError, nearest
from mmlabel.models.backbone_table import BACKBONES
from mmlabel.models.names import TORCHVISION_DETECTORS, ULTRALYTICS_DETECTORS
from mmlabel.options import Group, declared, discriminator, shown, validate

if TYPE_CHECKING:
    import numpy as np

    from mmlabel.data.annotations import Annotations

MISSING = "???"  # Hydra's word for a value that has to be given


def _as_text(value: object) -> object:
    """Hydra reads a name such as 2 as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_as_text)]
Share = Annotated[float, Ge(0), Lt(1)]
Positive = Annotated[float, Gt(0)]
AtLeast0 = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]
Index = Annotated[int, Ge(0)]
Decay = Annotated[float, Ge(0), Lt(1)]


# ---- Data -----------------------------------------------------------------------------------


class Batches(Group):
    """What every data source has."""

    image_size: Annotated[int, Ge(1), Le(4096)] = 224
    """Side in px of the square that the backbone sees."""
    batch_size: Count = 32
    """Rows in a training step."""
    workers: Annotated[int, Ge(0), Le(256)] = 2
    """Processes that decode pictures."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do about a picture that cannot be read: stop, or leave its row out."""
    on_missing: Literal["error", "continue"] = "error"
    """What to do without weights, vectors or WordNet that cannot be fetched: stop, or go on without."""
    allow_other_rows: StrictBool = False
    """Evaluate a checkpoint on other rows than its own, without those that it was trained on."""


class Splits(Batches):
    """How rows are divided into train, val and test."""

    splits: Text | None = None
    """A CSV of ImageID,split (train, val, test); null: drawn, evenly by label."""
    fractions: Annotated[list[Positive], Field(min_length=3, max_length=3)] = [0.8, 0.1, 0.1]
    """Shares of train, val and test when the splits are drawn."""
    split_seed: Index = 0
    """Seed of the drawn splits."""

    @model_validator(mode="after")
    def _shares_of_one(self) -> Splits:
        if abs(sum(self.fractions) - 1) > 1e-6:
            raise UserError(
                f"data.fractions={shown(self.fractions)}: give three numbers above 0 (train, val,"
                " test) that add up to 1"
            )
        return self

    def divide(self, annotations: Annotations, *, cache_dir: Path) -> dict[str, np.ndarray]:
        """Sorted row numbers of "train", "val" and "test"."""
        from mmlabel.data.splits import read_splits, split_rows

        if self.splits is not None:
            return read_splits(Path(self.splits).expanduser(), annotations.ids)
        train, val, test = self.fractions
        return split_rows(
            annotations.targets,
            fractions=(train, val, test),
            seed=self.split_seed,
            cache_dir=cache_dir,
            ids=annotations.ids,
        )


class Scenes(Batches):
    """The built-in data set: pictures drawn from a seed, with captions that name part of them."""

    name: Literal["scenes"]
    scenes_seed: Index = 0
    """Seed of the drawings."""
    rows: Annotated[list[Count], Field(min_length=3, max_length=3)] = [1200, 200, 200]
    """Rows of train, val and test."""
    image_size: Annotated[int, Ge(16), Le(1024)] = 96
    """Side in px: pictures are drawn at this size and not enlarged."""
    on_missing: Literal["error", "continue"] = "continue"
    """What to do without weights, vectors or WordNet that cannot be fetched: stop, or go on without."""

    def read(self, *, cache_dir: Path, require_pictures: bool) -> Annotations:
        """The rows, drawn first if need be."""
        from mmlabel.data.sources.report_csv import read_usyd

        return read_usyd(self._folder(cache_dir), require_pictures=require_pictures)

    def divide(self, annotations: Annotations, *, cache_dir: Path) -> dict[str, np.ndarray]:
        """Sorted row numbers of "train", "val" and "test"."""
        from mmlabel.data.splits import read_splits

        return read_splits(self._folder(cache_dir) / "splits.csv", annotations.ids)

    def _folder(self, cache_dir: Path) -> Path:
        from mmlabel.data.sources.scenes import scenes_folder

        train, val, test = self.rows
        return scenes_folder(
            cache_dir, seed=self.scenes_seed, rows=(train, val, test), size=self.image_size
        )


class Usyd(Splits):
    """The report's data set: ImageID,Labels,Caption and a folder of pictures."""

    name: Literal["usyd"]
    root: Text
    """The data set's folder."""
    file: Text = "train.csv"
    """The CSV in it."""
    pictures: Text = "data"
    """The folder of pictures in it."""

    def read(self, *, cache_dir: Path, require_pictures: bool) -> Annotations:
        """The rows of the CSV."""
        from mmlabel.data.sources.report_csv import read_usyd

        return read_usyd(
            Path(self.root).expanduser(),
            file=self.file,
            pictures=self.pictures,
            require_pictures=require_pictures,
        )


class Coco(Splits):
    """COCO's own layout (2014 or 2017), reduced to the report's 18 labels."""

    name: Literal["coco"]
    root: Text
    """COCO's folder."""
    instances: Text | None = None
    """The instances file; null: the one annotations/instances_*.json."""
    captions: Text | None = None
    """The captions file; null: that of the same pictures."""
    caption_seed: Index = 0
    """Which of a picture's captions is taken."""
    download: StrictBool = False
    """Fetch annotations and pictures into data.root first."""
    year: Literal[2014, 2017] = 2017
    """Of the download."""
    subset: Literal["train", "val"] = "val"
    """Of the download."""
    max_pictures: Count | None = None
    """Take the first so many pictures; null: all."""
    base_url: Text = "https://s3.amazonaws.com/images.cocodataset.org"
    """Where the download comes from."""

    def read(self, *, cache_dir: Path, require_pictures: bool) -> Annotations:
        """The pictures with one of the labels, downloaded first if that is asked for."""
        from mmlabel.data.sources.coco import read_coco

        root = Path(self.root).expanduser()
        if self.download:
            from mmlabel.data.download import download_coco

            download_coco(
                root,
                year=self.year,
                subset=self.subset,
                base_url=self.base_url,
                max_pictures=self.max_pictures,
            )
        # The archive holds several sets of annotations; the one asked for is meant.
        fetched = f"instances_{self.subset}{self.year}.json" if self.download else None
        return read_coco(
            root,
            instances=self.instances or fetched,
            captions=self.captions,
            seed=self.caption_seed,
            max_pictures=self.max_pictures,
            require_pictures=require_pictures,
        )


class CsvTable(Splits):
    """Any CSV with a picture, a list of labels and a caption in each row."""

    name: Literal["csv"]
    file: Text
    """The CSV."""
    root: Text | None = None
    """The folder that pictures are relative to; null: the CSV's."""
    picture_column: Text = "picture"
    """The column of picture files."""
    label_column: Text = "labels"
    """The column of label lists."""
    caption_column: Text = "caption"
    """The column of captions."""
    separator: Annotated[str, Field(min_length=1)] = " "
    """What stands between the labels of a row."""
    label_names: list[Text] | None = None
    """The labels' names; null: numbers, or the names found in the file."""
    num_labels: Count | None = None
    """How many label numbers there are; null: the highest plus one."""

    def read(self, *, cache_dir: Path, require_pictures: bool) -> Annotations:
        """The rows of the CSV."""
        from mmlabel.data.sources.csv_table import read_csv

        return read_csv(
            Path(self.file).expanduser(),
            picture_column=self.picture_column,
            label_column=self.label_column,
            caption_column=self.caption_column,
            root=None if self.root is None else Path(self.root).expanduser(),
            separator=self.separator,
            label_names=self.label_names,
            num_labels=self.num_labels,
            require_pictures=require_pictures,
        )


DataSource = Annotated[Scenes | Usyd | Coco | CsvTable, Field(discriminator="name")]


# ---- Pictures -------------------------------------------------------------------------------


class NamedBackbone(Group):
    """A backbone that is known by its own name."""

    name: Literal[tuple(BACKBONES)]  # pyright: ignore[reportInvalidTypeForm]
    weights: Text = "pretrained"
    """pretrained (ImageNet), none (random), or a file with a state dict."""
    frozen: StrictBool = True
    """Neither weights nor batch-norm statistics change."""

    @property
    def model_name(self) -> None:
        """timm's name, which such a backbone does not need."""


class TimmBackbone(Group):
    """Any model of timm."""

    name: Literal["timm"]
    model_name: Text
    """timm's name of it."""
    weights: Text = "pretrained"
    """pretrained, none (random), or a file with a state dict."""
    frozen: StrictBool = True
    """Neither weights nor batch-norm statistics change."""


Backbone = Annotated[NamedBackbone | TimmBackbone, Field(discriminator="name")]


class Features(Group):
    """A frozen backbone's features, computed once and kept on disk."""

    mode: Literal["auto", "on", "off"] = "auto"
    """auto: where possible; on: an error where not; off: the backbone runs in every epoch."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone's arithmetic while extracting."""
    storage: Literal["float32", "float16"] = "float32"
    """On disk; float16 takes half the space."""
    batch_size: Count = 64
    """Pictures a step of the extraction."""
    workers: Annotated[int, Ge(0), Le(256)] | None = None
    """Processes that decode; null: chosen from the number of cores."""


class Detector(Group):
    """What every detector has."""

    image_size: Count | None = None
    """Side in px of the detector's input; null: the detector's own."""
    min_confidence: Annotated[float, Ge(0), Le(1)] = 0.01
    """Boxes below it do not count."""


class TorchvisionDetector(Detector):
    """One of torchvision's detectors."""

    kind: Literal["torchvision"]
    name: Literal[TORCHVISION_DETECTORS]  # pyright: ignore[reportInvalidTypeForm]
    """Which of torchvision's."""
    weights: Text = "pretrained"
    """pretrained (on COCO), none (random: it answers noise), or a file with a state dict."""


class UltralyticsDetector(Detector):
    """Any detector that ultralytics reads."""

    kind: Literal["ultralytics"]
    name: Literal[ULTRALYTICS_DETECTORS]  # pyright: ignore[reportInvalidTypeForm]
    """Which of ultralytics', or file."""
    weights: Text = "pretrained"
    """pretrained (on COCO), none (random: it answers noise), or a file or folder."""

    @model_validator(mode="after")
    def _names_its_file(self) -> UltralyticsDetector:
        if self.name == "file" and self.weights in ("pretrained", "none"):
            raise UserError(
                f"detector.weights={self.weights}: detector=file needs a file or folder of weights"
            )
        return self


AnyDetector = Annotated[TorchvisionDetector | UltralyticsDetector, Field(discriminator="kind")]


# ---- Captions -------------------------------------------------------------------------------


class Captions(Group):
    """From a caption to word numbers."""

    lemmas: Literal["wordnet", "none"] = "wordnet"
    """Words are lemmatised, as in the report, or kept as they are spelt."""
    min_count: Count = 1
    """Rarer words of the training split count as unknown."""
    max_length: Count | None = None
    """Longer captions are cut to so many words; null: never."""


class GloveEmbedding(Group):
    """Vectors through gensim's downloader (report §4.1)."""

    kind: Literal["glove"]
    name: Text = "glove-wiki-gigaword-100"
    """Any name that gensim's downloader knows."""
    frozen: StrictBool = True
    """Whether the vectors stay as they are."""
    dropout: Share = 0.0
    """Share of whole words left out in training."""


class FileEmbedding(Group):
    """Vectors from a file, word2vec or GloVe text (also .gz) or word2vec .bin."""

    kind: Literal["file"]
    file: Text
    """The file of vectors."""
    frozen: StrictBool = True
    """Whether the vectors stay as they are."""
    dropout: Share = 0.0
    """Share of whole words left out in training."""


class Word2VecEmbedding(Group):
    """gensim's Word2Vec, trained on the training captions."""

    kind: Literal["word2vec"]
    dim: Count = 100
    """Numbers a word."""
    frozen: StrictBool = True
    """Whether the vectors stay as they are."""
    dropout: Share = 0.0
    """Share of whole words left out in training."""


class LearnedEmbedding(Group):
    """Vectors learned with the rest of the network, from random ones."""

    kind: Literal["learned"]
    dim: Count = 100
    """Numbers a word."""
    dropout: Share = 0.0
    """Share of whole words left out in training."""


Embedding = Annotated[
    GloveEmbedding | FileEmbedding | Word2VecEmbedding | LearnedEmbedding,
    Field(discriminator="kind"),
]


class Lstm(Group):
    """The caption's BiLSTM (report §3.1.2, A.2)."""

    layers: Annotated[int, Ge(1), Le(64)] = 1
    """Stacked layers."""
    hidden: Count = 128
    """Numbers a direction."""
    dropout: Share = 0.0
    """Between layers."""
    bidirectional: StrictBool = True
    """false: from left to right only."""
    pooling: Literal["max", "last"] = "max"
    """max: of every state over the words; last: the last state of each direction, as in the report."""


# ---- The network ----------------------------------------------------------------------------


class Head(Group):
    """The two fully connected layers."""

    hidden: Count = 512
    """Width between them."""
    dropout: Share = 0.5
    """Before the second."""
    batch_norm: StrictBool = True
    """Before each of them."""


class Fusion(Group):
    """Late fusion: features and caption side by side, two layers, two batch norms (report §3.1.2)."""

    name: Literal["fusion"]
    head: Head = Head()
    image_projection: Count | None = None
    """Width to which a layer brings the picture's features first (good on few rows); null: none."""


class ImageOnly(Group):
    """The same network without captions."""

    name: Literal["image_only"]
    head: Head = Head()
    image_projection: Count | None = None
    """Width to which a layer brings the picture's features first; null: none."""


class CaptionOnly(Group):
    """The same network without pictures, of which none is read."""

    name: Literal["caption_only"]
    head: Head = Head()


class DecoderModel(Group):
    """Labels named one after another by an LSTM that sees the picture (report §4.5.2)."""

    name: Literal["decoder"]


class DetectorModel(Group):
    """Labels from the boxes of a detector trained on COCO; nothing is trained (report §4.5.1)."""

    name: Literal["detector"]


class DetectorFusion(Group):
    """The detector's score of each label stands where features stand in model=fusion."""

    name: Literal["detector_fusion"]
    head: Head = Head()
    image_projection: Count | None = None
    """Width to which a layer brings the detector's scores first; null: none."""


Model = Annotated[
    Fusion | ImageOnly | CaptionOnly | DecoderModel | DetectorModel | DetectorFusion,
    Field(discriminator="name"),
]


class Decoder(Group):
    """The label decoder of model=decoder (Wang et al. 2016, CNN-RNN)."""

    caption: StrictBool = False
    """The caption's encoding beside the picture's features."""
    order: Literal["frequent_first", "rare_first", "as_given", "random"] = "rare_first"
    """In which order labels are named."""
    embedding_dim: Count = 64
    """Numbers a label."""
    hidden: Count = 256
    """Width of the LSTM."""
    layers: Annotated[int, Ge(1), Le(64)] = 1
    """Of the LSTM."""
    dropout: Share = 0.5
    """On the features and on the LSTM's output."""
    beam_width: Count = 5
    """Hypotheses kept while decoding; 1: greedy."""
    length_penalty: AtLeast0 = 0.5
    """Score: log-probability / length ** this; higher favours more labels."""
    max_labels: Count | None = None
    """The most labels an answer may have; null: any number."""


# ---- Training -------------------------------------------------------------------------------


class Bce(Group):
    """Binary cross-entropy on logits, every label alike (report §3.1.5)."""

    name: Literal["bce"]


class BcePosWeight(Group):
    """Positives weigh negatives / positives of the training split (report §3.1.6)."""

    name: Literal["bce_pos_weight"]


Loss = Annotated[Bce | BcePosWeight, Field(discriminator="name")]


class Adam(Group):
    """Kingma & Ba 2014; report §3.1.4."""

    name: Literal["adam"]
    lr: AtLeast0 = 3e-3
    """Learning rate; the highest, with scheduler=one_cycle."""
    betas: Annotated[list[Decay], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """Decay of the two running means."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    weight_decay: AtLeast0 = 0.0
    """L2 penalty."""


class AdamW(Group):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name: Literal["adamw"]
    lr: AtLeast0 = 3e-3
    """Learning rate; the highest, with scheduler=one_cycle."""
    betas: Annotated[list[Decay], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """Decay of the two running means."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    weight_decay: AtLeast0 = 0.01
    """Decay of the weights, a step."""


class Adadelta(Group):
    """Zeiler 2012; report §3.1.4, with the report's learning rate (A.2)."""

    name: Literal["adadelta"]
    lr: AtLeast0 = 5.0
    """Learning rate."""
    rho: Decay = 0.9
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
    devices: Annotated[int, Ge(-1)] | list[Index] | Text = 1
    """How many, a list of them, or auto."""
    num_nodes: Count = 1
    """Machines that take part."""
    strategy: Text = "auto"
    """auto, ddp or another of Lightning's."""
    precision: Text = "32-true"
    """Of the arithmetic: 32-true, 16-mixed, bf16-mixed and Lightning's others."""
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
    """Train and validate on so many batches of the training split, to see that the model can."""
    fast_dev_run: StrictBool | Annotated[int, Ge(1)] = False
    """Run one batch (or so many) of everything, to see that it runs."""
    val_check_interval: Limit | None = None
    """Validate after so many batches or this share of an epoch; null: after each epoch."""
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


class Logger(Group):
    """Where the history of a run goes."""

    csv: StrictBool = True
    """metrics.csv in the run's folder."""
    wandb: Wandb | None = None
    tensorboard: StrictBool = False
    """TensorBoard's event files in the run's folder."""


class Callbacks(Group):
    """Further callbacks of Lightning's."""

    model_summary: StrictBool = False
    """Lightning's table of modules, before training."""
    device_stats: StrictBool = False
    """Log use of the processor or GPU."""


class StudyNames(Group):
    """Set by sweep.py, so that runs can be grouped."""

    name: Text | None = None
    """The study that the run belongs to."""
    variant: Text | None = None
    """Its variant."""


# ---- All of them ----------------------------------------------------------------------------

# The groups that a model uses, of those that not all models do.
_CAPTION = ("captions", "embedding", "lstm")
_TRAINED = ("optimizer", "scheduler")
USES: dict[str, tuple[str, ...]] = {
    "fusion": ("backbone", "features", *_CAPTION, "loss", *_TRAINED),
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
    resume_lr: Positive | None = None
    """With ckpt_path: go on at this learning rate, with a fresh schedule over the epochs left."""
    threshold: Annotated[float, Ge(0), Le(1)] | Literal["auto", "per_label"] | None = None
    """A label is answered when its probability reaches this; auto, per_label: best on validation; null: 0.5 (a detector: 0.25)."""
    monitor: Literal["val/f1_micro", "val/f1_samples", "val/f1_macro", "val/map", "val/loss"] = (
        "val/f1_micro"
    )
    """What early stopping, the best checkpoint and scheduler=plateau look at."""
    patience: Count | None = 5
    """Epochs without improvement before training stops; null: never stop early."""
    name: Text | None = None
    """Of the run; null: made of the overrides."""
    study: StudyNames = StudyNames()
    report: StrictBool = True
    """Write report.html into the run's folder."""
    cache_dir: Text = "~/.cache/mmlabel"
    """Where prepared data is kept between runs (environment variable MMLABEL_CACHE)."""

    data: DataSource
    model: Model
    backbone: Backbone | None = None
    features: Features | None = None
    captions: Captions | None = None
    embedding: Embedding | None = None
    lstm: Lstm | None = None
    decoder: Decoder | None = None
    detector: AnyDetector | None = None
    loss: Loss | None = None
    optimizer: Optimizer | None = None
    scheduler: Scheduler | None = None
    trainer: Trainer = Trainer()
    callbacks: Callbacks = Callbacks()
    logger: Logger = Logger()

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if not self.train and self.ckpt_path is None:
            raise UserError("train=false evaluates a checkpoint: add ckpt_path=FILE")
        if self.features and self.features.mode == "on" and not self.frozen_backbone:
            raise UserError(
                "features=on with backbone.frozen=false: a backbone that is trained gives other"
                " features in every step, so they cannot be kept; choose one of the two"
            )
        if self.train and self.data.batch_size == 1 and self.has_batch_norm:
            raise UserError(
                "data.batch_size=1: batch norm cannot train on one row at a time; use more rows a"
                " batch, or model.head.batch_norm=false"
            )
        if self.resume_lr is not None and not (self.train and self.ckpt_path):
            raise UserError(
                "resume_lr is for a run that is resumed: add ckpt_path=FOLDER/last.ckpt"
            )
        limits = (self.trainer.max_epochs, self.trainer.max_time)
        if limits == (None, None) and self.trainer.max_steps == -1:
            raise UserError(
                "trainer.max_epochs=null needs another end: trainer.max_steps or trainer.max_time"
            )
        if self.scheduler and self.scheduler.name in ("one_cycle", "cosine"):
            if self.trainer.max_epochs is None and self.trainer.max_steps == -1:
                raise UserError(
                    f"scheduler={self.scheduler.name} is laid out over the whole run, whose length"
                    " trainer.max_time alone does not tell: give trainer.max_epochs, or"
                    " scheduler=none"
                )
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the model looks at: "image", "caption" or both."""
        return model_inputs(self.model.name, caption=bool(self.decoder and self.decoder.caption))

    @property
    def frozen_backbone(self) -> bool:
        return self.backbone is not None and self.backbone.frozen

    @property
    def has_batch_norm(self) -> bool:
        """Whether the network to be trained has batch norms of its own."""
        model = self.model
        if isinstance(model, Fusion | ImageOnly | CaptionOnly | DetectorFusion):
            return model.head.batch_norm
        return isinstance(model, DecoderModel)

    @property
    def answers_at(self) -> float | Literal["auto", "per_label"]:
        """`threshold`, or the model's own."""
        if self.threshold is None:
            return 0.25 if isinstance(self.model, DetectorModel) else 0.5
        return self.threshold

    @property
    def monitor_mode(self) -> Literal["min", "max"]:
        """A loss is minimised, a score maximised."""
        return "min" if self.monitor.endswith("loss") else "max"

    def plain(self) -> dict[str, Any]:
        """All options as nested plain values, without groups that are not in use."""
        values = self.model_dump(mode="json")
        return {
            key: value for key, value in values.items() if not (value is None and key in OPTIONAL)
        }


def model_inputs(model: str, *, caption: bool) -> tuple[str, ...]:
    """What a model looks at; `caption`: whether the decoder sees captions."""
    if model == "image_only" or model == "detector" or (model == "decoder" and not caption):
        return ("image",)
    return ("caption",) if model == "caption_only" else ("image", "caption")


def groups_used(values: Mapping[str, Any]) -> set[str]:
    """The groups among OPTIONAL that these plain values' model uses."""
    model = (values.get("model") or {}).get("name")
    if model not in USES:
        raise UserError(f'there is no model="{model}"{nearest(str(model), USES)}')
    used = set(USES[model])
    if model == "decoder" and (values.get("decoder") or {}).get("caption"):
        used |= set(_CAPTION)
    return used


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
        raise UserError(f"{name} must be given: {name}=VALUE")
    for group in used:
        if kept.get(group) is None:
            raise UserError(f"{group} is missing: model={kept['model']['name']} needs {group}=NAME")
    for group in unused:
        if group in kept:
            _check_alone(group, kept.pop(group))
    return validate(Settings, kept)


def _check_alone(group: str, value: object) -> None:
    """Check a group that is not in use without what it would have to fit."""

    class Alone(Group):
        pass

    from pydantic import create_model

    field = Settings.model_fields[group]
    alone = create_model("Alone", __base__=Group, **{group: (field.annotation, field)})  # type: ignore[call-overload]
    validate(alone, {group: value})


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
            or (value != field.get_default() and not (value is None and name in OPTIONAL))
        ):
            yield f"{prefix}{name}", value
    for name, value in (group.model_extra or {}).items():
        yield f"{prefix}{name}", value


def option_names() -> list[str]:
    """Every declared option, once."""
    return list(dict.fromkeys(option.name for option in declared(Settings)))
