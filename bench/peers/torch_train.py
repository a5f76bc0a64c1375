"""PyTorch's side of `roots bench train`: the same GPT, batch and AdamW; one JSON line per request on standard input.

Reads {"layers", "heads", "dim", "context", "batch", "vocab", "threads", "dtype", "compile"}, then one line "steps N" per measurement;
answers {"ready": true} and {"ms": [...], "loss": ..., "rss": ...}. Needs torch; nothing of it belongs to the package.
"""
import json
import resource
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.ln1(x)).split(c, dim=2)
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).contiguous().view(b, t, c))
        return x + self.down(F.gelu(self.up(self.ln2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.wte = nn.Embedding(o["vocab"], o["dim"])
        self.wpe = nn.Embedding(o["context"], o["dim"])
        self.blocks = nn.ModuleList(Block(o["dim"], o["heads"]) for _ in range(o["layers"]))
        self.ln = nn.LayerNorm(o["dim"])
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def main():
    o = json.loads(sys.stdin.readline())
    torch.set_num_threads(o["threads"])
    torch.manual_seed(1)
    model = GPT(o)
    step_model = torch.compile(model) if o.get("compile") else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(o["vocab"], (o["batch"], o["context"]))
    bf16 = o.get("dtype") == "bfloat16"

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = step_model(ids, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    for _ in range(o.get("warmup", 5)):
        step()
    print(json.dumps({"ready": True, "version": torch.__version__}), flush=True)
    for line in sys.stdin:
        ms = []
        for _ in range(int(line.split()[1])):
            start = time.perf_counter()
            loss = step()
            ms.append(1000 * (time.perf_counter() - start))
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"ms": ms, "loss": loss, "rss": rss}), flush=True)


if __name__ == "__main__":
    main()
