"""The options of pretrained text transformers, of which no other option of captions is needed."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Field, StrictBool

from mmlabel.options import Count, Group, Positive, Share, Text

MOST_TOKENS = 256  # a token's place in its caption is kept in one byte


class TextTransformer(Group):
    """A pretrained text transformer and how it is given captions, as they are written."""

    model: Text = "sentence-transformers/all-MiniLM-L6-v2"
    """A model of the Hugging Face hub, or a folder with what it has there (config.json,
    model.safetensors, tokenizer.json or vocab.txt)."""
    max_length: Annotated[int, Ge(4), Le(MOST_TOKENS)] = 128
    """Longer captions are cut to so many tokens, those that the tokenizer adds included."""
    group_by_length: StrictBool = False
    """Train on batches of captions of similar length, which is faster on a CPU."""


class ContextualEmbedding(TextTransformer):
    """States of a frozen text transformer, computed once and kept on disk, in place of vectors."""

    kind: Literal["contextual"]
    storage: Literal["float16", "float32"] = "float16"
    """Of the states on disk; float16 takes half the space."""
    dropout: Share = 0.0
    """Share of whole words left out in training."""


class BilstmCaption(Group):
    """The BiLSTM of lstm.* over what embedding.* makes of words (report §3.1.2)."""

    name: Literal["bilstm"]


class TransformerCaption(TextTransformer):
    """A text transformer that is trained with the rest of the network."""

    name: Literal["transformer"]
    unfreeze: Count | None = None
    """How many of its last layers are trained; null: all, and its embedding of tokens."""
    lr_scale: Positive = 0.02
    """Learning rate of its layers as a multiple of optimizer.lr: at the rate at which new weights
    learn, pretrained ones are lost (Howard & Ruder 2018)."""
    pooling: Literal["mean", "max", "attention"] = "mean"
    """What is made of the tokens' states: their mean, their maximum, or a mean with learned
    weights."""
    storage: Literal["float32", "float16"] = "float32"
    """Of its weights in the finished best.ckpt; float16 halves them, and scores are those of the
    rounded weights."""


Caption = Annotated[BilstmCaption | TransformerCaption, Field(discriminator="name")]
