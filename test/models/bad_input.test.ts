// Damaged and hostile model folders: one typed error each, nothing allocated, the prototype untouched.
import {
  cpSync,
  existsSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  chmodSync,
  readdirSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import {
  LanguageModel,
  Tokenizer,
  openSafetensors,
  tensor,
  writeSafetensors,
} from '../../lib/index.js';
import { saveFolder } from '../../lib/io/checkpoint.js';
import type { JsonObject } from '../../lib/io/json.js';
import { describeWithFixtures, expectNoLeak, fixture, temporaryFolder } from '../harness.js';

function copy(name: string): string {
  const dir = temporaryFolder('bad');
  cpSync(fixture(`checkpoints/${name}`), dir, { recursive: true });
  return dir;
}
function edit(dir: string, change: (config: JsonObject) => void, file = 'config.json'): string {
  const path = join(dir, file);
  const config = JSON.parse(readFileSync(path, 'utf8')) as JsonObject;
  change(config);
  writeFileSync(path, JSON.stringify(config));
  return dir;
}
const load = (dir: string): Promise<LanguageModel> => LanguageModel.fromPretrained(dir);

describeWithFixtures('[S8] configuration', () => {
  it.each<[string, (c: JsonObject) => void, RegExp]>([
    [
      'a missing key',
      (c) => void delete c['n_embd'],
      /n_embd must be an integer from 1 .*got nothing/,
    ],
    ['a string for a number', (c) => (c['n_layer'] = '4'), /n_layer must be an integer/],
    ['a fraction', (c) => (c['n_layer'] = 1.5), /n_layer must be an integer/],
    ['a negative size', (c) => (c['n_head'] = -4), /n_head must be an integer/],
    [
      'heads that do not divide',
      (c) => (c['n_head'] = 5),
      /n_embd 128 is not a multiple of n_head 5/,
    ],
    ['a billion layers', (c) => (c['n_layer'] = 1e9), /1000000000 layers/],
    ['more layers than weights', (c) => (c['n_layer'] = 9), /no tensor "transformer.h.4/],
    ['another width', (c) => (c['n_embd'] = 256), /has shape \[.*but config.json asks for/],
    [
      'an unknown activation',
      (c) => (c['activation_function'] = 'mish'),
      /activation_function must be one of/,
    ],
    [
      'an unknown architecture',
      (c) => (c['architectures'] = ['transformer']),
      /architecture "transformer" is not supported; supported are GPT2LMHeadModel/,
    ],
    [
      'epsilon 0',
      (c) => (c['layer_norm_epsilon'] = 0),
      /layer_norm_epsilon must be a number above 0/,
    ],
    [
      'an unsupported quantization',
      (c) => (c['quantization_config'] = { quant_method: 'gptq' }),
      /quantization method "gptq" is not supported/,
    ],
  ])('refuses %s', async (_, change, message) => {
    await expectNoLeak(async () => {
      await expect(load(edit(copy('gpt2-shakespeare'), change))).rejects.toThrow(message);
    });
  });
  it('refuses grouped heads that do not divide and odd head sizes', async () => {
    await expect(
      load(edit(copy('stories260K-llama'), (c) => (c['num_key_value_heads'] = 3))),
    ).rejects.toThrow(/num_attention_heads 8 is not a multiple of num_key_value_heads 3/);
    await expect(
      load(edit(copy('stories260K-llama'), (c) => (c['rope_scaling'] = { rope_type: 'yarn' }))),
    ).rejects.toThrow(/rope type "yarn"/);
  });
  it('accepts 1e0-style integers, unknown fields and NaN in unread fields; leaves prototypes alone', async () => {
    const dir = copy('gpt2-shakespeare');
    const text = readFileSync(join(dir, 'config.json'), 'utf8').replace(
      '"n_layer": 4',
      '"n_layer": 4.0, "__proto__": {"polluted": 1}, "constructor": 3, "unread": NaN',
    );
    writeFileSync(join(dir, 'config.json'), text);
    (await load(dir)).dispose();
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });
  it.each([
    ['not JSON', 'hello'],
    ['a trailing comma', '{"a":1,}'],
    ['a duplicate key', '{"n_layer":4,"n_layer":4}'],
    ['an array', '[]'],
    ['deep nesting', `{"a":${'['.repeat(100)}${']'.repeat(100)}}`],
    ['1e400', '{"a":1e400}'],
  ])('refuses %s', async (_, text) => {
    const dir = copy('gpt2-shakespeare');
    writeFileSync(join(dir, 'config.json'), text);
    await expect(load(dir)).rejects.toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^ERR_FILE_(FORMAT|LIMIT)$/) }),
    );
  });
});

