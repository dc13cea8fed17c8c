"""Is a data set what training expects? Label values are checked whenever a sample is read, everything here on demand.

K classes. A *problem* stops training; a *note* does not, but somebody should know.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_ext.data import image_io
from paddleseg_ext.data.workers import ordered_map
from paddleseg_ext.errors import DataError

if TYPE_CHECKING:
    from paddleseg_ext.data.datasets.base import SegmentationDataset


@dataclasses.dataclass(frozen=True)
class SampleReport:
    """What one sample looks like.

    Attributes:
        problems: errors, each with the file's name.
        notes: remarks, each with the file's name.
        size: (H, W) of the image; None if it cannot be read.
        histogram: (256,) int64, pixels per label value; None without a readable label.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    size: tuple[int, int] | None
    histogram: np.ndarray | None


@dataclasses.dataclass
class CheckReport:
    """What a whole data set looks like.

    Attributes:
        num_samples: samples looked at.
        problems: errors, each with the file's name.
        notes: remarks.
        sizes: "HxW" -> number of images.
        classes: K names.
        class_pixels: K pixel counts over all labels.
        class_images: K counts of labels that contain the class.
        ignored_pixels: pixels of `ignore_index`.
    """

    num_samples: int
    problems: list[str]
    notes: list[str]
    sizes: dict[str, int]
    classes: list[str]
    class_pixels: list[int]
    class_images: list[int]
    ignored_pixels: int

    def __bool__(self) -> bool:
        return not self.problems

    @classmethod
    def of_problem(cls, problem: str) -> CheckReport:
        """The report of a data set that cannot be opened."""
        return cls(0, [problem], [], {}, [], [], [], 0)

    def as_dict(self) -> dict[str, Any]:
        """The report as data for JSON."""
        return dataclasses.asdict(self)


def label_value_error(label: np.ndarray, num_classes: int, ignore_index: int) -> str | None:
    """What is wrong with a label's values, or None.

    Args:
        label: (H, W) integer ids.
        num_classes: K; 0..K-1 are right.
        ignore_index: right, too.
    """
    wrong = (label >= num_classes) & (label != ignore_index)
    if label.dtype.kind == "i":
        wrong |= (label < 0) & (label != ignore_index)
    if not wrong.any():
        return None
    values = np.unique(label[wrong]).tolist()
    shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    return (
        f"has values {{{shown}}} in {int(wrong.sum())} pixels; expected 0..{num_classes - 1} and ignore {ignore_index}"
    )


def check_sample(dataset: SegmentationDataset, index: int) -> SampleReport:
    """Reads one sample and says everything that is odd about it."""
    pair = dataset.pairs[index]
    problems, notes = [], []
    for path in filter(None, pair):
        try:
            image_io.verify(path)
        except DataError as e:
            problems.append(str(e))
    if problems:
        return SampleReport(tuple(problems), (), None, None)
    try:
        sample = dataset[index]
    except DataError as e:
        return SampleReport((str(e),), (), None, None)
    notes += _image_notes(pair.image)
    histogram = None
    if "label" in sample:
        histogram = np.bincount(sample["label"].ravel(), minlength=256)
        if histogram[dataset.ignore_index] == sample["label"].size:
            notes.append(f"{pair.label}: every pixel is ignored ({dataset.ignore_index}); the sample teaches nothing")
    return SampleReport((), tuple(notes), sample["meta"]["original_size"], histogram)


def _image_notes(path: str) -> list[str]:
    facts = image_io.read_facts(path)
    notes = []
    if facts.orientation != 1:
        notes.append(
            f"{path}: EXIF orientation {facts.orientation} is ignored; the pixels are used as stored, like the label's"
        )
    if facts.bit_depth == 16:
        notes.append(f"{path}: 16 bits per channel, of which the upper 8 are used")
    if facts.mode not in ("RGB", "L", "P", "1") and facts.bit_depth != 16:
        notes.append(f"{path}: mode {facts.mode} is converted to RGB (alpha dropped, CMYK without a colour profile)")
    return notes


def check_dataset(
    dataset: SegmentationDataset,
    *,
    num_workers: int = 0,
    progress: Callable[[], object] | None = None,
) -> CheckReport:
    """Reads every sample of a data set.

    Args:
        dataset: what to check.
        num_workers: processes that read; 0 reads here.
        progress: called after each sample.
    """
    report = CheckReport(len(dataset), [], list(dataset.notices), {}, list(dataset.classes), [], [], 0)
    pixels, images, sizes = np.zeros(256, np.int64), np.zeros(256, np.int64), Counter()
    for sample in ordered_map(check_sample, range(len(dataset)), state=dataset, num_workers=num_workers):
        report.problems += sample.problems
        report.notes += sample.notes
        if sample.size is not None:
            sizes["x".join(map(str, sample.size))] += 1
        if sample.histogram is not None:
            pixels += sample.histogram
            images += sample.histogram > 0
        if progress:
            progress()
    report.sizes = dict(sizes.most_common())
    report.class_pixels = pixels[: dataset.num_classes].tolist()
    report.class_images = images[: dataset.num_classes].tolist()
    report.ignored_pixels = int(pixels[dataset.ignore_index])
    labelled = any(pair.label for pair in dataset.pairs)
    absent = [name for name, count in zip(dataset.classes, report.class_pixels) if count == 0]
    if labelled and absent:
        report.notes.append(f"{len(absent)} of {dataset.num_classes} classes never occur: {', '.join(absent[:10])}")
    return report


def report_lines(name: str, report: CheckReport) -> list[str]:
    """A report as text: counts, the share of each class, notes and problems."""
    sizes = ", ".join(f"{size}: {count}" for size, count in list(report.sizes.items())[:5])
    more = f" and {len(report.sizes) - 5} more sizes" if len(report.sizes) > 5 else ""
    lines = [f"{name}: {report.num_samples} samples, {len(report.problems)} problems; height x width: {sizes}{more}"]
    total = sum(report.class_pixels) + report.ignored_pixels
    if total:
        lines.append(f"  {'class':<20} {'pixels':>8} {'images':>7}")
        for label, pixels, images in zip(report.classes, report.class_pixels, report.class_images):
            lines.append(f"  {label:<20} {100 * pixels / total:7.3f}% {images:7}")
        lines.append(f"  {'(ignored)':<20} {100 * report.ignored_pixels / total:7.3f}%")
    lines += [f"  note: {note}" for note in report.notes]
    return lines + [f"  problem: {problem}" for problem in report.problems]
