"""Every field that a request body may have: honoured, harmless or refused by name.

`field_pages` makes the tables of docs/http.md of them.
"""

from __future__ import annotations

from .adapter_fields import ADAPTER, LORA_PATH
from .field_table import Table, harmless, honoured, only, refused
from .grammar_fields import GRAMMAR
from .token_fields import TOKEN_FIELDS

STRUCTURED = "answers are not constrained; ask for the form in the prompt"
TOOLS = "/v1/chat/completions takes tools"
NO_PROMPT_CUT = "cut the prompt before it is sent"
SAMPLERS = "the samplers are temperature, top_k, top_p, min_p and the three penalties"
OWN_PROCESSES = "only for servers with separate prefill and decode"
TEXT_ALONE = "for images, sound and video; only text is accepted"

SAMPLING: Table = {
    "model": honoured("the base model, an adapter, or `base:adapter`; absent: the base model"),
    **ADAPTER,
    **LORA_PATH,
    "lora_request": refused("name the adapter in model"),
    "temperature": honoured("0 to 100; 0 takes the most probable token"),
    "top_p": honoured("above 0, to 1"),
    "top_k": honoured("0 or -1: off"),
    "min_p": honoured("0 to 1"),
    "presence_penalty": honoured("-2 to 2"),
    "frequency_penalty": honoured("-2 to 2"),
    "repetition_penalty": honoured("above 0, to 10; over prompt and answer"),
    "seed": honoured("64 bits; -1 counts as absent; choice i of n has seed + i"),
    "stop": honoured("a string or up to 16, of 4 096 characters in all"),
    "stop_token_ids": honoured("up to 1 024 ids"),
    "include_stop_str_in_output": honoured("vLLM: the text ends with the stop string"),
    "ignore_eos": honoured("the model's own end tokens do not end the answer"),
    "max_tokens": honoured("at least 1"),
    "n": honoured("1 to 128 choices"),
    "stream": honoured("server-sent events"),
    "stream_options": honoured("with `stream`; its fields are below"),
    "add_special_tokens": honoured("vLLM: whether the tokenizer adds its own, such as a BOS"),
    **TOKEN_FIELDS,
    **GRAMMAR,
    # Fields that would change the text or the tokens.
    "logits_processors": refused(SAMPLERS),
    "custom_logit_processor": refused(SAMPLERS),
    "custom_params": refused(SAMPLERS),
    "vllm_xargs": refused(SAMPLERS),
    "typical_p": refused(SAMPLERS, 0, 1),
    "top_a": refused(SAMPLERS, 0),
    "mirostat": refused(SAMPLERS, 0),
    "watermark": refused(SAMPLERS),
    "watermarking": refused(SAMPLERS),
    "repetition_detection": refused(SAMPLERS),
    "no_repeat_ngram_size": refused("use repetition_penalty or frequency_penalty", 0),
    "repeat_penalty": refused("its name here is repetition_penalty", 1),
    "use_beam_search": refused("answers are sampled; n gives several"),
    "num_beams": refused("answers are sampled; n gives several", 1),
    "length_penalty": refused("for beam search, which is not supported", 0, 1),
    "early_stopping": refused("for beam search, which is not supported"),
    "stop_regex": refused("use stop"),
    "max_new_tokens": refused("its name here is max_tokens"),
    "thinking_token_budget": refused("use max_tokens", -1),
    "prompt_embeds": refused("send the prompt as text or token ids"),
    "tools": refused(TOOLS),
    "tool_choice": refused(TOOLS, "none", "auto"),
    "functions": refused(TOOLS),
    "function_call": refused(TOOLS, "none", "auto"),
    # Fields that would change the answer's format or add to it.
    "return_token_offsets": refused("completions' logprobs have text_offset"),
    "return_prompt_token_ids": refused("use return_token_ids"),
    "return_hidden_states": refused("only text and logprobs are answered"),
    "return_routed_experts": refused("only text and logprobs are answered"),
    "return_cached_tokens_details": refused("no prompt is cached"),
    "return_meta_info": refused("usage and /metrics have figures"),
    "session_params": refused("send the whole prompt"),
    "kv_transfer_params": refused(OWN_PROCESSES),
    "ec_transfer_params": refused(OWN_PROCESSES),
    "bootstrap_host": refused(OWN_PROCESSES),
    "bootstrap_port": refused(OWN_PROCESSES),
    "bootstrap_room": refused(OWN_PROCESSES),
    "priority": refused("the operator sets the order of admission (/v1/scheduler)", 0),
    # Fields that change nothing.
    "store": harmless("answers are not kept"),
    "prompt_cache_key": harmless("no prompt is cached"),
    "prompt_cache_options": harmless("no prompt is cached"),
    "prompt_cache_retention": harmless("no prompt is cached"),
    "prediction": harmless("speculation changes no answer"),
    "parallel_tool_calls": harmless("there are no tools"),
    "user": harmless("names the client's user"),
    "metadata": harmless("for the client's own use"),
    "safety_identifier": harmless("names the client's user"),
    "service_tier": harmless("there is only one"),
    "request_id": harmless("ids are the server's"),
    "rid": harmless("ids are the server's"),
    "session_id": harmless("requests are independent of each other"),
    "cache_salt": harmless("no prompt is cached"),
    "extra_key": harmless("no prompt is cached"),
    "cache_prompt": harmless("no prompt is cached"),
    "custom_labels": harmless("for metrics of SGLang"),
    "data_parallel_rank": harmless("there is one server"),
    "routed_dp_rank": harmless("there is one server"),
    "disagg_prefill_dp_rank": harmless("there is one server"),
    "routed_experts_prompt_start": harmless("belongs to return_routed_experts"),
    "routed_experts_start_len": harmless("belongs to return_routed_experts"),
    "spaces_between_special_tokens": harmless("a tokenizer.json adds none"),
    "stream_interval": harmless("tokens are sent as they come"),
    "ngram_corpus_id": harmless("speculation changes no answer"),
    "images_config": harmless(TEXT_ALONE),
    "media_io_kwargs": harmless(TEXT_ALONE),
    "mm_processor_kwargs": harmless(TEXT_ALONE),
    "return_mm_kwargs": harmless(TEXT_ALONE),
}

