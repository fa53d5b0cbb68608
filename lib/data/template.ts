/** The chat template that a model folder brings, rendered with what transformers gives to it. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Template } from '@huggingface/jinja';
import { VltuneError } from '../errors.js';
import type { Message } from './message.js';

/** The special tokens a template may name. */
export interface TemplateTokens {
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  readonly padToken: string | null;
  readonly unkToken: string | null;
}

export interface RenderOptions {
  /** End with the opening of an assistant's turn. Default false. */
  readonly addGenerationPrompt?: boolean;
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return undefined;
    throw new VltuneError('ERR_BAD_CHECKPOINT', `${path}: ${message}`, { cause });
  }
}

function parseObject(path: string, text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
    throw new Error('expected an object');
  } catch (cause) {
    throw new VltuneError('ERR_BAD_CHECKPOINT', `${path}: not a JSON object: ${(cause as Error).message}`, { cause });
  }
}

/** What the template sees of a conversation: of a picture or video that it is one. None writes out where it comes from. */
function templateView(messages: readonly Message[]): readonly object[] {
  return messages.map((message) => {
    const { role, content } = message;
    if (typeof content === 'string' || content.every((item) => item.type === 'text')) return message;
    return { role, content: content.map((item) => (item.type === 'text' ? item : { type: item.type, [item.type]: item.type })) };
  });
}

/** A template, or a list of named ones of which `default` is taken. */
function templateIn(path: string, value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'string') return value;
  if (Array.isArray(value)) {
    const entry = value.find((item) => (item as { name?: unknown } | null)?.name === 'default') as
      | { template?: unknown }
      | undefined;
    if (typeof entry?.template === 'string') return entry.template;
  }
  throw new VltuneError(
    'ERR_BAD_CHECKPOINT',
    `${path}: chat_template: expected a string, or a list that has a "default" template`,
  );
}

/** Every string in quotes in the template's code. */
function literalsOf(node: unknown, into: Set<string>): void {
  if (Array.isArray(node)) {
    for (const item of node) literalsOf(item, into);
  } else if (node instanceof Map) {
    for (const [key, value] of node) {
      literalsOf(key, into);
      literalsOf(value, into);
    }
  } else if (typeof node === 'object' && node !== null) {
    const { type, value } = node as { type?: unknown; value?: unknown };
    if (type === 'StringLiteral' && typeof value === 'string') into.add(value);
    for (const item of Object.values(node)) if (typeof item === 'object') literalsOf(item, into);
  }
}

export class ChatTemplate {
  readonly source: string;
  private readonly template: Template;
  private readonly tokens: Record<string, string>;

  /** Compiles a template. Throws ERR_BAD_CHECKPOINT where it is not valid Jinja. */
  constructor(source: string, tokens: TemplateTokens, name = 'the chat template') {
    this.source = source;
    try {
      this.template = new Template(source);
    } catch (cause) {
      throw new VltuneError('ERR_BAD_CHECKPOINT', `${name}: ${(cause as Error).message}`, { cause });
    }
    this.tokens = {};
    const named = {
      bos_token: tokens.bosToken,
      eos_token: tokens.eosToken,
      pad_token: tokens.padToken,
      unk_token: tokens.unkToken,
    };
    for (const [key, value] of Object.entries(named)) if (value !== null) this.tokens[key] = value;
  }

  /**
   * Loads chat_template.jinja, else chat_template.json, else the one in tokenizer_config.json. Throws ERR_BAD_CHECKPOINT where none of
   * them holds one.
   */
  static async load(folder: string, tokens: TemplateTokens): Promise<ChatTemplate> {
    const jinja = join(folder, 'chat_template.jinja');
    const source = await readIfThere(jinja);
    if (source !== undefined) return new ChatTemplate(source, tokens, jinja);
    for (const name of ['chat_template.json', 'tokenizer_config.json']) {
      const path = join(folder, name);
      const text = await readIfThere(path);
      const found = text === undefined ? undefined : templateIn(path, parseObject(path, text).chat_template);
      if (found !== undefined) return new ChatTemplate(found, tokens, path);
    }
    throw new VltuneError(
      'ERR_BAD_CHECKPOINT',
      `${folder}: no chat template (looked for chat_template.jinja, chat_template.json and chat_template in tokenizer_config.json); --text-format plain needs none`,
    );
  }

  /** Renders messages. Throws ERR_BAD_DATA with what the template says where it refuses them. */
  render(messages: readonly Message[], options: RenderOptions = {}): string {
    try {
      return this.template.render({
        messages: templateView(messages),
        tools: null,
        documents: null,
        add_generation_prompt: options.addGenerationPrompt ?? false,
        ...this.tokens,
      });
    } catch (cause) {
      throw new VltuneError('ERR_BAD_DATA', `the chat template refuses the messages: ${(cause as Error).message}`, { cause });
    }
  }

  /** Every string literal in the template's code: whatever it may look for in a text is among them. */
  literals(): readonly string[] {
    const found = new Set<string>();
    literalsOf(this.template.parsed, found);
    return [...found];
  }
}
