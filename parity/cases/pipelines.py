"""The training transforms of a configuration on a made-up picture: what the `data` of cases shares, and no case itself.

The transforms are built from the configuration as the trainer builds them; only sizes are set otherwise. `DRAWS`,
`sample` and `detectron2` are for detectron2's pipelines; upstream's own run in `parity/upstream/detectron2_data.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity import inputs
from parity.errors import CaseError

SHORT_EDGES = (40, 56, 72, 128)
MAX_SIZE = 180
CROP_SIZE = (64, 48)  # (width, height)
NUM_CLASSES = 19


@dataclass(frozen=True)
class Draws:
    """What detectron2's pipelines draw for one sample.

    Attributes:
        short_edge: one of SHORT_EDGES.
        seed: of the crop's windows, of which the first counts or, if no class may rule, the first good one of ten.
        color: of `ColorAugSSD`, where there is one.
        flip: whether.
    """

    short_edge: int
    seed: int
    color: Mapping[str, Any]
    flip: bool

    def windows(self) -> list[float]:
        """Y and x of ten windows in turn, as fractions of the room that they have."""
        return np.random.RandomState(self.seed).uniform(size=20).tolist()


DRAWS = (
    Draws(56, 0, {"contrast_first": True}, False),
    Draws(72, 1, {"contrast_first": True, "brightness": 20.5, "contrast": 1.3, "saturation": 0.6, "hue": 18}, True),
    Draws(
        128, 2, {"contrast_first": False, "brightness": -31.0, "contrast": 0.55, "saturation": 1.45, "hue": -7}, False
    ),
    Draws(40, 3, {"contrast_first": False, "saturation": 1.1}, True),  # lower than the crop: taken whole
)


class Fractions:
    """Stands for a random generator: answers with given positions, as fractions of what is asked for.

    Args:
        integers: what `integers` answers, in turn.
        numbers: what `random` answers.
    """

    def __init__(self, integers: Sequence[float], numbers: Sequence[float] = ()) -> None:
        self._integers, self._numbers = list(integers), list(numbers)

    def integers(self, room: int) -> int:
        """The next integer, below `room`."""
        return int(self._integers.pop(0) * room)

    def random(self) -> float:
        """The next number."""
        return self._numbers.pop(0)


def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture, (72, 110, 3) uint8 RGB, and its label, (72, 110) uint8: few regions, so that crops are rejected."""
    size = (72, 110)
    image = inputs.image(1).make("data.image", size, seed)[0].transpose(1, 2, 0)
    label = inputs.labels(1, NUM_CLASSES, cells=7).make("data.label", size, seed)[0]
    return np.clip(np.round(128 + 60 * image), 0, 255).astype(np.uint8), label.astype(np.uint8)


def transforms(config: str, changes: Mapping[str, Mapping[str, Any]]) -> Any:
    """The `Compose` of a configuration's training transforms.

    Args:
        config: path of the file.
        changes: type of a transform -> arguments that replace its own.
    """
    from paddleseg_ext.config import Config, build_component, import_components, load_config
    from paddleseg_ext.data.transforms import Compose

    import_components()
    data = load_config(config).data
    section = data["train_dataset"]
    missing = set(changes) - {entry["type"] for entry in section["transforms"]}
    if missing:
        raise CaseError(f"{config}: no {', '.join(sorted(missing))} among its transforms, whose sizes are to be set")
    section["transforms"] = [{**entry, **changes.get(entry["type"], {})} for entry in section["transforms"]]
    return Compose(build_component(Config.from_dict(data, config), "train_dataset.transforms"))


def points(index: int, made: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The points of a transformed sample: what a network and its losses get of it."""
    return {
        f"{index}/image": made["image"].transpose(2, 0, 1),
        f"{index}/label": made["label"].astype(np.int64),
    }


def detectron2(config: str, seed: int) -> dict[str, np.ndarray]:
    """What a configuration's transforms make of the sample with each of `DRAWS`."""
    image, label = sample(seed)
    pipeline = transforms(
        config,
        {
            "ResizeShortestEdge": {"short_edge_length": list(SHORT_EDGES), "max_size": MAX_SIZE},
            "RandomCropCatMaxRatio": {"crop_size": list(CROP_SIZE)},
        },
    )
    by_type = {type(transform).__name__: transform for transform in pipeline.transforms}
    made = {}
    for index, drawn in enumerate(DRAWS):
        given = {"image": image, "label": label, "meta": {}}
        draws = {"ResizeShortestEdge": {"short_edge": drawn.short_edge}, "ColorAugSSD": dict(drawn.color)}
        resized = by_type["ResizeShortestEdge"].apply(given, draws["ResizeShortestEdge"])
        draws["RandomCropCatMaxRatio"] = by_type["RandomCropCatMaxRatio"].draw(Fractions(drawn.windows()), resized)
        draws["HorizontalFlip"] = {"flip": drawn.flip}
        made.update(points(index, pipeline.replay(given, [draws.get(name, {}) for name in by_type])))
    return made
