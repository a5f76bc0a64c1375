// The verdict policy for untrusted safetensors files (S1, S5, S6, S7): every rule from both sides.
import {
  mkdirSync,
  mkdtempSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  readFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  openModelWeights,
  openSafetensors,
  tensor,
  writeSafetensors,
  zeros,
} from '../../lib/index.js';
import {
  describeWithFixtures,
  expectNoLeak,
  fixture,
  numbers,
  temporaryFolder,
} from '../harness.js';

const folder = temporaryFolder('safetensors');
let count = 0;

function file(
  header: string | Buffer,
  data: Uint8Array = new Uint8Array(0),
  length?: bigint,
): string {
  const path = join(folder, `f${count++}.safetensors`);
  const body = Buffer.from(header);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(length ?? BigInt(body.length));
  writeFileSync(path, Buffer.concat([size, body, data]));
  return path;
}

const t = (dtype: string, shape: string, begin: string | number, end: string | number): string =>
  `{"dtype":"${dtype}","shape":${shape},"data_offsets":[${begin},${end}]}`;
const four = new Uint8Array(4);

const accepted: [name: string, path: () => string][] = [
  ['one tensor', () => file(`{"a":${t('F32', '[1]', 0, 4)}}`, four)],
  ['a scalar', () => file(`{"a":${t('F32', '[]', 0, 4)}}`, four)],
  ['whitespace around', () => file(` \t\n\r{ "a" : ${t('F32', '[1]', 0, 4)} } \n`, four)],
  ['no tensors', () => file('{}')],
  ['metadata only', () => file('{"__metadata__":{"k":"v"}}')],
  ['null metadata', () => file('{"__metadata__":null}')],
  [
    'metadata last, key escaped',
    () => file(`{"a":${t('U8', '[0]', 0, 0)},"\\u005f_metadata__":{}}`),
  ],
  [
    'odd names',
    () =>
      file(
        `{"__proto__":${t('U8', '[1]', 0, 1)},"":${t('U8', '[1]', 1, 2)},"0":${t('U8', '[1]', 2, 3)},"a\\u0000\\ud83d\\ude00":${t('U8', '[1]', 3, 4)}}`,
        four,
      ),
  ],
  [
    'fields in any order and unknown ones',
    () => file(`{"a":{"data_offsets":[0,4],"x":[{"y":null}],"shape":[2],"dtype":"F16"}}`, four),
  ],
  [
    'header order unlike data order',
    () => file(`{"b":${t('U8', '[2]', 2, 4)},"a":${t('U8', '[2]', 0, 2)}}`, four),
  ],
  [
    'an empty tensor of a huge dimension',
    () => file(`{"a":${t('F32', '[0, 9223372036854775808]', 0, 0)}}`),
  ],
  [
    'several empty tensors at a boundary',
    () =>
      file(
        `{"a":${t('U8', '[2]', 0, 2)},"e":${t('F32', '[0]', 2, 2)},"f":${t('F32', '[0]', 2, 2)},"b":${t('U8', '[2]', 2, 4)}}`,
        four,
      ),
  ],
  ['a dtype the core cannot compute with', () => file(`{"a":${t('F8_E4M3', '[4]', 0, 4)}}`, four)],
  ['sub-byte elements ending on a byte', () => file(`{"a":${t('F4', '[8]', 0, 4)}}`, four)],
];

