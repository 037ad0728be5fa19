"""Captions to vectors: word embeddings and a bidirectional LSTM (report section 3.1.2).

A frozen text transformer can stand in the place of the embeddings.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mmlabel.models.encoder import Encoder
from mmlabel.models.padded_lstm import at_their_words, run_padded
from mmlabel.models.text_model import TextTransformer


class CaptionEncoder(Encoder):
    """Encodes each caption alone: the batch around it and its padding change nothing.

    Args:
        num_words: size of the vocabulary, with 0 for padding and 1 for unknown words.
        embedding_dim: numbers per word.
        transformer: a frozen one, whose states take the place of the words' vectors; then there is
            no embedding. Batches that hold stored states go past it.
        states: what the states are rounded to, as the stored ones are.
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
        num_words: int = 0,
        embedding_dim: int = 0,
        transformer: TextTransformer | None = None,
        states: torch.dtype = torch.float32,
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
        self.transformer = transformer
        self.states = states
        if transformer is None:
            self.embedding = nn.Embedding(num_words, embedding_dim, padding_idx=0)
        if transformer is None and embeddings is not None:
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
            embedding_dim if transformer is None else transformer.width,
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
            tokens: (B, T) int64, or the transformer's stored states (B, T, width).
            lengths: (B,) int64 on the CPU; a caption of length 0 is encoded as zeros.

        Returns:
            (B, 2H) float32.
        """
        return self._read(tokens, lengths, states=False)[0]

    def read(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the last layer's outputs (B, T, 2H), each at its word.

        Those behind a caption's end mean nothing.
        """
        encoding, states = self._read(tokens, lengths, states=True)
        assert states is not None
        return encoding, states

    def _read(
        self, tokens: Tensor, lengths: Tensor, *, states: bool
    ) -> tuple[Tensor, Tensor | None]:
        if tokens.shape[1] == 0:
            tokens = pad(tokens, (0, 0) * (tokens.ndim - 2) + (0, 1))
        words = self.word_dropout(self._vectors(tokens, lengths))  # (B, T, D)
        # A sequence of no steps cannot be run: an empty caption runs for one and is masked.
        steps = lengths.cpu().clamp(min=1)
        # A GPU's fused kernel takes packed sequences; a CPU's takes padded ones, in float32 alone.
        fused = words.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        on_cpu = words.device.type == "cpu"
        run = self._run_padded if on_cpu and fused else self._run_packed
        encoding, outputs = run(words, steps, states)  # (B, 2H), (B, T, 2H)
        empty = (lengths == 0).to(encoding.device).unsqueeze(1)  # (B, 1)
        return encoding.masked_fill(empty, 0.0), outputs

    def _vectors(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        if tokens.ndim == 3:
            return tokens.float()
        if self.transformer is None:
            return self.embedding(tokens)
        # As the stored ones are computed, whatever the precision of training is (bf16-mixed).
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            return self.transformer(tokens, lengths).to(self.states).float()

    def _run_padded(
        self, words: Tensor, steps: Tensor, states: bool
    ) -> tuple[Tensor, Tensor | None]:
        outputs = run_padded(self.lstm, words, steps)  # of each direction (B, T, H)
        at_words = at_their_words(outputs, steps) if states else None
        if self.pooling == "last":
            rows = torch.arange(steps.shape[0])
            return torch.cat([output[rows, steps - 1] for output in outputs], dim=1), at_words
        padding = torch.arange(words.shape[1]) >= steps[:, None]  # (B, T)
        hidden = [output.masked_fill(padding.unsqueeze(2), -torch.inf) for output in outputs]
        return torch.cat([output.amax(dim=1) for output in hidden], dim=1), at_words

    def _run_packed(
        self, words: Tensor, steps: Tensor, states: bool
    ) -> tuple[Tensor, Tensor | None]:
        packed = pack_padded_sequence(words, steps, batch_first=True, enforce_sorted=False)
        outputs, (h_n, _) = self.lstm(packed)  # h_n: (layers * directions, B, H)
        at_words = None
        if states:
            at_words, _ = pad_packed_sequence(
                outputs, batch_first=True, total_length=words.shape[1]
            )
        if self.pooling == "last":
            # Layers come first, so the last layer's two directions are the last two slices.
            return torch.cat([*h_n[-2 if self.lstm.bidirectional else -1 :]], dim=1), at_words
        padded, _ = pad_packed_sequence(outputs, batch_first=True, padding_value=-torch.inf)
        return padded.amax(dim=1), at_words
