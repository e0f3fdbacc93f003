"""The ONNX Runtime backend. Importing the package imports nothing heavy.

Read: backend (runs a Plan as calls of a graph), slots (whose KV is where) and arrays (the memory of it), graph (the
calls, of our own export) and foreign (of exports made elsewhere), folder (what a folder holds), session; then
quantise and calibrate (weights of 8 and 4 bits), verify (is it computed correctly?), convert, source.
"""
