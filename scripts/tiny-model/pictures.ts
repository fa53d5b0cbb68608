/**
 * Sets of drawn pictures with questions, from a seed: for training as rows with data: URLs, for validation and test as they are. A set is
 * balanced: in every form of question each answer is right as often as the others, so that nothing is learned by guessing.
 */
import sharp from 'sharp';
import { asTyped } from './corpus.js';
import { describe } from './picture_descriptions.js';
import { type Askable, ask, askable, FORM_NAMES, type Form, formSpec, type PictureQuestion } from './picture_questions.js';
import { hash32, Random } from './random.js';
import type { Canvas } from './raster.js';
import { drawScene, MOST_THINGS, randomScene, type Scene, type Side, sideOf } from './scenes.js';

export interface AskedPicture {
  readonly scene: Scene;
  /** At least one. */
  readonly questions: readonly PictureQuestion[];
}

export interface PictureSetOptions {
  readonly side: Side;
  readonly seed: number;
  readonly count: number;
  /** Most questions to a picture; as many as that or fewer, by chance. Default: 1. */
  readonly mostQuestions?: number;
  /** Most things in a picture. Default: as many as there may be. */
  readonly mostThings?: number;
  /** What is asked. Default: every form. A picture that allows none of them is left out. */
  readonly forms?: readonly Form[];
}

/** Draws scenes of one side and asks about each. */
export function* askedPictures({
  side,
  seed,
  count,
  mostQuestions = 1,
  mostThings = MOST_THINGS,
  forms = FORM_NAMES,
}: PictureSetOptions): Generator<AskedPicture> {
  const balance = new Balance();
  for (let i = 0; i < count; i++) {
    // A stream of numbers of its own for each picture, so that one does not depend on how many questions came before.
    const random = new Random(hash32(`${side} ${seed} ${i}`));
    const scene = sceneOf(side, mostThings, random);
    const candidates = askable(scene).filter(({ form }) => forms.includes(form));
    const questions: PictureQuestion[] = [];
    for (let wanted = 1 + random.below(mostQuestions); wanted > 0; wanted--) {
      const asked = new Set(questions.map(({ form }) => form));
      const next = balance.pick(
        candidates.filter(({ form }) => !asked.has(form)),
        random,
      );
      if (next === undefined) break;
      questions.push(ask(next, random));
    }
    if (questions.length > 0) yield { scene, questions };
  }
}

function sceneOf(side: Side, mostThings: number, random: Random): Scene {
  for (;;) {
    const scene = randomScene(random);
    if (scene.things.length <= mostThings && sideOf(scene) === side) return scene;
  }
}

/** Keeps count of what was asked, and picks what was asked least of what a scene allows: of the categories, then of forms and their answers. */
class Balance {
  readonly #asked = new Map<string, number>();

  pick(candidates: readonly Askable[], random: Random): Askable | undefined {
    const category = leastOf(candidates, ({ form }) => this.#count(formSpec(form).category));
    // An answer's due, as a share of its form: one of eight colours is asked for an eighth as often as yes is.
    const due = ({ form, key }: Askable): number => (this.#count(`${form}: ${key}`) + 0.5) * formSpec(form).keys.length;
    const next = leastOf(category, due);
    if (next.length === 0) return undefined;
    const picked = random.pick(next);
    for (const name of [formSpec(picked.form).category, `${picked.form}: ${picked.key}`])
      this.#asked.set(name, this.#count(name) + 1);
    return picked;
  }

  #count(name: string): number {
    return this.#asked.get(name) ?? 0;
  }
}

/** All those that are least. */
function leastOf<T>(items: readonly T[], measure: (item: T) => number): T[] {
  let least = Number.POSITIVE_INFINITY;
  let found: T[] = [];
  for (const item of items) {
    const value = measure(item);
    if (value < least) {
      least = value;
      found = [];
    }
    if (value === least) found.push(item);
  }
  return found;
}

/** The picture as a PNG. */
export async function png({ pixels, width, height }: Canvas): Promise<Buffer> {
  return await sharp(pixels, { raw: { width, height, channels: 3 } })
    .png({ compressionLevel: 9 })
    .toBuffer();
}

/** A row of training data: the picture stands before the first question, the others follow in turns. */
export interface PictureRow {
  readonly messages: readonly {
    readonly role: 'user' | 'assistant';
    readonly content:
      | string
      | readonly ({ readonly type: 'image'; readonly image: string } | { readonly type: 'text'; readonly text: string })[];
  }[];
}

export interface PictureRowOptions extends PictureSetOptions {
  /** Which share of the pictures is described: 0 (the default) to 1. */
  readonly described?: number;
}

/**
 * Rows to learn to see from, questions in the forms in which people type them. Of the pictures, by chance, a share of `described` is described
 * rather than asked about.
 */
export async function* pictureRows({ described = 0, ...options }: PictureRowOptions): AsyncGenerator<PictureRow> {
  let i = 0;
  for (const { scene, questions } of askedPictures(options)) {
    const random = new Random(hash32(`row ${options.seed} ${i}`));
    const describing = new Random(hash32(`describe ${options.seed} ${i++}`));
    const image = `data:image/png;base64,${(await png(drawScene(scene))).toString('base64')}`;
    if (describing.uniform() < described) {
      const { question, answer } = describe(scene, describing);
      const content = [{ type: 'image', image } as const, { type: 'text', text: question } as const];
      yield {
        messages: [
          { role: 'user', content },
          { role: 'assistant', content: answer },
        ],
      };
      continue;
    }
    yield {
      messages: questions.flatMap(({ question, answer }, turn): PictureRow['messages'] => {
        const text = asTyped({ question, category: 'facts', language: 'en' }, random);
        const first = [{ type: 'image', image } as const, { type: 'text', text } as const];
        return [
          { role: 'user', content: turn === 0 ? first : text },
          { role: 'assistant', content: answer },
        ];
      }),
    };
  }
}
