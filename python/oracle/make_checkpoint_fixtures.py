"""Makes the checkpoints of `crates/lm/tests/fixtures/formats` with PyTorch.

One tiny random OLMo v1, after three AdamW updates, in every layout that is read: a Hugging Face
directory as safetensors, as `pytorch_model.bin` and as shards of it, and OLMo's own layout as `.pt`
and as `.safetensors`, with the optimizer and the trainer's state, and its optimizer in the layouts of
older versions.
The state dicts of OLMo's layout are put together here as its trainer does (`olmo/checkpoint.py`,
`optim.py`, `train.py`, `safetensors_util.py` of `allenai/OLMo`).
The oracle is what PyTorch makes of those files in float64: ten further updates.

    pip install -r python/oracle/requirements.txt
    python python/oracle/make_checkpoint_fixtures.py
"""

import base64
import json
import pickle
import random
import re
import shutil
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import OlmoConfig, OlmoForCausalLM

FIXTURES = Path(__file__).resolve().parents[2] / "crates/lm/tests/fixtures/formats"
HIDDEN, HALF, LAYERS, HEADS, CONTEXT = 8, 12, 2, 2, 16
VOCABULARY, EMBEDDING = 45, 48
ROWS, SEQ_LEN, BEFORE, AFTER = 4, 12, 3, 10
OPTIMIZER = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-5, "weight_decay": 0.1, "clip_norm": 0.5}
LEARNING_RATE = 5e-3
GLOBAL_STEP, BATCH = 3, 2048

CONFIG_YAML = f"""\
run_name: tiny
seed: 6198
dry_run: false
model:
  d_model: {HIDDEN}
  n_heads: {HEADS}
  n_kv_heads: null
  clip_qkv: null
  n_layers: {LAYERS}
  mlp_ratio: 4
  mlp_hidden_size: {2 * HALF}
  activation_type: swiglu
  block_type: sequential
  block_group_size: 1
  alibi: false
  alibi_bias_max: 8.0
  rope: true
  rope_full_precision: true
  flash_attention: false
  attention_dropout: 0.0
  multi_query_attention: false
  attention_layer_norm: false
  residual_dropout: 0.0
  embedding_dropout: 0.0
  layer_norm_type: default
  layer_norm_with_affine: false
  attention_layer_norm_with_affine: false
  max_sequence_length: {CONTEXT}
  include_bias: false
  bias_for_layer_norm: false
  scale_logits: false
  vocab_size: {VOCABULARY}
  embedding_size: {EMBEDDING}
  weight_tying: false
  eos_token_id: {VOCABULARY - 1}
  pad_token_id: 1
  init_device: meta
  init_fn: mitchell
  init_std: 0.02
  init_cutoff_factor: null
  precision: amp_bf16
optimizer:
  name: adamw
  learning_rate: {LEARNING_RATE}
  weight_decay: 0.1
  betas:
  - 0.9
  - 0.95
scheduler:
  name: cosine_with_warmup
  t_warmup: 2000
  alpha_f: 0.1
max_duration: 739_328
global_train_batch_size: {BATCH}
precision: amp_bf16
max_grad_norm: 0.5
"""


def random_model() -> OlmoForCausalLM:
    torch.manual_seed(11)
    config = OlmoConfig(
        vocab_size=EMBEDDING,
        hidden_size=HIDDEN,
        intermediate_size=HALF,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=None,
    )
    model = OlmoForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.5 / HIDDEN**0.5)
    return model


