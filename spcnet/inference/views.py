"""Which views of an image make sense to a network."""

from spcnet.errors import UsageError, unknown_name_error
from spcnet.evaluation.tta import TestTimeAugmentation, check_overlap
from spcnet.models.network import MIN_SIZE


def check_views(views: TestTimeAugmentation, size: tuple[int, int] | None = None) -> None:
    """Refuse test-time augmentation that makes no sense.

    Args:
        views: how images are viewed.
        size: height and width of the images, where they are known.

    Raises:
        UsageError: see the message.
    """
    if views.window is not None and min(views.window) < MIN_SIZE:
        raise UsageError(
            f"the window is {views.window[0]}×{views.window[1]}: height and width must be at least {MIN_SIZE} pixels"
        )
    if not 0 <= views.overlap < 1:
        raise UsageError(f"the overlap is {views.overlap}: a fraction of a window, 0 or more and below 1")
    check_overlap(views.window, views.overlap, size)
    if views.weights not in ("uniform", "hann"):
        raise unknown_name_error(views.weights, ("uniform", "hann"), "window weights")
    if not views.scales or min(views.scales) <= 0:
        raise UsageError(f"the scales are {list(views.scales)}: factors above 0, at least one")
    if views.window is None and (views.overlap, views.weights) != (
        TestTimeAugmentation().overlap,
        TestTimeAugmentation().weights,
    ):
        raise UsageError("--overlap and --window_weights require --window")
