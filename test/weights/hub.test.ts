import { createHash } from 'node:crypto';
import { lstat, mkdir, readdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { resolveModel } from '../../lib/weights/hub.js';
import { fails, fixture, scratch } from './fixtures.js';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const sha = (algorithm: string, bytes: string): string => createHash(algorithm).update(bytes).digest('hex');

/** Variables of the environment for one test. The tests of this file run one after the other, since they share it. */
function withEnv(t: ExecutionContext, values: Readonly<Record<string, string | undefined>>): void {
  const names = [
    'HF_HOME',
    'HF_HUB_CACHE',
    'HUGGINGFACE_HUB_CACHE',
    'XDG_CACHE_HOME',
    'HF_TOKEN',
    'HF_TOKEN_PATH',
    'HUGGING_FACE_HUB_TOKEN',
    'HF_ENDPOINT',
    'HF_HUB_OFFLINE',
    'TRANSFORMERS_OFFLINE',
  ];
  const saved = names.map((name) => [name, process.env[name]] as const);
  const set = (name: string, value: string | undefined): void => {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  };
  for (const name of names) set(name, values[name]);
  t.teardown(() => {
    for (const [name, value] of saved) set(name, value);
  });
}

/** A model in a cache folder, as huggingface_hub lays it out: blobs, links in a snapshot, a reference. */
async function cacheModel(hub: string, id: string, files: Readonly<Record<string, string>>, revision = 'main'): Promise<string> {
  const repo = join(hub, `models--${id.replace('/', '--')}`);
  const snapshot = join(repo, 'snapshots', COMMIT);
  await mkdir(join(repo, 'blobs'), { recursive: true });
  await mkdir(join(repo, 'refs'), { recursive: true });
  await mkdir(snapshot, { recursive: true });
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(repo, 'blobs', sha('sha1', content)), content);
    await symlink(join('../../blobs', sha('sha1', content)), join(snapshot, name));
  }
  await writeFile(join(repo, 'refs', revision), COMMIT);
  return snapshot;
}

test.serial('a local folder comes first', async (t) => {
  withEnv(t, { HF_HUB_OFFLINE: '1' });
  t.is(await resolveModel(fixture('base-bf16')), fixture('base-bf16'));
});

test.serial('what is neither a folder nor a hub id is told as what it looks like', async (t) => {
  withEnv(t, { HF_HUB_OFFLINE: '1', HF_HOME: await scratch(t) });
  for (const path of ['/no/such/folder', './nowhere', '../nowhere', '~/nowhere/at/all'])
    await fails(t, 'ERR_NOT_FOUND', [path, 'no such folder'], () => resolveModel(path));
  for (const name of ['', 'a b', 'a/b/c', 'a--b/c', 'a/..b..', '.hidden/x'])
    await fails(t, 'ERR_USAGE', ['hub id'], () => resolveModel(name));
  await fails(t, 'ERR_NOT_FOUND', ['is a file', 'config.json'], () => resolveModel(fixture('base-bf16/model.safetensors')));
  for (const revision of ['../x', '', '-x']) await fails(t, 'ERR_USAGE', ['revision'], () => resolveModel('a/b', { revision }));
});

test.serial('a cached model is found by branch, tag and commit, under HF_HOME or HF_HUB_CACHE', async (t) => {
  const home = await scratch(t);
  const files = { 'config.json': '{}', 'model.safetensors': 'x' };
  const snapshot = await cacheModel(join(home, 'hub'), 'org/model', files);
  await writeFile(join(home, 'hub/models--org--model/refs/v1'), `${COMMIT}\n`);
  withEnv(t, { HF_HOME: home, HF_HUB_OFFLINE: '1' });
  t.is(await resolveModel('org/model'), snapshot);
  t.is(await resolveModel('org/model', { revision: 'v1' }), snapshot);
  t.is(await resolveModel('org/model', { revision: COMMIT }), snapshot);
  await fails(t, 'ERR_NOT_FOUND', ['org/model', 'revision v2', 'HF_HUB_OFFLINE'], () =>
    resolveModel('org/model', { revision: 'v2' }),
  );

  withEnv(t, { HF_HUB_CACHE: join(home, 'hub'), TRANSFORMERS_OFFLINE: 'yes' });
  t.is(await resolveModel('org/model'), snapshot);
  withEnv(t, { HF_HOME: join(home, 'elsewhere') });
  await fails(t, 'ERR_NOT_FOUND', [join(home, 'elsewhere/hub'), 'HF_HUB_OFFLINE'], () =>
    resolveModel('org/model', { offline: true }),
  );
});

