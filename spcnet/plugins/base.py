"""What a plug-in is: something that is added to the training of any method, and is gone from the network that comes out.

A new one is one module beside this one, with a class that says its paper and equation, and one line in
`spcnet.plugins.PLUGINS`.
"""

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from spcnet.config import RunConfig
from spcnet.distributed import Reduce
from spcnet.errors import CheckpointError
from spcnet.methods.base import NoSettings, Terms
from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.types import Batch, SegOutput


class Plugin(ABC):
    """One plug-in of one run.

    Args:
        settings: an instance of `settings_type`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """What it does, in one line."""
    paper: ClassVar[str]
    settings_type: ClassVar[type] = NoSettings
    """A frozen dataclass whose fields are made by `spcnet.config.method_option`."""
    doubles: ClassVar[bool] = False
    """Whether it trains on each image as it is and altered: the batch is then those and these, in this order.

    Where one plug-in of a run does, all of them alter the second half alone.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def alters(self) -> bool:
        """Whether it changes images or features, so that the two halves of a doubled batch differ."""
        return True

    def option(self, setting: str) -> str:
        """What a message calls one of its settings."""
        return f"plugins.{self.name}.{setting}"

    def check(self, config: RunConfig) -> None:
        """Refuse a run that it would not act on or makes no sense in; nothing by default.

        Raises:
            UsageError: naming the option.
        """
        return

    def taps(self, network: Segmentor, config: RunConfig) -> Mapping[str, nn.Module]:
        """Layers that replace the backbone's feature maps in training, by the place of the map; none by default.

        They hold no parameters and no buffers, and are no part of the network: neither its file nor its evaluation knows them.
        Each is given the map of the images that it alters. What they need of a step `alter` puts into them as attributes.

        Args:
            network: what is trained, before its first step.
            config: the run.
        """
        return {}

    def alter(self, network: Segmentor, batch: Batch, step: Step) -> Float[Tensor, "B 3 H W"]:
        """The images that the network is trained on, and what is drawn for the taps; as they are by default.

        It is called before every forward pass, on the device, with gradient accumulation twice for each micro-batch: it gives
        the same for the same step, and changes nothing that a checkpoint keeps.

        Args:
            network: what is trained.
            batch: the images to alter, with their labels and domains, normalised by ImageNet's mean and standard deviation.
            step: which step it is, and its random numbers.
        """
        return batch.image

    def terms(self, network: Segmentor, output: SegOutput, batch: Batch, step: Step, *, reduce: Reduce) -> Terms:
        """Further terms of the loss, each with its weight, by name; none by default.

        Args:
            network: what is trained.
            output: its answer to the batch.
            batch: the batch; a doubled one where a plug-in doubles, first the images as they are.
            step: which step it is.
            reduce: sums over processes and micro-batches.
        """
        return {}

    def update(self, step: Step) -> None:
        """Change its own state, after the optimiser's step; nothing by default.

        Args:
            step: that of the last micro-batch.
        """
        return

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs of it, by name; nothing by default."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Put back what `state` gave.

        Args:
            tensors: by name.
            source: name of the file, for messages.

        Raises:
            CheckpointError: it is not the state of this plug-in.
        """
        if tensors:
            raise CheckpointError(f"{source} has a state of the plug-in {self.name}, which keeps none: {REMEDY}")


REMEDY = "resume with the run's own plugins, or choose another --output"
