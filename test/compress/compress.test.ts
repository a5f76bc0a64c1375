import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { LanguageModel, compress, noGrad, openSafetensors, tensor } from '../../lib/index.js';
import type { CompressOptions } from '../../lib/index.js';
import { exportConfig, exportRules } from '../../lib/compress/export_rules.js';
import { chooseGroups, damped, repair } from '../../lib/compress/prune/least_squares.js';
import { smallest } from '../../lib/compress/prune/magnitude.js';
import type { JsonObject } from '../../lib/io/json.js';
import { quantize } from '../../lib/models/quantize.js';
import { loadModel, writeModel } from '../../lib/models/registry.js';
import {
  describeWithFixtures,
  expectClose,
  expectNoLeak,
  fixture,
  fixtureJson,
  fixtureTensors,
  normal,
  numbers,
  temporaryFolder,
} from '../harness.js';

const text = (path: string): string => readFileSync(fixture(path), 'utf8');
const shakespeare = fixture('checkpoints/gpt2-shakespeare');
const stories = fixture('checkpoints/stories260K-llama');
const out = (): string => join(temporaryFolder('compress'), 'out');

function shakespeareOptions(more: Partial<CompressOptions>): CompressOptions {
  return {
    out: out(),
    calibrationText: text('datasets/tinyshakespeare/input.txt').slice(0, 200_000),
    evalText: text('refs/gpt2-shakespeare/ppl_text.txt').slice(0, 8000),
    turns: 1,
    measureMs: 40,
    ...more,
  };
}

describeWithFixtures('quantize (G07)', () => {
  for (const scheme of ['w8a8', 'w8a16'] as const)
    it(`${scheme}: perplexity within 0.5 %, smaller, reloaded by us, in the compressed-tensors layout`, async () => {
      for (const [folder, evalFile] of [
        [shakespeare, 'refs/gpt2-shakespeare/ppl_text.txt'],
        [stories, 'refs/stories260K-llama/ppl_text.txt'],
      ] as const) {
        const options = {
          ...shakespeareOptions({ quantize: scheme }),
          evalText: text(evalFile).slice(0, 6000),
        };
        const r = await compress(folder, options);
        expect(r.stages[0]!.accepted).toBe(true);
        expect(Math.abs(r.ratio.perplexity - 1)).toBeLessThan(0.005);
        expect(r.after.kld).toBeLessThan(0.005);
        expect(r.ratio.disk).toBeGreaterThan(2);
        const config = JSON.parse(readFileSync(join(options.out, 'config.json'), 'utf8')) as {
          quantization_config: {
            quant_method: string;
            format: string;
            config_groups: { group_0: { weights: JsonObject } };
          };
        };
        expect(config.quantization_config.quant_method).toBe('compressed-tensors');
        expect(config.quantization_config.format).toBe(
          scheme === 'w8a8' ? 'int-quantized' : 'pack-quantized',
        );
        const file = await openSafetensors(join(options.out, 'model.safetensors'));
        const layer =
          folder === shakespeare ? 'transformer.h.0.mlp.c_fc' : 'model.layers.0.mlp.up_proj';
        expect(file.info(`${layer}.weight_scale`).shape[1]).toBe(1);
        if (scheme === 'w8a8') expect(file.info(`${layer}.weight`).dtype).toBe('I8');
        else
          expect([
            file.info(`${layer}.weight_packed`).dtype,
            file.info(`${layer}.weight_shape`).dtype,
          ]).toEqual(['I32', 'I64']);
        // saved again from the quantized model: the same file
        using lm = await LanguageModel.fromPretrained(options.out);
        const again = out();
        await lm.save(again);
        expect(
          readFileSync(join(again, 'model.safetensors')).equals(
            readFileSync(join(options.out, 'model.safetensors')),
          ),
        ).toBe(true);
      }
    });
  it('w4a16: int4 in groups, smaller than int8, reloaded by us, in the compressed-tensors layout', async () => {
    const options = shakespeareOptions({ quantize: 'w4a16', quantizeGroup: 32 });
    const r = await compress(shakespeare, options);
    expect(r.stages[0]!.accepted).toBe(true);
    expect(r.ratio.perplexity).toBeLessThan(1.03);
    expect(r.after.kld).toBeLessThan(0.03);
    expect(r.ratio.disk).toBeGreaterThan(4);
    const config = JSON.parse(readFileSync(join(options.out, 'config.json'), 'utf8')) as {
      quantization_config: { format: string; config_groups: { group_0: { weights: JsonObject } } };
    };
    expect(config.quantization_config.format).toBe('pack-quantized');
    expect(config.quantization_config.config_groups.group_0.weights).toMatchObject({
      num_bits: 4,
      strategy: 'group',
      group_size: 32,
      symmetric: true,
    });
    const file = await openSafetensors(join(options.out, 'model.safetensors'));
    // a word holds eight weights, a scale serves 32
    const layer = 'transformer.h.0.mlp.c_fc';
    const [outputs, words] = file.info(`${layer}.weight_packed`).shape as [number, number];
    expect(file.info(`${layer}.weight_scale`).shape).toEqual([outputs, words / 4]);
    using lm = await LanguageModel.fromPretrained(options.out);
    const again = out();
    await lm.save(again);
    expect(
      readFileSync(join(again, 'model.safetensors')).equals(
        readFileSync(join(options.out, 'model.safetensors')),
      ),
    ).toBe(true);
    for (const [more, message] of [
      [{ quantize: 'w8a8', quantizeEmbeddings: true, embeddingBits: 4 }, /goes with quantize/],
      [{ quantize: 'w4a16', embeddingBits: 4 }, /goes with quantizeEmbeddings/],
    ] as const)
      await expect(compress(shakespeare, shakespeareOptions(more))).rejects.toThrow(message);
    await expect(
      compress(shakespeare, shakespeareOptions({ quantize: 'w8a8', quantizeGroup: 64 })),
    ).rejects.toThrow(/quantizeGroup/);
  });
  it('embeddings on request: the tied head runs in int8 too', async () => {
    const options = shakespeareOptions({ quantize: 'w8a8', quantizeEmbeddings: true });
    const r = await compress(shakespeare, options);
    expect(r.ratio.disk).toBeGreaterThan(3.5);
    expect(Math.abs(r.ratio.perplexity - 1)).toBeLessThan(0.005);
    expect(
      (await openSafetensors(join(options.out, 'model.safetensors'))).info('transformer.wte.weight')
        .dtype,
    ).toBe('I8');
  });
});

