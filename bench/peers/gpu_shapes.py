"""What the peers on a GPU share: the shapes of the public Qwen3-VL checkpoints, random-weight models of true size, one line of results."""


def config(name):
    from transformers import Qwen3VLConfig

    text = {
        "qwen3-vl-2b": dict(hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8),
        "qwen3-vl-4b": dict(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8),
        "qwen3-vl-8b": dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8),
    }[name]
    if name == "qwen3-vl-8b":
        vision = dict(depth=27, hidden_size=1152, intermediate_size=4304, num_heads=16, deepstack_visual_indexes=[8, 16, 24])
    else:
        vision = dict(depth=24, hidden_size=1024, intermediate_size=4096, num_heads=16, deepstack_visual_indexes=[5, 11, 17])
    tied = name != "qwen3-vl-8b"
    rope = dict(rope_type="default", mrope_section=[24, 20, 20], mrope_interleaved=True)
    return Qwen3VLConfig(
        text_config=dict(
            text,
            vocab_size=151936,
            head_dim=128,
            rms_norm_eps=1e-6,
            max_position_embeddings=262144,
            tie_word_embeddings=tied,
            rope_theta=5000000.0,
            rope_parameters=dict(rope, rope_theta=5000000.0),
            rope_scaling=rope,
        ),
        vision_config=dict(vision, out_hidden_size=text["hidden_size"]),
        tie_word_embeddings=tied,
    )


def random_model(torch, name, load):
    """A random-weight model of true size on the GPU; with load "nf4" its language model's linear layers are bitsandbytes'."""
    from transformers import Qwen3VLForConditionalGeneration

    torch.manual_seed(0)
    model_config = config(name)
    model_config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen3VLForConditionalGeneration(model_config)
    torch.set_default_dtype(torch.float32)
    if load != "nf4":
        return model
    import bitsandbytes as bnb

    def quantize(module):
        for child_name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                layer = bnb.nn.Linear4bit(
                    child.in_features,
                    child.out_features,
                    bias=child.bias is not None,
                    compute_dtype=torch.bfloat16,
                    compress_statistics=True,
                    quant_type="nf4",
                )
                layer.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4")
                if child.bias is not None:
                    layer.bias = child.bias
                setattr(module, child_name, layer.cuda())
            else:
                quantize(child)

    quantize(model.model.language_model)
    model.is_loaded_in_4bit = True
    torch.cuda.empty_cache()
    return model


def report(torch, options, peer, times, versions):
    """One line of JSON: tokens/s by the median step, and the peak by torch's count and by the driver's."""
    import json
    import statistics

    free, total = torch.cuda.mem_get_info()
    tokens = options.batch * options.length * options.accumulation
    print(
        json.dumps(
            dict(
                peer=peer,
                options=vars(options),
                tokens_per_second=tokens / statistics.median(times),
                step_ms=1000 * statistics.median(times),
                step_ms_spread=[1000 * min(times), 1000 * max(times)],
                torch_peak_bytes=torch.cuda.max_memory_allocated(),
                peak_memory_bytes=total - free,
                versions=versions,
            )
        ),
        flush=True,
    )
