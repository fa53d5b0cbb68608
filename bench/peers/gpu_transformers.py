"""A training step of a random-weight Qwen3-VL of true size as transformers + PEFT (+ bitsandbytes) run it. One line of JSON.

    python bench/peers/gpu_transformers.py --shape qwen3-vl-2b --load nf4 [--checkpointing] [--batch 2] [--length 2048] [--accumulation 4]
"""

import argparse
import time

import torch
from gpu_shapes import random_model, report
from peft import LoraConfig, get_peft_model

parser = argparse.ArgumentParser()
parser.add_argument("--shape", default="qwen3-vl-2b")
parser.add_argument("--load", choices=["bf16", "nf4"], default="nf4")
parser.add_argument("--checkpointing", action="store_true")
parser.add_argument("--batch", type=int, default=2)
parser.add_argument("--length", type=int, default=2048)
parser.add_argument("--accumulation", type=int, default=4)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--rank", type=int, default=16)
options = parser.parse_args()

model = random_model(torch, options.shape, options.load)
targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
model = get_peft_model(
    model, LoraConfig(r=options.rank, lora_alpha=options.rank, lora_dropout=0.0, bias="none", target_modules=targets)
)
if options.checkpointing:
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
model.config.use_cache = False
model.train()
parameters = [p for p in model.parameters() if p.requires_grad]
for parameter in parameters:
    parameter.data = parameter.data.float()
if options.load == "nf4":
    import bitsandbytes as bnb

    optimizer = bnb.optim.AdamW8bit(parameters, lr=2e-5, weight_decay=0.01)
else:
    optimizer = torch.optim.AdamW(parameters, lr=2e-5, weight_decay=0.01, fused=True)

torch.cuda.reset_peak_memory_stats()
times = []
for _ in range(options.steps + 2):
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(options.accumulation):
        ids = torch.randint(0, 151000, (options.batch, options.length), device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss / options.accumulation
        loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    times.append(time.perf_counter() - started)
name = "transformers + PEFT" + (" + bitsandbytes" if options.load == "nf4" else "")
report(torch, options, name, times[2:], [torch.__version__])
