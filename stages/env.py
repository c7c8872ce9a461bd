"""Installed versions -> reports/env.json. Always runs, in a moment: packages are no dependency by themselves."""

import platform
from importlib.metadata import PackageNotFoundError, version

from nightshift.console.errors import UserError, run
from nightshift.core.io import write_json

PACKAGES = (
    "torch", "sam3", "peft", "numpy", "scipy", "scikit-image", "monai", "safetensors", "pillow", "matplotlib",
    "pydicom", "pycocotools",
)  # fmt: skip


def main() -> None:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            raise UserError(f"{package} is not installed; run: python -m pip install -r requirements.txt") from None
    write_json("reports/env.json", versions)


if __name__ == "__main__":
    run(main)
