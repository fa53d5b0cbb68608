import test from 'ava';
import { type DeviceOption, deviceKind, openDevice, plannedDevice } from '../lib/device.js';
import { dtypeFault, generationActivations, generationDType, trainingDType } from '../lib/dtype.js';
import { type Addon, addon, wrapAddon } from '../lib/native.js';

const { available, compiled } = addon().cudaInfo();

test('auto is the GPU where there is one, else the CPU; the CPU is the CPU', (t) => {
  const found = available ? 'cuda' : 'cpu';
  for (const option of [undefined, 'auto'] as const) {
    t.is(deviceKind(option), found);
    t.is(openDevice(option), found);
    t.is(plannedDevice(option), found);
  }
  t.is(openDevice('cpu'), 'cpu');
  t.is(plannedDevice('cpu'), 'cpu');
  t.is(deviceKind('cuda'), 'cuda');
  t.is(deviceKind('cuda:3'), 'cuda');
});

test('what is no device is refused by name', (t) => {
  for (const option of ['gpu', '', 'cuda:', 'cuda:x', 'cuda:-1', 'CUDA']) {
    t.throws(() => openDevice(option as DeviceOption), { code: 'ERR_USAGE', message: /expected auto, cpu, cuda or cuda:N/ });
    t.throws(() => plannedDevice(option as DeviceOption), { code: 'ERR_USAGE' });
  }
});

test('a GPU that is not there is refused with what was found and what to do', (t) => {
  if (available) {
    t.throws(() => openDevice('cuda:999'), { code: 'ERR_NO_DEVICE', message: /cuda:0 is / });
    return;
  }
  const { reason } = addon().cudaInfo();
  const error = t.throws(() => openDevice('cuda:1'), { code: 'ERR_NO_DEVICE' });
  t.true(error?.message.includes(reason));
  t.regex(error?.message ?? '', /^--device cuda:1: .*--device cpu \(or auto\)\.$/);
});

test('a plan needs no GPU, but a build that knows its kernels', (t) => {
  if (compiled) t.is(plannedDevice('cuda'), 'cuda');
  else t.throws(() => plannedDevice('cuda'), { code: 'ERR_NO_DEVICE', message: /Install a build of vltune with CUDA/ });
});

test.serial('16-bit activations are bf16 where the GPU computes in it, else f16, which the CPU does not take', (t) => {
  t.is(trainingDType('cpu'), 'float32');
  const gpu = (index: number, computeCapability: string) => {
    return { index, name: 'GPU', computeCapability, multiprocessors: 40, totalMemory: 2 ** 34, freeMemory: 2 ** 34 };
  };
  let real: Addon | undefined;
  wrapAddon((before) => {
    real = before;
    const devices = [gpu(0, '7.5'), gpu(1, '9.0')];
    return { ...before, cudaInfo: () => ({ ...before.cudaInfo(), compiled: true, available: true, devices }) };
  });
  try {
    t.is(trainingDType('cuda'), 'float16');
    t.is(trainingDType('auto'), 'float16');
    t.is(trainingDType('cuda:1'), 'bfloat16');
    t.is(trainingDType('cpu'), 'float32');
    for (const [device, dtype] of [
      ['cuda', 'float16'],
      ['cuda:1', 'bfloat16'],
      ['cpu', 'bfloat16'],
    ] as const)
      t.is(generationDType(device), dtype);
    t.is(dtypeFault('float16', 'auto'), undefined);
    t.is(dtypeFault('float16', 'cuda:1'), undefined);
    t.regex(dtypeFault('float16', 'cpu') ?? '', /^expected float32 or bfloat16 on the CPU, got float16/);
    t.is(dtypeFault('bfloat16', 'cpu'), undefined);
    t.throws(() => generationActivations('float16', 'cpu'), {
      code: 'ERR_USAGE',
      message: /^--dtype: expected float32 or bfloat16/,
    });
    t.is(generationActivations('float16', 'cuda'), 'f16');
    t.is(generationActivations(undefined, 'cuda'), 'f16');
    t.is(generationActivations(undefined, 'cpu'), 'bf16');
  } finally {
    wrapAddon(() => real!);
  }
});
