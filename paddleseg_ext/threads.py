"""Threads and the matrix library, set right before paddle is imported.

Importing paddle sets OMP_NUM_THREADS to 1 when it is unset, so that a CPU run uses one core; and the MKL
inside its wheel does not recognise AMD processors, which MKL_DEBUG_CPU_TYPE=5 makes up for (1.5 to 2x on
whole models, measured on paddle 3.3.1). OpenMP threads wait by spinning, which starves whoever else wants the core:
data workers, other jobs, torch's own threads in a parity check; OMP_WAIT_POLICY=PASSIVE made such a check on two busy
cores five times as fast. Not waiting at all costs paddle a fifth of a training step, whose operators follow each other
closely: KMP_BLOCKTIME lets the threads of its runtime (libiomp5, not torch's libgomp) spin for 20 ms before they
sleep. All are read once, when paddle is loaded. Every entry point calls `configure` before it imports anything that
imports paddle.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def available_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def configure(num_threads: int | None = None) -> str:
    """Sets the thread count and, on AMD, the MKL code path; to be called before paddle is imported.

    A value that the user has already set in the environment is kept, unless `num_threads` is given.

    Args:
        num_threads: threads for paddle, numpy and torch; None means all cores.

    Returns:
        One line for the start banner, such as "2 threads, MKL_DEBUG_CPU_TYPE=5 (AMD)".

    Raises:
        RuntimeError: if paddle is already imported with another thread count, since it would have no effect.
    """
    wanted = str(num_threads) if num_threads else os.environ.get("OMP_NUM_THREADS", str(available_cores()))
    if "paddle" in sys.modules and os.environ.get("OMP_NUM_THREADS") != wanted:
        raise RuntimeError(
            f"threads.configure({num_threads}): paddle is already imported with OMP_NUM_THREADS="
            f"{os.environ.get('OMP_NUM_THREADS')}; call configure() before importing paddle"
        )
    os.environ["OMP_NUM_THREADS"] = wanted
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "20")
    parts = [f"{wanted} thread{'s' if wanted != '1' else ''}"]
    if _is_amd():
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
        parts.append(f"MKL_DEBUG_CPU_TYPE={os.environ['MKL_DEBUG_CPU_TYPE']} (AMD)")
    return ", ".join(parts)


def _is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "AuthenticAMD" in cpuinfo.read_text(errors="ignore")
