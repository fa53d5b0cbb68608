import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import type { MediaContext, MediaSource } from '../../../lib/data/media/locate.js';
import { openImage } from '../../../lib/data/media/source.js';
import type { ErrorCode } from '../../../lib/errors.js';
import { temporaryFolder, throwsCode } from '../fixtures.js';
import { MEDIA, mediaFixtures, sha } from './fixtures.js';

const FILE = 'palette.png';
const RGB = mediaFixtures().files.find(({ file }) => file === FILE)!.rgb;
const bytes = readFileSync(join(MEDIA, FILE));
const PLACE = 'data.jsonl, line 7: messages[0].content[1].image';

async function gives(t: ExecutionContext, source: MediaSource, context: MediaContext = { folder: MEDIA }): Promise<void> {
  const image = await openImage(source, context);
  t.deepEqual([image.width, image.height], [48, 32]);
  t.is(sha((await image.decode()).data), RGB);
}

function refuses(
  t: ExecutionContext,
  source: MediaSource,
  code: ErrorCode,
  message: RegExp,
  context: Partial<MediaContext> = {},
): Promise<void> {
  return throwsCode(t, () => openImage(source, { folder: MEDIA, place: PLACE, ...context }), code, message);
}

test('a picture is found by path, file: URL, data: URL, base64, bytes, and as Parquet has it', async (t) => {
  const base64 = bytes.toString('base64');
  await gives(t, FILE);
  await gives(t, `./${FILE}`);
  await gives(t, join(MEDIA, FILE), { folder: '/' });
  await gives(t, pathToFileURL(join(MEDIA, FILE)).href);
  await gives(t, `data:image/png;base64,${base64}`);
  await gives(t, base64);
  await gives(t, base64.replace(/(.{76})/g, '$1\n'));
  await gives(t, new Uint8Array(bytes));
  await gives(t, { bytes, path: 'gone.png' });
  await gives(t, { bytes: null, path: FILE });
});

test('JPEG as bare base64, which begins like an absolute path, is told from one', async (t) => {
  const image = await openImage(readFileSync(join(MEDIA, 'grey.jpg')).toString('base64'), { folder: MEDIA });
  t.deepEqual([image.width, image.height], [48, 32]);
  t.regex(image.name, /^base64 text of \d+ characters$/);
});

test('a base64 text of many megabytes, and a long text that is none, take no time to tell', async (t) => {
  const image = await openImage(Buffer.concat([bytes, Buffer.alloc(40_000_000)]).toString('base64'), { folder: MEDIA });
  t.is(image.width, 48);
  await refuses(t, `${' '.repeat(3_000_000)}!`, 'ERR_NOT_FOUND', /no such file/);
});

test('only the beginning of a file is read for its size', async (t) => {
  const path = join(temporaryFolder(t), 'long.png');
  copyFileSync(join(MEDIA, FILE), path);
  truncateSync(path, 20_000_000_000); // a sparse file: reading it all would be refused
  const image = await openImage(path, { folder: '/' });
  t.deepEqual([image.width, image.height], [48, 32]);
  await throwsCode(t, () => image.decode(), 'ERR_BAD_DATA', /20000000000 bytes are too many for a picture/);
});

/** A JPEG with comments before its size, more than are read at first. */
function commented(jpeg: Buffer): Buffer {
  const comment = Buffer.concat([Buffer.from([0xff, 0xfe, 0xff, 0xff]), Buffer.alloc(65_533, 32)]);
  return Buffer.concat([jpeg.subarray(0, 2), comment, comment, jpeg.subarray(2)]);
}

test('a size that stands behind much else in the file is found all the same', async (t) => {
  const path = join(temporaryFolder(t), 'commented.jpg');
  writeFileSync(path, commented(readFileSync(join(MEDIA, 'grey.jpg'))));
  t.is((await openImage(path, { folder: '/' })).width, 48);
});

test('no path leads out of the image root, by .., absolute or through a link', async (t) => {
  const folder = temporaryFolder(t);
  const imageRoot = join(folder, 'root');
  mkdirSync(join(imageRoot, 'sub'), { recursive: true });
  for (const place of [folder, imageRoot, join(imageRoot, 'sub')]) copyFileSync(join(MEDIA, FILE), join(place, FILE));
  symlinkSync(join(folder, FILE), join(imageRoot, 'link.png'));
  symlinkSync(join(imageRoot, FILE), join(imageRoot, 'sub', 'inner.png'));
  symlinkSync(folder, join(imageRoot, 'up'));
  const context = { folder: MEDIA, imageRoot };
  for (const inside of [FILE, `sub/${FILE}`, `sub/../${FILE}`, 'sub/inner.png', join(imageRoot, FILE), `../root/${FILE}`])
    await gives(t, inside, context);
  for (const outside of [`../${FILE}`, join(folder, FILE), 'link.png', `up/${FILE}`, pathToFileURL(join(folder, FILE)).href])
    await refuses(t, outside, 'ERR_BAD_DATA', /^data\.jsonl, line 7: .*it leads out of the image root/, context);
  await refuses(t, FILE, 'ERR_NOT_FOUND', /the image root .*nowhere: no such folder|no such file/, {
    imageRoot: join(folder, 'nowhere'),
  });
});

