"""Optimizers, parameter groups and learning-rate schedules."""

from paddleseg_ext.optim.ema import EMA
from paddleseg_ext.optim.optimizer import SGD, Adam, AdamW, Momentum, Optimizer, build_optimizer
from paddleseg_ext.optim.param_groups import GroupRule, ParameterGroup, parameter_groups
from paddleseg_ext.optim.schedules import (
    CosineDecay,
    CyclicDecay,
    PolynomialDecay,
    Schedule,
    StepDecay,
    WarmupPolynomialDecay,
)

__all__ = [
    "EMA",
    "SGD",
    "Adam",
    "AdamW",
    "CosineDecay",
    "CyclicDecay",
    "GroupRule",
    "Momentum",
    "Optimizer",
    "ParameterGroup",
    "PolynomialDecay",
    "Schedule",
    "StepDecay",
    "WarmupPolynomialDecay",
    "build_optimizer",
    "parameter_groups",
]
