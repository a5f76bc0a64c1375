// A thread that tokenizes files for token_shards.ts.
import { parentPort, workerData } from 'node:worker_threads';
import type { JsonObject } from '../io/json.js';
import { Tokenizer } from '../text/tokenizer.js';
import type { SourceOptions } from './sources.js';
import { writeShard } from './token_shards.js';

const { files, bytesPerToken, source } = workerData as {
  files: Record<string, Uint8Array>;
  bytesPerToken: 2 | 4;
  source: SourceOptions;
};
const read = (name: string): JsonObject =>
  files[name] ? (JSON.parse(new TextDecoder().decode(files[name])) as JsonObject) : {};
const tokenizer = Tokenizer.fromJson(
  read('tokenizer.json'),
  read('tokenizer_config.json'),
  new Map(Object.entries(files)),
);

parentPort!.on('message', ({ path, from }: { path: string; from: string }) => {
  writeShard(path, from, tokenizer, bytesPerToken, source).then(
    (result) => parentPort!.postMessage(result),
    (error: unknown) => parentPort!.postMessage({ error: (error as Error).message }),
  );
});
