"""What a network needs to know of the encoders that it joins."""

from typing import cast

from torch import Tensor, nn

from mmlabel.criterion import Criterion


class Encoder(nn.Module):
    """Makes of one half of a batch, picture or caption, a vector of `out_features` numbers a row.

    The picture's is called with `Batch.image`, the caption's with `Batch.tokens, Batch.lengths`;
    both return (B, out_features) float32.
    """

    out_features: int

    def own_loss(self, criterion: Criterion, *truth: Tensor | None) -> Tensor | float:
        """What an encoder learns beside the network's loss, of the batch it was just called with.

        `truth` is what the criterion compares logits with.
        """
        return 0.0


def own_losses(
    encoders: nn.ModuleDict, criterion: Criterion, *truth: Tensor | None
) -> Tensor | float:
    """The sum of `Encoder.own_loss` over a network's encoders."""
    each = (cast(Encoder, encoder) for encoder in encoders.values())
    return sum(encoder.own_loss(criterion, *truth) for encoder in each)
