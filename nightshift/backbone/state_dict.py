"""Weights from a file into trunk and neck: strictly, memory-mapped, without running anything that is in the file.

Two layouts, each with any prefix, found by the names that are in the file:

    sam3           detector.backbone.vision_backbone.trunk.blocks.0.attn.qkv.weight   ... .convs.0.conv_1x1.weight
    transformers   detector_model.vision_encoder.backbone.layers.0.attention.q_proj.weight   ... .neck.fpn_layers.0...

The first is SAM 3's own (`sam3.pt`, sometimes all under `model`), the second Hugging Face's. SAM 3.1's file
(`sam3.1_multiplex.pt`) is in the first; its neck has three levels, not four, and convolutions for its tracker beside
them. Position tables are no weights: they are made for the frames at hand (nightshift/backbone/rope.py).
"""

import math
import re
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nightshift.backbone.rope import TABLES
from nightshift.console.errors import UserError

SHOWN = 3  # names in an error
# Where a name of the layout begins, and what of the file is the encoder's.
LAYOUTS = {
    "sam3": (re.compile(r"^(|.*\.)trunk\.(?:pos_embed|patch_embed|ln_pre|blocks)\b"), ("trunk.", "convs.")),
    "transformers": (re.compile(r"^(|.*\.)backbone\.(?:embeddings|layer_norm|layers)\."), ("backbone.", "neck.")),
}
# Beside trunk and neck, and not for images: the necks of SAM 3's tracker, and of SAM 3.1's.
TRACKER = ("sam2_convs.", "interactive_convs.", "propagation_convs.")
# The releases of SAM by what only their files have: with the levels of the neck, and the preset in conf/encoder.
RELEASES = (
    (("interactive_convs.", "propagation_convs."), "SAM 3.1", 3, "sam3.1"),
    (("convs.3.", "neck.fpn_layers.3."), "SAM 3", 4, "sam3"),
)
TO_TRANSFORMERS = (
    (r"^trunk\.patch_embed\.proj\b", "backbone.embeddings.patch_embeddings.projection"),
    (r"^trunk\.pos_embed", "backbone.embeddings.position_embeddings"),
    (r"^trunk\.ln_pre\b", "backbone.layer_norm"),
    (r"^trunk\.blocks\.(\d+)\.norm([12])\b", r"backbone.layers.\1.layer_norm\2"),
    (r"^trunk\.blocks\.(\d+)\.attn\.proj\b", r"backbone.layers.\1.attention.o_proj"),
    (r"^trunk\.blocks\.(\d+)\.attn\.", r"backbone.layers.\1.attention."),
    (r"^trunk\.blocks\.", "backbone.layers."),
    (r"^convs\.(\d+)\.dconv_2x2_1\b", r"neck.fpn_layers.\1.scale_layers.2"),
    (r"^convs\.(\d+)\.dconv_2x2(?:_0)?\b", r"neck.fpn_layers.\1.scale_layers.0"),
    (r"^convs\.(\d+)\.conv_1x1\b", r"neck.fpn_layers.\1.proj1"),
    (r"^convs\.(\d+)\.conv_3x3\b", r"neck.fpn_layers.\1.proj2"),
)


@dataclass(frozen=True)
class Naming:
    """How a file names the encoder's weights: its layout, and the prefix of every name."""

    layout: str
    prefix: str

    def parts(self, name: str) -> list[str]:
        """The names in the file of what makes up weight `name` of the encoder."""
        if self.layout == "sam3":
            return [self.prefix + name]
        for pattern, replacement in TO_TRANSFORMERS:
            changed, hits = re.subn(pattern, replacement, name)
            if hits:
                break
        names = [changed.replace("qkv", f"{part}_proj") for part in "qkv"] if ".qkv." in changed else [changed]
        return [self.prefix + name for name in names]

    def join(self, name: str, parts: list[Tensor]) -> Tensor:
        """Weight `name` of the encoder from its parts.

        transformers keeps query, key and value apart, and no place for the class token, which sam3 keeps and skips.
        """
        if self._lacks_class_token(name) and parts[0].ndim == 3:
            return torch.cat([torch.zeros_like(parts[0][:, :1]), parts[0]], dim=1)
        if len({part.shape[1:] for part in parts}) > 1:
            return parts[0]  # of a wrong shape, and named as such
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def split(self, name: str, value: Tensor) -> dict[str, Tensor]:
        """The inverse of `join`: the parts of weight `name`, by their names in the file, as views of `value`."""
        if self._lacks_class_token(name):
            value = value[:, 1:]
        names = self.parts(name)
        return dict(zip(names, value.chunk(len(names)), strict=True))

    def _lacks_class_token(self, name: str) -> bool:
        return self.layout == "transformers" and name.endswith("pos_embed")


