"""Learning rate and weight decay of a step, as functions of its iteration and the settings alone."""

import math

from spcnet.config import TrainingConfig


def learning_rate(iteration: int, config: TrainingConfig, *, backbone: bool = False) -> float:
    """Learning rate of a step before the factors of parameter groups, with iterations counted from 0.

    A linear warm-up, then base · (1 - t)^power, with t the fraction of the iterations after the warm-up that are done; or half
    a cosine. Both end at `min_rate`. After a restart (RobustNet's `scl-poly`) it is base · factor · (1 - t)^restart_power,
    with t the fraction of the iterations after the restart.

    Args:
        iteration: finished iterations.
        config: the schedule.
        backbone: use `backbone_warmup` (Kerssies et al., CVPR 2025): rate 0 first, then a separate warm-up.
    """
    still, warmup = (config.backbone_warmup if backbone else None) or (0, config.warmup)
    if iteration < still:
        return 0.0
    if iteration < still + warmup:
        start = config.warmup_factor
        return config.learning_rate * (start + (1 - start) * (iteration - still) / warmup)
    peak, falling = config.learning_rate, 0.0
    restart = round(config.restart * config.iterations)
    if iteration >= restart:
        peak = peak * config.restart_factor
        falling = (1 - (iteration - restart) / (config.iterations - restart)) ** config.restart_power
    else:
        done = (iteration - still - warmup) / (config.iterations - still - warmup)
        cosine = config.schedule == "cosine"
        falling = (1 + math.cos(math.pi * done)) / 2 if cosine else (1 - done) ** config.poly_power
    return float(config.learning_rate * config.min_rate + (1 - config.min_rate) * peak * falling)


def weight_decay(iteration: int, config: TrainingConfig) -> float:
    """Weight decay of a step: half a cosine from `weight_decay` to `weight_decay_end`, or constant without an end.

    Args:
        iteration: finished iterations.
        config: the schedule.
    """
    start, end = config.weight_decay, config.weight_decay_end
    if end is None:
        return start
    return end + (start - end) * (1 + math.cos(math.pi * iteration / config.iterations)) / 2


def told(iteration: int, config: TrainingConfig) -> dict[str, float]:
    """Log entry of a step's schedule: learning rate; the backbone's rate and the weight decay if they differ from it or vary.

    Args:
        iteration: finished iterations before the step.
        config: the schedule.
    """
    figures = {"learning_rate": learning_rate(iteration, config)}
    if config.backbone_factor != 1 or config.backbone_warmup is not None:
        rate = learning_rate(iteration, config, backbone=True)
        figures["backbone_learning_rate"] = rate * config.backbone_factor
    if config.weight_decay_end is not None:
        figures["weight_decay"] = weight_decay(iteration, config)
    return figures
