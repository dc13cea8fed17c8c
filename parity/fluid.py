"""Weights of PaddlePaddle/models' DeepLabv3+, a Paddle 1.x program: the names of its variables, and its files.

A variable is called by its path in the program, "xception_65/entry_flow/conv1/weights". Operators without variables are
translated by the same rules, when they are given a path: "xception_65/entry_flow/conv1/relu".
"""

from __future__ import annotations

import re
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from paddleseg_ext.errors import WeightError
from parity.errors import WeightsError

_TYPES = {5: "<f4", 6: "<f8"}  # Paddle's numbers of element types
_MAX_SIZE = 2**31
_MAX_BYTES = 4 << 30
_NORM = "(?:GroupNorm|BatchNorm)/"
RULES: tuple[tuple[str, str], ...] = (
    # the place in the network
    (r"^xception_65/entry_flow/conv([12])/relu$", r"backbone.relu"),
    (rf"^xception_65/entry_flow/conv([12])/{_NORM}", r"backbone.bn\1."),
    (r"^xception_65/entry_flow/conv([12])/", r"backbone.conv\1."),
    (r"^xception_65/entry_flow/block([123])/", r"backbone.block\1."),
    *((rf"^xception_65/middle_flow/block{number}/", f"backbone.block{number + 3}.") for number in range(1, 17)),
    (r"^xception_65/exit_flow/block1/", "backbone.block20."),
    (r"^xception_65/exit_flow/block2/", "backbone.block21."),
    (rf"^(backbone\.block\d+)\.shortcut/{_NORM}", r"\1.bn."),
    (r"^(backbone\.block\d+)\.shortcut/", r"\1.conv."),
    (r"^(backbone\.block\d+)\.separable_conv([123])/", r"\1.sep_conv\2.block."),
    (rf"^(backbone\..*)\.depthwise/{_NORM}", r"\1.bn_depth."),
    (rf"^(backbone\..*)\.pointwise/{_NORM}", r"\1.bn_point."),
    (r"^(backbone\..*)\.depthwise/relu$", r"\1.relu1"),
    (r"^(backbone\..*)\.pointwise/relu$", r"\1.relu2"),
    (r"^(backbone\..*)\.(depthwise|pointwise)/", r"\1.\2."),
    (r"^encoder/image_pool/reduce_mean$", "decoder.aspp.convs.4.aspp_pooling.0"),
    (rf"^encoder/image_pool/{_NORM}", "decoder.aspp.convs.4.aspp_pooling.2."),
    (r"^encoder/image_pool/relu$", "decoder.aspp.convs.4.aspp_pooling.3"),
    (r"^encoder/image_pool/", "decoder.aspp.convs.4.aspp_pooling.1."),
    (r"^encoder/aspp([0-3])/", r"decoder.aspp.convs.\1/"),
    (r"^encoder/concat/dropout$", "decoder.aspp.project.3"),
    (r"^encoder/concat/", "decoder.aspp.project/"),
    (r"^decoder/concat/", "decoder.project/"),
    (r"^decoder/separable_conv1/", "decoder.fuse.0/"),
    (r"^decoder/separable_conv2/", "decoder.fuse.1/"),
    (r"^logit/", "decoder.classifier."),
    # within a sequence of convolution, norm and ReLU
    (rf"^(decoder\.[\w.]+)/depthwise/{_NORM}", r"\1.0.1."),
    (r"^(decoder\.[\w.]+)/depthwise/relu$", r"\1.0.2"),
    (r"^(decoder\.[\w.]+)/depthwise/", r"\1.0.0."),
    (rf"^(decoder\.[\w.]+)/pointwise/{_NORM}", r"\1.2."),
    (r"^(decoder\.[\w.]+)/pointwise/relu$", r"\1.3"),
    (r"^(decoder\.[\w.]+)/pointwise/", r"\1.1."),
    (rf"^(decoder\.[\w.]+)/{_NORM}", r"\1.1."),
    (r"^(decoder\.[\w.]+)/relu$", r"\1.2"),
    (r"^(decoder\.[\w.]+)/", r"\1.0."),
    # the variable
    (r"\.(?:weights|gamma)$", ".weight"),
    (r"\.(?:biases|beta)$", ".bias"),
    (r"\.moving_mean$", ".running_mean"),
    (r"\.moving_variance$", ".running_var"),
)


def torch_name(variable: str) -> str:
    """The reference's name of a variable, or of an operator.

    Args:
        variable: its path, with "/" between the parts.

    Raises:
        WeightsError: if the rules do not know it.
    """
    name = variable
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    if "/" in name:
        raise WeightsError(
            f"{variable}: no variable of PaddlePaddle/models' DeepLabv3+; expected a path such as "
            "xception_65/entry_flow/conv1/weights; check that the file belongs to this model"
        )
    return name


