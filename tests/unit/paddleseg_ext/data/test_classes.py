from __future__ import annotations

import numpy as np

from paddleseg_ext.data import classes


def test_cityscapes_training_ids_are_the_published_ones() -> None:
    published = {
        7: 0,
        8: 1,
        11: 2,
        12: 3,
        13: 4,
        17: 5,
        19: 6,
        20: 7,
        21: 8,
        22: 9,
        23: 10,
        24: 11,
        25: 12,
        26: 13,
        27: 14,
        28: 15,
        31: 16,
        32: 17,
        33: 18,
    }
    table = classes.cityscapes_train_ids()
    assert {i: int(table[i]) for i in range(34) if table[i] != 255} == published
    assert (table[34:] == -1).all()


def test_label_ids_undo_training_ids() -> None:
    there, back = classes.cityscapes_train_ids(), classes.cityscapes_label_ids()
    assert [int(there[back[train_id]]) for train_id in range(19)] == list(range(19))
    assert back[255] == 0


def test_names_and_colours_have_one_entry_per_class() -> None:
    for names, palette, count in (
        (classes.CITYSCAPES_CLASSES, classes.CITYSCAPES_PALETTE, 19),
        (classes.ADE20K_CLASSES, classes.ADE20K_PALETTE, 150),
        (classes.VOC_CLASSES, classes.VOC_PALETTE, 21),
    ):
        assert len(set(names)) == count
        assert palette.shape == (count, 3)
        assert palette.dtype == np.uint8


def test_some_published_colours() -> None:
    assert classes.CITYSCAPES_PALETTE[[0, 13, 18]].tolist() == [[128, 64, 128], [0, 0, 142], [119, 11, 32]]
    assert classes.ADE20K_PALETTE[[0, 2, 149]].tolist() == [[120, 120, 120], [6, 230, 230], [92, 0, 255]]
    assert classes.VOC_PALETTE[[0, 1, 15, 20]].tolist() == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [0, 64, 128]]


def test_voc_border_colour_is_class_255() -> None:
    assert classes.voc_palette(256)[255].tolist() == [224, 224, 192]
