"""Batches for training and samples for evaluation, the same numbers whatever the number of workers or processes.

N batch, H W image. Order and augmentation of training follow from three numbers alone:
- epoch e visits the samples in the order of a permutation drawn from SeedSequence([seed, e]);
- sample i of epoch e is augmented with a generator from SeedSequence([seed, e, i]);
- step t of the run takes the next `world_size * batch_size` samples of the epoch, and process r the r-th
  `batch_size` of them, so that the batches of all processes, concatenated in rank order, are the batch of one
  process with `world_size` times the batch size.
So any position can be resumed without loading what lies before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from paddleseg_ext.data.datasets.base import SegmentationDataset
from paddleseg_ext.data.transforms.base import Compose, Sample, Transform
from paddleseg_ext.data.workers import ordered_map
from paddleseg_ext.errors import CheckpointError, ConfigError, DataError

Batch = dict[str, np.ndarray]
MAX_REPLACEMENTS = 20


class _Task(NamedTuple):
    epoch: int
    index: int


class _Loaded(NamedTuple):
    sample: Sample
    index: int
    skipped: tuple[tuple[int, str], ...]


class _Pipeline(NamedTuple):
    """What a worker needs to load training samples."""

    dataset: SegmentationDataset
    transforms: Compose
    seed: int
    may_skip: bool


class TrainLoader:
    """An endless iterator of training batches.

    A batch is a dict: `image` (N, 3, H, W) float32, `label` (N, H, W) int64, `index` (N,) int64, and any other array
    of the samples, stacked.

    Args:
        dataset: what to read.
        transforms: pipeline; None takes the data set's own. It must end in one size for all samples.
        batch_size: samples per process and step.
        seed: of order and augmentation.
        num_workers: processes that load; 0 loads in this one.
        rank: which process of a distributed run this is.
        world_size: number of processes.
        drop_last: what happens to the rest of an epoch that fills no batch. True (PaddleSeg, STDC-Seg) leaves it out,
            another rest in each epoch; False completes the batch from the next epoch. No batch is ever smaller.
        skip_bad: how many different samples may be unreadable before it is an error. Each is replaced by another one
            that its epoch and index determine.

    Raises:
        DataError: if the data set has fewer samples than a step takes, or no labels.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        transforms: Compose | Sequence[Transform] | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        skip_bad: int = 0,
    ) -> None:
        _check_processes(num_workers, rank, world_size)
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected 1 or more")
        total = batch_size * world_size
        if len(dataset) < (total if drop_last else 1):
            raise DataError(
                f"training set: {len(dataset)} samples but a step takes {total} ({batch_size} x {world_size} "
                "processes); expected at least one full batch; lower batch_size"
            )
        self.dataset = dataset
        self.transforms = _pipeline_of(dataset, transforms)
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.rank = rank
        self.world_size = world_size
        self.skip_bad = skip_bad
        self.skipped: dict[int, str] = {}
        self._iteration = 0
        self._epoch_length = len(dataset) // total * total if drop_last else len(dataset)
        self._samples: Iterator[_Loaded] | None = None

    @property
    def iterations_per_epoch(self) -> float:
        """Steps in which every sample is seen once, but for the rest that `drop_last` leaves out."""
        return self._epoch_length / (self.batch_size * self.world_size)

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, samples of it that all processes have had) of the next batch."""
        return divmod(self._iteration * self.batch_size * self.world_size, self._epoch_length)

    def __iter__(self) -> TrainLoader:
        return self

    def __next__(self) -> Batch:
        """The next batch of this process.

        Raises:
            DataError: if a sample cannot be used.
            TrainingError: if a worker hangs.
        """
        if self._samples is None:
            self._samples = self._start()
        try:
            loaded = [next(self._samples) for _ in range(self.batch_size)]
            for item in loaded:
                self._count_skipped(item)
            batch = _collate(loaded, self.dataset)
        except BaseException:
            self.close()
            raise
        self._iteration += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position behind the last batch returned, and what it depends on."""
        epoch, step = self.position
        return {
            "iteration": self._iteration,
            "epoch": epoch,
            "step": step // (self.batch_size * self.world_size),
            "skipped": dict(self.skipped),
            "run": self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any], *, strict: bool = True) -> None:
        """Goes to a position that `state_dict` returned.

        Args:
            state: from `state_dict`; also after a round trip through JSON.
            strict: whether another seed, batch size, number of processes or data set is an error. If not, training
                goes on after the same number of steps, in another order.

        Raises:
            CheckpointError: if the data would not be the same; lists the differences.
        """
        mine, theirs = self._identity(), state["run"]
        different = [f"{key}: {theirs.get(key)} -> {mine[key]}" for key in mine if theirs.get(key) != mine[key]]
        if different and strict:
            raise CheckpointError(
                f"data position: the checkpoint was written with other data settings ({'; '.join(different)}); "
                "expected the same, or the samples come in another order; restore them"
            )
        self.close()
        self._iteration = int(state["iteration"])
        self.skipped = {int(index): message for index, message in state.get("skipped", {}).items()}

    def close(self) -> None:
        """Ends the workers; the next batch starts new ones where this one stopped."""
        if self._samples is not None:
            self._samples.close()
            self._samples = None

    def _identity(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "num_samples": len(self.dataset),
            "total_batch_size": self.batch_size * self.world_size,
            "epoch_length": self._epoch_length,
        }

    def _start(self) -> Iterator[_Loaded]:
        state = _Pipeline(self.dataset, self.transforms, self.seed, self.skip_bad > 0)
        ahead = max(3 * self.num_workers, 2 * self.batch_size)
        return ordered_map(_load_training, self._tasks(), state=state, num_workers=self.num_workers, ahead=ahead)

    def _tasks(self) -> Iterator[_Task]:
        """The samples of this process from the current position on."""
        total = self.batch_size * self.world_size
        known_epoch, order = -1, np.empty(0, np.int64)
        iteration = self._iteration
        while True:
            start = iteration * total + self.rank * self.batch_size
            for position in range(start, start + self.batch_size):
                epoch, place = divmod(position, self._epoch_length)
                if epoch != known_epoch:
                    known_epoch, order = epoch, epoch_order(self.seed, epoch, len(self.dataset))
                yield _Task(epoch, int(order[place]))
            iteration += 1

    def _count_skipped(self, item: _Loaded) -> None:
        self.skipped.update(item.skipped)
        if len(self.skipped) > self.skip_bad:
            raise DataError(
                f"{len(self.skipped)} samples cannot be used, {self.skip_bad} may be (skip_bad); the last: "
                f"{list(self.skipped.values())[-1]}"
            )


