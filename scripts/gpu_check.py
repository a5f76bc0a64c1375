"""Checks and times the CUDA module against PyTorch, through its one C symbol. Run by scripts/gpu_check.sh.

Every output is poisoned with NaN and lies between guard bytes; references are computed in float64; every kernel runs twice and must give the
same bits. With the emulated module tensors are in host memory and the timing stage is skipped.
"""
import ctypes
import json
import math
import os
import re
import statistics
import sys
import time

import torch
import torch.nn.functional as F

MAX_RANK = 8
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3, torch.int8: 4, torch.uint8: 5,
          torch.int32: 6, torch.int64: 7, torch.bool: 8}
UNARY = {"exp": torch.exp, "log": lambda x: torch.log(x), "sqrt": torch.sqrt, "rsqrt": torch.rsqrt,
         "reciprocal": torch.reciprocal, "square": torch.square, "abs": torch.abs, "neg": torch.neg,
         "tanh": torch.tanh, "sigmoid": torch.sigmoid, "erf": torch.erf, "softplus": F.softplus, "relu": F.relu,
         "silu": F.silu, "gelu_erf": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


class CTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int32), ("rank", ctypes.c_int32),
                ("shape", ctypes.c_int64 * MAX_RANK), ("strides", ctypes.c_int64 * MAX_RANK)]


class CTensorList(ctypes.Structure):
    _fields_ = [("items", ctypes.POINTER(CTensor)), ("count", ctypes.c_int64)]


STATUS = ctypes.c_char_p


class Backend(ctypes.Structure):
    _fields_ = [("abi", ctypes.c_uint64), ("name", ctypes.c_char_p),
                ("device_count", ctypes.CFUNCTYPE(ctypes.c_int32)),
                ("memory_bytes", ctypes.CFUNCTYPE(ctypes.c_int64)),
                ("allocate", ctypes.CFUNCTYPE(STATUS, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p))),
                ("release", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)),
                ("copy", ctypes.CFUNCTYPE(STATUS, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32)),
                ("kernels", ctypes.CFUNCTYPE(ctypes.c_void_p)),
                ("graph_mark", ctypes.CFUNCTYPE(STATUS, ctypes.c_int64, ctypes.c_int32)),
                ("graph_counts", ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_int64))),
                ("describe", ctypes.CFUNCTYPE(ctypes.c_char_p)),
                ("last_error", ctypes.CFUNCTYPE(ctypes.c_char_p))]


def signatures():
    """(name, [parameter types]) of every kernel, in the order of the table."""
    out = []
    text = re.sub(r"//[^\n]*", "", open(os.path.join(os.path.dirname(__file__), "../native/kernels.def")).read())
    for macro, inside in re.findall(r"(\w+)\(([^)]*)\)", text):
        parts = [p.strip() for p in inside.split(",")]
        if macro == "UNARY":
            out += [(parts[0] + "_forward", ["Tensor"] * 2), (parts[0] + "_backward", ["Tensor"] * 3)]
        elif macro in ("BINARY", "COMPARE"):
            out.append((parts[0], ["Tensor"] * 3))
        elif macro == "KERNEL":
            out.append((parts[0], [p.split()[0] for p in parts[1:]]))
    return out


class Module:
    def __init__(self, path):
        library = ctypes.CDLL(os.path.abspath(path))
        library.backend_entry.restype = ctypes.POINTER(Backend)
        library.backend_entry.argtypes = [ctypes.c_uint64]
        self.backend = library.backend_entry(0).contents
        if self.backend.device_count() < 1:
            raise SystemExit(f"no device: {self.backend.last_error().decode()}")
        self.description = self.backend.describe().decode().split("\n")[0]
        self.emulated = self.description.startswith("emulated")
        self.device = "cpu" if self.emulated else "cuda"
        table = self.backend.kernels()
        kinds = {"Tensor": CTensor, "OptionalTensor": CTensor, "TensorList": CTensorList, "double": ctypes.c_double, "int64_t": ctypes.c_int64}
        self.functions = {}
        for i, (name, types) in enumerate(signatures()):
            pointer = ctypes.cast(table + 8 * i, ctypes.POINTER(ctypes.c_void_p))[0]
            self.functions[name] = ctypes.CFUNCTYPE(STATUS, ctypes.c_void_p, *[kinds[t] for t in types])(pointer)

    def __call__(self, name, *arguments):
        def tensor(a):
            t = CTensor(a.data_ptr(), DTYPES[a.dtype], a.dim())
            for i in range(a.dim()):
                t.shape[i], t.strides[i] = a.shape[i], a.stride(i)
            return t

        values = []
        for a in arguments:
            if a is None:
                values.append(CTensor(None, 0, -1))
            elif isinstance(a, torch.Tensor):
                values.append(tensor(a))
            elif isinstance(a, list):
                values.append(CTensorList((CTensor * len(a))(*map(tensor, a)), len(a)))
            else:
                values.append(a)
        status = self.functions[name](None, *values)
        if status:
            raise RuntimeError(f"{name}: {status.decode()}")

    def graph(self, key, run):
        """The kernels of run() as one graph; needs ROOTS_CUDA_GRAPHS=1."""
        for begin in (1, 0):
            status = self.backend.graph_mark(key, begin)
            if status:
                raise RuntimeError(f"graph: {status.decode()}")
            if begin:
                run()

    def graph_counts(self):
        sent, made = ctypes.c_int64(), ctypes.c_int64()
        self.backend.graph_counts(ctypes.byref(sent), ctypes.byref(made))
        return sent.value, made.value

    def synchronize(self):
        status = self.backend.copy(None, None, 0, 1)
        if status:
            raise RuntimeError(status.decode())


