"""A network as graphs of plain tensors, which an engine compiles, and its `SegOutput` made of their results."""

import copy
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.errors import SpcnetError, UsageError, one_line
from spcnet.inference.engines.cache import Store
from spcnet.inference.fast import fused
from spcnet.models.heads.base import resize
from spcnet.models.heads.prototypes import ClusterOutput
from spcnet.models.network import MIN_SIZE, Segmentor
from spcnet.numerics import is_out_of_memory
from spcnet.types import Internals, SegOutput, StyleStats

MOST_SHAPES = 4
"""Shapes of images for which the compiled network is kept in memory: those used last."""

Shape = tuple[int, ...]
Program = Callable[..., Sequence[Tensor]]
"""A compiled graph: tensors in, tensors out."""


class Graph(NamedTuple):
    """A part of a network that is compiled by itself."""

    module: nn.Module
    """Tensors in, a tuple of tensors out."""
    inputs: tuple[Tensor, ...]
    """Of the shapes that it is compiled for."""
    precise: bool
    """Whether it stays in single precision whatever the rest computes in."""

    def exported(self) -> torch.export.ExportedProgram:
        """The graph of operators, for inputs of these shapes: engines run it faster, and it is made six times faster."""
        with torch.no_grad():
            return torch.export.export(self.module, self.inputs, strict=False)


@runtime_checkable
class Compiler(Protocol):
    """What an engine does with graphs."""

    name: str
    split: bool
    """Whether the classifier is a graph of its own, which stays in single precision."""

    def program(self, graph: Graph, store: Store, about: Mapping[str, Any]) -> Program:
        """A graph ready to run.

        Args:
            graph: made where it is not in the store.
            store: of compiled forms.
            about: tells the graph from others of the network.
        """
        ...


