"""Weights fit a layer or are refused with names; what differs on purpose is allowed by pattern."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_ext.errors import WeightError
from paddleseg_ext.models.pretrained import assign, load_pretrained
from paddleseg_ext.weight_files import save_arrays


def network(num_classes: int = 19) -> nn.Layer:
    return nn.Sequential(
        ("conv", nn.Conv2D(3, 4, 1)), ("norm", nn.BatchNorm2D(4)), ("head", nn.Conv2D(4, num_classes, 1))
    )


def arrays_of(layer: nn.Layer) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in layer.state_dict().items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return list(one) == list(other) and all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_every_tensor_of_a_file_arrives_running_statistics_included(tmp_path: Path) -> None:
    source, target = network(), network()
    source.norm._mean.set_value(paddle.to_tensor([1.0, 2.0, 3.0, 4.0]))
    save_arrays(tmp_path / "w.pdparams", arrays_of(source))
    load_pretrained(target, tmp_path / "w.pdparams")
    assert same(arrays_of(target), arrays_of(source))


def test_another_number_of_classes_is_refused_with_both_shapes_and_nothing_is_changed() -> None:
    target = network(19)
    before = arrays_of(target)
    with pytest.raises(WeightError) as error:
        assign(target, arrays_of(network(21)), where="w.pdparams")
    assert str(error.value) == (
        "w.pdparams: does not fit Sequential (8 of 8 names agree); 2 of another shape: "
        "head.weight (21, 4, 1, 1) for (19, 4, 1, 1), head.bias (21,) for (19,); "
        "use the weights of this model, or allow names by pattern"
    )
    assert same(arrays_of(target), before)


def test_another_model_is_refused_with_the_first_ten_of_each_kind() -> None:
    other = {f"backbone.stage{i:02d}.weight": np.zeros(3, "f4") for i in range(12)}
    with pytest.raises(WeightError) as error:
        assign(network(), other, where="w.pdparams")
    text = str(error.value)
    assert "(0 of 8 names agree); 8 missing: conv.weight, conv.bias, norm.weight" in text
    assert "12 unexpected: backbone.stage00.weight" in text
    assert "backbone.stage09.weight, ...;" in text and "stage10" not in text


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(WeightError, match="8 missing"):
        assign(network(), {}, where="w.npz")


def test_what_a_pattern_allows_stays_as_it_is() -> None:
    target, source = network(19), arrays_of(network(21))
    before = arrays_of(target)
    del source["norm.weight"]
    source["aux.weight"] = np.zeros(1, "f4")
    allow = (r"head\..*", r"norm\.weight", r"aux\..*")
    for missing in range(3):
        with pytest.raises(WeightError):
            assign(target, source, where="x", allow=allow[:missing] + allow[missing + 1 :])
    assign(target, source, where="x", allow=allow)
    after = arrays_of(target)
    assert (after["conv.weight"] == source["conv.weight"]).all()
    for name in ("head.weight", "head.bias", "norm.weight"):
        assert (after[name] == before[name]).all()


def test_a_pattern_has_to_match_the_whole_name() -> None:
    with pytest.raises(WeightError, match=r"head\.weight"):
        assign(network(19), arrays_of(network(21)), where="x", allow=("head",))
