"""spcnet: domain-generalised semantic segmentation.

Train a segmentation network on the streets you have labels for, and have it work on streets nobody labelled.

```python
import spcnet

model = spcnet.build_model("spcnet", backbone="resnet50", num_classes=19, num_domains=2, output_stride=16)
model = spcnet.load_model("runs/spcnet")
spcnet.METHODS, spcnet.BACKBONES, spcnet.DATASETS  # name -> what it is
```
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spcnet.data.catalog import DATASETS
    from spcnet.export.hub import from_pretrained, push_to_hub, save_pretrained
    from spcnet.methods import METHODS, build_model
    from spcnet.models.backbones import BACKBONES
    from spcnet.runs import load_model

__version__ = importlib.metadata.version("spcnet")

__all__ = [
    "BACKBONES",
    "DATASETS",
    "METHODS",
    "__version__",
    "build_model",
    "from_pretrained",
    "load_model",
    "push_to_hub",
    "save_pretrained",
]

_HOME = {
    "BACKBONES": "spcnet.models.backbones",
    "DATASETS": "spcnet.data.catalog",
    "METHODS": "spcnet.methods",
    "build_model": "spcnet.methods",
    "from_pretrained": "spcnet.export.hub",
    "load_model": "spcnet.runs",
    "push_to_hub": "spcnet.export.hub",
    "save_pretrained": "spcnet.export.hub",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used, so that settings and reports need not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module 'spcnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
