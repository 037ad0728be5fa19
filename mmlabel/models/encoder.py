"""What a network needs to know of the encoders that it joins."""

from torch import nn


class Encoder(nn.Module):
    """Makes of one half of a batch, picture or caption, a vector of `out_features` numbers a row.

    The picture's is called with `Batch.image`, the caption's with `Batch.tokens, Batch.lengths`;
    both return (B, out_features) float32.
    """

    out_features: int