def tf32(x):
    """float32 rounded to 10 bits of mantissa, half away from zero."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


GUARD = 4096


class Guarded:
    """An output between guard bytes, poisoned."""

    def __init__(self, shape, dtype, device):
        count = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
        padded = (count + 255) // 256 * 256
        self.bytes = torch.full((padded + 2 * GUARD,), 0xA5, dtype=torch.uint8, device=device)
        self.count = count
        self.tensor = self.bytes[GUARD:GUARD + count].view(dtype).view(shape)
        self.tensor.fill_(float("nan") if dtype.is_floating_point else 77)

    def intact(self):
        return bool((self.bytes[:GUARD] == 0xA5).all()) and bool((self.bytes[GUARD + self.count:] == 0xA5).all())


class Checks:
    def __init__(self, module, out):
        self.m, self.out, self.failed, self.total = module, out, 0, 0
        self.generator = torch.Generator().manual_seed(7)

    def randn(self, *shape, dtype=torch.float32, scale=1.0):
        return (torch.randn(*shape, generator=self.generator, dtype=torch.float64) * scale).to(dtype).to(self.m.device)

    def ints(self, low, high, *shape, dtype=torch.int64):
        return torch.randint(low, high, shape, generator=self.generator).to(dtype).to(self.m.device)

    def check(self, name, arguments, outputs, references, tolerance, note="", start=math.nan):
        """outputs: Guarded objects, filled with `start`; references: float64 tensors; tolerance: relative to the largest reference element."""
        self.total += 1
        row = {"stage": "correctness", "kernel": name, "note": note}
        try:
            first = None
            for _ in range(2):
                for o in outputs:
                    o.tensor.fill_(start if o.tensor.dtype.is_floating_point else 77)
                if self.m.device == "cuda":
                    torch.cuda.synchronize()
                self.m(name, *arguments)
                self.m.synchronize()
                bits = [o.tensor.clone() for o in outputs]
                if first is not None:
                    row["repeats"] = all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in
                                         zip([x.contiguous() for x in first], [x.contiguous() for x in bits]))
                first = bits
            row["guards"] = all(o.intact() for o in outputs)
            errors = []
            for o, want in zip(outputs, references):
                got = o.tensor.to(torch.float64)
                want = want.to(torch.float64)
                scale = max(want[want.isfinite()].abs().max().item() if want.isfinite().any() else 0.0, 1e-30)
                same = (got == want) | (got.isnan() & want.isnan())
                difference = torch.where(same, torch.zeros_like(got), (got - want).abs())
                errors.append((difference.max().item() if difference.numel() else 0.0) / scale)
            row["error"] = max(errors) if errors else 0.0
            row["ok"] = row["guards"] and row["repeats"] and row["error"] <= tolerance
            row["tolerance"] = tolerance
        except Exception as error:  # noqa: BLE001 - every failure is a result
            row.update(ok=False, message=str(error))
        if not row["ok"]:
            self.failed += 1
            print("FAILED", row)
        self.out.write(json.dumps(row) + "\n")
        self.out.flush()

    def new(self, shape, dtype=torch.float32):
        return Guarded(tuple(shape), dtype, self.m.device)


def with_gradient(function, *inputs):
    leaves = [x.double().detach().requires_grad_() for x in inputs]
    y = function(*leaves)
    return y, leaves


def correctness(c):
    f32, f64, bf16 = torch.float32, torch.float64, torch.bfloat16
    for name, f in UNARY.items():
        x = c.randn(1003).abs() + 0.1 if name in ("log", "sqrt", "rsqrt", "reciprocal") else c.randn(1003) * 3
        y, (leaf,) = with_gradient(f, x)
        o = c.new(x.shape)
        c.check(name + "_forward", (x, o.tensor), [o], [y.detach()], 3e-6)
        dy = c.randn(1003)
        y.backward(dy.double())
        d = c.new(x.shape)
        c.check(name + "_backward", (dy, x, d.tensor), [d], [leaf.grad], 5e-6)
    a, b = c.randn(65, 33), c.randn(33, 65).t()
    for name, f in {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum,
                    "minimum": torch.minimum}.items():
        o = c.new(a.shape)
        c.check(name, (a, b, o.tensor), [o], [f(a.double(), b.double())], 2e-7, "one operand transposed")
    for name, f in {"equal": torch.eq, "not_equal": torch.ne, "less": torch.lt, "less_equal": torch.le,
                    "greater": torch.gt, "greater_equal": torch.ge}.items():
        i, j = c.ints(0, 3, 777, dtype=torch.int32), c.ints(0, 3, 777, dtype=torch.int32)
        o = c.new((777,), torch.bool)
        c.check(name, (i, j, o.tensor), [o], [f(i, j)], 0)
    o = c.new((1001,))
    x = c.randn(1001)
    c.check("affine", (x, o.tensor, 2.5, -1.0), [o], [x.double() * 2.5 - 1], 2e-7)
    c.check("clamp_forward", (x, o.tensor, -0.5, 0.7), [o], [x.clamp(-0.5, 0.7)], 1e-7)
    condition = c.ints(0, 2, 1001).bool()
    y = c.randn(1001)
    c.check("where", (condition, x, y, o.tensor), [o], [torch.where(condition, x, y)], 0)
    gate, up, dy = c.randn(40, 31), c.randn(40, 31), c.randn(40, 31)
    s, (lg, lu) = with_gradient(lambda g, u: F.silu(g) * u, gate, up)
    s.backward(dy.double())
    o, dg, du = c.new(gate.shape), c.new(gate.shape), c.new(gate.shape)
    c.check("swiglu_forward", (gate, up, o.tensor), [o], [s.detach()], 2e-6)
    c.check("swiglu_backward", (dy, gate, up, dg.tensor, du.tensor), [dg, du], [lg.grad, lu.grad], 4e-6)
    x = c.randn(67, 43)
    for to in (bf16, torch.float16, f64, torch.int8, torch.int64):
        o = c.new(x.t().shape, to)
        c.check("copy", (x.t(), o.tensor), [o], [x.t().to(to)], 0, f"transposed, float32 to {to}")
    o = c.new((5, 9, 11))
    x = c.randn(5, 9, 11)
    c.check("tril", (x, o.tensor, 2), [o], [torch.tril(x, 2)], 0)
    o = c.new((999,), f64)
    c.check("fill", (o.tensor, 3.25), [o], [torch.full((999,), 3.25)], 0)

    # reductions: along rows, across rows, pieces
    for shape, kept, note in (((7, 13), 1, "rows"), ((3, 70001), 1, "long rows"), ((40, 1111), 1, "rows")):
        x = c.randn(*shape)
        o = c.new(shape[:kept])
        c.check("reduce_sum", (x, o.tensor), [o], [x.double().sum(-1)], 3e-6, note)
        c.check("reduce_max", (x, o.tensor), [o], [x.amax(-1)], 0, note)
        c.check("reduce_min", (x, o.tensor), [o], [x.amin(-1)], 0, note)
    x = c.randn(2049, 77)
    o = c.new((77,))
    c.check("reduce_sum", (x.t(), o.tensor), [o], [x.double().sum(0)], 3e-6, "across rows")
    x = c.randn(33, 1234)
    o = c.new((33,), torch.int64)
    c.check("argmax", (x, o.tensor), [o], [x.argmax(-1)], 0)
    v, i = c.new((33, 9)), c.new((33, 9), torch.int64)
    top = x.topk(9)
    c.check("topk", (x, v.tensor, i.tensor), [v, i], [top.values, top.indices], 0)

    # index
    table, ids = c.randn(97, 40), c.ints(0, 97, 300, dtype=torch.int32)
    o = c.new((300, 40))
    c.check("embedding_forward", (ids, table, o.tensor), [o], [table[ids.long()]], 0)
    for count, rows, width in ((1, 3, 5), (7, 1, 40), (1000, 3, 33), (3000, 70000, 20), (2049, 256, 300)):
        chosen, dy = c.ints(0, rows, count, dtype=torch.int64), c.randn(count, width)
        chosen[:count // 3] = chosen[0].item()  # one that many rows have
        o, want = c.new((rows, width)), torch.ones(rows, width, dtype=f64, device=c.m.device)
        want.index_add_(0, chosen, dy.double())
        c.check("embedding_backward", (dy, chosen, o.tensor), [o], [want], 1e-5, f"{count} of {rows} x {width}", start=1.0)
    index = c.ints(0, 40, 97, 5)
    o = c.new((97, 5))
    c.check("gather", (table, index, o.tensor), [o], [table.gather(1, index)], 0)
    q8, scale = c.ints(-127, 128, 97, 40, dtype=torch.int8), c.randn(97).abs()
    o = c.new((300, 40))
    c.check("embedding_i8", (ids, q8, scale, o.tensor), [o], [(q8.double() * scale.double()[:, None])[ids.long()]], 2e-7)

    # rows
    for rows, width in ((5, 1), (17, 77), (64, 1024), (1100, 70), (3, 50257)):
        x, dy = c.randn(rows, width, scale=3), c.randn(rows, width)
        for name, f in (("softmax", F.softmax), ("log_softmax", F.log_softmax)):
            y, (leaf,) = with_gradient(lambda t: f(t, dim=-1), x)
            y.backward(dy.double())
            o, d = c.new(x.shape), c.new(x.shape)
            c.check(name + "_forward", (x, o.tensor), [o], [y.detach()], 4e-6, f"{rows} x {width}")
            saved = y.detach().float()
            c.check(name + "_backward", (dy, saved, d.tensor), [d], [leaf.grad], 2e-5, f"{rows} x {width}")
        w, b = c.randn(width), c.randn(width)
        y, (lx, lw, lb) = with_gradient(lambda t, u, v: F.layer_norm(t, (width,), u, v, 1e-5), x, w, b)
        y.backward(dy.double())
        o, mean, rstd = c.new(x.shape), c.new((rows,)), c.new((rows,))
        xd = x.double()
        m, r = xd.mean(-1), (xd.var(-1, unbiased=False) + 1e-5).rsqrt()
        c.check("layer_norm_forward", (x, w, b, o.tensor, mean.tensor, rstd.tensor, 1e-5), [o, mean, rstd],
                [y.detach(), m, r], 1e-5, f"{rows} x {width}")
        d, dw, db = c.new(x.shape), c.new((width,)), c.new((width,))
        if width > 1:
            c.check("layer_norm_backward", (dy, x, w, m.float(), r.float(), d.tensor, dw.tensor, db.tensor),
                    [d, dw, db], [lx.grad, lw.grad, lb.grad], 2e-5, f"{rows} x {width}")
        y, (lx, lw) = with_gradient(lambda t, u: t * (t.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * u, x, w)
        y.backward(dy.double())
        r = (xd.square().mean(-1) + 1e-5).rsqrt()
        c.check("rms_norm_forward", (x, w, o.tensor, rstd.tensor, 1e-5), [o, rstd], [y.detach(), r], 1e-5,
                f"{rows} x {width}")
        if width > 1:  # one element: the gradient is zero, and nothing to measure an error by
            c.check("rms_norm_backward", (dy, x, w, r.float(), d.tensor, dw.tensor), [d, dw], [lx.grad, lw.grad], 2e-5,
                    f"{rows} x {width}")
        targets = c.ints(0, width, rows)
        targets[0] = -100
        l, (leaf,) = with_gradient(lambda t: F.cross_entropy(t, targets, reduction="none", label_smoothing=0.1), x)
        weight = c.randn(rows).abs()
        l.backward(weight.double())
        loss, lse = c.new((rows,)), c.new((rows,))
        reference = torch.logsumexp(xd, -1)
        if width > 1:
            c.check("cross_entropy_forward", (x, targets, loss.tensor, lse.tensor, -100, 0.1), [loss, lse],
                    [l.detach(), reference], 1e-5, f"{rows} x {width}")
            c.check("cross_entropy_backward", (weight, x, targets, reference.float(), d.tensor, -100, 0.1), [d],
                    [leaf.grad], 2e-5, f"{rows} x {width}")

    # products
    for M, N, K in ((1, 1, 1), (3, 5, 7), (2, 40, 96), (8, 70, 128), (64, 64, 64), (129, 130, 131), (200, 77, 300)):
        for transposes in ("NN", "NT", "TN"):
            a = c.randn(K, M).t() if transposes[0] == "T" else c.randn(M, K)
            b = c.randn(N, K).t() if transposes[1] == "T" else c.randn(K, N)
            note = f"{M} x {N} x {K} {transposes}"
            o = c.new((M, N))
            c.check("matmul", (a, b, o.tensor, 0), [o], [a.double() @ b.double()], 3e-6, note)
            rounded = a.to(bf16).double() @ b.to(bf16).double()
            c.check("matmul_bf16", (a, b, o.tensor, 0), [o], [rounded], 3e-6, note + ", operands float32")
            a16, b16 = a.to(bf16), b.to(bf16)
            c.check("matmul_bf16", (a16, b16, o.tensor, 0), [o], [rounded], 3e-6, note + ", operands bfloat16")
            f16 = torch.float16
            rounded = a.to(f16).double() @ b.to(f16).double()
            for left, right in ((a, b), (a.to(f16), b.to(f16)), (a, b.to(f16))):
                o = c.new((M, N))
                c.check("matmul_f16", (left, right, o.tensor, 0), [o], [rounded], 3e-6, f"{note}, {left.dtype}/{right.dtype}")
            o = c.new((M, N))
            c.check("matmul_tf32", (a, b, o.tensor, 0), [o], [tf32(a).double() @ tf32(b).double()], 3e-6, note)
            a8, b8 = c.ints(-127, 128, M, K, dtype=torch.int8), c.ints(-127, 128, K, N, dtype=torch.int8)
            o = c.new((M, N), torch.int32)
            c.check("matmul_i8", (a8, b8, o.tensor), [o], [a8.double() @ b8.double()], 0, note)
        x, w, bias = c.randn(M, K), c.randn(N, K), c.randn(N)
        for activation, f in enumerate((lambda t: t, UNARY["gelu_tanh"], F.gelu, F.silu, F.relu)):
            pre = x.double() @ w.double().t() + bias.double()
            o, p = c.new((M, N)), c.new((M, N))
            c.check("linear", (x, w, bias, o.tensor, p.tensor, activation), [o, p], [f(pre), pre], 4e-6,
                    f"{M} x {N} x {K}, activation {activation}")
            o, p = c.new((M, N)), c.new((M, N))
            pre = x.half().double() @ w.half().double().t() + bias.double()
            c.check("linear_f16", (x, w, bias, o.tensor, p.tensor, activation), [o, p], [f(pre), pre], 4e-6,
                    f"{M} x {N} x {K}, activation {activation}")
            o, p = c.new((M, N)), c.new((M, N))
            pre = tf32(x).double() @ tf32(w).double().t() + bias.double()
            c.check("linear_tf32", (x, w, bias, o.tensor, p.tensor, activation), [o, p], [f(pre), pre], 4e-6,
                    f"{M} x {N} x {K}, activation {activation}")
        row_bytes = (K + 3) // 4 * 4
        total = (N + 31) // 32 * 32 * (row_bytes + 4)
        w8, ws = c.ints(-127, 128, N, K, dtype=torch.int8), c.randn(N).abs() + 0.1
        packed = torch.zeros(total, dtype=torch.int8, device=c.m.device)
        c.m("linear_i8_pack", w8, packed, 0)
        c.m.synchronize()
        o = c.new((M, N))
        dense = w8.double() * ws.double()[:, None]
        c.check("linear_w8a16", (x, packed, ws, bias, o.tensor, 0), [o],
                [x.double() @ dense.t() + bias.double()], 4e-6, f"{M} x {N} x {K}")
        q4, group = c.ints(-8, 8, N, K, dtype=torch.int8), 32
        scales = (c.randn(N, (K + group - 1) // group).abs() + 0.1).half().float()
        bytes4 = (N + 15) // 16 * ((scales.shape[1] + 1) // 2 * 64 + (K + 31) // 32 * 256)
        packed4 = torch.zeros(bytes4, dtype=torch.uint8, device=c.m.device)
        c.m("linear_i4_pack", q4, scales, packed4, group, 0)
        c.m.synchronize()
        back, back_scales = c.new((N, K), torch.int8), c.new(tuple(scales.shape))
        c.check("linear_i4_pack", (back.tensor, back_scales.tensor, packed4, group, 1), [back, back_scales],
                [q4, scales], 0, f"{N} x {K}")
        wide = q4.double() * scales.double().repeat_interleave(group, 1)[:, :K]
        c.check("linear_w4a16", (x, packed4, bias, o.tensor, group, 0), [o],
                [x.double() @ wide.t() + bias.double()], 4e-6, f"{M} x {N} x {K}")
        some, rows4 = c.ints(0, N, 37), c.new((37, K))
        c.check("embedding_i4", (some, packed4, rows4.tensor, N, group), [rows4], [wide[some.long()]], 1e-7, f"{N} x {K}")
        top = x.double().abs().amax(1)
        xs = torch.where(top > 0, top.float() / 127, torch.ones_like(top).float())
        inverse = torch.where(top > 0, 127 / top.float(), torch.ones_like(top).float())
        xq = (x * inverse[:, None]).round().clamp(-127, 127)
        q, s = c.new((M, K), torch.int8), c.new((M,))
        c.check("quantize_rows_i8", (x, q.tensor, s.tensor), [q, s], [xq, xs], 1e-6, f"{M} x {K}")
        if K > 8:  # dense rows that lie apart
            part = x[:, 4:]
            top4 = part.double().abs().amax(1).float()
            some = (part * torch.where(top4 > 0, 127 / top4, torch.ones_like(top4))[:, None]).round().clamp(-127, 127)
            q, s = c.new((M, K - 4), torch.int8), c.new((M,))
            c.check("quantize_rows_i8", (part, q.tensor, s.tensor), [q, s],
                    [some, torch.where(top4 > 0, top4 / 127, torch.ones_like(top4))], 1e-6, f"rows apart, {M} x {K - 4}")
        c.check("linear_w8a8", (x, packed, ws, None, o.tensor, 0), [o],
                [(xq.double() @ w8.double().t()) * xs.double()[:, None] * ws.double()[None]], 1e-6, f"{M} x {N} x {K}")
    a, b = c.randn(2, 3, 33, 20), c.randn(1, 3, 20, 17).expand(2, 3, 20, 17)
    o = c.new((2, 3, 33, 17))
    c.check("matmul", (a, b, o.tensor, 0), [o], [a.double() @ b.double()], 3e-6, "batched, broadcast")
    c.check("matmul_bf16", (a, b, o.tensor, 0), [o], [a.to(bf16).double() @ b.to(bf16).double()], 3e-6, "batched")
    c.check("matmul_tf32", (a, b, o.tensor, 0), [o], [tf32(a).double() @ tf32(b).double()], 3e-6, "batched")
    c.check("matmul_f16", (a, b, o.tensor, 0), [o], [a.half().double() @ b.half().double()], 3e-6, "batched")

    attention(c, ((1, 1, 1, 1, 1, 8, 1, 0), (2, 4, 2, 37, 37, 64, 1, 0), (1, 2, 1, 130, 200, 128, 1, 0),
                  (1, 1, 1, 70, 90, 144, 1, 0), (1, 2, 2, 5, 70, 128, 1, 0), (2, 2, 1, 33, 65, 40, 0, 0),
                  (1, 4, 4, 50, 50, 32, 1, 9), (1, 4, 1, 150, 301, 64, 1, 0), (1, 2, 1, 200, 140, 128, 0, 0),
                  (1, 1, 1, 300, 300, 100, 1, 70)))
    x, angle = c.randn(2, 3, 7, 16), c.randn(2, 7, 8)
    cos, sin = angle.double().cos(), angle.double().sin()
    first, second = x.double()[..., :8], x.double()[..., 8:]
    want = torch.cat([first * cos[:, None] - second * sin[:, None], second * cos[:, None] + first * sin[:, None]], -1)
    o = c.new(x.shape)
    c.check("rope", (x, cos.float(), sin.float(), o.tensor, 0, 1.0), [o], [want], 1e-6)

    # least squares of pruning
    for n, m in ((1, 1), (31, 5), (32, 64), (33, 300), (200, 7), (259, 130)):
        x = c.randn(n + 8, n, dtype=f64)
        a = x.t() @ x + torch.eye(n, dtype=f64, device=c.m.device)
        want, rhs = torch.linalg.cholesky(a), c.randn(n, m, dtype=f64)
        factor, solution, info = a.clone(), rhs.clone(), torch.full((1,), 77, dtype=torch.int64, device=c.m.device)
        c.m("cholesky", factor, info)
        c.m("cholesky_solve", factor, solution)
        broken, failed = a.clone(), torch.zeros(1, dtype=torch.int64, device=c.m.device)
        broken[n // 2, n // 2] = -1.0
        c.m("cholesky", broken, failed)
        c.m.synchronize()
        error = max(((factor - want).abs().max() / want.abs().max()).item(), (a @ solution - rhs).abs().max().item())
        ok = error < 1e-9 and info.item() == 0 and failed.item() == n // 2 + 1
        c.total += 1
        c.failed += not ok
        c.out.write(json.dumps({"stage": "correctness", "kernel": "cholesky", "note": f"{n} x {m}", "ok": ok, "error": error}) + "\n")

    # optimizers: one step from given states, of more parameters than one launch takes, one of them empty
    sizes = [5003, 1, 0, 1024] + [97 + 13 * i for i in range(70)]
    p, g, m0 = ([c.randn(n) for n in sizes] for _ in range(3))
    v0 = [c.randn(n).abs() for n in sizes]
    lr, b1, b2, eps, wd, step = 1e-2, 0.9, 0.99, 1e-8, 0.1, 3
    m1 = [b1 * m.double() + (1 - b1) * x.double() for m, x in zip(m0, g)]
    v1 = [b2 * v.double() + (1 - b2) * x.double() ** 2 for v, x in zip(v0, g)]
    want = [x.double() * (1 - lr * wd) - lr / (1 - b1 ** step) * m / ((v / (1 - b2 ** step)).sqrt() + eps)
            for x, m, v in zip(p, m1, v1)]
    lion = [x.double() * (1 - lr * wd) - lr * (b1 * m.double() + (1 - b1) * y.double()).sign() for x, m, y in zip(p, m0, g)]
    sgd = [x.double() - lr * (b1 * m.double() + y.double() + wd * x.double()) for x, m, y in zip(p, m0, g)]

    def stepped(name, states, references, *numbers):
        """references: of the parameters, then of the states that are given."""
        lists = [[t.clone() for t in some] for some in (p, *states)]
        c.m(name, lists[0], g, *lists[1:], *numbers)
        c.m.synchronize()
        error = max(((a.double() - b).abs().max() / b.abs().max()).item()
                    for got, some in zip(lists, references) for a, b in zip(got, some) if a.numel())
        c.total += 1
        c.failed += not error < 1e-6
        c.out.write(json.dumps({"stage": "correctness", "kernel": name, "ok": error < 1e-6, "error": error}) + "\n")

    stepped("adam", (m0, v0), (want, m1, v1), [], None, lr, b1, b2, eps, wd, 1, step)
    stepped("lion", (m0,), (lion,), None, lr, b1, b2, wd)
    stepped("sgd", (m0,), (sgd,), None, lr, b1, wd, 0)
    total = c.new((6,), f64)
    total.tensor.zero_()
    xs = [c.randn(n) for n in (100003, 7, 0, 4096)]
    c.m("sum_squares", xs, total.tensor, 1)
    c.m.synchronize()
    error = max(abs(got - (x.double() ** 2).sum().item()) / max(1, x.numel()) for got, x in zip(total.tensor[1:].tolist(), xs))
    ok = error <= 1e-12 and total.tensor[0] == 0 and total.tensor[5] == 0 and total.intact()
    c.total += 1
    c.failed += not ok
    c.out.write(json.dumps({"stage": "correctness", "kernel": "sum_squares", "ok": bool(ok), "error": error}) + "\n")
    for name, arguments in (("random_uniform", (11, 8, -1.0, 1.0)), ("random_normal", (11, 8, 0.0, 1.0))):
        o = c.new((4099,))
        c.m(name, o.tensor, *arguments)
        c.m.synchronize()
        finite = bool(o.tensor.isfinite().all()) and o.intact()
        mean = o.tensor.double().mean().item()
        c.total += 1
        ok = finite and abs(mean) < 0.1
        c.failed += not ok
        c.out.write(json.dumps({"stage": "correctness", "kernel": name, "ok": ok, "mean": mean}) + "\n")


# --- timing -----------------------------------------------------------------------------------------------------------
def time_block(run, finish, launches):
    finish()
    start = time.perf_counter()
    for _ in range(launches):
        run()
    finish()
    return (time.perf_counter() - start) / launches


def duel(c, name, ours, theirs, peer, work, unit, note=""):
    """A B A B: medians of seven blocks each."""
    finish_ours, finish_theirs = c.m.synchronize, torch.cuda.synchronize
    row = {"stage": "bench", "kernel": name, "peer": peer, "note": note, "unit": unit}
    try:
        for run, finish in ((ours, finish_ours), (theirs, finish_theirs)):
            time_block(run, finish, 3)
        single = time_block(ours, finish_ours, 2)
        launches = max(3, min(200, int(0.02 / max(single, 1e-6))))
        mine, other = [], []
        for _ in range(7):
            mine.append(time_block(ours, finish_ours, launches))
            other.append(time_block(theirs, finish_theirs, launches))
        a, b = statistics.median(mine), statistics.median(other)
        row.update(ours_ms=a * 1e3, peer_ms=b * 1e3, ratio=b / a, ours=work / a, peer_rate=work / b,
                   spread=[b / max(mine), b / min(mine)], launches=launches)
    except Exception as error:  # noqa: BLE001
        row.update(message=str(error))
    c.out.write(json.dumps(row) + "\n")
    c.out.flush()
    print(row)


def bench(c):
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    bf16 = torch.bfloat16

    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="cuda")

    for n in (1024, 4096, 8192):
        a, b = c.randn(n, n).to(bf16), c.randn(n, n).to(bf16)
        o, o16 = empty(n, n), empty(n, n, dtype=bf16)
        duel(c, "matmul_bf16", lambda: c.m("matmul_bf16", a, b.t(), o, 0), lambda: torch.mm(a, b.t(), out=o16),
             "torch bf16 (cuBLAS)", 2 * n ** 3 / 1e12, "TFLOP/s", f"{n}^3 NT, float32 out")
        h, g16 = a.half(), empty(n, n, dtype=torch.float16)
        hb = b.half()
        duel(c, "matmul_f16", lambda: c.m("matmul_f16", h, hb.t(), o, 0), lambda: torch.mm(h, hb.t(), out=g16),
             "torch float16 (cuBLAS)", 2 * n ** 3 / 1e12, "TFLOP/s", f"{n}^3 NT, float32 out")
        duel(c, "matmul_bf16", lambda: c.m("matmul_bf16", a, b, o, 0), lambda: torch.mm(a, b, out=o16),
             "torch bf16 (cuBLAS)", 2 * n ** 3 / 1e12, "TFLOP/s", f"{n}^3 NN, float32 out")
        af, bf = a.float(), b.float()
        torch.backends.cuda.matmul.allow_tf32 = True
        duel(c, "matmul_tf32", lambda: c.m("matmul_tf32", af, bf.t(), o, 0), lambda: torch.mm(af, bf.t()),
             "torch TF32 (cuBLAS)", 2 * n ** 3 / 1e12, "TFLOP/s", f"{n}^3 NT")
        torch.backends.cuda.matmul.allow_tf32 = False
        a8, b8 = c.ints(-127, 128, n, n, dtype=torch.int8), c.ints(-127, 128, n, n, dtype=torch.int8)
        o32 = empty(n, n, dtype=torch.int32)
        duel(c, "matmul_i8", lambda: c.m("matmul_i8", a8, b8.t(), o32), lambda: torch._int_mm(a8, b8.t()),
             "torch._int_mm", 2 * n ** 3 / 1e12, "TOP/s", f"{n}^3 NT")
    for n in (1024, 4096):
        a, b, o = c.randn(n, n), c.randn(n, n), empty(n, n)
        duel(c, "matmul", lambda: c.m("matmul", a, b, o, 0), lambda: torch.mm(a, b, out=o), "torch float32",
             2 * n ** 3 / 1e12, "TFLOP/s", f"{n}^3")
    for T, D in ((1024, 64), (4096, 128)):
        q, k, v = (c.randn(2, 16, T, D) for _ in range(3))
        o, lse = empty(2, 16, T, D), empty(2, 16, T)
        flops = 4 * 2 * 16 * T * T * D / 2 / 1e12
        duel(c, "attention_forward",
             lambda: c.m("attention_forward", q, k, v, None, None, None, o, lse, D ** -0.5, 1, 0),
             lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), "torch SDPA float32", flops, "TFLOP/s",
             f"causal, 32 heads, T {T}, D {D}")
        q, k, v = (t.to(bf16) for t in (q, k, v))
        o = empty(2, 16, T, D).to(bf16)
        duel(c, "attention_bf16_forward",
             lambda: c.m("attention_bf16_forward", q, k, v, None, None, None, o, lse, D ** -0.5, 1, 0),
             lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), "torch SDPA bfloat16", flops, "TFLOP/s",
             f"causal, 32 heads, T {T}, D {D}")
        q, k, v, g = (c.randn(2, 16, T, D) for _ in range(4))
        dq, dk, dv, o = (empty(2, 16, T, D) for _ in range(4))
        c.m("attention_bf16_forward", q, k, v, None, None, None, o, lse, D ** -0.5, 1, 0)
        leaves = [t.to(bf16).requires_grad_() for t in (q, k, v)]
        y, gh = F.scaled_dot_product_attention(*leaves, is_causal=True), g.to(bf16)
        duel(c, "attention_bf16_backward",
             lambda: c.m("attention_bf16_backward", g, q, k, v, None, None, None, o, lse, dq, dk, dv, None,
                         D ** -0.5, 1, 0),
             lambda: torch.autograd.grad(y, leaves, gh, retain_graph=True), "torch SDPA bfloat16", flops * 2.5,
             "TFLOP/s", f"causal, 32 heads, T {T}, D {D}, gradients in float32")
    rows, width = 16384, 4096
    x, o, w = c.randn(rows, width), empty(rows, width), c.randn(width)
    mean, rstd = empty(rows), empty(rows)
    gigabytes = rows * width * 8 / 1e9
    duel(c, "copy", lambda: c.m("copy", x, o), lambda: o.copy_(x), "torch copy_", gigabytes, "GB/s")
    duel(c, "add", lambda: c.m("add", x, x, o), lambda: torch.add(x, x, out=o), "torch add", gigabytes * 1.5, "GB/s")
    duel(c, "gelu_tanh_forward", lambda: c.m("gelu_tanh_forward", x, o),
         lambda: F.gelu(x, approximate="tanh"), "torch gelu", gigabytes, "GB/s")
    duel(c, "softmax_forward", lambda: c.m("softmax_forward", x, o), lambda: F.softmax(x, -1), "torch softmax",
         gigabytes, "GB/s", f"{rows} x {width}")
    duel(c, "layer_norm_forward", lambda: c.m("layer_norm_forward", x, w, w, o, mean, rstd, 1e-5),
         lambda: F.layer_norm(x, (width,), w, w), "torch layer_norm", gigabytes, "GB/s", f"{rows} x {width}")
    duel(c, "rms_norm_forward", lambda: c.m("rms_norm_forward", x, w, o, rstd, 1e-5),
         lambda: F.rms_norm(x, (width,), w), "torch rms_norm", gigabytes, "GB/s", f"{rows} x {width}")
    logits, targets = c.randn(4096, 50257), c.ints(0, 50257, 4096)
    loss, lse, d = empty(4096), empty(4096), empty(4096, 50257)
    leaf = logits.clone().requires_grad_()

    def ours():
        c.m("cross_entropy_forward", logits, targets, loss, lse, -100, 0.0)
        c.m("cross_entropy_backward", loss, logits, targets, lse, d, -100, 0.0)

    def theirs():
        leaf.grad = None
        F.cross_entropy(leaf, targets).backward()

    duel(c, "cross_entropy forward + backward", ours, theirs, "torch cross_entropy", 4096 * 50257 * 12 / 1e9, "GB/s")
    n, k = 8192, 8192
    x, w = c.randn(1, k), (c.randn(1024, k).repeat(n // 1024, 1)).to(bf16)
    x16, y, y16 = x.to(bf16), empty(1, n), empty(1, n, dtype=bf16)
    duel(c, "linear_bf16, one row", lambda: c.m("linear_bf16", x, w, None, y, None, 0), lambda: torch.mm(x16, w.t(), out=y16),
         "torch bf16 (cuBLAS)", n * k * 2 / 1e9, "GB/s", f"{n} x {k}")
    duel(c, "matmul_bf16, one row", lambda: c.m("matmul_bf16", x, w, y, 0), lambda: torch.mm(x16, w, out=y16),
         "torch bf16 (cuBLAS)", n * k * 2 / 1e9, "GB/s", f"{k} x {n}, outputs side by side")
    n = 1 << 27
    p, g, m, v = (c.randn(1 << 20).repeat(n >> 20) for _ in range(4))
    v.abs_()
    parameter = torch.nn.Parameter(p.clone())
    parameter.grad = g
    adamw = torch.optim.AdamW([parameter], lr=1e-4, fused=True)
    duel(c, "adam", lambda: c.m("adam", [p], [g], [m], [v], [], None, 1e-4, 0.9, 0.999, 1e-8, 0.01, 1, 5), adamw.step,
         "torch AdamW fused", n * 28 / 1e9, "GB/s", f"{n} parameters")


def attention(c, shapes):
    bf16 = torch.bfloat16
    for B, H, Hkv, Tq, Tk, D, causal, window in shapes:
        q, k, v, dout = c.randn(B, H, Tq, D), c.randn(B, Hkv, Tk, D), c.randn(B, Hkv, Tk, D), c.randn(B, H, Tq, D)
        i, j = torch.arange(Tq, device=c.m.device)[:, None], torch.arange(Tk, device=c.m.device)[None]
        seen = torch.ones(Tq, Tk, dtype=torch.bool, device=c.m.device)
        if causal:
            seen &= j <= i + Tk - Tq
        if window:
            seen &= j > i + Tk - Tq - window
        scale = 1 / math.sqrt(D)

        def scores(a, b):
            return (a @ b.repeat_interleave(H // Hkv, 1).transpose(-1, -2) * scale).masked_fill(~seen, -math.inf)

        y, (lq, lk, lv) = with_gradient(
            lambda a, b, e: F.softmax(scores(a, b), -1) @ e.repeat_interleave(H // Hkv, 1), q, k, v)
        y.backward(dout.double())
        lse_reference = torch.logsumexp(scores(q.double(), k.double()), -1)
        o, lse = c.new(q.shape), c.new((B, H, Tq))
        note = f"B{B} H{H}/{Hkv} {Tq}x{Tk} D{D} causal {causal} window {window}"
        c.check("attention_forward", (q, k, v, None, None, None, o.tensor, lse.tensor, scale, causal, window),
                [o, lse], [y.detach(), lse_reference], 1e-5, note)
        # operands of 8 bits, and weights rounded again before they meet the values
        qh, kh, vh = q.to(bf16), k.to(bf16), v.to(bf16)
        want = F.softmax(scores(qh.double(), kh.double()), -1) @ vh.double().repeat_interleave(H // Hkv, 1)
        want_lse = torch.logsumexp(scores(qh.double(), kh.double()), -1)
        for operands, dtype in (((qh, kh, vh), bf16), ((q, k, v), torch.float32), ((q, kh, vh), torch.float32)):
            o, lse = c.new(q.shape, dtype), c.new((B, H, Tq))
            c.check("attention_bf16_forward",
                    (*operands, None, None, None, o.tensor, lse.tensor, scale, causal, window),
                    [o, lse], [want, want_lse], 1e-2, note + f" {operands[0].dtype}/{operands[1].dtype}")
        # int8 keys and values with a scale per row
        kq, vq = c.ints(-127, 128, *k.shape, dtype=torch.int8), c.ints(-127, 128, *v.shape, dtype=torch.int8)
        ks, vs = c.randn(B, Hkv, Tk).abs() / 100 + 0.001, c.randn(B, Hkv, Tk).abs() / 100 + 0.001
        k8, v8 = kq.double() * ks.double()[..., None], vq.double() * vs.double()[..., None]
        o, lse = c.new(q.shape), c.new((B, H, Tq))
        c.check("attention_i8_forward", (q, kq, ks, vq, vs, None, None, None, o.tensor, lse.tensor, scale, causal, window),
                [o, lse], [F.softmax(scores(q.double(), k8), -1) @ v8.repeat_interleave(H // Hkv, 1),
                           torch.logsumexp(scores(q.double(), k8), -1)], 1e-5, note)
        if Tk == 1:  # one key: the gradients of q and k are zero
            continue
        dq, dk, dv = c.new(q.shape), c.new(k.shape), c.new(v.shape)
        c.check("attention_backward", (dout, q, k, v, None, None, None, y.detach().float(), lse_reference.float(),
                                       dq.tensor, dk.tensor, dv.tensor, None, scale, causal, window),
                [dq, dk, dv], [lq.grad, lk.grad, lv.grad], 3e-5, note)
        dq, dk, dv = c.new(q.shape), c.new(k.shape), c.new(v.shape)
        c.check("attention_bf16_backward", (dout, q, k, v, None, None, None, y.detach().float(), lse_reference.float(),
                                            dq.tensor, dk.tensor, dv.tensor, None, scale, causal, window),
                [dq, dk, dv], [lq.grad, lk.grad, lv.grad], 2e-2, note)


def hopper(c):
    """What runs only where ROOTS_CUDA_HOPPER=1 asks for it, gemm/sm90.cuh and attention_sm90*.cuh: correctness, then speed."""
    bf16 = torch.bfloat16
    sizes = [(128, 256, 64), (64, 64, 64), (129, 300, 200), (257, 513, 448)]
    if not c.m.emulated:
        sizes += [(1000, 776, 1032), (2048, 2048, 2048), (4096, 512, 4096), (77, 50257, 768)]
    for m, n, k in sizes:
        for turn_a in (False, True):
            for turn_b in (False, True):
                for dtype in (torch.float32, bf16):
                    a = c.randn(k, m).to(dtype).t() if turn_a else c.randn(m, k).to(dtype)
                    b = c.randn(n, k).to(dtype).t() if turn_b else c.randn(k, n).to(dtype)
                    o = c.new((m, n))
                    half = torch.float16 if dtype is bf16 else dtype
                    ah, bh = a.to(half), b.to(half)
                    c.check("matmul_f16", (ah, bh, o.tensor, 0), [o], [ah.half().double() @ bh.half().double()], 3e-6,
                            f"Hopper {m}x{n}x{k} {'T' if turn_a else 'N'}{'T' if turn_b else 'N'} {half}")
                    o = c.new((m, n))
                    c.check("matmul_bf16", (a, b, o.tensor, 0), [o], [a.to(bf16).double() @ b.to(bf16).double()], 3e-6,
                            f"Hopper {m}x{n}x{k} {'T' if turn_a else 'N'}{'T' if turn_b else 'N'} {dtype}")
        a, b = c.ints(-127, 128, m, k, dtype=torch.int8), c.ints(-127, 128, n, k, dtype=torch.int8)
        o = c.new((m, n), torch.int32)
        c.check("matmul_i8", (a, b.t(), o.tensor), [o], [a.double() @ b.t().double()], 0, f"Hopper {m}x{n}x{k}")
    shapes = [(1, 2, 1, 130, 200, 128, 1, 0), (1, 4, 1, 150, 301, 64, 1, 0), (2, 2, 1, 200, 140, 128, 0, 0),
              (1, 1, 1, 600, 600, 100, 1, 70), (2, 2, 2, 64, 513, 40, 1, 0)]
    if not c.m.emulated:
        shapes += [(2, 8, 2, 2048, 2048, 128, 1, 0), (1, 4, 4, 1000, 3000, 64, 0, 0)]
    attention(c, shapes)
    if c.m.emulated:
        return
    for T, D, causal in ((1024, 64, True), (4096, 128, True), (8192, 128, True), (8192, 128, False)):
        q, k, v = (c.randn(2, 16, T, D).to(bf16) for _ in range(3))
        o, lse = torch.empty_like(q), torch.empty(2, 16, T, device="cuda")
        duel(c, "attention_bf16_forward (Hopper)",
             lambda: c.m("attention_bf16_forward", q, k, v, None, None, None, o, lse, D ** -0.5, int(causal), 0),
             lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal), "torch SDPA bfloat16",
             4 * 2 * 16 * T * T * D / (2 if causal else 1) / 1e12, "TFLOP/s",
             f"{'causal' if causal else 'full'}, 32 heads, T {T}, D {D}")
        q, k, v, g = (c.randn(2, 16, T, D) for _ in range(4))
        dq, dk, dv, o = (torch.empty(2, 16, T, D, device="cuda") for _ in range(4))
        c.m("attention_bf16_forward", q, k, v, None, None, None, o, lse, D ** -0.5, int(causal), 0)
        leaves = [t.to(bf16).requires_grad_() for t in (q, k, v)]
        y, gh = F.scaled_dot_product_attention(*leaves, is_causal=causal), g.to(bf16)
        duel(c, "attention_bf16_backward (Hopper)",
             lambda: c.m("attention_bf16_backward", g, q, k, v, None, None, None, o, lse, dq, dk, dv, None,
                         D ** -0.5, int(causal), 0),
             lambda: torch.autograd.grad(y, leaves, gh, retain_graph=True), "torch SDPA bfloat16",
             2.5 * 4 * 2 * 16 * T * T * D / (2 if causal else 1) / 1e12, "TFLOP/s",
             f"{'causal' if causal else 'full'}, 32 heads, T {T}, D {D}, gradients in float32")
    for n in (1024, 4096, 8192):
        a, b = c.randn(n, n).to(bf16), c.randn(n, n).to(bf16)
        o, o16 = (torch.empty(n, n, device="cuda", dtype=d) for d in (torch.float32, bf16))
        for left, right, note in ((a, b.t(), "NT"), (a, b, "NN"), (a.t(), b, "TN")):
            duel(c, "matmul_bf16 (Hopper)", lambda: c.m("matmul_bf16", left, right, o, 0),
                 lambda: torch.mm(left, right, out=o16), "torch bf16 (cuBLAS)", 2 * n ** 3 / 1e12, "TFLOP/s",
                 f"{n}^3 {note}, float32 out")
        a8, b8 = c.ints(-127, 128, n, n, dtype=torch.int8), c.ints(-127, 128, n, n, dtype=torch.int8)
        o32 = torch.empty(n, n, device="cuda", dtype=torch.int32)
        duel(c, "matmul_i8 (Hopper)", lambda: c.m("matmul_i8", a8, b8.t(), o32), lambda: torch._int_mm(a8, b8.t()),
             "torch._int_mm", 2 * n ** 3 / 1e12, "TOP/s", f"{n}^3 NT")


def ladder(c):
    """One tile of each primitive, in the order in which they build on each other: the first that fails is where to look. Small enough for
    compute-sanitizer."""
    bf16, f16 = torch.bfloat16, torch.float16

    def launch():
        x, o = c.randn(33), c.new((33,))
        c.check("affine", (x, o.tensor, 2.0, 1.0), [o], [x.double() * 2 + 1], 1e-6, "a launch, copies")

    def reductions():
        x, o = c.randn(3, 70), c.new((3, 70))
        c.check("softmax_forward", (x, o.tensor), [o], [F.softmax(x.double(), -1)], 4e-6, "shuffles, block reductions")

    def sort():
        ids, dy, o = c.ints(0, 9, 40), c.randn(40, 6), c.new((9, 6))
        want = torch.zeros(9, 6, dtype=torch.float64, device=c.m.device).index_add_(0, ids, dy.double())
        c.check("embedding_backward", (dy, ids, o.tensor), [o], [want], 1e-5, "a radix sort", start=0.0)

    def products(m, n, k, note, layouts=("NT",)):
        for layout in layouts:
            a = c.randn(k, m).t() if layout[0] == "T" else c.randn(m, k)
            b = c.randn(n, k).t() if layout[1] == "T" else c.randn(k, n)
            for name, half in (("matmul_bf16", bf16), ("matmul_f16", f16)):
                left, right, o = a.to(half), b.to(half), c.new((m, n))
                c.check(name, (left, right, o.tensor, 0), [o], [left.double() @ right.double()], 3e-6, f"{note}, {m}x{n}x{k} {layout}")
        o, (a8, b8) = c.new((m, n), torch.int32), (c.ints(-127, 128, r, k, dtype=torch.int8) for r in (m, n))
        c.check("matmul_i8", (a8, b8.t(), o.tensor), [o], [a8.double() @ b8.t().double()], 0, f"{note}, {m}x{n}x{k}")

    def tf32_product():
        a, b, o = c.randn(16, 16), c.randn(8, 16), c.new((16, 8))
        c.check("matmul_tf32", (a, b.t(), o.tensor, 0), [o], [tf32(a).double() @ tf32(b).double().t()], 3e-6, "mma.sync, tf32")

    rungs = [launch, reductions, sort, tf32_product,
             lambda: products(16, 16, 32, "mma.sync, ldmatrix"),
             lambda: attention(c, [(1, 1, 1, 16, 32, 64, 0, 0)]),  # cp.async, ldmatrix transposed
             # TMA and wgmma where the GPU has them: both majors of both operands, boxes that reach beyond the matrix, several stages
             lambda: products(64, 64, 64, "one tile", ("NN", "NT", "TN", "TT")),
             lambda: products(65, 67, 72, "beyond the edge", ("NN", "NT", "TN", "TT")),
             lambda: products(130, 260, 448, "stages"),
             lambda: attention(c, [(1, 1, 1, 64, 128, 64, 0, 0), (1, 2, 1, 70, 200, 128, 1, 0)])]
    for rung in rungs:
        rung()
        if c.failed:
            print("the ladder ends here: later rungs build on what failed")
            return


def sweep(c):
    """Where the kernels for Hopper gain over mma.sync: the same products in this process with or without them, for the table of main()."""
    if c.m.emulated:
        print("timing skipped: an emulated device has no speed")
        return
    wanted = os.environ.get("ROOTS_CUDA_HOPPER") == "1"
    for m, n, k in ((64, 768, 768), (128, 2304, 768), (512, 3072, 768), (1024, 1024, 1024), (64, 4096, 14336), (2048, 4096, 4096),
                    (8192, 50257, 768)):
        for dtype, name in ((torch.bfloat16, "matmul_bf16"), (torch.float16, "matmul_f16"), (torch.float32, "matmul_bf16")):
            a, b, o = c.randn(m, k).to(dtype), c.randn(n, k).to(dtype), torch.empty(m, n, device="cuda")
            run = lambda: c.m(name, a, b.t(), o, 0)  # noqa: E731
            time_block(run, c.m.synchronize, 3)
            launches = max(3, min(100, int(0.02 / max(time_block(run, c.m.synchronize, 2), 1e-6))))
            ms = statistics.median(time_block(run, c.m.synchronize, launches) for _ in range(5)) * 1e3
            c.out.write(json.dumps({"stage": "sweep", "kernel": name, "note": f"{m}x{n}x{k} of {dtype}", "hopper": wanted, "ms": ms}) + "\n")
    c.out.flush()


def graphs(c):
    """What ROOTS_CUDA_GRAPHS=1 does, native/cuda/graph.cuh: updated graphs compute what single launches do; then what they save."""
    expected = [1, 1, 1, 2, 3]  # graphs made so far: new arguments, other kernels, and back again
    for turn, more in enumerate((0, 0, 0, 3, 0)):
        c.total += 1
        n = 1000 + 64 * turn  # other sizes: other grids
        x, y, out = c.randn(n), c.randn(n), c.new((n,))
        between = [torch.empty(n, device=c.m.device) for _ in range(2)]
        if not c.m.emulated:
            torch.cuda.synchronize()

        def run():
            c.m("add", x, y, between[0])
            c.m("affine", between[0], between[1], 0.5 + turn, 1.0)
            for _ in range(more):
                c.m("mul", between[1], y, between[1])
            c.m("tanh_forward", between[1], out.tensor)

        c.m.graph(7, run)
        c.m.synchronize()
        want = (x.double() + y.double()) * (0.5 + turn) + 1.0
        for _ in range(more):
            want = want * y.double()
        error = (out.tensor.double() - torch.tanh(want)).abs().max().item()
        sent, made = c.m.graph_counts()
        ok = error <= 1e-5 and out.intact() and (sent, made) == (turn + 1, expected[turn])
        c.failed += not ok
        c.out.write(json.dumps({"stage": "correctness", "kernel": "graph", "note": f"{4 + more - 1} kernels of {n}, turn {turn}",
                                "error": error, "sent": sent, "made": made, "ok": ok}) + "\n")
    c.out.flush()
    if c.m.emulated:
        return
    for n, count in ((256, 200), (1 << 20, 200)):
        x, out = c.randn(n), torch.empty(n, device="cuda")

        def launches():
            for _ in range(count):
                c.m("add", x, x, out)

        duel(c, "graph", lambda: c.m.graph(n, launches), launches, "single launches", count / 1e6, "launches/us",
             f"{count} additions of {n} floats, captured and updated each time")


def main():
    stage, path, out = sys.argv[1:4]
    if stage in ("hopper", "ladder"):
        os.environ["ROOTS_CUDA_HOPPER"] = "1"
    if stage == "graphs":
        os.environ["ROOTS_CUDA_GRAPHS"] = "1"
    results = os.path.join(out, "results.jsonl")
    if stage == "table":
        rows = [json.loads(line) for line in open(results)]
        checks = [r for r in rows if r.get("stage") == "correctness" and "kernel" in r]
        bad = [r for r in checks if not r["ok"]]
        print(f"correctness: {len(checks) - len(bad)} of {len(checks)} passed, {len({r['kernel'] for r in checks})} kernels")
        for r in bad:
            print("  FAILED", r)
        for r in rows:
            if r.get("stage") == "bench" and "ratio" in r:
                print(f"{r['kernel']:34} {r['note']:34} {r['ours']:9.1f} {r['unit']:8} {r['ratio']:6.2f} x {r['peer']}")
        swept = {(r["kernel"], r["note"], r["hopper"]): r["ms"] for r in rows if r.get("stage") == "sweep"}
        for (kernel, note, hopper_used), ms in swept.items():
            if hopper_used and (kernel, note, False) in swept:
                print(f"{kernel:34} {note:34} mma.sync {swept[kernel, note, False]:.3f} ms, wgmma {ms:.3f} ms")
        return 0
    module = Module(path)
    if stage == "probe":
        environment = {"date": time.strftime("%Y-%m-%d"), "device": module.description, "torch": torch.__version__,
                       "cuda": torch.version.cuda, "module": os.path.basename(path), "emulated": module.emulated}
        if not module.emulated:
            properties = torch.cuda.get_device_properties(0)
            environment.update(name=properties.name, multiprocessors=properties.multi_processor_count,
                               memory=properties.total_memory)
        json.dump(environment, open(os.path.join(out, "env.json"), "w"), indent=2)
        print(environment)
        return 0
    with open(results, "a") as file:
        checks = Checks(module, file)
        if stage == "bench":
            if module.emulated:
                print("timing skipped: an emulated device has no speed")
                return 0
            bench(checks)
            return 0
        {"hopper": hopper, "graphs": graphs, "correctness": correctness, "ladder": ladder, "sweep": sweep}[stage](checks)
        print(f"{checks.total - checks.failed} of {checks.total} checks passed")
        return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
