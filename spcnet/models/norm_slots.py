"""Slots of a backbone for instance norms and whitening (RobustNet, Choi et al., CVPR 2021).

The slots of a stem are after its convolutions, where the layer takes the place of the batch norm; those of the stages
are at their ends, where it follows the last block's sum of branch and shortcut, before the ReLU. As in RobustNet, the
stems of MobileNetV2 and ShuffleNetV2 differ: the first gets the layer after its first block, in addition; in the
second it takes the place of the batch norm, whose weights stay unused in the files.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from spcnet.errors import UsageError, unknown_name_error
from spcnet.models.backbones import Backbone, BackboneInfo
from spcnet.models.whitening import KINDS, Kind, instance_norm

Slot = Literal["stem1", "stem2", "stem3", "layer1", "layer2", "layer3", "layer4"]
SLOTS: tuple[Slot, ...] = ("stem1", "stem2", "stem3", "layer1", "layer2", "layer3", "layer4")
"""RobustNet's seven slots in the order of its `wt_layer`; a stem of one convolution has `stem3` alone."""
CODES: tuple[Kind | None, ...] = (None, "iw", "isw", "is", "ibn", "sw")
"""Meaning of RobustNet's codes 0..5; its IRW is code 1 with `relax_denom`, here a separate kind."""


def slots_of(norms: Mapping[str, str] | Sequence[int], info: BackboneInfo) -> dict[Slot, Kind]:
    """Kind of norm in each slot, from the user's setting.

    Args:
        norms: slot → kind, `stem` being all of the stem's slots that the framework uses in this backbone; or
            RobustNet's seven codes.
        info: the backbone.

    Raises:
        UsageError: a slot or kind is unknown.
    """
    if not isinstance(norms, Mapping):
        return slots_of_codes(norms)
    slots: dict[Slot, Kind] = {}
    for name, kind in norms.items():
        if kind not in KINDS:
            raise unknown_name_error(kind, KINDS, "kind of norm")
        if name != "stem" and name not in SLOTS:
            raise unknown_name_error(name, ("stem", *SLOTS), "slot")
        for slot in SLOTS:
            if slot == name or (name == "stem" and slot in info.norm_slots and slot.startswith("stem")):
                slots[slot] = kind
    return slots


def slots_of_codes(codes: Sequence[int]) -> dict[Slot, Kind]:
    """RobustNet's `wt_layer`, seven codes, as kind by slot.

    >>> slots_of_codes([0, 0, 4, 4, 4, 0, 0])
    {'stem3': 'ibn', 'layer1': 'ibn', 'layer2': 'ibn'}

    Raises:
        UsageError: there are not seven, or one is unknown.
    """
    if len(codes) != len(SLOTS) or not all(0 <= code < len(CODES) for code in codes):
        raise UsageError(
            f"wt_layer is {list(codes)}: write seven codes 0..{len(CODES) - 1}, for {', '.join(SLOTS)}; "
            "0 nothing, 1 IW, 2 ISW, 3 IS, 4 IBN, 5 switchable whitening"
        )
    kinds = {slot: CODES[code] for slot, code in zip(SLOTS, codes, strict=True)}
    return {slot: kind for slot, kind in kinds.items() if kind is not None}


def fill_slots(backbone: Backbone, slots: Mapping[Slot, Kind], *, relax: int = 64) -> None:
    """Put instance norms or whitening into a backbone's slots.

    Args:
        backbone: as `build_backbone` cuts it, with its pretrained weights in place.
        slots: kind of norm by slot; other slots stay empty.
        relax: for `irw`, see `InstanceWhitening`.

    Raises:
        UsageError: the backbone has no such slot.
    """
    for slot, kind in slots.items():
        backbone.put_norm(slot, partial(instance_norm, kind, relax=relax))
