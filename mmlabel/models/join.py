"""How picture and caption become one vector: scaled concatenation, gated unit, bilinear product.

"attention" is a concatenation, too, with what words have found in the picture behind the halves.

Each half is standardised first, so that 1,280 features and 256 states of other sizes meet as
equals; a half that is hidden from the network is then 0, which is its mean. A new kind is a class
here with `out_features`, which `JOINS` lists, and a choice of `model.fusion`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

HALVES = ("image", "caption")  # in the order in which they are concatenated


class Concatenation(nn.Module):
    """[s x, y], with the picture's half x weighted by s.

    Args:
        image, caption: widths F and C of the halves.
        image_scale: s; below 1 the picture's many columns learn more slowly than the caption's few.
    """

    def __init__(self, *, image: int, caption: int, image_scale: float = 1.0) -> None:
        super().__init__()
        self.image_scale = image_scale
        self.out_features = image + caption

    def forward(self, image: Tensor, caption: Tensor) -> Tensor:
        """(B, F) and (B, C) to (B, F + C)."""
        return torch.cat([self.image_scale * image, caption], dim=1)


class Gated(nn.Module):
    """z tanh(V x) + (1 - z) tanh(W y), z = σ(Z [x, y]): a gate a number decides between the halves.

    The gated multimodal unit of Arevalo et al. 2017 (arXiv:1702.01992), equation 1.

    Args:
        image, caption: widths F and C of the halves.
        width: H, numbers that come out.
    """

    def __init__(self, *, image: int, caption: int, width: int) -> None:
        super().__init__()
        self.image = nn.Linear(image, width, bias=False)
        self.caption = nn.Linear(caption, width, bias=False)
        self.gate = nn.Linear(image + caption, width, bias=False)
        self.out_features = width

    def forward(self, image: Tensor, caption: Tensor) -> Tensor:
        """(B, F) and (B, C) to (B, H) in -1..1."""
        gate = torch.cat([image, caption], dim=1)
        gate = self.gate(gate).sigmoid()  # (B, H)
        return gate * self.image(image).tanh() + (1 - gate) * self.caption(caption).tanh()


class Bilinear(nn.Module):
    """tanh(U x + u) * tanh(V y + v), number by number.

    With the layer that follows it is a bilinear form of low rank for each output, the Hadamard
    product of Kim et al. 2016 (arXiv:1610.04325), equations 8 and 10.

    Args:
        image, caption: widths F and C of the halves.
        width: H, the rank.
    """

    def __init__(self, *, image: int, caption: int, width: int) -> None:
        super().__init__()
        self.image = nn.Linear(image, width)
        self.caption = nn.Linear(caption, width)
        self.out_features = width

    def forward(self, image: Tensor, caption: Tensor) -> Tensor:
        """(B, F) and (B, C) to (B, H) in -1..1."""
        return self.image(image).tanh() * self.caption(caption).tanh()


JOINS: dict[str, Callable[..., Concatenation | Gated | Bilinear]] = {
    "concat": Concatenation,
    "gated": Gated,
    "bilinear": Bilinear,
    "attention": Concatenation,
}
SIDE_BY_SIDE = ("concat", "attention")  # the kinds that leave numbers of the halves as they are


class Join(nn.Module):
    """Standardises both halves, hides one of them now and then, and makes one vector of them.

    Args:
        kind: one of JOINS.
        image, caption: widths F and C of the halves.
        width: of what "gated" and "bilinear" make, and of what words have found in "attention".
        image_scale: of the picture's half where both stand side by side; None: 1.
        modality_dropout: P in 0..1; in training one half, either as likely, is hidden from a share
            P of the rows, so that neither is relied upon alone (Neverova et al. 2016).
        batch_norm: halves are standardised by a batch norm; False: row by row, by a layer norm.

    Attributes:
        out_features: width of the vector.
    """

    def __init__(
        self,
        kind: str,
        *,
        image: int,
        caption: int,
        width: int,
        image_scale: float | None = None,
        modality_dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        beside = kind in SIDE_BY_SIDE
        own = {"image_scale": image_scale or 1.0} if beside else {"width": width}
        self.joined = JOINS[kind](image=image, caption=caption, **own)
        found = {"found": width} if kind == "attention" else {}
        self.out_features = self.joined.out_features + sum(found.values())
        self.batch_norm = batch_norm
        self.modality_dropout = modality_dropout
        # Linear layers follow, which bring scales and offsets of their own.
        self.norms = nn.ModuleDict(
            {
                part: nn.BatchNorm1d(size, affine=False)
                if batch_norm
                else nn.LayerNorm(size, elementwise_affine=False)
                for part, size in {"image": image, "caption": caption, **found}.items()
            }
        )

    def standardised(self, encodings: list[Tensor]) -> list[Tensor]:
        """Picture (B, F), caption (B, C) and what words have found (B, width), if they have looked,
        each with means of 0 and variances of 1."""
        return [norm(part) for norm, part in zip(self.norms.values(), encodings, strict=True)]

    def forward(self, image: Tensor, caption: Tensor, found: Tensor | None = None) -> Tensor:
        """What `standardised` gives, to (B, out_features)."""
        if self.training and self.modality_dropout:
            drawn = torch.rand(len(image), 1, device=image.device)  # one number a row
            shown = drawn >= self.modality_dropout / 2, drawn < 1 - self.modality_dropout / 2
            image, caption = image * shown[0], caption * shown[1]
            found = None if found is None else found * (shown[0] & shown[1])
        joined = self.joined(image, caption)
        return joined if found is None else torch.cat([joined, found], dim=1)
