"""Configurations: YAML with bases, overrides, validation before anything is built, and building.

load -> override -> validate -> build. Nothing here imports paddle, except what `import_components` imports.
"""

from paddleseg_ext.config.arguments import (
    Parser,
    add_config_arguments,
    add_flag_arguments,
    add_weights_arguments,
    load_from_arguments,
    run_main,
)
from paddleseg_ext.config.build import build_component, import_components, located
from paddleseg_ext.config.load import Config, find_config, load_config
from paddleseg_ext.config.override import apply_flag, apply_opts
from paddleseg_ext.config.schema import settings
from paddleseg_ext.config.validation import validate

__all__ = [
    "Config",
    "Parser",
    "add_config_arguments",
    "add_flag_arguments",
    "add_weights_arguments",
    "apply_flag",
    "apply_opts",
    "build_component",
    "find_config",
    "import_components",
    "load_config",
    "load_from_arguments",
    "located",
    "run_main",
    "settings",
    "validate",
]
