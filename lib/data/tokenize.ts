// Text to token ids in pieces: small enough that the event loop turns between them, cut only where the tokens come out the same.
import { setImmediate as turn } from 'node:timers/promises';
import type { Tokenizer } from '../text/tokenizer.js';

const pieceLength = 32_768;

/** Cuts where a line ends after a character that is no space and the next begins with one that is none. */
export function* pieces(
  text: string,
  tokenizer: Tokenizer,
  length: number = pieceLength,
): Generator<string> {
  if (!tokenizer.splitsAtLines) {
    yield text;
    return;
  }
  let from = 0;
  while (text.length - from > length) {
    const at = /\S\n(?=\S)/g;
    at.lastIndex = from + length;
    const match = at.exec(text);
    if (!match) break;
    const end = match.index + match[0].length;
    yield text.slice(from, end);
    from = end;
  }
  if (from < text.length) yield text.slice(from);
}

/** The ids of one document, with the end-of-text token when the tokenizer has one. */
export async function* documentIds(text: string, tokenizer: Tokenizer): AsyncGenerator<number[]> {
  for (const piece of pieces(text, tokenizer)) {
    yield tokenizer.encode(piece, { addSpecialTokens: false });
    await turn();
  }
  if (tokenizer.eosTokenId !== null) yield [tokenizer.eosTokenId];
}
