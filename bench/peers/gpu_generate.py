"""Greedy generation of one sequence by a random-weight Qwen3-VL of true size, as transformers (+ bitsandbytes) run it. One line of JSON.

    python bench/peers/gpu_generate.py --shape qwen3-vl-2b --load nf4 [--prompt 512] [--new 128] [--cache dynamic|static]
"""

import argparse
import json
import statistics
import time

import torch
import transformers
from gpu_shapes import random_model

parser = argparse.ArgumentParser()
parser.add_argument("--shape", default="qwen3-vl-2b")
parser.add_argument("--load", choices=["bf16", "nf4"], default="nf4")
parser.add_argument("--prompt", type=int, default=512)
parser.add_argument("--new", type=int, default=128)
parser.add_argument("--cache", choices=["dynamic", "static"], default="dynamic")
parser.add_argument("--rounds", type=int, default=3)
options = parser.parse_args()

model = random_model(torch, options.shape, options.load).eval()
ids = torch.randint(0, 151000, (1, options.prompt), device="cuda")


def seconds(new):
    torch.cuda.synchronize()
    started = time.perf_counter()
    settings = dict(max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
    if options.cache == "static":
        settings["cache_implementation"] = "static"
    with torch.no_grad():
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    torch.cuda.synchronize()
    return time.perf_counter() - started


seconds(2)
firsts = [seconds(1) for _ in range(options.rounds)]
whole = [seconds(options.new + 1) for _ in range(options.rounds)]
first = statistics.median(firsts)
free, total = torch.cuda.mem_get_info()
print(
    json.dumps(
        dict(
            peer="transformers" + (" + bitsandbytes" if options.load == "nf4" else ""),
            options=vars(options),
            tokens_per_second=options.new / (statistics.median(whole) - first),
            time_to_first_token_ms=1000 * first,
            peak_memory_bytes=total - free,
            torch_peak_bytes=torch.cuda.max_memory_allocated(),
            versions=[transformers.__version__, torch.__version__],
        )
    ),
    flush=True,
)
