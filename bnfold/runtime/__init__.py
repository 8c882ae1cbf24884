"""onnxruntime in a process of its own: started and watched, sessions, inputs.

`python -m bnfold.worker FOLDER` reads FOLDER/request.json and leaves an answer (`answer_file`); no
answer means that it crashed. Data crosses as JSON, never as pickle.
"""
