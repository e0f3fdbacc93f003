"""FastServeConfig. Read: settings (fields, validation), ranges, addresses and files (what values may be), sources
(environment, .env, arguments), named_code (what .env may not say), yaml_file, aliases (other names of a field).
"""
