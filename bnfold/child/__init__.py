"""The process that runs onnxruntime. Nothing here is imported by the parent.

`python -m bnfold.child FOLDER` reads FOLDER/request.json and leaves an answer (`bnfold.answers`);
no answer means that it crashed. Data crosses as JSON, never as pickle.
"""
