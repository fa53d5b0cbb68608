/** HTML from text that nobody can be trusted with: a template tag that escapes every value which is not HTML itself. */

/** A piece of HTML that is safe to put into a page. */
export class Html {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export type HtmlValue = Html | string | number | false | undefined | readonly HtmlValue[];

/** `html\`<p>${text}</p>\``: texts and numbers are escaped, lists put one after the other, `false` and `undefined` are nothing. */
export function html(parts: TemplateStringsArray, ...values: readonly HtmlValue[]): Html {
  return new Html(parts.reduce((text, part, i) => text + toHtml(values[i - 1]) + part));
}

/** Takes text for HTML as it is: for what this program has made itself. */
export function trusted(text: string): Html {
  return new Html(text);
}

function toHtml(value: HtmlValue): string {
  if (value instanceof Html) return value.text;
  if (value === undefined || value === false) return '';
  if (typeof value === 'object') return value.map(toHtml).join('');
  return escapeHtml(String(value));
}

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

/** For content and for attributes in either kind of quotes. Control characters, which HTML does not allow, become U+FFFD. */
function escapeHtml(text: string): string {
  return (
    text
      .replace(/[&<>"']/g, (character) => ENTITIES[character]!)
      // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is replaced
      .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g, '\ufffd')
  );
}
