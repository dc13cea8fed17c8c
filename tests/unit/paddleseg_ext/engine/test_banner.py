"""What is said about the machine."""

from __future__ import annotations

import paddle
import pytest

from paddleseg_ext.engine import banner

has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0


@pytest.mark.skipif(has_gpu, reason="needs a machine without a GPU")
@pytest.mark.parametrize("asked", ["gpu", "xpu", "nonsense"])
def test_a_device_that_is_not_there_is_said_loudly_and_the_cpu_used(asked: str) -> None:
    device, warning = banner.select_device(asked)
    assert device == "cpu"
    assert warning.startswith(f"NO {asked.upper()}: ") and "RUNNING ON THE CPU" in warning


@pytest.mark.skipif(has_gpu, reason="needs a machine without a GPU")
@pytest.mark.parametrize("asked", [None, "cpu"])
def test_the_cpu_is_no_surprise_if_nothing_else_was_asked_for(asked: str | None) -> None:
    assert banner.select_device(asked) == ("cpu", None)


def test_the_environment_names_what_a_bug_report_needs() -> None:
    assert {"platform", "Python", "paddle", "paddle with CUDA", "numpy", "OpenCV", "Pillow"} <= set(
        banner.environment()
    )


def test_the_command_line_can_be_pasted_into_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banner.sys, "argv", ["tools/train.py", "--save_dir", "my runs/1", "--opts", "a={b: 1}"])
    assert banner.command_line().endswith(" tools/train.py --save_dir 'my runs/1' --opts 'a={b: 1}'")
