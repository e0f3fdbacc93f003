"""The PyTorch backend: transformers models over a paged KV cache. Importing the package does not import torch.

Read: backend (runs a Plan as one packed step), input_batch, block_manager and kv_cache (block tables, copies between
pools), attention_interface and attention (the hook into transformers, and the specification), sampler; then loading a
model: source (before anything heavy is imported, with fastserve/models), model, loaded, checkpoint (with transformers)
or plain_llama (the embedded model, without), end_tokens, platform, memory, verify and in_float32 (is it computed
correctly?), warmup; native/ is optional C++.
"""
