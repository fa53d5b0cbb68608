"""Times the kernels of torch, bitsandbytes, Liger Kernel and Cut Cross-Entropy on request, for bench/peers/cpu.ts and gpu_kernels.ts.

    python peer_kernels.py THREADS [cpu|cuda]

One JSON object a line in, one out:

    {"case": {"op": "linear", ...}}      prepares a case; answers {"ready": true}, or {"missing": "why"} if it cannot be run here. Of a case
                                         that can be run in several ways the fastest is taken: its name is "variant", and "variants"
                                         tells each one's seconds, or why it cannot be run
    {"calls": 8}                         runs the case so often; answers {"seconds": of all calls together}, or {"missing": "why"}
"""

import gc
import json
import os
import sys
import time
import warnings
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"


def normal(*shape: int, dtype: torch.dtype, deviation: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, device=DEVICE) * deviation).to(dtype)


# ---- cases: each returns what is to be called, or by name what makes it ----


def linear(case, dtype):
    x, w = normal(case["rows"], case["in"], dtype=dtype), normal(case["out"], case["in"], dtype=dtype, deviation=0.02)
    return lambda: F.linear(x, w)


def linear_backward(case, dtype):
    dy, w = normal(case["rows"], case["out"], dtype=dtype), normal(case["out"], case["in"], dtype=dtype, deviation=0.02)
    return lambda: dy @ w


GPU_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def attention(case, dtype, backward=False):
    heads, kv_heads, lengths = case["heads"], case["kv_heads"], case["lengths"]
    # Sequences of one length are a batch; of several, each is a call, which spares it all padding.
    batches = [(len(lengths), lengths[0])] if len(set(lengths)) == 1 else [(1, n) for n in lengths]

    def variant(backend, kv_heads):
        def of(heads):
            return [normal(b, heads, n, case["dim"], dtype=dtype).requires_grad_(backward) for b, n in batches]

        q, k, v = of(heads), of(kv_heads), of(kv_heads)

        def forward():
            with sdpa_kernel(backend) if backend is not None else nullcontext():
                return [
                    F.scaled_dot_product_attention(*qkv, is_causal=True, enable_gqa=heads != kv_heads) for qkv in zip(q, k, v)
                ]

        if not backward:
            return forward
        with torch.enable_grad():
            o = forward()
        do = [torch.randn_like(x) for x in o]
        return lambda: torch.autograd.grad(o, [*q, *k, *v], do, retain_graph=True)

    if DEVICE == "cpu":
        return variant(None, kv_heads)
    grouped = {name: partial(variant, backend, kv_heads) for name, backend in GPU_BACKENDS.items()}
    # As many heads of k and v as of q, made beforehand: a backend that cannot share them is spared copying, and summing gradients.
    return grouped | {f"{name}, k and v repeated": partial(variant, backend, heads) for name, backend in GPU_BACKENDS.items()}


def attention_backward(case, dtype):
    return attention(case, dtype, backward=True)


def nf4_quantize(case, dtype):
    import bitsandbytes.functional as B

    x = normal(case["rows"], case["columns"], dtype=dtype)
    return lambda: B.quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=False)


def nf4_dequantize(case, dtype):
    import bitsandbytes.functional as B

    codes, state = B.quantize_4bit(
        normal(case["rows"], case["columns"], dtype=dtype), blocksize=64, quant_type="nf4", compress_statistics=case["nested"]
    )
    return lambda: B.dequantize_4bit(codes, state)


