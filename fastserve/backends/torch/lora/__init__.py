"""LoRA adapters beside one copy of their base model. Read: peft_folder, sites, layers, adapters."""