test.serial('a cached model that lacks a shard or a blob is in the cache only in part', async (t) => {
  const home = await scratch(t);
  const index = JSON.stringify({ weight_map: { a: 'model-1.safetensors', b: 'model-2.safetensors' } });
  await cacheModel(join(home, 'hub'), 'org/model', {
    'config.json': '{}',
    'model.safetensors.index.json': index,
    'model-1.safetensors': '1',
  });
  withEnv(t, { HF_HOME: home, HF_HUB_OFFLINE: '1' });
  await fails(t, 'ERR_NOT_FOUND', ['only in part', COMMIT], () => resolveModel('org/model'));

  await cacheModel(join(home, 'hub'), 'org/other', { 'config.json': '{}', 'model.safetensors': 'weights' });
  await rm(join(home, 'hub/models--org--other/blobs', sha('sha1', 'weights')));
  await fails(t, 'ERR_NOT_FOUND', ['only in part'], () => resolveModel('org/other'));
});

interface FakeHub {
  readonly url: string;
  readonly requests: string[];
  readonly tokens: Set<string | undefined>;
}

/** The few endpoints of the hub that a download uses. `corrupt` sends other bytes than the listing promised. */
async function fakeHub(
  t: ExecutionContext,
  files: Readonly<Record<string, string>>,
  options: { corrupt?: string; status?: number } = {},
): Promise<FakeHub> {
  const requests: string[] = [];
  const tokens = new Set<string | undefined>();
  const server: Server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url!, 'http://hub').pathname);
    requests.push(path);
    tokens.add(request.headers.authorization);
    const json = (value: unknown): void => void response.setHeader('Content-Type', 'application/json').end(JSON.stringify(value));
    if (options.status !== undefined) {
      response.statusCode = options.status;
      return json({ error: 'the hub says no' });
    }
    if (path === '/api/models/org/model/revision/main') return json({ _id: '1', id: 'org/model', sha: COMMIT });
    if (path === `/api/models/org/model/tree/${COMMIT}`) {
      return json(
        Object.entries(files).map(([name, content]) => ({
          type: 'file',
          path: name,
          size: content.length,
          oid: sha('sha1', content),
          ...(name.endsWith('.safetensors')
            ? { lfs: { oid: sha('sha256', content), size: content.length, pointerSize: 100 } }
            : {}),
        })),
      );
    }
    const name = path.replace(`/org/model/resolve/${COMMIT}/`, '');
    const content = files[name];
    if (content === undefined) {
      response.statusCode = 404;
      return json({ error: 'not found' });
    }
    const sent = options.corrupt === name ? content.replace(/./, '#') : content;
    const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
    response.setHeader('ETag', `"${sha('sha1', content)}"`);
    if (range === null) return void response.end(sent);
    response.statusCode = 206;
    const end = Math.min(Number(range[2]), sent.length - 1);
    response.setHeader('Content-Range', `bytes ${range[1]}-${end}/${sent.length}`);
    response.end(sent.slice(Number(range[1]), end + 1));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests, tokens };
}

const FILES: Readonly<Record<string, string>> = {
  'config.json': '{"model_type":"x"}',
  'model.safetensors': 'weights of some length',
  'tokenizer.json': '{}',
  'chat_template.jinja': '{{ x }}',
  'merges.txt': 'a b',
  'pytorch_model.bin': 'never fetched',
  'modeling.py': 'never fetched',
  'README.md': 'never fetched',
  'original/consolidated.safetensors': 'never fetched',
};

