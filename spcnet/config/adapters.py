"""What of a pretrained backbone is trained."""

from dataclasses import dataclass, fields
from typing import Literal

from spcnet.config.options import Settings, option, require

SETTINGS: dict[str, tuple[str, ...]] = {
    "full": (),
    "frozen": ("save_base",),
    "lora": ("rank", "alpha", "targets", "start", "first_block", "dropout", "biases", "save_base"),
    "rein": ("rank", "first_block", "tokens", "save_base"),
}
"""What each kind of adapter reads of `AdapterConfig`."""


@dataclass(frozen=True)
class AdapterConfig(Settings, group="model.adapter"):
    """What of the backbone is trained."""

    kind: Literal["full", "frozen", "lora", "rein"] = option("result", "full", compared="adapter")
    """Everything (full), nothing (frozen), low-rank updates of its layers (lora), or tokens beside its features (rein)."""
    rank: int = option("result", 16, least=1)
    """Rank of LoRA's updates, and of Rein's tokens."""
    alpha: float | None = option("result", None, above=0)
    """LoRA's update is scaled by alpha/rank; default: as the rank."""
    targets: list[str] = option("result", factory=lambda: ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])
    """Patterns of the names of the backbone's layers that LoRA adapts, linear ones or convolutions: the whole name or its end; * stands for anything."""
    start: Literal["default", "soma", "qr"] = option("result", "default")
    """How LoRA starts: at zero (default), from the smallest singular triplets (soma), or from a pivoted QR decomposition (qr); all begin with the pretrained network."""
    first_block: int = option("result", 0, least=0)
    """The first block or stage that LoRA or Rein adapts, from 0; of 0 LoRA also adapts a stem or embedding that its targets name."""
    dropout: float = option("result", 0.0, least=0, below=1, noun="a probability")
    """Dropout before LoRA's update."""
    biases: bool = option("result", False)
    """Train the biases of the layers that LoRA adapts, too."""
    tokens: int = option("result", 100, least=2)
    """Rein's tokens for each block."""
    save_base: bool = option("place", True)
    """Write the pretrained part of the backbone into checkpoints, too; without it they hold what was trained, and the name and a hash of the rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        own = SETTINGS[self.kind]
        require(
            self.kind != "lora" or len(self.targets) > 0,
            "model.adapter.targets is []: lora adapts the layers that it names; name some, or choose model.adapter.kind frozen",
        )
        for setting in fields(self):
            made = setting.default_factory
            plain = made() if callable(made) else setting.default
            require(
                setting.name in ("kind", *own) or getattr(self, setting.name) == plain,
                f"model.adapter.{setting.name} is {getattr(self, setting.name)}, but the adapter {self.kind} has "
                f"{'the settings ' + ', '.join(own) if own else 'no settings'}: leave it out, or choose another "
                "model.adapter.kind",
            )
