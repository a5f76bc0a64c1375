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


def linear(spec):
    m, n, k = spec["m"], spec["n"], spec["k"]
    weight = (np.random.randn(k, n) * 0.02).astype(np.float32)
    return [helper.make_node("MatMul", ["x", "w"], ["y"])], [numpy_helper.from_array(weight, "w")], [m, k], [m, n]


def encoder(spec):
    """Post-norm encoder layers, written as an exporter would: ONNX Runtime fuses what it can."""
    t, c, h, f = spec["tokens"], spec["dim"], spec["heads"], spec["hidden"]
    nodes, weights = [], []

    def constant(name, value):
        weights.append(numpy_helper.from_array(value, name))
        return name

    def node(kind, inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def dense(x, outputs, inputs, name):
        w = constant(f"{name}.w", (np.random.randn(inputs, outputs) * 0.02).astype(np.float32))
        b = constant(f"{name}.b", np.zeros(outputs, np.float32))
        return node("Add", [node("MatMul", [x, w], f"{name}.m"), b], f"{name}.y")

    def norm(x, name):
        g, b = constant(f"{name}.g", np.ones(c, np.float32)), constant(f"{name}.b", np.zeros(c, np.float32))
        return node("LayerNormalization", [x, g, b], f"{name}.y", axis=-1, epsilon=1e-5)

    split = constant("split", np.array([1, t, h, c // h], np.int64))
    joined = constant("joined", np.array([1, t, c], np.int64))
    scale = constant("scale", np.array((c // h) ** -0.5, np.float32))
    x = "x"
    for i in range(spec["layers"]):
        n = f"l{i}."
        q, k, v = (node("Reshape", [dense(x, c, c, n + p), split], n + p + ".s") for p in "qkv")
        q, v = (node("Transpose", [a], a + ".t", perm=[0, 2, 1, 3]) for a in (q, v))
        k = node("Transpose", [k], k + ".t", perm=[0, 2, 3, 1])
        scores = node("Mul", [node("MatMul", [q, k], n + "qk"), scale], n + "scores")
        mixed = node("MatMul", [node("Softmax", [scores], n + "p", axis=-1), v], n + "mixed")
        mixed = node("Reshape", [node("Transpose", [mixed], n + "back", perm=[0, 2, 1, 3]), joined], n + "heads")
        x = norm(node("Add", [x, dense(mixed, c, c, n + "o")], n + "r1"), n + "n1")
        up = dense(x, f, c, n + "up")
        half = node("Mul", [up, constant(n + "h", np.array(0.5, np.float32))], n + "half")
        root = node("Div", [up, constant(n + "r", np.array(2**0.5, np.float32))], n + "root")
        erf = node("Add", [node("Erf", [root], n + "erf"), constant(n + "one", np.array(1, np.float32))], n + "erf1")
        x = norm(node("Add", [x, dense(node("Mul", [half, erf], n + "gelu"), c, f, n + "down")], n + "r2"), n + "n2")
    node("Identity", [x], "y")
    return nodes, weights, [1, t, c], [1, t, c]


def session(spec):
    graphs = {"linear": linear, "linear_dynamic_int8": linear, "encoder": encoder}
    if spec["op"] not in graphs or spec.get("dtype", "float32") != "float32":
        raise NotImplementedError(spec["op"])
    nodes, weights, given, result = graphs[spec["op"]](spec)
    graph = helper.make_graph(
        nodes,
        spec["op"],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        weights,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        if spec["op"] == "linear_dynamic_int8" or spec.get("int8"):
            quantized = os.path.join(folder, "int8.onnx")
            quantize_dynamic(path, quantized, per_channel=True, weight_type=QuantType.QInt8)
            path = quantized
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(sys.argv[1])
        options.inter_op_num_threads = 1
        # workers that spin would slow down whoever is timed next
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        s = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = np.random.randn(*given).astype(np.float32)
    return lambda: s.run(None, {"x": x})


serve("onnxruntime", ort.__version__, f"{sys.argv[1]} threads, dynamic int8 per channel", session)
