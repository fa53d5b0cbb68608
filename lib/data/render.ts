/**
 * A row as text in segments, each to be learnt or not.
 *
 * `chat`: the model's own template. What is learnt of an assistant's turn is what the model must write after the generation prompt: the
 * content and the token that closes the turn, not the white space after it. The borders are found by rendering prefixes of the
 * conversation, so they hold for any template under which a conversation grows at its end; others are refused.
 * `plain`: `ROLE: text` lines joined by newlines, roles in capitals, the whole stripped; all of it is learnt.
 *
 * Segments are tokenised one by one: the border before an assistant's turn is the one that generation sees.
 */
import { VltuneError } from '../errors.js';
import { type Message, mediaOf, textsOf, withTexts } from './message.js';
import { cutAtPlaceholders, type MediaPlaceholders, nameOf, TextGuard } from './placeholders.js';
import type { ChatTemplate } from './template.js';
import { escapeRegExp, isPythonSpace, pythonStrip } from './text.js';

export type TextFormat = 'chat' | 'plain';

export interface Segment {
  readonly text: string;
  readonly learn: boolean;
  /** Set where the segment is the place of a picture or video: which of the row's, in order. Its text is what the template puts there. */
  readonly media?: number;
}

export interface RendererOptions {
  /** Needed for `chat`. */
  readonly template?: ChatTemplate | undefined;
  readonly textFormat: TextFormat;
  /** Learn only what the assistant writes (`chat` only; `plain` learns all). */
  readonly assistantOnlyLoss: boolean;
  /**
   * End each row with the eos token, as a target. In `chat` this adds nothing where the template closes the last assistant's turn with
   * a special token: that token is then what the model learns to stop with.
   */
  readonly appendEos: boolean;
  readonly eosToken: string | null;
  /** Special tokens of the tokenizer: one of them at the end of a turn is learnt with it. */
  readonly specialTokens: readonly string[];
}

/** Text of a message: its items joined by nothing, as the seed and Qwen's templates do. */
function textOf(message: Message): string {
  return textsOf([message]).join('');
}

/** A conversation's form: roles, and for each content whether it is a string or a list of which items. */
function shapeOf(messages: readonly Message[]): string {
  let shape = '';
  for (const { role, content } of messages) {
    shape += role;
    if (typeof content !== 'string') for (const { type } of content) shape += `,${type}`;
    shape += ';';
  }
  return shape;
}

/** A segment whose texts are cut out: literal, slot, literal, slot, …, literal. Slots count on through the conversation. */
interface Frame {
  readonly learn: boolean;
  readonly literals: readonly string[];
}

const MARK = /\ue000(\d+)\ue001/;

function mark(slot: number): string {
  return `\ue000${slot}\ue001`;
}

/** Segments of one role sequence with their texts cut out, or undefined where the texts do not stand in them once each, in order. */
function framesOf(segments: readonly Segment[], slots: number): Frame[] | undefined {
  const frames: Frame[] = [];
  let slot = 0;
  for (const { text, learn } of segments) {
    const parts = text.split(MARK); // literal, slot number, literal, …
    const literals: string[] = [];
    for (const [i, part] of parts.entries()) {
      if (i % 2 === 0) literals.push(part);
      else if (Number(part) !== slot++) return undefined;
    }
    frames.push({ learn, literals });
  }
  return slot === slots ? frames : undefined;
}

function fill(frames: readonly Frame[], slots: readonly string[]): Segment[] {
  let slot = 0;
  return frames.map(({ learn, literals }) => {
    let text = literals[0]!;
    for (let i = 1; i < literals.length; i++) text += slots[slot++]! + literals[i]!;
    return { text, learn };
  });
}

function sameSegments(a: readonly Segment[], b: readonly Segment[]): boolean {
  return a.length === b.length && a.every((segment, i) => segment.text === b[i]!.text && segment.learn === b[i]!.learn);
}

/** Texts that a template which treats texts by their looks would not pass through. */
const PROBES: readonly string[] = [
  'a',
  'Hello, world! How are you today?',
  'one\ntwo\n\n  three\tfour\r\nfive',
  'A "quoted" \\n \'text\' & <b>bold</b> {{ x }} {% if y %} {# z #} UPPER lower 0123',
  '!x"x#x$x%x&x\'x(x)x*x+x,x-x.x/x:x;x<x=x>x?x@x[x\\x]x^x_x`x{x|x}x~',
  'été 日本語 한국어 العربية 😀👩‍👩‍👧',
  'long '.repeat(1000).trim(),
];

