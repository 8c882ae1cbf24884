"""onnxruntime in a process of its own: started and watched, sessions, inputs.

`python -m bnfold.worker FOLDER` reads the parts of a request in FOLDER and leaves an answer there
(`answer_file`); no answer means that it crashed. Data crosses as JSON, never as pickle.
"""
