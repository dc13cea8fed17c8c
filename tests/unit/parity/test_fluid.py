"""Variables of a Paddle 1.x program: their names, and their files."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from paddleseg_ext.errors import WeightError
from parity.errors import WeightsError
from parity.fluid import load_variables, parse_variable, torch_name


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("xception_65/entry_flow/conv1/weights", "backbone.conv1.weight"),
        ("xception_65/entry_flow/conv2/GroupNorm/beta", "backbone.bn2.bias"),
        ("xception_65/entry_flow/block2/shortcut/BatchNorm/moving_variance", "backbone.block2.bn.running_var"),
        (
            "xception_65/middle_flow/block16/separable_conv3/pointwise/GroupNorm/gamma",
            "backbone.block19.sep_conv3.block.bn_point.weight",
        ),
        (
            "xception_65/middle_flow/block1/separable_conv2/depthwise/weights",
            "backbone.block4.sep_conv2.block.depthwise.weight",
        ),
        ("xception_65/exit_flow/block2/separable_conv1/depthwise/relu", "backbone.block21.sep_conv1.block.relu1"),
        ("encoder/image_pool/GroupNorm/gamma", "decoder.aspp.convs.4.aspp_pooling.2.weight"),
        ("encoder/aspp0/weights", "decoder.aspp.convs.0.0.weight"),
        ("encoder/aspp3/depthwise/GroupNorm/gamma", "decoder.aspp.convs.3.0.1.weight"),
        ("encoder/aspp1/pointwise/weights", "decoder.aspp.convs.1.1.weight"),
        ("encoder/concat/GroupNorm/gamma", "decoder.aspp.project.1.weight"),
        ("decoder/concat/weights", "decoder.project.0.weight"),
        ("decoder/separable_conv2/pointwise/GroupNorm/beta", "decoder.fuse.1.2.bias"),
        ("logit/biases", "decoder.classifier.bias"),
    ],
)
def test_a_variable_has_one_name_in_the_reference(variable: str, name: str) -> None:
    assert torch_name(variable) == name


def test_an_unknown_variable_is_refused_by_its_name() -> None:
    with pytest.raises(WeightsError, match="resnet/conv1/weights"):
        torch_name("resnet/conv1/weights")


def written(array: np.ndarray, *, packed: bool = False) -> bytes:
    """A variable as Paddle's `save` operator writes it, put together by hand; sizes below 128."""
    kind = {"float32": 5, "float64": 6, "int64": 3}[str(array.dtype)]
    if packed:
        description = bytes([0x08, kind, 0x12, array.ndim, *array.shape])
    else:
        description = bytes([0x08, kind, *(byte for size in array.shape for byte in (0x10, size))])
    return struct.pack("<IQIi", 0, 0, 0, len(description)) + description + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_a_variable_is_read_with_its_type_and_shape(packed: bool) -> None:
    array = np.random.RandomState(0).standard_normal((3, 1, 5, 2)).astype(np.float32)
    read = parse_variable(written(array, packed=packed), where="here")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array)


def test_a_variable_written_by_paddle_is_read(tmp_path: Path) -> None:
    import paddle

    array = np.random.RandomState(1).standard_normal((300, 2)).astype(np.float32)
    paddle.save(paddle.to_tensor(array), str(tmp_path / "weights"), use_binary_format=True)
    np.testing.assert_array_equal(parse_variable((tmp_path / "weights").read_bytes(), where="here"), array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:10], "10 bytes"),
        (lambda data: data[:-1], "bytes of elements"),
        (lambda data: b"\x01" + data[1:], "does not begin"),
        (lambda data: data[:20] + b"\xff" * 6 + data[26:], "ends in the middle|field|element type"),
        (lambda data: b"PK" + data[2:], "does not begin"),
    ],
)
def test_a_damaged_file_is_refused(change, message: str) -> None:
    data = written(np.ones((2, 3), np.float32))
    with pytest.raises(WeightError, match=message):
        parse_variable(change(data), where="here")


def test_integers_are_no_weights() -> None:
    with pytest.raises(WeightError, match="element type 3"):
        parse_variable(written(np.ones(2, np.int64)), where="here")


VARIABLES = {"logit/weights": np.ones((2, 3, 1, 1), np.float32), "logit/biases": np.zeros(2, np.float32)}


def test_a_folder_and_an_archive_of_it_hold_the_same(tmp_path: Path) -> None:
    for name, value in VARIABLES.items():
        path = tmp_path / "weights" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written(value))
    with tarfile.open(tmp_path / "weights.tgz", "w:gz") as archive:
        for name, value in VARIABLES.items():
            data = written(value)
            info = tarfile.TarInfo(f"deeplabv3plus_gn/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    for source in (tmp_path / "weights", tmp_path / "weights.tgz"):
        read = load_variables(source)
        assert set(read) == {"decoder.classifier.weight", "decoder.classifier.bias"}
        np.testing.assert_array_equal(read["decoder.classifier.weight"], VARIABLES["logit/weights"])


def test_a_folder_without_variables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="no variables"):
        load_variables(tmp_path)
