"""The items of a data set one by one, prepared by worker processes."""

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from spcnet.signals import leave_signals_to_parent


def item_loader(dataset: Dataset[Any], *, workers: int) -> DataLoader[Any]:
    """Items in order as the data set makes them, no tensors of them; with 0 workers the calling process makes them."""
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=leave_signals_to_parent,
        collate_fn=unchanged,
        generator=torch.Generator(),
    )


def unchanged(item: Any) -> Any:
    """The item, for a loader that would make tensors of it."""
    return item
