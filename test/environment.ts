/** What is chosen once a process, by its environment, is tested in processes of their own. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ExecutionContext } from 'ava';
import { PACKAGE_ROOT } from '../lib/native.js';

const run = promisify(execFile);

type Environment = Readonly<Record<string, string>>;

/** What an expression of the addon's functions is in a process with these variables: `addon().cpuInfo().isa`. */
export async function valueWith(variables: Environment, expression: string): Promise<string> {
  const native = new URL('../lib/native.js', import.meta.url);
  const script = `import('${native}').then(({ addon }) => console.log(${expression}))`;
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script], {
    env: { ...process.env, ...variables },
  });
  return stdout.trim();
}

/** Every test of some files, by their paths in `dist`, passes with these variables. */
export async function checkPasses(t: ExecutionContext, variables: Environment, files: readonly string[]): Promise<void> {
  const ava = join(PACKAGE_ROOT, 'node_modules', 'ava', 'entrypoints', 'cli.mjs');
  const env = { ...process.env, ...variables, FORCE_COLOR: '0' };
  const result = await run(process.execPath, [ava, '--concurrency=1', ...files], { cwd: PACKAGE_ROOT, env }).catch(
    (error: Error & { stdout: string; stderr: string }) =>
      t.fail(
        `${error.stdout}${error.stderr}`
          .split('\n')
          .filter((line) => !line.includes('✔'))
          .join('\n'),
      ),
  );
  if (typeof result === 'object') t.regex(result.stdout, /\d+ tests passed/);
}
