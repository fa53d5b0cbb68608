import test from 'ava';
import { leads, localRankOf, placeOf } from '../../lib/distributed/place.js';

test('alone where no launcher says otherwise, or it started one process', (t) => {
  t.is(placeOf({}), undefined);
  t.is(placeOf({ RANK: '0', WORLD_SIZE: '1' }), undefined);
  t.is(placeOf({ WORLD_SIZE: '4' }), undefined);
  // a batch script of Slurm, which is one process whatever was asked for
  t.is(placeOf({ SLURM_PROCID: '0', SLURM_NTASKS: '4' }), undefined);
});

const AT = { address: 'host', port: 4000 };
const MASTER = { MASTER_ADDR: 'host', MASTER_PORT: '4000' };

test('every launcher tells rank, size and place on the machine', (t) => {
  const expected = { rank: 3, size: 4, localRank: 1, localSize: 2, ...AT };
  t.deepEqual(placeOf({ RANK: '3', WORLD_SIZE: '4', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '2', ...MASTER }), expected);
  t.deepEqual(
    placeOf({
      OMPI_COMM_WORLD_RANK: '3',
      OMPI_COMM_WORLD_SIZE: '4',
      OMPI_COMM_WORLD_LOCAL_RANK: '1',
      OMPI_COMM_WORLD_LOCAL_SIZE: '2',
      ...MASTER,
    }),
    expected,
  );
  t.deepEqual(placeOf({ PMI_RANK: '3', PMI_SIZE: '4', MPI_LOCALRANKID: '1', MPI_LOCALNRANKS: '2', ...MASTER }), expected);
  t.deepEqual(placeOf({ SLURM_PROCID: '3', SLURM_STEP_NUM_TASKS: '4', SLURM_LOCALID: '1', ...MASTER }), {
    ...expected,
    localSize: undefined,
  });
});

test('a launcher started by another is believed before it', (t) => {
  const place = placeOf({ RANK: '1', WORLD_SIZE: '2', SLURM_PROCID: '0', SLURM_STEP_NUM_TASKS: '3', ...MASTER });
  t.deepEqual([place?.rank, place?.size], [1, 2]);
});

test('on one machine the meeting place is known; else its address is asked for', (t) => {
  const one = placeOf({ OMPI_COMM_WORLD_RANK: '1', OMPI_COMM_WORLD_SIZE: '2', OMPI_COMM_WORLD_LOCAL_SIZE: '2' });
  t.deepEqual([one?.address, one?.port], ['127.0.0.1', 29_500]);
  t.is(placeOf({ SLURM_PROCID: '1', SLURM_STEP_NUM_TASKS: '2', SLURM_STEP_NUM_NODES: '1' })?.localSize, 2);
  t.throws(() => placeOf({ RANK: '1', WORLD_SIZE: '2', LOCAL_WORLD_SIZE: '1' }), {
    code: 'ERR_USAGE',
    message: /MASTER_ADDR: expected the address .* \(RANK=1, WORLD_SIZE=2\), got none/,
  });
});

test('a launcher that does not number the processes of a machine starts one on each, or all on one', (t) => {
  t.is(placeOf({ RANK: '3', WORLD_SIZE: '4', MASTER_ADDR: '10.0.0.1' })?.localRank, 0);
  t.is(placeOf({ RANK: '3', WORLD_SIZE: '4', MASTER_ADDR: 'localhost' })?.localRank, 3);
});

test('Slurm numbers the processes of a machine for whom it starts by another interface', (t) => {
  const slurm = { SLURM_PROCID: '1', SLURM_STEP_NUM_TASKS: '2', SLURM_LOCALID: '1', PMI_RANK: '1', PMI_SIZE: '2' };
  t.is(placeOf({ ...slurm, MASTER_ADDR: 'node7' })?.localRank, 1);
  t.is(placeOf({ ...slurm, SLURM_STEP_NUM_NODES: '1' })?.address, '127.0.0.1');
});

test('the number on this machine is known before where all meet is', (t) => {
  t.is(localRankOf({ RANK: '3', WORLD_SIZE: '4', LOCAL_RANK: '1' }), 1);
  t.is(localRankOf({}), 0);
});

test("torchrun's agent holds the port that it names", (t) => {
  const env = { RANK: '0', WORLD_SIZE: '2', ...MASTER, TORCHELASTIC_USE_AGENT_STORE: 'True' };
  t.is(placeOf(env)?.port, 4001);
});

test('a variable that is wrong is named', (t) => {
  t.throws(() => placeOf({ RANK: '2', WORLD_SIZE: '2', ...MASTER }), {
    message: 'RANK: expected a whole number from 0 to 1, got "2"',
  });
  t.throws(() => placeOf({ RANK: '0', WORLD_SIZE: 'two', ...MASTER }), { message: /^WORLD_SIZE: .* got "two"/ });
  t.throws(() => placeOf({ RANK: '0', WORLD_SIZE: '2', MASTER_ADDR: 'host', MASTER_PORT: '0' }), { message: /^MASTER_PORT: / });
});

test('the first of several speaks for them', (t) => {
  t.true(leads({}));
  t.true(leads({ RANK: '0', WORLD_SIZE: '2', ...MASTER }));
  t.false(leads({ RANK: '1', WORLD_SIZE: '2', ...MASTER }));
});
