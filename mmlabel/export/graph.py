"""A network as a graph of another runtime: ONNX, OpenVINO or torch's own (torch.export)."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mmlabel.data.batches import Batch
from mmlabel.data.captions import MOST_WORDS
from mmlabel.errors import UserError, first_line, of_the_disk
from mmlabel.export.quantise import Precision, store_weights
from mmlabel.models import backbones, padded_lstm
from mmlabel.models.engines import without_telemetry

Format = Literal["onnx", "openvino", "torch"]
FILES: dict[Format, str] = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
OPSET = 20  # of ONNX


class Inputs(nn.Module):
    """A network of `Batch`es as one of tensors.

    Args:
        network: gives logits (B, num_labels) for a batch.
        numbers: the label numbers that have a name.
        halves: what it looks at, "image" and "caption".
    """

    def __init__(self, network: nn.Module, *, numbers: list[int], halves: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.halves = halves
        self.register_buffer("numbers", torch.tensor(numbers))

    def forward(self, *given: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) uint8, tokens (B, T) int64 and lengths (B,) int64, as far as they
        are looked at and in this order, to logits (B, L)."""
        left = list(given)
        image = left.pop(0) if "image" in self.halves else None
        if "caption" in self.halves:
            tokens, lengths = left
        else:
            assert image is not None
            tokens = torch.zeros(image.shape[0], 1, dtype=torch.int64)
            lengths = torch.zeros(image.shape[0], dtype=torch.int64)
        nothing = torch.zeros(0)
        batch = Batch(image, tokens, lengths, targets=nothing, rows=nothing, ids=[])
        return self.network(batch).index_select(1, cast(Tensor, self.numbers)).float()


def write_graph(
    network: Inputs,
    folder: Path,
    *,
    form: Format,
    size: tuple[int, int],
    precision: Precision,
) -> None:
    """Write the network's file into `folder`.

    Args:
        network: in eval mode, on the CPU.
        folder: is there.
        form: of which runtime.
        size: height and width in px of the pictures that it takes.
        precision: in which weights are stored (and widened to compute in single); torch's file
            knows float32 alone.

    Raises UserError where a package is missing, or the network cannot be written so.
    """
    path = folder / FILES[form]
    missing = {"onnx": "onnxscript", "openvino": "openvino", "torch": "torch"}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporters' own, of what is to change in them
            if form == "torch":
                content = io.BytesIO()  # on a full disk torch would end the process
                torch.export.save(_exported(network, size), content)
                path.write_bytes(content.getbuffer())
            elif form == "onnx":
                _write_onnx(network, path, size)
                store_weights(path, precision)
            else:
                _write_openvino(network, path, size, precision)
    except ImportError as error:
        raise UserError(
            f"--format {form} needs {missing[form]} ({error}): pip install -e '.[export]'"
        ) from None
    except UserError:
        raise
    except Exception as error:  # the exporters raise kinds of their own
        if isinstance(error, OSError) and of_the_disk(error):
            raise  # the folder is to blame, not the network
        raise UserError(f"this network cannot be written as {form}: {first_line(error)}") from error


def _examples(network: Inputs, size: tuple[int, int]) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Tensors to trace the network with, by name, and which of their sizes may change."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    words = torch.export.Dim("words", min=1, max=MOST_WORDS)
    found: dict[str, tuple[Tensor, dict]] = {}
    if "image" in network.halves:
        found["image"] = torch.zeros(3, 3, *size, dtype=torch.uint8), {0: batch}
    if "caption" in network.halves:
        found["tokens"] = torch.ones(3, 7, dtype=torch.int64), {0: batch, 1: words}
        found["lengths"] = torch.tensor([7, 3, 1]), {0: batch}
    tensors = tuple(tensor for tensor, _ in found.values())
    return tensors, {name: shapes for name, (_, shapes) in found.items()}


def _exported(network: Inputs, size: tuple[int, int]) -> torch.export.ExportedProgram:
    tensors, shapes = _examples(network, size)
    with _lstm_as_one_step(), _maps_as_they_are():
        return torch.export.export(
            network, tensors, dynamic_shapes={"given": tuple(shapes.values())}, strict=False
        )


