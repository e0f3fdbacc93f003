"""The llama.cpp backend: GGUF files through llama-cpp-python's low-level API. Importing the package imports none of it.

Read: backend (a Plan becomes one llama_decode), residents (who has which sequence, whose state is elsewhere), context
(the calls), speculating and draft_model (guesses that a step verifies), model and tokenizer (what a file says), library
(the package, its log), source (which file a name is); measure (its times), convert (files made of other models).
"""
