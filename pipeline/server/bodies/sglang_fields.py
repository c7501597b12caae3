"""Every field of SGLang's native /generate: honoured, harmless or refused by name."""

from __future__ import annotations

from .field_table import Table, harmless, honoured, refused

TEXT_ONLY = "only text is accepted"
OWN_PROCESSES = "only for servers with separate prefill and decode"
ONE_SERVER = "there is one server"

SGLANG: Table = {
    "text": honoured("a text, or a list: a batch"),
    "input_ids": honoured("in place of `text`: token ids, or lists of them"),
    "sampling_params": honoured("an object, or one for each prompt; its fields are below"),
    "lora_path": honoured("name or path of a registered adapter, or one (or null) for each prompt"),
    "stream": honoured("server-sent events: the whole text so far with each token"),
    "rid": honoured("the `id` in meta_info, or one for each prompt"),
    "return_logprob": honoured("true or false, or one for each prompt"),
    "top_logprobs_num": honoured("0 to 20, or one for each prompt"),
    "return_text_in_logprobs": honoured("the text of each token beside its logprob"),
    "logprob_start_len": honoured(
        "with return_logprob: the first token of the prompt with a logprob; -1: none; no stream"
    ),
    "token_ids_logprob": refused("logprobs name the most probable tokens"),
    "input_embeds": refused("send the prompt as text or token ids"),
    "positional_embed_overrides": refused("send the prompt as text or token ids"),
    "image_data": refused(TEXT_ONLY),
    "video_data": refused(TEXT_ONLY),
    "audio_data": refused(TEXT_ONLY),
    "modalities": harmless("for images, sound and video; only text is accepted"),
    "session_params": refused("send the whole prompt"),
    "session_id": harmless("requests are independent of each other"),
    "lora_id": refused("name the adapter in lora_path"),
    "custom_logit_processor": refused("the samplers are those of sampling_params"),
    "return_hidden_states": refused("only text and logprobs are answered"),
    "return_routed_experts": refused("only text and logprobs are answered"),
    "return_entropy": refused("only text and logprobs are answered"),
    "return_prompt_token_ids": refused("POST /tokenize has them"),
    "return_bytes": harmless("the text is the same"),
    "require_reasoning": refused("the answer is one text, reasoning included"),
    "bootstrap_host": refused(OWN_PROCESSES),
    "bootstrap_port": refused(OWN_PROCESSES),
    "bootstrap_room": refused(OWN_PROCESSES),
    "decode_tp_size": refused(OWN_PROCESSES),
    "priority": refused("the operator sets the order of admission (/v1/scheduler)", 0),
    "background": refused("wait for the answer, or stream it"),
    "conversation_id": harmless("requests are independent of each other"),
    "data_parallel_rank": harmless(ONE_SERVER),
    "routed_dp_rank": harmless(ONE_SERVER),
    "disagg_prefill_dp_rank": harmless(ONE_SERVER),
    "extra_key": harmless("no prompt is cached"),
    "log_metrics": harmless("every request is counted"),
    "no_logs": harmless("requests are not logged"),
    "custom_labels": harmless("for metrics of SGLang"),
    "validation_time": harmless("for metrics of SGLang"),
    "received_time": harmless("for metrics of SGLang"),
    "parameters": refused("its name here is sampling_params"),
    "inputs": refused("its name here is text"),
}

SGLANG_SAMPLING: Table = {
    "max_new_tokens": honoured("at least 1; absent: 128"),
    "min_new_tokens": honoured("tokens before an end token or a stop string counts"),
    "temperature": honoured("0 to 100; 0 takes the most probable token; absent: 1"),
    "top_p": honoured("above 0, to 1"),
    "top_k": honoured("0 or -1: off"),
    "min_p": honoured("0 to 1"),
    "presence_penalty": honoured("-2 to 2"),
    "frequency_penalty": honoured("-2 to 2"),
    "repetition_penalty": honoured("above 0, to 10; over prompt and answer"),
    "sampling_seed": honoured("64 bits; choice i of n has sampling_seed + i"),
    "stop": honoured("a string or up to 16, of 4 096 characters in all"),
    "stop_token_ids": honoured("up to 1 024 ids"),
    "ignore_eos": honoured("the model's own end tokens do not end the answer"),
    "no_stop_trim": honoured("the text ends with the stop string"),
    "skip_special_tokens": honoured("false: special tokens stay in the text"),
    "n": honoured("1 to 128 choices of each prompt, one after the other in the answer's list"),
    "logit_bias": honoured("-100 to 100 for each of up to 4 096 token ids"),
    "json_schema": honoured("a JSON schema, as text or object"),
    "regex": honoured("a regular expression for the whole answer"),
    "ebnf": honoured("a grammar, as GBNF or Lark"),
    "structural_tag": honoured("triggers, and schemas of what follows them, as object or text"),
    "stop_regex": refused("use stop"),
    "custom_params": refused("for a custom_logit_processor"),
    "beam_width": refused("answers are sampled; n gives several", 1),
    "dtype": harmless("for the frontend of SGLang"),
    "spaces_between_special_tokens": harmless("a tokenizer.json adds none"),
    "stream_interval": harmless("tokens are sent as they come"),
}
