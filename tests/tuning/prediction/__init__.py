"""What a network itself says of its statistics."""
