"""Mistakes that no case can express yet, each with what a case would need for it.

They have no places, so that nothing is planted; a self-test names them, and nobody takes their absence for a proof.
"""

from __future__ import annotations

from collections.abc import Iterator

from parity.faults.fault import Fault, Patient, kind

_AVERAGES = "a stage that compares averaged weights, and an original that averages"
_ATTENTION = "an original with attention"
_BY_ROW = "a port whose own code a wrapper can change inside a function, at the indexing itself"
ABSENT = (
    ("ema-decay", "the average of the weights has another decay", _AVERAGES),
    ("ema-buffers", "running statistics are averaged too, or not", _AVERAGES),
    ("ema-start", "the average starts at another iteration, or from zero", _AVERAGES),
    (
        "linear-as-conv",
        "a 1x1 convolution is taken for a Linear, and transposed",
        "a Linear that is a convolution on the other side",
    ),
    ("attention-parts", "in_proj of q, k and v is split in another order", _ATTENTION),
    (
        "instance-norm-affine",
        "InstanceNorm learns a scale and shift that the original has not",
        "an original with InstanceNorm",
    ),
    (
        "hardsigmoid-slope",
        "hardsigmoid has slope 0.2 for 1/6",
        "an original with hardsigmoid, and a port whose slope is 1/6 in float64",
    ),
    ("scatter-rows", "torch's scatter along an axis becomes Paddle's by rows", _BY_ROW),
    ("index-axis", "indexing by several indices becomes index_select on another axis, or loses a None", _BY_ROW),
    (
        "topk-ties",
        "equal values are chosen in another order",
        "inputs with ties, in which both frameworks' choice is documented",
    ),
    ("drop-path", "the rate of drop path does not grow with the depth", "an original with drop path"),
    (
        "loss-axis",
        "cross_entropy of point logits (N, C, P) is over the last axis",
        "as many points as classes: else Paddle raises",
    ),
    (
        "loss-all-ignored",
        "a batch without a label has loss NaN for 0",
        "an original whose loss of such a batch is a number",
    ),
    (
        "smoothing-ignored",
        "label smoothing of ignored pixels, which Paddle raises at",
        "an original with label smoothing",
    ),
    (
        "class-weights-mean",
        "a weighted loss is divided by the pixels, not by their weights",
        "an original with class weights",
    ),
    ("smooth-l1-delta", "the delta of a smooth L1 loss is taken for its beta", "an original with a smooth L1 loss"),
    (
        "detach-missing",
        "a branch passes gradients on that the original cuts",
        "an original that cuts a branch whose gradient is not 0",
    ),
    ("clip-before-unscale", "gradients are clipped while the loss scale is in them", "a stage in mixed precision"),
    (
        "accumulation-sum",
        "accumulated gradients are summed, not averaged",
        "a case that accumulates gradients over batches",
    ),
    (
        "evaluation-windows",
        "windows, flips or the last batch of an evaluation are others",
        "a stage that evaluates a data set",
    ),
    (
        "sync-bn",
        "batch norms of several processes do not share their statistics",
        "a stage that trains in several processes",
    ),
    (
        "rewritten",
        "no mistake: a port with other names, another order, fused norms or another layout passes",
        "a second port of a case; correct runs with other seeds stand for it",
    ),
)


def _nowhere(patient: Patient) -> Iterator[Fault]:
    return iter(())


for _name, _text, _needed in ABSENT:
    kind(_name, _text, needs=_needed)(_nowhere)
