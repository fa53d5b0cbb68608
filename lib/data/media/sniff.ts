/** What kind of file bytes are, by their first few: content decides, never a name's ending. */

export interface FileKind {
  readonly name: string;
  /** Whether pictures of this kind are decoded here, and whether ffmpeg is asked for its frames. */
  readonly picture: boolean;
  readonly video: boolean;
}

type Use = 'picture' | 'video' | 'both' | 'none';
type Signature = readonly [name: string, use: Use, offset: number, bytes: string];

const SIGNATURES: readonly Signature[] = [
  ['JPEG', 'picture', 0, '\xff\xd8\xff'],
  ['PNG', 'picture', 0, '\x89PNG\r\n\x1a\n'],
  ['GIF', 'both', 0, 'GIF87a'],
  ['GIF', 'both', 0, 'GIF89a'],
  ['AVIF', 'picture', 4, 'ftypavif'],
  ['AVIF', 'picture', 4, 'ftypavis'],
  ['TIFF', 'picture', 0, 'II*\0'],
  ['TIFF', 'picture', 0, 'MM\0*'],
  ['HEIC', 'none', 4, 'ftyphe'],
  ['HEIF', 'none', 4, 'ftypmif1'],
  ['MP4', 'video', 4, 'ftyp'],
  ['BMP', 'none', 0, 'BM'],
  ['Photoshop', 'none', 0, '8BPS'],
  ['JPEG 2000', 'none', 0, '\0\0\0\x0cjP  '],
  ['JPEG XL', 'none', 0, '\0\0\0\x0cJXL '],
  ['JPEG XL', 'none', 0, '\xff\x0a'],
  ['icon', 'none', 0, '\0\0\x01\0'],
  ['Matroska', 'video', 0, '\x1aE\xdf\xa3'],
  ['MPEG', 'video', 0, '\0\0\x01\xba'],
  ['MPEG', 'video', 0, '\0\0\x01\xb3'],
  ['MPEG', 'video', 0, 'G@'],
  ['Flash video', 'video', 0, 'FLV'],
  ['Ogg', 'video', 0, 'OggS'],
  ['Windows Media', 'video', 0, '\x30\x26\xb2\x75'],
  ['PDF', 'none', 0, '%PDF-'],
  ['SVG or XML', 'none', 0, '<?xml'],
  ['SVG', 'none', 0, '<svg'],
  ['HTML', 'none', 0, '<!DOCTYPE html'],
  ['HTML', 'none', 0, '<html'],
  ['gzip', 'none', 0, '\x1f\x8b'],
  ['zip', 'none', 0, 'PK\x03\x04'],
  ['Git LFS pointer', 'none', 0, 'version https://git-lfs'],
];

/** Undefined: none that is known. */
export function sniffFormat(bytes: Uint8Array): FileKind | undefined {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 64)).toString('latin1');
  if (head.startsWith('RIFF')) {
    if (head.startsWith('WEBP', 8)) return { name: 'WebP', picture: true, video: false };
    if (head.startsWith('AVI ', 8)) return { name: 'AVI', picture: false, video: true };
  }
  const found = SIGNATURES.find(([, , offset, signature]) => head.startsWith(signature, offset));
  if (!found) return undefined;
  const [name, use] = found;
  return { name, picture: use === 'picture' || use === 'both', video: use === 'video' || use === 'both' };
}