describeWithFixtures('int4 layers beside a quantized table and head (G07)', () => {
  // tied: the table is the head
  it.each([8, 4] as const)('gpt2-shakespeare, %d bits: smaller, reloads', async (bits) => {
    const options = shakespeareOptions({
      quantize: 'w4a16',
      quantizeGroup: 32,
      quantizeEmbeddings: true,
      embeddingBits: bits,
    });
    const r = await compress(shakespeare, options);
    expect(r.stages[0]!.accepted).toBe(true);
    expect(r.recipe).toMatchObject({ quantizeGroup: 32, embeddingBits: bits });
    expect(r.ratio.disk).toBeGreaterThan(5);
    expect(Math.abs(r.ratio.perplexity - 1)).toBeLessThan(bits === 8 ? 0.01 : 0.03);
    const file = await openSafetensors(join(options.out, 'model.safetensors'));
    expect(file.info('transformer.wte.weight_packed').shape[1]).toBe((128 * bits) / 32);
  });
  for (const [name, table, linear] of [
    ['gpt2-untied', 'transformer.wte', 'transformer.h.0.mlp.c_fc'],
    ['gpt2-base', 'transformer.wte', 'transformer.h.0.mlp.c_fc'],
    ['llama-gqa', 'model.embed_tokens', 'model.layers.0.mlp.up_proj'],
  ] as const)
    it.each([8, 4] as const)(
      `${name}, %d bits: the file says which is which and loads to the same logits`,
      async (bits) => {
        const { model } = await loadModel(fixture(`checkpoints/zoo-random/${name}`));
        const ids = tensor(Int32Array.from([3, 40, 41, 42, 7]), { shape: [1, 5] });
        const logits = async (m: typeof model): Promise<number[]> => [
          ...(await numbers(noGrad(() => m.forward({ inputIds: ids }).logits))),
        ];
        const float = await logits(model);
        quantize(model, { scheme: 'w4a16', group: 32, embeddings: true, embeddingBits: bits });
        const want = await logits(model);
        const norm = (x: number[]): number => Math.hypot(...x);
        expect(norm(want.map((x, i) => x - float[i]!)) / norm(float)).toBeLessThan(0.5);
        const folder = out();
        await writeModel(folder, model);
        const { quantization_config: q } = JSON.parse(
          readFileSync(join(folder, 'config.json'), 'utf8'),
        ) as { quantization_config: { config_groups: Record<string, { targets: string[] }> } };
        const targets = Object.values(q.config_groups).map((g) => g.targets);
        if (bits === 4) expect(targets.map((t) => t.toSorted())).toEqual([['Embedding', 'Linear']]);
        else
          expect(targets.map((t) => t.toSorted()).toSorted()).toEqual([
            model.head ? ['Embedding', 'lm_head'] : ['Embedding'],
            ['Linear'],
          ]);
        const file = await openSafetensors(join(folder, 'model.safetensors'));
        const width = model.shape.hidden;
        expect(file.info(`${table}.weight_packed`).shape[1]).toBe(Math.ceil((width * bits) / 32));
        expect(file.info(`${linear}.weight_packed`).shape[1]).toBe(Math.ceil((width * 4) / 32));
        const { model: back, warnings } = await loadModel(folder);
        expect(warnings).toEqual([]);
        // positions are stored as float16
        const got = await logits(back);
        expect(norm(got.map((x, i) => x - want[i]!)) / norm(want)).toBeLessThan(1e-3);
        expect(back.numParameters()).toBe(model.numParameters());
        back.dispose();
        model.dispose();
      },
    );
  it('refuses patterns as targets of several groups, and layers that none of them names', async () => {
    const { model } = await loadModel(fixture('checkpoints/zoo-random/gpt2-base'));
    quantize(model, { scheme: 'w4a16', group: 32, embeddings: true });
    const folder = out();
    await writeModel(folder, model);
    const path = join(folder, 'config.json');
    const text = readFileSync(path, 'utf8');
    for (const [target, message] of [
      ['re:.*wte', /not patterns/],
      [
        'LayerNorm',
        /no group of quantization_config has the target "transformer.wte" or Embedding/,
      ],
    ] as const) {
      writeFileSync(path, text.replace('"Embedding"', JSON.stringify(target)));
      await expect(loadModel(folder)).rejects.toThrow(message);
    }
    model.dispose();
  });
});

