"""`python parity/check.py` from any folder; the command itself is `parity.cli`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from parity.cli import main

    sys.exit(main())
