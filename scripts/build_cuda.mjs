// Builds the CUDA module, or its emulation on the CPU, and checks what can be checked without a GPU.
//   node scripts/build_cuda.mjs             build/Release/roots_cuda.so (needs nvcc 12.8 or later)
//   node scripts/build_cuda.mjs --emulated  build/cuda-emulated/roots_cuda_emulated.so, and the proofs of native/test/cuda_proofs.cc
// The real build fails on register spills and stack frames in kernels that native/cuda/budget.json does not excuse, on any exported symbol
// but the entry, on any library needed beyond the C library, on messages of ptxas that a kernel for Hopper was changed behind its back, and on
// machine code of its products without tensor core instructions.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { countInstructions, EXIT, HGMMA, HGMMA_LEFT, IGMMA, LDL, STL } from './cuda_sass.mjs';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const emulated = process.argv.includes('--emulated');
const out = join(root, emulated ? 'build/cuda-emulated' : 'build/cuda');
const target = emulated ? 'roots_cuda_emulated' : 'roots_cuda';

function refuse(message) {
  console.error(`roots-llm: ${message}`);
  process.exit(1);
}
function run(command, args, options = {}) {
  const result = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    ...options,
  });
  if (result.error) refuse(`${command}: ${result.error.message}`);
  if (result.status !== 0) {
    console.error(result.stdout ?? '', result.stderr ?? '');
    refuse(`${command} ${args.slice(0, 3).join(' ')} failed`);
  }
  return `${result.stdout ?? ''}${result.stderr ?? ''}`;
}

function findNvcc() {
  const candidates = [process.env.CUDACXX, 'nvcc', '/usr/local/cuda/bin/nvcc'];
  return candidates.find((c) => c && spawnSync(c, ['--version'], { stdio: 'ignore' }).status === 0);
}

const ninja = spawnSync('ninja', ['--version'], { stdio: 'ignore' }).status === 0;
const defines = emulated ? ['-DROOTS_CUDA_EMULATED=ON'] : ['-DROOTS_CUDA=ON'];
if (!emulated) {
  const nvcc = findNvcc();
  if (!nvcc) refuse('nvcc is needed to build the CUDA module; set CUDACXX or add it to PATH');
  defines.push(`-DCMAKE_CUDA_COMPILER=${nvcc}`);
  rmSync(join(out, `CMakeFiles/${target}.dir`), { recursive: true, force: true });
}
run('cmake', [
  '-S',
  root,
  '-B',
  out,
  '-G',
  ninja ? 'Ninja' : 'Unix Makefiles',
  '-DCMAKE_BUILD_TYPE=Release',
  '-DROOTS_BASELINE_ONLY=ON',
  ...defines,
]);
const log = run('cmake', ['--build', out, '--target', target, '-j', '2']);
const library = join(out, `${target}.so`);
if (!existsSync(library)) refuse(`no ${library}`);

function check(ok, message) {
  if (!ok) refuse(message);
}
const symbols = run('nm', ['-D', '--defined-only', library])
  .split('\n')
  .filter((line) => / [TWVBDRu] /.test(line))
  .map((line) => line.trim().split(' ').at(-1));
check(
  symbols.length === 1 && symbols[0] === 'backend_entry',
  `exported symbols: expected backend_entry alone, got ${symbols.join(', ')}`,
);

