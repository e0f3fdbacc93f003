"""FastServeConfig: every setting of the server (settings), where values come from (sources, yaml_file), other names of
a field (aliases).
"""