def adamw_8bit(case, dtype):
    import bitsandbytes.functional as B

    n = case["parameters"]
    g, p = normal(n, dtype=dtype), normal(n, dtype=dtype)
    state1, state2 = (torch.zeros(n, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    qmap1, qmap2 = (B.create_dynamic_map(signed=signed).to(DEVICE) for signed in (True, False))
    absmax1, absmax2 = (torch.zeros(n // 256, device=DEVICE) for _ in range(2))
    # One flat tensor, past the optimizer's class: one launch, and nothing between.
    return lambda: B.optimizer_update_8bit_blockwise(
        "adam", g, p, state1, state2, 0.9, 0.999, 0.0, 0.0, 1e-8, 100, 1e-4, qmap1, qmap2, absmax1, absmax2, weight_decay=0.01
    )


def adamw_32bit(case, dtype):
    p = torch.nn.Parameter(normal(case["parameters"], dtype=dtype))
    p.grad = normal(case["parameters"], dtype=dtype)
    return torch.optim.AdamW([p], lr=1e-4, fused=True).step


def maybe_compiled(case, function):
    return torch.compile(function, dynamic=False) if case["compiled"] else function


def rms_norm(case, dtype):
    x, residual = (normal(case["rows"], case["columns"], dtype=dtype) for _ in range(2))
    weight = normal(case["columns"], dtype=dtype)

    def sum_and_norm(x, residual, weight):
        s = x + residual
        return s, F.rms_norm(s, weight.shape, weight, eps=1e-6)

    return partial(maybe_compiled(case, sum_and_norm), x, residual, weight)


def swiglu(case, dtype):
    gate, up = (normal(case["rows"], case["columns"], dtype=dtype) for _ in range(2))
    return partial(maybe_compiled(case, lambda gate, up: F.silu(gate) * up), gate, up)


def linear_cross_entropy(case, dtype):
    x = normal(case["rows"], case["hidden"], dtype=dtype).requires_grad_()
    weight = normal(case["vocab"], case["hidden"], dtype=dtype, deviation=0.02)
    targets = torch.randint(case["vocab"], (case["rows"],), device=DEVICE)

    def with_gradient(loss):
        def run():
            with torch.enable_grad():
                return torch.autograd.grad(loss(), x)

        return run

    if case["by"] == "liger_kernel":
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as fused

        # Few rows are a chunk by default, for memory's sake; more are a larger product.
        settings = {"default chunks": {}} | {f"chunk_mem_const {n}": {"chunk_mem_const": n} for n in (8, 64)}
        return {
            name: partial(with_gradient, partial(fused, x, weight, targets, reduction="sum", **more))
            for name, more in settings.items()
        }
    if case["by"] == "cut_cross_entropy":
        from cut_cross_entropy import linear_cross_entropy as cut

        return with_gradient(lambda: cut(x, weight, targets, reduction="sum"))
    return with_gradient(lambda: F.cross_entropy(F.linear(x, weight), targets, reduction="sum"))


CASES = {
    f.__name__: f
    for f in (
        linear,
        linear_backward,
        attention,
        attention_backward,
        nf4_quantize,
        nf4_dequantize,
        adamw_8bit,
        adamw_32bit,
        rms_norm,
        swiglu,
        linear_cross_entropy,
    )
}


# ---- timing ----


def time_on_cpu(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start


# Much more than a cache holds, and than is written while Python prepares a call.
WIPED_BYTES = 1 << 29


def time_on_gpu(wiped, run, calls):
    """What the GPU spends between a call's first launch and its last, with a cold cache, as vltune's own kernels are timed.

    Writing before each call empties the cache, and takes the GPU so long that it need not wait for Python afterwards.
    """
    events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(calls)]
    for begin, end in events:
        wiped.zero_()
        begin.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return sum(begin.elapsed_time(end) for begin, end in events) / 1000


def why(error):
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def prepare(case, timed):
    """What is to be called, and the answer to the request."""
    made = CASES[case["op"]](case, DTYPES[case["dtype"]])
    if callable(made):
        made()
        return made, {"ready": True}
    best, seconds, reasons = None, {}, {}
    for name, build in made.items():
        try:
            run = build()
            run()
            seconds[name] = timed(run, 3) / 3
        except Exception as error:
            reasons[name] = why(error)
            continue
        if seconds[name] == min(seconds.values()):
            best = run
    if best is None:
        return None, {"missing": "; ".join(f"{name}: {reason}" for name, reason in reasons.items())}
    return best, {"ready": True, "variant": min(seconds, key=seconds.get), "variants": seconds | reasons}


def free():
    gc.collect()
    if DEVICE != "cpu":
        torch.cuda.empty_cache()


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    warnings.simplefilter("ignore")  # a backend that refuses says why in the answer
    # Answers alone go to the output; what libraries print goes where errors go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    timed = time_on_cpu if DEVICE == "cpu" else partial(time_on_gpu, torch.empty(WIPED_BYTES, dtype=torch.uint8, device=DEVICE))
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            with torch.no_grad():
                if "case" in request:
                    run = None
                    free()
                    run, answer = prepare(request["case"], timed)
                else:
                    answer = {"seconds": timed(run, request["calls"])}
        except Exception as error:
            answer = {"missing": why(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
