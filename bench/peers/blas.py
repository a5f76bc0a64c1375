"""What the adapters of libraries with a C interface share: finding one, and operands. Needs nothing but the standard library."""
import ctypes
import random


def load(paths, wanted, hint):
    """(path, library) of the first path that opens and has what wanted(library) looks for."""
    for path in filter(None, paths):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        if wanted(library):
            return path, library
    raise SystemExit(hint)


def operand(count, kind=ctypes.c_float):
    """An array of random numbers; integers lie in [-127, 127]."""
    block = [random.gauss(0, 1) if kind is ctypes.c_float else random.randint(-127, 127) for _ in range(4096)]
    data = (kind * count)()
    for at in range(0, count, 4096):
        piece = block[: min(4096, count - at)]
        data[at : at + len(piece)] = piece
    return data
