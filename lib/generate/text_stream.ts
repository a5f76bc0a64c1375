// Token ids to text, piece by piece: a piece is emitted only when later tokens cannot change it. A character whose
// bytes are spread over several tokens waits for its last one; the start of a stop string waits to be told apart.
import type { Tokenizer } from '../text/tokenizer.js';

const replacement = '\uFFFD';

export class TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #stops: readonly string[];
  readonly #ids: number[];
  #prefix: number; // tokens before the window that gives context to the decoder
  #read: number; // tokens whose text has been taken
  #held = ''; // taken, but perhaps the start of a stop string
  #emitted = '';
  /** The stop string that ended the text. */
  stoppedBy: string | null = null;

  constructor(tokenizer: Tokenizer, promptIds: readonly number[], stops: readonly string[] = []) {
    this.#tokenizer = tokenizer;
    this.#stops = stops.filter((s) => s.length > 0);
    this.#ids = [...promptIds];
    // a few prompt tokens as context: some decoders treat the first token specially
    this.#prefix = Math.max(0, promptIds.length - 5);
    this.#read = promptIds.length;
  }

  /** All text emitted so far. */
  get text(): string {
    return this.#emitted;
  }

  /** Adds a token; returns the text that is now certain, perhaps ''. */
  push(id: number): string {
    if (this.stoppedBy !== null) return '';
    this.#ids.push(id);
    const before = this.#tokenizer.decode(this.#ids.slice(this.#prefix, this.#read));
    const after = this.#tokenizer.decode(this.#ids.slice(this.#prefix));
    if (after.length <= before.length || after.endsWith(replacement)) return '';
    this.#prefix = this.#read;
    this.#read = this.#ids.length;
    return this.#release(after.slice(before.length));
  }

  /** The rest, at the end. An unfinished character is dropped. */
  finish(): string {
    if (this.stoppedBy !== null) return '';
    const before = this.#tokenizer.decode(this.#ids.slice(this.#prefix, this.#read));
    const after = this.#tokenizer.decode(this.#ids.slice(this.#prefix));
    let rest = after.slice(before.length);
    while (rest.endsWith(replacement)) rest = rest.slice(0, -1);
    const piece = this.#release(rest) + (this.stoppedBy === null ? this.#held : '');
    if (this.stoppedBy === null) this.#emitted += this.#held;
    this.#held = '';
    return piece;
  }

  #release(text: string): string {
    const pending = this.#held + text;
    this.#held = '';
    let end = -1;
    for (const stop of this.#stops) {
      const at = pending.indexOf(stop);
      if (at >= 0 && (end < 0 || at < end)) {
        end = at;
        this.stoppedBy = stop;
      }
    }
    let piece = end >= 0 ? pending.slice(0, end) : pending;
    if (end < 0) {
      // the longest tail that could still become a stop string
      let keep = 0;
      for (const stop of this.#stops)
        for (let n = Math.min(stop.length - 1, pending.length); n > keep; n--)
          if (pending.endsWith(stop.slice(0, n))) keep = n;
      this.#held = pending.slice(pending.length - keep);
      piece = pending.slice(0, pending.length - keep);
    }
    this.#emitted += piece;
    return piece;
  }
}
