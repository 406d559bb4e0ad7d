"""The one forward pass of every method: backbone, style layers, decoder, classifier."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from spcnet.errors import UsageError
from spcnet.models.backbones import Backbone
from spcnet.models.clustering import PrototypeHead
from spcnet.models.deeplab import DeepLabDecoder, resize
from spcnet.models.pseudo import StyleClusters
from spcnet.models.recompute import recomputed
from spcnet.models.style import StyleProjection
from spcnet.models.whitening import InstanceWhitening, outputs_of
from spcnet.types import SegOutput

MIN_SIZE = 33
"""Smallest height and width of an image, in pixels."""


class Segmentor(nn.Module):
    """A segmentation network: what a method builds and the trainer trains.

    Args:
        backbone: stem and four stages.
        decoder: joins the deepest features with those of the first stage.
        classifier: a layer that gives scores, or the prototype head.
        styles: style layers after the stem and after the first stage; none or two.
        auxiliary: head on the third stage, or None.
        clusters: what tells an image's domain from its style, or None where each batch says it.
    """

    def __init__(
        self,
        backbone: Backbone,
        decoder: DeepLabDecoder,
        classifier: nn.Module | PrototypeHead,
        *,
        styles: Sequence[StyleProjection] = (),
        auxiliary: nn.Module | None = None,
        clusters: StyleClusters | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.decoder, self.classifier = backbone, decoder, classifier
        self.styles = nn.ModuleList(styles)
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
                return self._forward(image, size)._replace(whitened=tuple(whitened))
        return self._forward(image, size)

    def _forward(self, image: Float[Tensor, "B 3 H W"], size: tuple[int, int]) -> SegOutput:
        restyled = []
        feature = self._part(self.backbone.stem, image)
        if self.styles:
            restyled.append(self.styles[0](feature))
            feature = restyled[-1].feature
        fine = feature = self._stage(self.backbone.layer1, feature)
        if self.styles:
            # The decoder's fine features are those before the second projection, as in the released weights.
            restyled.append(self.styles[1](feature))
            feature = restyled[-1].feature
        third = self._stage(self.backbone.layer3, self._stage(self.backbone.layer2, feature))
        decoded = self._part(self.decoder, self._stage(self.backbone.layer4, third), fine)
        embedding = None
        if isinstance(self.classifier, PrototypeHead):
            scores, embedding = self.classifier(decoded)
        else:
            scores = self.classifier(decoded)
        return SegOutput(
            logits=resize(scores.contiguous(), size),  # whole planes of a class: what cross-entropy reads fastest
            auxiliary=self._part(self.auxiliary, third) if self.auxiliary is not None and self.training else None,
            embedding=embedding,
            styles=tuple(layer.stats for layer in restyled),
            style_weights=tuple(layer.weights for layer in restyled if layer.weights is not None),
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
        return len(self.style_layers[0].base_mean) if self.styles else None
