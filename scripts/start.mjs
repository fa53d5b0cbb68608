// `npm start`: makes the clone ready, then does the whole job once on the shipped tiny model (lib/cli/demo.ts).
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { main, ROOT, setup } from './setup.mjs';

await main(async () => {
  setup();
  const child = spawn(process.execPath, [join(ROOT, 'dist', 'lib', 'cli', 'main.js'), 'demo', ...process.argv.slice(2)], {
    stdio: 'inherit',
  });
  // A Ctrl-C reaches the child too; it saves and ends, and then so do we.
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => {});
  return await new Promise((resolve) => child.on('exit', (code) => resolve(code ?? 1)));
});
