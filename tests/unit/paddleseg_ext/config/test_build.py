from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

import pytest

from paddleseg_ext import registry
from paddleseg_ext.config import Config, apply_opts, build_component, import_components, load_config, located
from paddleseg_ext.config.build import COMPONENT_MODULES
from paddleseg_ext.errors import ConfigError, DataError


def test_a_component_is_built_after_what_it_contains(main_file, components) -> None:
    model = build_component(load_config("main.yml"), "model")
    assert [name for name, _ in components] == ["Stem", "Net"]
    assert model.arguments["backbone"].arguments == {"pretrained": None, "width": 1.0}
    assert model.arguments["num_classes"] == 19


def test_a_list_of_components_is_built_in_order(main_file, components) -> None:
    transforms = build_component(load_config("main.yml"), "train_dataset.transforms")
    assert [type(item).__name__ for item in transforms] == ["Scale", "Crop", "Maybe"]
    assert [type(item).__name__ for item in transforms[2].arguments["transforms"]] == ["Crop"]


def test_lists_and_numbers_become_what_the_annotation_says(main_file) -> None:
    crop = build_component(load_config("main.yml"), "train_dataset.transforms")[1]
    assert repr(crop.arguments["size"]) == "(512, 1024)"
    assert repr(crop.arguments["fill"]) == "(0.0, 0.0, 0.0)"


def test_a_dataset_is_built_without_transforms_that_it_does_not_take(main_file, components) -> None:
    dataset = build_component(load_config("main.yml"), "train_dataset")
    assert dataset.arguments == {"dataset_root": "data/city", "mode": "train"}
    assert [name for name, _ in components] == ["Pictures"]


def test_a_dataset_is_built_with_transforms_that_it_takes(main_file, monkeypatch) -> None:
    class Pictures:
        def __init__(self, dataset_root: str, transforms: list[Any], mode: str) -> None:
            self.transforms = transforms

    monkeypatch.setitem(registry.DATASETS._entries, "Pictures", Pictures)
    dataset = build_component(load_config("main.yml"), "train_dataset")
    assert [type(item).__name__ for item in dataset.transforms] == ["Scale", "Crop", "Maybe"]


def test_a_loss_is_built_without_the_keys_that_bind_it(main_file) -> None:
    losses = build_component(load_config("main.yml"), "losses")
    assert [loss.arguments for loss in losses] == [{"class_weight": None, "ignore_index": 255}] * 2


def test_extra_arguments_are_added(main_file, components) -> None:
    build_component(load_config("main.yml"), "lr_scheduler", extra={"iters": 80000})
    assert components == [("PolynomialDecay", {"learning_rate": 0.01, "iters": 80000, "power": 0.9})]


def test_an_error_of_a_constructor_has_file_and_line_and_its_cause(main_file, monkeypatch) -> None:
    def Stem(pretrained: str | None) -> None:  # noqa: N802
        raise ValueError("width is odd")

    monkeypatch.setitem(registry.BACKBONES._entries, "Stem", Stem)
    with pytest.raises(ConfigError) as caught:
        build_component(load_config("main.yml"), "model")
    assert str(caught.value) == "main.yml:8: model.backbone: Stem cannot be built: ValueError: width is odd"
    assert isinstance(caught.value.__cause__, ValueError)
    assert "raise ValueError" in "".join(traceback.format_exception(None, caught.value, caught.value.__traceback__))


def test_an_error_of_this_package_keeps_its_class_and_gets_file_and_line(main_file, monkeypatch) -> None:
    def Pictures(dataset_root: str, mode: str) -> None:  # noqa: N802
        raise DataError(f"{dataset_root}: no images")

    monkeypatch.setitem(registry.DATASETS._entries, "Pictures", Pictures)
    with pytest.raises(DataError, match=r"^main\.yml:11: train_dataset: data/city: no images$"):
        build_component(load_config("main.yml"), "train_dataset")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "main.yml:1: nothing: missing; expected a component"),
        ("model.neck", "main.yml:4: model.neck: missing; expected a component"),
        ("runtime", "main.yml:49: runtime: no component is expected here"),
        ("train_dataset.transforms.0.factors", "no component is expected here"),
    ],
)
def test_a_path_without_component_is_refused(main_file, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_component(load_config("main.yml"), path)
    assert message in str(caught.value)


def test_what_was_not_validated_is_refused_with_file_and_line(main_file) -> None:
    config = load_config("main.yml")
    for opts, message in [
        (["model.type=Nte"], "--opts model.type=Nte: model: unknown model 'Nte'. Did you mean 'Net'?"),
        (["model=[3]"], "--opts model=[3]: model.0: expected {type: ..., ...}, got 3"),
        (["model.sise=3"], "main.yml:4: model: Net cannot be built: TypeError: "),
    ]:
        with pytest.raises(ConfigError) as caught:
            build_component(apply_opts(config, opts), "model")
        assert str(caught.value).startswith(message)


def test_errors_of_a_block_get_the_place_of_a_section(main_file) -> None:
    config = load_config("main.yml")
    with pytest.raises(ConfigError, match=r"^main\.yml:28: optimizer: ValueError: bad$"):
        with located(config, "optimizer"):
            raise ValueError("bad")
    with located(config, "optimizer"):
        pass


def test_a_registry_can_be_given(write_file) -> None:
    config = Config.from_dict({"anything": {"type": "Crop", "size": [1, 2]}})
    assert build_component(config, "anything", registry=registry.TRANSFORMS).arguments["size"] == (1, 2)


def test_components_are_those_of_the_five_packages(monkeypatch) -> None:
    imported = []
    monkeypatch.setattr(importlib, "import_module", imported.append)
    import_components()
    assert imported == list(COMPONENT_MODULES)
    assert COMPONENT_MODULES == (
        "paddleseg_ext.data.datasets",
        "paddleseg_ext.data.transforms",
        "paddleseg_ext.models",
        "paddleseg_ext.losses",
        "paddleseg_ext.optim",
    )


def test_importing_drops_paddles_notice_on_threads_and_keeps_the_rest(monkeypatch, capsys) -> None:
    def imported(name: str) -> None:
        print(f"WARNING: OMP_NUM_THREADS set to 2, not 1.\n{name}: something else", file=sys.stderr)

    monkeypatch.setattr(importlib, "import_module", imported)
    import_components()
    assert capsys.readouterr().err.splitlines() == [f"{name}: something else" for name in COMPONENT_MODULES]


def test_what_was_printed_before_an_import_failed_is_kept(monkeypatch, capsys) -> None:
    def imported(name: str) -> None:
        print("about to fail", file=sys.stderr)
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", imported)
    with pytest.raises(ImportError):
        import_components()
    assert capsys.readouterr().err == "about to fail\n"
