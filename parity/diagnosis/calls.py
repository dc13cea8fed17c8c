"""Function calls between the layers of a model, on both sides: seen, named alike, and changed one at a time.

A resize or a concatenation that a model's code calls is no layer, and has no tap. Torch shows every function to a
`TorchFunctionMode`; Paddle's are replaced where models look them up (`paddle.nn.functional` and `paddle`). What a leaf
layer calls inside itself is the layer's business and is not recorded.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

_FUNCTIONAL = (
    "interpolate upsample relu relu6 leaky_relu sigmoid softmax gelu silu hardswish avg_pool2d max_pool2d"
    " adaptive_avg_pool2d adaptive_max_pool2d pad grid_sample dropout conv2d batch_norm hardsigmoid elu softplus"
).split()
_TENSOR = "concat mean max add multiply clip matmul split transpose abs topk".split()
_KINDS = {
    "interpolate": "resize",
    "upsample": "resize",
    "cat": "concat",
    "concat": "concat",
    "concatenate": "concat",
    "avg_pool2d": "average pool",
    "max_pool2d": "max pool",
    "adaptive_avg_pool2d": "adaptive average pool",
    "multiply": "mul",
    "__mul__": "mul",
    "__rmul__": "mul",
    "__add__": "add",
    "__radd__": "add",
    "amax": "max",
}
_DEFAULTS = {"align_mode": 0, "exclusive": True, "ceil_mode": False, "align_corners": False, "value": 0.0}
_SHARED = {"dim": "axis", "count_include_pad": "counts_padding"}
_PAIRS = ("kernel_size", "stride", "padding", "dilation", "output_size", "size")
_RESIZE = ("mode", "align_corners", "align_mode", "size", "scale_factor", "recompute_scale_factor")


@dataclass
class Call:
    """One call of a function outside any leaf layer.

    Attributes:
        name: of the function ("interpolate").
        kind: what both frameworks' functions of this sort are called here ("resize").
        where: path of the innermost layer whose code calls it; "" is the model's own.
        number: of the call in one forward pass, from 0.
        inputs: tensors it got, in order.
        output: what it returned, if that is one tensor.
        settings: its other arguments in the words both sides share.
    """

    name: str
    kind: str
    where: str
    number: int
    inputs: list[np.ndarray]
    output: np.ndarray
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} called by {self.where or 'the model'}"


@dataclass
class Pass:
    """What one forward pass of a side did.

    Attributes:
        calls: in order.
        inputs: path of a layer -> what its first call received.
        outputs: path of a layer -> what its first call returned.
        attached: path of a leaf -> whether its first input passes gradients on; None if it takes no float tensor.
        crash: what it raised, or "".
    """

    calls: list[Call] = field(default_factory=list)
    inputs: dict[str, list[np.ndarray]] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    attached: dict[str, bool | None] = field(default_factory=dict)
    crash: str = ""


_FUNCTION = "()"  # stands on the stack of layers while a function runs
Alter = Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], Any]

_altered: list[tuple[int, Alter]] = []
_running: list[str] = []  # functions that run now: recordings that are nested in another see a call only once altered


class Watch:
    """Where a forward pass is: the stack of layers that are running."""

    def __init__(self, leaves: Mapping[str, str]) -> None:
        self.leaves = leaves
        self.stack: list[str] = [""]
        self.number = 0

    @property
    def inside_leaf(self) -> bool:
        """Whether a leaf layer, or a function that was recorded, is running."""
        return self.stack[-1] in self.leaves or self.stack[-1] == _FUNCTION

    def enter(self, path: str) -> None:
        """A layer starts."""
        self.stack.append(path)

    def leave(self) -> None:
        """It ends."""
        self.stack.pop()


@contextmanager
def altered(port: Any, number: int, alter: Alter) -> Iterator[None]:
    """Within the block the port's call with this number goes to `alter(function, arguments, keywords)`.

    It is as if the model's code called the function otherwise: a recording within the block shows what `alter` calls,
    and alterations that are entered later are nearer to the function.

    Args:
        port: a `PaddleSide`.
        number: of the call in one forward pass of the model, see `Call.number`.
        alter: computes the result instead.
    """
    _altered.append((number, alter))
    try:
        with _watching_paddle(port, lambda watch, function, name, args, kwargs: function(*args, **kwargs)):
            yield
    finally:
        _altered.remove((number, alter))


def of_port(port: Any, inputs: Sequence[np.ndarray], *, train: bool) -> Pass:
    """One forward pass of a `PaddleSide`, recorded."""
    seen = Pass()

    def record(watch: Watch, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        _keep(seen, watch, name, _bound(function, args, kwargs), result, _is_paddle, lambda t: t.numpy())
        return result

    port.model.train() if train else port.model.eval()
    try:
        with port._exact(), _watching_paddle(port, record, seen):
            port._forward([port._tensor(value, gradient=True) for value in inputs])
    except Exception as error:
        seen.crash = f"{type(error).__name__}: {error}"
    return seen


def of_reference(reference: Any, inputs: Sequence[np.ndarray], *, train: bool) -> Pass:
    """One forward pass of a `TorchSide`, recorded; of one that remembers (it has `recall`), once."""
    recall = getattr(type(reference), "recall", None)
    if recall is not None:
        key = [list(inputs), train]
        return recall(reference, "calls", key, lambda side: of_reference(side, inputs, train=train))
    import torch
    from torch.overrides import TorchFunctionMode

    seen, watch = Pass(), Watch(reference.module_types())

    def numpy(tensor: Any) -> np.ndarray:
        return tensor.detach().clone().numpy()

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            shown = _first(result)
            if not watch.inside_leaf and isinstance(shown, torch.Tensor) and shown.is_floating_point():
                name = getattr(function, "__name__", "")
                if name not in ("__get__", "detach", "clone", "numpy"):
                    watch.number += 1
                    _keep(seen, watch, name, _bound(function, args, kwargs or {}), result, torch.is_tensor, numpy)
            return result

    handles = []
    for path, module in reference.model.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(_entering(seen, watch, path, torch.is_tensor, numpy)))
            handles.append(module.register_forward_hook(_leaving(seen, watch, path, torch.is_tensor, numpy)))
    reference.model.train(train)
    try:
        with reference._exact(), Mode():
            reference._forward([reference._tensor(value, gradient=True) for value in inputs])
    except Exception as error:
        seen.crash = f"{type(error).__name__}: {error}"
    finally:
        for handle in handles:
            handle.remove()
    return seen


@contextmanager
def _watching_paddle(port: Any, handle: Any, seen: Pass | None = None) -> Iterator[Any]:
    import paddle
    import paddle.nn.functional as F

    watch = Watch(port.module_types())
    with ExitStack() as stack:
        for module, names in ((F, _FUNCTIONAL), (paddle, _TENSOR)):
            for name in names:
                if hasattr(module, name):
                    own = getattr(module, name)
                    setattr(module, name, _through(watch, own, name, handle))
                    stack.callback(setattr, module, name, own)
        record = seen or Pass()
        for path, layer in port.model.named_sublayers(include_self=True):
            before = _entering(record, watch, path, _is_paddle, lambda t: t.numpy(), keep=seen is not None)
            after = _leaving(record, watch, path, _is_paddle, lambda t: t.numpy(), keep=seen is not None)
            stack.callback(layer.register_forward_pre_hook(before).remove)
            stack.callback(layer.register_forward_post_hook(after).remove)
        yield watch


def _through(watch: Watch, own: Any, name: str, handle: Any) -> Any:
    @functools.wraps(own)
    def run(*args: Any, **kwargs: Any) -> Any:
        return handle(watch, own, name, args, kwargs)

    @functools.wraps(own)
    def function(*args: Any, **kwargs: Any) -> Any:
        if watch.inside_leaf or len(watch.stack) == 1:  # a layer's own business, or not in the model
            return own(*args, **kwargs)
        watch.number += 1
        outermost = not _running
        wanted = [alter for number, alter in _altered if outermost and number == watch.number - 1]
        _running.append(name)
        watch.enter(_FUNCTION)  # what a function calls in turn is its own business
        try:
            return functools.reduce(_bind, reversed(wanted), run)(*args, **kwargs)
        finally:
            watch.leave()
            _running.pop()

    return function


def _bind(function: Any, alter: Alter) -> Any:
    return functools.wraps(function)(lambda *args, **kwargs: alter(function, args, kwargs))


def _entering(seen: Pass, watch: Watch, path: str, is_tensor: Any, numpy: Any, *, keep: bool = True) -> Any:
    def hook(layer: Any, arguments: Any) -> None:
        if not path:
            watch.number, watch.stack = 0, [""]
        watch.enter(path)
        if keep and path and path not in seen.inputs:
            tensors = [a for a in arguments if is_tensor(a)]
            seen.inputs[path] = [numpy(tensor) for tensor in tensors]
            seen.attached[path] = _attached(tensors[0]) if tensors else None

    return hook


def _leaving(seen: Pass, watch: Watch, path: str, is_tensor: Any, numpy: Any, *, keep: bool = True) -> Any:
    def hook(layer: Any, arguments: Any, output: Any) -> None:
        watch.leave()
        if keep and path and path not in seen.outputs and is_tensor(output):
            seen.outputs[path] = numpy(output)

    return hook


def _attached(tensor: Any) -> bool:
    return bool(tensor.requires_grad) if hasattr(tensor, "requires_grad") else not tensor.stop_gradient


def _is_paddle(value: Any) -> bool:
    import paddle

    return isinstance(value, paddle.Tensor)


def _keep(seen: Pass, watch: Watch, name: str, arguments: Any, result: Any, is_tensor: Any, numpy: Any) -> None:
    result = _first(result)
    if not is_tensor(result):
        return
    tensors: list[Any] = []
    settings: dict[str, Any] = {}
    for key, value in arguments.items():
        if is_tensor(value):
            tensors.append(value)
        elif isinstance(value, (tuple, list)) and value and all(is_tensor(item) for item in value):
            tensors += value
        elif isinstance(value, (int, float, str, bool)) or value is None:
            settings[key] = value
        elif isinstance(value, (tuple, list)) and all(isinstance(item, (int, float)) for item in value):
            settings[key] = tuple(value)
    where = watch.stack[-2] if watch.stack[-1] == _FUNCTION else watch.stack[-1]
    kind = _KINDS.get(name, name)
    seen.calls.append(
        Call(name, kind, where, watch.number - 1, [numpy(t) for t in tensors], numpy(result), _shared(kind, settings))
    )


def _first(result: Any) -> Any:
    """A tensor, or the first of several (the values that `topk` returns with their places)."""
    return result[0] if isinstance(result, tuple) and result else result


def _bound(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        signature = inspect.signature(function)
        if list(signature.parameters) == ["args", "kwargs"]:  # a dispatcher
            raise ValueError
        bound = signature.bind(*args, **kwargs)
    except (TypeError, ValueError):  # a builtin shows its signature in its text only
        bound = _documented(function, args, kwargs)
        if bound is None:
            return {**{str(index): value for index, value in enumerate(args)}, **kwargs}
    bound.apply_defaults()
    return dict(bound.arguments)


def _documented(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments | None:
    """The arguments by the names in the first line of a torch function's text, "topk(input, k, dim=None, ...)"."""
    import torch.nn.functional as F

    name = getattr(function, "__name__", "")
    text = function.__doc__ or getattr(getattr(F, name, None), "__doc__", None) or ""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    method = type(function).__name__ == "method_descriptor"
    head = re.match(rf"{re.escape(name)}\((.*?)\)( ->|$)", line)
    if head is None:
        return None
    try:
        shown = ast.parse(f"def f({'self, ' if method else ''}{head[1]}): pass").body[0].args
        required = len(shown.args) - len(shown.defaults)
        kinds = [(a.arg, inspect.Parameter.POSITIONAL_OR_KEYWORD) for a in shown.args]
        kinds += [(a.arg, inspect.Parameter.KEYWORD_ONLY) for a in shown.kwonlyargs]
        defaults = [inspect.Parameter.empty] * required + [ast.literal_eval(v) for v in shown.defaults]
        defaults += [None if v is None else ast.literal_eval(v) for v in shown.kw_defaults]
        parameters = [inspect.Parameter(n, kind, default=d) for (n, kind), d in zip(kinds, defaults)]
        return inspect.Signature(parameters).bind(*args, **kwargs)
    except (SyntaxError, TypeError, ValueError):
        return None


