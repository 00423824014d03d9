"""Makes the fixtures of `crates/lm/tests/oracle.rs` with PyTorch and `transformers`.

For every model family a few tiny random models, and what PyTorch says of each. A fixture is the
directory that `save_pretrained` writes (for some, changed to look like the files that people have
published) and beside it

- `oracle.json`: the optimizer, its learning rate, the family, the token that ends documents;
- `oracle.safetensors`:

  ==================  =======  ======================  ===========================================
  ``batches``         int32    [updates, rows, tokens]  each row's targets are its next tokens
  ``logits``          float32  [rows, tokens, V]        of batch 0, by the float32 model
  ``logits_masked``   float32  [rows, tokens, V]        the same if attention never leaves a
                                                        document; positions are not reset
  ``loss``            float64  [1]                      mean cross-entropy of batch 0 in nats
  ``grad.NAME``       float32  as the weight            gradient of ``loss``
  ``losses``          float64  [updates]                of each of ten AdamW updates
  ``grad_norms``      float64  [updates]                before the clip, which is active in each
  ``after.NAME``      float32  as the weight            the weights after the updates
  ``logits_after``    float32  [rows, tokens, V]        of batch 0 by the float32 model with them
  ==================  =======  ======================  ===========================================

  NAME is the name that `save_pretrained` writes; a tied output matrix is named once, as the
  embedding. Loss, gradients and updates are computed in float64 and rounded at the end.

The files are the same, byte for byte, each time they are made with the pinned packages.

    pip install -r python/oracle/requirements.txt
    python python/oracle/make_lm_fixtures.py
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, PreTrainedModel

FIXTURES = Path(__file__).resolve().parents[2] / "crates/lm/tests/fixtures"
ROWS, SEQ_LEN, UPDATES = 4, 16, 10
# The clip and the learning rate are such that float32 can follow float64: a bias of keys without
# rotation has gradient 0, and what rounding makes of that, divided by eps, is a tenth as large with
# this clip as with 1. PyTorch's own float32 ends within 4e-6 of each tensor's largest weight.
OPTIMIZER = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-5, "weight_decay": 0.1, "clip_norm": 0.1}
LEARNING_RATE = 2e-3
# Where documents end in batch 0: (row, token). At a row's first and last tokens too, and twice in
# succession.
DOCUMENT_ENDS = [(0, 5), (1, 0), (1, 7), (2, 15), (3, 3), (3, 4), (3, 11)]


@dataclass
class Case:
    name: str
    family: str
    config: dict = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    max_shard_size: str = "1GB"
    # Changed to the names and extra tensors of files that were published years ago.
    published: bool = False
    # `logits_masked` is told.
    documents: bool = False


def cases() -> list[Case]:
    wide = {"vocab_size": 64, "hidden_size": 24}
    tied = {"tie_word_embeddings": True}
    grouped = {"num_key_value_heads": 2}
    llama3 = {
        # Wavelengths 6.3, 23 and 85 tokens: one below 32 / 4, one between, one above 32 / 1.
        "hidden_size": 24,
        "max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 50.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    }
    return [
        # One file in float32, and shards in bfloat16: both ways in which weights are published.
        Case("olmo-untied-float32", "olmo", wide, documents=True),
        Case("olmo-tied-bfloat16", "olmo", wide | tied, torch.bfloat16, "10KB", published=True),
        Case("olmo-clip-qkv", "olmo", {"clip_qkv": 1.0}),
        Case("olmo2-untied", "olmo2", documents=True),
        Case("olmo2-gqa-tied", "olmo2", grouped | tied | {"rms_norm_eps": 1e-6}),
        Case("llama-gqa-untied", "llama", grouped, documents=True),
        Case("llama-tied", "llama", tied | {"rms_norm_eps": 1e-5, "num_key_value_heads": 1}),
        Case("llama-rope-llama3", "llama", grouped | llama3, published=True),
        Case("llama-bias", "llama", {"attention_bias": True, "mlp_bias": True}),
        Case("llama-head-dim", "llama", grouped | {"head_dim": 10}),
        Case(
            "gpt-neox-parallel",
            "gpt_neox",
            # Four of a head's 16 dimensions turn.
            {"hidden_size": 32, "intermediate_size": 24, "num_attention_heads": 2} | rotary(0.25),
            documents=True,
        ),
        Case(
            "gpt-neox-sequential",
            "gpt_neox",
            {"hidden_size": 24, "use_parallel_residual": False} | rotary(0.67),
            published=True,
        ),
        Case("gpt-neox-tied-gelu-new", "gpt_neox", tied | rotary(1.0) | {"hidden_act": "gelu_new"}),
        Case("gpt2", "gpt2", documents=True),
        Case("gpt2-n-inner-untied", "gpt2", {"n_inner": 40, "tie_word_embeddings": False}),
        Case("gpt2-published", "gpt2", {"activation_function": "gelu"}, published=True),
        Case("gpt2-layer-scale", "gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ]


def rotary(share: float) -> dict:
    theta = {"rope_type": "default", "rope_theta": 10000.0}
    return {"rope_parameters": theta | {"partial_rotary_factor": share}}


def random_model(case: Case) -> PreTrainedModel:
    config = {
        "vocab_size": 48,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "bos_token_id": None,
        # `transformers` keeps the gradient of a padding token's embedding at 0; the reference
        # study's code, which we follow, has no such exception.
        "pad_token_id": None,
    }
    if case.family != "gpt2":
        config["intermediate_size"] = 32
    config |= case.config
    config["eos_token_id"] = config["vocab_size"] - 1
    model = AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(case.family, **config)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                # Wide enough that attention and logits are far from uniform.
                parameter.normal_(std=1.5 / model.config.hidden_size**0.5)
            elif name.endswith("bias"):
                parameter.uniform_(-0.2, 0.2)
            else:
                parameter.uniform_(0.7, 1.3)
    return model


def make_published(case: Case, directory: Path, model: PreTrainedModel) -> None:
    """Changes what `save_pretrained` wrote to what older versions and other programs wrote."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters", {})
    if case.family == "gpt_neox":
        config["rotary_emb_base"] = int(rope["rope_theta"])
        config["rotary_pct"] = rope["partial_rotary_factor"]
    elif rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    if case.family not in ("gpt_neox", "gpt2"):
        return
    # Buffers that were saved once, and GPT-2 without the prefix of its decoder.
    path = directory / "model.safetensors"
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(path).items()}
    context = model.config.max_position_embeddings
    causal = torch.ones(1, 1, context, context).tril()
    for layer in range(model.config.num_hidden_layers):
        if case.family == "gpt2":
            tensors[f"h.{layer}.attn.bias"] = causal
        else:
            attention = f"gpt_neox.layers.{layer}.attention"
            tensors[f"{attention}.bias"] = causal.bool()
            tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
            tensors[f"{attention}.rotary_emb.inv_freq"] = model.gpt_neox.rotary_emb.inv_freq
    save_file({k: t.clone() for k, t in tensors.items()}, path, metadata={"format": "pt"})