describeWithFixtures('prune (G08)', () => {
  it.each([
    [0.25, 0.01],
    [0.5, 0.03],
  ])(
    'gpt2-shakespeare, ffn −%d: perplexity at most +%d, physically smaller, reloads',
    async (ratio, limit) => {
      const options = shakespeareOptions({
        prune: { ffn: ratio },
        evalText: text('refs/gpt2-shakespeare/ppl_text.txt'),
        calibrationText: text('datasets/tinyshakespeare/input.txt').slice(0, 900_000),
      });
      const r = await compress(shakespeare, options);
      expect(r.stages[0]!.accepted).toBe(true);
      expect(r.ratio.perplexity - 1).toBeLessThan(limit);
      const config = JSON.parse(readFileSync(join(options.out, 'config.json'), 'utf8')) as {
        n_inner: number;
      };
      expect(config.n_inner).toBe(512 * (1 - ratio));
      expect(
        (await openSafetensors(join(options.out, 'model.safetensors'))).info(
          'transformer.h.3.mlp.c_proj.weight',
        ).shape,
      ).toEqual([512 * (1 - ratio), 128]);
      for (const name of ['report.json', 'report.html', 'tokenizer.json', 'generation_config.json'])
        expect(existsSync(join(options.out, name))).toBe(true);
      expect(readFileSync(join(options.out, 'report.html'), 'utf8')).toMatch(
        /<svg[\s\S]*Perplexity after each stage/,
      );
    },
  );
  it('both stages: at least 3.5 times smaller on disk', async () => {
    const r = await compress(
      shakespeare,
      shakespeareOptions({ prune: { ffn: 0.5 }, quantize: 'w8a8' }),
    );
    expect(r.stages.map((s) => s.accepted)).toEqual([true, true]);
    expect(r.ratio.disk).toBeGreaterThan(3.5);
    expect(r.after.flopsPerToken).toBeLessThan(r.before.flopsPerToken);
  });
  it('stories260K, ffn −25 %: no worse than one least-squares solve, and the default gate refuses it', async () => {
    const base = {
      calibrationText: text('datasets/tinystories/sample.txt'),
      evalText: text('refs/stories260K-llama/ppl_text.txt'),
      turns: 1,
      measureMs: 40,
      prune: { ffn: 0.25 },
    };
    const refused = await compress(stories, { ...base, out: out() });
    expect(refused.stages[0]!.accepted).toBe(false);
    expect(refused.stages[0]!.detail).toMatch(
      /undone: KLD .* exceeds the limit of 0.1 .*the block before is kept/,
    );
    expect(refused.ratio.perplexity).toBeCloseTo(1, 6);
    expect(refused.after.parameters).toBe(refused.before.parameters);
    expect(refused.stages[0]!.perplexity / refused.before.perplexity - 1).toBeLessThan(0.62);
  });
  it('heads of a grouped-query model, relabelled Mistral because 6 does not divide 64', async () => {
    const options = {
      out: out(),
      calibrationText: text('datasets/tinystories/sample.txt'),
      evalText: text('refs/stories260K-llama/ppl_text.txt'),
      turns: 1,
      measureMs: 40,
      prune: { heads: 0.25 },
      maxKld: 10,
    };
    const r = await compress(stories, options);
    expect(r.stages[0]!.detail).toMatch(/heads 8 → 6 \(4 → 3 key-value groups\)/);
    const config = JSON.parse(readFileSync(join(options.out, 'config.json'), 'utf8')) as JsonObject;
    expect(config).toMatchObject({
      model_type: 'mistral',
      architectures: ['MistralForCausalLM'],
      sliding_window: null,
      num_attention_heads: 6,
      num_key_value_heads: 3,
      head_dim: 8,
    });
    expect(r.after.perplexity).toBeLessThan(r.before.perplexity * 3);
  });
  it('layers, and the report of every figure', async () => {
    const r = await compress(
      shakespeare,
      shakespeareOptions({ prune: { layers: 0.25 }, maxKld: 10 }),
    );
    expect(r.stages[0]!.detail).toMatch(/layers 4 → 3/);
    expect(r.after.flopsPerToken).toBeLessThan(0.9 * r.before.flopsPerToken);
    for (const m of [r.before, r.after])
      for (const key of [
        'perplexity',
        'diskBytes',
        'parameters',
        'prefillMs',
        'decodeTokensPerSecond',
        'peakRssBytes',
        'flopsPerToken',
        'sameTop1',
      ] as const)
        expect(m[key]).toBeGreaterThan(0);
    expect(r.before.threads).toBe(r.after.threads);
  });
  it('magnitude masks keep shapes and equal the reference', async () => {
    const r = await compress(
      shakespeare,
      shakespeareOptions({
        sparsity: 0.5,
        maxKld: 1,
        evalText: text('refs/gpt2-shakespeare/ppl_text.txt'),
      }),
    );
    const want = (
      fixtureJson('refs/gpt2-shakespeare/reference.json')['compression'] as Record<string, number>
    )['prune_magnitude_per_matrix_0.5']!;
    expect(Math.abs(r.after.perplexity / want - 1)).toBeLessThan(0.001);
    expect(r.stages[0]!.detail).toMatch(/50.0 % of the linear weights are zero/);
    const ops = await fixtureTensors('ops/ops.safetensors');
    const w = (await (await ops.get('int8|in.w')).data()) as Float32Array;
    const mask = await numbers(await ops.get('prune_mag0.5|f32.mask'));
    expect([...smallest(w, 24)].map((v) => 1 - v)).toEqual([...mask]);
  });
  it('the same seed and text give the same bytes', async () => {
    const files = [];
    for (let i = 0; i < 2; i++) {
      const options = shakespeareOptions({ prune: { ffn: 0.25 }, quantize: 'w8a8' });
      await compress(shakespeare, options);
      files.push(readFileSync(join(options.out, 'model.safetensors')));
    }
    expect(files[0]!.equals(files[1]!)).toBe(true);
  });
});