const refused: [name: string, path: () => string, code?: string][] = [
  [
    'an empty file',
    () => {
      const p = join(folder, 'empty.safetensors');
      writeFileSync(p, '');
      return p;
    },
  ],
  [
    'seven bytes',
    () => {
      const p = join(folder, 'seven.safetensors');
      writeFileSync(p, '1234567');
      return p;
    },
  ],
  ['length 0', () => file('')],
  ['length beyond the file', () => file('{}', undefined, 3n)],
  ['length 2^63', () => file('{}', undefined, 2n ** 63n), 'ERR_FILE_LIMIT'],
  ['length 2^64 - 8', () => file('{}', undefined, 2n ** 64n - 8n), 'ERR_FILE_LIMIT'],
  ['a byte-order mark', () => file('\ufeff{}')],
  ['NUL padding', () => file('{}\0')],
  ['a second value', () => file('{}{}')],
  ['an array', () => file('[]')],
  ['a comment', () => file('{/**/}')],
  ['a trailing comma', () => file(`{"a":${t('U8', '[0]', 0, 0)},}`)],
  ['single quotes', () => file("{'a':1}")],
  [
    'invalid UTF-8',
    () => file(Buffer.concat([Buffer.from('{"'), Buffer.from([0xff]), Buffer.from('":1}')])),
  ],
  [
    'overlong UTF-8',
    () => file(Buffer.concat([Buffer.from('{"'), Buffer.from([0xc0, 0xaf]), Buffer.from('":1}')])),
  ],
  [
    'an encoded surrogate',
    () =>
      file(
        Buffer.concat([Buffer.from('{"'), Buffer.from([0xed, 0xa0, 0x80]), Buffer.from('":1}')]),
      ),
  ],
  ['a lone surrogate escape', () => file(`{"\\ud800":${t('U8', '[0]', 0, 0)}}`)],
  ['a raw control character', () => file('{"a\u0001":1}')],
  ['a tensor twice', () => file(`{"a":${t('U8', '[0]', 0, 0)},"a":${t('U8', '[0]', 0, 0)}}`)],
  [
    'a tensor twice by escape',
    () => file(`{"a":${t('U8', '[0]', 0, 0)},"\\u0061":${t('U8', '[0]', 0, 0)}}`),
  ],
  [
    'a field twice',
    () => file('{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
  ],
  [
    'an unknown field twice',
    () => file('{"a":{"x":1,"x":1,"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
  ],
  ['a metadata key twice', () => file('{"__metadata__":{"a":"1","a":"1"}}')],
  ['metadata that is no string', () => file('{"__metadata__":{"a":1}}')],
  ['a missing field', () => file('{"a":{"dtype":"U8","shape":[0]}}')],
  ['a null entry', () => file('{"a":null}')],
  ['an entry as array', () => file('{"a":["U8",[0],[0,0]]}')],
  ['lower-case dtype', () => file(`{"a":${t('f32', '[1]', 0, 4)}}`, four)],
  ['a fractional dimension', () => file(`{"a":${t('F32', '[1.0]', 0, 4)}}`, four)],
  ['an exponent', () => file(`{"a":${t('U8', '[2e0]', 0, 2)}}`, new Uint8Array(2))],
  ['a negative dimension', () => file(`{"a":${t('F32', '[-1]', 0, 4)}}`, four)],
  ['minus zero', () => file(`{"a":${t('F32', '[-0]', 0, 0)}}`)],
  ['a leading zero', () => file(`{"a":${t('F32', '[01]', 0, 4)}}`, four)],
  ['a quoted number', () => file(`{"a":${t('F32', '["1"]', 0, 4)}}`, four)],
  ['a dimension of 2^64', () => file(`{"a":${t('F32', '[18446744073709551616]', 0, 4)}}`, four)],
  ['2^32 x 2^32', () => file(`{"a":${t('F32', '[4294967296, 4294967296]', 0, 4)}}`, four)],
  [
    'elements that fit but bytes that wrap',
    () => file(`{"a":${t('F64', '[2305843009213693953]', 0, 8)}}`, new Uint8Array(8)),
  ],
  ['overflow before a zero', () => file(`{"a":${t('F32', '[4611686018427387904, 4, 0]', 0, 0)}}`)],
  [
    'sub-byte elements inside a byte',
    () => file(`{"a":${t('F4', '[3]', 0, 1)}}`, new Uint8Array(1)),
  ],
  ['three offsets', () => file('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}')],
  ['reversed offsets', () => file(`{"a":${t('U8', '[2]', 2, 0)}}`, four)],
  ['offsets of the wrong size', () => file(`{"a":${t('F32', '[1]', 0, 3)}}`, four)],
  ['offsets beyond the data', () => file(`{"a":${t('F32', '[2]', 0, 8)}}`, four)],
  ['a hole', () => file(`{"a":${t('U8', '[1]', 0, 1)},"b":${t('U8', '[2]', 2, 4)}}`, four)],
  ['an overlap', () => file(`{"a":${t('U8', '[3]', 0, 3)},"b":${t('U8', '[2]', 2, 4)}}`, four)],
  ['trailing bytes', () => file(`{"a":${t('U8', '[3]', 0, 3)}}`, four)],
  ['data without tensors', () => file('{}', four)],
  [
    'an empty tensor inside another',
    () => file(`{"a":${t('U8', '[4]', 0, 4)},"e":${t('U8', '[0]', 2, 2)}}`, four),
  ],
  [
    'deep nesting',
    () =>
      file(
        `{"a":{"x":${'['.repeat(9)}${']'.repeat(9)},"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`,
      ),
    'ERR_FILE_LIMIT',
  ],
  [
    '17 dimensions',
    () => file(`{"a":${t('U8', `[${Array(17).fill(1)}]`, 0, 1)}}`, new Uint8Array(1)),
    'ERR_FILE_LIMIT',
  ],
];

describe('[S1] verdicts', () => {
  it.each(accepted)('accepts %s', async (_, path) => {
    await expect(openSafetensors(path())).resolves.toBeDefined();
  });
  it.each(refused)('refuses %s', async (_, path, code = 'ERR_FILE_FORMAT') => {
    await expect(openSafetensors(path())).rejects.toThrow(expect.objectContaining({ code }));
  });
  it('finds __proto__ by name and leaves the prototype alone', async () => {
    const f = await openSafetensors(accepted.find(([n]) => n === 'odd names')![1]());
    expect(f.names).toContain('__proto__');
    expect([...(await (await f.get('__proto__')).data())]).toEqual([0]);
    expect(({} as Record<string, unknown>)['dtype']).toBeUndefined();
  });
  it('[S6] lists huge dimensions exactly and refuses to take them', async () => {
    const f = await openSafetensors(
      file(`{"a":${t('F32', '[0, 9223372036854775808]', 0, 0)},"b":${t('U8', '[4]', 0, 4)}}`, four),
    );
    expect(f.info('a').shape).toEqual([0, 9223372036854775808n]);
    await expect(f.get('a')).rejects.toThrow(RangeError);
    expect((await f.get('b')).shape).toEqual([4]);
    const g = await openSafetensors(file(`{"a":${t('F8_E4M3', '[4]', 0, 4)}}`, four));
    await expect(g.get('a')).rejects.toThrow(/F8_E4M3, which cannot be computed with/);
  });
  it('[S5] refuses header bombs quickly', async () => {
    for (const bomb of [
      `{"a":${'['.repeat(5_000_000)}`,
      `{"a":"${'x'.repeat(5_000_000)}`,
      `{${Array.from({ length: 60_000 }, (_, i) => `"${i}":{"dtype":"U8"}`).join(',')}}`,
    ]) {
      const start = performance.now();
      await expect(openSafetensors(file(bomb))).rejects.toThrow();
      expect(performance.now() - start).toBeLessThan(2000);
    }
  });
  it('refuses a missing file, a folder and a device', async () => {
    await expect(openSafetensors(join(folder, 'no'))).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_FILE_NOT_FOUND' }),
    );
    await expect(openSafetensors(folder)).rejects.toThrow(/not a regular file/);
    await expect(openSafetensors('/dev/zero')).rejects.toThrow(/not a regular file/);
  });
  it('[S14] notices a file that shrinks after it was opened', async () => {
    const path = file(`{"a":${t('U8', '[4096]', 0, 4096)}}`, new Uint8Array(4096));
    const f = await openSafetensors(path);
    truncateSync(path, 200);
    await expectNoLeak(async () => {
      await expect(f.get('a')).rejects.toThrow(/became shorter/);
    });
  });
});

describe('mutations of a valid file', () => {
  it('never crash: each is accepted or refused with a code', async () => {
    const valid = readFileSync(
      file(
        `{"__metadata__":{"k":"v"},"a":${t('F32', '[2, 1]', 0, 8)},"b":${t('U8', '[0]', 8, 8)}}`,
        new Uint8Array(8),
      ),
    );
    const seed = Math.floor(Math.random() * 2 ** 31);
    let state = seed;
    const random = (n: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state % n;
    };
    for (let i = 0; i < 1500; i++) {
      const bytes = Buffer.from(valid);
      for (let k = 0; k <= random(3); k++) bytes[random(bytes.length)] = random(256);
      const path = join(folder, 'mutant.safetensors');
      writeFileSync(
        path,
        bytes.subarray(0, random(10) === 0 ? random(bytes.length) : bytes.length),
      );
      try {
        await openSafetensors(path);
      } catch (error) {
        expect((error as { code: string }).code, `seed ${seed}, mutant ${i}`).toMatch(
          /^ERR_FILE_(FORMAT|LIMIT)$/,
        );
      }
    }
  });
});

describe('writing', () => {
  it('round-trips every dtype, exotic names and views, byte-identical for equal input', async () => {
    const tensors = new Map([
      [
        'f32',
        tensor([
          [1.5, -2],
          [3, 4],
        ]),
      ],
      [
        'view',
        tensor([
          [1, 2, 3],
          [4, 5, 6],
        ]).transpose(),
      ],
      ['bf16', tensor([1.5, 3], { dtype: 'bfloat16' })],
      ['f16', tensor([1.5, 3], { dtype: 'float16' })],
      ['f64', tensor([Math.PI], { dtype: 'float64' })],
      ['i8', tensor(new Int8Array([-128, 127]))],
      ['i64', tensor(new BigInt64Array([2n ** 62n]))],
      ['bool', tensor([true, false])],
      ['__proto__', zeros([0, 3])],
      ['0', zeros([])],
    ]);
    const [p1, p2] = [join(folder, 'w1.safetensors'), join(folder, 'w2.safetensors')];
    await writeSafetensors(p1, tensors, { format: 'pt' });
    await writeSafetensors(p2, tensors, { format: 'pt' });
    expect(readFileSync(p1).equals(readFileSync(p2))).toBe(true);
    const f = await openSafetensors(p1);
    expect(f.names).toEqual([...tensors.keys()]);
    expect(f.metadata.get('format')).toBe('pt');
    for (const [name, want] of tensors) {
      const got = await f.get(name);
      expect([got.dtype, got.shape]).toEqual([want.dtype, want.shape]);
      expect(await got.data()).toEqual(await want.data());
    }
    await expect(writeSafetensors(p1, tensors)).rejects.toThrow(/EEXIST/);
  });
});

describe('[S7] sharded index', () => {
  const shard = (name: string): string => `{"${name}":${t('F32', '[1]', 0, 4)}}`;
  function indexed(index: unknown, files: Record<string, string> = {}): string {
    const dir = mkdtempSync(join(folder, 'model-'));
    writeFileSync(
      join(dir, 'model.safetensors.index.json'),
      typeof index === 'string' ? index : JSON.stringify(index),
    );
    for (const [name, header] of Object.entries(files)) {
      const body = Buffer.from(header);
      const size = Buffer.alloc(8);
      size.writeBigUInt64LE(BigInt(body.length));
      writeFileSync(join(dir, name), Buffer.concat([size, body, four]));
    }
    return dir;
  }
  it('loads shards', async () => {
    const dir = indexed(
      { metadata: { total_size: 8 }, weight_map: { a: 's1.safetensors', b: 's2.safetensors' } },
      { 's1.safetensors': shard('a'), 's2.safetensors': shard('b') },
    );
    const f = await openModelWeights(dir);
    expect(f.names.toSorted()).toEqual(['a', 'b']);
    expect(f.warnings).toEqual([]);
  });
  it('warns of a wrong total_size and of extra tensors', async () => {
    const dir = indexed(
      { metadata: { total_size: 99 }, weight_map: { a: 's.safetensors' } },
      { 's.safetensors': `{"a":${t('U8', '[2]', 0, 2)},"x":${t('U8', '[2]', 2, 4)}}` },
    );
    const f = await openModelWeights(dir);
    expect(f.names).toEqual(['a']);
    expect(f.warnings.length).toBe(2);
  });
  it.each([
    ['no weight_map', {}],
    ['an empty weight_map', { weight_map: {} }],
    ['a number as shard', { weight_map: { a: 1 } }],
    ['a parent folder', { weight_map: { a: '../s.safetensors' } }],
    ['a hidden parent', { weight_map: { a: 'x/../../s.safetensors' } }],
    ['an absolute path', { weight_map: { a: '/tmp/s.safetensors' } }],
    ['a backslash', { weight_map: { a: 'x\\s.safetensors' } }],
    ['a drive', { weight_map: { a: 'C:s.safetensors' } }],
    ['NUL', { weight_map: { a: 's\0.safetensors' } }],
    ['another ending', { weight_map: { a: 'model.bin' } }],
    ['a missing shard', { weight_map: { a: 'gone.safetensors' } }],
    ['duplicate keys', '{"weight_map":{"a":"s.safetensors","a":"s.safetensors"}}'],
  ])('refuses %s', async (_, index) => {
    await expect(openModelWeights(indexed(index))).rejects.toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^ERR_FILE/) }),
    );
  });
  it('refuses a tensor in two shards, and one that its shard lacks', async () => {
    await expect(
      openModelWeights(
        indexed(
          { weight_map: { a: 's1.safetensors', b: 's2.safetensors' } },
          { 's1.safetensors': shard('a'), 's2.safetensors': shard('a') },
        ),
      ),
    ).rejects.toThrow(/in two shards/);
    await expect(
      openModelWeights(
        indexed({ weight_map: { a: 's1.safetensors' } }, { 's1.safetensors': shard('z') }),
      ),
    ).rejects.toThrow(/not in its shard/);
  });
  it('refuses links out of the folder, allows the Hugging Face cache layout', async () => {
    const dir = indexed({ weight_map: { a: 's.safetensors' } });
    const outside = file(shard('a'), four);
    symlinkSync(outside, join(dir, 's.safetensors'));
    await expect(openModelWeights(dir)).rejects.toThrow(/link that leaves its folder/);
    const cache = mkdtempSync(join(folder, 'cache-'));
    mkdirSync(join(cache, 'snapshots/abc'), { recursive: true });
    mkdirSync(join(cache, 'blobs'));
    writeFileSync(join(cache, 'blobs/0123'), readFileSync(outside));
    symlinkSync('../../blobs/0123', join(cache, 'snapshots/abc/s.safetensors'));
    writeFileSync(
      join(cache, 'snapshots/abc/model.safetensors.index.json'),
      JSON.stringify({ weight_map: { a: 's.safetensors' } }),
    );
    expect((await openModelWeights(join(cache, 'snapshots/abc'))).names).toEqual(['a']);
  });
  it('[S13] refuses pickle files with advice', async () => {
    const dir = mkdtempSync(join(folder, 'pickle-'));
    writeFileSync(join(dir, 'pytorch_model.bin'), 'x');
    await expect(openModelWeights(dir)).rejects.toThrow(/pickle file; loading one runs code/);
  });
});

describeWithFixtures('real files', () => {
  it('reads every float of a checkpoint', async () => {
    const f = await openSafetensors(fixture('checkpoints/gpt2-shakespeare/model.safetensors'));
    let total = 0;
    for (const name of f.names) {
      const x = await f.get(name);
      expect((await numbers(x)).every(Number.isFinite)).toBe(true);
      total += x.size;
      x.dispose();
    }
    expect(total).toBe(940800);
  });
});
