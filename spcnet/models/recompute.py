"""Activation checkpointing: activations of a part are dropped after the forward pass and recomputed in the backward pass.

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


def recomputed(part: nn.Module, *inputs: Any) -> Any:
    """Call a part with activation checkpointing; values, gradients, dropout and running statistics are those of a plain call.

    Args:
        part: a module that does not change its input in place.
        *inputs: its inputs.
    """
    if not torch.is_grad_enabled() or _compiled_with_whitening(part):
        output = part(*inputs)
    elif torch.compiler.is_compiling():  # a compiled graph changes buffers once, at its end
        output = checkpoint(part, *inputs, use_reentrant=False)
    else:

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), buffers_kept(part)

        output = checkpoint(part, *inputs, use_reentrant=False, context_fn=contexts)
    return output


def _compiled_with_whitening(part: nn.Module) -> bool:
    """A compiled graph cannot return the output of a layer inside a recomputed part, which the whitening loss needs."""
    return torch.compiler.is_compiling() and any(isinstance(layer, InstanceWhitening) for layer in part.modules())


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Restore all buffers, such as running statistics, on exit."""
    held = [(layer, name, buffer) for layer in module.modules() for name, buffer in layer.named_buffers(recurse=False)]
    for layer, name, buffer in held:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in held:
            setattr(layer, name, buffer)
