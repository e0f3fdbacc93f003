"""Models that come and go: one server process a model, started when it is asked for.

Read: entry (a model by its name), models_file and models_folder (where entries come from), registry (both, watched),
server_process (one child), served_model (what happens to a model), supervisor (which are in memory), events (for those
who watch), hub (search), fetch and pull (downloads, in a child), jobs (loads that one can ask about), part and api
(what the gateway has of all this).
"""
