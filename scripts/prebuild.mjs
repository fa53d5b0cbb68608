// `npm run prebuild`: builds the addon anew and puts it, stripped, into prebuilds/<platform>-<arch>/, where node-gyp-build finds
// it on a machine without a compiler. Release from the oldest system that is supported: the libc of this one is needed there.
import { join } from 'node:path';
import { headerFolder, main, ROOT, runBin } from './setup.mjs';

await main(() => {
  const headers = headerFolder();
  runBin(
    'prebuildify',
    'bin.js',
    ['--napi', '--strip', '--tag-libc', `--node-gyp=${join(ROOT, 'node_modules', '.bin', 'node-gyp')}`],
    {
      live: true,
      env: headers === undefined ? {} : { npm_config_nodedir: headers },
    },
  );
});
