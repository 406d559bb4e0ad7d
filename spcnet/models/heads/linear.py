"""Classifiers that are convolutions: the one behind the decoder, and the auxiliary one beside it."""

from torch import nn

from spcnet.models.heads.deeplab import initialise


def linear_classifier(in_channels: int, num_classes: int) -> nn.Module:
    """A 1×1 convolution from the decoder's features to class scores."""
    return initialise(nn.Sequential(nn.Conv2d(in_channels, num_classes, 1)))


def auxiliary_head(in_channels: int, num_classes: int) -> nn.Module:
    """Second classifier, on the last stage but one; helps training and is not used after it."""
    return initialise(
        nn.Sequential(
            nn.Conv2d(in_channels, 512, 3, padding=1),
            nn.BatchNorm2d(512),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(512, num_classes, 1),
        )
    )
