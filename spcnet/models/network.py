"""The one forward pass of every method: backbone with taps, decoder, classifier."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import SymInt, Tensor, nn

from spcnet.errors import UsageError
from spcnet.models.adapters import Rein, base_tensors
from spcnet.models.backbones import Backbone, Tapped
from spcnet.models.heads.base import Decoder, resize
from spcnet.models.heads.prototypes import PrototypeHead
from spcnet.models.pseudo import StyleClusters
from spcnet.models.recompute import recomputed
from spcnet.models.style import Restyled, StyleProjection
from spcnet.models.whitening import InstanceWhitening, outputs_of
from spcnet.numerics import at_least_single, without_autocast
from spcnet.types import Internals, KnownStyles, MaskPrediction, Network, SegOutput, internals_of

MIN_SIZE = 33
"""Smallest height and width of an image, in pixels."""


class Segmentor(Network):
    """A segmentation network: a method builds it, the trainer trains it.

    Args:
        backbone: computes the feature maps.
        decoder: fuses the maps at its `places`; see `spcnet.models.heads`.
        classifier: computes the logits from the decoder's features; None behind a decoder with `masks`.
        taps: by place of the backbone, a layer that replaces the feature map there. It returns the new map, or a named
            tuple that has it as `feature`.
        auxiliary: head on the map at `auxiliary_place`, or None.
        clusters: assigns a pseudo-domain to each image by its style, or None where the batch has the domains.
        rein: tokens that refine the backbone's maps before the taps, or None.
    """

    def __init__(
        self,
        backbone: Backbone,
        decoder: Decoder,
        classifier: nn.Module | None,
        *,
        taps: Mapping[str, nn.Module] | None = None,
        auxiliary: nn.Module | None = None,
        clusters: StyleClusters | None = None,
        rein: Rein | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.decoder = backbone, decoder
        self.classifier: nn.Module | None = classifier
        self.tapped = tuple(taps or ())
        """Places of the taps."""
        self.styles = nn.ModuleList((taps or {}).values())
        """The taps; their tensors have this name in checkpoints."""
        self.auxiliary, self.clusters = auxiliary, clusters
        self.rein = rein
        self.on_map: Callable[[str, Tensor, Tensor], None] | None = None
        """Called at each place of the backbone with the map before and after its tap."""
        self.training_taps: dict[str, Sequence[nn.Module]] = {}
        """Layers that replace the feature map at a place in training, before the tap there; no part of the network's state."""
        self.recompute = False
        """Activation checkpointing of backbone, decoder and auxiliary head."""
        self._check_places()
        self.whitening_layers = [layer for layer in backbone.modules() if isinstance(layer, InstanceWhitening)]

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> SegOutput:
        """Logits of each pixel, and the internals that the method's losses and updates read.

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
            with outputs_of(self.whitening_layers) as outputs:
                output = self._forward(image, size)
            return output._replace(extras=internals_of(output)._replace(whitened=tuple(outputs)))
        return self._forward(image, size)

    def _forward(self, image: Float[Tensor, "B 3 H W"], size: tuple[int | SymInt, int | SymInt]) -> SegOutput:
        results: list[Any] = []
        taps = dict(zip(self.tapped, self.styles, strict=True))
        auxiliary = self.auxiliary if self.training else None
        place_of_auxiliary = auxiliary_place(self.backbone)
        read = self.decoder.places if auxiliary is None else (*self.decoder.places, place_of_auxiliary)

        def tap(place: str, feature: Tensor) -> Tensor | Tapped:
            if self.rein is not None:
                feature = self.rein(place, feature)
            for layer in self.training_taps.get(place, ()) if self.training else ():
                feature = layer(feature)
            after, read_by_decoder = feature, feature
            if place in taps:
                result = taps[place](feature)
                results.append(result)
                after = result if isinstance(result, Tensor) else result.feature
                read_by_decoder = feature if getattr(taps[place], "decoder_reads_before", False) else after
            if self.on_map is not None:
                self.on_map(place, feature, after)
            return after if read_by_decoder is after else Tapped(after, read_by_decoder)

        prepared = self.backbone.prepare(image)
        if self.decoder.first_block is None:
            maps = self.backbone.features(prepared, read, tap, recompute=self.recompute)
            decoded = self._part(self.decoder, *(maps[place] for place in self.decoder.places))
        else:
            backbone: Any = self.backbone  # one that has tokens, as the decoder made sure
            tokens = backbone.tokens_before(self.decoder.first_block, prepared, tap, recompute=self.recompute)
            maps, decoded = {}, self._part(self.decoder, *tokens, backbone)
        masks: tuple[MaskPrediction, ...] = decoded if self.classifier is None else ()
        classified = semantic_logits(masks[-1]) if self.classifier is None else self.classifier(decoded)
        scores = classified if isinstance(classified, Tensor) else classified.scores
        # Whole planes of a class: what cross-entropy reads fastest.
        padded = (prepared.shape[2], prepared.shape[3])
        logits = resize(scores.contiguous(), padded, align_corners=self.decoder.align_corners)
        if self.backbone.pixel_multiple > 1:
            logits = logits[:, :, : size[0], : size[1]]
        restyled = [result for result in results if isinstance(result, Restyled)]
        embedding = getattr(classified, "embedding", None)
        extras = None
        if restyled or embedding is not None:
            weights = tuple(layer.weights for layer in restyled if layer.weights is not None)
            extras = Internals(tuple(layer.stats for layer in restyled), weights, embedding)
        return SegOutput(
            logits=logits,
            auxiliary=None if auxiliary is None else self._part(auxiliary, maps[place_of_auxiliary]),
            extras=extras,
            masks=masks if self.training else (),
        )

    def tap_in_training(self, taps: Mapping[str, Sequence[nn.Module]]) -> None:
        """Have layers replace the feature map at some places in training, before the tap there.

        Args:
            taps: by place, layers without parameters and buffers; the network's state does not know them.

        Raises:
            UsageError: a place is not reached.
        """
        self.training_taps = dict(taps)
        self._check_places()

    def _check_places(self) -> None:
        """Refuse layers at places that the backbone does not compute."""
        first = self.decoder.first_block
        if first is None:
            return
        reached = self.backbone.places[: first + 1]
        if self.rein is not None and not set(self.rein.places) <= set(reached):
            raise UsageError(
                f"model.adapter.kind is rein, whose tokens refine every block, and the decoder runs the blocks from block{first} "
                "on together with its queries: choose another adapter (lora), or another decoder (mask2former)"
            )
        late = [place for place in (*self.tapped, *self.training_taps) if place not in reached]
        if late:
            raise UsageError(
                f"a tap is placed after {late[0]}, but the decoder runs the blocks from block{first} on itself: lower "
                "model.head.blocks, or choose another decoder (mask2former)"
            )

    def _part(self, part: nn.Module, *inputs: Any) -> Any:
        return recomputed(part, *inputs) if self.recompute else part(*inputs)

    def depths(self) -> dict[str, int]:
        """Depths of the backbone's parameters, by their names in the network."""
        return {f"backbone.{name}": depth for name, depth in self.backbone.depths().items()}

    def embeddings(self) -> set[str]:
        """Learned tokens and positions of backbone, decoder and Rein, by their names in the network."""
        parts = {"backbone": self.backbone.embeddings(), "decoder": self.decoder.embeddings()}
        if self.rein is not None:
            parts["rein"] = self.rein.embeddings()
        return {f"{part}.{name}" for part, names in parts.items() for name in names}

    def parts(self) -> list[nn.Module]:
        """The parts of its backbone, and its decoder."""
        return [*self.backbone.parts(), self.decoder]

    def base_tensors(self) -> set[str]:
        """Names of the backbone's pretrained tensors that training does not change."""
        return {f"backbone.{name}" for name in base_tensors(self.backbone)}

    @property
    def style_layers(self) -> list[StyleProjection]:
        """The style layers, the shallowest first."""
        return [layer for layer in self.styles if isinstance(layer, StyleProjection)]

    @property
    def prototype_head(self) -> PrototypeHead | None:
        """The classifier, if it is a prototype head."""
        return self.classifier if isinstance(self.classifier, PrototypeHead) else None

    @property
    def num_domains(self) -> int | None:
        """Number M of source domains with style bases or prototypes; None where the network has neither."""
        if self.prototype_head is not None:
            return self.prototype_head.prototypes.shape[1]
        return len(self.style_layers[0].base_mean) if self.style_layers else None

    def known_styles(self) -> dict[str, KnownStyles]:
        """The style bases, by place."""
        layers = zip(self.tapped, self.styles, strict=True)
        return {place: layer.known_styles() for place, layer in layers if isinstance(layer, StyleProjection)}

    def prototypes(self) -> Float[Tensor, "K M D"] | None:
        """The classifier's prototypes."""
        return None if self.prototype_head is None else self.prototype_head.unit_prototypes

    def drop_training_parts(self) -> None:
        """Drop the auxiliary head and the style clusters."""
        self.auxiliary = self.clusters = None


def auxiliary_place(backbone: Backbone) -> str:
    """Place of the map that the auxiliary head reads: the second deepest of the pyramid, or its only one."""
    return backbone.pyramid[-2:][0]


def semantic_logits(prediction: MaskPrediction) -> Float[Tensor, "B K h w"]:
    """Logits of each position from the queries: log Σ_q softmax(class_q) · σ(mask_q), without the "no object" class.

    Cheng et al. (CVPR 2022) take the argmax of these sums; the logarithm has the same argmax, and its softmax
    is the sums divided by their total.
    """
    with without_autocast(prediction.masks):
        classes = at_least_single(prediction.classes).softmax(-1)[..., :-1]
        total = torch.einsum("bqk,bqhw->bkhw", classes, at_least_single(prediction.masks).sigmoid())
        return total.clamp_min(torch.finfo(total.dtype).tiny).log()
