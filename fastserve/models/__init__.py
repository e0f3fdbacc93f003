"""Where models come from, for every body; standard library and numpy alone.

Read: folder (what a folder holds), gguf_file (GGUF files by name), made_folder (folders that appear whole), embedded
and embedded_weights (the model that needs no network).
"""
