"""The options of networks: captions, word vectors, BiLSTM, fusion, decoder.

A group's kinds are classes of their own, so that an option is only where it matters.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Field, StrictBool, model_validator

from mmlabel.errors import UserError
from mmlabel.models.text_options import ContextualEmbedding
from mmlabel.options import AtLeast0, Count, Group, Positive, Share, Text
from mmlabel.wording import count

# ---- Captions -------------------------------------------------------------------------------


class Captions(Group):
    """From a caption to word numbers."""

    lemmas: Literal["wordnet", "none"] = "wordnet"
    """Words are lemmatised, as in the report, or kept as they are spelt. Punctuation and emoji are
    left out."""
    min_count: Count = 1
    """Rarer words of the training split count as unknown."""
    unknown_words: Literal["one", "similar"] = "one"
    """one: all words that training has not met are the same to the network; similar: such a word
    is read as the known one that is spelt most like it ("skatebord" as "skateboard"), if any is."""
    max_length: Count | None = 128
    """Longer captions are cut to so many words; null: to 10,000."""
    group_by_length: StrictBool = False
    """Train on batches of captions of similar length, which is faster on a CPU."""


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
    """The file of vectors, such as glove.6B.100d.txt."""
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
    GloveEmbedding | FileEmbedding | Word2VecEmbedding | LearnedEmbedding | ContextualEmbedding,
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
    """max: of all states over the words; last: the last of each direction, as in the report."""


# ---- The network ----------------------------------------------------------------------------


class Head(Group):
    """The two fully connected layers."""

    hidden: Count = 512
    """Width between them."""
    dropout: Share = 0.5
    """Before the second."""
    batch_norm: StrictBool = True
    """Before each of them."""


class Mixing(Group):
    """What the networks with a loss of independent labels are trained on."""

    mixup: AtLeast0 = 0.0
    """Rows of a batch are mixed in pairs in training, by a share from Beta(this, this): pictures
    (of a frozen backbone its features or maps), captions' encodings, targets (Zhang et al. 2018;
    0.2); 0: not."""


class BothHalves(Mixing):
    """How a model that looks at pictures and captions joins the two."""

    head: Head = Head()
    fusion: Literal["concat", "gated", "bilinear", "attention"] = "concat"
    """concat: side by side; gated: a gate chooses between them, number by number (Arevalo et al.
    2017); bilinear: the product of both (Kim et al. 2016); attention: side by side, and behind them
    what each word finds in the cells of the picture's last map (Lu et al. 2019), which is stored of
    a frozen backbone. What the latter three make is model.head.hidden wide."""
    image_scale: Positive | None = None
    """With model.fusion=concat or attention: each half is standardised, the picture's then
    multiplied by this, so that its many columns do not drown the caption's few (0.3); null: as they
    are."""
    auxiliary_loss: AtLeast0 = 0.0
    """Weight of the loss of a linear classifier on each half, added in training; 0: none."""
    modality_dropout: Share = 0.0
    """Share of the training rows from which the picture's or the caption's half is hidden."""

    @model_validator(mode="after")
    def _scale_is_of_columns(self) -> BothHalves:
        if self.image_scale is not None and self.fusion not in ("concat", "attention"):
            raise UserError(
                f"model.image_scale={self.image_scale:g} with model.fusion={self.fusion}: only"
                " halves that stand side by side are scaled; leave one of the two out"
            )
        return self

    @property
    def standardised(self) -> bool:
        """Whether the halves have to be of one scale before they meet."""
        asked = (self.image_scale, self.auxiliary_loss, self.modality_dropout)
        return self.fusion != "concat" or any(asked)


class Fusion(BothHalves):
    """Late fusion: features beside the caption, two layers, two batch norms (report §3.1.2)."""

    name: Literal["fusion"]
    image_projection: Count | None = None
    """Width to which a layer brings the picture's features first (good on few rows); null: none."""