test('what is not there or is no picture is refused, with its place and name', async (t) => {
  const folder = temporaryFolder(t);
  const write = (name: string, content: string | Uint8Array) => {
    writeFileSync(join(folder, name), content);
    return name;
  };
  const from = { folder };
  await refuses(
    t,
    'a\nb.png',
    'ERR_NOT_FOUND',
    /^data\.jsonl, line 7: messages\[0\]\.content\[1\]\.image: a\\u000ab\.png: no such file \(looked in /,
    from,
  );
  await refuses(t, '', 'ERR_BAD_DATA', /the path: it is empty/);
  await refuses(t, 'x\0y', 'ERR_BAD_DATA', /holds no zero byte/);
  await refuses(t, 'x'.repeat(5000), 'ERR_NOT_FOUND', /x…: no such file/);
  await refuses(t, '.', 'ERR_BAD_DATA', /it is a folder/);
  await refuses(t, write('text.png', 'hello'), 'ERR_BAD_DATA', /text\.png: the file is not a picture: expected PNG, JPEG/, from);
  await refuses(t, write('empty.png', ''), 'ERR_BAD_DATA', /empty\.png: the file is empty/, from);
  await refuses(t, write('a.bmp', 'BM000000'), 'ERR_UNSUPPORTED', /a\.bmp: the file is BMP, which is not supported/, from);
  await refuses(t, write('a.svg', '<svg width="9" height="9"/>'), 'ERR_UNSUPPORTED', /the file is SVG/, from);
  await refuses(t, write('lfs.png', 'version https://git-lfs.github.com/spec/v1'), 'ERR_UNSUPPORTED', /Git LFS pointer/, from);
  await refuses(t, {} as MediaSource, 'ERR_BAD_DATA', /the source: expected a path, a URL/);
  await refuses(t, 7 as unknown as MediaSource, 'ERR_BAD_DATA', /the source: expected a path, a URL/);
  await refuses(t, 'data:image/png,abc', 'ERR_BAD_DATA', /data:image\/png,… \(18 characters\): expected data:image\/…;base64/);
  await refuses(t, 'data:image/png;base64,a*b', 'ERR_BAD_DATA', /is not base64 text/);
  await refuses(t, 'file://host/x.png', 'ERR_BAD_DATA', /not a file: URL of this machine/);
});

test('a pipe is refused, and not waited for', async (t) => {
  const folder = temporaryFolder(t);
  execFileSync('mkfifo', [join(folder, 'pipe.png')]);
  await refuses(t, 'pipe.png', 'ERR_BAD_DATA', /pipe\.png: it is not a regular file/, { folder });
});

test('a small file that unpacks to billions of pixels is refused from its header', async (t) => {
  const bomb = Buffer.from(bytes);
  bomb.writeUInt32BE(200_000, 16);
  bomb.writeUInt32BE(200_000, 20);
  await refuses(t, bomb, 'ERR_BAD_DATA', /200000×200000 pixels are too many/);
});

test('a file that was exchanged after it was opened is not taken for the one that was', async (t) => {
  const path = join(temporaryFolder(t), 'a.jpg');
  writeFileSync(path, commented(readFileSync(join(MEDIA, 'grey.jpg'))));
  const image = await openImage(path, { folder: '/' });
  writeFileSync(path, commented(readFileSync(join(MEDIA, 'photo.jpg'))));
  await throwsCode(t, () => image.decode(), 'ERR_BAD_DATA', /a\.jpg: it was 48×32 when it was opened and is 130×85 now/);
});

test('the network is read only where that is allowed, and its failures are named', async (t) => {
  const server = createServer((request, response) => {
    if (request.url === `/${FILE}`) response.end(bytes);
    else if (request.url === '/moved') response.writeHead(302, { location: `/${FILE}` }).end();
    else if (request.url === '/page') response.end('<!DOCTYPE html><p>Sign in');
    else if (request.url === '/cut')
      response.writeHead(200, { 'content-length': '5000' }).write(bytes.subarray(0, 50), () => response.destroy());
    else response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await refuses(
    t,
    `${base}/${FILE}`,
    'ERR_USAGE',
    /nothing is read from the network unless it is allowed \(--allow-remote-images\)/,
  );
  const allowed = { allowRemote: true };
  await gives(t, `${base}/${FILE}`, { folder: MEDIA, ...allowed });
  await gives(t, `${base}/moved`, { folder: MEDIA, ...allowed });
  await refuses(t, `${base}/no.png`, 'ERR_NOT_FOUND', /no\.png: the server answered 404 Not Found/, allowed);
  await refuses(t, `${base}/page`, 'ERR_UNSUPPORTED', /page: the file is HTML/, allowed);
  await refuses(t, `${base}/cut`, 'ERR_IO', /cut: cannot be read: /, allowed);
  await refuses(t, 'http://127.0.0.1:1/x.png', 'ERR_IO', /x\.png: cannot be read: /, allowed);
  await refuses(t, `${base}/${FILE}`, 'ERR_CANCELLED', /cancelled/, { ...allowed, signal: AbortSignal.abort() });
});

test('who reads no picture loads no decoder', (t) => {
  const index = new URL('../../../lib/index.js', import.meta.url);
  const script = `await import('${index}'); console.log(JSON.stringify(process.report.getReport().sharedObjects))`;
  const loaded = execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  t.regex(loaded, /libc/);
  t.notRegex(loaded, /vips|sharp/);
});
