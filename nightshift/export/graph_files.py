"""A model as a graph in a file: ONNX for onnxruntime and others, and torch.export's .pt2.

Neither has a pickle or a path of this machine in it: what torch adds of either is taken out.
"""

import logging
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

LARGEST = 2**30  # bytes of weights in one ONNX file; above that they lie in FILE.data (a file cannot have 2 GiB)
SAMPLE_INPUTS = "data/sample_inputs/"  # of a .pt2: a pickle of the frame that it was traced with


def traced(model: nn.Module) -> ExportedProgram:
    """A `FrameModel` as torch.export sees it: `frame` of any height and width, and `angles`."""
    frame, angles = torch.zeros(120, 96, dtype=torch.uint8), torch.zeros(2)
    program = torch.export.export(
        model, (frame, angles), dynamic_shapes={"frame": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, "angles": None}
    )
    _forget_sources(program.graph_module)
    return program


def _forget_sources(graph: GraphModule) -> None:
    """Remove where in which source file each operation comes from."""
    for node in graph.graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    for child in graph.children():
        if isinstance(child, GraphModule):
            _forget_sources(child)


def write_onnx(program: ExportedProgram, file: Path) -> None:
    """Write FILE, with inputs `frame` and `angles` and output `probability`; large weights are in FILE.data."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            output_names=["probability"],
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    _forget_metadata(exported.model)
    weights = sum(tensor.nbytes for tensor in program.state_dict.values())
    exported.save(file, external_data=weights > LARGEST)


def _forget_metadata(model: onnx_ir.Model) -> None:
    graphs: Iterable[onnx_ir.Graph | onnx_ir.Function] = (model.graph, *model.functions.values())
    for graph in graphs:
        graph.metadata_props.clear()
        for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def write_pt2(program: ExportedProgram, file: Path) -> None:
    """Write FILE, which `torch.export.load(FILE).module()(frame, angles)` runs."""
    whole = file.with_name(f"whole-{file.name}")
    torch.export.save(program, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(file, "w") as target:
        for member in source.infolist():
            with source.open(member) as read, target.open(zipfile.ZipInfo(member.filename), "w") as write:
                if SAMPLE_INPUTS not in member.filename:  # empty, torch reads it as none
                    shutil.copyfileobj(read, write, 2**24)
    whole.unlink()


class Pt2Session:
    """A .pt2 file that is run as onnxruntime runs a graph."""

    def __init__(self, file: Path) -> None:
        self.module = torch.export.load(file).module()

    @torch.no_grad()
    def run(self, _: None, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The probability map in a list, of arrays by the names of the inputs."""
        return [self.module(*(torch.from_numpy(inputs[name].copy()) for name in ("frame", "angles"))).numpy()]