def _shared(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in the words both sides share; None where a side leaves a default."""
    shared = {_SHARED.get(key, key): value for key, value in settings.items()}
    if kind == "resize":
        shared = _shared_resize(shared)
    elif kind == "concat":
        shared = {}
    elif kind == "topk":
        k, axis, largest = shared.get("k", shared.get("1")), shared.get("axis"), shared.get("largest", True)
        shared = {"k": k, "axis": -1 if axis is None else axis, "largest": largest}
    elif kind == "gelu":
        shared = {"approximate": shared.get("approximate") in (True, "tanh")}
    elif kind == "hardsigmoid":
        shared = {"slope": shared.get("slope", 1.0 / 6.0), "offset": shared.get("offset", 0.5)}
    elif kind == "average pool" and "exclusive" in shared:
        shared["counts_padding"] = not shared.pop("exclusive")
    if kind.endswith("pool") and shared.get("stride") is None and "kernel_size" in shared:
        shared["stride"] = shared["kernel_size"]
    for key in _PAIRS:
        if isinstance(shared.get(key), int):
            shared[key] = (shared[key],) * 2
    return {key: _DEFAULTS.get(key) if value is None else value for key, value in shared.items()}


def _shared_resize(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a size and a factor, of which one is enough, there is what the call names."""
    shared = {key: settings.get(key) for key in _RESIZE}
    shared["mode"] = str(shared["mode"]).lower()
    shared["recompute_scale_factor"] = bool(shared["recompute_scale_factor"])
    factor = shared["scale_factor"]
    shared["scale_factor"] = (float(factor),) * 2 if isinstance(factor, (int, float)) else factor
    named = {key: value for key, value in shared.items() if value is not None or key not in ("size", "scale_factor")}
    if named["mode"] == "nearest":
        del named["align_corners"], named["align_mode"]
    return named
