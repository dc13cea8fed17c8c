from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddleseg_ext.data import Cityscapes, EvalLoader, TrainLoader
from paddleseg_ext.data import transforms as T
from paddleseg_ext.errors import CheckpointError, ConfigError, DataError, TrainingError

NORMALIZE = T.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def random_pipeline() -> list[T.Transform]:
    return [
        T.ColorJitter(0.5, 0.5, 0.5),
        T.HorizontalFlip(),
        T.RandomScale((0.5, 0.75, 1.0, 1.5)),
        T.ResizeUpRandomCrop((32, 16)),
        NORMALIZE,
    ]


def make_loader(city: Path, **options: Any) -> TrainLoader:
    dataset = Cityscapes(str(city), "train", random_pipeline())
    return TrainLoader(dataset, **{"batch_size": 2, "seed": 11, **options})


def take(loader: TrainLoader, count: int) -> list[dict[str, np.ndarray]]:
    batches = list(islice(loader, count))
    loader.close()
    return batches


def same(left: list[dict[str, np.ndarray]], right: list[dict[str, np.ndarray]]) -> bool:
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a) for a, b in zip(left, right)
    )


def test_a_batch_has_the_documented_arrays(city: Path) -> None:
    batch = next(make_loader(city))
    assert {key: (array.shape, array.dtype.name) for key, array in batch.items()} == {
        "image": ((2, 3, 16, 32), "float32"),
        "label": ((2, 16, 32), "int64"),
        "index": ((2,), "int64"),
    }


def test_batch_holds_the_samples_that_index_names(city: Path) -> None:
    dataset = Cityscapes(str(city), "train", [NORMALIZE])
    batch = next(TrainLoader(dataset, batch_size=3, seed=1))
    for image, label, index in zip(batch["image"], batch["label"], batch["index"]):
        sample = dataset[int(index)]
        assert np.array_equal(label, sample["label"])
        assert np.allclose(image.transpose(1, 2, 0) * 127.5 + 127.5, sample["image"], atol=1e-4)


def test_order_follows_from_seed_and_epoch_alone(city: Path) -> None:
    batches = take(make_loader(city, seed=4), 6)  # 7 samples: 3 batches of 2 per epoch
    for epoch in (0, 1):
        order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([4, epoch]))).permutation(7)
        seen = np.concatenate([batch["index"] for batch in batches[3 * epoch : 3 * epoch + 3]])
        assert seen.tolist() == order[:6].tolist()


def test_augmentation_follows_from_seed_epoch_and_index_alone(city: Path) -> None:
    dataset = Cityscapes(str(city), "train", random_pipeline())
    batch = take(TrainLoader(dataset, batch_size=2, seed=4), 4)[3]  # the first of epoch 1
    index = int(batch["index"][1])
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([4, 1, index])))
    expected = T.Compose(random_pipeline())(dataset[index], rng)
    assert np.array_equal(batch["image"][1], expected["image"].transpose(2, 0, 1))


def test_without_drop_last_batches_run_over_the_end_of_an_epoch(city: Path) -> None:
    loader = make_loader(city, drop_last=False)
    seen = np.concatenate([batch["index"] for batch in take(loader, 7)])
    assert sorted(seen[:7].tolist()) == sorted(seen[7:].tolist()) == list(range(7))
    assert loader.iterations_per_epoch == 3.5


def test_more_than_one_seed_gives_other_batches(city: Path) -> None:
    assert not same(take(make_loader(city, seed=1), 3), take(make_loader(city, seed=2), 3))


@pytest.mark.integration
@pytest.mark.parametrize("num_workers", [2, 4])
def test_batches_do_not_depend_on_the_number_of_workers(city: Path, num_workers: int) -> None:
    expected = take(make_loader(city), 12)
    assert same(take(make_loader(city, num_workers=num_workers), 12), expected)


@pytest.mark.parametrize("drop_last", [True, False])
def test_processes_together_load_what_one_process_loads(city: Path, drop_last: bool) -> None:
    one = take(make_loader(city, batch_size=4, drop_last=drop_last), 9)
    ranks = [take(make_loader(city, batch_size=2, rank=rank, world_size=2, drop_last=drop_last), 9) for rank in (0, 1)]
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*ranks)]
    assert same(joined, one)


