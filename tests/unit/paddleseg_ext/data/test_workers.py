from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]


def run_script(folder: Path, text: str) -> subprocess.Popen[str]:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.integration
def test_results_come_in_order_from_processes_without_paddle(tmp_path: Path) -> None:
    script = run_script(
        tmp_path,
        """
        import itertools, os, sys
        from paddleseg_ext.data.workers import ordered_map

        def work(offset, item):
            return offset + item, os.getpid(), sorted({"paddle", "torch"} & set(sys.modules))

        if __name__ == "__main__":
            results = ordered_map(work, itertools.count(), state=100, num_workers=2)
            found = [next(results) for _ in range(20)]
            results.close()
            print([value for value, _, _ in found] == list(range(100, 120)))
            print(os.getpid() not in {pid for _, pid, _ in found}, [heavy for _, _, heavy in found if heavy])
        """,
    )
    assert script.communicate(timeout=50)[0].split("\n")[:2] == ["True", "True []"]


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_workers_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    script = run_script(
        tmp_path,
        """
        import itertools, os, time
        from paddleseg_ext.data.workers import ordered_map

        def work(_, item):
            return os.getpid()

        if __name__ == "__main__":
            results = ordered_map(work, itertools.count(), num_workers=2)
            print(*{next(results) for _ in range(30)}, flush=True)
            time.sleep(60)
        """,
    )
    workers = [int(pid) for pid in script.stdout.readline().split()]
    assert workers
    script.send_signal(signal.SIGKILL)
    script.communicate()
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_alive(pid) for pid in workers)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
