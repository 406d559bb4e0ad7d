"""The one forward pass of every method: backbone, style layers, decoder, classifier."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.errors import UsageError
from spcnet.models.backbones import Backbone
from spcnet.models.clustering import PrototypeHead
from spcnet.models.deeplab import DeepLabDecoder, resize
from spcnet.models.pseudo import StyleClusters
from spcnet.models.recompute import recomputed
from spcnet.models.style import Restyled, StyleProjection
from spcnet.models.whitening import InstanceWhitening, outputs_of
from spcnet.types import Internals, Network, SegOutput, internals_of

PLACES = ("stem", "layer1", "layer2", "layer3", "layer4")
"""Parts of a backbone after which a tap may stand."""
MIN_SIZE = 33
"""Smallest height and width of an image, in pixels."""


class Segmentor(Network):
    """A segmentation network: what a method builds and the trainer trains.

    Args:
        backbone: stem and four stages.
        decoder: joins the deepest features with those of the first stage.
        classifier: a layer that gives scores, or the prototype head.
        taps: by place of the backbone, a layer that replaces the feature map there. It returns the new map, or a named
            tuple that has it as `feature`.
        auxiliary: head on the third stage, or None.
        clusters: what tells an image's domain from its style, or None where each batch says it.
    """

    def __init__(
        self,
        backbone: Backbone,
        decoder: DeepLabDecoder,
        classifier: nn.Module | PrototypeHead,
        *,
        taps: Mapping[str, nn.Module] | None = None,
        auxiliary: nn.Module | None = None,
        clusters: StyleClusters | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.decoder, self.classifier = backbone, decoder, classifier
        self.tapped = tuple(taps or ())
        """The places of the taps."""
        self.styles = nn.ModuleList((taps or {}).values())
        """The taps; checkpoints know them by this name."""
        self.auxiliary, self.clusters = auxiliary, clusters
        self.recompute = False
        """Whether backbone, decoder and auxiliary head are computed anew for their gradients, to save memory."""
        self.whitening_layers = [layer for layer in backbone.modules() if isinstance(layer, InstanceWhitening)]

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> SegOutput:
        """Class scores for each pixel, and what the method's losses and updates need.

        Raises:
            UsageError: the image is smaller than 33 pixels in height or width.
        """
        size = (image.shape[2], image.shape[3])
        if min(size) < MIN_SIZE:
            raise UsageError(
                f"the image has {size[0]}×{size[1]} pixels: height and width must be at least {MIN_SIZE}. "
                "Resize or pad it"
            )
        if self.training and self.whitening_layers:
            with outputs_of(self.whitening_layers) as whitened:
                output = self._forward(image, size)
            return output._replace(extras=internals_of(output)._replace(whitened=tuple(whitened)))
        return self._forward(image, size)

    def _forward(self, image: Float[Tensor, "B 3 H W"], size: tuple[int, int]) -> SegOutput:
        restyled: list[Restyled] = []
        taps = dict(zip(self.tapped, self.styles, strict=True))
        maps, feature = {}, image
        for place in PLACES:
            stage = getattr(self.backbone, place)
            feature = self._part(stage, feature) if place == "stem" else self._stage(stage, feature)
            maps[place] = feature
            if place in taps:
                result = taps[place](feature)
                feature = result if isinstance(result, Tensor) else result.feature
                if isinstance(result, Restyled):
                    # The decoder's fine features are those before the second projection, as in the released weights.
                    restyled.append(result)
                else:
                    maps[place] = feature
        third = maps["layer3"]
        decoded = self._part(self.decoder, maps["layer4"], maps["layer1"])
        extras = None
        if isinstance(self.classifier, PrototypeHead):
            scores, embedding = self.classifier(decoded)
            extras = Internals(embedding=embedding)
        else:
            scores = self.classifier(decoded)
        if restyled:
            weights = tuple(layer.weights for layer in restyled if layer.weights is not None)
            extras = (extras or Internals())._replace(
                styles=tuple(layer.stats for layer in restyled), style_weights=weights
            )
        return SegOutput(
            logits=resize(scores.contiguous(), size),  # whole planes of a class: what cross-entropy reads fastest
            auxiliary=self._part(self.auxiliary, third) if self.auxiliary is not None and self.training else None,
            extras=extras,
        )

    def _part(self, part: nn.Module, *given: Tensor) -> Tensor:
        found: Tensor = recomputed(part, *given) if self.recompute else part(*given)
        return found

    def _stage(self, stage: nn.Module, feature: Tensor) -> Tensor:
        # Block by block: a step then needs the memory of a block and not of a stage.
        for part in stage.children() if self.recompute else (stage,):
            feature = self._part(part, feature)
        return feature

    @property
    def style_layers(self) -> list[StyleProjection]:
        """The style layers, first the one after the stem."""
        return [layer for layer in self.styles if isinstance(layer, StyleProjection)]

    @property
    def prototype_head(self) -> PrototypeHead | None:
        """The classifier, where it is one that clusters."""
        return self.classifier if isinstance(self.classifier, PrototypeHead) else None

    @property
    def num_domains(self) -> int | None:
        """Number M of source domains that it keeps bases or prototypes of; None where it keeps none."""
        if self.prototype_head is not None:
            return self.prototype_head.prototypes.shape[1]
        return len(self.style_layers[0].base_mean) if self.style_layers else None


def device_of(module: nn.Module) -> torch.device:
    """Where a network lies."""
    return next(module.parameters()).device
