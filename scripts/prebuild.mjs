// `npm run prebuild`: builds the addon anew and puts it, stripped, into prebuilds/<platform>-<arch>/, where node-gyp-build finds
// it on a machine without a compiler. On Linux where nvcc is at hand it has CUDA for every GPU of a release (CMakeLists.txt names
// them; VLTUNE_CUDA_ARCHITECTURES others); `npm run prebuild -- --no-cuda` leaves that out. Release from the oldest system that is
// supported, and with the oldest nvcc: the libc of this one is needed there, and a driver of the nvcc's major version.
import { join } from 'node:path';
import { findNvcc, headerFolder, main, ROOT, runBin } from './setup.mjs';

await main(() => {
  const nvcc = process.platform === 'linux' && !process.argv.includes('--no-cuda') ? findNvcc() : undefined;
  console.error(`[prebuild] ${nvcc ? `with CUDA (nvcc ${nvcc.version})` : 'without CUDA'}`);
  const headers = headerFolder();
  const builder = nvcc ? join(ROOT, 'scripts', 'cmake-gyp.mjs') : join(ROOT, 'node_modules', '.bin', 'node-gyp');
  runBin('prebuildify', 'bin.js', ['--napi', '--strip', '--tag-libc', `--node-gyp=${builder}`], {
    live: true,
    env: headers === undefined ? {} : { npm_config_nodedir: headers },
  });
});
