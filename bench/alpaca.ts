/** Rows of Alpaca form, of the lengths that public instruction sets have; the same ones each time. */
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';

const COMMON =
  'the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you were all her she there would their we him been has when who will no more if out so up said what its about than into them can only other time new some could these two may first then do any like my now over such our man me even most made after also did many off before must well back through years much where your way down should because long each just state those people too mister how little good world make very year still see own work men day get here old between both life being under three never know same last another while us might great go come since against right came take used himself few house use place during high without again home around small however found school part once general upon every war left until always away something fact water less public put think almost hand enough far look head yet better set told nothing night end why called eyes find going next asked later knew'.split(
    ' ',
  );
const SYLLABLES =
  'ba con der est fi gra hu ing jor ka lem mo nis or pre qui ran ste tion un ver wal xi yen zo pla cre thy mar sol ben dic'.split(
    ' ',
  );
const FOREIGN = [
  'Grüße aus München',
  'où est la bibliothèque',
  '今天天气很好',
  '東京は日本の首都です',
  'Привет, мир',
  'مرحبا بالعالم',
  '안녕하세요',
  '😀🎉',
];

/** mulberry32: a small generator, the same on every machine. */
function generator(seed: number): () => number {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** About half of the words are common ones; the rest come from a long tail of some hundred thousand. */
function makeWriter(random: () => number): (bytes: number) => string {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const word = (): string => {
    const kind = random();
    if (kind < 0.55) return COMMON[Math.floor(COMMON.length * random() ** 2.5)]!;
    if (kind < 0.965) {
      // Tail words of two to four syllables, the frequent ones much more often.
      const skew = (): string => SYLLABLES[Math.floor(SYLLABLES.length * random() ** 2)]!;
      let text = skew() + skew();
      if (random() < 0.5) text += skew();
      if (random() < 0.1) text += skew();
      return random() < 0.1 ? text[0]!.toUpperCase() + text.slice(1) : text;
    }
    if (kind < 0.985) return String(Math.floor(random() * 3000));
    if (kind < 0.995) return `\`${pick(COMMON)}_${pick(SYLLABLES)}(${pick(COMMON)})\``;
    return pick(FOREIGN);
  };
  return (bytes) => {
    let text = word();
    while (text.length < bytes) {
      const separator = random();
      text += separator < 0.87 ? ' ' : separator < 0.94 ? ', ' : separator < 0.985 ? '. ' : '\n- ';
      text += word();
    }
    return `${text[0]!.toUpperCase()}${text.slice(1)}.`;
  };
}

/** Writes `rows` rows as one JSON array. */
export async function writeAlpaca(path: string, rows: number): Promise<void> {
  const random = generator(3407);
  const write = makeWriter(random);
  const out = createWriteStream(path);
  const lognormal = (median: number, sigma: number): number => {
    const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    return Math.min(6000, Math.round(median * Math.exp(sigma * normal)));
  };
  let block = '[';
  for (let row = 0; row < rows; row++) {
    const value = {
      instruction: write(lognormal(55, 0.4)),
      input: random() < 0.4 ? write(lognormal(70, 0.7)) : '',
      output: write(lognormal(190, 0.8)),
    };
    block += `${row === 0 ? '' : ','}\n  ${JSON.stringify(value)}`;
    if (block.length > 1 << 20) {
      if (!out.write(block)) await once(out, 'drain');
      block = '';
    }
  }
  out.end(`${block}\n]\n`);
  await once(out, 'finish');
}
