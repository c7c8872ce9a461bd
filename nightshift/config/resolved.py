"""What each stage reads: its settings, resolved, and the versions of the packages that it runs on, one file each.

    reports/settings/{synthesize,prepare,probe,compare}.json
    reports/settings/arms/ARM/{probe,encode,train,evaluate}.json

The stage `inputs` writes all of them at every `dvc repro`, and a stage of DVC depends on its own file. So it runs again
when something that it reads has another value, wherever that comes from (params.yaml, -S, a preset, a default in the
code, another version of torch), and not when something changes that it does not read. Stages do not read params.yaml.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nightshift.config.explain import explain
from nightshift.config.params import ArmSettings, EncoderArmSettings, PlainArmSettings, Settings
from nightshift.config.presets import Simulated
from nightshift.console.errors import UserError
from nightshift.core.io import read_json, remove, write_text

FOLDER = Path("reports/settings")
DATA = ("numpy", "pillow", "scikit-image", "scipy", "pydicom", "pycocotools")
ENCODER = ("torch", "sam3")
MEASURES = ("scikit-image", "scipy", "monai")
FILTERS = ("scikit-image", "scipy")
ALL = ("torch", "sam3", "peft", "numpy", "scipy", "scikit-image", "monai", "safetensors", "pillow", "matplotlib",
       "pandas", "pydicom", "pycocotools")  # fmt: skip
Model = TypeVar("Model", bound=BaseModel)


def write_all(settings: Settings) -> None:
    """Write every file of FOLDER. Raises UserError as `versions` does."""
    write_folder(FOLDER, contents(settings))


def write_folder(folder: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as NAME.json, and remove what is no longer one of them, such as that of an arm that was taken out.

    A file whose content would be the same is left alone: DVC need not hash it again.
    """
    files = {folder / f"{name}.json": value for name, value in values.items()}
    for path, value in files.items():
        write_if_changed(path, value)
    folders = {above for path in files for above in path.parents}
    for path in list(folder.rglob("*")):
        if path not in files and path not in folders:
            remove(path)


def write_if_changed(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, where the file does not have the same text already."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def contents(settings: Settings) -> dict[str, dict[str, Any]]:
    """By name of the file: `settings` as its stage reads them, and `versions`. Raises UserError as `versions` does."""
    data = settings.data
    simulated = next((one.source.model_dump() for one in data.sets if isinstance(one.source, Simulated)), None)
    by_name = {
        "synthesize": _content({"name": data.name, "simulated": simulated}, "numpy", "scipy"),
        "prepare": _content(data.model_dump(), *DATA),
        "probe": _content(settings.probe.model_dump(), *ENCODER, "peft"),
        "compare": _content(settings.model_dump()),
    }
    for name in settings.arms:
        arm = settings.arm(name)
        encoder = arm.model_dump(include={"encoder", "preset"})
        of_encoder = ENCODER if encoder else ()
        own, packages = {"arm": arm.arm.own()}, ("torch", *of_encoder, *arm.arm.packages)
        of_input = FILTERS if arm.channels == "vesselness" else ()
        kept, vessel_loss = arm.augment.kept, arm.train.loss != "dice_bce"
        of_kept = ("monai",) if kept.variants else ()
        of_training = ("monai",) if kept.variants or arm.augment.online or vessel_loss else ()
        by_name |= {
            f"arms/{name}/probe": _content(encoder | {"name": name} | own, *packages),
            f"arms/{name}/encode": _content(encoder | {"augment": kept.model_dump()}, *of_encoder, *of_input, *of_kept),
            f"arms/{name}/train": _content(arm.model_dump() | own, *packages, *of_input, *of_training),
            f"arms/{name}/evaluate": _content(settings.predict.model_dump(), *packages, *MEASURES),
        }
    return by_name


def read(name: str, model: type[Model]) -> Model:
    """The settings in FOLDER/NAME.json.

    Args:
        name: `prepare`, `arms/lora/train`, ...
        model: what the settings are read as.

    Raises:
        UserError: the stage `inputs` did not write the file, or wrote it with other code.
    """
    path = FOLDER / f"{name}.json"
    try:
        return model.model_validate(read_json(path)["settings"])
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error.errors()[0], model)}; `dvc repro` makes it anew") from None


def read_arm(name: str) -> ArmSettings:
    """All settings of an arm, as the stage `train` reads them. Raises UserError as `read` does."""
    file = f"arms/{name}/train"
    has_encoder = "encoder" in read_json(FOLDER / f"{file}.json")["settings"]
    return read(file, EncoderArmSettings) if has_encoder else read(file, PlainArmSettings)


def versions(*packages: str) -> dict[str, str]:
    """Installed versions by package. Raises UserError for one that is not installed."""
    return {package: _version(package) for package in packages}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise UserError(f"{package} is not installed; run: python -m pip install -r requirements.txt") from None


def _content(settings: dict[str, Any], *packages: str) -> dict[str, Any]:
    return {"settings": settings, "versions": versions(*packages)}
