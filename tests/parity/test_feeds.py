"""A model with several inputs, such as one that gets its random points as an argument, in every stage and the chain."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import paddle.nn.functional as PF
import pytest
import torch
import torch.nn.functional as TF

from parity import Case, Side, chain, inputs, run
from parity.torch_side import TorchSide
from parity.traces import Recording, Run

pytestmark = pytest.mark.parity


class TorchNet(torch.nn.Module):
    """Samples its features at given points, of which it keeps the first `count`."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.act = torch.nn.ReLU()
        self.head = torch.nn.Conv1d(4, 4, 1)

    def forward(self, image, points, count):
        features = self.act(self.norm(self.conv(image)))
        points = points[:, : int(count)]
        sampled = TF.grid_sample(features, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]
        return {"semantic": features, "points": self.head(sampled)}


class PaddleNet(paddle.nn.Layer):
    def __init__(self, first=slice(None)):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 4, 3, padding=1)
        self.norm = paddle.nn.BatchNorm2D(4)
        self.act = paddle.nn.ReLU()
        self.head = paddle.nn.Conv1D(4, 4, 1)
        self.order = first

    def forward(self, image, points, count):
        features = self.act(self.norm(self.conv(image)))
        points = points[:, : int(count)][:, :, self.order]
        sampled = PF.grid_sample(features, 2 * points.unsqueeze(2) - 1, align_corners=False).squeeze(-1)
        return {"semantic": features, "points": self.head(sampled)}


class Count:
    def make(self, name, size, seed=0):
        return np.array(7)


def torch_losses(targets):
    def terms(outputs, targets):
        semantic = TF.cross_entropy(outputs["semantic"], targets["label"])
        return {"loss": semantic, "points": outputs["points"].square().mean()}

    return terms


def paddle_losses(targets):
    def terms(outputs, targets):
        semantic = PF.cross_entropy(outputs["semantic"], targets["label"], axis=1)
        return {"loss": semantic, "points": outputs["points"].square().mean()}

    return terms


CASE = Case(
    name="feeds",
    reference=Side(
        TorchNet,
        torch_losses,
        lambda model, *_: torch.optim.SGD(model.parameters(), lr=0.05),
        postprocess=lambda outputs: {"pred": outputs["semantic"].argmax(1)},
    ),
    port=Side(
        PaddleNet,
        paddle_losses,
        lambda model, *_: paddle.optimizer.SGD(0.05, parameters=model.parameters()),
        postprocess=lambda outputs: {"pred": outputs["semantic"].argmax(1).numpy()},
    ),
    inputs={
        "label": inputs.labels(2, 4, ignore=0),
        "points": inputs.uniform(2, (9, 2)),
        "image": inputs.image(2),
        "count": Count(),
    },
    feed=("image", "points", "count"),
    size=(17, 33),
    upstream="owner/repository@0123456",
    calibrate=True,
)


def test_every_stage_and_the_float32_report_get_them_all():
    result = run(CASE, upstream=False)
    assert result.passed, result
    ran = {stage.stage: stage for stage in result.stages if not stage.reason}
    assert set(ran) == {"weights", "forward", "forward_train", "loss", "gradients", "step", "trajectory", "postprocess"}
    assert all(ran[name].numerics["ratio"] > 0 for name in ("forward", "forward_train", "loss", "gradients"))
    gradients = result.bench.traces["port", "gradients"].points
    assert gradients["input.0"].shape == (2, 3, 17, 33) and gradients["input.1"].shape == (2, 9, 2)
    assert gradients["input.2"].size == 0  # whole numbers have none
    image = np.ones((1, 3, 17, 33), np.float32)
    assert [pred.shape for pred in result.bench.predict(image)] == [(17, 33)] * 2


def test_points_in_another_order_of_axes_are_found_where_they_are_used():
    wrong = dataclasses.replace(CASE.port, model=lambda: PaddleNet(slice(None, None, -1)))
    result = run(dataclasses.replace(CASE, port=wrong), stages=["forward"], float32=False, upstream=False)
    assert result.first[1].point == "forward/head"


def test_the_chain_to_upstream_gets_them_all(tmp_path):
    side = TorchSide(CASE.reference)
    recorded = Run(CASE.size, 0, "float64")
    recorded.add(chain.replay(side, CASE, recorded))
    Recording(CASE.name, CASE.upstream, {}, side.shapes(), {"only": recorded}).save(tmp_path / CASE.name)
    result = chain.verify(CASE, recordings=tmp_path)
    assert result.status == "verified" and "train/gradient/input.1" in recorded.points
