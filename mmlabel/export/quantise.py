"""Convolutions of an ONNX model in whole numbers of 8 bits, by ONNX Runtime's own quantiser.

They are nearly all of a backbone's weights and work. The BiLSTM and what joins the halves are a
small part of both and stay as they are.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def quantise(path: Path, calibration: Sequence[Sequence[np.ndarray]]) -> None:
    """Replace a model's file by one whose convolutions have weights and activations of 8 bits.

    Weights have a range for each channel, of 7 bits, with which processors without instructions of
    their own for it do not overflow: the answers are the same on all.

    Args:
        path: of a file of ONNX.
        calibration: inputs in the model's order, as arrays, a batch each; their smallest and
            largest activations are the ranges.
    """
    import onnxruntime
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    class Rows(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            given = next(self.left, None)
            return None if given is None else dict(zip(names, given, strict=True))

    prepared = path.with_name(f"{path.stem}.prepared.onnx")
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it advises to do what has been done
    try:
        # Norms are folded into the convolutions before them.
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            Rows(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        root.setLevel(level)
        prepared.unlink(missing_ok=True)
