// Counts machine instructions of the kernels in a cubin (ELF64 with one section `.text.<kernel>` each; from compute capability 7.0 an
// instruction takes 16 bytes and its low 12 bits are the operation). The numbers below were read from kernels of one instruction.

/** wgmma with both operands in shared memory, 16-bit inputs. */
export const HGMMA = 0x9f0;
/** The same with the left operand in registers. */
export const HGMMA_LEFT = 0xdf0;
/** Both in shared memory, int8. */
export const IGMMA = 0x9f1;
/** Loads from and stores to local memory: spilled registers. */
export const LDL = 0x983;
export const STL = 0x387;
export const EXIT = 0x94d;

/** kernel → operation → count */
export function countInstructions(cubin) {
  if (cubin.readUInt32BE(0) !== 0x7f454c46 || cubin[4] !== 2) throw new Error('not an ELF64 file');
  const table = Number(cubin.readBigUInt64LE(0x28));
  const [size, count, names] = [0x3a, 0x3c, 0x3e].map((at) => cubin.readUInt16LE(at));
  const section = (i) => {
    const at = table + i * size;
    return {
      name: cubin.readUInt32LE(at),
      offset: Number(cubin.readBigUInt64LE(at + 0x18)),
      bytes: Number(cubin.readBigUInt64LE(at + 0x20)),
    };
  };
  const strings = section(names).offset;
  const kernels = new Map();
  for (let i = 0; i < count; i++) {
    const { name, offset, bytes } = section(i);
    const end = cubin.indexOf(0, strings + name);
    const title = cubin.toString('latin1', strings + name, end);
    if (!title.startsWith('.text.')) continue;
    const found = new Map();
    for (let at = offset; at < offset + bytes; at += 16) {
      const operation = cubin.readUInt16LE(at) & 0xfff;
      found.set(operation, (found.get(operation) ?? 0) + 1);
    }
    kernels.set(title.slice('.text.'.length), found);
  }
  return kernels;
}
