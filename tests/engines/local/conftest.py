"""Small random checkpoints of several architectures, made once per session, and what the tests ask of an engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "4000")  # as models/__init__.py has it, before torch is loaded

torch = pytest.importorskip("torch", reason="the local engine's extra is not installed")
transformers = pytest.importorskip("transformers", reason="the local engine's extra is not installed")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402

from samplewise.core.types import Ask, Completion, Generate, Message  # noqa: E402
from samplewise.engines.local import local  # noqa: E402

VOCAB = 40
EOS = (1, 3)
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
)
WORDS = ["<pad>", "</s>", "<s>", "</turn>", "user", "assistant", "system", *(f"w{i}" for i in range(7, VOCAB))]


def _configs(**changes: Any) -> dict[str, Any]:
    small = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "bos_token_id": 2,
        "eos_token_id": list(EOS),
        "pad_token_id": 0,
    }
    gated = {**small, "intermediate_size": 48, "num_key_value_heads": 2}
    windows = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
    experts = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
    return {
        "llama": lambda: transformers.LlamaConfig(**{**gated, **changes}),
        "qwen3": lambda: transformers.Qwen3Config(**gated, head_dim=8),
        "mistral": lambda: transformers.MistralConfig(**gated, sliding_window=5),
        "gemma2": lambda: transformers.Gemma2Config(**gated, head_dim=8, sliding_window=5),
        "gemma3": lambda: transformers.Gemma3TextConfig(**gated, **windows, head_dim=8),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=2, eos_token_id=1
        ),
        "bloom": lambda: transformers.BloomConfig(**{**small, "n_layer": 2, "n_head": 4}),
        "cohere2": lambda: transformers.Cohere2Config(**gated, **windows),
        "deepseek_v3": lambda: transformers.DeepseekV3Config(
            **{**gated, "num_key_value_heads": 4},
            **{"moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 2, "topk_group": 1},
            **{"num_experts_per_tok": 2, "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 16},
            **{"qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8},
        ),
        "falcon_alibi": lambda: transformers.FalconConfig(
            **small, alibi=True, multi_query=False, new_decoder_architecture=False
        ),
        "gemma": lambda: transformers.GemmaConfig(**gated, head_dim=8),
        "gpt_neo": lambda: transformers.GPTNeoConfig(
            **{"vocab_size": VOCAB, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 5},
            **{"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 128, "eos_token_id": 1},
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**small, intermediate_size=48),
        "gpt_oss": lambda: transformers.GptOssConfig(
            **gated, **windows, head_dim=8, num_local_experts=4, num_experts_per_tok=2
        ),
        "granite": lambda: transformers.GraniteConfig(**gated, attention_multiplier=0.3, logits_scaling=2.0),
        "llama4": lambda: transformers.Llama4TextConfig(
            **gated,
            head_dim=8,
            attention_chunk_size=5,
            num_local_experts=2,
            intermediate_size_mlp=48,
            no_rope_layers=[1, 0],
        ),
        "llama_biased": lambda: transformers.LlamaConfig(
            **gated, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
        ),
        "mixtral": lambda: transformers.MixtralConfig(**gated, num_local_experts=4),
        "mpt": lambda: transformers.MptConfig(
            **{"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
            **{"bos_token_id": 2, "eos_token_id": 1},
        ),
        "olmo": lambda: transformers.OlmoConfig(**gated),
        "olmo2": lambda: transformers.Olmo2Config(**gated),
        "olmo3": lambda: transformers.Olmo3Config(**gated, **windows),
        "olmoe": lambda: transformers.OlmoeConfig(**gated, num_experts=4, num_experts_per_tok=2),
        "opt": lambda: transformers.OPTConfig(**small, ffn_dim=48, word_embed_proj_dim=32),
        "phi": lambda: transformers.PhiConfig(**gated, partial_rotary_factor=0.5),
        "phi3": lambda: transformers.Phi3Config(**gated, sliding_window=5),
        "qwen2": lambda: transformers.Qwen2Config(**gated, tie_word_embeddings=True),
        "qwen2_windows": lambda: transformers.Qwen2Config(
            **gated, use_sliding_window=True, sliding_window=5, max_window_layers=1
        ),
        "qwen2_moe": lambda: transformers.Qwen2MoeConfig(**gated, **experts, shared_expert_intermediate_size=16),
        "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**gated, **experts, head_dim=8),
        "smollm3": lambda: transformers.SmolLM3Config(**gated, no_rope_layers=[1, 0]),
        "stablelm": lambda: transformers.StableLmConfig(**gated, partial_rotary_factor=0.5),
        "lfm2": lambda: transformers.Lfm2Config(**gated, layer_types=["conv", "full_attention"]),
        "mamba": lambda: transformers.MambaConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4, eos_token_id=1, pad_token_id=0
        ),
    }


def write_tokenizer(path: Path) -> None:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<pad>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)


def write_checkpoint(path: Path, kind: str, spread: float = 0.3, **changes: Any) -> None:
    config = _configs(**changes)[kind]()
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "A_log" not in name:
                weight.normal_(0.0, spread, generator=generator)
    model.save_pretrained(path)
    write_tokenizer(path)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a random model of a kind."""
    made: dict[str, str] = {}

    def get(kind: str) -> str:
        if kind not in made:
            folder = tmp_path_factory.mktemp("models") / kind
            write_checkpoint(folder, kind)
            made[kind] = str(folder)
        return made[kind]

    return get


