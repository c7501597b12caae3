"""What transformers (and peft) answer: prompt ids, sixteen greedy tokens with their logprobs, what
`generate` answers with the folder's own generation settings, and the same for a chat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from making import MESSAGES, PROMPTS, Reference

COUNT = 16
ENDS = ("<|endoftext|>", "<|im_end|>", "</s>")
"""Names that end an answer of a GGUF file whatever the file says, as in llama.cpp."""


def greedy(model: Any, ids: list[int]) -> list[tuple[int, float, float]]:
    """(token, its logprob, its lead over the second) of each step, with a cache as in `generate`:
    under dynamic rope the two differ."""
    import torch

    found: list[tuple[int, float, float]] = []
    cache, new = None, torch.tensor([ids])
    while len(found) < COUNT:
        with torch.no_grad():
            output = model(new, past_key_values=cache, use_cache=True)
        logits, cache = output.logits[0, -1].float(), output.past_key_values
        (best, second), tokens = logits.log_softmax(-1).topk(2)
        found.append((int(tokens[0]), float(best), float(best - second)))
        new = tokens[:1][None]
    return found


def answer(model: Any, tokenizer: Any, ids: list[int]) -> dict[str, Any]:
    """What `generate` answers: the text, and whether it ended at a stop token."""
    import torch

    whole = model.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=COUNT,
    )
    new = whole[0, len(ids) :].tolist()
    stops = model.generation_config.eos_token_id
    stops = [stops] if isinstance(stops, int) else stops or []
    stopped = bool(new) and new[-1] in stops
    return {
        "text": tokenizer.decode(new[:-1] if stopped else new, skip_special_tokens=True),
        "stopped": stopped,
    }


def load(path: Path, given: Reference | None, adapter: Path | None) -> tuple[Any, Any]:
    """The model and the tokenizer, in float32 with eager attention."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    given = given or Reference()
    options = {"gguf_file": given.gguf_file} if given.gguf_file else {}
    model = AutoModelForCausalLM.from_pretrained(
        given.model or path, dtype=torch.float32, attn_implementation="eager", **options
    )
    where = given.tokenizer or path
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, given.adapter or adapter)
        if (adapter / "tokenizer_config.json").exists():
            where = adapter
    return model.eval(), getattr(transformers, given.tokenizer_class).from_pretrained(where)


def reference(path: Path, given: Reference | None, adapter: Path | None = None) -> dict[str, Any]:
    """The whole reference of one input, as JSON."""
    model, tokenizer = load(path, given, adapter)
    if any(path.glob("*.gguf")):
        known = tokenizer.get_vocab()
        model.generation_config.eos_token_id = [known[n] for n in ENDS if n in known]
    dynamic = "dynamic" in str(getattr(model.config, "rope_parameters", None))

    def fresh() -> Any:
        """The model; under dynamic rope a new one, since what ran before changes the answer."""
        return load(path, given, adapter)[0] if dynamic else model

    prompts = list(PROMPTS)
    special = tokenizer.all_special_tokens
    if special and not (given and given.sentencepiece):
        prompts.append(f"{special[0]}Hello {special[-1]} there")
    found: dict[str, Any] = {"prompts": [], "chat": None}
    for text in prompts:
        ids = tokenizer(text).input_ids
        if given and given.sentencepiece and text in PROMPTS:
            from sentencepiece import SentencePieceProcessor

            pieces = SentencePieceProcessor(model_file=str(given.sentencepiece))
            ids = [pieces.bos_id(), *pieces.encode(text)]
        steps = greedy(fresh(), ids)
        found["prompts"].append(
            {"prompt": text, "ids": ids, "steps": steps, **answer(fresh(), tokenizer, ids)}
        )
    if tokenizer.chat_template:
        ids = tokenizer.apply_chat_template(
            MESSAGES, add_generation_prompt=True, return_dict=True
        ).input_ids
        found["chat"] = {"messages": MESSAGES, "ids": ids, **answer(fresh(), tokenizer, ids)}
    return found
