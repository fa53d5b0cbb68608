/** The kernels that older GPUs have, on this one: which are chosen is settled once a process, by VLTUNE_CUDA_CAPABILITY. */
import { checkPasses, valueWith } from '../environment.js';
import { cuda } from './support.js';

for (const capability of [75, 80, 89]) {
  cuda(`every op is what it is on the CPU by the kernels of compute capability ${capability / 10}`, async (t) => {
    t.timeout(600_000);
    const variables = { VLTUNE_CUDA_CAPABILITY: String(capability) };
    t.is(await valueWith(variables, 'addon().cudaInfo().devices[0].computeCapability'), (capability / 10).toFixed(1));
    await checkPasses(t, variables, ['dist/test/cuda/ops.test.js']);
    // With our own products too, where cuBLASLt was found.
    await checkPasses(t, { ...variables, VLTUNE_GEMM: 'plain' }, ['dist/test/cuda/ops.test.js']);
  });
}

cuda('a run in float16 by the kernels of compute capability 7.5 is the same bytes twice, and near F32', async (t) => {
  t.timeout(600_000);
  await checkPasses(t, { VLTUNE_CUDA_CAPABILITY: '75' }, ['dist/test/cuda/train.test.js', '--match=*float16*']);
});

cuda('a capability that is none is told', async (t) => {
  for (const value of ['7.5', '70', 'hopper']) {
    const reason = await valueWith({ VLTUNE_CUDA_CAPABILITY: value }, 'addon().cudaInfo().reason');
    t.is(reason, `VLTUNE_CUDA_CAPABILITY is ${value}, expected a compute capability times ten, from 75 on (80 is 8.0)`);
  }
});
