from __future__ import annotations

import pytest
import yaml

from paddleseg_ext.config import Config, find_config, load, load_config
from paddleseg_ext.errors import ConfigError


def test_a_file_without_bases(write_file) -> None:
    write_file("a.yml", "x: {y: [1, {z: two}]}\n")
    assert load_config("a.yml").data == {"x": {"y": [1, {"z": "two"}]}}


def test_mappings_merge_and_lists_and_scalars_are_replaced(write_file) -> None:
    write_file("base.yml", "a: {b: 1, c: {d: 2, e: 3}}\nlist: [1, 2, 3]\nkept: 4\n")
    write_file("a.yml", "_base_: base.yml\na: {c: {d: 20}}\nlist: [9]\n")
    assert load_config("a.yml").data == {"a": {"b": 1, "c": {"d": 20, "e": 3}}, "list": [9], "kept": 4}


def test_of_several_bases_the_first_wins(write_file) -> None:
    # PaddleSeg@d7975e7 paddleseg/cvlibs/config.py merges each next base under what it has
    write_file("one.yml", "a: {x: 1, y: 1}\n")
    write_file("two.yml", "a: {x: 2, y: 2, z: 2}\n")
    write_file("a.yml", "_base_: [one.yml, two.yml]\na: {x: 0}\n")
    assert load_config("a.yml").data == {"a": {"x": 0, "y": 1, "z": 2}}


def test_bases_are_relative_to_the_file_that_names_them(write_file) -> None:
    write_file("deep/bases/one.yml", "_base_: ../two.yml\na: 1\n")
    write_file("deep/two.yml", "b: 2\n")
    write_file("main.yml", "_base_: deep/bases/one.yml\n")
    assert load_config("main.yml").data == {"b": 2, "a": 1}


@pytest.mark.parametrize("marker", ["_inherited_: false", "_delete_: true"])
def test_a_marker_drops_what_every_base_has_at_its_level(write_file, marker: str) -> None:
    write_file("one.yml", "a: {b: {x: 1}, c: 1}\n")
    write_file("two.yml", "a: {b: {y: 2}}\n")
    write_file("a.yml", f"_base_: [one.yml, two.yml]\na: {{b: {{{marker}, z: 3}}}}\n")
    assert load_config("a.yml").data == {"a": {"b": {"z": 3}, "c": 1}}


@pytest.mark.parametrize("marker", ["_inherited_: true", "_delete_: false"])
def test_a_marker_of_the_other_value_changes_nothing(write_file, marker: str) -> None:
    write_file("one.yml", "a: {x: 1}\n")
    write_file("a.yml", f"_base_: one.yml\na: {{{marker}, z: 3}}\n")
    assert load_config("a.yml").data == {"a": {"x": 1, "z": 3}}


def test_a_marker_is_a_boolean(write_file) -> None:
    write_file("a.yml", "b: 1\na: {_inherited_: no, z: 3}\n")
    with pytest.raises(ConfigError, match=r"^a\.yml:2: _inherited_: expected true or false, got 'no'"):
        load_config("a.yml")


def test_every_value_knows_its_file_and_line(main_file) -> None:
    config = load_config("main.yml")
    assert config.where("iters") == "base/schedule.yml:1"
    assert config.where("optimizer.momentum") == "base/schedule.yml:4"
    assert config.where("optimizer.weight_decay") == "main.yml:29"
    assert config.where("train_dataset.transforms.0.factors") == "main.yml:17"
    assert config.where("train_dataset.transforms.1.size.1") == "main.yml:18"
    assert config.where("train_dataset.transforms.2.transforms.0.type") == "main.yml:22"
    assert config.where("model.no_such_key") == config.where("model")


def test_values_are_reached_by_path(main_file) -> None:
    config = load_config("main.yml")
    assert config.get("losses.1.output") == ["aux16", "aux32"]
    assert config.get("losses.7.output", "none") == "none"
    assert config.get("model.backbone.type.x") is None


def test_a_missing_base_names_the_line_and_the_closest_file(write_file) -> None:
    write_file("base/cityscapes.yml", "a: 1\n")
    write_file("a.yml", "b: 1\n_base_: base/cityscape.yml\n")
    with pytest.raises(
        ConfigError, match=r"^a\.yml:2: _base_: there is no file base/cityscape\.yml\. Did you mean"
    ) as e:
        load_config("a.yml")
    assert "'base/cityscapes.yml'" in str(e.value)


@pytest.mark.parametrize("base", ["a.yml", "b.yml", "c.yml"])
def test_a_circle_of_bases_is_refused(write_file, base: str) -> None:
    write_file("a.yml", f"_base_: {base}\n")
    write_file("b.yml", "_base_: a.yml\n")
    write_file("c.yml", "x: 1\n_base_: [b.yml]\n")
    with pytest.raises(ConfigError, match=r"\.yml:\d: _base_: the file is its own base: a\.yml -> "):
        load_config("a.yml")


def test_the_same_base_on_two_ways_is_no_circle(write_file) -> None:
    write_file("root.yml", "x: 1\n")
    write_file("b.yml", "_base_: root.yml\n")
    write_file("c.yml", "_base_: root.yml\n")
    write_file("a.yml", "_base_: [b.yml, c.yml]\n")
    assert load_config("a.yml").data == {"x": 1}


