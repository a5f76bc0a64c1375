// A small artificial language, so that the demo needs no data: sentences from a grammar with agreement, by a seeded
// generator.

const people = [
  'the sailor',
  'a child',
  'my sister',
  'the old king',
  'a quiet baker',
  'the gardener',
];
const things = [
  'a lantern',
  'the red boat',
  'some bread',
  'a letter',
  'the garden gate',
  'three apples',
];
const places = [
  'by the river',
  'in the market',
  'under the tree',
  'at the harbour',
  'near the mill',
];
const verbs: [now: string, past: string][] = [
  ['carries', 'carried'],
  ['finds', 'found'],
  ['paints', 'painted'],
  ['sells', 'sold'],
  ['hides', 'hid'],
  ['wants', 'wanted'],
];
const feelings = ['happy', 'tired', 'proud', 'hungry', 'calm'];

/** `count` sentences, one per line. */
export function sentences(count: number, seed: number): string {
  let state = seed >>> 0;
  const pick = <T>(list: readonly T[]): T => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return list[Math.floor((state / 2 ** 32) * list.length)]!;
  };
  const lines: string[] = [];
  for (let i = 0; i < count; i++) {
    const who = pick(people);
    const [now, past] = pick(verbs);
    const sentence = pick([
      () => `${who} ${now} ${pick(things)} ${pick(places)}.`,
      () => `yesterday ${who} ${past} ${pick(things)}, and today ${who} is ${pick(feelings)}.`,
      () => `when ${who} is ${pick(feelings)}, ${who} ${now} ${pick(things)}.`,
      () => `${pick(places)}, ${who} ${past} ${pick(things)}.`,
    ])();
    lines.push(sentence[0]!.toUpperCase() + sentence.slice(1));
  }
  return `${lines.join('\n')}\n`;
}
