"""Large weights of an ONNX model in fewer bits, with a step behind each that widens it.

A runtime widens them once, when it loads the model, and computes in single precision, so that
nothing is lost but the digits of the weights. Activations of 8 bits as well would cost a backbone
of depthwise convolutions more than its users want to lose, and are faster on some processors only.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

Precision = Literal["float32", "float16", "int8"]
_SMALL = 4096  # numbers: what is less is not worth it


def store_weights(path: Path, precision: Precision) -> None:
    """Replace a model's file by one whose large weights are stored in `precision`.

    In int8 each channel of a matrix or a convolution has a range of its own, even about 0; what has
    no channels is stored in float16.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    graph, widened, stored = model.graph, [], []
    for weights in graph.initializer:
        values = numpy_helper.to_array(weights)
        if precision == "float32" or values.dtype != "float32" or values.size < _SMALL:
            stored.append(weights)
        elif precision == "int8" and sum(size > 1 for size in values.shape) > 1:
            tensors, nodes = _int8(weights.name, values)
            stored += tensors
            widened += nodes
        else:
            tensors, nodes = _float16(weights.name, values)
            stored += tensors
            widened += nodes
    nodes = [*widened, *graph.node]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(stored)
    onnx.save(model, path)


def _float16(name: str, values: np.ndarray) -> "tuple[list[TensorProto], list[NodeProto]]":
    from onnx import TensorProto, helper, numpy_helper

    half = numpy_helper.from_array(values.astype("float16"), f"{name}_half")
    return [half], [helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)]


def _int8(name: str, values: np.ndarray) -> "tuple[list[TensorProto], list[NodeProto]]":
    from onnx import TensorProto, helper, numpy_helper

    # The channels of a convolution and of a matrix come first; an LSTM's behind its direction.
    channel = next(axis for axis, size in enumerate(values.shape) if size > 1)
    others = tuple(axis for axis in range(values.ndim) if axis != channel)
    scale = np.abs(values).max(axis=others, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    tensors = [
        numpy_helper.from_array(np.rint(values / scale).astype("int8"), f"{name}_int8"),
        numpy_helper.from_array(scale, f"{name}_scale"),
    ]
    # Not DequantizeLinear, which ONNX Runtime would do anew for each batch.
    nodes = [
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_wide", f"{name}_scale"], [name]),
    ]
    return tensors, nodes