def test_five_bases_deep_is_allowed_and_six_is_not(write_file) -> None:
    write_file("f0.yml", "x: 1\n")
    for i in range(1, 7):
        write_file(f"f{i}.yml", f"_base_: f{i - 1}.yml\n")
    assert load_config("f5.yml").data == {"x": 1}
    with pytest.raises(ConfigError, match=r"^f1\.yml:1: _base_: bases of bases more than 5 deep"):
        load_config("f6.yml")


@pytest.mark.parametrize("base", ["3", "{a: 1}", "[a.yml, 3]"])
def test_a_base_is_a_file_or_a_list_of_files(write_file, base: str) -> None:
    write_file("a.yml", "x: 1\n")
    write_file("b.yml", f"x: 1\n_base_: {base}\n")
    with pytest.raises(ConfigError, match=r"^b\.yml:2: _base_: expected a file or a list of files, got"):
        load_config("b.yml")


def test_bytes_that_are_not_utf8_are_refused_with_their_line(write_file) -> None:
    write_file("a.yml", "x: 1\ny: é\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"^a\.yml:2: byte 0xe9 is not UTF-8; save the file as UTF-8"):
        load_config("a.yml")


def test_a_byte_order_mark_is_skipped(write_file) -> None:
    write_file("a.yml", b"\xef\xbb\xbfx: 1\n")
    assert load_config("a.yml").data == {"x": 1}


def test_a_folder_and_a_huge_file_are_refused(write_file) -> None:
    write_file("configs/a.yml", "x: " + "1" * load.MAX_FILE_BYTES)
    with pytest.raises(ConfigError, match=r"^configs: this is a folder"):
        load_config("configs")
    with pytest.raises(ConfigError, match=r"larger than"):
        load_config("configs/a.yml")


@pytest.mark.parametrize("name", ["", "no\0pe.yml", "x" * 5000 + ".yml"])
def test_a_name_that_no_file_can_have_is_refused(folder, name: str) -> None:
    with pytest.raises(ConfigError):
        load_config(name)


def test_a_multiplication_sign_in_a_name_stands_for_x(write_file) -> None:
    write_file("net_1024x512.yml", "x: 1\n")
    assert load_config("net_1024\u00d7512.yml").data == {"x": 1}
    write_file("child.yml", "_base_: net_1024\u00d7512.yml\n")
    assert load_config("child.yml").data == {"x": 1}


def test_a_name_in_another_case_is_suggested(write_file) -> None:
    write_file("stdc/stdc1_Seg.yml", "x: 1\n")
    with pytest.raises(ConfigError, match=r"there is no such file\. Did you mean 'stdc/stdc1_Seg\.yml'\?"):
        load_config("stdc/STDC1_seg.yml")


def test_configurations_beside_the_package_are_found_from_anywhere(write_file, folder, monkeypatch) -> None:
    write_file("repository/configs/net/net_80k.yml", "x: 1\n")
    monkeypatch.setattr(load, "config_root", lambda: folder / "repository/configs")
    expected = folder / "repository/configs/net/net_80k.yml"
    assert find_config("configs/net/net_80k.yml") == expected
    assert find_config("net/net_80k.yml") == expected
    with pytest.raises(ConfigError, match=r"Did you mean 'configs/net/net_80k\.yml'"):
        find_config("configs/Net/net_80K.yml")


def test_the_working_directory_comes_first(write_file, folder, monkeypatch) -> None:
    write_file("repository/configs/a.yml", "x: 1\n")
    write_file("configs/a.yml", "x: 2\n")
    monkeypatch.setattr(load, "config_root", lambda: folder / "repository/configs")
    assert load_config("configs/a.yml").data == {"x": 2}


def test_configurations_installed_in_the_package_win_over_a_folder_beside_it(write_file, folder, monkeypatch) -> None:
    write_file("site/paddleseg_ext/config/load.py", "")
    write_file("site/configs/a.yml", "x: 1\n")
    monkeypatch.setattr(load, "__file__", str(folder / "site/paddleseg_ext/config/load.py"))
    assert load.config_root() == folder / "site/configs"
    write_file("site/paddleseg_ext/configs/a.yml", "x: 2\n")
    assert load.config_root() == folder / "site/paddleseg_ext/configs"


def test_yaml_output_is_the_same_configuration(main_file, write_file) -> None:
    config = load_config("main.yml")
    assert yaml.safe_load(config.to_yaml()) == config.data
    write_file("again.yml", config.to_yaml())
    assert load_config("again.yml").data == config.data


def test_yaml_output_with_origins_is_the_same_configuration(main_file) -> None:
    config = load_config("main.yml")
    text = config.to_yaml(where=True)
    assert yaml.safe_load(text) == config.data
    momentum = next(line for line in text.splitlines() if "momentum:" in line)
    assert momentum.split("#") == [momentum.split("#")[0], " base/schedule.yml:4"]


def test_lists_of_lists_and_empty_values_survive_yaml_output() -> None:
    data = {"a": [[{"b": 1}, [2, 3]], [], {}, [[]]], "c": {}, "d": {"e": {}}}
    assert yaml.safe_load(Config.from_dict(data).to_yaml()) == data


def test_data_of_two_configurations_are_not_shared(write_file) -> None:
    write_file("a.yml", "x: {y: [1]}\n")
    first = load_config("a.yml")
    first.data["x"]["y"].append(2)
    assert first.get("x.y") == [1]
