#!/usr/bin/env node
// What prebuildify runs in node-gyp's place for an addon with CUDA: the whole build through cmake-js, whatever node-gyp's arguments.
import { buildCuda, findNvcc, main } from './setup.mjs';

await main(() => buildCuda({ nvcc: findNvcc(), architectures: process.env.VLTUNE_CUDA_ARCHITECTURES, clean: true, live: true }));
