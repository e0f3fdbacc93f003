"""Drawing the next token of each request without torch, for bodies whose logits are numpy arrays.

Read: state (what a draw depends on), philox (its random number), sampler (filters and draw). backends/torch has the
same rules on tensors. jobs is what such a body keeps of its jobs between steps. Importing the package imports nothing.
"""
