"""What stored statistics should be, by what the network itself says."""
