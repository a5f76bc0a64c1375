// Modules against torch.nn: its state dicts load, outputs and all gradients are equal. Needs the Python named by ROOTS_PEER_PYTHON.
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { concat, nn, tensor, tidy } from '../../lib/index.js';
import type { Tensor } from '../../lib/index.js';
import { expectClose, numbers } from '../harness.js';

const python = process.env['ROOTS_PEER_PYTHON'];
const prelude = `
import json, torch
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
nn = torch.nn
x = torch.randn(2, 5, 8, requires_grad=True)
source = torch.randn(2, 7, 8, requires_grad=True)
padding = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]], dtype=torch.bool)
causal = nn.Transformer.generate_square_subsequent_mask(5)
def values(t): return {"shape": list(t.shape), "values": t.detach().flatten().tolist()}
def report(module, y):
    (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum().backward()
    print(json.dumps({
        "inputs": {"x": values(x), "source": values(source)},
        "state": {n: values(p) for n, p in module.state_dict().items()},
        "y": values(y),
        "gradients": {n: values(p.grad) for n, p in module.named_parameters()},
        "dx": values(x.grad),
    }))
def shaken(module):
    for p in module.parameters(): p.data += 0.1 * torch.randn(p.shape)
    return module
`;

interface Values {
  shape: number[];
  values: number[];
}
interface Report {
  inputs: { x: Values; source: Values };
  state: Record<string, Values>;
  y: Values;
  gradients: Record<string, Values>;
  dx: Values;
}

const f64 = { dtype: 'float64' } as const;
const layer = { dim: 8, heads: 2, hidden: 16, ...f64 };
const torchLayer = (kind: string, norm: boolean, activation: string): string =>
  `nn.Transformer${kind}(nn.Transformer${kind}Layer(8, 2, 16, dropout=0, activation="${activation}", batch_first=True, norm_first=${norm ? 'True' : 'False'}), 2${norm ? ', norm=nn.LayerNorm(8)' : ''})`;

const keyMask = (): Tensor =>
  tensor([
    [1, 1, 1, 1, 1],
    [1, 1, 1, 0, 0],
  ]);

interface Case {
  name: string;
  torch: string;
  call: string;
  make: () => nn.Module;
  run: (module: never, x: Tensor, source: Tensor) => Tensor;
}

const cases: Case[] = [
  ...[true, false].flatMap((preNorm) =>
    (['relu', 'gelu'] as const).map((activation): Case => ({
      name: `encoder, ${preNorm ? 'pre' : 'post'}-norm, ${activation}, padded`,
      torch: torchLayer('Encoder', preNorm, activation),
      call: 'm(x, src_key_padding_mask=padding)',
      make: () => new nn.TransformerEncoder(2, { ...layer, preNorm, activation }),
      run: (m: nn.TransformerEncoder, x) => m.forward(x, { keyMask: keyMask() }),
    })),
  ),
  ...[true, false].map((preNorm): Case => ({
    name: `decoder, ${preNorm ? 'pre' : 'post'}-norm`,
    torch: torchLayer('Decoder', preNorm, 'relu'),
    call: 'm(x, source, tgt_mask=causal, tgt_is_causal=True)',
    make: () => new nn.TransformerDecoder(2, { ...layer, preNorm, activation: 'relu' }),
    run: (m: nn.TransformerDecoder, x, source) => m.forward(x, source),
  })),
  {
    name: 'attention to itself',
    torch: 'nn.MultiheadAttention(8, 2, batch_first=True)',
    call: 'm(x, x, x)[0]',
    make: () => new nn.MultiHeadAttention({ embedDim: 8, numHeads: 2, ...f64 }),
    run: (m: nn.MultiHeadAttention, x) => m.forward(x).output,
  },
  {
    name: 'attention to a source, its weights',
    torch: 'nn.MultiheadAttention(8, 2, batch_first=True)',
    call: '(lambda o, w: torch.cat([o.flatten(), w.flatten()]))(*m(x, source, source, average_attn_weights=False))',
    make: () => new nn.MultiHeadAttention({ embedDim: 8, numHeads: 2, ...f64 }),
    run: (m: nn.MultiHeadAttention, x, source) => {
      const { output, weights } = m.forward(x, source, { needWeights: true });
      return concat([output.flatten(), weights!.flatten()]);
    },
  },
  {
    name: 'LSTM of two layers',
    torch: 'nn.LSTM(8, 6, 2, batch_first=True)',
    call: 'm(x)[0]',
    make: () => new nn.LSTM({ inputSize: 8, hiddenSize: 6, numLayers: 2, ...f64 }),
    run: (m: nn.LSTM, x) => m.forward(x).y,
  },
  {
    name: 'GRU of two layers',
    torch: 'nn.GRU(8, 6, 2, batch_first=True)',
    call: 'm(x)[0]',
    make: () => new nn.GRU({ inputSize: 8, hiddenSize: 6, numLayers: 2, ...f64 }),
    run: (m: nn.GRU, x) => m.forward(x).y,
  },
  {
    name: 'Sequential of Linear, LayerNorm and Linear',
    torch:
      'nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 3, bias=False))',
    call: 'm(x)',
    make: () =>
      new nn.Sequential(
        new nn.Linear(8, 12, f64),
        new nn.LayerNorm(12, f64),
        (y) => y.gelu(),
        new nn.Linear(12, 3, { bias: false, ...f64 }),
      ),
    run: (m: nn.Sequential, x) => m.forward(x),
  },
];

describe.skipIf(!python)(
  `modules against torch.nn (M06)${python ? '' : ' (skipped: set ROOTS_PEER_PYTHON)'}`,
  () => {
    it.each(cases)('$name', async ({ torch, call, make, run }) => {
      const script = `${prelude}m = shaken(${torch}).train()\nreport(m, ${call})`;
      const child = spawnSync(python!, ['-W', 'ignore', '-c', script], { encoding: 'utf8' });
      expect(child.status, child.stderr.slice(-2000)).toBe(0);
      const wanted = JSON.parse(child.stdout) as Report;
      const of = (v: Values): Tensor => tensor(Float64Array.from(v.values), { shape: v.shape });
      const module = make().train().requiresGrad();
      module.loadStateDict(new Map(Object.entries(wanted.state).map(([n, v]) => [n, of(v)])));
      const x = of(wanted.inputs.x).setRequiresGrad();
      const y = run(module as never, x, of(wanted.inputs.source));
      const tolerance = { rtol: 1e-9, atol: 1e-11 };
      expectClose(await numbers(y), wanted.y.values, tolerance, 'y');
      const weights = Float64Array.from({ length: y.size }, (_, i) => Math.sin(i));
      tidy(() =>
        y
          .mul(tensor(weights, { shape: y.shape }))
          .sum()
          .backward(),
      );
      expectClose(await numbers(x.grad!), wanted.dx.values, tolerance, 'dx');
      for (const [name, p] of module.namedParameters())
        expectClose(await numbers(p.grad!), wanted.gradients[name]!.values, tolerance, name);
    });
  },
);
