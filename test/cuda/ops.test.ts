/** Every op on a GPU against its twin on the CPU, which is held to F64 by `test/ops`; and twice, to its own bytes. */
import test from 'ava';
import { addon } from '../../lib/native.js';
import type { Tensor } from '../../lib/ops/tensor.js';
import { relativeError } from '../ops/support.js';
import { type Bound, boundOf, type OpCase, opCases, runCase, shapeOf } from './op_cases.js';
import { cuda } from './support.js';

const CASES = opCases();

function numbersOf(tensor: Tensor): ArrayLike<number> {
  if (tensor.dtype === 'i32') return tensor.toInt32();
  return tensor.dtype === 'u8' ? tensor.toBytes() : tensor.toFloat32();
}

/** What is wrong with an output; undefined if nothing is. */
function fault(actual: Tensor, expected: Tensor, bound: Bound): string | undefined {
  if (bound === 'same') return Buffer.from(actual.toBytes()).equals(expected.toBytes()) ? undefined : 'other bytes';
  const [have, want] = [numbersOf(actual), numbersOf(expected)];
  if (bound === 'codes') {
    const apart = Array.from(want, (code, i) => Math.abs(code - have[i]!)).filter((distance) => distance > 0);
    const most = Math.max(1, want.length / 100);
    return apart.length <= most && apart.every((distance) => distance === 1)
      ? undefined
      : `${apart.length} codes of ${want.length} differ`;
  }
  const error = relativeError(have, want);
  return error <= bound ? undefined : `off by ${error.toExponential(2)} of the norm, at most ${bound.toExponential(0)} expected`;
}

function faults(c: OpCase, made: readonly (Tensor | null)[], expected: readonly (Tensor | null)[], bound?: Bound): string[] {
  return made.flatMap((tensor, i) => {
    const wrong = tensor && fault(tensor, expected[i]!, bound ?? boundOf(c, i));
    return wrong ? [`${c.name}, output ${i}: ${wrong}`] : [];
  });
}

test('every op has a case, every case a name of its own, and all of them run on the CPU', (t) => {
  const covered = new Set(CASES.map(({ op }) => op));
  for (const op of addon().opNames()) t.true(covered.has(op), `${op} has no case`);
  t.is(new Set(CASES.map(({ name }) => name)).size, CASES.length);
  for (const c of CASES) t.deepEqual(faults(c, runCase(c, 'cpu'), runCase(c, 'cpu'), 'same'), []);
});

test('scratch memory on a GPU is known from shapes alone, on a machine without one too', (t) => {
  if (!addon().cudaInfo().compiled) return void t.pass('a build without CUDA');
  const shapes = (operands: OpCase['inputs']) => operands.map((operand) => operand && shapeOf(operand));
  for (const c of CASES) {
    const bytes = addon().workspace(c.op, shapes(c.inputs), shapes(c.outputs), c.attrs ?? {}, 'cuda');
    t.true(Number.isSafeInteger(bytes) && bytes >= 0, c.name);
  }
});

for (const op of new Set(CASES.map((c) => c.op))) {
  cuda(`${op} on a GPU is what it is on the CPU, and the same bytes each time`, (t) => {
    const wrong: string[] = [];
    for (const c of CASES.filter((each) => each.op === op)) {
      try {
        const made = runCase(c, 'cuda');
        wrong.push(...faults(c, made, runCase(c, 'cpu')));
        wrong.push(...faults(c, runCase(c, 'cuda'), made, 'same').map((text) => `${text} at a second run`));
      } catch (error) {
        wrong.push(`${c.name}: ${(error as Error).message}`);
      }
    }
    t.deepEqual(wrong, []);
  });
}
