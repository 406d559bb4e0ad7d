"""Activation checkpointing: what a part computed is thrown away, and computed again when its gradient is taken.

A step then holds what goes into each part and the inside of one part at a time, at the price of a second forward pass
(Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016). For crops that do not fit otherwise.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from spcnet.models.whitening import InstanceWhitening


def recomputed(part: nn.Module, *given: Any) -> Any:
    """What a part returns, with the values, gradients, dropout and running statistics of a plain call.

    Args:
        part: a module that does not change what it is given.
        given: its input.
    """
    if not torch.is_grad_enabled() or _compiled_with_whitening(part):
        found = part(*given)
    elif torch.compiler.is_compiling():  # a compiled graph changes buffers once, at its end
        found = checkpoint(part, *given, use_reentrant=False)
    else:

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), buffers_kept(part)

        found = checkpoint(part, *given, use_reentrant=False, context_fn=contexts)
    return found


def _compiled_with_whitening(part: nn.Module) -> bool:
    """A compiled graph cannot hand out what a layer inside a recomputed part returns, as the whitening loss wants it."""
    return torch.compiler.is_compiling() and any(isinstance(layer, InstanceWhitening) for layer in part.modules())


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Whatever layers write into their buffers meanwhile, running statistics above all, is forgotten."""
    held = [(layer, name, buffer) for layer in module.modules() for name, buffer in layer.named_buffers(recurse=False)]
    for layer, name, buffer in held:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in held:
            setattr(layer, name, buffer)
