"""Bundles with a graph written by hand, for tests; exporting one takes seconds."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from nightshift.export.bundle import NAME, BundleRecord, GraphRecord


def write_bright_graph(file: Path) -> None:
    """An ONNX graph of a frame (H, W) uint8, whatever its angles: probability (H, W) 0.9 above 99, else 0.01."""
    shape = ["height", "width"]
    constants = [
        helper.make_tensor("grey", TensorProto.FLOAT, [], [99]),
        helper.make_tensor("high", TensorProto.FLOAT, [], [0.9]),
        helper.make_tensor("low", TensorProto.FLOAT, [], [0.01]),
    ]
    nodes = [
        helper.make_node("Cast", ["frame"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Greater", ["values", "grey"], ["bright"]),
        helper.make_node("Where", ["bright", "high", "low"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bright",
        [
            helper.make_tensor_value_info("frame", TensorProto.UINT8, shape),
            helper.make_tensor_value_info("angles", TensorProto.FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, file)


def write_bright_bundle(folder: Path, data_hash: str, fold: int, takes_angles: bool) -> None:
    """A bundle of a U-Net of that fold, whose masks are every pixel above 99."""
    folder.mkdir()
    write_bright_graph(folder / "model.onnx")
    BundleRecord(
        name="unet",
        fold=fold,
        seed=0,
        threshold=0.5,
        takes_angles=takes_angles,
        data_hash=data_hash,
        graphs=[GraphRecord(file="model.onnx", map_limit=1e-4, pixel_limit=1e-5)],
        angles=[],
        versions={},
    ).write(folder / NAME)
