"""What every decoder is to the network."""

from torch import nn


class Decoder(nn.Module):
    """Joins feature maps of a backbone to one; is called with the maps at `places`, in this order."""

    places: tuple[str, ...]
    """Places of the backbone whose maps it reads."""
    out_channels: int
    """Channels of the map that it returns."""
