import { spawn } from 'node:child_process';
import { chmod, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { VltuneError } from '../../lib/errors.js';
import { ensureEmptyOutput, safeJoin, writeFileAtomic, writeFolderAtomic } from '../../lib/files.js';
import { fails, scratch } from './fixtures.js';

test('a file is replaced in one step, and its folder made', async (t) => {
  const folder = await scratch(t);
  const path = join(folder, 'new/file.txt');
  await writeFileAtomic(path, 'one');
  await writeFileAtomic(path, async (sink) => {
    await sink.write(Buffer.from('tw'));
    await sink.write(Buffer.from('o'));
    t.is(await readFile(path, 'utf8'), 'one', 'the old content stands until the new one is whole');
  });
  t.is(await readFile(path, 'utf8'), 'two');
  t.deepEqual(await readdir(join(folder, 'new')), ['file.txt']);
});

test('a write that fails leaves the old file and nothing beside it', async (t) => {
  const folder = await scratch(t);
  const path = join(folder, 'file.txt');
  await writeFileAtomic(path, 'old');
  const failing = writeFileAtomic(path, async (sink) => {
    await sink.write(Buffer.from('half'));
    throw new RangeError('mine');
  });
  await t.throwsAsync(failing, { instanceOf: RangeError, message: 'mine' }, 'errors of the caller pass unchanged');
  t.is(await readFile(path, 'utf8'), 'old');
  t.deepEqual(await readdir(folder), ['file.txt']);
});

test('system errors are ERR_IO and name the path', async (t) => {
  const folder = await scratch(t);
  await writeFile(join(folder, 'file'), '');
  await fails(t, 'ERR_IO', [join(folder, 'file/inner'), 'a file is in the way'], () =>
    writeFileAtomic(join(folder, 'file/inner'), 'x'),
  );
  await mkdir(join(folder, 'full'));
  await fails(t, 'ERR_IO', [join(folder, 'full'), 'no space left'], () =>
    writeFolderAtomic(join(folder, 'full'), async () => {
      throw Object.assign(new Error('write'), { code: 'ENOSPC', syscall: 'write' });
    }),
  );
  t.deepEqual((await readdir(folder)).sort(), ['file', 'full']);
});

const devFull = process.platform === 'linux' ? test : test.skip;
devFull('a full device is told as such', async (t) => {
  const folder = await scratch(t);
  await mkdir(join(folder, 'out'));
  await fails(t, 'ERR_IO', ['no space left on the disk'], () =>
    writeFolderAtomic(join(folder, 'out'), async () => {
      await writeFile('/dev/full', 'x');
    }),
  );
  t.deepEqual(await readdir(folder), ['out']);
});

test('an error in a folder that is being built names the folder it is built for', async (t) => {
  const folder = await scratch(t);
  const target = join(folder, 'model');
  await fails(t, 'ERR_IO', [join(target, 'file/inner')], () =>
    writeFolderAtomic(target, async (temporary) => {
      await writeFile(join(temporary, 'file'), '');
      await writeFileAtomic(join(temporary, 'file/inner'), 'x');
    }),
  );
  t.deepEqual(await readdir(folder), []);
});

test('a folder appears whole, or not at all', async (t) => {
  const folder = await scratch(t);
  const target = join(folder, 'deep/model');
  await writeFolderAtomic(target, async (temporary) => {
    await writeFile(join(temporary, 'a'), 'a');
    t.deepEqual((await readdir(join(folder, 'deep'))).includes('model'), false);
  });
  t.deepEqual(await readdir(target), ['a']);

  await t.throwsAsync(
    writeFolderAtomic(join(folder, 'other'), async (temporary) => {
      await writeFile(join(temporary, 'half'), 'x');
      throw new Error('stop');
    }),
    { message: 'stop' },
  );
  t.deepEqual(await readdir(folder), ['deep']);
});

test('a folder that holds something is kept, unless it is to be replaced', async (t) => {
  const folder = await scratch(t);
  const target = join(folder, 'model');
  await mkdir(target);
  await writeFile(join(target, 'old'), '');
  const fill = async (temporary: string): Promise<void> => writeFile(join(temporary, 'new'), '');
  await fails(t, 'ERR_USAGE', [target, 'not empty'], () => writeFolderAtomic(target, fill));
  t.deepEqual(await readdir(target), ['old']);
  await writeFolderAtomic(target, fill, { replace: true });
  t.deepEqual(await readdir(target), ['new']);
  t.deepEqual(await readdir(folder), ['model']);
});

test('a folder behind a link is filled where the link points', async (t) => {
  const folder = await scratch(t);
  await mkdir(join(folder, 'real'));
  await symlink('real', join(folder, 'link'));
  await writeFolderAtomic(join(folder, 'link'), async (temporary) => writeFile(join(temporary, 'a'), ''));
  t.deepEqual(await readdir(join(folder, 'real')), ['a']);
  t.deepEqual((await readdir(folder)).sort(), ['link', 'real']);
});

test('what a killed process left is removed by the next write, what a live one builds is not', async (t) => {
  const folder = await scratch(t);
  const gone = 2 ** 22 + 1; // beyond the largest process id
  await mkdir(join(folder, `.model.partial-${gone}-1`));
  await mkdir(join(folder, `.model.partial-${process.ppid}-1`));
  await mkdir(join(folder, `.other.partial-${gone}-1`));
  await writeFolderAtomic(join(folder, 'model'), async () => {});
  t.deepEqual((await readdir(folder)).sort(), [`.model.partial-${process.ppid}-1`, `.other.partial-${gone}-1`, 'model'].sort());
});

for (const [signal, code] of [
  ['SIGINT', null],
  ['SIGTERM', null],
] as const) {
  test(`${signal} in the middle of a write removes what was built, and still ends the process`, async (t) => {
    const folder = await scratch(t);
    const script = `
      import { writeFileSync } from 'node:fs';
      import { writeFolderAtomic } from ${JSON.stringify(new URL('../../lib/files.js', import.meta.url).href)};
      await writeFolderAtomic(${JSON.stringify(join(folder, 'model'))}, async (temporary) => {
        writeFileSync(temporary + '/half', 'x');
        process.stdout.write('ready');
        await new Promise((resolve) => setTimeout(resolve, 60_000));
      });`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    await new Promise((resolve) => child.stdout.once('data', resolve));
    t.is((await readdir(folder)).length, 1);
    const ended = new Promise<[number | null, string | null]>((resolve) => child.once('exit', (...how) => resolve(how)));
    child.kill(signal);
    t.deepEqual(await ended, [code, signal]);
    t.deepEqual(await readdir(folder), []);
  });
}

test('an output folder must be absent or empty, and its place writable', async (t) => {
  const folder = await scratch(t);
  await ensureEmptyOutput(join(folder, 'a/b/c'));
  await ensureEmptyOutput(folder);
  t.deepEqual(await readdir(folder), [], 'nothing is made');
  await writeFile(join(folder, 'file'), '');
  await fails(t, 'ERR_USAGE', ['--output-dir', folder, 'not empty', 'file'], () => ensureEmptyOutput(folder));
  await fails(t, 'ERR_USAGE', ['--out', 'is a file'], () => ensureEmptyOutput(join(folder, 'file'), '--out'));
  await fails(t, 'ERR_USAGE', [join(folder, 'file')], () => ensureEmptyOutput(join(folder, 'file/inner')));
  await fails(t, 'ERR_USAGE', ['--output-dir', 'empty path'], () => ensureEmptyOutput(''));
  await symlink(join(folder, 'nowhere'), join(folder, 'link'));
  await fails(t, 'ERR_USAGE', ['link', 'symbolic link to nothing'], () => ensureEmptyOutput(join(folder, 'link')));
});

const notRoot = process.getuid?.() === 0 ? test.skip : test;
notRoot('a place without permission is told', async (t) => {
  const folder = await scratch(t);
  await chmod(folder, 0o500);
  t.teardown(() => chmod(folder, 0o700));
  await fails(t, 'ERR_USAGE', ['--output-dir', 'permission denied'], () => ensureEmptyOutput(join(folder, 'x')));
  const error = await t.throwsAsync(
    writeFolderAtomic(join(folder, 'x'), async () => {}),
    { instanceOf: VltuneError },
  );
  t.is(error?.code, 'ERR_IO');
});

test('names from a file must stay in their folder', (t) => {
  for (const name of ['a', 'a.b', 'sub/a', '..a', 'a..']) t.is(safeJoin('/models/m', name), join('/models/m', name));
  for (const name of ['', '..', '../x', 'a/../../x', '/etc/passwd', 'a//b', './a', 'C:\\x', 'C:x', 'a\\..\\b', 'a\0b'])
    t.is(safeJoin('/models/m', name), undefined, name);
});
