"""Attention of each label over the cells of a picture's last map.

The mean over all cells, which a backbone's features are, hides what fills few of them. Here each
label looks at the cells that speak for it. A new kind is a class here with `num_labels` and
`forward`, which `ATTENTIONS` lists, and a choice of `backbone.attention`.
"""

from collections.abc import Callable

from torch import Tensor, nn


class Residual(nn.Module):
    """Class-specific residual attention (Zhu and Wu 2021, arXiv:2108.02456, equations 3 to 5).

    A linear classifier scores every cell; a label's score is their mean, weighted by the softmax of
    the scores themselves. The paper adds it to the score of the mean cell, which the features that
    stand beside it are.

    Args:
        features: C, numbers a cell.
        num_labels: L.
        temperature: T; the larger, the more the highest cell alone counts.
    """

    def __init__(self, *, features: int, num_labels: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.classifier = nn.Linear(features, num_labels)
        self.temperature = temperature

    def forward(self, cells: Tensor) -> Tensor:
        """(B, C, H, W) to scores (B, L)."""
        scores = self.classifier(cells.flatten(2).transpose(1, 2))  # (B, H*W, L)
        weights = (self.temperature * scores).softmax(dim=1)
        return (weights * scores).sum(dim=1)


class Query(nn.Module):
    """A learned query for each label, by which it finds its cells (Liu et al. 2021).

    One layer of cross-attention as in Query2Label (arXiv:2107.10834), with one head, without the
    layers among labels that follow there.

    Args:
        features: C, numbers a cell.
        num_labels: L.
        width: numbers of a query, a key and a value.
    """

    def __init__(self, *, features: int, num_labels: int, width: int = 128) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.queries = nn.Parameter(nn.init.trunc_normal_(Tensor(num_labels, width)))
        self.keys = nn.Linear(features, width)
        self.values = nn.Linear(features, width)
        self.classifiers = nn.Parameter(nn.init.trunc_normal_(Tensor(num_labels, width), std=0.02))

    def forward(self, cells: Tensor) -> Tensor:
        """(B, C, H, W) to scores (B, L)."""
        columns = cells.flatten(2).transpose(1, 2)  # (B, H*W, C)
        keys, values = self.keys(columns), self.values(columns)  # (B, H*W, D)
        weights = (self.queries @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5).softmax(dim=-1)
        return ((weights @ values) * self.classifiers).sum(dim=-1)  # (B, L, D) to (B, L)


LabelAttention = Residual | Query
ATTENTIONS: dict[str, Callable[..., LabelAttention]] = {"residual": Residual, "query": Query}