describeWithFixtures('weights and tokenizer', () => {
  it('explains a folder that is not there, and files that are missing or cut', async () => {
    await expect(load('/no/such/model')).rejects.toThrow(
      /no such model folder; give the path of a folder with config.json/,
    );
    for (const name of ['config.json', 'model.safetensors', 'tokenizer.json']) {
      const dir = copy('gpt2-shakespeare');
      rmSync(join(dir, name));
      await expect(load(dir)).rejects.toThrow(
        expect.objectContaining({ code: 'ERR_FILE_NOT_FOUND' }),
      );
    }
    const dir = copy('gpt2-shakespeare');
    truncateSync(join(dir, 'model.safetensors'), 100_000);
    await expect(load(dir)).rejects.toThrow(/lie outside the \d+ data bytes/);
  });
  it('refuses NaN weights, naming the tensor', async () => {
    const dir = copy('zoo-random/gpt2-base');
    const file = await openSafetensors(join(dir, 'model.safetensors'));
    const tensors = new Map(
      await Promise.all(file.names.map(async (n) => [n, await file.get(n)] as const)),
    );
    const name = 'transformer.h.1.mlp.c_fc.bias';
    const values = (await tensors.get(name)!.data()) as Float32Array;
    values[3] = NaN;
    tensors.set(name, tensor(values));
    rmSync(join(dir, 'model.safetensors'));
    await writeSafetensors(join(dir, 'model.safetensors'), tensors);
    const { loadModel } = await import('../../lib/models/registry.js');
    await expect(loadModel(dir)).rejects.toThrow(
      /tensor "transformer.h.1.mlp.c_fc.bias" contains NaN/,
    );
  });
  it('refuses a tokenizer of another model', async () => {
    const dir = copy('capp-gpt2');
    cpSync(fixture('checkpoints/gpt2-shakespeare/tokenizer.json'), join(dir, 'tokenizer.json'));
    await expectNoLeak(async () => {
      await expect(load(dir)).rejects.toThrow(
        /tokenizer has 1024 tokens, the model's vocabulary only 53/,
      );
    });
  });
  it('tells what it tolerated', async () => {
    using lm = await load(fixture('checkpoints/capp-gpt2'));
    expect(lm.warnings.join()).toMatch(/bos_token_id 50256 lies outside the vocabulary of 53/);
  });
});