class EvalLoader:
    """Samples for evaluation, one at a time, in order, each at its full size.

    A sample has `image` (H, W, 3) float32 as the pipeline leaves it, `label` exactly as the data set has it (geometry
    is undone on the prediction, never applied to the label), and `meta` with `restore`, the steps to undo.
    Process r of n gets samples r, r + n, r + 2n, ...: every sample exactly once, none repeated.

    Args:
        dataset: what to read.
        transforms: pipeline without randomness; None takes the data set's own.
        num_workers: processes that load; 0 loads in this one.
        rank: which process of a distributed run this is.
        world_size: number of processes.

    Raises:
        ConfigError: if the pipeline is random.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        transforms: Compose | Sequence[Transform] | None = None,
        *,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_processes(num_workers, rank, world_size)
        self.dataset = dataset
        self.transforms = _pipeline_of(dataset, transforms)
        self.num_workers = num_workers
        self.indices = range(rank, len(dataset), world_size)
        random = [type(step).__name__ for step in self.transforms.transforms if step.is_random]
        if random:
            raise ConfigError(
                f"val_dataset.transforms: {', '.join(random)} would change the images at random; expected only "
                "deterministic transforms such as Resize, Padding, Normalize; remove it"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Sample]:
        """Yields this process's samples.

        Raises:
            DataError: if a sample cannot be used; evaluation never skips one.
        """
        return ordered_map(
            _load_evaluation, self.indices, state=(self.dataset, self.transforms), num_workers=self.num_workers
        )


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """(num_samples,) int64 permutation: the order of an epoch."""
    return _generator(seed, epoch).permutation(num_samples)


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator that augments one sample in one epoch."""
    return _generator(seed, epoch, index)