CHAT: Table = {
    "messages": honoured("its fields are below"),
    **SAMPLING,
    "max_tokens": honoured("at least 1; absent: generation_config.json's, or 1 024 or what fits"),
    "max_completion_tokens": honoured("wins over `max_tokens`"),
    "logprobs": honoured("true or false"),
    "top_logprobs": honoured("0 to 20, with `logprobs`"),
    "chat_template_kwargs": honoured("variables of the chat template, such as enable_thinking"),
    "documents": honoured("given to the chat template; refused if it does not read them"),
    "add_generation_prompt": honoured("whether the prompt ends with the head of an answer"),
    "continue_final_message": honoured("the answer continues the last message"),
    "prompt": refused("POST /v1/completions takes one"),
    "echo": honoured("vLLM: the answer repeats the last message, if the assistant wrote it"),
    "tools": honoured("functions that the model may call; see [tools](tools.md)"),
    "tool_choice": honoured("none, auto, required, a function, or OpenAI's `allowed_tools`"),
    "parallel_tool_calls": honoured("false: one call at most"),
    "functions": honoured("OpenAI's old form of `tools`; answered as `function_call`"),
    "function_call": honoured("with `functions`: none, auto, or a function"),
    "chat_template": honoured(
        "vLLM: a template of the request, with --trust-request-chat-template"
    ),
    "reasoning_effort": honoured(
        "given to a chat template that reads it; none turns reasoning off"
    ),
    "enable_thinking": honoured("turns reasoning on or off if the chat template can"),
    "thinking": honoured('the same: true, false, or `{"type": "enabled"}`, disabled, auto'),
    "reasoning": honoured("the same: `effort` as reasoning_effort, `enabled` as enable_thinking"),
    "include_reasoning": honoured("vLLM: false leaves the reasoning out of the answer"),
    "separate_reasoning": honoured("SGLang: false leaves it in the content, with its marks"),
    "stream_reasoning": only(True, "it is streamed with the rest"),
    "verbosity": refused("ask for it in a message", "medium"),
    "modalities": refused("only text is answered", ["text"]),
    "audio": refused("only text is answered"),
    "web_search_options": refused("nothing is searched"),
    "moderation": refused("nothing is moderated"),
    "return_prompt_text": refused("the console shows a request's prompt"),
    "input_ids": refused("/v1/completions takes token ids as its prompt"),
    "task": refused("for a template that is not supported"),
    "max_dynamic_patch": harmless(TEXT_ALONE),
    "min_dynamic_patch": harmless(TEXT_ALONE),
    "use_audio_in_video": harmless(TEXT_ALONE),
}

COMPLETION: Table = {
    "prompt": honoured("a text, token ids, or a list of either"),
    **SAMPLING,
    "max_tokens": honoured(
        "absent: generation_config.json's, or 16; 0 with `echo` or `prompt_logprobs`"
    ),
    "logprobs": honoured("0 to 20 alternatives beside the token"),
    "best_of": honoured("at least `n`: that many are generated, the likeliest `n` answered"),
    "messages": refused("POST /v1/chat/completions takes them"),
    "echo": honoured("the text, and logprobs, begin with the prompt"),
    "suffix": honoured("the text after the answer, if the model has tokens for it"),
}

