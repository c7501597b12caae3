"""Two real training steps by TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from making import MESSAGES

CHAT = [*MESSAGES, {"role": "assistant", "content": "The sea is calm and the lamp burns."}]


def train(start: Path, out: Path, peft_config: Any, **settings: Any) -> None:
    """SFTTrainer from the model and tokenizer in `start`; the trainer saves into `out`."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=str(out.with_name(out.name + "-run")),
        max_steps=2,
        per_device_train_batch_size=1,
        learning_rate=2e-2,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        **settings,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list([{"messages": CHAT}] * 4),
        processing_class=AutoTokenizer.from_pretrained(start),
        peft_config=peft_config,
    )
    trainer.train()
    trainer.save_model(str(out))


def train_dpo(start: Path, out: Path, peft_config: Any) -> None:
    """DPOTrainer over an adapter; the trainer saves into `out`."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    rejected = [{"role": "assistant", "content": "SELECT 1"}]
    row = {"prompt": MESSAGES, "chosen": CHAT[-1:], "rejected": rejected}
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32),
        args=DPOConfig(
            output_dir=str(out.with_name(out.name + "-run")),
            max_steps=2,
            per_device_train_batch_size=1,
            learning_rate=2e-2,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list([row] * 4),
        processing_class=AutoTokenizer.from_pretrained(start),
        peft_config=peft_config,
    )
    trainer.train()
    trainer.save_model(str(out))
