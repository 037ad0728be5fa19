"""A picture network cut in two after one of its stages: a trunk that stays, a tail that is trained.

The stages of ResNet-50 are its four groups of blocks, those of EfficientNet-Lite0 its seven, those
of a vision transformer its blocks, those of VGG-16 what lies between two poolings. The stem before
them belongs to the trunk, and what comes after them (last convolution, pooling) to the tail.
"""

import inspect
import re
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from mmlabel.errors import UserError
from mmlabel.wording import count

# Where torchvision's and timm's networks keep their stages: one container of them, or one each.
_CONTAINERS = ("blocks", "stages", "layers", "features", "trunk_output", "encoder.layers")
_NUMBERED = re.compile(r"(layer|layers_|stages_|stage|s)\d+")
_POOLING = (nn.MaxPool2d, nn.AvgPool2d)
# What makes one vector of the last map, in torchvision's and in timm's networks.
_GLOBAL_POOLING = ("AdaptiveAvgPool2d", "SelectAdaptivePool2d", "FastAdaptiveAvgPool2d")


class Split(NamedTuple):
    """Two networks that share their weights with the whole: tail(trunk(x)) is network(x)."""

    trunk: nn.Module
    tail: nn.Module


def stages(network: nn.Module) -> list[str]:
    """Names of the modules that end a stage, in the order of the network; [] if none is known."""
    modules = dict(network.named_modules())
    numbered = [name for name, _ in network.named_children() if _NUMBERED.fullmatch(name)]
    if len(numbered) > 1:
        return numbered
    for container in _CONTAINERS:
        if container not in modules:
            continue
        parts = list(modules[container].named_children())
        ends = [name for name, part in parts if isinstance(part, _POOLING)]
        if composite := [name for name, part in parts if _is_block(part)]:
            ends = composite
        return [f"{container}.{name}" for name in ends]
    return []


def _is_block(part: nn.Module) -> bool:
    # Norms and poolings may be made of several modules, too.
    layers = (nn.Conv2d, nn.Linear)
    return not isinstance(part, layers) and any(isinstance(m, layers) for m in part.modules())


def split(network: nn.Module, *, trained: int, name: str, cells: bool = False) -> Split:
    """Cut before the last `trained` stages.

    Args:
        network: maps pictures (B, 3, H, W) to features (B, F).
        trained: stages of the tail, at least 1; 0 with `cells` cuts before the pooling.
        name: of the network, for messages.
        cells: whether the tail gives (features, cells), see `with_cells`.

    Raises UserError for a network without known stages or with too few of them, for one whose
    later stages need more than the output of those before, and with `cells` as `with_cells` does.
    """
    ends = stages(network)
    if cells and not trained:
        graph, grid = _with_grid(network, ends, name)
        parts = _cut_at(network, graph, grid, grid=grid)
        assert parts is not None  # nothing but the map is pooled
        return parts
    if not ends:
        raise UserError(
            f"backbone.unfreeze={trained}: the stages of {name} are not known;"
            " backbone.frozen=false trains all of it"
        )
    if trained >= len(ends):
        raise UserError(
            f"backbone.unfreeze={trained}: {name} has {count(len(ends), 'stage')}; give at most"
            f" {len(ends) - 1}, or backbone.frozen=false to train all of it"
        )
    last = ends[-trained - 1]
    graph, grid = _with_grid(network, ends, name) if cells else (_trace(network, ends, name), None)
    cuts = [node for node in graph.nodes if node.op == "call_module" and node.target == last]
    if len(cuts) != 1:
        raise _no_cut(name, trained, f"{last} is run {len(cuts)} times")
    parts = _cut_at(network, graph, cuts[0], grid=grid)
    if parts is None:
        raise _no_cut(name, trained, f"later stages need more than the output of {last}")
    return parts


def with_cells(network: nn.Module, *, name: str) -> nn.Module:
    """The network with a second output, the map that its features are pooled from.

    It shares its weights, and maps pictures (B, 3, H, W) to features (B, F) and to cells
    (B, C, H', W'), each a vector for a part of the picture.

    Raises UserError for a network that pools no map, as transformers do.
    """
    graph, grid = _with_grid(network, stages(network), name)
    new, copies = fx.Graph(), {}
    features = new.graph_copy(graph, copies)
    new.output((features, copies[grid]))
    return fx.GraphModule(network, new, "WithCells")


def with_top(network: nn.Module, *, name: str) -> nn.Module:
    """The network whose features are followed by each map feature's mean over its top cells.

    It shares its weights, and maps pictures (B, 3, H, W) to features (B, F + C), where C is the
    channels of the map that its own features F are pooled from; see `TopCells`.

    Raises UserError for a network that pools no map, as transformers do.
    """
    graph, grid = _with_grid(network, stages(network), name)
    network.add_module("top_cells", TopCells())
    new, copies = fx.Graph(), {}
    features = new.graph_copy(graph, copies)
    top = new.call_module("top_cells", (copies[grid],))
    new.output(new.call_function(torch.cat, ((features, top),), {"dim": 1}))
    return fx.GraphModule(network, new, "WithTop")


