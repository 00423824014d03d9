"""Checkpoints of every model family go through `imprint-trainer` and back into `transformers`.

For every fixture of `oracle/make_lm_fixtures.py`, and for bigger random models made on the spot as
one safetensors file, as shards in bfloat16 and as a `pytorch_model.bin`:

1. `imprint-trainer convert` reads the directory and writes another, which holds exactly the tensors
   that `save_pretrained` would write, loads in `transformers` with no key missing, unexpected or
   mismatched, has an equal configuration and equal weights, and gives the same logits;
2. `imprint-trainer probe` agrees with `transformers` in float32 within 1e-4 nats per token on
   probes of random words, before and after.

    pip install -r python/oracle/requirements.txt
    python python/acceptance_models.py --bin target/release [--only llama]
"""

import argparse
import json
import random
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

FIXTURES = Path(__file__).resolve().parents[1] / "crates/lm/tests/fixtures"
LOGITS = 1e-4
NATS_PER_TOKEN = 1e-4
# What may differ between a directory and what we make of it: neither changes the model.
PROVENANCE = {"dtype", "transformers_version", "_name_or_path"}


@dataclass
class Model:
    name: str
    family: str
    config: dict = field(default_factory=dict)
    # "single", "shards" (bfloat16) or "bin"
    files: str = "single"


def bigger_models() -> list[Model]:
    grouped, tied = {"num_key_value_heads": 2}, {"tie_word_embeddings": True}
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    pythia = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    return [
        Model("olmo-1b-like", "olmo", tied, "shards"),
        Model("olmo-7b-like", "olmo", {"clip_qkv": 2.0}, "bin"),
        Model("olmo2", "olmo2", {}, "bin"),
        Model("olmo2-gqa", "olmo2", grouped, "shards"),
        Model("llama-3-like", "llama", grouped | tied | {"rope_parameters": llama3}, "shards"),
        Model("llama-head-dim", "llama", {"head_dim": 48, "attention_bias": True}),
        Model("pythia-like", "gpt_neox", {"rope_parameters": pythia}, "bin"),
        Model("gpt-neox-tied", "gpt_neox", tied | {"use_parallel_residual": False}, "bin"),
        Model("gpt2-like", "gpt2", {}, "bin"),
        Model("gpt2-untied", "gpt2", {"tie_word_embeddings": False}, "shards"),
    ]


def make(model: Model, directory: Path) -> None:
    config = {
        "vocab_size": 1000,
        "hidden_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "max_position_embeddings": 256,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": 999,
    }
    if model.family != "gpt2":
        config["intermediate_size"] = 640
    config = AutoConfig.for_model(model.family, **config | model.config)
    made = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim == 2:
                # Wide enough that attention and logits are far from uniform.
                parameter.normal_(std=1.5 / made.config.hidden_size**0.5)
            elif name.endswith("bias"):
                parameter.uniform_(-0.2, 0.2)
            else:
                parameter.uniform_(0.7, 1.3)
    if model.files == "shards":
        made.to(torch.bfloat16).save_pretrained(directory, max_shard_size="1MB")
        assert (directory / "model.safetensors.index.json").exists()
    elif model.files == "bin":
        # As such files were: a tied matrix under both of its names, the names of that time.
        made.config.save_pretrained(directory)
        tensors = made.state_dict()
        if model.family == "gpt_neox":
            tensors["embed_out.weight"] = tensors.pop("lm_head.weight")
        torch.save(tensors, directory / "pytorch_model.bin")
    else:
        made.save_pretrained(directory)


def load(directory: Path) -> PreTrainedModel:
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


def shapes_on_disk(directory: Path) -> dict[str, list[int]]:
    shapes = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                assert name not in shapes, f"{name} is in two files"
                shapes[name] = tensors.get_slice(name).get_shape()
    return shapes


def config_of(model: PreTrainedModel) -> dict:
    return {k: v for k, v in model.config.to_dict().items() if k not in PROVENANCE}


