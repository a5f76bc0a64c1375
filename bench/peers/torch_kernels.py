"""PyTorch's side of `roots bench` (protocol.py). Needs torch; nothing of it belongs to the package."""
import sys

import torch
import torch.nn.functional as F

from protocol import serve

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def dtype(spec):
    return DTYPES[spec.get("dtype", "float32")]


def matmul(s):
    a, b = torch.randn(s["m"], s["k"]).to(dtype(s)), torch.randn(s["k"], s["n"]).to(dtype(s))
    # a transposed operand is a view of a dense one
    a = a.t().contiguous().t() if s["layout"][0] == "t" else a
    b = b.t().contiguous().t() if s["layout"][1] == "t" else b
    return lambda: torch.matmul(a, b)


def linear(s):
    x, w = torch.randn(s["m"], s["k"]).to(dtype(s)), torch.randn(s["n"], s["k"]).to(dtype(s))
    return lambda: F.linear(x, w)


def swiglu(s):
    x = torch.randn(s["m"], s["dim"])
    gate, up, down = (torch.randn(n, k) * 0.02 for n, k in [(s["hidden"], s["dim"])] * 2 + [(s["dim"], s["hidden"])])
    return lambda: x + F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def int_mm(s):
    a = torch.randint(-127, 127, (s["m"], s["k"]), dtype=torch.int8)
    b = torch.randint(-127, 127, (s["k"], s["n"]), dtype=torch.int8)
    return lambda: torch._int_mm(a, b)


def linear_dynamic_int8(s):
    n = s["n"]
    w = torch.quantize_per_channel(
        torch.randn(n, s["k"]) * 0.02, torch.full((n,), 1e-3), torch.zeros(n, dtype=torch.int64), 0, torch.qint8
    )
    packed, x = torch.ops.quantized.linear_prepack(w, None), torch.randn(s["m"], s["k"])
    return lambda: torch.ops.quantized.linear_dynamic(x, packed)


def attention(s):
    def make(t):
        return torch.randn(s["b"], s["h"], t, s["d"]).to(dtype(s)).requires_grad_(s.get("backward", False))

    q, k, v = make(s["tq"]), make(s["tk"]), make(s["tk"])
    causal = s["causal"]
    if not s.get("backward"):
        return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    dy, out = torch.randn_like(q), F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return lambda: torch.autograd.grad(out, (q, k, v), dy, retain_graph=True)


def gelu(s):
    x = torch.randn(s["rows"], s["columns"])
    return lambda: F.gelu(x, approximate="tanh")


def layer_norm(s):
    n = s["columns"]
    x, w, b = torch.randn(s["rows"], n), torch.ones(n), torch.zeros(n)
    return lambda: F.layer_norm(x, (n,), w, b)


def softmax(s):
    x = torch.randn(s["rows"], s["columns"])
    return lambda: torch.softmax(x, -1)


def add(s):
    x, y = torch.randn(s["rows"], s["columns"]), torch.randn(s["rows"], s["columns"])
    return lambda: x + y


def cross_entropy(s):
    x = torch.randn(s["rows"], s["columns"], requires_grad=True)
    t = torch.randint(0, s["columns"], (s["rows"],))

    def run():
        x.grad = None
        F.cross_entropy(x, t).backward()

    return run


def adamw(s):
    p = torch.randn(s["rows"], s["columns"], requires_grad=True)
    p.grad = torch.randn_like(p)
    opt = torch.optim.AdamW([p], lr=1e-4, fused=True)
    return opt.step


def train_step(s):
    from torch_train import GPT

    model = GPT(s)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(s["vocab"], (s["batch"], s["context"]))
    bf16 = s["dtype"] == "bfloat16"

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(ids, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


LOADED = {}  # the last model, so that prefill and decode share it


def language_model(s):
    from transformers import AutoModelForCausalLM

    key = (s["folder"], s["dtype"])
    if key not in LOADED:
        LOADED.clear()
        LOADED[key] = AutoModelForCausalLM.from_pretrained(s["folder"], dtype=dtype(s)).eval()
    model = LOADED[key]
    count = s["tokens"]
    return model, torch.tensor([[(i * 7919 + 13) % model.config.vocab_size for i in range(max(count, 1))]])


def model_prefill(s):
    model, ids = language_model(s)
    return lambda: model(ids, logits_to_keep=1, use_cache=False)


def model_decode(s):
    model, ids = language_model(s)
    cache = model(ids, use_cache=True).past_key_values if s["tokens"] > 0 else None
    one = ids[:, :1]

    def step():
        if cache is not None:
            cache.crop(s["tokens"])
        model(one, past_key_values=cache, use_cache=True)

    return step


OPERATIONS = {
    f.__name__: f
    for f in (
        matmul, linear, swiglu, int_mm, linear_dynamic_int8, attention, gelu, layer_norm, softmax, add, cross_entropy,
        adamw, train_step, model_prefill, model_decode,
    )
}


def prepare(spec):
    needs_grad = spec.get("backward") or spec["op"] in ("cross_entropy", "adamw", "train_step")
    torch.set_grad_enabled(bool(needs_grad))
    return OPERATIONS[spec["op"]](spec)


torch.set_num_threads(int(sys.argv[1]))
serve("torch", torch.__version__, f"{torch.get_num_threads()} threads, eager", prepare)
