"""What runs inside the worker process when statistics are measured on data."""
