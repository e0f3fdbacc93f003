"""A scheduler in front of a server that one cannot change: any OpenAI-compatible one, llama.cpp's, Ollama.

Read: backend (what a plan comes to), stream (one completion), connection, api (what differs between servers:
llama_server, openai, ollama), detect, pieces and tokenizer (text as ids), prompt (ids as text), outside (its times).
"""
