"""HTTP routes: native, openai, compat (aliases of other servers), each with its schema and format (request, response).
Shared: dependencies, errors, fields, tokenization, chat_template; streaming and piece_queue send tokens as SSE.
"""
