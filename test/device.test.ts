import test from 'ava';
import { type DeviceOption, deviceKind, openDevice, plannedDevice } from '../lib/device.js';
import { addon } from '../lib/native.js';

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
