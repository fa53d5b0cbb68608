/** MT19937 (Matsumoto & Nishimura 1998), the generator of torch on the CPU. */
export class MersenneTwister {
  readonly #state = new Uint32Array(624);
  #next = 624;

  /** `init_genrand(seed)`; the seed's low 32 bits count. */
  constructor(seed: number) {
    const state = this.#state;
    state[0] = seed >>> 0;
    for (let i = 1; i < 624; i++) {
      const previous = state[i - 1]! ^ (state[i - 1]! >>> 30);
      state[i] = Math.imul(1812433253, previous) + i;
    }
  }

  /** The next 32 bits, as a whole number from 0 to 2^32 - 1. */
  uint32(): number {
    if (this.#next === 624) this.#twist();
    let y = this.#state[this.#next++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return y >>> 0;
  }

  /** A number in [0, 1) with 24 random bits, as torch draws an f32. */
  uniform(): number {
    return (this.uint32() & 0xffffff) / 0x1000000;
  }

  #twist(): void {
    const state = this.#state;
    for (let i = 0; i < 624; i++) {
      const y = (state[i]! & 0x80000000) | (state[(i + 1) % 624]! & 0x7fffffff);
      state[i] = state[(i + 397) % 624]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.#next = 0;
  }
}
