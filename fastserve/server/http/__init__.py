"""What every HTTP server of ours has, a model server and a gateway alike; it knows no engine.

What a request passes before it reaches a route: connections, http_protocol (arrival), forwarded (proxies), origin (web
pages), auth, introspection, limits, then its body: body_scan, input_pool. middleware puts them around an app (served:
what they ask of it), listener holds the port, http_server drains, process runs it. logs: format of log lines.
"""