def _write_onnx(network: Inputs, path: Path, size: tuple[int, int]) -> None:
    import onnxscript  # noqa: F401  # torch's exporter needs it, and says so in many lines

    _, shapes = _examples(network, size)
    for name in ("onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what they leave as it is
    table: dict[Any, Any] = {torch.ops.mmlabel.lstm.default: _onnx_lstm}
    torch.onnx.export(
        _exported(network, size),
        (),
        path,
        input_names=list(shapes),
        output_names=["logits"],
        opset_version=OPSET,
        custom_translation_table=table,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _write_openvino(
    network: Inputs, path: Path, size: tuple[int, int], precision: Precision
) -> None:
    without_telemetry()
    import openvino

    # Of the ways there the one on which an LSTM stays one.
    passing = path.with_name("passing.onnx")
    try:
        _write_onnx(network, passing, size)
        if precision == "int8":
            store_weights(passing, precision)
        half = precision != "float32"
        openvino.save_model(openvino.convert_model(passing), path, compress_to_fp16=half)
    finally:
        passing.unlink(missing_ok=True)


# ---- One direction of an LSTM, which torch.export would take apart step by step ----------------


@torch.library.custom_op("mmlabel::lstm", mutates_args=())
def lstm_direction(
    inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """Outputs (B, T, H) of one direction of one layer on inputs (B, T, D)."""
    zero = inputs.new_zeros(1, inputs.shape[0], weight_hh.shape[1])
    weights = [weight_ih, weight_hh, bias_ih, bias_hh]
    return torch.lstm(inputs, (zero, zero), weights, True, 1, 0.0, False, False, True)[0]


@lstm_direction.register_fake
def _(
    inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    return inputs.new_empty(inputs.shape[0], inputs.shape[1], weight_hh.shape[1])


@contextmanager
def _lstm_as_one_step() -> Iterator[None]:
    usual = padded_lstm._run_direction

    def one_step(lstm: nn.LSTM, inputs: Tensor, suffix: str) -> Tensor:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return lstm_direction(inputs, *(getattr(lstm, name + suffix) for name in names))

    padded_lstm._run_direction = one_step
    try:
        yield
    finally:
        padded_lstm._run_direction = usual


@contextmanager
def _maps_as_they_are() -> Iterator[None]:
    """Between trunk and tail of a backbone channels stay first: in a graph nothing is stored.

    OpenVINO makes a product of matrices of a convolution of 1x1 in 8 bits behind channels that are
    moved, and forgets its stride.
    """
    usual = backbones.flat, backbones.unflat
    backbones.flat = lambda maps: maps.flatten(1)
    backbones.unflat = lambda rows, shape: rows.view(rows.shape[0], *shape)
    try:
        yield
    finally:
        backbones.flat, backbones.unflat = usual


def _onnx_lstm(inputs: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any) -> Any:
    """The same in ONNX's operators."""
    from onnxscript import opset20

    op: Any = opset20

    def reordered(weights: Any) -> Any:
        # torch's gates are input, forget, cell, output; ONNX's input, output, forget, cell.
        gates = op.Split(weights, axis=0, num_outputs=4)
        return op.Concat(gates[0], gates[3], gates[1], gates[2], axis=0)

    first = op.Constant(value_ints=[0])
    biases = op.Concat(reordered(bias_ih), reordered(bias_hh), axis=0)
    outputs, _, _ = op.LSTM(
        op.Transpose(inputs, perm=[1, 0, 2]),  # (T, B, D)
        op.Unsqueeze(reordered(weight_ih), first),
        op.Unsqueeze(reordered(weight_hh), first),
        op.Unsqueeze(biases, first),
        hidden_size=int(weight_hh.shape[1]),
    )  # (T, 1, B, H)
    outputs = op.Squeeze(outputs, op.Constant(value_ints=[1]))
    return op.Transpose(outputs, perm=[1, 0, 2])