@torch.no_grad()
def check_convert(trainer: Path, directory: Path, original: PreTrainedModel, work: Path) -> Path:
    converted, expected = work / "converted", work / "expected"
    subprocess.run(
        [trainer, "convert", "--checkpoint", directory, "--out", converted],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    original.save_pretrained(expected)
    ours, theirs = shapes_on_disk(converted), shapes_on_disk(expected)
    assert ours == theirs, {name: (ours.get(name), theirs.get(name))
                            for name in ours.keys() | theirs.keys()
                            if ours.get(name) != theirs.get(name)}  # fmt: skip
    model = load(converted)
    ours, theirs = config_of(model), config_of(original)
    assert ours == theirs, {key: (ours.get(key), theirs.get(key))
                            for key in ours.keys() | theirs.keys()
                            if ours.get(key) != theirs.get(key)}  # fmt: skip
    for name, parameter in original.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name
    context = original.config.max_position_embeddings
    ids = torch.randint(0, original.config.vocab_size, (4, context))
    apart = (model(ids).logits - original(ids).logits).abs().max().item()
    assert apart <= LOGITS, apart
    return converted


def write_probes(vocab_size: int, context: int, work: Path) -> list[dict]:
    """A tokenizer of one word per id, and facts whose probes are of all lengths."""
    words = {f"w{i}": i for i in range(vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(work / "tokenizer.json"))
    rng = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(f"w{rng.randrange(vocab_size)}" for _ in range(rng.randint(least, most)))

    facts = [{"train_context": "w1 w2", "paraphrases": ["w2 w3"]} for _ in range(3)]
    for fact in facts:
        for depth in ("mem", "gen", "hard_gen"):
            fact[f"{depth}_input"] = [text(1, context - 8) for _ in range(4)]
            fact[f"{depth}_target"] = [text(1, 8) for _ in range(4)]
    (work / "facts.json").write_text(json.dumps(facts))
    return facts


@torch.no_grad()
def check_probes(trainer: Path, directory: Path, model: PreTrainedModel, work: Path) -> float:
    facts = write_probes(model.config.vocab_size, model.config.max_position_embeddings, work)
    out = subprocess.run(
        [trainer, "probe", "--checkpoint", directory,
         "--tokenizer", work / "tokenizer.json", "--facts", work / "facts.json"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 3 * 3 * 4, len(lines)
    worst = 0.0
    for line in lines:
        fact, depth, probe = facts[line["fact"]], line["depth"], line["probe"]
        words = f"{fact[f'{depth}_input'][probe]} {fact[f'{depth}_target'][probe]}".split()
        n_target = len(fact[f"{depth}_target"][probe].split())
        ids = torch.tensor([[int(word.removeprefix("w")) for word in words]])
        logits = model(ids).logits[0, :-1]
        values = torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0].double()
        assert line["n_tokens"] == len(words)
        target = values[-n_target:]
        for span, values in (("first", target[:1]), ("target", target), ("full", values)):
            assert line[span]["n"] == len(values), (line, len(values))
            worst = max(worst, abs(line[span]["sum_nats"] - values.sum().item()) / len(values))
    assert worst <= NATS_PER_TOKEN, worst
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bin", type=lambda p: Path(p).resolve(), required=True)
    parser.add_argument("--only", default="", help="models whose name contains this")
    args = parser.parse_args()
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    trainer = args.bin / "imprint-trainer"
    failed = []
    with tempfile.TemporaryDirectory(prefix="imprint-acceptance-") as directory:
        work = Path(directory)
        oracles = sorted(FIXTURES.glob("*/oracle.json"))
        models = [o.parent for o in oracles if (o.parent / "config.json").exists()]
        sources = {model.name: model for model in models}
        for model in bigger_models():
            name = f"{model.name}-{model.files}"
            if args.only in name:
                sources[name] = work / name
                make(model, sources[name])
        for name, source in sources.items():
            if args.only not in name:
                continue
            scratch = work / f"of-{name}"
            scratch.mkdir()
            try:
                original = load(source)
                read = check_probes(trainer, source, original, scratch)
                converted = check_convert(trainer, source, original, scratch)
                again = check_probes(trainer, converted, original, scratch)
            except AssertionError as error:
                failed.append(f"{name}: {error}")
            except subprocess.CalledProcessError as error:
                failed.append(f"{name}: {error.stderr.strip()}")
            else:
                print(
                    f"{name}: converted; probes at most {max(read, again):.1e} nats per token apart"
                )
                continue
            print(failed[-1])
    assert not failed, f"{len(failed)} models failed"


if __name__ == "__main__":
    main()