@dataclass(frozen=True)
class Loaded:
    """What a file gave: tensors of the file that were used, that were ignored, and that were not float32.

    `release` is SAM 3 or SAM 3.1, empty where the file does not tell.
    """

    path: Path
    release: str
    layout: str
    used: int
    ignored: int
    converted: dict[str, int]

    def __str__(self) -> str:
        kind = f"{self.release or 'an encoder'} in the {self.layout} layout"
        used = f"weights: {self.used} tensors of {self.path.name} ({kind}), {self.ignored} others ignored"
        return used + "".join(f", {n} converted from {dtype} to float32" for dtype, n in self.converted.items())


def open_weights(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, or of what torch.save wrote, mapped and not read: it takes no memory yet.

    Raises UserError: no weights file, a truncated one, or a pickle that holds more than tensors (it is not run).
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if not zipfile.is_zipfile(path):
            raise UserError(
                f"{path}: not a weights file, or not all of it: neither safetensors nor what torch.save writes"
            )
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError:
        raise UserError(
            f"{path}: a pickle that holds more than tensors; it was not opened, as it could run code"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as weights: {str(error).splitlines()[0]}") from None
    state = state["model"] if isinstance(state, dict) and isinstance(state.get("model"), dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a mapping of names to tensors, nor one under `model`")
    return state


def naming_of(path: Path, names: dict[str, Tensor]) -> Naming:
    """How the file `path` names the encoder's weights; the prefix is the one that most of these have.

    Raises UserError for a file without SAM 3's image encoder.
    """
    for layout, (pattern, _) in LAYOUTS.items():
        prefixes = Counter(match[1] for name in names if (match := pattern.match(name)))
        if prefixes:
            return Naming(layout, prefixes.most_common(1)[0][0])
    raise UserError(
        f"{path}: no image encoder of SAM 3 among its {len(names)} tensors; expected names as ...trunk.blocks.0"
    )


def load(neck: nn.Module, path: Path) -> Loaded:
    """Put the weights of the file into trunk and neck, which may be on the meta device; tables are left alone.

    A float32 tensor stays mapped from the file: no copy is made until it is moved to a GPU.
    Raises UserError as `open_weights` does, for a file of another release of SAM, and naming the first ones: a weight
    that is missing, has another shape, is not a finite float, or that this encoder has no place for.
    """
    file = open_weights(path)
    naming = naming_of(path, file)
    expected, prefix = neck.state_dict(), naming.prefix
    release = _release_of(path, file, prefix, levels=sum(name.endswith("conv_1x1.weight") for name in expected))
    state, used, problems = {}, set(), []
    converted: Counter[str] = Counter()
    for name, place in expected.items():
        if name.endswith(TABLES):
            state[name] = place
            continue
        parts = naming.parts(name)
        used.update(parts)
        missing = [part for part in parts if part not in file]
        if missing:
            problems += [f"{part} is missing" for part in missing]
            continue
        value = naming.join(name, [file[part] for part in parts])
        if value.shape != place.shape:
            problems.append(f"{parts[0]} has shape {tuple(value.shape)}, expected {tuple(place.shape)}")
        elif not value.is_floating_point():
            problems.append(f"{parts[0]} holds {_name(value)}, expected floats")
        else:
            converted.update([_name(value)] * (value.dtype != torch.float32))
            state[name] = value.float()
            if not torch.isfinite(state[name]).all():
                problems.append(f"{parts[0]} holds numbers that are not finite")
    own = (prefix,) if prefix else LAYOUTS[naming.layout][1]
    tracker = tuple(prefix + part for part in TRACKER)
    unknown = [n for n in file if n.startswith(own) and not n.startswith(tracker) and not n.endswith(TABLES)]
    problems += [f"{name} has no place in this encoder" for name in unknown if name not in used]
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"{path}: not the weights of this encoder: {'; '.join(problems[:SHOWN])}{more}; "
            "nothing was loaded, see use.encoder and encoder.weights in params.yaml"
        )
    neck.load_state_dict(state, strict=True, assign=True)
    return Loaded(path, release, naming.layout, len(used), len(file) - len(used), dict(converted))


def grids_of_file(path: Path) -> dict[int, int]:
    """What the tables in a weights file are made for: {side of the grid or window in tokens: number of blocks}.

    Raises UserError as `open_weights` does, or for a file without `freqs_cis` (the transformers layout keeps none).
    """
    file = open_weights(path)
    lengths = {name.rpartition(".")[0]: value.shape[0] for name, value in file.items() if name.endswith(TABLES)}
    if not lengths:
        raise UserError(f"{path}: no freqs_cis among its {len(file)} tensors")
    return {math.isqrt(length): blocks for length, blocks in sorted(Counter(lengths.values()).items())}


def _release_of(path: Path, names: dict[str, Tensor], prefix: str, levels: int) -> str:
    """SAM 3 or SAM 3.1, empty where the names do not tell. Raises UserError where its neck has not so many levels."""
    for marks, release, expected, preset in RELEASES:
        if any(name.startswith(tuple(prefix + mark for mark in marks)) for name in names):
            if expected != levels:
                raise UserError(f"{path}: this is a {release} file; set use.encoder={preset}")
            return release
    return ""


def _name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
