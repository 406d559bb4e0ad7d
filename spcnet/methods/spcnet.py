"""SPC-Net (Huang et al., CVPR 2023): style projection at two places, and a classifier of prototypes; together or alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spcnet.config import ModelConfig
from spcnet.distributed import Reduce
from spcnet.losses.clustering import class_sums, compactness_loss, discrimination_loss, image_sums, labels_at
from spcnet.methods.base import Figures, Terms
from spcnet.methods.robustnet import RobustNet
from spcnet.models.backbones import Backbone
from spcnet.models.network import Segmentor
from spcnet.models.style import Mode, StyleProjection, domain_members
from spcnet.types import Batch, ClassSums, SegOutput, StepResult, StyleStats, internals_of


class Observed(NamedTuple):
    """Statistics of a batch for the losses and the updates of style bases and prototypes."""

    domain: Int[Tensor, " B"]
    """Domain of each image: the batch's, or the pseudo-domain."""
    styles: tuple[StyleStats, ...] = ()
    """Targets of the style bases."""
    classes: ClassSums | None = None
    """Targets of the prototypes."""


@dataclass(frozen=True)
class SPCNet(RobustNet):
    """Style layers, a prototype head, or both."""

    style: Mode | None = None
    """Mode of the style layers; None for no style layers."""
    clustering: bool = False
    """Whether it classifies by prototypes instead of a linear layer."""

    @property
    def styled(self) -> bool:
        """Whether the method has style layers."""
        return self.style is not None

    @property
    def classifier(self) -> str:
        """`prototypes` with clustering, otherwise `linear`."""
        return "prototypes" if self.clustering else "linear"

    def make_taps(self, model: ModelConfig, num_domains: int, backbone: Backbone) -> dict[str, nn.Module]:
        """A style layer with M bases at each of the two shallowest places."""
        if self.style is None:
            return {}
        config = model.style
        return {
            place: StyleProjection(
                num_domains,
                backbone.channels[place],
                mode=config.mode or self.style,
                distance=config.distance,
                channel_wise=config.channel_wise,
                momentum=config.momentum,
                sharpness=config.sharpness,
            )
            for place in backbone.style_places
        }

    def observe(self, network: Segmentor, output: SegOutput, batch: Batch, *, reduce: Reduce) -> Observed:
        """Each image's domain and style, and the sums of the embeddings of each class and domain."""
        internals, head, domain, classes = internals_of(output), network.prototype_head, batch.domain, None
        if network.clusters is not None:
            domain = network.clusters(internals.styles[0])
        if network.num_domains is not None:
            domain_members(domain, network.num_domains)
        # Before the cross-entropy, whose gradient is then taken first: a step needs most memory there, and the large gradient
        # of the embeddings does not exist yet.
        if head is not None and internals.embedding is not None:
            embedding = internals.embedding
            label = labels_at(batch.label, (embedding.shape[2], embedding.shape[3])).flatten(1)
            prototypes = head.unit_prototypes
            sums = image_sums(embedding.flatten(2).transpose(1, 2), label, domain, prototypes)
            classes = class_sums(sums, domain, num_domains=prototypes.shape[1], reduce=reduce)
        return Observed(domain, internals.styles, classes)

    def terms(
        self,
        network: Segmentor,
        output: SegOutput,
        batch: Batch,
        model: ModelConfig,
        *,
        observed: Observed,
        progress: float,
        reduce: Reduce,
    ) -> Terms:
        """L = L_CE + β·L_var + γ·L_dis (paper Eq. 12), with the terms that the method has."""
        clustering: Terms = {}
        if network.prototype_head is not None and observed.classes is not None:
            prototypes, config = network.prototype_head.unit_prototypes, model.clustering
            clustering["var"] = compactness_loss(observed.classes), config.var_weight
            dis = discrimination_loss(observed.classes, prototypes, temperature=config.temperature)
            clustering["dis"] = dis, config.dis_weight
        terms = super().terms(network, output, batch, model, observed=observed, progress=progress, reduce=reduce)
        terms |= clustering
        if "whitening" in terms:
            terms["whitening"] = terms.pop("whitening")  # keeps the order of the sum
        return terms

    def joined(self, extras: Sequence[Observed]) -> Observed:
        """Concatenate styles and domains; each micro-batch has the class sums of the complete batch."""
        styles = [
            StyleStats(torch.cat([stats.mean for stats in layer]), torch.cat([stats.std for stats in layer]))
            for layer in zip(*(one.styles for one in extras), strict=True)
        ]
        return extras[-1]._replace(styles=tuple(styles), domain=torch.cat([one.domain for one in extras]))

    def update(self, network: Segmentor, result: StepResult, *, progress: float, reduce: Reduce = lambda t: t) -> None:
        """Move style bases, style clusters and prototypes towards a batch."""
        observed: Observed = result.extras
        for layer, stats in zip(network.style_layers, observed.styles, strict=True):
            layer.update(stats, observed.domain, reduce=reduce)
        if network.clusters is not None:
            network.clusters.update(observed.styles[0], observed.domain, reduce=reduce)
        if network.prototype_head is not None and observed.classes is not None:
            network.prototype_head.update(observed.classes, progress=progress)

    def figures(self, network: Segmentor, recent: Sequence[Observed], domains: Sequence[str]) -> Figures:
        """λ of the latest images, distances of the style bases, cosines between prototypes."""
        figures = Figures({}, {}, {})
        for place, layer in enumerate(network.style_layers):
            _style_weights(figures, f"style_weights/{place + 1}", layer, place, recent, domains)
        for place, layer in enumerate(network.style_layers):
            if len(layer.base_mean) > 1:
                figures.scalars[f"style_bases/{place + 1}/distance"] = base_distance(layer)
        if network.prototype_head is not None:
            _prototypes(figures, network.prototype_head.unit_prototypes.float())
        return figures


