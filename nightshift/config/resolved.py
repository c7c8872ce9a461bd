"""What each stage reads: its settings, resolved, and the versions of the packages that it runs on, one file each.

    reports/settings/{synthesize,inventory,prepare,probe,compare}.json
    reports/settings/arms/ARM/{probe,encode,train,evaluate}.json

The stage `env` writes all of them at every `dvc repro`, and a stage of DVC depends on its own file. So it reruns when
something that it reads has another value, wherever that comes from (params.yaml, -S, a preset, a default in the code,
another version of torch), and not when something changes that it ignores. Stages read nothing else of params.yaml.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from nightshift.config.explain import explain
from nightshift.config.params import Settings
from nightshift.config.presets import Simulated
from nightshift.console.errors import UserError
from nightshift.core.io import read_json, replacing, write_json

FOLDER = Path("reports/settings")
DATA = ("numpy", "pillow", "scikit-image", "scipy", "pydicom", "pycocotools")
ENCODER = ("torch", "sam3")
MEASURES = ("scikit-image", "monai")
KINDS: dict[str, tuple[str, ...]] = {"frozen": (), "lora": ("peft",)}  # what a kind needs beside the encoder
ALL = ("torch", "sam3", "peft", "numpy", "scipy", "scikit-image", "monai", "safetensors", "pillow", "matplotlib",
       "pandas", "pydicom", "pycocotools")  # fmt: skip


def write_all(settings: Settings) -> None:
    """Every file of FOLDER, as a whole: those of an arm that was taken out go. Raises UserError as `versions` does."""
    with replacing(FOLDER) as folder:
        for name, content in contents(settings).items():
            write_json(folder / f"{name}.json", content)


def contents(settings: Settings) -> dict[str, dict[str, Any]]:
    """By name of the file: `settings` as its stage reads them, and `versions`. Raises UserError as `versions` does."""
    data = settings.data
    simulated = data.source.model_dump() if isinstance(data.source, Simulated) else None
    inventory = data.model_dump(include={"name", "source"}) | {"weights": settings.encoder.weights}
    found = {
        "synthesize": _file({"name": data.name, "simulated": simulated}, "numpy", "scipy"),
        "inventory": _file(inventory),
        "prepare": _file(data.model_dump(), *DATA),
        "probe": _file(settings.probe.model_dump(), *ENCODER, "peft"),
        "compare": _file(settings.model_dump()),
    }
    for name in settings.arms:
        arm = settings.arm(name)
        encoder = arm.model_dump(include={"encoder", "preset"})
        own = {"name": name, "arm": arm.arm.own()}
        packages = (*ENCODER, *KINDS[arm.arm.kind])
        found |= {
            f"arms/{name}/probe": _file(encoder | own, *packages),
            f"arms/{name}/encode": _file(encoder | {"encode": arm.encode.model_dump()}, *ENCODER),
            f"arms/{name}/train": _file(arm.model_dump(), *packages),
            f"arms/{name}/evaluate": _file({}, *packages, *MEASURES),
        }
    return found


def read(name: str, model: type[BaseModel]) -> Any:
    """The settings in FOLDER/NAME.json as `model`. Raises UserError where the stage `env` did not write it."""
    path = FOLDER / f"{name}.json"
    try:
        return model.model_validate(read_json(path)["settings"])
    except ValidationError as error:
        clause = explain(error.errors()[0], model)  # type: ignore[arg-type]
        raise UserError(f"{path}: {clause}; `dvc repro` makes it anew") from None


def versions(*packages: str) -> dict[str, str]:
    """Installed versions by package. Raises UserError for one that is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            raise UserError(f"{package} is not installed; run: python -m pip install -r requirements.txt") from None
    return found


def _file(settings: dict[str, Any], *packages: str) -> dict[str, Any]:
    return {"settings": settings, "versions": versions(*packages)}