@pytest.mark.parametrize("step", [0, 1, 3, 8])
def test_resuming_gives_the_batches_that_would_have_come(city: Path, step: int) -> None:
    loader = make_loader(city)
    straight = list(islice(loader, 12))
    first = make_loader(city)
    list(islice(first, step))
    state = json.loads(json.dumps(first.state_dict()))
    assert (state["epoch"], state["step"]) == divmod(step, 3)
    resumed = make_loader(city)
    next(resumed)
    resumed.load_state_dict(state)
    assert same(take(resumed, 12 - step), straight[step:])


@pytest.mark.integration
def test_state_counts_batches_returned_not_prefetched(city: Path) -> None:
    loader = make_loader(city, num_workers=2)
    next(loader)
    assert loader.state_dict()["iteration"] == 1
    loader.close()
    assert same(take(loader, 2), take(make_loader(city), 3)[1:])  # closing loses nothing


def test_resuming_does_not_load_what_was_seen(city: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make_loader(city)
    state = {**loader.state_dict(), "iteration": 10_000}
    loader.load_state_dict(state)
    reads = []
    monkeypatch.setattr(Cityscapes, "__getitem__", _counting(Cityscapes.__getitem__, reads))
    next(loader)
    assert len(reads) == 2


def _counting(read, reads: list[int]):
    def counted(self, index: int):
        reads.append(index)
        return read(self, index)

    return counted


def test_resuming_with_other_data_is_refused_with_the_differences(city: Path) -> None:
    state = make_loader(city).state_dict()
    other = make_loader(city, seed=12, batch_size=3)
    with pytest.raises(CheckpointError, match=r"seed: 11 -> 12; total_batch_size: 2 -> 3"):
        other.load_state_dict(state)
    other.load_state_dict({**state, "iteration": 5}, strict=False)
    assert other.state_dict()["iteration"] == 5


@pytest.mark.integration
def test_killing_a_worker_changes_nothing_but_the_speed(city: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = make_loader(city, num_workers=2)
    batches = [next(loader)]
    victims = [child for child in multiprocessing.active_children() if child.is_alive()]
    os.kill(victims[0].pid, signal.SIGKILL)
    with caplog.at_level(logging.WARNING):
        batches += take(loader, 19)
    assert same(batches, take(make_loader(city), 20))
    assert "a data worker died" in caplog.text


def test_a_hanging_worker_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import Future

    from paddleseg_ext.data import workers

    class Pool:
        _processes = None

        def submit(self, *_: Any) -> Future:
            return Future()

        def shutdown(self, **_: Any) -> None:
            pass

    monkeypatch.setattr(workers, "_start", lambda *_: Pool())
    with pytest.raises(TrainingError, match=r"no result for item 5 within 0\.05 s"):
        next(workers.ordered_map(str, [5], num_workers=1, timeout_seconds=0.05))


def test_a_system_that_cannot_have_workers_loads_in_the_main_process(
    city: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from paddleseg_ext.data import workers

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("[Errno 38] Function not implemented: sem_open")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", refuse)
    with caplog.at_level(logging.WARNING):
        batches = take(make_loader(city, num_workers=2), 3)
    assert same(batches, take(make_loader(city), 3))
    assert "num_workers=2: this system cannot start workers" in caplog.text


def test_what_cannot_be_sent_to_workers_is_said(city: Path) -> None:
    class Local(T.Transform):
        def apply(self, sample: Any, draws: Any) -> Any:
            return sample

    loader = TrainLoader(Cityscapes(str(city), "train"), [Local()], batch_size=2, num_workers=1)
    with pytest.raises(TrainingError, match=r"num_workers=1: .* cannot be sent .*set num_workers to 0"):
        next(loader)


@pytest.fixture
def damaged(city: Path, tmp_path: Path) -> Path:
    """A copy of the city whose training images 1 and 4 are truncated."""
    root = tmp_path / "cityscapes"
    shutil.copytree(city, root)
    for index in (1, 4):
        path = Path(Cityscapes(str(root), "train").pairs[index].image)
        path.write_bytes(path.read_bytes()[:100])
    return root


def test_a_damaged_file_stops_training_and_is_named(damaged: Path) -> None:
    with pytest.raises(DataError, match=r"leftImg8bit\.png: damaged image"):
        take(make_loader(damaged), 3)


def test_damaged_files_can_be_skipped_up_to_a_number(damaged: Path) -> None:
    loader = make_loader(damaged, skip_bad=2, drop_last=False)
    seen = np.concatenate([batch["index"] for batch in islice(loader, 7)])
    assert not {1, 4} & set(seen.tolist())
    assert set(loader.skipped) == {1, 4}
    with pytest.raises(DataError, match=r"2 samples cannot be used, 1 may be \(skip_bad\); the last: .*damaged"):
        take(make_loader(damaged, skip_bad=1, drop_last=False), 7)


@pytest.mark.integration
def test_replacements_do_not_depend_on_workers(damaged: Path) -> None:
    expected = take(make_loader(damaged, skip_bad=2), 6)
    assert same(take(make_loader(damaged, skip_bad=2, num_workers=2), 6), expected)


def test_wrong_label_values_are_found_in_the_first_epoch(city: Path, tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    shutil.copytree(city, root)
    pair = Cityscapes(str(root), "train").pairs[3]
    shutil.copy(pair.label.replace("labelTrainIds", "labelIds"), pair.label)
    with pytest.raises(DataError, match=r"labelTrainIds\.png: has values .*expected 0\.\.18 and ignore 255"):
        take(make_loader(root, drop_last=False), 4)


def test_samples_of_different_size_name_files_and_remedy(city: Path) -> None:
    dataset = Cityscapes(str(city), "train", [T.RandomScale((0.5, 1.0)), NORMALIZE])
    with pytest.raises(DataError, match=r"differ in size .*add a crop such as RandomPaddingCrop"):
        take(TrainLoader(dataset, batch_size=7), 1)


def test_too_few_samples_for_a_batch_are_an_error(city: Path) -> None:
    with pytest.raises(DataError, match=r"7 samples but a step takes 8 \(4 x 2 processes\)"):
        make_loader(city, batch_size=4, world_size=2)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"num_workers": -1}, {"rank": 2, "world_size": 2}])
def test_impossible_settings_are_config_errors(city: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        make_loader(city, **options)


def test_evaluation_yields_every_sample_once_over_all_processes(city: Path) -> None:
    dataset = Cityscapes(str(city), "train", [NORMALIZE])
    parts = [[sample["meta"]["index"] for sample in EvalLoader(dataset, rank=rank, world_size=3)] for rank in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    assert [len(EvalLoader(dataset, rank=rank, world_size=3)) for rank in range(3)] == [3, 2, 2]


def test_evaluation_keeps_the_label_and_records_how_to_undo_geometry(city: Path) -> None:
    dataset = Cityscapes(str(city), "val", [T.Resize((100, 50)), T.Padding((128, 64)), NORMALIZE])
    sample = next(iter(EvalLoader(dataset)))
    assert sample["image"].shape == (64, 128, 3)
    assert np.array_equal(sample["label"], dataset[0]["label"])
    assert sample["meta"]["restore"] == [{"op": "resize", "size": [32, 64]}, {"op": "padding", "size": [50, 100]}]
    assert sample["meta"]["original_size"] == (32, 64)


@pytest.mark.integration
def test_evaluation_does_not_depend_on_workers(city: Path) -> None:
    dataset = Cityscapes(str(city), "val", [NORMALIZE])
    alone, helped = list(EvalLoader(dataset)), list(EvalLoader(dataset, num_workers=2))
    assert [sample["meta"] for sample in alone] == [sample["meta"] for sample in helped]
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(alone, helped))


def test_random_transforms_are_refused_in_evaluation(city: Path) -> None:
    with pytest.raises(ConfigError, match=r"ColorJitter, HorizontalFlip, RandomScale, ResizeUpRandomCrop would change"):
        EvalLoader(Cityscapes(str(city), "val", random_pipeline()))
