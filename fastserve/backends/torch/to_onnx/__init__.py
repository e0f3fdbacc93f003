"""Export of a model of transformers to ONNX, for the onnx backend, which reads the folder and imports no torch.

Read: export (a folder that is made once; what is written into it), survey (what a forward pass is made of), trace (the
forward pass as ONNX Runtime's attention over a cache in place, and the rewriting that makes it quick), tidy (the
graph). backends/__init__ calls export.folder_of() by name, before the other backend loads a model.
"""