class Ensemble(BothHalves):
    """The mean of several networks' logits, trained side by side on one backbone."""

    name: Literal["ensemble"]
    fusion_networks: Annotated[int, Ge(0), Le(64)] = 1
    """How many of model=fusion, each with the options of this group."""
    image_networks: Annotated[int, Ge(0), Le(64)] = 0
    """How many of model=image_only."""
    caption_networks: Annotated[int, Ge(0), Le(64)] = 1
    """How many of model=caption_only."""
    image_weight: Annotated[float, Ge(0), Le(1)] = 1.0
    """How much each network of pictures alone counts in the mean, a network of both halves being 1;
    0: it has no say, and does no more than train the backbone."""
    caption_weight: Annotated[float, Ge(0), Le(1)] = 1.0
    """The same of each network of captions alone; above 0, as it trains nothing but itself."""
    one_size_each: StrictBool = False
    """Each network of one kind looks at another size of backbone.pyramid, the first at the
    smallest, rather than at all: where what they see differs, so do their errors."""
    image_projection: Count | None = None
    """Width to which a layer of each network brings the picture's features first; null: none."""

    @property
    def members(self) -> list[tuple[str, float, int]]:
        """Which model each of its networks is, how much it counts in the mean, and its number among
        those of its kind."""
        counts = [
            ("fusion", 1.0, self.fusion_networks),
            ("image_only", self.image_weight, self.image_networks),
            ("caption_only", self.caption_weight, self.caption_networks),
        ]
        return [(name, weight, n) for name, weight, count in counts for n in range(count)]

    @model_validator(mode="after")
    def _several_of_both_halves(self) -> Ensemble:
        total = len(self.members)
        if total < 2:
            raise UserError(
                f"model=ensemble with {count(total, 'network')}: give"
                " model.fusion_networks, model.image_networks and model.caption_networks that"
                " make at least 2, or choose model=fusion"
            )
        if not self.fusion_networks and not (self.image_networks and self.caption_networks):
            half = "captions" if self.image_networks else "pictures"
            raise UserError(
                f"model=ensemble without a network that looks at {half}: add"
                f" model.{'caption' if self.image_networks else 'image'}_networks=1 or"
                " model.fusion_networks=1"
            )
        for half, networks in (("image", self.image_networks), ("caption", self.caption_networks)):
            weight = getattr(self, f"{half}_weight")
            if weight < 1 and not networks:
                raise UserError(
                    f"model.{half}_weight={weight:g} without a network of that half alone: add"
                    f" model.{half}_networks=1, or leave it out"
                )
            if weight == 0 and (half == "caption" or not self.fusion_networks):
                raise UserError(
                    f"model.{half}_weight=0: nothing would be learned from the {half}s that"
                    f" answers use; give more than 0, or model.{half}_networks=0"
                )
        if not self.fusion_networks and self.standardised:
            raise UserError(
                "model.fusion_networks=0: model.fusion, model.image_scale, model.auxiliary_loss and"
                " model.modality_dropout are of networks that see both halves; leave them out, or"
                " add model.fusion_networks=1"
            )
        return self


class ImageOnly(Mixing):
    """The same network without captions."""

    name: Literal["image_only"]
    head: Head = Head()
    image_projection: Count | None = None
    """Width to which a layer brings the picture's features first; null: none."""


class CaptionOnly(Mixing):
    """The same network without pictures, of which none is read."""

    name: Literal["caption_only"]
    head: Head = Head()


class DecoderModel(Group):
    """Labels named one after another by an LSTM that sees the picture (report §4.5.2)."""

    name: Literal["decoder"]


class DetectorModel(Group):
    """Labels from the boxes of a detector trained on COCO; nothing is trained (report §4.5.1)."""

    name: Literal["detector"]


class DetectorFusion(BothHalves):
    """The detector's score of each label stands where features stand in model=fusion."""

    name: Literal["detector_fusion"]
    image_projection: Count | None = None
    """Width to which a layer brings the detector's scores first; null: none."""

    @model_validator(mode="after")
    def _has_no_cells(self) -> DetectorFusion:
        if self.fusion == "attention":
            raise UserError(
                "model.fusion=attention with model=detector_fusion: a detector's scores have no"
                " cells to look at; choose concat, gated or bilinear"
            )
        return self


Model = Annotated[
    Fusion | Ensemble | ImageOnly | CaptionOnly | DecoderModel | DetectorModel | DetectorFusion,
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
