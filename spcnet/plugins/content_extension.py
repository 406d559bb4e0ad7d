"""Content extension as in WildNet (Lee et al., CVPR 2022, §3.3), from the sources alone.

The embedding z' of a cell in an image's altered view is drawn to that of the same cell in the image as it is, z, and to the
nearest of the same class among those of other images, z*, and away from the cells of other classes in the image:

    L = -log (exp(z·z'/τ) + exp(z*·z'/τ)) / (exp(z·z'/τ) + exp(z*·z'/τ) + Σ_other exp(z_j·z'/τ)),  mean over the cells.

WildNet takes z* from ImageNet, from a queue of 393,216, and gives the altered view ImageNet's styles. Here z* is remembered from
the sources, of a known class, and other plug-ins alter the view. Left out are its projection head, so that z is the deepest
feature itself at length 1 and the network stays as it is; its consistency loss, which is the plug-in `two_view`; and cells
that are not sampled.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spcnet.config import RunConfig, method_option
from spcnet.distributed import Reduce
from spcnet.errors import CheckpointError
from spcnet.losses.clustering import labels_at
from spcnet.methods.base import Terms
from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.numerics import at_least_single, without_autocast
from spcnet.plugins.base import REMEDY, Plugin
from spcnet.plugins.features import Recorder, append, in_order
from spcnet.types import IGNORE_INDEX, Batch, SegOutput


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    weight: float = method_option(0.1, above=0, noun="a loss weight")
    """Weight of the loss."""
    temperature: float = method_option(0.07, above=0)
    """Divisor τ of the cosines."""
    cells: int = method_option(64, least=1)
    """Cells that are sampled of each image."""
    memory: int = method_option(4096, least=1)
    """Embeddings that are remembered, the latest ones."""


def extension_loss(
    plain: Tensor, altered: Tensor, nearest: Tensor, has_nearest: Tensor, other: Tensor, *, temperature: float
) -> Tensor:
    """The loss of each cell.

    Args:
        plain: z, B×N×D, of length 1.
        altered: z', likewise.
        nearest: z*, likewise.
        has_nearest: B×N, whether there is one.
        other: B×N×N, whether the second cell has another class than the first.
        temperature: τ.
    """
    own = (plain * altered).sum(2) / temperature
    remembered = ((nearest * altered).sum(2) / temperature).masked_fill(~has_nearest, -torch.inf)
    away = (altered @ plain.transpose(1, 2) / temperature).masked_fill(~other, -torch.inf)
    near = torch.logaddexp(own, remembered)
    return torch.logaddexp(near, away.logsumexp(2)) - near


class ContentExtension(Plugin):
    """Draws the features of altered images to those of the same class in other images."""

    name = "content_extension"
    summary = (
        "Content extension: features of altered images come near those of the same class in other images of the sources"
    )
    paper = "Lee et al., WildNet: Learning Domain Generalized Semantic Segmentation from the Wild, CVPR 2022"
    settings_type = Settings
    settings: Settings
    doubles = True

    @property
    def alters(self) -> bool:
        """It reads features alone."""
        return False

    def taps(self, network: Segmentor, config: RunConfig) -> Mapping[str, nn.Module]:
        """What keeps the deepest map."""
        place, self.recorder = network.backbone.pyramid[-1], Recorder()
        self.memory = torch.zeros(self.settings.memory, network.backbone.channels[place])
        self.labels = torch.full((self.settings.memory,), IGNORE_INDEX)
        self.count = 0
        """Embeddings that were ever remembered."""
        self.seen: dict[int, tuple[Tensor, Tensor, tuple[int, ...]]] = {}
        return {place: self.recorder}

    def terms(self, network: Segmentor, output: SegOutput, batch: Batch, step: Step, *, reduce: Reduce) -> Terms:
        """The mean loss of the sampled cells with a label."""
        feature = F.normalize(at_least_single(self.recorder.take()).flatten(2), dim=1).transpose(1, 2)
        shape = self.recorder.shape
        self.memory, self.labels = self.memory.to(feature.device), self.labels.to(feature.device)
        label = labels_at(batch.label[: step.images], shape).flatten(1)
        count = min(self.settings.cells, label.shape[1])
        chosen = torch.stack(
            [torch.from_numpy(rng.permutation(label.shape[1])[:count]) for rng in step.generators("content_extension")]
        ).to(feature.device)
        label = label.gather(1, chosen)
        plain, altered = (half.gather(1, chosen[..., None].expand(-1, -1, half.shape[2])) for half in feature.chunk(2))
        plain = plain.detach()
        self.seen[step.part] = plain.flatten(0, 1), label.flatten(), step.positions
        with without_autocast(feature):
            nearest, has_nearest = self._nearest(plain, label)
            other = (label[:, :, None] != label[:, None]) & (label != IGNORE_INDEX)[:, None]
            losses = extension_loss(plain, altered, nearest, has_nearest, other, temperature=self.settings.temperature)
        valid = label != IGNORE_INDEX
        total, cells = reduce(torch.stack([losses[valid].sum(), valid.sum().to(losses.dtype)]))
        return {"content_extension": (total / cells.clamp_min(1), self.settings.weight)}

    def _nearest(self, plain: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Of each cell the remembered embedding of its class that is nearest, and whether there is one."""
        memory = self.memory.to(plain.dtype)
        same = (label[..., None] == self.labels) & (label != IGNORE_INDEX)[..., None]
        cosine, place = (plain @ memory.T).masked_fill(~same, -2).max(2)
        return memory[place], cosine > -2

    def update(self, step: Step) -> None:
        """Remember the embeddings of the batch."""
        parts = [self.seen[part] for part in sorted(self.seen)]
        rows, labels = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        each = len(rows) // sum(len(part[2]) for part in parts)
        places = [place for part in parts for place in part[2] for _ in range(each)]
        rows, labels = in_order(places, rows, labels)
        append(self.memory, self.count, rows)
        append(self.labels, self.count, labels)
        self.count, self.seen = self.count + len(rows), {}

    def state(self) -> dict[str, Tensor]:
        """The memory."""
        return {"memory": self.memory, "labels": self.labels, "count": torch.tensor(self.count)}

    def load_state(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """The memory, of the same size."""
        if "memory" not in tensors or tensors["memory"].shape != self.memory.shape:
            raise CheckpointError(f"{source} has no memory of content_extension's, or one of another size: {REMEDY}")
        self.memory.copy_(tensors["memory"])
        self.labels.copy_(tensors["labels"])
        self.count = int(tensors["count"])