/** What a template does with texts of one role sequence. */
interface Shortcut {
  readonly frames: readonly Frame[];
  /** Texts that hold one of these, or equal one, are rendered by the template itself. */
  readonly guard: RegExp | undefined;
}

/** Shapes remembered: a dataset has a handful; a hostile one must not fill memory. */
const MAX_SHAPES = 256;
/** Conversations longer than this are rendered by the template itself. */
const MAX_SHORTCUT_TURNS = 64;

export class Renderer {
  private readonly options: RendererOptions;
  private readonly template: ChatTemplate | undefined;
  private readonly shortcuts = new Map<string, Shortcut | null>();

  constructor(options: RendererOptions) {
    this.options = options;
    this.template = options.textFormat === 'chat' ? options.template : undefined;
    if (options.textFormat === 'chat' && options.template === undefined)
      throw new VltuneError('ERR_USAGE', 'text format "chat" needs a chat template');
    if (options.appendEos && options.eosToken === null && options.textFormat === 'plain') {
      throw new VltuneError('ERR_BAD_CHECKPOINT', 'tokenizer_config.json names no eos_token; train with --no-append-eos');
    }
  }

  /**
   * The segments of a row; `placeholders` are needed for one with pictures or videos. Their texts joined are the row's text. Throws
   * ERR_BAD_DATA where the template refuses it, or has no place for one of its media.
   */
  segments(messages: readonly Message[], placeholders?: MediaPlaceholders): Segment[] {
    const media = mediaOf(messages);
    if (media.length === 0) return this.texts(messages);
    if (this.options.textFormat === 'plain') {
      throw new VltuneError(
        'ERR_BAD_DATA',
        `${nameOf(media[0]!)}: the plain text form has no place for pictures and videos (train with --text-format chat, or leave such ` +
          'rows out with --skip-images)',
      );
    }
    if (placeholders === undefined)
      throw new VltuneError(
        'ERR_UNSUPPORTED',
        `${nameOf(media[0]!)}: the model reads no images or videos (leave such rows out with --skip-images)`,
      );
    const guard = new TextGuard(textsOf(messages), [placeholders.image, placeholders.video]);
    const segments = this.texts(withTexts(messages, (slot) => guard.texts[slot]!));
    return cutAtPlaceholders(segments, media, placeholders, guard);
  }

  private texts(messages: readonly Message[]): Segment[] {
    if (this.template === undefined) return this.plain(messages);
    const shortcut = messages.length <= MAX_SHORTCUT_TURNS ? this.shortcut(messages) : null;
    if (shortcut !== null) {
      const slots = textsOf(messages);
      if (slots.every((text) => passes(text, shortcut.guard))) return fill(shortcut.frames, slots);
    }
    return this.rendered(messages);
  }

  /** The segments of a row by the template itself, without any shortcut. */
  rendered(messages: readonly Message[]): Segment[] {
    if (this.template === undefined) return this.plain(messages);
    const { template, options } = this;
    const full = template.render(messages);
    if (!options.assistantOnlyLoss) return this.whole(messages, full);
    return this.turns(messages, full);
  }

  private plain(messages: readonly Message[]): Segment[] {
    const { appendEos, eosToken } = this.options;
    const lines = messages.map((message) => `${message.role.toUpperCase()}: ${textOf(message)}`);
    const segments: Segment[] = [{ text: pythonStrip(lines.join('\n')), learn: true }];
    if (appendEos && eosToken !== null) segments.push({ text: eosToken, learn: true });
    return segments;
  }

  /** The whole text learnt, in one piece. */
  private whole(messages: readonly Message[], full: string): Segment[] {
    const segments: Segment[] = [{ text: full, learn: true }];
    this.close(segments, messages, this.endsClosed(pythonStrip(full)));
    return segments;
  }

  private endsClosed(text: string): boolean {
    return this.options.specialTokens.some((token) => token !== '' && text.endsWith(token));
  }

  /** Adds the eos token where the row's last turn is the assistant's and nothing closes it. */
  private close(segments: Segment[], messages: readonly Message[], closed: boolean): void {
    const { appendEos, eosToken } = this.options;
    if (appendEos && !closed && eosToken !== null && messages.at(-1)!.role === 'assistant')
      segments.push({ text: eosToken, learn: true });
  }

