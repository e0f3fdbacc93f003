"""FastServeConfig. Read: settings (fields, validation), sources (environment, .env, arguments), yaml_file, aliases
(other names of a field).
"""