def missing_package(extra: str, error: ImportError) -> UsageError:
    """The error for an engine that is not installed."""
    return UsageError(
        f"the engine {extra} needs a package that is not installed ({error.name}): pip install 'spcnet[{extra}]', or choose "
        "the engine torch"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines of exporters: what matters of them is found by comparing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


class _Kept(nn.Module):
    """In place of the classifier: passes on the decoder's features as the embedding."""

    def forward(self, feature: Float[Tensor, "B C h w"]) -> ClusterOutput:
        return ClusterOutput(feature[:, :1], feature)


class Trunk(nn.Module):
    """A network's scores, or where the classifier is a graph of its own the decoder's features, and the styles.

    Args:
        network: made ready by `ready`; is copied where it is changed.
        split: leave the classifier out.
    """

    def __init__(self, network: Segmentor, *, split: bool) -> None:
        super().__init__()
        self.network, self.split = network, split
        if split:
            self.network = copy.copy(network)
            self.network._modules = {**network._modules, "classifier": _Kept()}

    def forward(self, *images: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """Scores or features, then mean and deviation of each style layer, then the embedding if there is one."""
        output: SegOutput = self.network(*images)
        stats = [part for style in output.styles for part in style]
        embedding = output.embedding
        if self.split:
            assert embedding is not None
            return (embedding, *stats)
        return (output.logits, *stats) if embedding is None else (output.logits, *stats, embedding)


class Head(nn.Module):
    """A network's classifier and the last upsampling, in single precision.

    Args:
        network: made ready by `ready`.
    """

    def __init__(self, network: Segmentor) -> None:
        super().__init__()
        self.classifier, self.align_corners = network.classifier, network.decoder.align_corners
        self.multiple = network.backbone.pixel_multiple

    def forward(self, *given: Float[Tensor, "B _ _ _"]) -> tuple[Tensor, ...]:
        """Scores of each pixel, and the embedding if there is one, from the decoder's features and images of the size."""
        feature, image = given
        assert self.classifier is not None
        classified = self.classifier(feature)
        scores = classified if isinstance(classified, Tensor) else classified.scores
        height, width = image.shape[2], image.shape[3]
        padded = (height + -height % self.multiple, width + -width % self.multiple)
        logits = resize(scores.contiguous(), padded, align_corners=self.align_corners)
        if self.multiple > 1:
            logits = logits[:, :, :height, :width]
        embedding = getattr(classified, "embedding", None)
        return (logits,) if embedding is None else (logits, embedding)


def ready(network: Segmentor) -> Segmentor:
    """A copy of a network as engines compile it: in single precision on the processor, see `spcnet.inference.fast`."""
    plain = copy.copy(network)
    plain.on_map = None
    return fused(copy.deepcopy(plain).cpu().float()).to(memory_format=torch.contiguous_format)


class CompileError(UsageError):
    """An engine cannot compile a network."""


class GraphNetwork(nn.Module):
    """A network that an engine runs, called like the network itself.

    It is compiled at the first images of each shape, and kept for the `MOST_SHAPES` shapes used last.

    Args:
        network: stays as it is.
        compiler: the engine.
        cache: folder of compiled networks; None compiles each time.

    Raises:
        UsageError: the network tells things that no graph gives.
    """

    def __init__(self, network: Segmentor, compiler: Compiler, cache: Path | None) -> None:
        super().__init__()
        source = ready(network)
        with torch.no_grad():
            extras = source(torch.zeros(1, 3, 64, 64)).extras
        if not isinstance(extras, Internals | None):
            raise UsageError(
                f"the network tells {type(extras).__name__} beside its scores, which no engine but torch gives: choose "
                "the engine torch"
            )
        self.compiler, self.split = compiler, compiler.split and source.classifier is not None
        self._source = [source]  # no module of this one: it is neither moved nor counted
        self._store = Store(cache, source)
        self._programs: OrderedDict[Shape, list[Program]] = OrderedDict()

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "B 3 H W"]) -> SegOutput:
        """Class scores for each pixel, and what the network tells beside them.

        Raises:
            UsageError: the image is smaller than 33 pixels in height or width.
        """
        size = (image.shape[2], image.shape[3])
        if min(size) < MIN_SIZE:
            raise UsageError(f"the image has {size[0]}×{size[1]} pixels: height and width must be at least {MIN_SIZE}")
        given = image.detach().float().cpu().contiguous()
        programs = self._compiled(tuple(given.shape))
        first, *rest = programs[0](given)
        if self.split:
            first, *embedding = programs[1](first, given)
            rest += embedding
        return self._joined(first, rest, image.device)

    def _joined(self, logits: Tensor, rest: Sequence[Tensor], device: torch.device) -> SegOutput:
        """The output of the network from the tensors of its graphs."""
        layers = self._source[0].style_layers
        styles = tuple(StyleStats(*rest[2 * n : 2 * n + 2]) for n in range(len(layers)))
        found = tuple(layer.weigh(stats) for layer, stats in zip(layers, styles, strict=True))
        embedding = rest[2 * len(layers)].to(device) if len(rest) > 2 * len(layers) else None
        if not layers and embedding is None:
            return SegOutput(logits.to(device))
        extras = Internals(
            tuple(StyleStats(*(part.to(device) for part in stats)) for stats in styles),
            tuple(weights.to(device) for weights in found if weights is not None),
            embedding,
        )
        return SegOutput(logits.to(device), extras=extras)

    def _compiled(self, shape: Shape) -> list[Program]:
        """The graphs for images of a shape."""
        if shape not in self._programs:
            network, image = self._source[0], torch.zeros(shape)
            if network.backbone.fixed_size:
                network = copy.deepcopy(network)
                network.backbone.bake(*shape[2:])
            trunk = Trunk(network, split=self.split)
            graphs = [Graph(trunk, (image,), precise=False)]
            if self.split:
                with torch.no_grad():
                    feature = torch.empty_like(trunk(image)[0])
                graphs.append(Graph(Head(network), (feature, image), precise=True))
            self._programs[shape] = self._start(graphs, {"shape": shape, "split": self.split})
            if len(self._programs) > MOST_SHAPES:
                self._programs.popitem(last=False)
        self._programs.move_to_end(shape)
        return self._programs[shape]

    def _start(self, graphs: Sequence[Graph], about: Mapping[str, Any]) -> list[Program]:
        try:
            return [self.compiler.program(graph, self._store, {**about, "part": n}) for n, graph in enumerate(graphs)]
        except SpcnetError:
            raise
        except Exception as error:  # exporters and engines raise anything
            if is_out_of_memory(error):
                raise
            reason = one_line(error)
            raise CompileError(
                f"the engine {self.compiler.name} cannot compile the network ({reason[:300]}): choose the engine torch"
            ) from error
