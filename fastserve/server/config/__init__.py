"""Settings of servers. Read: http_settings (those of any HTTP server; reading, showing, explaining), settings
(FastServeConfig: the model server's), derived (what comes from the engine's and backends' own), dialect and aliases
(how they are written elsewhere), sources (environment, .env, arguments), named_code (what .env may not say), yaml_file;
ranges, forms, addresses and files: what values may be.
"""
