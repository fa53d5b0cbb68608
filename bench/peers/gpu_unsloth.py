"""The seed's recipe as Unsloth + TRL run it, on a local checkpoint. One line of JSON.

    python bench/peers/gpu_unsloth.py MODEL [--batch 2] [--length 2048] [--accumulation 4] [--checkpointing unsloth|true|false]
"""

import os

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", UNSLOTH_DISABLE_STATISTICS="1", UNSLOTH_RETURN_LOGITS="0")
os.environ.update(WANDB_DISABLED="true")
import argparse
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--batch", type=int, default=2)
parser.add_argument("--length", type=int, default=2048)
parser.add_argument("--accumulation", type=int, default=4)
parser.add_argument("--steps", type=int, default=8)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--checkpointing", choices=["unsloth", "true", "false"], default="unsloth")
options = parser.parse_args()

import unsloth
from unsloth import FastVisionModel  # before transformers, which it patches

import torch
import transformers
import trl
from datasets import Dataset
from gpu_shapes import report
from transformers import DataCollatorForSeq2Seq, TrainerCallback
from trl import SFTConfig, SFTTrainer

checkpointing = {"unsloth": "unsloth", "true": True, "false": False}[options.checkpointing]
model, processor = FastVisionModel.from_pretrained(
    options.model,
    max_seq_length=options.length,
    dtype=None,
    load_in_4bit=True,
    use_gradient_checkpointing=checkpointing,
    local_files_only=True,
)
model = FastVisionModel.get_peft_model(
    model,
    finetune_vision_layers=False,
    finetune_language_layers=True,
    finetune_attention_modules=True,
    finetune_mlp_modules=True,
    r=options.rank,
    lora_alpha=options.rank,
    lora_dropout=0,
    bias="none",
    random_state=3407,
    use_gradient_checkpointing=checkpointing,
)
FastVisionModel.for_training(model)
tokenizer = getattr(processor, "tokenizer", processor)
rows = options.batch * options.accumulation * (options.steps + 3)
ids = torch.randint(0, 150000, (rows, options.length), generator=torch.Generator().manual_seed(0)).tolist()
dataset = Dataset.from_dict(dict(input_ids=ids, attention_mask=[[1] * options.length] * rows, labels=ids))
times = []


class Timer(TrainerCallback):
    def on_step_begin(self, *args, **kwargs):
        torch.cuda.synchronize()
        self.started = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        torch.cuda.synchronize()
        times.append(time.perf_counter() - self.started)


torch.cuda.reset_peak_memory_stats()
trainer = SFTTrainer(
    model=model,
    processing_class=tokenizer,
    data_collator=DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8),
    train_dataset=dataset,
    callbacks=[Timer()],
    args=SFTConfig(
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulation,
        warmup_steps=5,
        max_steps=options.steps + 2,
        learning_rate=2e-5,
        logging_steps=1,
        optim="adamw_8bit",
        weight_decay=0.01,
        lr_scheduler_type="linear",
        seed=3407,
        output_dir=tempfile.mkdtemp(),
        report_to="none",
        remove_unused_columns=False,
        max_length=options.length,
        save_strategy="no",
        dataset_kwargs=dict(skip_prepare_dataset=True),
    ),
)
trainer.train()
report(torch, options, "Unsloth", times[2:], [unsloth.__version__, transformers.__version__, trl.__version__, torch.__version__])