STREAM_OPTIONS: Table = {
    "include_usage": honoured("an event with the usage, before the end"),
    "continuous_usage_stats": honoured("vLLM: with include_usage, the usage so far in each event"),
    "include_obfuscation": harmless("no event is padded"),
}

GENERATE: Table = {
    "inputs": honoured("a text"),
    "parameters": honoured("its fields are below"),
    "lora_dir": honoured("name or path of a registered adapter"),
    "stream": honoured("server-sent events; true also on /generate, false not on /generate_stream"),
    "prompt": refused("its name here is inputs"),
    "text": refused("POST /generate takes SGLang's body"),
    "sampling_params": refused("POST /generate takes SGLang's body"),
    "max_new_tokens": refused("put it into parameters"),
    "model_dir": harmless("S-LoRA ignores it too"),
    "req_id": harmless("ids are the server's"),
}

DETAILS = "/v1/completions answers with logprobs, usage and finish_reason"

PARAMETERS: Table = {
    **ADAPTER,
    "do_sample": honoured("false, the default, takes the most probable token"),
    "temperature": honoured("0 to 100; samples, but from S-LoRA's clients needs `do_sample`"),
    "top_p": honoured("above 0, to 1; likewise"),
    "top_k": honoured("0 or -1: off; likewise"),
    "min_p": honoured("0 to 1; above 0 only with `do_sample`"),
    "presence_penalty": honoured("-100 to 100"),
    "frequency_penalty": honoured("-100 to 100"),
    "repetition_penalty": honoured("above 0, to 10"),
    "max_new_tokens": honoured("at least 1; absent: 100, or 16 for S-LoRA's clients"),
    "ignore_eos": honoured("the model's own end tokens do not end the answer"),
    "ignore_eos_token": honoured("LoRAX's name for ignore_eos"),
    "stop_sequences": honoured("a string or up to 16, of 4 096 characters in all"),
    "stop": honoured("TGI's and LoRAX's name for stop_sequences"),
    "seed": honoured("64 bits; -1 counts as absent"),
    "skip_special_tokens": honoured("false: special tokens stay in the text"),
    "best_of": refused("only one answer is given", 1),
    "typical_p": refused(SAMPLERS, 0, 1),
    "watermark": refused(SAMPLERS),
    "truncate": honoured("the last tokens of the prompt, as many"),
    "return_full_text": honoured("the text begins with the prompt"),
    "details": honoured("finish reason, counts and tokens with their logprobs"),
    "top_n_tokens": honoured("TGI: 0 to 20 of the most probable tokens for each, in details"),
    "return_k_alternatives": honoured("LoRAX: the same, in each token"),
    "decoder_input_details": honoured(
        "with `details`: the prompt's tokens and logprobs, whole only"
    ),
    "return_details": refused(DETAILS),
    "grammar": honoured("TGI: the answer's form, as response_format of a chat"),
    "response_format": honoured("LoRAX: the answer's form, as in a chat"),
    "min_tokens": refused("ignore_eos with max_new_tokens fixes the length", 0),
}

LOAD: Table = {
    "lora_name": honoured("the adapter's name"),
    "lora_path": honoured("an absolute path on the server's machine, or a hub id"),
    "pinned": honoured("SGLang: never evicted"),
    "load_inplace": honoured("vLLM: an adapter of this name is replaced"),
    "is_3d_lora_weight": refused("adapters of mixtures of experts are not served"),
    "added_tokens_config": refused("an adapter's tokens are those of its base"),
    "base_model_name": harmless("the adapter's files are checked against the model served"),
    "lora_int_id": harmless("ids are the server's"),
    "lora_id": harmless("ids are the server's"),
}

UNLOAD: Table = {
    "lora_name": honoured("the adapter's name"),
    "lora_int_id": harmless("ids are the server's"),
    "lora_id": harmless("ids are the server's"),
}

ADAPTER_BODY: Table = {
    "name": honoured("the adapter's name"),
    "path": honoured("an absolute path on the server's machine, or a hub id"),
    "pin": honoured("never evicted"),
}

PLAN: Table = {"paths": honoured("absolute paths on the server's machine, or hub ids")}

SCHEDULER: Table = {
    "policy": honoured("the order of admission"),
    "weights": honoured("shares under vtc_fair, by name"),
    "batch_num_adapters": honoured("for cluster"),
    "slo_seconds": honoured("for abort"),
    "max_wait_tokens": honoured("decode steps between attempts to admit"),
    "max_per_adapter": honoured("most running requests of one adapter"),
}

PROFILER: Table = {
    "layers": honoured("with the layers of every step"),
    "nvtx": honoured("as NVTX ranges too"),
}
