/**
 * `torch.randperm(n)` after `torch.manual_seed(seed)` on the CPU: MT19937 and Fisher-Yates, bit for bit for n below 2^32 / 20
 * (above that torch draws 64 bits a step; a dataset of 200 million rows is refused elsewhere).
 */

const N = 624;
const M = 397;

/** MT19937 with `init_genrand`, as torch's CPU generator seeds it. */
class MersenneTwister {
  private readonly state = new Uint32Array(N);
  private index = N;

  constructor(seed: number) {
    this.state[0] = seed >>> 0;
    for (let i = 1; i < N; i++) {
      const previous = this.state[i - 1]! ^ (this.state[i - 1]! >>> 30);
      this.state[i] = Math.imul(1812433253, previous) + i;
    }
  }

  /** The next 32 bits. */
  next(): number {
    if (this.index === N) this.refill();
    let y = this.state[this.index++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return y >>> 0;
  }

  private refill(): void {
    const { state } = this;
    for (let i = 0; i < N; i++) {
      const y = (state[i]! & 0x80000000) | (state[(i + 1) % N]! & 0x7fffffff);
      state[i] = state[(i + M) % N]! ^ (y >>> 1) ^ ((y & 1) === 0 ? 0 : 0x9908b0df);
    }
    this.index = 0;
  }
}

/** The identity permutation. */
export function identity(n: number): Int32Array {
  const order = new Int32Array(n);
  for (let i = 0; i < n; i++) order[i] = i;
  return order;
}

/** `torch.randperm(n, generator=torch.Generator().manual_seed(seed))`. The seed counts modulo 2^32, as in torch. */
export function randperm(n: number, seed: number): Int32Array {
  const twister = new MersenneTwister(Number(BigInt.asUintN(32, BigInt(seed))));
  const order = identity(n);
  for (let i = 0; i < n - 1; i++) {
    const j = i + (twister.next() % (n - i));
    const held = order[i]!;
    order[i] = order[j]!;
    order[j] = held;
  }
  return order;
}
