"""What each operator demands of the maps that its inputs and outputs carry."""
