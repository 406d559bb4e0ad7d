"""The reliability diagram: accuracy against confidence, and how many pixels are how sure."""

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from spcnet.reports.figures import BASELINE_COLOR, METHOD_COLORS, PAGE_INK, PAGE_SETTINGS, page_svg

_COLORS = (BASELINE_COLOR, *METHOD_COLORS)


def reliability_svg(title: str, ways: Mapping[str, Mapping[str, Any]], *, label: str) -> str:
    """Accuracy against mean confidence of each bin, in per cent, over the share of the pixels in it.

    Args:
        title: the domain.
        ways: what `spcnet.evaluation.calibration.ConfidenceCounts.figures` says, by the name of each line.
        label: the figure in words.
    """
    _, muted, line, _ = PAGE_INK
    with matplotlib.rc_context(PAGE_SETTINGS):
        drawing = Figure(figsize=(4.3, 3.6), layout="constrained")
        curve, shares = drawing.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        curve.plot([0, 100], [0, 100], color=line, linewidth=1)
        for place, ((name, figures), color) in enumerate(zip(ways.items(), _COLORS, strict=False)):
            confidence, accuracy = zip(*((100 * c, 100 * r) for n, c, r in figures["reliability"] if n), strict=True)
            look: Any = {"color": color, "linewidth": 1.5, "marker": "os"[place % 2], "markersize": 3.5}
            curve.plot(confidence, accuracy, linestyle=("-", "--")[place % 2], **look)
            count = len(figures["reliability"])
            width, bars = 100 / count / len(ways), [100 * n / figures["pixels"] for n, *_ in figures["reliability"]]
            edges = [100 * i / count + place * width for i in range(count)]
            shares.bar(edges, bars, width=width, align="edge", color=color)
            text = f"{name}: ECE {100 * figures['ece']:.1f}"
            curve.text(2, 96 - 10 * place, text, color=color, va="top", fontsize=9, fontweight="bold")
        for axes in (curve, shares):
            axes.grid(visible=True, axis="y")
            axes.tick_params(length=0)
        curve.set_title(title)
        curve.set_ylabel("accuracy in %")
        curve.set_ylim(0, 100)
        shares.set_xlim(0, 100)
        shares.set_ylabel("pixels in %")
        shares.set_xlabel("confidence in %", color=muted)
        return page_svg(drawing, label=label)
