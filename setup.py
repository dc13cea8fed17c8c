"""Packages `paddleseg_ext` (with its configs and tools) and `parity` (with its recordings)."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(name: str) -> list:
    """Requirements of a file."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


FOLDERS = {"paddleseg_ext.configs": "configs", "paddleseg_ext.tools": "tools", "paddleseg_ext.tools.data": "tools/data"}

setup(
    name="paddleseg-ext",
    version="0.1.0",
    description="Segmentation models in PaddlePaddle, each proven equal to its PyTorch original",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9",
    packages=[*find_packages(include=["paddleseg_ext*", "parity*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={
        "paddleseg_ext": ["py.typed"],
        "paddleseg_ext.configs": ["**/*.yml", "**/*.md"],
        "parity": ["py.typed", "zoo.yml"],
        "parity.upstream": ["*.json", "*.npz"],
        "parity.probes": ["*.json"],
    },
    install_requires=requirements("base"),
    extras_require={
        "cpu": requirements("cpu"),
        "parity": requirements("parity"),
        "export": requirements("export"),
        "data": requirements("data"),
        "dev": requirements("dev"),
    },
    entry_points={"console_scripts": ["paddle-parity=parity.cli:main"]},
)