describeWithFixtures('bad input', () => {
  it.each<[string, Partial<CompressOptions>, RegExp]>([
    ['nothing to do', {}, /nothing to do; give quantize, prune or sparsity/],
    [
      'a ratio of 1',
      { prune: { ffn: 1 } },
      /prune ffn must be a number from 0 up to, but not including, 1 \(1 would leave nothing\)/,
    ],
    ['a negative ratio', { prune: { layers: -0.1 } }, /prune layers must be/],
    [
      'all layers',
      { prune: { layers: 0.9 } },
      /removes 4 of 4 layers; the first and the last must stay/,
    ],
    [
      'heads of a GPT-2',
      { prune: { heads: 0.25 } },
      /prune heads is not possible for this model: GPT-2 derives the head size/,
    ],
    [
      'an unknown scheme',
      { quantize: 'w2a2' as 'w8a8' },
      /quantize must be one of w8a8, w8a16, w4a16/,
    ],
    ['an unknown option', { quantise: 'w8a8' } as object, /unknown option "quantise"/],
    [
      'an empty calibration text',
      { quantize: 'w8a8', calibrationText: ' \n' },
      /the calibration text is empty/,
    ],
    [
      'the same text twice',
      { quantize: 'w8a8', calibrationText: 'To be or not to be', evalText: 'To be or not to be' },
      /identical; quality must be measured on text that the compression has not seen/,
    ],
  ])('refuses %s and leaves no folder', async (_, more, message) => {
    const options = shakespeareOptions(more);
    await expectNoLeak(async () => {
      await expect(compress(shakespeare, options)).rejects.toThrow(message);
    });
    expect(existsSync(options.out)).toBe(false);
    expect(readdirSync(join(options.out, '..'))).toEqual([]);
  });
  it('refuses a folder that is not empty, and a model that is already quantized', async () => {
    const options = shakespeareOptions({ quantize: 'w8a8' });
    await compress(shakespeare, options);
    await expect(compress(shakespeare, options)).rejects.toThrow(/exists and is not empty/);
    await expect(compress(options.out, shakespeareOptions({ quantize: 'w8a8' }))).rejects.toThrow(
      /already quantized/,
    );
  });
});