if (emulated) {
  run('cmake', ['--build', out, '--target', 'cuda_proofs']);
  console.log(run(join(out, 'cuda_proofs'), []).trim());
  console.log(library);
} else {
  // one block per kernel and architecture in the log of ptxas
  const kernels = [];
  let kernel = null;
  for (const line of log.split('\n')) {
    const entry = /Compiling entry function '([^']+)' for '([^']+)'/.exec(line);
    if (entry) kernels.push((kernel = { name: entry[1], target: entry[2] }));
    const spill = /(\d+) bytes stack frame, (\d+) bytes spill stores/.exec(line);
    if (spill && kernel && kernel.stack === undefined) {
      kernel.stack = Number(spill[1]);
      kernel.spills = Number(spill[2]);
    }
    const used = /Used (\d+) registers/.exec(line);
    if (used && kernel && kernel.registers === undefined) kernel.registers = Number(used[1]);
  }
  check(kernels.length > 0, 'ptxas reported no kernels: is -Xptxas -v still passed?');
  const budget = JSON.parse(readFileSync(join(root, 'native/cuda/budget.json'), 'utf8'));
  const problems = kernels.filter(
    (k) =>
      (k.stack > 0 || k.spills > 0) && !budget.mayUseStack.some((part) => k.name.includes(part)),
  );
  for (const k of problems)
    console.error(`${k.name} (${k.target}): ${k.stack} bytes of stack, ${k.spills} spilled`);
  check(problems.length === 0, `${problems.length} kernels spill or use the stack`);
  // register limits ignored (C7508), products made to wait for each other (C7510 to C7514), waits put in (C7517, C7519)
  const changed = [
    ...new Set(log.split('\n').filter((line) => /\bC75(08|1[0-4]|17|19)\b/.test(line))),
  ];
  for (const line of changed) console.error(line.trim());
  check(changed.length === 0, 'ptxas changed kernels for Hopper');
  // products a tile: four of 32 bytes of K; of scores and values, peeled by one tile, as the head is wide
  const perTile = (name) => /ILi(\d+)E/.exec(name)?.[1] / 16;
  for (const [source, kernel, products] of [
    ['matmul_bf16', /sm9011gemm_kernel/, () => [[HGMMA, 4]]],
    ['matmul_f16', /sm9011gemm_kernel/, () => [[HGMMA, 4]]],
    ['matmul_i8', /sm9011gemm_kernel/, () => [[IGMMA, 4]]],
    [
      'attention_bf16',
      /sm90_attention14forward_kernel/,
      (name) => [
        [HGMMA, perTile(name)],
        [HGMMA_LEFT, 8],
      ],
    ],
    [
      'attention_bf16_backward',
      /sm90_attention15backward_kernel/,
      (name) => [
        [HGMMA, 2 * perTile(name)],
        [HGMMA_LEFT, 4],
      ],
    ],
  ]) {
    const cubin = join(out, `${source}.cubin`);
    const flags = '-std=c++17 -O3 -Inative -cubin -gencode=arch=compute_90a,code=sm_90a';
    run(findNvcc(), [...flags.split(' '), `native/cuda/${source}.cu`, '-o', cubin]);
    const found = [...countInstructions(readFileSync(cubin))].filter(([name]) => kernel.test(name));
    check(found.length > 0, `no ${kernel.source} in the machine code of ${source}.cu`);
    for (const [name, count] of found) {
      const of = (operation) => count.get(operation) ?? 0;
      for (const [product, multiple] of products(name))
        check(
          of(product) > 0 && of(product) % multiple === 0,
          `${name}: ${of(product)} wgmma, not a multiple of ${multiple}`,
        );
      check(
        of(LDL) + of(STL) === 0 && of(EXIT) > 0,
        `${name}: ${of(LDL)} loads and ${of(STL)} stores of spilled registers`,
      );
    }
  }
  const needed = [...run('readelf', ['-d', library]).matchAll(/NEEDED.*\[([^\]]+)\]/g)].map(
    (m) => m[1],
  );
  const allowed = /^(libc|libm|libpthread|librt|libdl|ld-linux-x86-64)\.so/;
  check(
    needed.every((n) => allowed.test(n)),
    `needs ${needed.join(', ')}: expected the C library alone`,
  );
  mkdirSync(join(root, 'build/Release'), { recursive: true });
  copyFileSync(library, join(root, 'build/Release/roots_cuda.so'));
  const most = Math.max(...kernels.map((k) => k.registers ?? 0));
  console.log(
    `build/Release/roots_cuda.so: ${kernels.length} kernels for ${new Set(kernels.map((k) => k.target)).size} architectures, none spills, at most ${most} registers; needs ${needed.join(', ')}`,
  );
}
