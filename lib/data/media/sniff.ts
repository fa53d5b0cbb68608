/** What kind of file bytes are, by their first few: content decides, never a name's ending. */

export interface FileKind {
  readonly name: string;
  /** Whether pictures of this kind can be decoded here. */
  readonly supported: boolean;
}

type Signature = readonly [name: string, supported: boolean, offset: number, bytes: string];

const SIGNATURES: readonly Signature[] = [
  ['JPEG', true, 0, '\xff\xd8\xff'],
  ['PNG', true, 0, '\x89PNG\r\n\x1a\n'],
  ['GIF', true, 0, 'GIF87a'],
  ['GIF', true, 0, 'GIF89a'],
  ['AVIF', true, 4, 'ftypavif'],
  ['AVIF', true, 4, 'ftypavis'],
  ['TIFF', true, 0, 'II*\0'],
  ['TIFF', true, 0, 'MM\0*'],
  ['HEIC', false, 4, 'ftyphe'],
  ['HEIF', false, 4, 'ftypmif1'],
  ['MP4 video', false, 4, 'ftyp'],
  ['BMP', false, 0, 'BM'],
  ['Photoshop', false, 0, '8BPS'],
  ['JPEG 2000', false, 0, '\0\0\0\x0cjP  '],
  ['JPEG XL', false, 0, '\0\0\0\x0cJXL '],
  ['JPEG XL', false, 0, '\xff\x0a'],
  ['icon', false, 0, '\0\0\x01\0'],
  ['Matroska video', false, 0, '\x1aE\xdf\xa3'],
  ['PDF', false, 0, '%PDF-'],
  ['SVG or XML', false, 0, '<?xml'],
  ['SVG', false, 0, '<svg'],
  ['HTML', false, 0, '<!DOCTYPE html'],
  ['HTML', false, 0, '<html'],
  ['gzip', false, 0, '\x1f\x8b'],
  ['zip', false, 0, 'PK\x03\x04'],
  ['Git LFS pointer', false, 0, 'version https://git-lfs'],
];

/** Undefined: none that is known. */
export function sniffFormat(bytes: Uint8Array): FileKind | undefined {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 64)).toString('latin1');
  if (head.startsWith('RIFF')) {
    if (head.startsWith('WEBP', 8)) return { name: 'WebP', supported: true };
    if (head.startsWith('AVI ', 8)) return { name: 'AVI video', supported: false };
  }
  const found = SIGNATURES.find(([, , offset, signature]) => head.startsWith(signature, offset));
  return found && { name: found[0], supported: found[1] };
}
