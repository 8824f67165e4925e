"""Modules as ONNX files: opset pinned, weights in the precision that is asked for."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 20
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MIN_VALUES = 1024
"""Of a tensor that is stored in fewer bits."""
MIN_CONTRACTED = 64
"""Rows and columns of a matrix that is worth quantizing."""


def write_onnx(
    module: nn.Module, given: Mapping[str, Tensor], dynamic: Mapping[str, Any],
    outputs: Sequence[str], path: Path,
) -> None:  # fmt: skip
    """Write a module as a file of opset `OPSET`, in float32.

    Args:
        given: an example, by the names of the inputs, in the order that `forward` takes them.
        dynamic: the first axis of inputs whose length is free.
        outputs: their names.
    """
    shapes = tuple({0: dynamic[name]} if name in dynamic else {} for name in given)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of axes with the same name
        torch.onnx.export(
            module.eval(), tuple(given.values()), path, input_names=list(given),
            output_names=list(outputs), dynamic_shapes=shapes, opset_version=OPSET,
            external_data=False, verbose=False,
        )  # fmt: skip


def in_precision(path: Path, precision: Precision, keep: Sequence[str] = ()) -> None:
    """Store a float32 file's weights in fewer bits.

    fp16: weights are stored so, and computed with in float32. int8: the large matrix products are
    computed in int8, their inputs quantized as they come; all other weights are stored in fp16.

    Args:
        keep: parts of the names of weights that stay out of int8.
    """
    if precision == "fp32":
        return
    if precision == "int8":
        _quantize(path, keep)
    model = onnx.load(path)
    _halve(model.graph)
    onnx.save(model, path)


def _quantize(path: Path, keep: Sequence[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(path).graph
    weights = {weight.name: weight for weight in graph.initializer}
    exact = [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm")
        and not any(_is_wide(weights.get(name), keep) for name in node.input)
    ]
    exact += [f"{name}_MatMul" for name in exact]  # so a Gemm is called once it is taken apart
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        quantize_dynamic(
            path, draft, op_types_to_quantize=["MatMul"], per_channel=True,
            weight_type=QuantType.QInt8, nodes_to_exclude=exact,
        )  # fmt: skip
        path.write_bytes(draft.read_bytes())


def _is_wide(weight: TensorProto | None, keep: Sequence[str]) -> bool:
    if weight is None or not weight.name.endswith("weight") or len(weight.dims) != 2:
        return False
    return min(weight.dims) >= MIN_CONTRACTED and not any(part in weight.name for part in keep)


def _halve(graph: onnx.GraphProto) -> None:
    """Large float32 weights in float16, each with a node that widens it when the file is loaded."""
    nodes = []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < MIN_VALUES:
            continue
        values, name = numpy_helper.to_array(weight), weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        nodes.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *kept])