class InFloat64(TorchFunctionMode):
    """Norms, rotations and softmax too, which `transformers` casts to float32."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def widened(value):
            return torch.float64 if value is torch.float32 else value

        args = [widened(value) for value in args]
        kwargs = {key: widened(value) for key, value in (kwargs or {}).items()}
        if function is Tensor.float:
            function = Tensor.double
        result = function(*args, **kwargs)
        assert not isinstance(result, Tensor) or result.dtype != torch.float32, function
        return result


def mean_cross_entropy(model: PreTrainedModel, batch: Tensor) -> Tensor:
    logits = model(batch, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def optimizer_of(model: PreTrainedModel) -> torch.optim.AdamW:
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed, kept = [], []
    for parameter in model.parameters():
        linear = parameter.ndim == 2 and id(parameter) not in embeddings
        (decayed if linear else kept).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": OPTIMIZER["weight_decay"]},
            {"params": kept, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
        eps=OPTIMIZER["eps"],
    )


def document_mask(batch: Tensor, eos: int) -> Tensor:
    """True where a token may attend, [rows, 1, tokens, tokens]; an end belongs to its document."""
    ends = (batch == eos).long()
    document = ends.cumsum(-1) - ends
    same = document[:, :, None] == document[:, None, :]
    return (same & torch.ones(SEQ_LEN, SEQ_LEN).tril().bool())[:, None]


def oracle(case: Case, model: PreTrainedModel, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    vocab_size, eos = model.config.vocab_size, model.config.eos_token_id
    batches = torch.randint(0, eos, (UPDATES, ROWS, SEQ_LEN), generator=random)
    for row, token in DOCUMENT_ENDS:
        batches[0, row, token] = eos
    said = {"batches": batches.int()}
    with torch.no_grad():
        said["logits"] = model(batches[0], use_cache=False).logits
        assert said["logits"].shape == (ROWS, SEQ_LEN, vocab_size)
        if case.documents:
            mask = document_mask(batches[0], eos)
            masked = model(batches[0], attention_mask=mask, use_cache=False).logits
            assert not torch.allclose(masked, said["logits"], atol=0.1)
            said["logits_masked"] = masked

    model.double()
    optimizer = optimizer_of(model)
    losses, grad_norms = [], []
    with InFloat64():
        for batch in batches:
            loss = mean_cross_entropy(model, batch)
            optimizer.zero_grad()
            loss.backward()
            if not losses:
                said["loss"] = loss.detach()[None]
                for name, parameter in model.named_parameters():
                    assert parameter.grad.count_nonzero() > 0, name
                    said[f"grad.{name}"] = parameter.grad.clone()
            norm = nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_norm"])
            assert norm > OPTIMIZER["clip_norm"], (case.name, norm)
            optimizer.step()
            losses.append(loss.item())
            grad_norms.append(norm.item())
    said["losses"] = torch.tensor(losses, dtype=torch.float64)
    said["grad_norms"] = torch.tensor(grad_norms, dtype=torch.float64)

    model.float()
    for name, parameter in model.named_parameters():
        grad = said.pop(f"grad.{name}")
        if case.family == "gpt_neox":
            name = name.replace("lm_head", "embed_out")
        said[f"grad.{name}"] = grad.float()
        said[f"after.{name}"] = parameter.detach()
    with torch.no_grad():
        said["logits_after"] = model(batches[0], use_cache=False).logits
    return said


def make(case: Case, seed: int, directory: Path) -> None:
    torch.manual_seed(seed)
    shutil.rmtree(directory, ignore_errors=True)
    model = random_model(case).to(case.dtype)
    model.save_pretrained(directory, max_shard_size=case.max_shard_size)
    (directory / "generation_config.json").unlink()
    if case.published:
        make_published(case, directory, model)
    # What was saved, so that rounded weights are the ones compared.
    loaded, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    rope = "rope_parameters"
    assert getattr(loaded.config, rope, None) == getattr(model.config, rope, None)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.float(), loaded.get_parameter(name)), name
    said = {name: tensor.contiguous() for name, tensor in oracle(case, loaded, seed).items()}
    save_file(said, directory / "oracle.safetensors")
    facts = {
        "family": case.family,
        "optimizer": OPTIMIZER,
        "learning_rate": LEARNING_RATE,
        "eos": loaded.config.eos_token_id,
        "transformers": transformers.__version__,
    }
    (directory / "oracle.json").write_text(json.dumps(facts, indent=2) + "\n")
    for file in directory.iterdir():
        file.chmod(0o644)
    norms = said["grad_norms"]
    print(
        f"{case.name}: loss {said['loss'].item():.3f}, gradient norms {norms.min():.2f} to"
        f" {norms.max():.2f}, {sum(f.stat().st_size for f in directory.iterdir()) / 1e3:.0f} kB"
    )


def main() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for seed, case in enumerate(cases(), 1):
        make(case, seed, FIXTURES / case.name)


if __name__ == "__main__":
    main()
