from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddleseg_ext.data import Cityscapes, Dataset, archive
from paddleseg_ext.data.archive import extract_zip
from paddleseg_ext.data.image_io import read_label, write_png
from paddleseg_ext.data.prepare import _WANTED, prepare_cityscapes, train_ids_of, write_lists
from paddleseg_ext.errors import ConfigError, DataError


def zip_folder(folder: Path, kind: str, archive: Path) -> Path:
    """An archive of one kind as Cityscapes publishes it, without training ids."""
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("README", "about")
        target.writestr("license.txt", "terms")
        for path in sorted((folder / kind).rglob("*.png")):
            if "TrainIds" not in path.name:
                target.write(path, path.relative_to(folder).as_posix())
    return archive


@pytest.fixture
def archives(city: Path, tmp_path: Path) -> list[Path]:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return [zip_folder(city, kind, folder / f"{kind}_trainvaltest.zip") for kind in ("leftImg8bit", "gtFine")]


def test_from_archives_to_training(city: Path, archives: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    report = prepare_cityscapes(root, archives)
    assert report
    assert (report.images, report.labels) == ({"train": 7, "val": 3, "test": 1}, {"train": 7, "val": 3, "test": 0})
    assert report.converted == 10
    assert not (root / "README").exists()
    mine, original = Cityscapes(str(root)), Cityscapes(str(city))
    for i in range(7):
        assert np.array_equal(mine[i]["label"], original[i]["label"])
        assert np.array_equal(mine[i]["image"], original[i]["image"])


def test_a_second_run_does_nothing_again(archives: list[Path], tmp_path: Path) -> None:
    prepare_cityscapes(tmp_path / "c", archives)
    again = prepare_cityscapes(tmp_path / "c", [archives[0].parent])  # a folder with archives
    assert (again.placed, again.kept, again.converted) == (0, 31, 0)


def test_an_interrupted_run_continues(archives: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "c"
    prepare_cityscapes(root, archives)
    image = next((root / "leftImg8bit/train").rglob("*.png"))
    image.write_bytes(image.read_bytes()[:50])  # as if it had been written in place
    next((root / "gtFine/val").rglob("*labelTrainIds.png")).unlink()
    again = prepare_cityscapes(root, archives)
    assert (again.placed, again.converted) == (1, 1)
    assert Cityscapes(str(root))[0]["image"].shape == (32, 64, 3)


def test_folders_are_taken_as_they_are(city: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(city, source)
    for path in source.rglob("*labelTrainIds.png"):
        path.unlink()
    assert prepare_cityscapes(tmp_path / "c", [source])
    assert not list(source.rglob("*labelTrainIds.png"))  # the source stays as it was
    assert prepare_cityscapes(source)  # in place
    assert len(Cityscapes(str(source))) == 7


def test_missing_labels_are_reported(archives: list[Path], tmp_path: Path) -> None:
    report = prepare_cityscapes(tmp_path / "c", archives[:1])
    assert not report
    assert report.problems[0].startswith("train: 7 of 7 images have no label")


def test_lists_have_the_published_form_and_any_separator(city: Path, tmp_path: Path) -> None:
    root = tmp_path / "c"
    shutil.copytree(city, root)
    for separator in (",", " ", "|"):
        write_lists(root, separator=separator)
        first = (root / "train.txt").read_text().splitlines()[0]
        stem = "train/democity/democity_000000_000019"
        assert first == f"leftImg8bit/{stem}_leftImg8bit.png{separator}gtFine/{stem}_gtFine_labelTrainIds.png"
        dataset = Dataset(str(root), 19, "val", val_path=str(root / "val.txt"), separator=separator)
        assert len(dataset) == 3
    assert "gtFine" not in (root / "test.txt").read_text()
    with pytest.raises(ConfigError, match="separator '_'"):
        write_lists(root, separator="_")


def test_training_ids_by_the_published_table() -> None:
    ids = np.array([[0, 1, 7, 8, 11, 26, 29, 31, 33]], np.uint8)
    assert train_ids_of(ids, "x").tolist() == [[255, 255, 0, 1, 2, 13, 255, 16, 18]]


def test_unknown_label_ids_name_the_file(city: Path, tmp_path: Path) -> None:
    root = tmp_path / "c"
    shutil.copytree(city, root)
    path = next((root / "gtFine/val").rglob("*labelIds.png"))
    write_png(path, np.full((32, 64), 34, np.uint8))
    with pytest.raises(DataError, match=rf"{path.name}: has label ids \[34\] in 2048 pixels; expected 0\.\.33"):
        prepare_cityscapes(root, force=True)


def test_force_makes_training_ids_again(city: Path, tmp_path: Path) -> None:
    root = tmp_path / "c"
    shutil.copytree(city, root)
    path = next((root / "gtFine/val").rglob("*labelTrainIds.png"))
    expected = read_label(path)
    write_png(path, np.zeros_like(expected))
    prepare_cityscapes(root)
    assert not np.array_equal(read_label(path), expected)
    prepare_cityscapes(root, force=True)
    assert np.array_equal(read_label(path), expected)


def test_sources_that_are_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, message in ((tmp_path / "empty", "holds no"), (tmp_path / "none.zip", "no such file or folder")):
        with pytest.raises(DataError, match=message):
            prepare_cityscapes(tmp_path / "c", [source])
    with pytest.raises(DataError, match="neither leftImg8bit nor gtFine"):
        prepare_cityscapes(tmp_path / "c")


def hostile_zip(path: Path, name: str, *, mode: int = 0, data: bytes = b"x", good_first: bool = True) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        if good_first:
            target.writestr("leftImg8bit/train/a/a_leftImg8bit.png", b"good")
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        member.compress_type = zipfile.ZIP_DEFLATED
        target.writestr(member, data)
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("../evil.png", 0),
        ("leftImg8bit/../../evil.png", 0),
        ("/tmp/evil.png", 0),
        ("C:/evil.png", 0),
        ("leftImg8bit\\..\\..\\evil.png", 0),
        ("leftImg8bit/train/a/link.png", stat.S_IFLNK | 0o777),
        ("leftImg8bit/train/a/device.png", stat.S_IFCHR | 0o666),
        ("leftImg8bit/train/a/pipe.png", stat.S_IFIFO | 0o666),
    ],
)
def test_hostile_archives_are_refused_before_anything_is_written(tmp_path: Path, name: str, mode: int) -> None:
    archive = hostile_zip(tmp_path / "evil.zip", name, mode=mode)
    with pytest.raises(DataError, match=r"evil\.zip: member .*nothing was extracted"):
        extract_zip(archive, tmp_path / "target", wanted=_WANTED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.zip"]


def test_archive_bombs_are_refused(tmp_path: Path) -> None:
    archive = hostile_zip(tmp_path / "bomb.zip", "leftImg8bit/train/a/b.png", data=bytes(20 * 2**20))
    with pytest.raises(DataError, match="unpacks to 20971520 bytes from"):
        extract_zip(archive, tmp_path / "target", wanted=_WANTED)


def test_archives_of_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert archive.MAX_MEMBERS < 1_000_000
    monkeypatch.setattr(archive, "MAX_MEMBERS", 1)
    with pytest.raises(DataError, match="2 members; expected at most 1"):
        extract_zip(hostile_zip(tmp_path / "many.zip", "a.png"), tmp_path / "target", wanted=_WANTED)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", ""])
def test_tar_archives_are_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"leftImg8bit.tar{'.' if kind else ''}{kind}"
    with tarfile.open(path, f"w:{kind}") as target:
        for name, link in (("../evil.png", tarfile.REGTYPE), ("leftImg8bit/link.png", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = link, "/etc/passwd"
            target.addfile(member)
    with pytest.raises(DataError, match="damaged or unsupported archive"):
        prepare_cityscapes(tmp_path / "c", [path])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_damaged_archives_leave_no_partial_file(archives: list[Path], tmp_path: Path) -> None:
    data = bytearray(archives[0].read_bytes())
    with zipfile.ZipFile(archives[0]) as source:
        member = source.infolist()[4]
    data[member.header_offset + 30 + len(member.filename) + 40] ^= 0xFF
    archives[0].write_bytes(data)
    with pytest.raises(DataError, match="damaged or unsupported archive"):
        extract_zip(archives[0], tmp_path / "target", wanted=_WANTED)
    for path in (tmp_path / "target").rglob("*.*"):
        with Image.open(path) as image:
            image.load()


def test_an_archive_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<html>please log in</html>")
    with pytest.raises(DataError, match=r"a\.zip: damaged or unsupported archive"):
        extract_zip(tmp_path / "a.zip", tmp_path / "target", wanted=_WANTED)


def test_too_little_room_is_said_before_extracting(
    archives: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(DataError, match="but 10 are free"):
        extract_zip(archives[0], tmp_path / "target", wanted=_WANTED)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_root_is_an_error_with_its_name(archives: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "c"
    root.mkdir(mode=0o555)
    with pytest.raises(DataError, match="Permission denied"):
        prepare_cityscapes(root, archives)
