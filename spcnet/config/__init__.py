"""Every setting of a run: what may be set, what it means, and which values make no sense.

No torch in here: a recipe can be checked, printed and compared without loading a framework.
"""

from spcnet.config.domains import Color, DomainSpec, OwnSet, read_color
from spcnet.config.fields import (
    OUTPUT_STRIDES,
    AugmentationConfig,
    ClusteringConfig,
    DataConfig,
    EvaluationConfig,
    LoggingConfig,
    LossConfig,
    ModelConfig,
    Precision,
    RunConfig,
    StyleConfig,
    TrainingConfig,
    Weighting,
    WhiteningConfig,
    decides,
    kept_on_resume,
    options,
)
from spcnet.config.options import METADATA, Decides, Option, Rule, Settings, coerced, option, plain_lists
from spcnet.config.recipes import as_dict, from_dict, read_sets, recipe_path, recipes_folder, settled

__all__ = [
    "METADATA",
    "OUTPUT_STRIDES",
    "AugmentationConfig",
    "ClusteringConfig",
    "Color",
    "DataConfig",
    "Decides",
    "DomainSpec",
    "EvaluationConfig",
    "LoggingConfig",
    "LossConfig",
    "ModelConfig",
    "Option",
    "OwnSet",
    "Precision",
    "Rule",
    "RunConfig",
    "Settings",
    "StyleConfig",
    "TrainingConfig",
    "Weighting",
    "WhiteningConfig",
    "as_dict",
    "coerced",
    "decides",
    "from_dict",
    "kept_on_resume",
    "option",
    "options",
    "plain_lists",
    "read_color",
    "read_sets",
    "recipe_path",
    "recipes_folder",
    "settled",
]
