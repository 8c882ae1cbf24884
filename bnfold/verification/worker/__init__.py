"""What runs inside the worker process when two models are compared."""
