"""Captions to vectors: word embeddings and a bidirectional LSTM (report section 3.1.2)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from mmlabel.models.encoder import Encoder


class CaptionEncoder(Encoder):
    """Encodes each caption alone: the batch around it and its padding change nothing.

    Args:
        num_words: size of the vocabulary, with 0 for padding and 1 for unknown words.
        embedding_dim: numbers per word.
        embeddings: (num_words, embedding_dim) ready-made vectors; None: learned from scratch.
        freeze_embeddings: keep ready-made vectors as they are; learned ones are never frozen.
        hidden: numbers per direction; the encoding has 2 * hidden of them (the report's 256).
        layers: stacked LSTM layers.
        dropout: between layers, so without effect when there is only one.
        embedding_dropout: share of whole words left out in training.
        bidirectional: False reads from left to right only.
        pooling: "last" takes the last layer's final state of each direction, as in the report;
            "max" the maximum over the words of that layer's outputs.

    Attributes:
        out_features: numbers per caption.
    """

    def __init__(
        self,
        *,
        num_words: int,
        embedding_dim: int,
        embeddings: Tensor | None = None,
        freeze_embeddings: bool = True,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        bidirectional: bool = True,
        pooling: Literal["last", "max"] = "last",
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_words, embedding_dim, padding_idx=0)
        if embeddings is not None:
            if embeddings.shape != (num_words, embedding_dim):
                raise ValueError(
                    f"embeddings of shape {tuple(embeddings.shape)} for {num_words} words of "
                    f"{embedding_dim} numbers"
                )
            with torch.no_grad():
                self.embedding.weight.copy_(embeddings)
            self.embedding.weight.requires_grad_(not freeze_embeddings)
        self.word_dropout = nn.Dropout1d(embedding_dropout)
        self.lstm = nn.LSTM(
            embedding_dim,
            hidden,
            num_layers=layers,
            dropout=dropout if layers > 1 else 0.0,
            bidirectional=bidirectional,
            batch_first=True,
        )
        self.pooling = pooling
        self.out_features = hidden * (2 if bidirectional else 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Captions to encodings; H is `hidden`, doubled in the result when bidirectional.

        Args:
            tokens: (B, T) int64.
            lengths: (B,) int64 on the CPU; a caption of length 0 is encoded as zeros.

        Returns:
            (B, 2H) float32.
        """
        if tokens.shape[1] == 0:
            tokens = pad(tokens, (0, 1))
        words = self.word_dropout(self.embedding(tokens))  # (B, T, D)
        # A sequence of no steps cannot be packed: an empty caption runs for one and is masked.
        steps = lengths.cpu().clamp(min=1)
        packed = pack_padded_sequence(words, steps, batch_first=True, enforce_sorted=False)
        outputs, (h_n, _) = self.lstm(packed)  # h_n: (layers * directions, B, H)
        encoding = _maximum(outputs) if self.pooling == "max" else self._final(h_n)  # (B, 2H)
        empty = (lengths == 0).to(encoding.device).unsqueeze(1)  # (B, 1)
        return encoding.masked_fill(empty, 0.0)

    def _final(self, h_n: Tensor) -> Tensor:
        # Layers come first, so the last layer's two directions are the last two slices.
        if self.lstm.bidirectional:
            return torch.cat([h_n[-2], h_n[-1]], dim=1)  # (B, 2H)
        return h_n[-1]  # (B, H)


def _maximum(outputs: PackedSequence) -> Tensor:
    padded, _ = pad_packed_sequence(outputs, batch_first=True, padding_value=-torch.inf)
    return padded.amax(dim=1)  # (B, 2H)
