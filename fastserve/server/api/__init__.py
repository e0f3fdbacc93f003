"""HTTP routes: native, openai, compat (aliases of other servers), each with its schema and format (request, response);
openai_messages is its chats, openai_refused what it cannot do. Shared: body (how one is read), dependencies, errors,
paths, fields, unknown_fields, tokenization, chat_template; streaming and piece_queue send tokens as SSE; documentation
is what /docs says.
"""