describe('export rules (transformers 5.17)', () => {
  const llama = {
    model_type: 'llama',
    architectures: ['LlamaForCausalLM'],
    hidden_size: 64,
    attention_bias: false,
  } as JsonObject;
  const shape = {
    layers: 2,
    hidden: 64,
    heads: 8,
    kvHeads: 4,
    headDim: 8,
    ffn: 10,
    vocab: 9,
    context: 9,
  };
  it('keep Llama where heads divide, relabel where not, refuse where nothing fits', () => {
    expect(exportConfig(llama, shape)['model_type']).toBe('llama');
    expect(exportConfig(llama, { ...shape, heads: 6, kvHeads: 3 })).toMatchObject({
      model_type: 'mistral',
      sliding_window: null,
    });
    expect(
      exportConfig({ ...llama, model_type: 'mistral' }, { ...shape, heads: 7 })['model_type'],
    ).toBe('mistral');
    expect(() => exportConfig({ ...llama, attention_bias: true }, { ...shape, heads: 6 })).toThrow(
      /would not load elsewhere/,
    );
    expect(() => exportConfig({ ...llama, model_type: 'qwen2' }, { ...shape, heads: 6 })).toThrow(
      /would not load elsewhere/,
    );
    expect(exportRules['gpt2']).toMatchObject({ ffn: true, layers: true, heads: false });
  });
});

describe('least squares', () => {
  it('recovers a weight exactly when the removed inputs depend on the kept ones', async () => {
    // inputs 4 and 5 are sums of others: removing them must cost nothing
    const n = 400;
    const x = Array.from({ length: n }, (_, i) => {
      const r = (k: number): number => Math.sin(i * (1.3 + k) + k * k);
      const v = [r(0), r(1), r(2), r(3)];
      return [...v, v[0]! + v[1]!, 2 * v[2]! - v[3]!, 1];
    });
    const gram = new Float64Array(49);
    for (const row of x) row.forEach((a, i) => row.forEach((b, j) => (gram[i * 7 + j]! += a * b)));
    const w = normal(3, 7);
    const wv = (await w.data()) as Float64Array;
    for (let o = 0; o < 3; o++) wv[o * 7 + 6] = 0;
    const weight = tensor(wv, { shape: [3, 7] });
    const ridge = Float64Array.from(gram);
    for (let i = 0; i < 7; i++) ridge[i * 7 + i]! += 1e-7;
    const g = tensor(ridge, { shape: [7, 7] });
    const fitted = await numbers(repair(weight, g, [0, 1, 2, 3, 6]));
    for (const row of x.slice(0, 20))
      for (let o = 0; o < 3; o++) {
        const want = row.reduce((s, v, i) => s + v * wv[o * 7 + i]!, 0);
        const got = [0, 1, 2, 3, 6].reduce((s, k, i) => s + row[k]! * fitted[o * 5 + i]!, 0);
        expect(got).toBeCloseTo(want, 4);
      }
    expect(chooseGroups(weight, damped(tensor(gram, { shape: [7, 7] })), 1, 2, 2).length).toBe(4);
  });
  it('solves as a plain elimination does', async () => {
    const { solve } = await import('../../lib/compress/prune/least_squares.js');
    for (const n of [1, 5, 64, 65, 150]) {
      const a = normal(n, n + 3);
      const spd = a.matmul(a.transpose());
      const b = normal(n, 4);
      expectClose(await numbers(spd.matmul(solve(spd, b))), await numbers(b), {
        rtol: 1e-6,
        atol: 1e-6,
      });
    }
    expect(() =>
      solve(tensor(new Float64Array([1, 2, 2, 1]), { shape: [2, 2] }), normal(2, 1)),
    ).toThrow(/pivot 1 is not positive/);
  });
});