class TopCells(nn.Module):
    """Each feature's mean over the sixteenth of the cells in which it is highest (k-max pooling,
    Durand et al. 2016), rounded down, and at least one: an object may fill few of them."""

    def forward(self, cells: Tensor) -> Tensor:
        """(B, C, H', W') to (B, C)."""
        columns = cells.flatten(2)
        return columns.topk(max(1, columns.shape[2] // 16), dim=2).values.mean(dim=2)


def flat(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) as rows (B, H*W*C), channels last; tokens (B, T, C) as (B, T*C)."""
    return (maps.permute(0, 2, 3, 1) if maps.ndim == 4 else maps).flatten(1)


def unflat(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What `flat` made rows of, from them; `shape` is that of one picture's maps, without B."""
    if len(shape) != 3:
        return rows.view(rows.shape[0], *shape)
    channels, height, width = shape
    return rows.view(rows.shape[0], height, width, channels).permute(0, 3, 1, 2)


class _Coarse(fx.Tracer):
    """Traces what happens between the stages, and looks into none of them."""

    def __init__(self, entered: set[str]) -> None:
        super().__init__()
        self._entered = entered

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._entered


def _trace(network: nn.Module, ends: list[str], name: str) -> fx.Graph:
    parts = [end.split(".")[:-1] for end in ends]
    entered = {".".join(part[: n + 1]) for part in parts for n in range(len(part))}
    parameters = inspect.signature(network.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    training = network.training
    network.eval()  # the way that is traced is the one that answers take
    try:
        graph = _Coarse(entered).trace(network, concrete_args=defaults)
    except Exception as error:  # whatever a network's code does with what it cannot compute with
        raise UserError(
            f"backbone.unfreeze: {name} cannot be cut into stages ({error}); backbone.frozen=false"
            " trains all of it"
        ) from error
    finally:
        network.train(training)
    _dropout_by_modules(network, graph)
    return graph


def _dropout_by_modules(network: nn.Module, graph: fx.Graph) -> None:
    """Have modules do the dropout of the network's own code, of which a trace keeps the mode."""
    calls = [node for node in graph.nodes if node.target is functional.dropout]
    for number, node in enumerate(calls):
        name = f"dropout_between_stages_{number}"
        network.add_module(name, nn.Dropout(float(node.kwargs["p"])))
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.call_module(name, node.args[:1]))
        graph.erase_node(node)


def _with_grid(network: nn.Module, ends: list[str], name: str) -> tuple[fx.Graph, fx.Node]:
    """The network between its stages, and the map (B, C, H', W') that its features come from."""
    inside = tuple(f"{end}." for end in ends)
    poolings = [
        path
        for path, module in network.named_modules()
        if type(module).__name__ in _GLOBAL_POOLING and not path.startswith(inside)
    ]
    graph = _trace(network, [*ends, *poolings[-1:]], name)
    pooled = [node for node in graph.nodes if poolings and node.target == poolings[-1]]
    if len(pooled) != 1:
        raise UserError(
            "backbone.attention, backbone.pooling=mean_and_top and model.fusion=attention look at"
            f" cells, and {name} does not pool one map of cells at its end; leave them out, or"
            " choose another backbone"
        )
    return graph, pooled[0].all_input_nodes[0]


def _cut_at(
    network: nn.Module, graph: fx.Graph, cut: fx.Node, *, grid: fx.Node | None
) -> Split | None:
    tail = _after(graph, cut, also=grid)
    if tail is None:
        return None
    trunk = fx.GraphModule(network, _until(graph, cut), "Trunk")
    return Split(trunk, fx.GraphModule(network, tail, "Tail"))


def _until(graph: fx.Graph, cut: fx.Node) -> fx.Graph:
    new, copies = fx.Graph(), {}
    for node in graph.nodes:
        copies[node] = new.node_copy(node, copies.__getitem__)
        if node is cut:
            break
    new.output(copies[cut])
    return new


def _after(graph: fx.Graph, cut: fx.Node, *, also: fx.Node | None) -> fx.Graph | None:
    """What comes after the cut, and a node of it as a second output.

    None if it needs anything else that was computed before.
    """
    needed, waiting = set(), [node for node in graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node in needed or node is cut:
            continue
        if node.op == "placeholder":
            return None
        needed.add(node)
        waiting += node.all_input_nodes
    new = fx.Graph()
    copies = {cut: new.placeholder("maps")}
    for node in graph.nodes:
        if node.op == "output" and also is not None:
            new.output((copies[node.args[0]], copies[also]))
        elif node in needed:
            copies[node] = new.node_copy(node, copies.__getitem__)
    return new


def _no_cut(name: str, trained: int, reason: str) -> UserError:
    return UserError(
        f"backbone.unfreeze={trained}: {name} cannot be cut there ({reason}); try another number,"
        " or backbone.frozen=false to train all of it"
    )
