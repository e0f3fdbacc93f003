"""The PyTorch body: transformers models over a paged KV cache. Importing the package imports no torch.

Read: executor (a Plan becomes one packed step), input_batch, block_manager and kv_cache (which physical blocks, copies
between pools), attention_interface and attention (the seam to transformers, and the specification), sampler; then how a
model is loaded: model, checkpoint, platform, verify (is the architecture computed right?), warmup; native/ is optional
C++.
"""
