"""oneDNN as a peer of `roots bench` (protocol.py): the BLAS-like functions of the library that ROOTS_DNNL names or the system has (libdnnl), which
oneDNN's own primitives are built on. Needs nothing but the standard library.
"""
import ctypes
import ctypes.util
import os
import sys

from blas import load, operand
from protocol import serve

CANDIDATES = (os.environ.get("ROOTS_DNNL"), ctypes.util.find_library("dnnl"), "libdnnl.so.3", "libdnnl.so.2")
PATH, dnnl = load(CANDIDATES, lambda library: hasattr(library, "dnnl_sgemm"), "no oneDNN: name a libdnnl with ROOTS_DNNL")


class Version(ctypes.Structure):
    _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int), ("patch", ctypes.c_int)]


def checked(function, arguments):
    def call():
        status = function(*arguments)
        if status:
            raise RuntimeError(f"status {status}")

    return call


def product(m, n, k, layout):
    a, b, c = operand(m * k), operand(k * n), operand(m * n)
    ta, tb = layout[0] == "t", layout[1] == "t"
    # row-major, as the library documents
    return checked(dnnl.dnnl_sgemm, (
        ctypes.c_char(b"T" if ta else b"N"), ctypes.c_char(b"T" if tb else b"N"),
        ctypes.c_int64(m), ctypes.c_int64(n), ctypes.c_int64(k), ctypes.c_float(1),
        a, ctypes.c_int64(m if ta else k), b, ctypes.c_int64(k if tb else n), ctypes.c_float(0), c, ctypes.c_int64(n),
    ))


def product_i8(m, n, k):
    a, b, c = operand(m * k, ctypes.c_int8), operand(k * n, ctypes.c_int8), (ctypes.c_int32 * (m * n))()
    zero = ctypes.c_int32(0)
    return checked(dnnl.dnnl_gemm_s8s8s32, (
        ctypes.c_char(b"N"), ctypes.c_char(b"N"), ctypes.c_char(b"F"),
        ctypes.c_int64(m), ctypes.c_int64(n), ctypes.c_int64(k), ctypes.c_float(1),
        a, ctypes.c_int64(k), ctypes.c_int8(0), b, ctypes.c_int64(n), ctypes.c_int8(0),
        ctypes.c_float(0), c, ctypes.c_int64(n), ctypes.byref(zero),
    ))


def prepare(spec):
    if spec["op"] == "int_mm":
        return product_i8(spec["m"], spec["n"], spec["k"])
    if spec.get("dtype", "float32") != "float32":
        raise ValueError("float32 and int8 only")
    if spec["op"] == "matmul":
        return product(spec["m"], spec["n"], spec["k"], spec["layout"])
    if spec["op"] == "linear":
        return product(spec["m"], spec["n"], spec["k"], "nt")
    raise ValueError(f"no {spec['op']}")


dnnl.dnnl_version.restype = ctypes.POINTER(Version)
v = dnnl.dnnl_version().contents
version = f"{v.major}.{v.minor}.{v.patch}"
serve("dnnl", version, f"{sys.argv[1]} threads, dnnl_sgemm and dnnl_gemm_s8s8s32 of {os.path.basename(PATH)}", prepare)