def _style_weights(
    figures: Figures,
    tag: str,
    layer: StyleProjection,
    place: int,
    recent: Sequence[Observed],
    domains: Sequence[str],
) -> None:
    """λ of the latest images for each current style base, and for the base of their own domain."""
    seen = [observed.styles[place] for observed in recent]
    if not seen:
        return
    weights = layer.weigh(StyleStats(torch.cat([s.mean for s in seen]), torch.cat([s.std for s in seen])))
    if weights is None:
        return
    weights = weights.float().cpu()
    weights = weights.mean(2) if weights.ndim > 2 else weights  # channel by channel
    domain = torch.cat([observed.domain for observed in recent]).cpu()
    own = weights.gather(1, domain[:, None]).squeeze(1)
    figures.scalars[f"{tag}/own_mean"] = float(own.mean())
    figures.histograms[f"{tag}/own"] = own
    for m in range(weights.shape[1]):
        name = domains[m] if m < len(domains) else str(m + 1)
        figures.histograms[f"{tag}/{name}"] = weights[:, m]


def base_distance(layer: StyleProjection) -> float:
    """Squared 2-Wasserstein distance of the style bases, mean over channels and pairs."""
    style = torch.cat([layer.base_mean, layer.base_std], dim=1).float()
    return float(torch.nn.functional.pdist(style).square().mean() / layer.base_mean.shape[1])


def _prototypes(figures: Figures, prototypes: Float[Tensor, "K M D"]) -> None:
    """Cosines between prototypes: of a class among its domains, and to the nearest of another class."""
    num_classes, num_domains, _ = prototypes.shape
    flat = prototypes.flatten(0, 1)
    cosines = (flat @ flat.T).cpu()
    cosine = cosines.view(num_classes, num_domains, num_classes, num_domains).permute(0, 2, 1, 3)  # K K M M
    if num_domains > 1:
        within = torch.diagonal(cosine).permute(2, 0, 1)  # K M M
        own = (within.sum((1, 2)) - num_domains) / (num_domains * (num_domains - 1))
        figures.histograms["prototypes/own"] = own
        figures.scalars["prototypes/own_mean"] = float(own.mean())
    nearest = cosine.amax((2, 3)).fill_diagonal_(-1).amax(1)
    figures.histograms["prototypes/nearest_other"] = nearest
    figures.images["prototypes/cosines"] = ((cosines + 1) / 2).clamp(0, 1)
    figures.scalars["prototypes/nearest_other_mean"] = float(nearest.mean())


_PAPER = "Huang et al., Style Projected Clustering for Domain Generalized Semantic Segmentation, CVPR 2023"

SPCNET = SPCNet(
    "spcnet", "SPC-Net: style projection and semantic clustering", _PAPER, style="projection", clustering=True
)
PROJECTION = SPCNet("style_projection", "SPC-Net's style projection alone (Table 5)", _PAPER, style="projection")
CLUSTERING = SPCNet("semantic_clustering", "SPC-Net's semantic clustering alone (Table 5)", _PAPER, clustering=True)
NORMALIZATION = SPCNet(
    "style_normalization",
    "Each image's style taken away at the two style layers, nothing put in its place",
    _PAPER,
    style="normalization",
)
SUBSTITUTION = SPCNet(
    "style_substitution",
    "Each image's style replaced by the nearest known one at the two style layers",
    _PAPER,
    style="substitution",
)
