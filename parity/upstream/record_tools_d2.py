"""Records bowenc0221/panoptic-deeplab@cf8e20b tools_d2, detectron2's Panoptic-DeepLab on the repository's backbones.

    python parity/upstream/record_tools_d2.py --checkout PATH --detectron2 PATH [--case NAME ...] [--out FOLDER]

The paths are your own checkouts of bowenc0221/panoptic-deeplab and of facebookresearch/detectron2@02b5c4e; their
classes compute every number. What detectron2 needs is said in record_detectron2.py. Of the other repository nothing but
its backbones, their registration and its configuration files are used; its download of weights is stood in for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from parity import cases  # noqa: E402
from parity.cases.panoptic_deeplab import TOOLS_D2  # noqa: E402
from parity.upstream import record_detectron2  # noqa: E402

FILES = {
    "panoptic_deeplab_xception65": "panoptic_deeplab_X_65_os16_mg124_poly_90k_bs32_crop_512_1024.yaml",
    "panoptic_deeplab_hrnet48": "panoptic_deeplab_H_48_os16_mg124_poly_90k_bs32_crop_512_1024.yaml",
    "panoptic_deeplab_hrnet48_dsconv": "panoptic_deeplab_H_48_os16_mg124_poly_90k_bs32_crop_512_1024_dsconv.yaml",
}


def import_backbones(checkout: Path) -> None:
    """Registers the repository's backbones with detectron2, which has been imported."""

    def absent(*_: object, **__: object) -> None:
        raise NotImplementedError("weights from the network, which no recorded model should load")

    utils = types.ModuleType("torchvision.models.utils")
    utils.load_state_dict_from_url = absent
    sys.modules["torchvision.models"] = types.ModuleType("torchvision.models")
    sys.modules["torchvision.models.utils"] = utils
    for name in ("segmentation", "segmentation.model", "segmentation.model.backbone", "segmentation.config"):
        package = types.ModuleType(name)  # their own __init__ import models that are not needed
        package.__path__ = [str(checkout.joinpath(*name.split(".")))]
        sys.modules[name] = package
    sys.path.insert(0, str(checkout / "tools_d2"))
    import d2  # noqa: F401


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--checkout", type=Path, required=True, help="your checkout of bowenc0221/panoptic-deeplab")
    parser.add_argument("--detectron2", type=Path, required=True, help="your checkout of facebookresearch/detectron2")
    parser.add_argument("--case", action="append", choices=FILES, help="record only this case; several times")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the recordings")
    options = parser.parse_args(arguments)
    for path, upstream in ((options.checkout, TOOLS_D2), (options.detectron2, record_detectron2.UPSTREAM)):
        command = ["git", "-C", str(path), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        if not commit.startswith(upstream.partition("@")[2]):
            print(f"error: {path}: at {commit or 'no commit'}; expected a checkout of {upstream}", file=sys.stderr)
            return 2
    record_detectron2.import_detectron2(options.detectron2.resolve())
    import_backbones(options.checkout.resolve())
    from parity.upstream import detectron2_panoptic as panoptic

    data = panoptic.data()[next(iter(panoptic.FILES))]
    folder = options.checkout / "tools_d2" / "configs" / "Cityscapes-PanopticSegmentation"
    with record_detectron2.replaced(record_detectron2, UPSTREAM=TOOLS_D2):
        for name in options.case or FILES:
            record_detectron2.record(cases.get(name), panoptic.side(folder / FILES[name]), data, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