def optimizer_of(model: OlmoForCausalLM) -> torch.optim.AdamW:
    embedding = model.get_input_embeddings().weight
    linear = [p for p in model.parameters() if p is not embedding]
    return torch.optim.AdamW(
        [
            {"params": linear, "weight_decay": OPTIMIZER["weight_decay"]},
            {"params": [embedding], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
        eps=OPTIMIZER["eps"],
    )


def update(model: OlmoForCausalLM, optimizer: torch.optim.AdamW, batch: torch.Tensor) -> float:
    logits = model(batch).logits[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_norm"])
    optimizer.step()
    return loss.item()


def native(table: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Tensors under Hugging Face's names as OLMo's, in the order of OLMo's modules."""
    out = OrderedDict([("transformer.wte.weight", table["model.embed_tokens.weight"])])
    for i in range(LAYERS):
        layer, block = f"model.layers.{i}", f"transformer.blocks.{i}"
        out[f"{block}.attn_out.weight"] = table[f"{layer}.self_attn.o_proj.weight"]
        out[f"{block}.ff_out.weight"] = table[f"{layer}.mlp.down_proj.weight"]
        out[f"{block}.att_proj.weight"] = torch.cat(
            [table[f"{layer}.self_attn.{x}_proj.weight"] for x in "qkv"]
        )
        out[f"{block}.ff_proj.weight"] = torch.cat(
            [table[f"{layer}.mlp.{x}_proj.weight"] for x in ("up", "gate")]
        )
    out["transformer.ff_out.weight"] = table["lm_head.weight"]
    return out


def group(names: list[str], params: list, decay: float) -> dict:
    return {
        "lr": LEARNING_RATE,
        "betas": (OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
        "eps": OPTIMIZER["eps"],
        "weight_decay": decay,
        "amsgrad": False,
        "foreach": None,
        "maximize": False,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "param_names": names,
        "sharded": True,
        "max_grad_norm": OPTIMIZER["clip_norm"],
        "max_grad_norm_ratio": None,
        "initial_lr": LEARNING_RATE,
        "params": params,
    }


def optimizer_states(moments: dict[str, dict[str, torch.Tensor]]) -> dict[str, dict]:
    """The optimizer in each layout: by names, by numbers with names, and by numbers alone."""
    wte = "transformer.wte.weight"
    decayed = sorted(name for name in moments if name != wte)
    order = decayed + [wte]
    named = {
        "state": moments,
        "param_groups": [group(decayed, decayed, 0.1), group([wte], [wte], 0.0)],
    }
    prefix = "_fsdp_wrapped_module."
    wrapped = [prefix + name for name in order]
    last = len(order) - 1
    numbered = {
        "state": {i: {**moments[name], "step": 3} for i, name in enumerate(order)},
        "param_groups": [
            group(wrapped[:last], list(range(last)), 0.1),
            group(wrapped[last:], [last], 0.0),
        ],
    }
    model_order = list(moments)
    alone = group([], list(range(len(model_order))), 0.1)
    del alone["param_names"], alone["sharded"], alone["max_grad_norm_ratio"]
    unnamed = {
        "state": {i: moments[name] for i, name in enumerate(model_order)},
        "param_groups": [alone],
    }
    return {"named": named, "numbered": numbered, "unnamed": unnamed}


def trainer_state() -> dict:
    return {
        "epoch": 0,
        "global_step": GLOBAL_STEP,
        "global_train_examples_seen_this_epoch": GLOBAL_STEP * BATCH,
        "global_train_tokens_seen": GLOBAL_STEP * BATCH * CONTEXT,
        "world_size": 1,
        "checkpoints": [Path("/runs/tiny/step2"), PurePosixPath("step3")],
        "unsharded_checkpoints": [],
        "ephemeral_checkpoints": [],
        "rng": {
            "python": random.Random(1).getstate()[0:1] + ((1, 2**40, 2**31), None),
            "numpy": numpy.random.RandomState(1).get_state()[0:1]
            + (numpy.arange(4, dtype=numpy.uint32), 2, 0, numpy.float64(0.5)),
            "torch": torch.arange(8, dtype=torch.uint8),
            "cuda": torch.arange(8, dtype=torch.uint8),
        },
    }


def flattened(table: dict, keys: tuple = ()) -> dict[str, torch.Tensor]:
    """A nested state dict as OLMo writes it into a safetensors file."""
    out = {}
    for key, value in table.items():
        if isinstance(value, dict):
            out.update(flattened(value, keys + (key,)))
            continue
        is_pickled = not isinstance(value, torch.Tensor)
        if is_pickled:
            value = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        name = base64.urlsafe_b64encode(pickle.dumps((keys + (key,), is_pickled)))
        out[str(name, "ASCII")] = value
    return out


def odd_tensors() -> dict[str, torch.Tensor]:
    """Every type, and tensors that share, skip and turn round their storage."""
    ramp = torch.arange(12, dtype=torch.float32)
    return {
        "float64": ramp.double().reshape(3, 4),
        "float16": ramp.half().reshape(3, 4),
        "bfloat16": ramp.bfloat16().reshape(3, 4),
        "int64": ramp.long(),
        "bool": ramp > 5,
        "parameter": torch.nn.Parameter(ramp.reshape(3, 4).clone()),
        "whole": ramp,
        "shared": ramp[4:8].reshape(2, 2),
        "turned": ramp.reshape(4, 3).t(),
        "skipping": ramp[1::2],
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 4),
    }


def main() -> None:
    torch.set_num_threads(1)
    shutil.rmtree(FIXTURES, ignore_errors=True)
    model = random_model()
    optimizer = optimizer_of(model)
    generator = torch.Generator().manual_seed(11)
    batches = torch.randint(
        0, VOCABULARY, (BEFORE + AFTER, ROWS, SEQ_LEN), generator=generator
    )
    for batch in batches[:BEFORE]:
        update(model, optimizer, batch)

    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    config = json.loads(model.config.to_json_string())
    for directory in ("safetensors", "bin", "bin-sharded"):
        (FIXTURES / directory).mkdir(parents=True)
        text = json.dumps(config, indent=2) + "\n"
        (FIXTURES / directory / "config.json").write_text(text)
    save_file(weights, FIXTURES / "safetensors/model.safetensors", {"format": "pt"})
    torch.save(OrderedDict(weights), FIXTURES / "bin/pytorch_model.bin")
    names = list(weights)
    shards = {
        "pytorch_model-00001-of-00002.bin": names[: len(names) // 2],
        "pytorch_model-00002-of-00002.bin": names[len(names) // 2 :],
    }
    for file, part in shards.items():
        torch.save({name: weights[name] for name in part}, FIXTURES / "bin-sharded" / file)
    index = {
        "metadata": {"total_size": sum(t.nbytes for t in weights.values())},
        "weight_map": {name: file for file, part in shards.items() for name in part},
    }
    path = FIXTURES / "bin-sharded/pytorch_model.bin.index.json"
    path.write_text(json.dumps(index, indent=2) + "\n")

    state = {name: optimizer.state[p] for name, p in model.named_parameters()}
    by_key = {
        key: native({name: tensors[key] for name, tensors in state.items()})
        for key in ("exp_avg", "exp_avg_sq")
    }
    moments = {
        name: {
            "step": torch.tensor(float(BEFORE)),
            "exp_avg": by_key["exp_avg"][name],
            "exp_avg_sq": by_key["exp_avg_sq"][name],
        }
        for name in by_key["exp_avg"]
    }
    states = optimizer_states(moments)
    for directory in ("olmo-pt", "olmo-safetensors"):
        (FIXTURES / directory).mkdir()
        (FIXTURES / directory / "config.yaml").write_text(CONFIG_YAML)
        torch.save(trainer_state(), FIXTURES / directory / "train.pt")
    torch.save(native(weights), FIXTURES / "olmo-pt/model.pt")
    torch.save(states["named"], FIXTURES / "olmo-pt/optim.pt")
    save_file(flattened(native(weights)), FIXTURES / "olmo-safetensors/model.safetensors")
    save_file(flattened(states["named"]), FIXTURES / "olmo-safetensors/optim.safetensors")

    (FIXTURES / "older").mkdir()
    wrapped = {f"_fsdp_wrapped_module.{name}": t for name, t in native(weights).items()}
    torch.save(wrapped, FIXTURES / "older/model-wrapped.pt")
    for layout in ("numbered", "unnamed"):
        torch.save(states[layout], FIXTURES / f"older/optim-{layout}.pt")
    batch_counts = {"global_step": GLOBAL_STEP, "global_data_step": GLOBAL_STEP - 1}
    torch.save(batch_counts, FIXTURES / "older/other.pt")

    (FIXTURES / "torch").mkdir()
    torch.save(odd_tensors(), FIXTURES / "torch/odd.pt")
    torch.save(odd_tensors(), FIXTURES / "torch/odd-protocol-5.pt", pickle_protocol=5)
    torch.save(
        {"x": torch.ones(2)},
        FIXTURES / "torch/before-1.6.pt",
        _use_new_zipfile_serialization=False,
    )
    # PyTorch names a storage by its address there; made again, the file shall be the same.
    before = FIXTURES / "torch/before-1.6.pt"
    before.write_bytes(re.sub(rb"\d{9,}", lambda m: b"0" * len(m[0]), before.read_bytes()))

    # The files are the start, so that what is compared went through them.
    model.double()
    for tensors in optimizer.state.values():
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[key] = tensors[key].double()
    losses = [update(model, optimizer, batch) for batch in batches[BEFORE:]]
    tensors = {f"after.{name}": t.contiguous() for name, t in model.state_dict().items()}
    tensors["batches"] = batches[BEFORE:].to(torch.int32).contiguous()
    save_file(tensors, FIXTURES / "oracle.safetensors")
    oracle = {
        "optimizer": OPTIMIZER,
        "learning_rate": LEARNING_RATE,
        "n_updates_before": BEFORE,
        "global_step": GLOBAL_STEP,
        "tokens_seen": GLOBAL_STEP * BATCH * CONTEXT,
        "losses_nats": losses,
    }
    (FIXTURES / "oracle.json").write_text(json.dumps(oracle) + "\n")
    for file in FIXTURES.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


if __name__ == "__main__":
    main()