  /** Cuts the text of a conversation at the assistant's turns. */
  private turns(messages: readonly Message[], full: string): Segment[] {
    const template = this.template!;
    const segments: Segment[] = [];
    let at = 0;
    let closed = false;
    for (const [i, { role }] of messages.entries()) {
      if (role !== 'assistant') continue;
      const prompt = template.render(messages.slice(0, i), { addGenerationPrompt: true });
      const until = i === messages.length - 1 ? full : template.render(messages.slice(0, i + 1));
      if (prompt.length < at || until.length <= prompt.length || !until.startsWith(prompt) || !full.startsWith(until)) {
        throw new VltuneError(
          'ERR_BAD_DATA',
          `the chat template cannot be split at the assistant's turn ${i}: the conversation up to it is not the beginning of the whole ` +
            '(train with --text-format plain, or with rows of one assistant turn)',
        );
      }
      const turn = until.slice(prompt.length);
      const learnt = turn.slice(0, this.turnEnd(turn));
      closed = this.endsClosed(learnt);
      if (prompt.length > at) segments.push({ text: full.slice(at, prompt.length), learn: false });
      segments.push({ text: learnt, learn: true });
      at = prompt.length + learnt.length;
    }
    if (at < full.length) segments.push({ text: full.slice(at), learn: false });
    this.close(segments, messages, closed);
    return segments;
  }

  /** Length of the part of a rendered turn that the model writes: white space after a closing special token is the template's. */
  private turnEnd(turn: string): number {
    let end = turn.length;
    while (end > 0 && isPythonSpace(turn.charCodeAt(end - 1))) end--;
    return this.endsClosed(turn.slice(0, end)) ? end : turn.length;
  }

  private shortcut(messages: readonly Message[]): Shortcut | null {
    const shape = shapeOf(messages);
    let found = this.shortcuts.get(shape);
    if (found === undefined) {
      found = this.findShortcut(messages);
      if (this.shortcuts.size < MAX_SHAPES) this.shortcuts.set(shape, found);
    }
    return found;
  }

  /**
   * Most templates put texts into fixed frames. Whether this one does, for this role sequence, is found out by rendering marks in place
   * of the texts, and then a set of probes: each must come out as the frames say. A template can tell texts apart only by the strings
   * in its code; each of those is probed too, and texts that hold one under which the frames fail are kept from the shortcut.
   */
  private findShortcut(messages: readonly Message[]): Shortcut | null {
    const count = textsOf(messages).length;
    const agrees = (frames: readonly Frame[], text: (slot: number) => string): boolean => {
      const slots = Array.from({ length: count }, (_, slot) => text(slot));
      try {
        return sameSegments(this.rendered(withTexts(messages, (slot) => slots[slot]!)), fill(frames, slots));
      } catch (error) {
        if (error instanceof VltuneError) return false;
        throw error;
      }
    };
    let frames: Frame[] | undefined;
    try {
      frames = framesOf(this.rendered(withTexts(messages, mark)), count);
    } catch (error) {
      if (!(error instanceof VltuneError)) throw error;
    }
    if (frames === undefined) return null;
    const known = frames;
    for (const [i, probe] of PROBES.entries()) {
      if (!agrees(known, () => probe) || !agrees(known, (slot) => PROBES[(i + slot) % PROBES.length]!)) return null;
    }
    const literals = [...new Set(this.template!.literals().map(pythonStrip))].filter((text) => text !== '');
    const alone = literals.filter(
      (literal) =>
        !agrees(known, () => literal) ||
        !agrees(known, () => `${literal} x`) ||
        !agrees(known, () => `x ${literal}`) ||
        !agrees(known, () => `x${literal}x`),
    );
    // What means something only between two of them, as Qwen3's <tool_response> at the start and </tool_response> at the end.
    const paired = new Set(alone);
    const others = literals.filter((literal) => !paired.has(literal));
    for (const first of others) {
      for (const last of others) if (!agrees(known, () => `${first}x${last}`)) paired.add(first).add(last);
    }
    const mustGuard = [...paired];
    const free = literals.filter((literal) => !mustGuard.includes(literal));
    const guarded =
      agrees(known, () => `x ${free.join(' ')} x`) && agrees(known, () => `x${free.toReversed().join('')}x`)
        ? mustGuard
        : literals;
    const guard = guarded.length === 0 ? undefined : new RegExp(guarded.map(escapeRegExp).join('|'), 'u');
    return { frames: known, guard };
  }
}

/** Whether a text may take the shortcut: not empty, no white space at its ends, nothing in it that the template looks for. */
function passes(text: string, guard: RegExp | undefined): boolean {
  if (text === '' || isPythonSpace(text.charCodeAt(0)) || isPythonSpace(text.charCodeAt(text.length - 1))) return false;
  return guard === undefined || !guard.test(text);
}
