"""Captions: an epoch of BiLSTM and head, over packed sequences in random batches."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.table import Bench, seconds
from mmlabel.data.batches import EpochBatches
from mmlabel.models.caption_encoder import CaptionEncoder
from mmlabel.models.fusion import Head

ROWS, WORDS, BATCH = 18_000, 5_000, 32
STRETCH = 20  # batches before it is the next way's turn

Step = Callable[[np.ndarray], object]


def measure(bench: Bench) -> None:
    """For 1 and 8 layers; both ways see the same number of rows, a stretch of an epoch each."""
    random = np.random.default_rng(0)
    # As long as the report's captions: a median of 10 words, 1 in 100 has more than 17.
    lengths = random.gamma(17, 10.4 / 17, ROWS).round().clip(1, 40).astype(np.int64)
    tokens = torch.from_numpy(random.integers(2, WORDS, (ROWS, lengths.max())))
    targets = torch.from_numpy((random.random((ROWS, 20)) < 0.1).astype(np.float32))
    for layers, share in bench.pick(
        tiny={1: 0.004},
        quick={1: 0.2, 8: 0.05},
        usual={1: 1.0, 8: 0.25},
        full={1: 1.0, 8: 1.0},
    ).items():
        _measure(bench, layers, share, tokens, lengths, targets)


def _measure(
    bench: Bench, layers: int, share: float, tokens: Tensor, lengths: np.ndarray, targets: Tensor
) -> None:
    torch.manual_seed(0)
    options = {"num_words": WORDS, "embedding_dim": 50, "layers": layers, "pooling": "max"}
    encoder = CaptionEncoder(**options)
    head = Head(in_features=encoder.out_features, num_labels=targets.shape[1])
    modules = nn.ModuleList([encoder, head])
    criterion = nn.BCEWithLogitsLoss()

    def step(encode: Callable[[Tensor, Tensor], Tensor], index: np.ndarray) -> None:
        longest = lengths[index].max()
        encoded = encode(tokens[index, :longest], torch.from_numpy(lengths[index]))
        criterion(head(encoded), targets[index]).backward()
        modules.zero_grad()

    packed = partial(encode_packed, encoder)
    ways: dict[str, tuple[Step, np.ndarray | None]] = {
        "packed": (partial(step, packed), None),
        "": (partial(step, encoder), None),
        ", captions.group_by_length": (partial(step, encoder), lengths),
    }
    batches = {
        name: [
            rows
            for rows, *_ in EpochBatches(
                len(lengths), batch_size=BATCH, training=True, lengths=given
            )
        ]
        for name, (_, given) in ways.items()
    }
    whole = len(batches["packed"])
    count = round(share * whole)
    took = dict.fromkeys(ways, 0.0)
    for begin in range(0, count, STRETCH):
        for name, (one_step, _) in ways.items():
            some = batches[name][begin : min(count, begin + STRETCH)]
            took[name] += seconds(lambda one_step=one_step, some=some: [one_step(b) for b in some])
    epoch = {name: value * whole / count for name, value in took.items()}
    part = "" if count == whole else f", worked out from {count} of {whole} batches"
    for name in ways:
        if name != "packed":
            bench.add(
                "captions",
                f"an epoch of {len(lengths):,} rows, {layers} layer{'s' * (layers > 1)}{name}, "
                "under packed",
                took["packed"] / took[name],
                "x",
                at_least=2 if name else None,
                note=f"{epoch[name]:.1f} s for {epoch['packed']:.1f} s{part}",
            )


def encode_packed(encoder: CaptionEncoder, tokens: Tensor, lengths: Tensor) -> Tensor:
    """What `encoder` gives, from packed sequences and the maximum over each caption's words."""
    packed = pack_padded_sequence(
        encoder.embedding(tokens), lengths, batch_first=True, enforce_sorted=False
    )
    outputs, _ = pad_packed_sequence(
        encoder.lstm(packed)[0], batch_first=True, padding_value=-torch.inf
    )
    return outputs.amax(dim=1)