def prepare_for_evaluation(sample: Sample, transforms: Compose) -> Sample:
    """A raw sample, its image transformed and its maps left alone."""
    image_only = {"image": sample["image"], "meta": sample["meta"]}
    out = transforms(image_only, np.random.default_rng(0))
    return {**sample, **out, "image": np.ascontiguousarray(out["image"], np.float32)}


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(numbers))))


def _load_training(pipeline: _Pipeline, task: _Task) -> _Loaded:
    """Reads and transforms one sample, or another one in its place."""
    index, skipped = task.index, []
    while True:
        try:
            sample = pipeline.dataset[index]
            break
        except DataError as e:
            if not pipeline.may_skip or len(skipped) == MAX_REPLACEMENTS:
                raise
            skipped.append((index, str(e)))
            index = _replacement(pipeline, task, [number for number, _ in skipped])
    sample = pipeline.transforms(sample, sample_generator(pipeline.seed, task.epoch, index))
    image = np.ascontiguousarray(sample["image"].transpose(2, 0, 1), np.float32)
    arrays = {key: value for key, value in sample.items() if isinstance(value, np.ndarray)}
    return _Loaded({**arrays, "image": image}, index, tuple(skipped))


def _replacement(pipeline: _Pipeline, task: _Task, bad: list[int]) -> int:
    """Another index, drawn from the sample's own numbers."""
    others = np.setdiff1d(np.arange(len(pipeline.dataset)), bad)
    if not len(others):
        raise DataError(f"training set: none of the {len(pipeline.dataset)} samples can be read; run check_data.py")
    return int(_generator(pipeline.seed, task.epoch, task.index, len(bad)).choice(others))


def _load_evaluation(state: tuple[SegmentationDataset, Compose], index: int) -> Sample:
    dataset, transforms = state
    return prepare_for_evaluation(dataset[index], transforms)


def _collate(loaded: list[_Loaded], dataset: SegmentationDataset) -> Batch:
    keys = loaded[0].sample.keys()
    if "label" not in keys:
        raise DataError("training set: its samples have no labels; expected mode train or val, not test")
    batch: Batch = {"index": np.array([item.index for item in loaded], np.int64)}
    for key in keys:
        arrays = [item.sample[key] for item in loaded]
        if len({array.shape for array in arrays}) > 1:
            sizes = ", ".join(f"{dataset.pairs[item.index].image} {item.sample[key].shape}" for item in loaded[:4])
            raise DataError(
                f"train_dataset.transforms: the samples of a batch differ in size ({key}: {sizes}); expected one "
                "size; add a crop such as RandomPaddingCrop, or Padding"
            )
        batch[key] = np.stack(arrays).astype(np.int64) if key == "label" else np.stack(arrays)
    return batch


def _pipeline_of(dataset: SegmentationDataset, transforms: Compose | Sequence[Transform] | None) -> Compose:
    if transforms is None:
        return dataset.transforms
    return transforms if isinstance(transforms, Compose) else Compose(transforms)


def _check_processes(num_workers: int, rank: int, world_size: int) -> None:
    if num_workers < 0:
        raise ConfigError(f"num_workers is {num_workers}; expected 0 (load in the main process) or more")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} of {world_size} processes; expected 0 <= rank < world_size")
