"""Records of inspections."""

import math

import numpy as np

from spcnet.reports.inspection import Domain, Inspection, Layer, Pair, PixelMap, Prototypes, Seen

CLASSES = ("road", "car", "sky")


def made(
    known: int = 2, *, images: int = 4, method: str = "spcnet", style: bool = True, clusters: bool = True
) -> Inspection:
    """A record of so many known styles, with a source for each and one unseen domain."""
    rng = np.random.default_rng(known)
    names = [f"source{i}" for i in range(known)]
    domains = (*(Domain(name, "source") for name in names), Domain("unseen", "unseen"))
    num = images * len(domains)

    def points(count: int) -> tuple[tuple[float, float], ...]:
        return tuple((round(float(x), 3), round(float(y), 3)) for x, y in rng.uniform(-1, 1, (count, 2)))

    def table(rows: int, columns: int) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(float(v) for v in row) for row in rng.dirichlet(np.full(columns, 30), rows).round(5))

    layers = tuple(
        Layer(
            place=place,
            mode="projection" if style else None,
            before=points(num),
            after=points(num) if style else (),
            bases=points(known),
            distance=table(num, known),
            weights=table(num, known) if style else (),
            gap_before=0.02,
            gap_after=2e-6 if style else math.nan,
            told_before=0.9,
            told_after=0.5 if style else math.nan,
        )
        for place in ("stem", "layer1")
    )
    labels = [k for _ in domains for k in range(len(CLASSES)) for _ in range(5)]
    cosine = np.eye(len(CLASSES) * known) * 0.5 + 0.5
    return Inspection(
        run="run",
        method=method,
        backbone="resnet18",
        iteration=9,
        classes=CLASSES,
        colors=((128, 64, 128), (0, 0, 142), (70, 130, 180)),
        known=tuple(names),
        domains=domains,
        images=tuple(Seen(d, f"image{d}_{i}") for d in range(len(domains)) for i in range(images)),
        layers=layers,
        pixels=PixelMap(
            kind="embedding" if clusters else "feature",
            points=points(len(labels)),
            label=tuple(labels),
            domain=tuple(d for d in range(len(domains)) for _ in range(5 * len(CLASSES))),
            prototypes=points(len(CLASSES) * known) if clusters else (),
            matched=(*(0.6 for _ in names), math.nan),
        ),
        prototypes=Prototypes(
            cosine=tuple(tuple(float(v) for v in row) for row in cosine),
            within=0.5 if known > 1 else math.nan,
            between=0.25,
            alike=(("road", "car", 0.4),),
        )
        if clusters
        else None,
        pairs=(Pair(num - 1, 0, 0.25, ("0_unseen.jpg", "0_nearest.jpg")),),
        seed=3,
        environment={"spcnet": "1.2.3"},
    )
