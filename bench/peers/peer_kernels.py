"""Times torch's and bitsandbytes' CPU kernels on request, for bench/peers/cpu.ts: one JSON object a line in, one out.

    {"case": {"op": "linear", ...}}      prepares a case; answers {"ready": true}, or {"missing": "why"} if it cannot be run here
    {"calls": 8}                         runs the case so often; answers {"seconds": of all calls together}
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def normal(*shape: int, dtype: torch.dtype, deviation: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape) * deviation).to(dtype)


def linear(case, dtype):
    x, w = normal(case["rows"], case["in"], dtype=dtype), normal(case["out"], case["in"], dtype=dtype, deviation=0.02)
    return lambda: F.linear(x, w)


def linear_backward(case, dtype):
    dy, w = normal(case["rows"], case["out"], dtype=dtype), normal(case["out"], case["in"], dtype=dtype, deviation=0.02)
    return lambda: dy @ w


def heads_of(case, dtype, heads, grad):
    return [normal(1, heads, n, case["dim"], dtype=dtype).requires_grad_(grad) for n in case["lengths"]]


def attend(case, q, k, v):
    # torch has no attention over packed sequences on the CPU: each sequence is a call, which spares it all padding.
    grouped = case["heads"] != case["kv_heads"]
    return [F.scaled_dot_product_attention(*qkv, is_causal=True, enable_gqa=grouped) for qkv in zip(q, k, v)]


def attention(case, dtype):
    q, k, v = (heads_of(case, dtype, case[name], False) for name in ("heads", "kv_heads", "kv_heads"))
    return lambda: attend(case, q, k, v)


def attention_backward(case, dtype):
    q, k, v = (heads_of(case, dtype, case[name], True) for name in ("heads", "kv_heads", "kv_heads"))
    with torch.enable_grad():
        o = attend(case, q, k, v)
    do = [torch.randn_like(x) for x in o]
    return lambda: torch.autograd.grad(o, [*q, *k, *v], do, retain_graph=True)


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


def copy(case, _dtype):
    source = torch.zeros(case["bytes"] // 2, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


CASES = {f.__name__: f for f in (linear, linear_backward, attention, attention_backward, nf4_quantize, nf4_dequantize, copy)}


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        if "case" in request:
            case = request["case"]
            try:
                run = CASES[case["op"]](case, DTYPES[case["dtype"]])
                with torch.no_grad():
                    run()
                answer = {"ready": True}
            except (ImportError, RuntimeError, NotImplementedError) as error:
                answer = {"missing": f"{type(error).__name__}: {error}"}
        else:
            with torch.no_grad():
                start = time.perf_counter()
                for _ in range(request["calls"]):
                    run()
                answer = {"seconds": time.perf_counter() - start}
        print(json.dumps(answer), flush=True)


main()