test.serial('a download takes what a model needs, lays the cache out as huggingface_hub does, and is not repeated', async (t) => {
  const home = await scratch(t);
  const hub = await fakeHub(t, FILES);
  withEnv(t, { HF_HOME: home, HF_ENDPOINT: hub.url, HF_TOKEN: 'hf_secret' });
  const progress: number[] = [];
  const folder = await resolveModel('org/model', { onProgress: ({ bytes }) => progress.push(bytes) });
  const repo = join(home, 'hub/models--org--model');
  t.is(folder, join(repo, 'snapshots', COMMIT));
  t.deepEqual((await readdir(folder)).sort(), [
    'chat_template.jinja',
    'config.json',
    'merges.txt',
    'model.safetensors',
    'tokenizer.json',
  ]);
  for (const name of await readdir(folder)) {
    t.true((await lstat(join(folder, name))).isSymbolicLink());
    t.is(await readFile(join(folder, name), 'utf8'), FILES[name]!);
  }
  t.is(await readlink(join(folder, 'model.safetensors')), join('../../blobs', sha('sha256', FILES['model.safetensors']!)));
  t.is(await readFile(join(repo, 'refs/main'), 'utf8'), COMMIT);
  t.deepEqual([...hub.tokens], ['Bearer hf_secret']);
  t.false(hub.requests.some((path) => /bin|\.py|README|original/.test(path)));
  t.is(
    progress.at(-1),
    ['config.json', 'model.safetensors', 'tokenizer.json', 'chat_template.jinja', 'merges.txt'].reduce(
      (sum, name) => sum + FILES[name]!.length,
      0,
    ),
  );

  const before = hub.requests.length;
  t.is(await resolveModel('org/model'), folder);
  t.is(hub.requests.length, before, 'the cache answers');
});

test.serial('bytes that do not have the promised hash are not kept', async (t) => {
  const home = await scratch(t);
  const hub = await fakeHub(t, FILES, { corrupt: 'model.safetensors' });
  withEnv(t, { HF_HOME: home, HF_ENDPOINT: hub.url });
  await fails(t, 'ERR_IO', ['model.safetensors', 'hash'], () => resolveModel('org/model'));
  const repo = join(home, 'hub/models--org--model');
  const blobs = await readdir(join(repo, 'blobs'));
  t.false(blobs.includes(sha('sha256', FILES['model.safetensors']!)) || blobs.some((name) => name.includes('incomplete')));
  t.false((await readdir(repo)).includes('refs'), 'the revision is not there yet');
});

test.serial('a refusal, an absence and an unreachable hub each say what to do', async (t) => {
  const home = await scratch(t);
  for (const [status, parts] of [
    [401, ['HF_TOKEN']],
    [404, ['no model org/model', 'revision main']],
    [500, ['the hub says no']],
  ] as const) {
    const hub = await fakeHub(t, FILES, { status });
    withEnv(t, { HF_HOME: home, HF_ENDPOINT: hub.url });
    await fails(t, status === 500 ? 'ERR_IO' : 'ERR_NOT_FOUND', ['org/model', ...parts], () => resolveModel('org/model'));
  }
  withEnv(t, { HF_HOME: home, HF_ENDPOINT: 'http://127.0.0.1:1', HF_TOKEN: 'secret' });
  await fails(t, 'ERR_USAGE', ['HF_TOKEN', 'hf_'], () => resolveModel('org/model'));
  withEnv(t, { HF_HOME: home, HF_ENDPOINT: 'http://127.0.0.1:1' });
  await fails(t, 'ERR_NOT_FOUND', ['org/model', join(home, 'hub'), 'cannot be reached'], () => resolveModel('org/model'));
});

test.serial('a hub model with pickle files only is refused by name', async (t) => {
  const hub = await fakeHub(t, { 'config.json': '{}', 'pytorch_model.bin': 'x' });
  withEnv(t, { HF_HOME: await scratch(t), HF_ENDPOINT: hub.url });
  await fails(t, 'ERR_UNSUPPORTED', ['org/model', 'pickle'], () => resolveModel('org/model'));
});

test.serial('an aborted download is cancelled', async (t) => {
  const hub = await fakeHub(t, FILES);
  withEnv(t, { HF_HOME: await scratch(t), HF_ENDPOINT: hub.url });
  await fails(t, 'ERR_CANCELLED', ['org/model'], () => resolveModel('org/model', { signal: AbortSignal.abort() }));
});
