"""Cross-attention from a caption's words to the cells of a picture's last map."""

import torch
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Each word looks for its cells; what all words have found is their maximum.

    Scaled dot-product attention with one head (Vaswani et al. 2017, arXiv:1706.03762, equation 1),
    words asking and cells answering, as in one direction of the co-attention of Lu et al. 2019
    (arXiv:1908.02265, section 3.1).

    Args:
        cells: C, numbers a cell.
        states: S, numbers a word.
        width: D, numbers of a question, a key and a value.
    """

    def __init__(self, *, cells: int, states: int, width: int) -> None:
        super().__init__()
        self.out_features = width
        self.questions = nn.Linear(states, width)
        self.keys = nn.Linear(cells, width)
        self.values = nn.Linear(cells, width)

    def forward(self, cells: Tensor, states: Tensor, lengths: Tensor) -> Tensor:
        """What a caption's words have found in its picture.

        Args:
            cells: (B, C, H', W').
            states: (B, T, S); those behind a caption's end are not looked at.
            lengths: (B,) int64; a caption of length 0 has found zeros.

        Returns:
            (B, D).
        """
        columns = cells.flatten(2).transpose(1, 2)  # (B, N, C)
        match = self.questions(states) @ self.keys(columns).transpose(1, 2)  # (B, T, N)
        weights = (match / self.out_features**0.5).softmax(dim=2)
        found = weights @ self.values(columns)  # (B, T, D)
        lengths = lengths.to(found.device)
        behind = torch.arange(found.shape[1], device=found.device) >= lengths[:, None]  # (B, T)
        # Expanded, as OpenVINO 2026.4 takes (B, T, 1) for another shape behind a product.
        behind = behind.unsqueeze(2).expand_as(found)
        found = found.masked_fill(behind, -torch.inf).amax(dim=1)
        return found.masked_fill((lengths == 0).unsqueeze(1), 0.0)
