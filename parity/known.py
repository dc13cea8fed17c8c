"""Where Paddle differs from torch on purpose: each entry predicts Paddle's value exactly.

A known difference is a formula, never a wider tolerance. tests/parity/test_known.py measures each on the installed
versions and fails when it stops being true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class KnownDifference:
    """One entry of the ledger.

    Attributes:
        name: short.
        rule: what Paddle does, and what torch does.
        handled: where the harness makes up for it.
    """

    name: str
    rule: str
    handled: str


LEDGER = (
    KnownDifference(
        "running variance",
        "Paddle's batch norms average the biased variance of a batch, torch's the unbiased one (n/(n-1) times it)",
        "known.RunningVariance predicts Paddle's value from the reference's",
    ),
    KnownDifference(
        "float32 attributes of normalisations",
        "epsilon and momentum of batch, instance and layer norms are float32 in Paddle, even in a float64 network; the"
        " epsilon of a group norm is not",
        "the reference gets the same rounded values (torch_side._round_attributes)",
    ),
    KnownDifference(
        "float32 attributes of optimizers",
        "momentum and weight decay of paddle.optimizer.Momentum, and the weight decay of AdamW, are float32, even for"
        " float64 parameters; learning rates, and the weight decay of SGD and Adam, are not",
        "the reference gets the same rounded values (torch_side._round_groups)",
    ),
    KnownDifference(
        "float32 inside float64 operators",
        "the ratio of a bilinear or bicubic resize, the divisor of an average pooling's backward and the constants of"
        " SELU are float32, and a hard sigmoid has 0.1666667 for a sixth",
        "the port computes them in float64 (paddle_float64)",
    ),
    KnownDifference(
        "ties of a selection",
        "which of several equal elements topk takes first is in neither framework's contract, and elements that should"
        " be equal, such as border pixels of a resized map, are rounded otherwise by each",
        "in float64 both sides take the first of those that are equal to 2^-36 of the largest (ties)",
    ),
    KnownDifference(
        "norm that gradients are clipped to",
        "torch's clip_grad_norm_ divides by the norm plus 1e-6, ClipGradByGlobalNorm by the norm",
        "the reference's optimizer step divides by the norm (torch_hooks.norm_alone)",
    ),
)


class RunningVariance:
    """Predicts Paddle's running variances from the reference's, call by call.

    With momentum m (torch's sense), torch updates r' = (1-m) r + m v n/(n-1) and Paddle p' = (1-m) p + m v, so
    p' = (1-m) p + (r' - (1-m) r) (n-1)/n. A normalisation that was not called, or not in training mode, keeps p.

    Args:
        initial: running statistics before the first step, by name; both sides start from them.
    """

    def __init__(self, initial: Mapping[str, np.ndarray]) -> None:
        self.port = {name: np.array(value, np.float64) for name, value in initial.items()}

    def advance(
        self, buffers: Mapping[str, np.ndarray], norms: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> dict[str, np.ndarray]:
        """The values Paddle should have after one more step.

        Args:
            buffers: the reference's running statistics after the step, by name.
            norms: path of each normalisation that averaged -> for each of its calls `{count, momentum, before}`, where
                `before` is the reference's running variance before the call.
        """
        expected = {}
        for name, value in buffers.items():
            path, _, attribute = name.rpartition(".")
            if attribute == "running_var":
                calls = norms.get(path, ())
                after = [np.asarray(call["before"], np.float64) for call in calls[1:]] + [value]
                for call, updated in zip(calls, after):
                    n, kept = call["count"], 1.0 - call["momentum"]
                    self.port[name] = kept * self.port[name] + (updated - kept * call["before"]) * (n - 1) / n
                value = self.port[name]
            expected[name] = value
        return expected
