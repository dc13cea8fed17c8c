"""Sets up the frameworks as the tools do, before any test imports one; small tensors are fastest on one thread."""

from __future__ import annotations

import os

from paddleseg_ext import threads

os.environ.setdefault("OMP_NUM_THREADS", "1")
threads.configure()