def load_variables(path: Path) -> dict[str, np.ndarray]:
    """The reference's name -> value, from a folder of one file per variable, or an archive of one.

    Args:
        path: what Paddle 1.x's `save_params` wrote, or the `.tgz` that it was packed into.

    Raises:
        WeightError: if there is no variable, or a file is damaged or of another kind.
        WeightsError: if a file's name is not a variable's of this model.
    """
    files = _archived(path) if path.is_file() else _in_folder(path)
    if not files:
        raise WeightError(f"{path}: no variables in it; expected files such as xception_65/entry_flow/conv1/weights")
    shared = _shared_folder(files)
    values: dict[str, np.ndarray] = {}
    for name, data in files.items():
        target = torch_name(name[len(shared) :])
        if target in values:
            raise WeightError(f"{path}: two variables are {target}; expected one; remove {name}, or the other")
        values[target] = parse_variable(data, where=f"{path}: {name}")
    return values


def parse_variable(data: bytes, *, where: str) -> np.ndarray:
    """One variable as Paddle's `save` operator writes it.

    The layout, little-endian: version 0 (uint32); number of levels of sequence offsets, 0 here (uint64); version 0
    (uint32); length of a description (int32); the description, a protocol buffer of the element type (field 1) and the
    sizes (field 2); the elements.

    Args:
        data: the file.
        where: what it is, for messages.

    Raises:
        WeightError: if it is anything else.
    """
    header = struct.Struct("<IQIi")
    if len(data) < header.size:
        raise WeightError(f"{where}: {len(data)} bytes; expected a variable of Paddle 1.x; download it again")
    version, levels, tensor_version, length = header.unpack_from(data)
    if (version, levels, tensor_version) != (0, 0, 0) or not 0 < length <= len(data) - header.size:
        raise WeightError(f"{where}: does not begin as a variable of Paddle 1.x does; is it of another format?")
    dtype, shape = _description(data[header.size : header.size + length], where)
    body = data[header.size + length :]
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(body) != expected:
        raise WeightError(
            f"{where}: {len(body)} bytes of elements; expected {expected} for shape {list(shape)}; download it again"
        )
    return np.frombuffer(body, dtype).reshape(shape).copy()


def _description(data: bytes, where: str) -> tuple[np.dtype, tuple[int, ...]]:
    """Element type and sizes from a description."""
    kind, sizes, position = None, [], 0
    while position < len(data):
        tag, position = _varint(data, position, where)
        if tag == 0x12:  # sizes, packed: their number of bytes comes first
            end, position = _varint(data, position, where)
            end += position
            while position < end:
                size, position = _varint(data, position, where)
                sizes.append(size)
            continue
        value, position = _varint(data, position, where)
        if tag == 0x08:
            kind = value
        elif tag == 0x10:
            sizes.append(value)
        else:
            raise WeightError(f"{where}: field {tag} in the description; expected a type and sizes; is it a variable?")
    if kind not in _TYPES or any(size > _MAX_SIZE for size in sizes):
        raise WeightError(f"{where}: element type {kind}, sizes {sizes}; expected float32 or float64 and real sizes")
    return np.dtype(_TYPES[kind]), tuple(sizes)


def _varint(data: bytes, position: int, where: str) -> tuple[int, int]:
    """A number of seven bits per byte, lowest first, and the position behind it."""
    value = 0
    for index in range(10):
        if position + index >= len(data):
            break
        byte = data[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise WeightError(f"{where}: the description ends in the middle of a number; download it again")


def _in_folder(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _archived(path: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(path) as archive:  # nothing is extracted to the disk
            members = [member for member in archive.getmembers() if member.isfile()]
            if sum(member.size for member in members) > _MAX_BYTES:
                raise WeightError(f"{path}: more than {_MAX_BYTES >> 30} GiB unpacked; expected weights of one network")
            names = [member.name.removeprefix("./") for member in members]
            return {name: archive.extractfile(m).read() for name, m in zip(names, members) if "/." not in f"/{name}"}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise WeightError(f"{path}: cannot be read as an archive ({error}); download it again") from error


def _shared_folder(names: Iterable[str]) -> str:
    """The folder that all names begin with, such as "deeplabv3plus_gn/", or an empty string."""
    firsts = {name.partition("/")[0] for name in names}
    first = f"{next(iter(firsts))}/"
    return first if len(firsts) == 1 and first not in ("xception_65/", "encoder/", "decoder/", "logit/") else ""
