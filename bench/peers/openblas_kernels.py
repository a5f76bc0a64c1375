"""OpenBLAS as a peer of `roots bench` (protocol.py): cblas_sgemm of the library that ROOTS_OPENBLAS names, that the system has, or that NumPy
or SciPy bring along. Needs nothing but the standard library.
"""
import ctypes
import ctypes.util
import glob
import os
import site
import sys

from blas import load, operand
from protocol import serve

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


def candidates():
    yield os.environ.get("ROOTS_OPENBLAS")
    yield ctypes.util.find_library("openblas")
    for folder in site.getsitepackages():
        for library in ("scipy.libs", "numpy.libs"):
            yield from sorted(glob.glob(os.path.join(folder, library, "libscipy_openblas*.so*")))


NAMES = (("", "", ctypes.c_int), ("scipy_", "", ctypes.c_int), ("scipy_", "64_", ctypes.c_int64))


def naming(library):
    """The prefix, suffix and integer of a build's functions, or None."""
    return next((name for name in NAMES if hasattr(library, f"{name[0]}cblas_sgemm{name[1]}")), None)


PATH, openblas = load(candidates(), naming, "no OpenBLAS: name one with ROOTS_OPENBLAS")
PREFIX, SUFFIX, Integer = naming(openblas)


def symbol(name):
    return getattr(openblas, f"{PREFIX}{name}{SUFFIX}")


def product(m, n, k, layout):
    sgemm = symbol("cblas_sgemm")
    a, b, c = operand(m * k), operand(k * n), operand(m * n)
    ta, tb = layout[0] == "t", layout[1] == "t"
    arguments = (
        ctypes.c_int(ROW_MAJOR), ctypes.c_int(TRANSPOSED if ta else PLAIN), ctypes.c_int(TRANSPOSED if tb else PLAIN),
        Integer(m), Integer(n), Integer(k), ctypes.c_float(1), a, Integer(m if ta else k), b, Integer(k if tb else n),
        ctypes.c_float(0), c, Integer(n),
    )
    return lambda: sgemm(*arguments)


def prepare(spec):
    if spec.get("dtype", "float32") != "float32":
        raise ValueError("float32 only")
    if spec["op"] == "matmul":
        return product(spec["m"], spec["n"], spec["k"], spec["layout"])
    if spec["op"] == "linear":
        return product(spec["m"], spec["n"], spec["k"], "nt")
    raise ValueError(f"no {spec['op']}")


threads = int(sys.argv[1])
symbol("openblas_set_num_threads")(ctypes.c_int(threads))
config = symbol("openblas_get_config")
config.restype = ctypes.c_char_p
version = next((w for w in config().decode().split() if w[0].isdigit()), "unknown")
core = symbol("openblas_get_corename")
core.restype = ctypes.c_char_p
serve("openblas", version, f"{threads} threads, cblas_sgemm of {os.path.basename(PATH)}, kernels {core().decode()}", prepare)
