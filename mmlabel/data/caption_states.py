"""What a frozen text transformer makes of captions, computed once and shared by epochs and runs.

Its states are rows of a store as the features of pictures are: a row belongs to a caption's tokens
and a place among them, so that other captions, or the same in another order, change nothing.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from mmlabel.data.captions import EncodedCaptions
from mmlabel.data.row_store import RowStore, StoreUnavailable
from mmlabel.progress import progress

BATCH = 64  # captions a step
_KEPT = 4096  # captions whose states are written at once


class FrozenTransformer(Protocol):
    """What the store needs of a text transformer."""

    @property
    def width(self) -> int:
        """Numbers a token."""
        ...

    def key(self) -> dict[str, object]:
        """All that a state depends on besides the caption's tokens, as plain values."""
        ...

    def extract(self, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """A function from tokens (B, T) and lengths (B,) to states (B, T, width) on `device`."""
        ...


@dataclass(frozen=True)
class StoredStates:
    """How a frozen transformer's states are computed once and kept.

    Attributes:
        transformer: of the network.
        storage: on disk.
    """

    transformer: FrozenTransformer
    storage: Literal["float16", "float32"]


def caption_states(
    captions: EncodedCaptions, stored: StoredStates, *, cache_dir: Path, device: torch.device
) -> tuple[Tensor, EncodedCaptions]:
    """The states of all tokens: (rows, width) through a memory map, and each token's row.

    What the store lacks is computed first; where another job computes it, this one waits.

    Raises `StoreUnavailable`.
    """
    transformer = stored.transformer
    store = RowStore.open(
        cache_dir, key=transformer.key(), width=transformer.width, dtype=stored.storage
    )
    distinct, which = _distinct(captions)
    entries = _entries(distinct)
    rows = store.rows(entries)
    if (rows < 0).any():
        store.check_space(int((rows < 0).sum()))
        with store.turn(entries, share="states", work="states of captions"):
            _fill(store, distinct, entries, transformer.extract(device))
        rows = store.rows(entries)
        if (rows < 0).any():
            raise StoreUnavailable(f"{store.folder}: what was written there cannot be read again")
    placed = replace(captions, ids=rows.astype(np.int32), offsets=distinct.offsets)
    return torch.from_numpy(store.array()), placed.take(which)


def _distinct(captions: EncodedCaptions) -> tuple[EncodedCaptions, np.ndarray]:
    """Each sequence of tokens once, and (N,) which of them each caption is."""
    index: dict[bytes, int] = {}
    first, which = [], np.empty(len(captions), dtype=np.int64)
    offsets, ids = captions.offsets.tolist(), captions.ids
    for row in range(len(captions)):
        own = ids[offsets[row] : offsets[row + 1]].tobytes()
        which[row] = index.setdefault(own, len(index))
        if which[row] == len(first):
            first.append(row)
    return captions.take(np.asarray(first, dtype=np.int64)), which


def _entries(captions: EncodedCaptions) -> list[bytes]:
    """Of each token: the SHA-256 of its caption's tokens, and its place among them."""
    offsets, entries = captions.offsets.tolist(), []
    for start, end in zip(offsets, offsets[1:], strict=False):
        digest = hashlib.sha256(captions.ids[start:end].astype("<i4").tobytes()).digest()
        entries += [digest + bytes([place]) for place in range(end - start)]
    return entries


def _fill(
    store: RowStore,
    captions: EncodedCaptions,
    entries: list[bytes],
    extract: Callable[[Tensor, Tensor], Tensor],
) -> None:
    lacking = np.append(0, np.cumsum(store.rows(entries) < 0))  # tokens, up to each
    missing = np.flatnonzero(np.diff(lacking[captions.offsets]))
    # Captions of like length are padded least.
    missing = missing[np.argsort(captions.lengths[missing], kind="stable")]
    with progress("states of captions", len(missing), unit="captions") as advance:
        for at in range(0, len(missing), _KEPT):
            chunk, names, block = missing[at : at + _KEPT], [], []
            for start in range(0, len(chunk), BATCH):
                rows = chunk[start : start + BATCH]
                lengths = captions.lengths[rows]
                tokens = torch.from_numpy(captions.pad(rows))
                states = extract(tokens, torch.from_numpy(lengths)).cpu().numpy()  # (B, T, D)
                block.append(states[np.arange(tokens.shape[1]) < lengths[:, None]])
                for row in rows.tolist():
                    names += entries[captions.offsets[row] : captions.offsets[row + 1]]
                advance(len(rows))
            store.append(names, np.concatenate(block))
