"""Captions to vectors: a pretrained text transformer that is trained with the rest."""

from typing import Literal

from torch import Tensor, arange, inf, nn
from torch.nn.functional import pad

from mmlabel.models.encoder import Encoder
from mmlabel.models.text_model import TextTransformer

Pooling = Literal["mean", "max", "attention"]


class TransformerEncoder(Encoder):
    """Encodes each caption alone: the batch around it and its padding change nothing.

    Args:
        transformer: gives every token a state.
        pooling: what is made of a caption's states: their "mean", their "max" (number by number),
            or by "attention" the mean with weights that are a softmax of a learned linear score.

    Attributes:
        out_features: numbers per caption.
    """

    def __init__(self, transformer: TextTransformer, *, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.transformer = transformer
        self.pooling = pooling
        self.out_features = transformer.width
        self.attention = nn.Linear(self.out_features, 1) if pooling == "attention" else None

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Captions to encodings.

        Args:
            tokens: (B, T) int64.
            lengths: (B,) int64; a caption of length 0 is encoded as zeros.

        Returns:
            (B, out_features) float32.
        """
        return self.read(tokens, lengths)[0]

    def read(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the tokens' states (B, T, out_features).

        Those behind a caption's end mean nothing.
        """
        if tokens.shape[1] == 0:
            tokens = pad(tokens, (0, 1))
        states = self.transformer(tokens, lengths)  # (B, T, D)
        lengths = lengths.to(states.device)
        steps = lengths.clamp(min=1)
        padding = (arange(states.shape[1], device=states.device) >= steps[:, None]).unsqueeze(2)
        if self.pooling == "max":
            encoding = states.masked_fill(padding, -inf).amax(dim=1)
        elif self.attention is None:
            encoding = states.masked_fill(padding, 0.0).sum(dim=1) / steps.unsqueeze(1)
        else:
            weights = self.attention(states).masked_fill(padding, -inf).softmax(dim=1)  # (B, T, 1)
            encoding = (weights * states.masked_fill(padding, 0.0)).sum(dim=1)
        return encoding.float().masked_fill((lengths == 0).unsqueeze(1), 0.0), states
