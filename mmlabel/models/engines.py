"""The libraries that compute a frozen backbone's features: torch, and OpenVINO on a CPU.

In float32 OpenVINO gives torch's features to a relative 1e-5, at 1.2 to 3.5 times the speed. What
made the features is part of the key under which they are stored.
"""

import importlib.util
import platform
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor

from mmlabel.errors import UserError, first_line
from mmlabel.models.backbones import Backbone, Precision, Trunk

if TYPE_CHECKING:
    from openvino import CompiledModel, Core

EngineName = Literal["auto", "torch", "openvino"]
PrecisionName = Literal["auto", "float32", "bfloat16"]
Extract = Callable[[Tensor], Tensor]

# By which OpenVINO's features may differ from torch's in float32, relative to their length: more is
# a fault of the conversion. It is some 1e-6 in float32 and 0.02 in bfloat16.
LARGEST_ERROR: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 0.1}


class NoOpenVino(UserError):
    """OpenVINO cannot be used; has `.reason`, which is the message without what a run can do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}{advice}")
        self.reason = reason


@dataclass(frozen=True)
class Engine:
    """What computes features, and in which precision."""

    name: Literal["torch", "openvino"]
    precision: Precision

    def key(self) -> dict[str, object]:
        """All that features owe to the engine, as plain values."""
        if self.name == "torch":
            return {"precision": self.precision, "torch": torch.__version__}
        return {
            "precision": self.precision,
            "engine": self.name,
            self.name: version(self.name),
        }

    def __str__(self) -> str:
        release = torch.__version__ if self.name == "torch" else version(self.name)
        return f"{self.name} {release}, {self.precision}"


def choose_engine(name: EngineName, *, precision: Precision, device: torch.device) -> Engine:
    """The engine of that name; with "auto" the fastest one installed.

    That is OpenVINO on a CPU that computes in this precision, and torch otherwise. Raises
    NoOpenVino where it is asked for and cannot be had.
    """
    if name == "torch":
        return Engine("torch", precision)
    problem = _openvino_problem(precision, device)
    if problem is None:
        return Engine("openvino", precision)
    if name == "openvino":
        raise NoOpenVino(f"features.engine=openvino: {problem}", "; or features.engine=torch")
    return Engine("torch", precision)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16.

    A processor without them computes in it one number at a time, which takes about a hundred times
    as long as float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN's own question, below, is answered by any AVX-512, with which it is no faster.
        return torch.cpu._is_avx512_bf16_supported()
    found = torch.backends.mkldnn.is_available()
    return found and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def precision_on(device: torch.device, asked: PrecisionName) -> Precision:
    """`asked`, and of "auto" the one that the device is fast in."""
    if asked == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    return asked


def device_for(accelerator: str) -> torch.device:
    """Where a frozen backbone computes in a run with this trainer.accelerator."""
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda:0" if gpu else "cpu")


def build_extract(
    backbone: Backbone, engine: Engine, *, device: torch.device, size: int | tuple[int, int]
) -> Extract:
    """A function from pictures (B, 3, H, W) uint8 on `device` to features (B, F) float32.

    Of a backbone some of whose stages are trained, it gives the rows of its trunk's maps. `size` is
    H and W, one number or two.

    Raises NoOpenVino for a backbone that it cannot compute as torch does.
    """
    backbone.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network: Backbone | Trunk = backbone.trunk or backbone
    if engine.name == "openvino":
        shape = (size, size) if isinstance(size, int) else size
        try:
            return _by_openvino(network, engine.precision, shape=shape)
        except UserError:  # the backbone's own, of which the engine is no way out
            raise
        except Exception as error:  # the converter raises kinds of its own
            reason = f"OpenVINO cannot compute {backbone.info.title} ({first_line(error)})"
            raise NoOpenVino(reason, ": features.engine=torch") from error
    lower = engine.precision == "bfloat16"

    def extract(pictures: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower):
            return network(pictures)

    return extract


def _openvino_problem(precision: Precision, device: torch.device) -> str | None:
    """Why OpenVINO cannot be used, and what to do; None if it can."""
    if device.type != "cpu":
        return f"it computes on the CPU, and this run is on {device.type}: trainer.accelerator=cpu"
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed: pip install 'mmlabel[cpu]'"
    if precision == "bfloat16":
        try:
            capabilities = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        except Exception as error:  # as it is installed it may not even be imported
            return f"OpenVINO cannot be used ({first_line(error)}): install it anew"
        if "BF16" not in capabilities:
            return "this processor has no bfloat16: features.precision=float32"
    return None


@cache
def openvino_core() -> "Core":
    """OpenVINO's one core of this process, which lives as long as that does.

    Each core gives signal handlers a stack of its own, and puts back the one of before when it
    ends: of two that end in the order in which they began, the first's is left, which is no memory
    any more. The next signal (Ctrl-C, the end of a loader's process) would be a segmentation fault.
    """
    without_telemetry()
    import openvino

    return openvino.Core()


def without_telemetry() -> None:
    """Have OpenVINO, once it is imported, report its use to nobody."""
    cast("dict[str, object]", sys.modules).setdefault("openvino_telemetry", None)


def _by_openvino(
    network: Backbone | Trunk, precision: Precision, *, shape: tuple[int, int]
) -> Extract:
    compiled = _compile(network, precision, shape=shape)
    parallel = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    requests = [compiled.create_infer_request() for _ in range(parallel)]

    def extract(pictures: Tensor) -> Tensor:
        # The network takes the memory as it is, channels last, without a copy.
        pixels = pictures.permute(0, 2, 3, 1).contiguous().numpy()  # (B, H, W, 3)
        parts = [part for part in np.array_split(pixels, parallel) if len(part)]
        for request, part in zip(requests, parts, strict=False):
            request.start_async({0: part}, share_inputs=True)
        rows = []
        for request, _ in zip(requests, parts, strict=False):
            request.wait()
            rows.append(request.get_output_tensor().data.copy())
        return torch.from_numpy(np.concatenate(rows))  # (B, F)

    _compare(network, extract, precision, shape=shape)
    return extract


def _compile(
    network: Backbone | Trunk, precision: Precision, *, shape: tuple[int, int]
) -> "CompiledModel":
    core = openvino_core()
    import openvino
    from openvino.preprocess import PrePostProcessor

    example = torch.zeros(2, 3, *shape, dtype=torch.uint8)
    any_batch = openvino.PartialShape([-1, 3, *shape])
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns of every comparison of shapes, which do not change here.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, example, check_trace=False)
        model = openvino.convert_model(traced, input=[(any_batch, openvino.Type.u8)])
    layout = PrePostProcessor(model)
    layout.input().tensor().set_layout(openvino.Layout("NHWC"))
    layout.input().model().set_layout(openvino.Layout("NCHW"))
    return core.compile_model(
        layout.build(),
        "CPU",
        {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # pictures are decoded on the same cores
        },
    )


def _compare(
    network: Backbone | Trunk, extract: Extract, precision: Precision, *, shape: tuple[int, int]
) -> None:
    """Raise RuntimeError unless a few made-up pictures have the same features as in torch."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, 3, *shape), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        expected = network(pictures)
        # Features may all be 0, as those of random weights.
        length = expected.norm().clamp(min=torch.finfo(torch.float32).tiny)
        error = (extract(pictures) - expected).norm() / length
    if not error <= LARGEST_ERROR[precision]:
        raise RuntimeError(f"its features are {error:.1g} off torch's")
