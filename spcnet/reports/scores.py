"""One evaluation for a terminal: domain by domain, and class by class."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Column, Table

from spcnet.formatting import percent


def domain_scores(record: Mapping[str, Any]) -> Table:
    """A line for each domain of a record of `spcnet.evaluation.evaluator.record`, in per cent.

    The interval is the bootstrap's over the domain's images; a domain of one image has none.
    """
    titles = ("images", "mIoU", "95 %", "mean acc.", "pixel acc.", "fw IoU")
    table = Table(Column("domain", overflow="fold"), *map(_figures, titles), box=SIMPLE)
    for name, domain in record["domains"].items():
        ends = domain.get("miou_interval")
        interval = "" if ends is None else f"{percent(ends[0])} to {percent(ends[1])}"
        others = [percent(domain.get(key)) for key in ("mean_accuracy", "pixel_accuracy", "frequency_weighted_iou")]
        title = name if domain["role"] == "unseen" else f"{name} (source)"
        table.add_row(title, f"{domain['images']:,}", percent(domain["miou"]), interval, *others)
    return table


def protocol_scores(records: Mapping[str, Mapping[str, Any]], columns: Mapping[str, Collection[str]]) -> Table:
    """A line for each protocol that a network was scored by: its mIoU on each domain in per cent, and their means.

    Args:
        records: records of `spcnet.evaluation.evaluator.record` by the protocol's name.
        columns: domains as they were asked for, each with what the protocols call it.
    """
    titles = (*columns, "mean of sources", "mean of unseen")
    figures = (Column(name, justify="right", overflow="fold") for name in titles)
    table = Table(Column("protocol", no_wrap=True), *figures, box=SIMPLE)
    for protocol, record in records.items():
        domains: list[Mapping[str, Any]] = [
            next((record["domains"].get(name) for name in names if name in record["domains"]), {})
            for names in columns.values()
        ]
        means = []
        for role in ("source", "unseen"):
            scores = [domain["miou"] for domain in domains if domain.get("role") == role]
            means.append(sum(scores) / len(scores) if scores and None not in scores else None)
        table.add_row(protocol, *(percent(score) for score in (*(d.get("miou") for d in domains), *means)))
    return table


def class_table(record: Mapping[str, Any], domain: str, *, swapped: bool = False) -> Table:
    """A line for each class of one domain, in per cent; `swapped` says that precision and recall stand under each other's name."""
    metrics = record["domains"][domain]
    titles = ("IoU", "precision*", "recall*") if swapped else ("IoU", "precision", "recall")
    columns = (Column("class", overflow="fold"), *map(_figures, titles))
    caption = "* each under the other's name, as this protocol prints them" if swapped else None
    table = Table(*columns, box=SIMPLE, title=domain, title_justify="left", caption=caption, caption_justify="left")
    absent: Sequence[str] = metrics.get("absent", ())
    for name in record["classes"]:
        table.add_row(
            f"{name} (no truth)" if name in absent else name,
            *(percent(metrics.get(key, {}).get(name)) for key in ("iou", "precision", "recall")),
        )
    return table


def _figures(title: str) -> Column:
    return Column(title, justify="right", no_wrap=True)