describeWithFixtures('[S10] hostile tokenizers', () => {
  const base = (): JsonObject =>
    JSON.parse(
      readFileSync(fixture('checkpoints/gpt2-shakespeare/tokenizer.json'), 'utf8'),
    ) as JsonObject;
  it.each<[string, (t: JsonObject) => void, RegExp]>([
    [
      'a merge outside the vocabulary',
      (t) => ((t['model'] as JsonObject)['merges'] as unknown[]).push('zzz qqq'),
      /uses tokens that are not in the vocabulary/,
    ],
    [
      'one id for two tokens',
      (t) => (((t['model'] as JsonObject)['vocab'] as JsonObject)['new!'] = 5),
      /id 5 belongs to both/,
    ],
    [
      'a negative id',
      (t) => (((t['model'] as JsonObject)['vocab'] as JsonObject)['new!'] = -1),
      /has id -1/,
    ],
    [
      'a huge id',
      (t) => (((t['model'] as JsonObject)['vocab'] as JsonObject)['new!'] = 2 ** 32 - 1),
      /has id 4294967295/,
    ],
    [
      'an unknown component',
      (t) => (t['pre_tokenizer'] = { type: 'Evil' }),
      /unknown component type "Evil"/,
    ],
    [
      'an exponential pattern',
      (t) =>
        (t['pre_tokenizer'] = {
          type: 'Split',
          pattern: { Regex: '(a+)+$' },
          behavior: 'Isolated',
          invert: false,
        }),
      /could take unbounded time/,
    ],
    [
      'deep nesting',
      (t) =>
        (t['pre_tokenizer'] = Array.from({ length: 40 }).reduce<JsonObject>(
          (inner) => ({ type: 'Sequence', pretokenizers: [inner] }),
          { type: 'ByteLevel' },
        )),
      /nested too deeply/,
    ],
    [
      'an added token with another id',
      (t) => (t['added_tokens'] = [{ id: 7, content: '<|endoftext|>', special: true }]),
      /has id 7, the vocabulary says 0/,
    ],
    ['no model', (t) => void delete t['model'], /model is missing/],
  ])('refuses %s', (_, change, message) => {
    const t = base();
    change(t);
    expect(() => Tokenizer.fromJson(t)).toThrow(message);
  });
  it('[S9] takes linear time on adversarial text', () => {
    const tokenizer = Tokenizer.fromJson(base());
    for (const text of ['^', ' ', '😀', 'é'].map((c) => c.repeat(20_000))) {
      const start = performance.now();
      tokenizer.encode(text);
      expect(performance.now() - start).toBeLessThan(3000);
    }
  });
  it('[X09] explains a missing pad token', () => {
    const tokenizer = Tokenizer.fromJson(base(), { eos_token: '<|endoftext|>' });
    expect(() => tokenizer.encodeBatch(['a', 'a longer text'])).toThrow(
      /no pad token; set one, for example tokenizer.padToken = tokenizer.eosToken/,
    );
    tokenizer.padToken = tokenizer.eosToken;
    const batch = tokenizer.encodeBatch(['a', 'a longer text']);
    expect(batch.attentionMask[0]!.filter(Boolean).length).toBe(1);
    expect(() => tokenizer.decode([5000])).toThrow(/id 5000 is not in the vocabulary/);
  });
});

describeWithFixtures('saving', () => {
  it('round-trips a model folder that loads to equal logits', async () => {
    for (const name of ['gpt2-shakespeare', 'stories260K-llama']) {
      using lm = await load(fixture(`checkpoints/${name}`));
      const out = join(temporaryFolder('save'), 'model');
      await lm.save(out);
      using again = await load(out);
      const ids = tensor([[3, 4, 5, 6]], { dtype: 'int32' });
      expect(await again.model.forward({ inputIds: ids }).logits.data()).toEqual(
        await lm.model.forward({ inputIds: ids }).logits.data(),
      );
      expect(again.config).toEqual({ ...lm.config, dtype: 'float32' });
      await expect(lm.save(out)).rejects.toThrow(/exists and is not empty/);
      await lm.save(out, { overwrite: true });
      expect(readdirSync(join(out, '..'))).toEqual(['model']);
    }
  });
  it('leaves nothing behind when writing fails, and the old folder untouched', async () => {
    const parent = temporaryFolder('save');
    const target = join(parent, 'm');
    await saveFolder(target, async (f) => writeFileSync(join(f, 'a'), 'old'));
    await expect(
      saveFolder(
        target,
        async (f) => {
          writeFileSync(join(f, 'a'), 'new');
          throw new Error('disk');
        },
        { overwrite: true },
      ),
    ).rejects.toThrow('disk');
    expect(readFileSync(join(target, 'a'), 'utf8')).toBe('old');
    expect(readdirSync(parent)).toEqual(['m']);
    await expect(
      saveFolder(join(parent, 'big'), async () => undefined, { expectedBytes: 1e18 }),
    ).rejects.toThrow(/bytes are needed, \d+ are free/);
    await expect(
      saveFolder(join(target, 'a', 'under-a-file'), async () => undefined),
    ).rejects.toThrow(/a part of the path is not a folder/);
    if (process.getuid?.() !== 0) {
      chmodSync(parent, 0o500);
      await expect(saveFolder(join(parent, 'x'), async () => undefined)).rejects.toThrow(
        /no permission/,
      );
    }
    expect(existsSync(join(parent, 'big'))).toBe(false);
  });
});