@pytest.fixture(scope="session")
def engine(checkpoint: Callable[[str], str]) -> Any:
    """One Llama engine for all tests that leave it as it was."""
    return local(checkpoint("llama"), device="cpu")


@pytest.fixture(scope="session")
def plain(checkpoint: Callable[[str], str]) -> Callable[..., Any]:
    """Log-probabilities (T, V) after each of some token ids, from a forward pass of stock `transformers`."""
    loaded: dict[str, Any] = {}

    def log_probs(kind: str, ids: Sequence[int]) -> Any:
        if kind not in loaded:
            loaded[kind] = transformers.AutoModelForCausalLM.from_pretrained(checkpoint(kind), dtype=torch.float32)
        with torch.no_grad():
            logits = loaded[kind](input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
        return torch.log_softmax(logits.double(), -1).numpy()

    return log_probs


def answers(engine: Any, asks: Sequence[Ask]) -> list[Completion]:
    """The completions of asks, in their order."""

    async def collect() -> list[Completion]:
        got: dict[int, Completion] = {}
        async for arrival in engine.answer(asks):
            assert arrival.position not in got
            got[arrival.position] = arrival.completion
        return [got[i] for i in range(len(asks))]

    return asyncio.run(collect())


def question(number: int, length: int = 5) -> tuple[Message, ...]:
    return (Message("user", " ".join(f"w{7 + (number * 5 + i * i) % 33}" for i in range(length))),)


def draws(number: int, **changed: Any) -> list[Generate]:
    """Asks of ragged prompts and lengths, all arrays wanted."""
    given = {"want": ("tokens", "logp", "logq"), **changed}
    return [
        Generate(**{"messages": question(i % 7, 2 + i % 7), "max_tokens": 3 + i % 11, "seed": 1000 + i, **given})
        for i in range(number)
    ]


def bare(completion: Completion) -> tuple[Any, ...]:
    """A completion but its log-probabilities, which another batch shape rounds differently."""
    return completion.text, completion.finish, completion.tokens, completion.usage, completion.failure


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers above, for files that cannot import this one."""
    return SimpleNamespace(
        bare=bare,
        answers=answers,
        question=question,
        draws=draws,
        write=write_checkpoint,
        vocab=VOCAB,
        eos=EOS,
        words=WORDS,
    )
