"""ONNX Runtime's side of `roots bench`; see protocol.py. Needs onnxruntime and onnx."""
import os
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from protocol import serve

ort.set_default_logger_severity(3)


def model(spec, folder):
    m, n, k = spec["m"], spec["n"], spec["k"]
    weight = (np.random.randn(k, n) * 0.02).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [m, n])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = os.path.join(folder, "linear.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def session(spec):
    if spec["op"] not in ("linear", "linear_dynamic_int8") or spec.get("dtype", "float32") != "float32":
        raise NotImplementedError(spec["op"])
    with tempfile.TemporaryDirectory() as folder:
        path = model(spec, folder)
        if spec["op"] == "linear_dynamic_int8":
            quantized = os.path.join(folder, "int8.onnx")
            quantize_dynamic(path, quantized, per_channel=True, weight_type=QuantType.QInt8)
            path = quantized
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(sys.argv[1])
        options.inter_op_num_threads = 1
        # workers that spin would slow down whoever is timed next
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        s = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = np.random.randn(spec["m"], spec["k"]).astype(np.float32)
    return lambda: s.run(None, {"x": x})


serve("onnxruntime", ort.__version__, f"{sys.argv[1]} threads, dynamic int8 per channel", session)
