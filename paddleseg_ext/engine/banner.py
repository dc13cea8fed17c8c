"""What a log should say about the machine and the program, so that a run can be understood a year later."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import sys
from typing import Any

import cv2
import numpy as np
import paddle
import PIL

import paddleseg_ext
from paddleseg_ext.config import Config


def command_line() -> str:
    """The command that started this process, as a shell would take it."""
    return shlex.join([os.path.basename(sys.executable), *sys.argv])


def environment() -> dict[str, str]:
    """Versions and platform by name."""
    return {
        "platform": platform.platform(),
        "Python": f"{platform.python_version()} ({platform.python_compiler()})",
        "paddleseg_ext": paddleseg_ext.__version__,
        "paddle": paddle.__version__,
        "paddle with CUDA": str(paddle.version.cuda()) if paddle.is_compiled_with_cuda() else "no",
        "numpy": np.__version__,
        "OpenCV": cv2.__version__,
        "Pillow": PIL.__version__,
    }


def select_device(asked: str | None) -> tuple[str, str | None]:
    """Makes a device the current one.

    Args:
        asked: "cpu", "gpu" or another kind that Paddle knows; None takes a GPU if there is one.

    Returns:
        Its name, such as "gpu:0", and what has to be said loudly: that another one was asked for.
    """
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    wanted = asked or ("gpu" if has_gpu else "cpu")
    if wanted == "gpu" and not has_gpu:
        why = "this Paddle has no CUDA" if not paddle.is_compiled_with_cuda() else "there is no GPU"
        paddle.set_device("cpu")
        return paddle.get_device(), f"NO GPU: --device gpu, but {why}; RUNNING ON THE CPU, which is far slower"
    if wanted == "gpu":
        wanted = f"gpu:{paddle.distributed.ParallelEnv().device_id}"
    try:
        paddle.set_device(wanted)
    except (ValueError, RuntimeError) as error:
        paddle.set_device("cpu")
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        return paddle.get_device(), f"NO {wanted.upper()}: {reason}; RUNNING ON THE CPU, which is far slower"
    return paddle.get_device(), None


def threads_in_use() -> str:
    """The thread settings that Paddle was imported with."""
    mkl = os.environ.get("MKL_DEBUG_CPU_TYPE")
    return f"{os.environ.get('OMP_NUM_THREADS', '?')}{f', MKL_DEBUG_CPU_TYPE={mkl}' if mkl else ''}"


def memory_mb() -> float:
    """The most memory used so far: of the GPU if that is the device, else of this process."""
    if paddle.get_device().startswith("gpu"):
        return paddle.device.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def banner(config: Config, facts: dict[str, Any]) -> str:
    """Command, facts, versions and configuration as text.

    Args:
        config: printed once, whole.
        facts: what else to say, by name.
    """
    lines = [f"command: {command_line()}"]
    lines += [f"{name}: {value}" for name, value in {**environment(), **facts}.items()]
    lines += ["configuration:", *("  " + line for line in config.to_yaml().splitlines())]
    return "\n".join(lines)
