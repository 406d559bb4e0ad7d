"""What every decoder is to the network."""

from torch import nn


class Decoder(nn.Module):
    """Joins feature maps of a backbone to one; is called with the maps at `places`, in this order.

    A decoder with `masks` classifies queries and not cells: it returns a tuple of `spcnet.types.MaskPrediction`, the final
    one last, in evaluation that alone, and the network has no classifier behind it.
    """

    masks: bool = False
    """Whether it returns the predictions of queries instead of a map."""
    places: tuple[str, ...]
    """Places of the backbone whose maps it reads."""
    out_channels: int
    """Channels of the map that it returns."""

    def embeddings(self) -> set[str]:
        """Names of its parameters that are learned tokens or positions, which weight decay leaves alone."""
        return set()
