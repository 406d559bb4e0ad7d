"""timm's networks with maps of several sizes: convolutional ones, and transformers in stages.

timm cuts them where their size changes (`features_only`). Where what it makes is a chain, the chain is run here part by
part, and a tap stands between two parts; elsewhere a hook on the module that makes a map calls the tap.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.models._features import FeatureDictNet, FeatureGetterNet
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.hiera import Hiera
from timm.models.hrnet import HighResolutionNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn

from spcnet.errors import UsageError
from spcnet.models.backbones.base import Backbone, Tap, tapped
from spcnet.models.recompute import recomputed

Seen = Callable[[str, Tensor], Tensor]
"""Called with a place and its map; returns the map that replaces it."""
_TOKENS = frozenset({"pos_embed", "cls_token", "reg_token", "dist_token"})


class Part(NamedTuple):
    """Modules that are called one after the other, the last of which makes the map of a place."""

    modules: tuple[nn.Module, ...]
    place: str


class TimmPyramid(Backbone):
    """A network of timm whose places are `stage0` and so on, the finest first.

    Args:
        net: from `timm.create_model(..., features_only=True)`.
        known: names and shapes of the tensors of the whole classifier, as published files have them.
        undecayed: of these names those that timm leaves out of weight decay.
        strides: of the maps; by default those that timm reports.
        pixel_multiple: height and width of its images are multiples of this.
        mean: of the images that it was pretrained with.
        std: of the same.
    """

    model: Any
    fixed_size = True

    def __init__(
        self,
        net: Any,
        *,
        known: Mapping[str, torch.Size],
        undecayed: Collection[str],
        pixel_multiple: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        channels, strides = net.feature_info.channels(), net.feature_info.reduction()
        places = [f"stage{number}" for number in range(len(channels))]
        if isinstance(net, HighResolutionNetFeatures):
            # Its maps lie at the ends of branches; the style layers belong to what all branches read.
            places.insert(1, "layer1")
            last = net.layer1[-1]
            shared = getattr(last, "conv3", last.conv2).out_channels
            channels, strides = [channels[0], shared, *channels[1:]], [strides[0], strides[1], *strides[1:]]
        given: dict[str, Any] = {"pixel_multiple": pixel_multiple, "mean": mean, "std": std}
        super().__init__(dict(zip(places, channels, strict=True)), dict(zip(places, strides, strict=True)), **given)
        self.model = net
        ordered = isinstance(getattr(net, "model", None), Hiera)
        self.chained = ordered or isinstance(net, (FeatureDictNet, EfficientNetFeatures, MobileNetV3Features))
        """Whether the parts are called one after the other here; hooks tell the maps of others."""
        self.last_channels = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
        self.published = {f"model.{name}": _published(name, value, known) for name, value in net.state_dict().items()}
        self._undecayed = frozenset(undecayed)

    @property
    def pyramid(self) -> tuple[str, ...]:
        """The four coarsest maps, or as many as there are."""
        return self.places[-4:]

    def depths(self) -> dict[str, int]:
        """The number of the stage, counted in the order of the parameters."""
        order = {id(value): number for number, value in enumerate(self.parameters())}
        ends = [max((order[id(value)] for value in module.parameters()), default=-1) for module in self._ends(own=True)]
        names = (name for name, _ in self.named_parameters())
        return {name: min(sum(end < number for end in ends), len(ends) - 1) for number, name in enumerate(names)}

    def embeddings(self) -> set[str]:
        """Tokens, positions, and the other parameters without weight decay that timm lists."""
        parameters = {name for name, _ in self.named_parameters()}
        return {
            ours
            for ours, theirs in self.published.items()
            if ours in parameters and (theirs in self._undecayed or theirs.rpartition(".")[2] in _TOKENS)
        }

    def parts(self) -> list[nn.Module]:
        """The blocks of its sequences and the other modules of a chain; none where timm's model is called as a whole."""
        modules = [module for part in self._parts() for module in part.modules] if self.chained else []
        return [part for one in modules for part in (one.children() if type(one) is nn.Sequential else (one,))]

    def features(
        self,
        image: Float[Tensor, "B 3 H W"],
        places: Collection[str],
        tap: Tap | None = None,
        *,
        recompute: bool = False,
    ) -> dict[str, Tensor]:
        """Maps at some places.

        Args:
            image: from `prepare`.
            places: of which to return the map.
            tap: is called at every place, and may replace the map there.
            recompute: compute each part again when the gradient is taken, to save memory.

        Raises:
            UsageError: `recompute` is set, and the model is no chain of parts.
        """
        maps: dict[str, Tensor] = {}

        def seen(place: str, feature: Tensor) -> Tensor:
            feature, read = tapped(tap, place, feature)
            if place in places:
                maps[place] = read
            return feature

        if self.chained:
            self._run(image, seen, recompute)
        elif recompute:
            raise UsageError(
                "training.activation_checkpointing is true, but this backbone of timm is no chain of parts that can be computed again: "
                "leave it out, or choose another backbone"
            )
        else:
            self._run_hooked(image, seen)
        return {place: maps[place] for place in self.places if place in maps}

    def _run(self, image: Tensor, seen: Seen, recompute: bool) -> None:
        value: Any = image
        for part in self._parts():
            for module in _steps(part.modules) if recompute else part.modules:
                value = recomputed(module, value) if recompute and isinstance(value, Tensor) else module(value)
            if part.place:
                value = self._replaced(value, partial(seen, part.place))

    def _replaced(self, value: Any, change: Callable[[Tensor], Tensor]) -> Any:
        """Continue after a map, which may be one of several tensors, or several concatenated."""
        if isinstance(value, (tuple, list)):
            if not getattr(self.model, "concat", False):
                return type(value)([self._replaced(value[0], change), *value[1:]])
            changed = change(torch.cat(list(value), 1))
            return type(value)(torch.split(changed, [one.shape[1] for one in value], 1))
        if self.last_channels:
            return change(value.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return change(value)

    def _parts(self) -> list[Part]:
        net = self.model
        parts, modules = [], []
        if isinstance(net, FeatureDictNet):
            ends = {name: int(index) for name, index in net.return_layers.items()}
            order = sorted(ends.values())
            for name, module in net.items():
                modules.append(module)
                if name in ends:
                    parts.append(Part(tuple(modules), self.places[order.index(ends[name])]))
                    modules = []
            return parts
        modules = [net.conv_stem, net.bn1, *([net.act1] if hasattr(net, "act1") else [])]
        stages = sorted(net._stage_out_idx)
        for number, module in enumerate([None, *net.blocks]):
            modules += [] if module is None else [module]
            if number in stages:
                parts.append(Part(tuple(modules), self.places[stages.index(number)]))
                modules = []
        return parts

    def _ends(self, *, own: bool = False) -> list[nn.Module]:
        """The module that makes the map of each place; `own` for the last with parameters of its own."""
        net = self.model
        if self.chained:
            return [[one for one in part.modules if not own or list(one.parameters())][-1] for part in self._parts()]
        if isinstance(net, HighResolutionNetFeatures):
            return [net.bn1 if own else net.act1, net.layer1, *(net.incre_modules or ())]
        root = net.model if isinstance(net, FeatureGetterNet) else net["body"]
        # timm reports "block" for the stages of MViTv2.
        plural = hasattr(root, "stages")
        names = (name.replace("block.", "stages.") if plural else name for name in net.feature_info.module_name())
        return [root.get_submodule(name) for name in names]

    def _run_hooked(self, image: Tensor, seen: Seen) -> None:
        def hook_of(place: str) -> Callable[[nn.Module, Any, Any], Any]:
            stride, channels = self.strides[place], self.channels[place]
            cells = (-(-image.shape[2] // stride), -(-image.shape[3] // stride))

            def hook(module: nn.Module, given: Any, output: Any) -> Any:
                return _hooked(output, channels, cells, partial(seen, place))

            return hook

        handles = [
            module.register_forward_hook(hook_of(place))
            for place, module in zip(self.places, self._ends(), strict=True)
        ]
        try:
            self.model(image)
        finally:
            for handle in handles:
                handle.remove()


def _steps(modules: tuple[nn.Module, ...]) -> list[nn.Module]:
    """Units of activation checkpointing: the blocks of sequences; a module that works in place is joined to the one before."""
    steps: list[list[nn.Module]] = []
    for module in modules:
        for one in module.children() if type(module) is nn.Sequential else (module,):
            if steps and getattr(one, "inplace", False):
                steps[-1].append(one)
            else:
                steps.append([one])
    return [nn.Sequential(*step) for step in steps]


def _hooked(output: Any, channels: int, cells: tuple[Any, Any], change: Callable[[Tensor], Tensor]) -> Any:
    """A module's output with its map replaced; timm's models return maps, maps with channels last, and tokens."""
    if isinstance(output, (tuple, list)):
        return type(output)([_hooked(output[0], channels, cells, change), *output[1:]])
    if output.ndim == 4 and output.shape[1] == channels and tuple(output.shape[2:]) == cells:
        return change(output)
    if output.ndim == 4 and output.shape[3] == channels and tuple(output.shape[1:3]) == cells:
        return change(output.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    first = output.shape[1] - cells[0] * cells[1] if output.ndim == 3 else -1
    if first < 0 or output.shape[2] != channels:
        raise UsageError(
            "this model of timm does not keep its maps where it says: choose another backbone "
            f"(found {tuple(output.shape)} for {channels} channels of {cells[0]}×{cells[1]} cells)"
        )
    before = output[:, first:].transpose(1, 2).reshape(output.shape[0], channels, *cells)
    after = change(before)
    if after is before:
        return output
    return torch.cat([output[:, :first], after.flatten(2).transpose(1, 2)], 1)


def _published(name: str, value: Tensor, known: Mapping[str, torch.Size]) -> str:
    """Timm's name of a tensor in the whole classifier: its cutters put a name before it, or join the first two parts."""
    first, _, rest = name.partition(".")
    joined = (f"{first[:place]}.{first[place + 1 :]}.{rest}" for place, letter in enumerate(first) if letter == "_")
    for one in (name, rest, *joined):
        if known.get(one) == value.shape:
            return one
    raise UsageError(f"timm cuts this model into parts of other names than it has ({name}): choose another backbone")
