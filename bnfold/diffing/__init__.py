"""What differs between two model files, and by how much."""
